"""The store: one netCDF file for each cell, labelled, with its provenance; no pickle.

Files are written beside their place and then moved there, so that a stopped run leaves the last
whole file; processes that append to cells of one folder take turns. Curves are packed as 16-bit
integers (a step of a packed curve is its range / 65,000, far below its standard error); what
tables quote is kept in full.
"""

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from . import experiments
from .experiments import Setting

FOLDER = Path(str(files("promptbayes"))) / "results"
_PACKED = ("regret", "regret_error", "loss", "trajectory", "prefix_trajectory", "background")


def cell_path(
    setting: str | Setting, network: str, method: str, network_seed: int | None = None, folder=None
) -> Path:
    """Where the cell is kept; the default network's seed has no name in it."""
    suffix = "" if network_seed is None else f"-network-{network_seed}"
    name = setting.name if isinstance(setting, Setting) else setting
    return Path(folder or FOLDER) / name / network / f"{method}{suffix}.nc"


def write(path, dataset: xr.Dataset, packed: Collection[str] = _PACKED) -> None:
    """Write a dataset, some variables packed, in one step as seen from outside."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding = {
        name: {
            "dtype": "int16",
            "scale_factor": (float(np.abs(dataset[name]).max()) or 1.0) / 32500,
            "_FillValue": np.int16(-32768),
        }
        for name in map(str, dataset.data_vars)
        if name.removeprefix("other_") in packed
    }
    unfinished = path.with_name(path.name + ".part")
    dataset.drop_encoding().to_netcdf(unfinished, engine="scipy", encoding=encoding)
    unfinished.replace(path)


def read(path) -> xr.Dataset:
    """Read a cell into memory.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or is not one of ours; it is left as it is.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`path`: there is no {path}; `reproduce` makes it.")
    try:
        with xr.open_dataset(path, engine="scipy") as opened:
            dataset = opened.load()
    except Exception as error:  # scipy and xarray raise many kinds for a damaged file
        raise ValueError(
            f"`path`: {path} is damaged or no netCDF file ({error}); move it away to compute "
            "the cell again."
        ) from error
    if "setting" not in dataset.attrs or "repetition" not in dataset.dims:
        raise ValueError(f"`path`: {path} is a netCDF file, but not a cell of promptbayes.")
    if "experiment" not in dataset.attrs:
        raise ValueError(
            f"`path`: {path} does not say what its tasks are, as the first files did not; "
            "`python -m promptbayes reproduce` computes it again."
        )
    return dataset


def experiment(cell: xr.Dataset) -> dict[str, Any]:
    """What a cell says of itself: tasks with their numbers, training, method, architecture, seeds.

    Example:
        >>> said = experiment(load_cell("two-coin-mixture", "lstm", "SoftPT"))
        >>> said["tasks"]["two-coin-mixture"]["probs"], said["training"]["num_steps"]
        ([[0.8, 0.2], [0.2, 0.8]], 1000)
    """
    return json.loads(cell.attrs["experiment"])


# Blocks of a cell may differ in these; what is not tuned by gradients has no micro-batch.
_ORIGIN = ("versions", "commit", "device", "date", "micro_batch")


# Nats. The same network elsewhere differs by rounding, below 1e-4. Of nine numbers (three
# distributions at three marks) one at least is further apart in any two networks that are stored:
# 0.08 is the least.
_SAME_NETWORK = 1e-3


def append(path, block: xr.Dataset) -> xr.Dataset:
    """Add repetitions to a cell; those that it has already are kept.

    A cell belongs to one network: its NoTuning cell, which must be there first, says which.
    Processes that append in one folder take turns, where the system knows `flock` (Windows and some
    network drives do not: let one process at a time write there).

    Raises:
        ValueError: there is no NoTuning cell, or it is of another network; or anything that
            `experiments.cell_attributes` says differs from it or from the cell, or an axis does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(path.parent):
        check_network(path, block.attrs, block.untuned_regret)
        block = block.drop_vars("untuned_regret")  # the NoTuning cell has it
        if path.is_file():
            before = read(path)
            check_same(path, before.attrs, block.attrs)
            block = _like(path, before, block)
            new = ~np.isin(block.repetition, before.repetition)
            origin = {"seconds": before.attrs["seconds"] + block.attrs["seconds"]}
            for name in _ORIGIN:  # each once, in the order of their coming
                both = [cell.attrs[name] for cell in (before, block) if name in cell.attrs]
                if both:
                    origin[name] = "; ".join(dict.fromkeys("; ".join(both).split("; ")))
            block = xr.concat(
                [before, block.isel(repetition=new)],
                dim="repetition",
                data_vars="minimal",
                coords="minimal",
                compat="override",
                join="exact",
                combine_attrs="override",
            )
            block = block.sortby("repetition").assign_attrs(origin)
        write(path, block)
    return block


def micro_batch(path) -> int | None:
    """With which a cell was begun, so that what is added is rounded alike; None if it is not said.

    None on an accelerator, too, which is fast only with the whole batch at once.
    """
    if jax.default_backend() != "cpu" or not Path(path).is_file():
        return None
    said = read(path).attrs.get("micro_batch", "")
    return int(said.split("; ")[0]) if said else None


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for others that write in this folder; whoever is killed lets go of it."""
    if fcntl is None:
        yield
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a drive without locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def check_network(path, attributes: Mapping[str, Any], untuned_regret: xr.DataArray) -> None:
    """Raise unless this network's NoTuning cell lies beside the cell, or this is that cell.

    `attributes` are the cell's, see `experiments.cell_attributes`; `untuned_regret` is the
    network's as tuning finds it, nats [evaluation, mark].
    """
    path, method = Path(path), str(attributes["method"])
    untuned = path.with_name(path.name.replace(method, "NoTuning", 1))
    if untuned.is_file():
        cell = read(untuned)
        check_same(untuned, cell.attrs, attributes, but=("method",))
        stored = cell.cumulative_regret.isel(repetition=0)
        here = untuned_regret.reindex(evaluation=stored.evaluation, mark=stored.mark)
        apart = float(np.abs(stored.values - here.values).max())
        if not apart <= _SAME_NETWORK:
            raise ValueError(
                f"`path`: {path} belongs to another network: untuned, this one differs by up to "
                f"{apart:.4f} nats from {untuned.name}. Bring that network's weights, or keep the "
                "results of this one apart (`--folder`, `--network-seed`)."
            )
    elif method != "NoTuning":
        raise ValueError(
            f"`path`: {path} belongs to a network that nothing is known of: append its NoTuning "
            f"cell, {untuned.name}, first."
        )


def check_same(
    path, there: Mapping[str, Any], here: Mapping[str, Any], but: tuple[str, ...] = ()
) -> None:
    """Raise if two cells, by their attributes, are not of one experiment, and name what differs."""
    names = ("setting", "network", "network_seed")
    both = ({k: cell[k] for k in names} | json.loads(cell["experiment"]) for cell in (there, here))
    stored, now = ({k: v for k, v in said.items() if k not in but} for said in both)
    if differences := list(_differences(stored, now)):
        raise ValueError(
            f"`path`: {path} is of another experiment: {'; '.join(differences)}. Keep the two "
            "apart (`--folder`)."
        )


def _differences(there, here, name: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*there, *here]):
            place = f"{name}.{key}" if name else key
            yield from _differences(there.get(key, "nothing"), here.get(key, "nothing"), place)
    elif there != here:
        yield f"{name} is {there!s:.80} there and {here!s:.80} here"


def _like(path, before: xr.Dataset, block: xr.Dataset) -> xr.Dataset:
    """The block with its axes in the order of the stored ones, by their labels."""
    if odd := {*before.variables} ^ {*block.variables}:
        names = ", ".join(sorted(map(str, odd)))
        raise ValueError(f"`path`: {path} has other variables than the block: {names}.")
    labels = {axis: before[axis].values for axis in before.dims if axis != "repetition"}
    for axis, there in labels.items():
        here = block[axis].values
        if sorted(here.tolist()) != sorted(there.tolist()):
            raise ValueError(
                f"`path`: {path} has other labels of {axis}: {there} there and {here} here."
            )
    return block.reindex(labels)


def load_cells(
    setting: str | Setting, network: str, *, network_seed: int | None = None, folder=None
) -> dict[str, xr.Dataset]:
    """Every stored cell of a setting on one network, by its method.

    Args:
        setting: a key of `experiments.SETTINGS`, or a `Setting`.
        network: one of the setting's, such as `"lstm"`.
        network_seed: which pretrained network; the default one if left out.
        folder: where the results are; the package's own if left out.

    Returns:
        What `experiments.run_cell` gives, each with its own repetitions. The training may be
        another than the setting's (a quick look), all else is what the setting says.

    Raises:
        ValueError: an unknown setting or network; a damaged file; cells of another experiment.
        FileNotFoundError: nothing of it has been computed.
    """
    chosen = experiments.setting_of(setting)
    cells = {}
    for method in chosen.methods_for(network):
        path = cell_path(chosen, network, method, network_seed, folder)
        if path.is_file():
            cells[method] = read(path)
            said = experiments.cell_attributes(chosen, network, method)
            check_same(path, cells[method].attrs, said, but=("network_seed", "training"))
    if not cells:
        raise FileNotFoundError(
            f"nothing of `setting` {chosen.name} on the {network} is stored; "
            f"`python -m promptbayes reproduce {chosen.name} --network {network}` computes it."
        )
    return cells


def load_cell(setting: str | Setting, network: str, method: str, folder=None) -> xr.Dataset:
    """One cell, with what its method tuned and its trajectories."""
    return read(cell_path(setting, network, method, folder=folder))


def soft_prefixes(
    setting: str | Setting, network: str, repetitions, network_seed: int | None = None, folder=None
) -> np.ndarray:
    """What SoftPT found in some repetitions, [repetition, prefix, width]: starts of a memory.

    Raises:
        ValueError: these repetitions of SoftPT are not stored.
    """
    path = cell_path(setting, network, "SoftPT", network_seed, folder)
    stored = read(path) if path.is_file() else None
    lacking = [r for r in repetitions if stored is None or r not in stored.repetition]
    if stored is None or lacking:
        raise ValueError(
            f"a memory starts from SoftPT's prefix too, and {path} has no repetitions {lacking}: "
            "run SoftPT first."
        )
    theta = stored.theta.sel(repetition=list(repetitions))
    (shape,) = json.loads(theta.attrs["shapes"]).values()
    return theta.values.reshape(-1, *shape)


class Summary(NamedTuple):
    """What a table says of one predictor: cumulative regret on the target, in nats."""

    predictor: str
    median: float  # over repetitions, as the next two
    low: float  # 25 % quantile
    high: float  # 75 % quantile
    repetitions: int  # 0: exact
    error: float  # standard error of the evaluation, the largest of all repetitions
    networks: tuple[float, ...]  # medians on each network or initialisation, the default first
    paper: float | None  # what the authors report


def summary(setting: str | Setting, network: str, *, mark: int = 50, folder=None) -> list[Summary]:
    """The exact baselines of a setting, then every stored method.

    Arguments and errors are those of `load_cells`; `mark` says after how many predictions, 50, 100
    or 200.

    Example:
        >>> rows = {row.predictor: row for row in summary("single-coin", "lstm")}
        >>> rows["SoftPT"].median < rows["HardPT"].median < rows["PreBayes"].median
        True
    """
    if mark not in experiments.MARKS:
        raise ValueError(f"`mark` must be one of {experiments.MARKS}, got {mark!r}.")
    chosen = experiments.setting_of(setting)
    on_target: dict[str, Any] = {"evaluation": chosen.target, "mark": mark}
    rows = []
    for method, cell in load_cells(chosen, network, folder=folder).items():
        regret = cell.cumulative_regret.sel(on_target).values
        low, median, high = (float(q) for q in np.quantile(regret, [0.25, 0.5, 0.75]))
        default = cell_path(chosen, network, method, folder=folder)
        others = [
            float(read(path).cumulative_regret.sel(on_target).median())
            for path in sorted(default.parent.glob(f"{method}-network-*.nc"))
        ]
        error = float(cell.cumulative_regret_error.sel(on_target).max())
        paper = None
        if method == "SoftPT" and mark == 50 and chosen is experiments.SETTINGS.get(chosen.name):
            paper = experiments.PAPER.get(chosen.name, {}).get(network)
        medians = median, *others
        rows.append(Summary(method, median, low, high, len(regret), error, medians, paper))
    exactly = {
        name: float(curve[mark - 1])
        for name, curve in experiments.baselines(chosen, chosen.target).items()
    }
    return [Summary(name, v, v, v, 0, 0.0, (), None) for name, v in exactly.items()] + rows


def computing_time(setting: str | Setting, network: str, folder=None) -> tuple[float, set[str]]:
    """Seconds that the stored cells of a setting took, on all pretrained networks, and where.

    Blocks of repetitions that ran at the same time are added up.
    """
    folder = cell_path(setting, network, "SoftPT", folder=folder).parent
    origins = [read(path).attrs for path in sorted(folder.glob("*.nc"))]
    devices = {device for origin in origins for device in str(origin["device"]).split("; ")}
    return float(sum(origin["seconds"] for origin in origins)), devices
