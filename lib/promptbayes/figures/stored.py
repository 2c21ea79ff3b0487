"""Every figure of what is stored of one setting."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from .bars import regret_bar_panels
from .checks import Array
from .components import prefix_trajectories, state_components
from .curves import loss_curves, regret_curves
from .parameters import sorted_hard_prefixes
from .style import MARKS


class Stored(NamedTuple):
    """What is stored of one setting on one network, and every figure of it; see `report.stored`.

    Attributes:
        title: how headings begin: the setting and the network.
        label: the network's name, one of `NETWORKS` or a `Stranger`.
        cells: method -> its cell, with the repetitions that this method has.
        baselines: evaluation distribution -> exact predictor -> cumulative regret [step], nats.
        optima: "pretraining", "tuning" -> the lowest expected loss; None where it is not known.
    """

    title: str
    label: str
    cells: dict[str, xr.Dataset]
    baselines: Mapping[str, Mapping[str, Array]]
    optima: Mapping[str, float | None]

    @property
    def untuned(self) -> xr.Dataset:
        """The cell of the network as tuning finds it; empty if NoTuning is not stored."""
        return self.cells.get("NoTuning", xr.Dataset())

    def pretraining_loss(self) -> Figure | None:
        """Loss of the network while it was pretrained; None if it was not, or nobody knows."""
        if "pretraining_loss" not in self.untuned:
            return None
        return loss_curves(
            {self.label: self.untuned.pretraining_loss.values[None]},
            window=_window(self.untuned.pretraining_step),
            optimum=self.optima["pretraining"],
            title=f"{self.title}: pretraining",
        )

    def tuning_loss(self) -> Figure | None:
        """Loss of every method that is tuned in steps, a far higher start cut off."""
        losses = {name: cell.loss.values for name, cell in self.cells.items() if "loss" in cell}
        if not losses:
            return None
        every, optimum = np.concatenate([*losses.values()]), self.optima["tuning"]
        lowest = float(every.min()) if optimum is None else optimum
        cut = lowest + 2 * float(every[:, every.shape[1] // 10 :].max() - lowest)
        return loss_curves(
            losses,
            window=_window(self.cells[next(iter(losses))].tuning_step),
            optimum=optimum,
            top=cut if every.max() > cut else None,
            title=f"{self.title}: tuning",
        )

    def regret_curves(self, evaluation: str, *, cumulative: bool = True) -> Figure:
        """Regret of what is stored and of the exact predictors, summed or of each prediction."""
        exactly = self._exactly(evaluation)
        curves = {
            name: cell.regret.sel(evaluation=evaluation).values for name, cell in self.cells.items()
        } | {name: np.diff(total, prepend=0.0) for name, total in exactly.items()}
        if cumulative:
            curves = {name: curve.cumsum(axis=-1) for name, curve in curves.items()}
        title = f"{self.title}: evaluated on {evaluation}"
        return regret_curves(curves, cumulative=cumulative, title=title)

    def regret_bars(self, evaluation: str) -> Figure:
        """The same at N_tune, N_train and N_eval, as bars with their values."""
        exactly = self._exactly(evaluation)
        panels = {
            f"n = {mark}": {
                name: cell.cumulative_regret.sel(evaluation=evaluation, mark=mark)
                for name, cell in self.cells.items()
            }
            | {name: curve[mark - 1] for name, curve in exactly.items()}
            for mark in MARKS.values()
        }
        return regret_bar_panels(panels, title=f"{self.title}: evaluated on {evaluation}")

    def _exactly(self, evaluation: str) -> Mapping[str, Array]:
        if evaluation not in self.baselines:
            known = ", ".join(self.baselines)
            raise ValueError(f"`evaluation` must be one of {known}, got {evaluation!r}.")
        return self.baselines[evaluation]

    def hard_prefixes(self) -> Figure | None:
        """The loss of every hard prefix, its mean over repetitions; None without HardPT."""
        if "HardPT" not in self.cells:
            return None
        cell = self.cells["HardPT"]
        length = cell.sizes["prefix"]
        num_tokens = round(cell.sizes["prompt"] ** (1 / length))
        prefixes = np.indices((num_tokens,) * length).reshape(length, -1).T  # as they were searched
        loss, title = cell.prompt_loss.mean("repetition"), f"{self.title}: every hard prefix"
        return sorted_hard_prefixes(prefixes, loss, title=title)

    def states(self) -> Figure | None:
        """States of the untuned network on pretraining sequences, by step and tau."""
        if "background" not in self.untuned:
            return None
        points, tau = self.untuned.background.values, self.untuned.background_tau.values
        steps, title = np.arange(1, points.shape[1] + 1), f"{self.title}: internal states"
        return state_components(points, steps, tau, title=title)

    def trajectories(self) -> Figure | None:
        """What each prefix does to the states of target sequences.

        None if no prefix is stored, or not the network's states.
        """
        panels = {}
        for name, cell in self.cells.items():
            if "prefix_trajectory" in cell:
                prefix, content = cell.prefix_trajectory.values, cell.trajectory.values
                start = np.broadcast_to(prefix[:, None, -1:], (*content.shape[:2], 1, 2))
                paths = np.concatenate([start, content], axis=2)  # from the state after the prefix
                panels[name] = prefix, paths.reshape(-1, *paths.shape[2:])
        if not panels or "background" not in self.untuned:
            return None
        background = self.untuned.background.values
        return prefix_trajectories(background, panels, title=f"{self.title}: prefixes")


def _window(steps: xr.DataArray) -> int:
    """How many gradient steps a stored loss is the mean of; the first one's middle says it."""
    return round(2 * float(steps[0]) - 1)
