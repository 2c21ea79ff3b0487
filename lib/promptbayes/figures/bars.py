"""Regret as bars."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from . import checks, drawing
from .checks import Array
from .style import (
    BLACK,
    GREY,
    GROUPS,
    NATS,
    PLAIN_BAR,
    RED,
    STRANGER,
    WIDTH,
    Stranger,
    style_of,
    themed,
)


def _bar_rows(
    names: Iterable[str], groups: Mapping[str, Sequence[str]] | None
) -> list[tuple[str, bool]]:
    """Return the rows from top to bottom: headings (True) and names; strangers come last."""
    left = list(names)
    if groups is None:
        known = {name for members in GROUPS.values() for name in members}
        groups = (
            GROUPS if {name for name in left if not isinstance(name, Stranger)} <= known else {}
        )
    rows: list[tuple[str, bool]] = []
    for heading, members in groups.items():
        present = [name for name in members if name in left]
        rows += [(heading, True)] * bool(present) + [(name, False) for name in present]
        left = [name for name in left if name not in present]
    return rows + [("others", True)] * bool(rows and left) + [(name, False) for name in left]


def _columns(num_panels: int, names: Iterable[str]) -> tuple[int, float]:
    """Return how many panels fit into a row beside the names, and how wide each is, in inches."""
    free = WIDTH - 0.35 - 0.085 * max(map(len, names))
    columns = min(num_panels, max(1, int(free / 1.2)))
    columns = 2 if num_panels == 4 and columns == 3 else columns
    return columns, free / columns


def _bar(axes: Axes, row: int, name: str, seeds: Array, top: float, value: bool) -> None:
    """Draw one horizontal bar, cut at `top`, with its whisker and its value."""
    style = STRANGER if isinstance(name, Stranger) else style_of(name) or PLAIN_BAR
    low, median, high = np.quantile(seeds, [0.25, 0.5, 0.75])
    axes.barh(
        row,
        min(median, top),
        height=0.72,
        color=style.colour,
        edgecolor="white",
        hatch=style.hatch,
        linewidth=0,
    )
    end = max(median, 0.0)
    if low < high and median <= top:
        whisker = [[median - low], [min(high, top) - median]]
        axes.errorbar(median, row, xerr=whisker, color=BLACK, lw=1.2, capsize=2.5)
        end = max(high, 0.0)
    if value:
        text = f"{median:z.2f}" + ("→" if median > top else "")
        drawing.note(axes, text, (min(end, top), row), (6, 0), va="center")


@themed
def regret_bar_panels(
    panels: Mapping[str, Mapping[str, ArrayLike]],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    xlabel: str = NATS,
    values: bool = True,
    top: float | None = None,
    title: str | None = None,
) -> Figure:
    """Panels of horizontal regret bars, with the same rows and the same scale.

    They stand side by side as far as there is room.

    The bar is the median over repetitions, the whisker spans the 25 % and 75 % quantiles; a dotted
    line marks the optimum: EvalBayes, or else TargetBayes.

    Args:
        panels: heading of the panel -> name -> regret [seed] or a single number, in nats.
        groups: heading -> the names below it, in order; other names come last. The default is
            `GROUPS` if it knows all names, and otherwise no groups and the order given.
        xlabel: label of the value.
        values: whether to write the median at the end of its bar.
        top: where to cut bars, in nats; a bar that is cut has an arrow behind its value.
        title: heading.

    Example:
        >>> figure = regret_bar_panels({"LSTM": {"SoftPT": 0.01}, "Transformer": {"SoftPT": 0.02}})
        >>> [float(axes.patches[0].get_width()) for axes in figure.axes]
        [0.01, 0.02]
    """
    arrays = {
        heading: checks.arrays(f"panels[{heading!r}]", bars, "seed", pad=True)
        for heading, bars in checks.mapping("panels", panels).items()
    }
    rows = _bar_rows(dict.fromkeys(name for bars in arrays.values() for name in bars), groups)
    every = [array for bars in arrays.values() for array in bars.values()]
    columns, width = _columns(len(arrays), [name for name, _ in rows])
    figure, grid = drawing.grid(len(arrays), columns, 0.45 + 0.235 * len(rows))
    figure.supxlabel(xlabel)
    room = 1 / (1 - 0.56 / width) if values else 1.05  # inches for "12.34" behind a bar
    most = max(max(np.quantile(array, 0.75) for array in every), 1e-9) if top is None else top
    least = min(0.0, *(np.quantile(array, 0.25) for array in every))
    for axes, (heading, bars) in zip(grid, arrays.items(), strict=True):
        for row, (name, is_heading) in enumerate(rows):
            if name in bars and not is_heading:
                _bar(axes, row, name, bars[name], most, values)
        if optimum := [name for name in ("EvalBayes", "TargetBayes") if name in bars]:
            place = float(np.median(bars[optimum[0]]))
            axes.axvline(place, color=BLACK, lw=1.0, ls=(0, (1, 1.5)), zorder=0)
        axes.set_title(heading)
        axes.tick_params(axis="y", length=0)
    grid[0].set_xlim(least * room, most * room)
    grid[0].set_ylim(len(rows) - 0.4, -0.6)
    grid[0].set_yticks(range(len(rows)), [name for name, _ in rows])
    for label, (_, is_heading) in zip(grid[0].get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if is_heading else "normal")
    return drawing.finish(figure, None, title)


def regret_bars(bars: Mapping[str, ArrayLike], **options: Any) -> Figure:
    """One panel of `regret_bar_panels`; it takes the same options.

    Args:
        bars: name -> regret [seed] or a single number, in nats.
        options: `groups`, `xlabel`, `values`, `top`, `title`, as there.

    Returns:
        The figure; pyplot does not know it.

    Raises:
        ValueError: if an array has another shape, or a number is not finite.

    Example:
        >>> figure = regret_bars({"SoftPT": [0.01, 0.02, 0.03], "TargetBayes": 0.0})
        >>> [float(bar.get_width()) for bar in figure.axes[0].patches]
        [0.02, 0.0]
    """
    return regret_bar_panels({"": bars}, **options)


def headline_bars(panels: Mapping[str, Mapping[str, ArrayLike]], **options: Any) -> Figure:
    """The answer in one figure: a few bars without groups, single coin beside mixture.

    Args:
        panels: heading of the panel -> name -> regret [seed] or a single number, in nats.
        options: `xlabel`, `values`, `top`, `title`, as in `regret_bar_panels`.

    Returns:
        The figure; pyplot does not know it.

    Raises:
        ValueError: if an array has another shape, or a number is not finite.

    Example:
        >>> figure = headline_bars({"Single coin": {"SoftPT": 0.01}, "Mixture": {"SoftPT": 1.0}})
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['SoftPT']
    """
    options.setdefault("groups", {})
    return regret_bar_panels(panels, **options)


@themed
def regret_split(
    names: Sequence[str],
    information: ArrayLike,
    fault: ArrayLike,
    *,
    xlabel: str = NATS,
    title: str | None = None,
) -> Figure:
    r"""Regret in its two parts: the price of not knowing tau, and the predictor's own fault.

    A bar is :math:`I(\tau; x) + \mathrm{KL}(\xi \,\|\, \pi)`, with the sum at its end.

    Args:
        names: predictors [predictor].
        information: I(tau; x) [predictor], or one number for all, in nats.
        fault: KL(ξ ‖ π) [predictor], in nats.
        xlabel: label of the value.
        title: heading.

    Example:
        >>> figure = regret_split(["Laplace", "always 1/2"], 1.5, [0.0, 8.0])
        >>> [float(bar.get_width()) for bar in figure.axes[0].patches]
        [1.5, 1.5, 0.0, 8.0]
    """
    if np.ndim(information) == 0:
        information = np.full(len(names), information, dtype=float)
    price = checks.array("information", information, f"predictor={len(names)}")
    own = checks.array("fault", fault, f"predictor={len(names)}")
    figure, axes = drawing.single(1.4 + 0.3 * len(names))
    rows = np.arange(len(names))
    axes.barh(rows, price, 0.7, color=GREY, label=r"not knowing: $I(\tau; x)$")
    fault_label = r"own fault: $\mathrm{KL}(\xi \,\|\, \pi)$"
    hatched = {"edgecolor": "white", "linewidth": 0, "hatch": "///"}
    axes.barh(rows, own, 0.7, left=price, color=RED, label=fault_label, **hatched)
    for row, whole in enumerate(price + own):
        drawing.note(axes, f"{whole:z.2f}", (whole, row), (6, 0), va="center")
    axes.set_yticks(rows, names)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set_xlabel(xlabel)
    drawing.legend_below(figure)
    return drawing.finish(figure, None, title)
