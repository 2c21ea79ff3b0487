"""`reproduce --dask` on a real scheduler with worker processes on this machine."""

import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread

import numpy as np
import pytest
from promptbayes import cluster, results
from promptbayes.__main__ import main

SETTING, NETWORK = "single-coin", "lstm"
METHODS = ("EmbedWT", "UnembedWT")
CELLS = [(SETTING, NETWORK, method) for method in METHODS]
BLOCKS = [cluster.Block(cell, [r]) for cell in CELLS for r in range(3)]

# One repetition a block, whatever the machine has, and programs that are compiled fast.
ENVIRONMENT = os.environ | {"PROMPTBAYES_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}

# What a worker runs before it takes tasks: the small scale, one method that fails, and where the
# worker is to be killed, a cell that is never finished.
PRELOAD = """
import time
from dataclasses import replace
from promptbayes import Training, experiments


def dask_setup(worker):
    run_cell = experiments.run_cell

    def small_cell(setting, network, method, repetitions, **options):
        if {never}:
            time.sleep(60)
        if method == "RandomPF":
            raise ArithmeticError("no luck")
        return run_cell(setting, network, method, repetitions, **options)

    experiments.run_cell = small_cell
    single = experiments.SETTINGS["single-coin"]
    short = Training(num_steps=2, batch_size=4, length=5)
    tasks = {{name: single.tasks[name] for name in ("random-coins", "single-coin")}}
    experiments.SETTINGS["single-coin"] = replace(
        single, training=short, num_evaluation=8, tasks=tasks
    )
"""


HERE = """
import sys
from promptbayes.__main__ import main

dask_setup(None)
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def distributed():
    return pytest.importorskip("distributed")


@contextmanager
def process(*command, **environment):
    """A Python program, stopped at the end."""
    command = [sys.executable, *map(str, command)]
    with subprocess.Popen(command, env=ENVIRONMENT | environment) as started:
        try:
            yield started
        finally:
            started.kill()


@contextmanager
def worker(address, folder, *, never=False):
    """A worker in a process of its own, at the small scale."""
    preload = folder / f"preload_{never}.py"
    preload.write_text(PRELOAD.format(never=never))
    command = ["-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
    command += ["--no-dashboard", "--local-directory", folder, "--preload", preload]
    with process(*command) as started:
        yield started


@contextmanager
def scheduler(folder):
    """A scheduler in a process of its own, and its address."""
    contact = folder / "scheduler.json"
    command = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    command += ["--no-dashboard", "--scheduler-file", contact]
    with process(*command, DASK_TEMPORARY_DIRECTORY=str(folder)) as started:
        while not contact.exists() or not contact.read_text():
            assert started.poll() is None
            time.sleep(0.05)
        yield started, json.loads(contact.read_text())["address"]


@pytest.fixture(scope="module")
def without_cluster(distributed, tmp_path_factory):
    """The same command without `--dask`, begun while the cluster starts, and its folder."""
    folder = tmp_path_factory.mktemp("here")
    code = PRELOAD.format(never=False) + HERE
    command = ["reproduce", SETTING, "--network", NETWORK, "--methods", *METHODS]
    with process("-c", code, *command, "--repetitions", "3", "--folder", folder) as started:
        yield started, folder


@pytest.fixture(scope="module")
def watcher(distributed, tmp_path_factory):
    """A client of a scheduler with one worker."""
    folder = tmp_path_factory.mktemp("cluster")
    with (
        scheduler(folder) as (_, address),
        distributed.Client(address, set_as_default=False) as client,
        worker(address, folder),
    ):
        client.wait_for_workers(1, timeout=120)
        yield client


def address_of(client):
    return client.scheduler.address


def number_of_tasks(client):
    return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))


@pytest.mark.parametrize(
    "forgiven", [pytest.param(3, id="rescheduled"), pytest.param(0, id="submitted again")]
)
def test_a_killed_worker_loses_and_doubles_nothing(without_cluster, watcher, tmp_path, forgiven):
    """kill -9 of a worker that has begun a block: another one computes it, and the same numbers.

    3 is the scheduler's default: it gives the block to another worker itself. At 0 it gives the
    block up with the first worker, as it would with the fourth.
    """
    watcher.run_on_scheduler(
        lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", forgiven)
    )
    survivors = watcher.nthreads()
    with worker(address_of(watcher), tmp_path, never=True) as lost:
        watcher.wait_for_workers(2, timeout=120)
        (lost_address,) = watcher.nthreads().keys() - survivors.keys()
        finished = []
        for cell, repetitions, dataset in cluster.run_blocks(address_of(watcher), BLOCKS):
            if not finished:
                assert watcher.processing()[lost_address], "nothing is lost with this worker"
                lost.send_signal(signal.SIGKILL)
            finished.append((cell, repetitions, dataset))
    assert lost.returncode == -signal.SIGKILL
    assert sorted(block[:2] for block in finished) == [block[:2] for block in BLOCKS]
    reference, folder = without_cluster
    assert reference.wait() == 0
    untuned, there = (
        results.cell_path(SETTING, NETWORK, "NoTuning", folder=where)
        for where in (folder, tmp_path)
    )
    results.write(there, results.read(untuned))  # from here: so both start from the same network
    for cell, _, dataset in finished:
        results.append(results.cell_path(*cell, folder=tmp_path), dataset)
    for cell in CELLS:
        stored, expected = (results.load_cell(*cell, folder=where) for where in (tmp_path, folder))
        np.testing.assert_array_equal(stored.repetition, range(3))
        # The same programs on the same machine: bit by bit. (Other variables are packed.)
        for name in ("repetition", "cumulative_regret", "cumulative_regret_error", "theta"):
            np.testing.assert_array_equal(stored[name], expected[name])


def test_a_cell_that_fails_is_named_and_the_others_are_finished(watcher, tmp_path, capsys):
    command = ["reproduce", SETTING, "--network", NETWORK, "--methods", "RandomPF", "UnembedWT"]
    command += ["--repetitions", "1", "--folder", str(tmp_path), "--dask", address_of(watcher)]
    with pytest.raises(SystemExit) as stopped:
        main(command)
    name = f"{SETTING}/{NETWORK}/RandomPF, repetitions [0]"
    assert name in str(stopped.value.code)  # a text: printed on stderr, and the exit code is 1
    assert f"{name}: ArithmeticError: no luck" in capsys.readouterr().out
    assert {file.name for file in tmp_path.rglob("*.*")} == {"NoTuning.nc", "UnembedWT.nc"}


def test_a_client_that_stops_leaves_nothing_on_the_cluster(watcher):
    run = cluster.run_blocks(address_of(watcher), BLOCKS)
    next(run)
    assert number_of_tasks(watcher) > 0
    run.close()  # what Ctrl-C does
    deadline = time.monotonic() + 20
    while number_of_tasks(watcher) > 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_scheduler_that_goes_is_said(distributed, tmp_path):
    with scheduler(tmp_path) as (started, address):

        def kill_when_busy():
            with distributed.Client(address, set_as_default=False) as client:
                while number_of_tasks(client) == 0:
                    time.sleep(0.05)
            started.kill()

        with ThreadPoolExecutor() as pool:
            killing = pool.submit(kill_when_busy)
            with pytest.raises(cluster.UnfinishedError, match=f"{address} is gone"):
                list(cluster.run_blocks(address, BLOCKS))
            killing.result()


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:{}", "127.0.0.1:{}", "pigeon://loft"])
def test_no_scheduler_is_said(distributed, monkeypatch, capsys, tmp_path, address):
    monkeypatch.setattr(cluster, "_SECONDS_TO_CONNECT", 0.5)
    address = address.format(free_port())
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", SETTING, "--folder", str(tmp_path), "--dask", address])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "`--dask` must be the address of a running scheduler" in message
    assert f"got {address}" in message
    assert "`dask scheduler` starts one" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.9\r\n"], ids=["silent", "ssh"])
def test_what_is_no_scheduler_is_said(distributed, monkeypatch, greeting):
    monkeypatch.setattr(cluster, "_SECONDS_TO_CONNECT", 0.5)

    class Greet(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(greeting)
            self.request.recv(1)
            time.sleep(1)  # the line stays open for longer than is waited

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greet) as server:
        Thread(target=server.serve_forever).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        with pytest.raises(ValueError, match=f"running scheduler, .* got {address}"):
            next(cluster.run_blocks(address, BLOCKS))
        server.shutdown()


def test_workers_with_several_threads_are_refused(watcher, distributed, monkeypatch):
    threads = {"tcp://10.0.0.5:1": 1, "tcp://10.0.0.6:1": 8}
    monkeypatch.setattr(distributed.Client, "nthreads", lambda client: threads)
    with pytest.raises(ValueError, match="--nthreads 1`; got 8 at tcp://10.0.0.6:1"):
        next(cluster.run_blocks(address_of(watcher), []))


def test_without_distributed_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"`--dask` needs .* `pip install '\.\[dask\]'`"):
        next(cluster.run_blocks("tcp://127.0.0.1:8786", []))
