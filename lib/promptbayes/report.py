"""Every figure of a setting, drawn from what is stored of it.

`figures` knows how to draw, but not what the paper's settings are; `results` keeps the numbers.
Here the two meet, and the exact predictors join them. No network runs: its states are stored too.
"""

import itertools
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy import special

from . import exact, experiments, figures, results
from .experiments import Setting
from .tuning import PRETRAINING

_LABELS: dict[str, str] = dict(zip(experiments.NETWORKS, figures.NETWORKS, strict=True))


class Stored(NamedTuple):
    """What is stored of one setting on one network: what every figure here is drawn from."""

    setting: Setting
    network: str
    cells: dict[str, xr.Dataset]  # method -> cell, with the repetitions that this method has

    @property
    def label(self) -> str:
        """The network's name in figures; one that they do not know is grey."""
        return _LABELS.get(self.network) or figures.Stranger(self.network)

    @property
    def untuned(self) -> xr.Dataset:
        """The cell of the network as tuning finds it; empty if NoTuning is not stored."""
        return self.cells.get("NoTuning", xr.Dataset())

    def title(self, words: str) -> str:
        """The heading of a figure."""
        return f"{self.setting.name}, {self.label}: {words}"


def stored(
    setting: str | Setting, network: str, *, network_seed: int | None = None, folder=None
) -> Stored:
    """Read the cells of a setting, in the order of the groups of methods, unknown ones last.

    Arguments and errors are those of `results.load_cells`.

    Example:
        >>> run = stored("single-coin", "lstm")
        >>> run.setting.target, run.cells["SoftPT"].regret.dims
        ('single-coin', ('repetition', 'evaluation', 'step'))
    """
    found = results.load_cells(setting, network, network_seed=network_seed, folder=folder)
    known = list(itertools.chain(*figures.GROUPS.values()))
    cells = {method: found[method] for method in known if method in found}
    cells |= {figures.Stranger(name): found[name] for name in found if name not in known}
    return Stored(experiments.setting_of(setting), network, cells)


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
    drawn = {"pretraining-loss": pretraining_loss(run), "tuning-loss": tuning_loss(run)}
    for task in sorted(run.setting.tasks, key=lambda task: task != run.setting.target):
        drawn[f"regret-{task}"] = regret_curves(run, task, cumulative=False)
        drawn[f"cumulative-regret-{task}"] = regret_curves(run, task)
        drawn[f"bars-{task}"] = regret_bars(run, task)
    drawn["hard-prefixes"] = hard_prefixes(run)
    drawn["states"] = states(run)
    drawn["trajectories"] = trajectories(run)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def pretraining_loss(run: Stored) -> Figure | None:
    """Loss of the network while it was pretrained; None if it was not, or NoTuning is missing."""
    if "pretraining_loss" not in run.untuned:
        return None
    losses = {run.label: run.untuned.pretraining_loss.values[None]}
    optimum = _bayes_loss(run.setting.tasks[str(run.setting.pretraining)], PRETRAINING.length)
    window = _window(run.untuned.pretraining_step)
    title = run.title("pretraining")
    return figures.loss_curves(losses, window=window, optimum=optimum, title=title)


def tuning_loss(run: Stored) -> Figure | None:
    """Loss of every method that is tuned in steps, a far higher start cut off; None without one."""
    losses = {name: cell.loss.values for name, cell in run.cells.items() if "loss" in cell}
    if not losses:
        return None
    cell = run.cells[next(iter(losses))]
    length, every = (
        results.experiment(cell)["training"]["length"],
        np.concatenate([*losses.values()]),
    )
    optimum = _bayes_loss(run.setting.tasks[run.setting.target], length)
    lowest = float(every.min()) if optimum is None else optimum
    cut = lowest + 2 * float(every[:, every.shape[1] // 10 :].max() - lowest)
    top = cut if every.max() > cut else None
    window, title = _window(cell.tuning_step), run.title("tuning")
    return figures.loss_curves(losses, window=window, optimum=optimum, top=top, title=title)


def regret_curves(run: Stored, evaluation: str, *, cumulative: bool = True) -> Figure:
    """Regret of what is stored and of the exact predictors after 1 to 200 predictions.

    Sequences come from `evaluation`, one of the setting's tasks; drawn is the running sum, or if
    not `cumulative` the regret of each prediction.
    """
    exactly = experiments.baselines(run.setting, evaluation)
    curves = {
        name: cell.regret.sel(evaluation=evaluation).values for name, cell in run.cells.items()
    } | {name: np.diff(total, prepend=0.0) for name, total in exactly.items()}
    if cumulative:
        curves = {name: curve.cumsum(axis=-1) for name, curve in curves.items()}
    title = run.title(f"evaluated on {evaluation}")
    return figures.regret_curves(curves, cumulative=cumulative, title=title)


def regret_bars(run: Stored, evaluation: str) -> Figure:
    """The same at N_tune, N_train and N_eval, as bars with their values; see `regret_curves`.

    Example:
        >>> figure = regret_bars(stored("single-coin", "lstm"), "random-coins")
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['n = 50', 'n = 100', 'n = 200']
    """
    exactly = experiments.baselines(run.setting, evaluation)
    panels = {
        f"n = {mark}": {
            name: cell.cumulative_regret.sel(evaluation=evaluation, mark=mark)
            for name, cell in run.cells.items()
        }
        | {name: curve[mark - 1] for name, curve in exactly.items()}
        for mark in experiments.MARKS
    }
    return figures.regret_bar_panels(panels, title=run.title(f"evaluated on {evaluation}"))


def hard_prefixes(run: Stored) -> Figure | None:
    """The loss of every hard prefix, its mean over repetitions; None without HardPT."""
    if "HardPT" not in run.cells:
        return None
    cell = run.cells["HardPT"]
    tokens = range(run.setting.tasks[run.setting.target].num_tokens)
    prefixes = np.array([*itertools.product(tokens, repeat=cell.sizes["prefix"])])  # as searched
    loss = cell.prompt_loss.mean("repetition")
    return figures.sorted_hard_prefixes(prefixes, loss, title=run.title("every hard prefix"))


def states(run: Stored) -> Figure | None:
    """States of the untuned network on pretraining sequences, by step and tau; None without it."""
    if "background" not in run.untuned:
        return None
    points, tau = run.untuned.background.values, run.untuned.background_tau.values
    steps = np.arange(1, points.shape[1] + 1)
    return figures.state_components(points, steps, tau, title=run.title("internal states"))


def trajectories(run: Stored) -> Figure | None:
    """What each prefix does to the states of target sequences.

    None if no prefix is stored, or not the network's states.
    """
    panels = {}
    for name, cell in run.cells.items():
        if "prefix_trajectory" in cell:
            prefix, content = cell.prefix_trajectory.values, cell.trajectory.values
            start = np.broadcast_to(prefix[:, None, -1:], (*content.shape[:2], 1, 2))
            paths = np.concatenate([start, content], axis=2)  # from the state after the prefix
            panels[name] = prefix, paths.reshape(-1, *paths.shape[2:])
    if not panels or "background" not in run.untuned:
        return None
    background = run.untuned.background.values
    return figures.prefix_trajectories(background, panels, title=run.title("prefixes"))


def _window(steps: xr.DataArray) -> int:
    """How many gradient steps a stored loss is the mean of; the first one's middle says it."""
    return round(2 * float(steps[0]) - 1)


def _bayes_loss(task, length: int) -> float | None:
    """The lowest expected log loss over that many coin flips, its Bayes predictor's, in nats."""
    ones = np.arange(length + 1)
    try:
        log_prob = exact.log_marginal(task, np.stack([length - ones, ones], axis=-1))
    except (TypeError, ValueError):  # no coin, or none that `exact` knows
        return None
    return float(-np.sum(special.comb(length, ones) * np.exp(log_prob) * log_prob))
