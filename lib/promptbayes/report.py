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

_LABELS: dict[str, str] = dict(zip(experiments.NETWORKS, figures.NETWORKS, strict=True))


class Stored(NamedTuple):
    """What is stored of one setting on one network: what every figure here is drawn from."""

    setting: Setting
    network: str
    cells: dict[str, xr.Dataset]  # method -> cell, with the repetitions that this method has

    @property
    def target(self) -> str:
        """The task distribution that the methods were tuned to."""
        return self.setting.target

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

    Args:
        setting: a key of `experiments.SETTINGS`, or a `Setting`.
        network: one of the setting's, such as `"lstm"`.
        network_seed: which pretrained network; the default one if left out.
        folder: where the results are; the package's own if left out.

    Raises:
        ValueError: an unknown setting or network, or a damaged file.
        FileNotFoundError: nothing of it has been computed.

    Example:
        >>> run = stored("single-coin", "lstm")
        >>> run.target, run.cells["SoftPT"].regret.dims
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
    for task in sorted(run.setting.tasks, key=lambda task: task != run.target):
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
    losses = run.untuned.pretraining_loss.values
    return figures.loss_curves(
        {run.label: losses[None]},
        window=_window(run.untuned.pretraining_step),
        optimum=_bayes_loss(
            run.setting.tasks[run.setting.background], run.setting.pretraining_training.length
        ),
        title=run.title("pretraining"),
    )


def tuning_loss(run: Stored) -> Figure | None:
    """Loss of every method that is tuned in steps, a far higher start cut off; None without one."""
    losses = {name: cell.loss.values for name, cell in run.cells.items() if "loss" in cell}
    if not losses:
        return None
    cell = run.cells[next(iter(losses))]
    training, every = results.experiment(cell)["training"], np.concatenate([*losses.values()])
    optimum = _bayes_loss(run.setting.tasks[run.target], training["length"])
    lowest = float(every.min()) if optimum is None else optimum
    cut = lowest + 2 * float(every[:, every.shape[1] // 10 :].max() - lowest)
    return figures.loss_curves(
        losses,
        window=_window(cell.tuning_step),
        optimum=optimum,
        top=cut if every.max() > cut else None,
        title=run.title("tuning"),
    )


def regret_curves(run: Stored, evaluation: str, *, cumulative: bool = True) -> Figure:
    """Regret of what is stored and of the exact predictors after 1 to 200 predictions.

    Args:
        run: what `stored` returns.
        evaluation: the distribution that the sequences come from, one of the setting's tasks.
        cumulative: the running sum, or the regret of each prediction.
    """
    exactly = experiments.baselines(run.setting, evaluation)
    curves = {
        name: cell.regret.sel(evaluation=evaluation).values for name, cell in run.cells.items()
    }
    for name, total in exactly.items():
        curves[name] = np.diff(total, prepend=0.0)
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
    totals = {
        name: cell.cumulative_regret.sel(evaluation=evaluation) for name, cell in run.cells.items()
    }
    panels = {
        f"n = {mark}": {name: total.sel(mark=mark) for name, total in totals.items()}
        | {name: curve[mark - 1] for name, curve in exactly.items()}
        for mark in experiments.MARKS
    }
    return figures.regret_bar_panels(panels, title=run.title(f"evaluated on {evaluation}"))


def hard_prefixes(run: Stored) -> Figure | None:
    """The loss of every hard prefix, its mean over repetitions; None without HardPT."""
    if "HardPT" not in run.cells:
        return None
    loss = run.cells["HardPT"].prompt_loss.mean("repetition")
    tokens = range(run.setting.tasks[run.target].num_tokens)
    length = run.cells["HardPT"].sizes["prefix"]
    prefixes = list(itertools.product(tokens, repeat=length))  # in the order of the search
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
    """The lowest expected log loss over that many coin flips, its Bayes predictor's, in nats.

    None for what is no coin, or is none that `exact` knows.
    """
    if task.num_tokens != 2:
        return None
    ones = np.arange(length + 1)
    try:
        log_prob = exact.log_marginal(task, np.stack([length - ones, ones], axis=-1))
    except TypeError:
        return None
    return float(-np.sum(special.comb(length, ones) * np.exp(log_prob) * log_prob))
