"""`python -m promptbayes`: make again what the book shows.

Each command has `--help` with an example.
"""

import argparse
import dataclasses
import functools
import time
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from . import cluster, experiments, predictor, report, results
from .methods import METHODS
from .predictor import initialise
from .tuning import PRETRAINING, TUNING, pretrain, tune


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m promptbayes", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for add in (_add_pretrain, _add_reproduce, _add_table, _add_figures):
        add(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(
            130, "Stopped; what was finished is kept. The same command goes on from there.\n"
        )


def _add_pretrain(commands) -> None:
    command = commands.add_parser(
        "pretrain",
        help="pretrain the networks at the paper's scale",
        epilog="example: python -m promptbayes pretrain lstm --seed 1",
    )
    command.add_argument(
        "networks",
        nargs="*",
        help=f"of {', '.join(experiments.ARCHITECTURES)}; lstm and transformer if left out",
    )
    command.add_argument("--seed", type=int, help="of the network; the shipped one's if left out")
    command.set_defaults(run=_pretrain)


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
        **experiments.provenance(time.perf_counter() - began),
    }
    path.parent.mkdir(exist_ok=True)
    made = trained.predictor(0)
    if name in predictor.HALF_PRECISION:
        made = predictor.rounded(made)
    predictor.save(path, made, settings)
    print(f"{path}: {settings['losses'][-1]} nats per sequence after {settings['seconds']} s")


def _add_reproduce(commands) -> None:
    command = commands.add_parser(
        "reproduce",
        help="run the paper's experiments; what is finished is skipped",
        epilog="example: python -m promptbayes reproduce single-coin --network lstm "
        "--methods SoftPT FullWT --repetitions 3",
    )
    command.add_argument(
        "settings", nargs="*", help=f"of {', '.join(experiments.SETTINGS)}; all if left out"
    )
    command.add_argument("--network", choices=experiments.NETWORKS, help="both if left out")
    command.add_argument("--methods", nargs="+", help="all of the setting if left out")
    command.add_argument("--repetitions", type=int, help="how many; the paper's if left out")
    command.add_argument("--network-seed", type=int, help="which pretrained network")
    command.add_argument("--shard", default="1/1", help="i/n: only every n-th cell, from the i-th")
    command.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="of a dask.distributed scheduler; its workers run the cells, not this process",
    )
    command.add_argument("--folder", help="where to keep results; the package's if left out")
    command.add_argument(
        "--dry-run", action="store_true", help="say what is missing and how long it would take here"
    )
    command.set_defaults(run=_reproduce)


def _reproduce(options) -> None:
    """Run every missing repetition of every chosen cell, a block at a time."""
    blocks = list(_blocks(options))
    networks = _missing_networks(blocks, options.network_seed)
    if options.dry_run:
        _forecast(blocks, networks)
        return
    for name in networks:
        missing = predictor.pretrained_path(name, options.network_seed).name
        print(f"{missing} is not there: pretraining it first.", flush=True)
        _pretrain_network(name, options.network_seed)
    print(f"{sum(len(block) for _, block in blocks)} repetitions to run.", flush=True)
    unfinished = []
    # Cells differ a hundredfold in work: time left is told from the work that is left.
    with tqdm(
        total=sum(_work(*block) for block in blocks), desc="reproduce", smoothing=0, bar_format=_BAR
    ) as bar:
        untuned = [block for block in blocks if block[0][2] == "NoTuning"]
        others = [block for block in blocks if block[0][2] != "NoTuning"]
        for some in filter(None, (untuned, others)):  # what a cell's network is, is stored first
            if options.dask:
                finished = cluster.run_blocks(options.dask, some, network_seed=options.network_seed)
            else:
                finished = _run_here(some, options, bar)
            try:
                for cell, block, done in finished:
                    path = results.cell_path(*cell, options.network_seed, options.folder)
                    try:
                        results.append(path, _unless_refused(done))
                    except ValueError as refused:
                        unfinished.append(f"{'/'.join(cell)}: {refused}")
                        tqdm.write(f"{unfinished[-1]}")
                    bar.update(_work(cell, block))
            except cluster.UnfinishedError as error:
                unfinished.append(str(error))
    if unfinished:
        raise SystemExit("\n".join(["Not stored:", *dict.fromkeys(unfinished)]))


def _missing_networks(blocks: list[cluster.Block], network_seed) -> list[str]:
    """Pretrained networks that cells start from and whose weights are not there."""
    chosen = {
        network + experiments.SETTINGS[setting].variant: None  # in order, each once
        for (setting, network, _), _ in blocks
        if experiments.SETTINGS[setting].pretrained
    }
    return [name for name in chosen if not predictor.pretrained_path(name, network_seed).is_file()]


def _run_here(blocks: list[cluster.Block], options, bar):
    """Blocks one after the other; for one of another network, the error instead of a dataset."""
    seed = options.network_seed
    for cell, block in blocks:
        bar.set_postfix_str("/".join(cell))
        try:
            untuned = experiments.untuned_regret(*cell[:2], seed)
            results.check_network(results.cell_path(*cell, seed, options.folder), cell[2], untuned)
        except ValueError as refused:
            yield cell, block, refused
        else:
            yield cell, block, experiments.run_cell(*cell, block, network_seed=seed)


def _unless_refused(done):
    if isinstance(done, ValueError):
        raise done
    return done


def _forecast(blocks: list[cluster.Block], networks: list[str]) -> None:
    """What is missing, and how long it takes at the speed of a few steps on this machine."""
    hours: dict[tuple[str, str], float] = {}
    speed = functools.cache(_speed)
    for (setting, network, method), block in blocks:
        name = network + experiments.SETTINGS[setting].variant
        seconds = experiments.work(setting, network, method) / speed(name)  # side by side
        hours[setting, network] = hours.get((setting, network), 0.0) + seconds / 3600
        repetitions = ", ".join(map(str, block))
        print(f"{setting}/{network}/{method}: repetitions {repetitions}, {seconds / 60:.1f} min")
    for name in networks:
        took = experiments.tuning_work(name, 3, PRETRAINING) / speed(name) / 3600
        hours["pretraining", name] = took
    for (setting, network), took in hours.items():
        print(f"{setting}, {network}: {took:.2f} hours")
    print(
        f"{sum(hours.values()):.1f} hours in all on {len(jax.devices())} x "
        f"{jax.devices()[0].device_kind}, if nothing else runs here"
    )


def _speed(name: str) -> float:
    """Multiply-adds a second of one repetition beside as many others as there are devices."""
    training = dataclasses.replace(TUNING, num_steps=4)
    base = initialise(experiments.ARCHITECTURES[name], jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), len(jax.devices()))
    task = experiments.TASKS["single-coin"]
    a_few_steps = functools.partial(
        tune, base, METHODS["SoftPT"], task, training, keys, progress=False
    )
    a_few_steps()  # compiles
    began = time.perf_counter()
    a_few_steps()
    return experiments.tuning_work(name, 2, training) / (time.perf_counter() - began)


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"


def _work(cell, block) -> float:
    return experiments.work(*cell) * len(block)


def _blocks(options):
    """What is missing, in blocks of as many repetitions as run side by side.

    Before other cells of a network come its NoTuning cells, asked for or not, where there are none.
    """
    size = max(1, len(jax.devices()))
    chosen = dict(_cells(options))
    untuned = {(*cell[:2], "NoTuning"): [0] for cell, missing in chosen.items() if missing}
    for cell, missing in (untuned | chosen).items():
        path = results.cell_path(*cell, options.network_seed, options.folder)
        if cell[2] == "NoTuning" and path.is_file():
            continue
        for start in range(0, len(missing), size):
            yield cell, missing[start : start + size]


def _cells(options):
    """Chosen cells with the repetitions they lack."""
    try:
        index, count = map(int, options.shard.split("/"))
        assert 1 <= index <= count
    except (ValueError, AssertionError):
        raise ValueError(f"`--shard` must be i/n with 1 <= i <= n, got {options.shard}.") from None
    known = {method for setting in experiments.SETTINGS.values() for method in setting.methods}
    for method in options.methods or []:
        if method not in known:
            raise ValueError(f"`--methods` must be of {', '.join(sorted(known))}, got {method}.")
    cells = [
        (name, network, method)
        for name in options.settings or experiments.SETTINGS
        for network in ([options.network] if options.network else experiments.NETWORKS)
        for method in experiments.setting_of(name).methods_for(network)
        if not options.methods or method in options.methods
    ]
    for cell in cells[index - 1 :: count]:
        wanted = experiments.SETTINGS[cell[0]].repetitions
        if options.repetitions is not None:
            wanted = options.repetitions
        if cell[2] == "NoTuning":
            wanted = 1  # nothing about it is random
        path = results.cell_path(*cell, options.network_seed, options.folder)
        have = set(results.read(path).repetition.values.tolist()) if path.is_file() else set()
        yield cell, [r for r in range(wanted) if r not in have]


def _add_table(commands) -> None:
    command = commands.add_parser(
        "table",
        help="print the paper's numbers beside the stored ones",
        epilog="example: python -m promptbayes table single-coin",
    )
    command.add_argument("settings", nargs="*", help="all if left out")
    command.add_argument("--folder", help="where the results are; the package's if left out")
    command.set_defaults(run=_table)


def _table(options) -> None:
    """Cumulative regret at N_tune on the target: median, quantiles, and what they rest on."""
    columns = "{:<28} {:<12} {:<12} {:>7} {:>16} {:>5} {:>6} {:>20} {:>6}"
    heading = "setting network predictor median quantiles runs error networks paper"
    chosen = options.settings or list(experiments.SETTINGS)
    for name in chosen:
        experiments.setting_of(name)  # before anything is printed
    print(columns.format(*heading.split()))
    for name in chosen:
        for network in experiments.NETWORKS:
            try:
                rows = results.summary(name, network, folder=options.folder)
            except FileNotFoundError:
                print(columns.format(name, network, "not computed", *6 * [""]))
                continue
            for row in rows:
                print(columns.format(name, network, *_texts(row)))
            stored = {row.predictor for row in rows}
            for method in experiments.SETTINGS[name].methods_for(network):
                if method not in stored:
                    print(columns.format(name, network, method, "missing", *5 * [""]))
    print(
        "\nNats, cumulative regret after 50 predictions on the target. quantiles: 25 % and 75 % "
        "over repetitions (runs);\nerror: standard error of the evaluation; networks: range over "
        "pretrained networks\n(untrained: over initialisations), and their number."
    )
    for name in chosen:
        if name in experiments.FINDINGS:
            print(f"\n{name}: not as the paper claims. {experiments.FINDINGS[name]}.")
    _print_times(chosen, options.folder)


def _print_times(chosen: list[str], folder) -> None:
    """Hours that the stored results took to compute."""
    columns, devices, whole = "{:<28}" + len(experiments.NETWORKS) * " {:>12}", set(), 0.0
    print("\n" + columns.format("hours of computing", *experiments.NETWORKS))
    for name in chosen:
        hours = []
        for network in experiments.NETWORKS:
            seconds, where = results.computing_time(name, network, folder)
            hours.append(f"{seconds / 3600:.2f}")
            devices |= where
            whole += seconds / 3600
        print(columns.format(name, *hours))
    print(f"{whole:.1f} in all, on {' and '.join(sorted(devices)) or 'nothing yet'}")


def _texts(row: results.Summary) -> list[str]:
    """One row of the table, as text."""
    if not row.repetitions:
        return [row.predictor, f"{row.median:.3f}", "", "exact", "", "", ""]
    several = len(row.networks) > 1
    networks = f"{min(row.networks):.3f} to {max(row.networks):.3f} ({len(row.networks)})"
    return [
        row.predictor,
        f"{row.median:.3f}",
        f"{row.low:.3f} to {row.high:.3f}" if row.repetitions > 1 else "",
        str(row.repetitions),
        f"{row.error:.3f}",
        networks if several else "",
        "" if row.paper is None else f"{row.paper:.2f}",
    ]


def _add_figures(commands) -> None:
    command = commands.add_parser(
        "figures",
        help="draw every figure of a setting from the stored results",
        epilog="example: python -m promptbayes figures single-coin --network lstm --format png",
    )
    command.add_argument(
        "settings", nargs="*", help=f"of {', '.join(experiments.SETTINGS)}; all if left out"
    )
    command.add_argument("--network", choices=experiments.NETWORKS, help="both if left out")
    command.add_argument("--folder", help="where the results are; the package's if left out")
    command.add_argument(
        "--out", default="figures", help="folder to draw into; figures/ if left out"
    )
    command.add_argument("--format", choices=("svg", "png"), default="svg", help="svg if left out")
    command.set_defaults(run=_figures)


def _figures(options) -> None:
    """Draw into OUT/setting/network/; what is not computed is named and skipped."""
    chosen = options.settings or list(experiments.SETTINGS)
    for name in chosen:
        experiments.setting_of(name)  # before anything is drawn
    for name in chosen:
        for network in [options.network] if options.network else experiments.NETWORKS:
            try:
                drawn = report.figures_of(name, network, folder=options.folder)
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
