"""Curves: losses, regrets, and whatever depends on one number."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from . import checks, drawing
from .checks import Array
from .drawing import Point
from .style import DOTTED, MARKS, Style, curve_styles, themed


def _height(curves: Mapping[str, Array]) -> float:
    """Return the height in inches, with room for a legend of so many curves."""
    return 3.4 if len(curves) < 4 else 3.5 + 0.1 * len(curves)


# Thin lines at more places than this make an SVG heavy, and cannot be told apart.
_MANY_PLACES = 4000


def _repetitions(axes: Axes, curves: Mapping[str, Array], window: int = 1) -> dict[str, Style]:
    """Draw the median over repetitions thick, the quartiles as a band, each repetition thin."""
    styles = curve_styles(curves)
    few = sum(curve.size for curve in curves.values()) <= _MANY_PLACES
    for index, (name, curve) in enumerate(curves.items()):
        x = window * np.arange(curve.shape[1]) + (window + 1) / 2
        low, median, high = np.quantile(curve, [0.25, 0.5, 0.75], axis=0)
        drawing.curve(axes, x, median, name, styles[name], (index, len(curves)))
        if len(curve) > 1:
            colour = styles[name].colour
            drawing.area(axes, x, low, high, colour, 0.2)
            thin = [np.column_stack([x, one]) for one in curve] if few else []
            axes.add_collection(LineCollection(thin, colors=colour, linewidths=0.6, alpha=0.35))
    return styles


@themed
def loss_curves(
    losses: Mapping[str, ArrayLike],
    *,
    window: int = 1,
    optimum: float | None = None,
    top: float | None = None,
    title: str | None = None,
    ylabel: str = "log loss (nats per sequence)",
) -> Figure:
    """Loss over gradient steps: median thick, quartiles as a band, repetitions thin if few.

    Args:
        losses: name -> loss [seed, step] or [step], in nats.
        window: how many gradient steps each loss is the mean of; it is drawn at their middle.
        optimum: the lowest expected loss, drawn as a line.
        top: where to cut the loss axis, in nats.
        title: heading.
        ylabel: label of the loss.

    Example:
        >>> figure = loss_curves({"SoftPT": [[3.0, 2.0, 1.0], [3.0, 1.0, 1.0]]}, optimum=0.9)
        >>> figure.axes[0].get_lines()[0].get_ydata().tolist()
        [3.0, 1.5, 1.0]
    """
    if window < 1:
        raise ValueError(f"`window` must be at least 1, got {window}.")
    curves = checks.arrays("losses", losses, "seed step", pad=True)
    figure, axes = drawing.single(_height(curves))
    _repetitions(axes, curves, window)
    drawing.rules(axes, None if optimum is None else {"optimum": optimum})
    axes.set_ylim(top=top)
    axes.set(xlabel="gradient step", ylabel=ylabel)
    return drawing.finish(figure, axes, title)


@themed
def regret_curves(
    regret: Mapping[str, ArrayLike],
    *,
    cumulative: bool = True,
    marks: Mapping[str, float] | None = None,
    standard_error: Mapping[str, ArrayLike] | None = None,
    top: float | None = None,
    title: str | None = None,
) -> Figure:
    """Regret over the number of predictions: median thick, quartiles, repetitions thin if few.

    Args:
        regret: name -> regret [seed, time] or [time], in nats, after predictions 1 to time.
        cumulative: whether the regret is the running sum (it only sets the label).
        marks: label -> number of predictions, drawn as vertical lines; default `MARKS`.
        standard_error: name -> [time]; dotted lines run two standard errors from the median.
        top: where to cut the regret axis, in nats.
        title: heading.

    Example:
        >>> figure = regret_curves({"SoftPT": [0.1, 0.2], "TargetBayes": [0.0, 0.0]})
        >>> [line.get_label() for line in figure.axes[0].get_lines()]
        ['SoftPT', 'TargetBayes']
    """
    curves = checks.arrays("regret", regret, "seed time", pad=True)
    length = max(curve.shape[1] for curve in curves.values())
    figure, axes = drawing.single(_height(curves))
    styles = _repetitions(axes, curves)
    for name, value in (standard_error or {}).items():
        if name not in curves:
            raise ValueError(f"`standard_error` must name curves of `regret`, got {name!r}.")
        time = curves[name].shape[1]
        error = checks.array(f"standard_error[{name!r}]", value, f"time={time}")
        middle, colour = np.median(curves[name], axis=0), styles[name].colour
        for edge in (middle - 2 * error, middle + 2 * error):
            axes.plot(np.arange(1, time + 1), edge, color=colour, lw=0.9, ls=DOTTED)
    marks = MARKS if marks is None else marks
    drawing.rules(axes, None, {name: place for name, place in marks.items() if place <= length})
    axes.set_xlim(0, length)
    axes.set_ylim(top=top)
    kind = "cumulative" if cumulative else "instantaneous"
    axes.set(xlabel="predictions $n$", ylabel=f"{kind} regret (nats)")
    return drawing.finish(figure, axes, title)


@themed
def lines(
    x: ArrayLike,
    ys: Mapping[str, ArrayLike],
    *,
    xlabel: str,
    ylabel: str,
    xscale: str = "linear",
    yscale: str = "linear",
    hlines: Mapping[str, float] | None = None,
    vlines: Mapping[str, float] | None = None,
    marks: Mapping[str, Point] | None = None,
    title: str | None = None,
) -> Figure:
    """Curves over one axis: exact regrets, rates, entropies.

    Args:
        x: places [x].
        ys: name -> values [x]; NaN leaves a gap.
        xlabel: label of x, with its unit.
        ylabel: label of y, with its unit.
        xscale: "linear" or "log".
        yscale: "linear" or "log".
        hlines: label -> y, drawn as horizontal lines.
        vlines: label -> x, drawn as vertical lines.
        marks: label -> (x, y), points with a label.
        title: heading.

    Example:
        >>> figure = lines([1, 2], {"log n": [0.0, 0.69]}, xlabel="n", ylabel="nats")
        >>> figure.axes[0].get_lines()[0].get_xdata().tolist()
        [1.0, 2.0]
    """
    places = checks.array("x", x, "x")
    curves = checks.arrays("ys", ys, f"x={len(places)}", gaps=True)
    figure, axes = drawing.single(_height(curves))
    drawing.scales(axes, xscale, yscale)
    styles = curve_styles(curves)
    for index, (name, curve) in enumerate(curves.items()):
        drawing.curve(axes, places, curve, name, styles[name], (index, len(curves)))
    drawing.rules(axes, hlines, vlines)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    drawing.finish(figure, axes, title)
    drawing.marks(axes, marks)
    return figure
