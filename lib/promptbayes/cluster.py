"""Cells on other machines: every block of repetitions is one task of a dask.distributed cluster.

A task is a call of `experiments.run_cell`; a setting that is not the paper's goes along by value,
and the cluster needs nothing but this package. The answer is a dataset of numpy arrays. Whoever
submits is the only one to write: on disk there is netCDF and nothing else. On the wire distributed
pickles, so whoever reaches the scheduler's address can run code on every machine of the cluster: it
belongs in a network that is trusted, or behind distributed's TLS.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import xarray as xr
from tqdm import tqdm

from . import experiments

_SECONDS_TO_CONNECT = 10
# How often a block is submitted. The scheduler gives a submission up at its fourth lost worker
# (`distributed.scheduler.allowed-failures` is 3). A block that has lost 16 needs too much memory.
_SUBMISSIONS = 4

Cell = tuple[str, str, str]  # setting, network, method


class Block(NamedTuple):
    """Some repetitions of a cell, and what else `run_cell` is called with."""

    cell: Cell
    repetitions: list[int]
    options: Mapping[str, Any] = {}  # such as `network_seed`, or `setting` as a value

    def arguments(self) -> dict[str, Any]:
        """The arguments of `run_cell`."""
        setting, network, method = self.cell
        names = {"setting": setting, "network": network, "method": method}
        return {**names, "repetitions": self.repetitions, **self.options}


class UnfinishedError(Exception):
    """Some blocks have no result; those that were given back are not concerned."""


def run_blocks(
    address: str, blocks: Iterable[Block]
) -> Iterator[tuple[Cell, list[int], xr.Dataset]]:
    """Run blocks of repetitions on a cluster and give each back as soon as it is finished.

    A block whose worker is lost runs again on another one. A block that raises is reported at
    once, the others are still finished.

    Args:
        address: of the scheduler, such as `"tcp://10.0.0.5:8786"`.
        blocks: cells, each (setting, network, method), with numbers of repetitions; see `Block`.

    Yields:
        The cell, the repetitions and what `run_cell` returns for them, in the order in which
        blocks are finished, which may be any.

    Raises:
        ValueError: distributed is not installed, no scheduler answers, or a worker has several
            threads, which would run as many cells at once in one process.
        UnfinishedError: at the end, where blocks raised, with their names; or the scheduler is
            gone.

    Example:
        >>> for cell, repetitions, dataset in run_blocks(address, blocks):  # doctest: +SKIP
        ...     results.append(results.cell_path(*cell), dataset)
    """
    try:
        import distributed
    except ImportError as error:
        raise ValueError(
            f"`--dask` needs the package distributed ({error}); in the folder of the repository, "
            "`pip install '.[dask]'` installs it."
        ) from error
    with _connect(distributed, address) as client:
        open_blocks, failed = {}, []

        def submit(block: Block, submissions=1):
            future = client.submit(
                experiments.run_cell,
                **block.arguments(),
                progress=False,
                pure=False,  # a name of its own: no two tasks share a result
            )
            open_blocks[future.key] = block, submissions
            return future

        tasks = [submit(block) for block in blocks]
        finished = distributed.as_completed(tasks, loop=client.loop)
        for future in finished:
            block, submissions = open_blocks.pop(future.key)
            error = future.exception()
            if isinstance(error, distributed.KilledWorker) and submissions < _SUBMISSIONS:
                finished.add(submit(block, submissions + 1))
            elif error is not None:
                failed.append(f"{'/'.join(block.cell)}, repetitions {block.repetitions}")
                tqdm.write(f"{failed[-1]}: {type(error).__name__}: {error}")
            else:
                try:
                    dataset = future.result()
                except (distributed.CancelledError, OSError) as reason:
                    raise UnfinishedError(
                        f"The scheduler at {address} is gone; what was finished is kept. Once it "
                        "is back, the same command goes on from there."
                    ) from reason
                future.release()  # else computed again where the worker that keeps it is lost
                yield block.cell, block.repetitions, dataset
    if failed:
        raise UnfinishedError("All others were finished, these failed:\n" + "\n".join(failed))


def _connect(distributed, address: str):
    """A client that does not become the process's default, which xarray would want to use."""
    tls = distributed.Security().get_connection_args("client")  # where dask is configured so

    # The time-out of a Client does not cover the handshake (`distributed.comm.core.connect`): on a
    # port that accepts and never answers it would wait for ever.
    async def ask():
        async with asyncio.timeout(_SECONDS_TO_CONNECT):
            async with distributed.rpc(address, connection_args=tls) as scheduler:
                await scheduler.identity()

    try:
        with ThreadPoolExecutor(1) as pool:  # this thread may have an event loop, as in a notebook
            pool.submit(asyncio.run, ask()).result()
        client = distributed.Client(address, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
    except Exception as error:  # what is no scheduler may answer anything
        reason = str(error) or f"no answer in {_SECONDS_TO_CONNECT} s"
        raise ValueError(
            "`--dask` must be the address of a running scheduler, such as tcp://10.0.0.5:8786, "
            f"got {address} ({reason}). `dask scheduler` starts one and prints its address."
        ) from error
    workers = client.nthreads()
    several = {worker: number for worker, number in workers.items() if number > 1}
    if several:
        client.close()
        raise ValueError(
            "`--dask`: workers must have one thread each, `dask worker ADDRESS --nthreads 1`; got "
            + ", ".join(f"{number} at {worker}" for worker, number in several.items())
        )
    tqdm.write(f"{len(workers)} workers at {address}; others may come and go.")
    return client
