"""Every figure of a setting, drawn from what is stored of it.

`figures` knows how to draw, but not what the paper's settings are; `results` keeps the numbers.
Here the two meet, and the exact predictors join them. No network runs: its states are stored too.
"""

import itertools
from collections.abc import Collection, Mapping
from dataclasses import asdict

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy import special

from . import exact, experiments, figures, results
from .experiments import Setting
from .tuning import PRETRAINING

_LABELS: dict[str, str] = dict(zip(experiments.NETWORKS, figures.NETWORKS, strict=True))


def stored(
    setting: str | Setting, network: str, *, network_seed: int | None = None, folder=None
) -> figures.Stored:
    """Read the cells of a setting, in the order of the groups of methods, unknown ones last.

    Arguments and errors are those of `results.load_cells`.

    Example:
        >>> run = stored("single-coin", "lstm")
        >>> run.title, run.cells["SoftPT"].regret.dims
        ('single-coin, LSTM', ('repetition', 'evaluation', 'step'))
    """
    chosen = experiments.setting_of(setting)
    found = results.load_cells(chosen, network, network_seed=network_seed, folder=folder)
    known = list(itertools.chain(*figures.GROUPS.values()))
    cells = {method: found[method] for method in known if method in found}
    cells |= {figures.Stranger(name): found[name] for name in found if name not in known}
    label = _LABELS.get(network) or figures.Stranger(network)
    trained = results.experiment(next(iter(cells.values())))["training"]
    optima = {"tuning": _bayes_loss(chosen.tasks[chosen.target], trained["length"])}
    if chosen.pretraining is not None:
        pre = chosen.tasks[chosen.pretraining]
        optima["pretraining"] = _bayes_loss(pre, PRETRAINING.length)
    baselines = {task: experiments.baselines(chosen, task) for task in chosen.tasks}
    return figures.Stored(f"{chosen.name}, {label}", label, cells, baselines, optima)


def figures_of(
    setting: str | Setting, network: str, *, network_seed: int | None = None, folder=None
) -> dict[str, Figure]:
    """Every figure for which the numbers are there; arguments and errors as `stored`.

    Returns:
        name -> figure: `pretraining-loss`, `tuning-loss`, then for each evaluation distribution,
        the target first, `regret-`, `cumulative-regret-` and `bars-` with its name, then
        `hard-prefixes`, `states` and `trajectories`.

    Reference:
        Fig. 1 to 4 and A5 to A12.
    """
    run = stored(setting, network, network_seed=network_seed, folder=folder)
    target = experiments.setting_of(setting).target
    drawn = {"pretraining-loss": run.pretraining_loss(), "tuning-loss": run.tuning_loss()}
    for task in sorted(run.baselines, key=lambda task: task != target):
        drawn[f"regret-{task}"] = run.regret_curves(task, cumulative=False)
        drawn[f"cumulative-regret-{task}"] = run.regret_curves(task)
        drawn[f"bars-{task}"] = run.regret_bars(task)
    drawn["hard-prefixes"] = run.hard_prefixes()
    drawn["states"] = run.states()
    drawn["trajectories"] = run.trajectories()
    return {name: figure for name, figure in drawn.items() if figure is not None}


def numbers(
    setting: str | Setting,
    network: str,
    variable: str,
    *,
    network_seed: int | None = None,
    folder=None,
) -> xr.DataArray:
    """What a figure draws, of all that have it; `.to_series().to_csv(path)` writes it.

    `variable` is one of a cell, see `experiments.run_cell`: `regret`, `cumulative_regret` (the
    bars), `loss`, `prompt_loss` (all hard prompts), `trajectory`, `prefix_trajectory`,
    `background`, `pretraining_loss`; ValueError if no cell has it. Other arguments and errors are
    those of `results.load_cells`.

    Returns:
        [predictor, ...] with the cells' own axes, labels; NaN where one has fewer repetitions.

    Example:
        >>> bars = numbers("single-coin", "lstm", "cumulative_regret")
        >>> bars.sel(predictor="SoftPT", evaluation="single-coin", mark=50).to_series().index.name
        'repetition'
    """
    cells = results.load_cells(setting, network, network_seed=network_seed, folder=folder)
    found = {name: cell[variable] for name, cell in cells.items() if variable in cell}
    if not found:
        known = ", ".join(sorted({str(name) for cell in cells.values() for name in cell}))
        raise ValueError(f"`variable` must be one of {known}, got {variable!r}.")
    every = [values.expand_dims(predictor=[name]) for name, values in found.items()]
    return xr.concat(every, dim="predictor", join="outer", coords="minimal", combine_attrs="drop")


def _bayes_loss(task, length: int) -> float | None:
    """The lowest expected log loss over that many coin flips, its Bayes predictor's, in nats."""
    ones = np.arange(length + 1)
    try:
        log_prob = exact.log_marginal(task, np.stack([length - ones, ones], axis=-1))
    except (TypeError, ValueError):  # no coin, or none that `exact` knows
        return None
    return float(-np.sum(special.comb(length, ones) * np.exp(log_prob) * log_prob))


def table(settings: Mapping[str, Setting], networks: Collection[str], *, folder=None) -> str:
    """Cumulative regret at N_tune on the target, beside the paper's, and what it rests on.

    Args:
        settings: name -> setting; what is not stored of one is shown as missing.
        networks: which of their networks.
        folder: where results are; the package's if left out.

    Example:
        >>> from promptbayes.experiments import SETTINGS
        >>> print(table({"single-coin": SETTINGS["single-coin"]}, ["lstm"]).split()[0])
        setting
    """
    columns = "{:<28} {:<12} {:<12} {:>7} {:>16} {:>5} {:>6} {:>20} {:>6}"
    lines = [columns.format(*_HEADING)]
    others = []
    for name, setting in settings.items():
        for network in (network for network in setting.networks if network in networks):
            try:
                rows = results.summary(setting, network, folder=folder)
            except FileNotFoundError:
                lines.append(columns.format(name, network, "not computed", *6 * [""]))
                continue
            lines += [columns.format(name, network, *_texts(row)) for row in rows]
            cells = results.load_cells(setting, network, folder=folder)
            for method in setting.methods_for(network):
                if method not in cells:
                    lines.append(columns.format(name, network, method, "missing", *5 * [""]))
            said = results.experiment(next(iter(cells.values())))["training"]
            if said != asdict(setting.training):
                size = f"{said['num_steps']} steps of {said['batch_size']} sequences"
                others.append(f"{name}, {network}: not the setting's training, but {size}")
        if not experiments.baselines(setting, setting.target):
            others.append(f"{name}: `exact` knows no Bayes predictor of {setting.target}")
    lines.append(_EXPLAINED)
    for name, setting in settings.items():
        if name in experiments.FINDINGS and setting is experiments.SETTINGS[name]:
            lines.append(f"\n{name}: not as the paper claims. {experiments.FINDINGS[name]}.")
    lines += others
    return "\n".join([*lines, "", *_hours(settings, networks, folder)])


_HEADING = (
    *("setting", "network", "predictor", "median", "quantiles"),
    *("runs", "error", "networks", "paper"),
)
_EXPLAINED = """
Nats, cumulative regret after 50 predictions on the target. quantiles: 25 % and 75 % \
over repetitions (runs);
error: standard error of the evaluation; networks: range over pretrained networks
(untrained: over initialisations), and their number."""


def _texts(row: results.Summary) -> list[str]:
    """One row of the table, as text."""
    if not row.repetitions:
        return [row.predictor, f"{row.median:.3f}", "", "exact", "", "", ""]
    networks = f"{min(row.networks):.3f} to {max(row.networks):.3f} ({len(row.networks)})"
    return [
        row.predictor,
        f"{row.median:.3f}",
        f"{row.low:.3f} to {row.high:.3f}" if row.repetitions > 1 else "",
        str(row.repetitions),
        f"{row.error:.3f}",
        networks if len(row.networks) > 1 else "",
        "" if row.paper is None else f"{row.paper:.2f}",
    ]


def _hours(settings, networks, folder) -> list[str]:
    """Hours of computing, a line a setting."""
    columns, devices, whole = "{:<28}" + len(networks) * " {:>12}", set(), 0.0
    lines = [columns.format("hours of computing", *networks)]
    for name in settings:
        taken = [results.computing_time(name, network, folder) for network in networks]
        lines.append(columns.format(name, *(f"{seconds / 3600:.2f}" for seconds, _ in taken)))
        whole += sum(seconds for seconds, _ in taken) / 3600
        devices |= set().union(*(where for _, where in taken))
    where = " and ".join(sorted(devices)) or "nothing yet"
    return [*lines, f"{whole:.1f} in all, on {where}"]
