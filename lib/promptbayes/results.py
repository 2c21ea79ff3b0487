"""The store: one netCDF file for each cell, labelled, with its provenance; no pickle.

Files are written beside their place and then moved there, so that a stopped run leaves the last
whole file. Curves are packed as 16-bit integers (a step of a packed curve is its range / 65,000,
far below its standard error); what tables quote is kept in full.
"""

from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from . import experiments

FOLDER = Path(str(files("promptbayes"))) / "results"
_PACKED = ("regret", "regret_error", "loss", "trajectory", "prefix_trajectory", "background")


def cell_path(
    setting: str, network: str, method: str, network_seed: int | None = None, folder=None
) -> Path:
    """Where the cell is kept; the default network's seed has no name in it."""
    suffix = "" if network_seed is None else f"-network-{network_seed}"
    return Path(folder or FOLDER) / setting / network / f"{method}{suffix}.nc"


def write(path, dataset: xr.Dataset) -> None:
    """Write a cell, in one step as seen from outside."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding = {}
    for name in _PACKED:
        if name in dataset:
            largest = float(np.abs(dataset[name]).max()) or 1.0
            encoding[name] = {
                "dtype": "int16",
                "scale_factor": largest / 32500,
                "_FillValue": np.int16(-32768),
            }
    unfinished = path.with_name(path.name + ".part")
    plain = dataset.drop_encoding()
    plain.to_netcdf(unfinished, engine="scipy", encoding=encoding)
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
    return dataset


_ORIGIN = ("versions", "commit", "device", "date")  # blocks of a cell may differ in these


# Nats. The same network elsewhere differs by rounding, below 1e-4. Of nine numbers (three
# distributions at three marks) one at least is further apart in any two networks that are stored:
# 0.08 is the least.
_SAME_NETWORK = 1e-3


def append(path, block: xr.Dataset) -> xr.Dataset:
    """Add repetitions to a cell; those that it has already are kept.

    A cell belongs to one network: its NoTuning cell, which must be there first, says which.

    Raises:
        ValueError: there is no NoTuning cell, or it is of another network; other training.
    """
    path = Path(path)
    check_network(path, str(block.attrs["method"]), block.untuned_regret)
    block = block.drop_vars("untuned_regret")  # the NoTuning cell has it
    if path.is_file():
        before = read(path)
        if before.attrs["training"] != block.attrs["training"]:
            raise ValueError(f"`path`: {path} was tuned with {before.attrs['training']}.")
        new = ~np.isin(block.repetition, before.repetition)
        origin = {name: _joined(before.attrs[name], block.attrs[name]) for name in _ORIGIN}
        origin["seconds"] = before.attrs["seconds"] + block.attrs["seconds"]
        block = xr.concat(
            [before, block.isel(repetition=new)],
            dim="repetition",
            data_vars="minimal",
            coords="minimal",
            compat="override",
            join="override",
            combine_attrs="override",
        )
        block = block.sortby("repetition").assign_attrs(origin)
    write(path, block)
    return block


def check_network(path, method: str, untuned_regret) -> None:
    """Raise unless this network's NoTuning cell lies beside the cell, or this is that cell.

    Args:
        path: of a cell of the method.
        method: its name.
        untuned_regret: of the network as tuning finds it, nats [evaluation, mark].
    """
    untuned = Path(path).with_name(Path(path).name.replace(method, "NoTuning", 1))
    if untuned.is_file():
        stored = read(untuned).cumulative_regret.isel(repetition=0)
        apart = float(np.abs(stored - untuned_regret).max())
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


def _joined(before: str, now: str) -> str:
    """All that a cell's blocks were computed with: each once, in the order of their coming."""
    return "; ".join(dict.fromkeys([*before.split("; "), now]))


def load(setting: str, network: str, folder=None) -> xr.Dataset:
    """A whole setting on one network: its cells side by side along `predictor`.

    Args:
        setting: a key of `experiments.SETTINGS`.
        network: `"lstm"` or `"transformer"`.
        folder: where the results are; the package's own if left out.

    Returns:
        `regret`, `regret_error` [predictor, repetition, evaluation, step], `cumulative_regret`,
        `cumulative_regret_error` [predictor, repetition, evaluation, mark], `loss` [predictor,
        repetition, tuning_step], in nats. Repetitions that a method does not have are NaN.

    Raises:
        ValueError: an unknown setting or network.
        FileNotFoundError: nothing of it has been computed.
    """
    shared = ["regret", "regret_error", "cumulative_regret", "cumulative_regret_error", "loss"]
    cells = {
        method: cell[[name for name in shared if name in cell]]
        for method, cell in load_cells(setting, network, folder=folder).items()
    }
    side_by_side = xr.concat(
        list(cells.values()), dim="predictor", join="outer", combine_attrs="drop"
    )
    return side_by_side.assign_coords(predictor=list(cells))


def load_cells(
    setting: str, network: str, *, network_seed: int | None = None, folder=None
) -> dict[str, xr.Dataset]:
    """Every stored cell of a setting, by its method; arguments and errors as `load`.

    Each has its own repetitions. `network_seed` says which pretrained network.
    """
    chosen = experiments.setting_of(setting)
    if network not in experiments.NETWORKS:
        known = ", ".join(experiments.NETWORKS)
        raise ValueError(f"`network` must be one of {known}, got {network!r}.")
    paths = {
        method: cell_path(setting, network, method, network_seed, folder)
        for method in chosen.methods_for(network)
    }
    cells = {method: read(path) for method, path in paths.items() if path.is_file()}
    if not cells:
        raise FileNotFoundError(
            f"nothing of `setting` {setting} on the {network} is stored; "
            f"`python -m promptbayes reproduce {setting} --network {network}` computes it."
        )
    return cells


def load_cell(setting: str, network: str, method: str, folder=None) -> xr.Dataset:
    """One cell, with what its method tuned and its trajectories."""
    return read(cell_path(setting, network, method, folder=folder))


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


def summary(setting: str, network: str, *, mark: int = 50, folder=None) -> list[Summary]:
    """The exact baselines of a setting, then every stored method.

    Args:
        setting: a key of `experiments.SETTINGS`.
        network: `"lstm"` or `"transformer"`.
        mark: after how many predictions: 50, 100 or 200.
        folder: where the results are; the package's own if left out.

    Raises:
        ValueError: an unknown setting, network or mark.
        FileNotFoundError: nothing of it has been computed.

    Example:
        >>> rows = {row.predictor: row for row in summary("single-coin", "lstm")}
        >>> rows["SoftPT"].median < rows["HardPT"].median < rows["PreBayes"].median
        True
    """
    if mark not in experiments.MARKS:
        raise ValueError(f"`mark` must be one of {experiments.MARKS}, got {mark!r}.")
    target = experiments.setting_of(setting).target
    stored = load(setting, network, folder).sel(evaluation=target, mark=mark)
    exactly = {
        name: float(curve[mark - 1])
        for name, curve in experiments.baselines(setting, target).items()
    }
    rows = [Summary(name, value, value, value, 0, 0.0, (), None) for name, value in exactly.items()]
    for method in stored.predictor.values:
        cell = stored.sel(predictor=method)
        runs = cell.cumulative_regret.dropna("repetition").values
        low, median, high = (float(q) for q in np.quantile(runs, [0.25, 0.5, 0.75]))
        default = cell_path(setting, network, method, folder=folder)
        others = [
            float(read(path).cumulative_regret.sel(evaluation=target, mark=mark).median())
            for path in sorted(default.parent.glob(f"{method}-network-*.nc"))
        ]
        error = float(cell.cumulative_regret_error.max())
        reported = method == "SoftPT" and mark == experiments.MARKS[0]
        paper = experiments.PAPER.get((setting, network)) if reported else None
        rows.append(
            Summary(str(method), median, low, high, len(runs), error, (median, *others), paper)
        )
    return rows


def computing_time(setting: str, network: str, folder=None) -> tuple[float, set[str]]:
    """Seconds that the stored cells of a setting took, on all pretrained networks, and where.

    Blocks of repetitions that ran at the same time are added up.
    """
    folder = cell_path(setting, network, "SoftPT", folder=folder).parent
    origins = [read(path).attrs for path in sorted(folder.glob("*.nc"))]
    devices = {device for origin in origins for device in str(origin["device"]).split("; ")}
    return float(sum(origin["seconds"] for origin in origins)), devices
