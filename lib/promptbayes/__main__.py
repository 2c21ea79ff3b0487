"""`python -m promptbayes`: make again what the book shows.

Each command has `--help` with an example.
"""

import argparse
import functools
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from . import cluster, experiments, predictor, report, results
from .experiments import Setting
from .methods import METHODS
from .networks import Architecture
from .predictor import initialise
from .provenance import provenance
from .tasks import dirichlet
from .tuning import PRETRAINING, TUNING, pretrain, tune


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(
            130, "Stopped; what was finished is kept. The same command goes on from there.\n"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m promptbayes", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(run, name: str, summary: str, example: str) -> argparse.ArgumentParser:
        epilog = f"example: {parser.prog} {name} {example}"
        command = commands.add_parser(name, help=summary, epilog=epilog)
        command.set_defaults(run=run)
        return command

    pretraining = "pretrain the networks at the paper's scale"
    command = add(_pretrain, "pretrain", pretraining, "lstm --seed 1")
    command.add_argument(
        "networks",
        nargs="*",
        help=f"of {', '.join(experiments.ARCHITECTURES)}; lstm and transformer if left out",
    )
    command.add_argument("--seed", type=int, help="of the network; the shipped one's if left out")

    command = add(
        _reproduce,
        "reproduce",
        "run the paper's experiments, or one's own; what is finished is skipped",
        "single-coin --network lstm --methods SoftPT FullWT --repetitions 3; "
        f"or {parser.prog} reproduce my_settings.py --steps 20 --batch 16",
    )
    _add_settings(command, "run")
    command.add_argument("--methods", nargs="+", help="all of the setting if left out")
    command.add_argument("--repetitions", type=int, help="how many; the setting's if left out")
    command.add_argument(
        "--steps",
        type=int,
        help="for a quick look: other than the setting's; the results are kept apart, in "
        "my_settings-quick, or promptbayes-quick for the paper's",
    )
    command.add_argument("--batch", type=int, help="the same: sequences in a step")
    command.add_argument("--network-seed", type=int, help="which pretrained network")
    command.add_argument("--shard", default="1/1", help="i/n: only every n-th cell, from the i-th")
    command.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="of a dask.distributed scheduler; its workers run the cells, not this process",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="say what is missing and how long it would take here"
    )

    command = add(
        _table, "table", "print the paper's numbers beside the stored ones", "single-coin"
    )
    _add_settings(command, "print")

    drawing = "draw every figure of a setting from the stored results"
    command = add(_figures, "figures", drawing, "single-coin --network lstm --format png")
    _add_settings(command, "draw")
    command.add_argument(
        "--out", default="figures", help="folder to draw into; figures/ if left out"
    )
    command.add_argument("--format", choices=("svg", "png"), default="svg", help="svg if left out")
    return parser


def _add_settings(command, verb: str) -> None:
    """What `_choose` reads."""
    command.add_argument(
        "settings",
        nargs="*",
        help=f"which to {verb}: of {', '.join(experiments.SETTINGS)}; or a Python file that "
        "defines SETTINGS, and names of these; all if left out",
    )
    command.add_argument("--network", help="one of the settings' networks; all if left out")
    command.add_argument(
        "--folder",
        help="where results are; if left out the package's, for my_settings.py my_settings-results "
        "beside it",
    )
    command.set_defaults(steps=None, batch=None)


def _pretrain(options) -> None:
    """Pretrain on random coins and write the weights into the package."""
    for name in options.networks or experiments.NETWORKS:
        _pretrain_network(name, options.seed)


def _pretrain_network(name: str, seed: int | None) -> None:
    path = predictor.pretrained_path(name, seed)
    seed = predictor.PRETRAINED[name] if seed is None else seed
    began = time.perf_counter()
    trained = pretrain(
        experiments.ARCHITECTURES[name],
        experiments.TASKS["random-coins"],
        PRETRAINING,
        jax.random.key(seed),
    )
    settings = {
        "task": "random-coins",
        "training": vars(PRETRAINING),
        "seed": seed,
        "losses": [round(float(loss), 3) for loss in np.asarray(trained.losses[0])],
        "micro_batch": trained.state.micro_batch,
        **provenance(time.perf_counter() - began),
    }
    path.parent.mkdir(exist_ok=True)
    made = trained.predictor(0)
    if name in predictor.HALF_PRECISION:
        made = predictor.rounded(made)
    predictor.save(path, made, settings)
    print(f"{path}: {settings['losses'][-1]} nats per sequence after {settings['seconds']} s")


def _choose(options) -> tuple[dict[str, Setting], Path]:
    """The settings that are named, of the paper or of a Python file, and their results' folder."""
    files = [name for name in options.settings if name.endswith(".py")]
    names = [name for name in options.settings if name not in files]
    if len(files) > 1:
        raise ValueError(f"`settings` must be of one file, got {' and '.join(files)}.")
    known = experiments.load_settings(files[0]) if files else experiments.SETTINGS
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"`setting` must be one of {', '.join(known)}, got {', '.join(unknown)}.")
    chosen = {name: known[name] for name in names or known}
    networks = _networks(chosen.values())
    if options.network not in (None, *networks):
        known = ", ".join(networks)
        raise ValueError(f"`--network` must be one of {known}, got {options.network}.")
    beside = Path(files[0]).with_suffix("") if files else Path("promptbayes")
    folder = beside.with_name(f"{beside.name}-results") if files else results.FOLDER
    sizes = {"num_steps": options.steps, "batch_size": options.batch}
    if sizes := {name: size for name, size in sizes.items() if size is not None}:
        folder = beside.with_name(f"{beside.name}-quick")
        for name, setting in chosen.items():
            chosen[name] = replace(setting, training=replace(setting.training, **sizes))
    return chosen, Path(options.folder or folder)


def _networks(settings: Iterable[Setting], only: str | None = None) -> list[str]:
    """Names of the networks of some settings, each once, or the only one that is asked for."""
    names = dict.fromkeys(name for setting in settings for name in setting.networks)
    return [name for name in names if only in (None, name)]


def _reproduce(options) -> None:
    """Run every missing repetition of every chosen cell, a block at a time."""
    chosen, folder = _choose(options)
    refused: list[str] = []  # what cannot be run or stored, and why
    blocks = list(_blocks(options, chosen, folder, refused))
    shipped = dict.fromkeys(chosen[cell[0]].shipped(cell[1]) for cell, _ in blocks)  # each once
    seed = options.network_seed
    paths = {name: predictor.pretrained_path(name, seed) for name in shipped if name}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if options.dry_run:
        _forecast(blocks, missing, chosen)
    else:
        for name in missing:
            print(f"{paths[name].name} is not there: pretraining it first.", flush=True)
            _pretrain_network(name, seed)
        _run(blocks, options, chosen, folder, refused)
    if refused:
        raise SystemExit("\n".join(["Not run or not stored:", *dict.fromkeys(refused)]))


def _run(blocks, options, chosen: dict[str, Setting], folder: Path, refused: list[str]) -> None:
    """Run blocks and store them: NoTuning, by which others know their network, memories last."""
    print(f"{sum(len(block) for _, block in blocks)} repetitions to run, into {folder}", flush=True)

    def stage(cell: cluster.Cell) -> int:
        last = chosen[cell[0]].starts_from_prefixes(cell[2])
        return 2 if last else int(cell[2] != "NoTuning")

    def refuse(cell: cluster.Cell, reason: Exception) -> None:
        refused.append(f"{'/'.join(cell)}: {reason}")
        tqdm.write(refused[-1])

    # Cells differ a hundredfold in work: time left is told from the work that is left.
    works = {cell: experiments.work(chosen[cell[0]], *cell[1:]) for cell, _ in blocks}
    total = sum(works[cell] * len(block) for cell, block in blocks)
    with tqdm(total=total, desc="reproduce", smoothing=0, bar_format=_BAR) as bar:
        for now in range(3):
            ready: list[cluster.Block] = []
            for cell, block in (block for block in blocks if stage(block[0]) == now):
                try:
                    ready.append(_ready(cell, block, options, chosen, folder))
                except (TypeError, ValueError) as reason:
                    refuse(cell, reason)
            if options.dask and ready:
                finished = cluster.run_blocks(options.dask, ready)
            else:
                finished = _run_here(ready, bar)
            try:
                for cell, block, done in finished:
                    try:
                        if isinstance(done, Exception):
                            raise done
                        results.append(_path(cell, options, folder), done)
                    except (TypeError, ValueError) as reason:
                        refuse(cell, reason)
                    bar.update(works[cell] * len(block))
            except cluster.UnfinishedError as error:
                refused.append(str(error))


def _path(cell: cluster.Cell, options, folder: Path) -> Path:
    return results.cell_path(*cell, options.network_seed, folder)


def _ready(cell, repetitions, options, chosen: dict[str, Setting], folder: Path) -> cluster.Block:
    """A block with all that `run_cell` needs, if its network is the one that results are of."""
    (name, network, method), seed = cell, options.network_seed
    setting, path = chosen[name], _path(cell, options, folder)
    more = {"network_seed": seed, "micro_batch": results.micro_batch(path)}
    if not options.dask:  # workers have networks of their own; `append` looks at these
        said = experiments.cell_attributes(setting, network, method, seed)
        untuned = experiments.untuned_regret(setting, network, seed)
        results.check_network(path, said, untuned)
    if setting is not experiments.SETTINGS.get(name):
        more["setting"] = setting
    if setting.starts_from_prefixes(method):
        more["prefixes"] = results.soft_prefixes(name, network, repetitions, seed, folder)
    return cluster.Block(cell, repetitions, more)


def _run_here(blocks: list[cluster.Block], bar):
    """Blocks one after the other; for one that cannot be, the error instead of a dataset."""
    for block in blocks:
        bar.set_postfix_str("/".join(block.cell))
        try:
            done = experiments.run_cell(**block.arguments())
        except (TypeError, ValueError) as reason:
            done = reason
        yield block.cell, block.repetitions, done


def _forecast(blocks, networks: list[str], chosen: dict[str, Setting]) -> None:
    """What is missing, and how long it takes at the speed of a few steps on this machine."""
    hours: dict[tuple[str, str], float] = {}
    speed = functools.cache(_speed)
    for cell, block in blocks:
        setting, network, method = cell
        work = experiments.work(chosen[setting], network, method)
        seconds = work / speed(chosen[setting].architecture(network))  # side by side
        hours[setting, network] = hours.get((setting, network), 0.0) + seconds / 3600
        repetitions = ", ".join(map(str, block))
        print(f"{'/'.join(cell)}: repetitions {repetitions}, {seconds / 60:.1f} min")
    for name in networks:
        architecture = experiments.ARCHITECTURES[name]
        took = experiments.tuning_work(architecture, 3, PRETRAINING) / speed(architecture) / 3600
        hours["pretraining", name] = took
    for (setting, network), took in hours.items():
        print(f"{setting}, {network}: {took:.2f} hours")
    print(
        f"{sum(hours.values()):.1f} hours in all on {len(jax.devices())} x "
        f"{jax.devices()[0].device_kind}, if nothing else runs here"
    )


def _speed(architecture: Architecture) -> float:
    """Multiply-adds a second of one repetition beside as many others as there are devices."""
    training = replace(TUNING, num_steps=4)
    base = initialise(architecture, jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), len(jax.devices()))
    task = dirichlet(np.ones(architecture.num_tokens))
    a_few_steps = functools.partial(
        tune, base, METHODS["SoftPT"], task, training, keys, progress=False
    )
    a_few_steps()  # compiles
    began = time.perf_counter()
    a_few_steps()
    return experiments.tuning_work(architecture, 2, training) / (time.perf_counter() - began)


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"


def _blocks(options, chosen: dict[str, Setting], folder: Path, refused: list[str]):
    """What is missing, in blocks of as many repetitions as run side by side.

    Before other cells of a network come its NoTuning cells, asked for or not, where there are none.
    """
    size = max(1, len(jax.devices()))
    cells = dict(_cells(options, chosen, folder, refused))
    untuned = {(*cell[:2], "NoTuning"): [0] for cell, missing in cells.items() if missing}
    for cell, missing in (untuned | cells).items():
        if cell[2] != "NoTuning" or not _path(cell, options, folder).is_file():
            for start in range(0, len(missing), size):
                yield cell, missing[start : start + size]


def _cells(options, chosen: dict[str, Setting], folder: Path, refused: list[str]):
    """Chosen cells with the repetitions they lack; those that cannot be run are named."""
    try:
        index, count = map(int, options.shard.split("/"))
        assert 1 <= index <= count
    except (ValueError, AssertionError):
        raise ValueError(f"`--shard` must be i/n with 1 <= i <= n, got {options.shard}.") from None
    known = {method: None for setting in chosen.values() for method in setting.methods}
    if unknown := [method for method in options.methods or [] if method not in known]:
        raise ValueError(f"`--methods` must be of {', '.join(known)}, got {', '.join(unknown)}.")
    cells: list[cluster.Cell] = []
    for name, setting in chosen.items():
        for network in _networks([setting], options.network):
            possible = setting.methods_for(network)
            for method in options.methods or possible:
                if method in possible:
                    cells.append((name, network, method))
                elif method in setting.methods:
                    reason = setting.refusal(network, method)
                    refused.append(f"{name}/{network}/{method} cannot be run: {reason}")
                elif options.settings:
                    refused.append(f"{name}/{network}/{method}: no method of this setting")
    for cell in cells[index - 1 :: count]:
        wanted = chosen[cell[0]].repetitions_of(cell[2])
        if options.repetitions is not None and cell[2] != "NoTuning":
            wanted = options.repetitions
        path = _path(cell, options, folder)
        have = results.read(path).repetition.values.tolist() if path.is_file() else []
        yield cell, [r for r in range(wanted) if r not in have]


def _table(options) -> None:
    """The settings chosen, as `report` knows them."""
    chosen, folder = _choose(options)
    print(report.table(chosen, _networks(chosen.values(), options.network), folder=folder))


def _figures(options) -> None:
    """Draw into OUT/setting/network/; what is not computed is named and skipped."""
    chosen, folder = _choose(options)
    for name, setting in chosen.items():
        for network in _networks([setting], options.network):
            try:
                drawn = report.figures_of(setting, network, folder=folder)
            except FileNotFoundError:
                print(f"{name}, {network}: not computed")
                continue
            place = Path(options.out) / name / network
            try:
                place.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise ValueError(f"`--out` must be a folder, got {options.out}.") from None
            for figure_name, figure in drawn.items():
                figure.savefig(place / f"{figure_name}.{options.format}", dpi=200)
            print(f"{place}: {len(drawn)} figures", flush=True)


if __name__ == "__main__":
    main()
