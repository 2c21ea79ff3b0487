"""Numbers over a plane: predictions by counts, regrets by two numbers, attention weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from . import checks, drawing
from .checks import Array
from .drawing import Point
from .style import BLACK, DARKER, NATS, RAMP, curve_styles, themed


@themed
def prediction_maps(
    maps: Mapping[str, ArrayLike],
    *,
    spread: Mapping[str, ArrayLike] | None = None,
    spread_label: str = "spread inside a cell",
    title: str | None = None,
) -> Figure:
    """Prediction maps p(1 | k ones in n flips), one triangle for each predictor, side by side.

    Without spread more than four stand in rows of three.

    Args:
        maps: predictor -> probability of a one [n, k], with n and k from 0 and NaN where k > n.
        spread: predictor -> how far sequences with equal counts differ [n, k]; a second row.
        spread_label: what the spread is.
        title: heading.

    Example:
        >>> figure = prediction_maps({"Bayes": [[1 / 2, np.nan], [1 / 3, 2 / 3]]})
        >>> figure.axes[0].get_title(loc="left")
        'Bayes'
    """
    means = checks.arrays("maps", maps, "n k", gaps=True)
    kinds: list[tuple[str, dict[str, Array], Normalize, Any]] = [
        ("p(1 | k ones in n flips)", means, Normalize(0.0, 1.0), RAMP)
    ]
    if spread is not None:
        widths = checks.arrays("spread", spread, "n k", gaps=True)
        if missing := [name for name in widths if name not in means]:
            raise ValueError(f"`spread` must name predictors of `maps`, got {missing}.")
        most = max(float(np.nanmax(width, initial=0.0)) for width in widths.values())
        kinds.append((spread_label, widths, Normalize(0.0, most or 1.0), DARKER))
    count = len(means)
    # A single predictor has its spread beside it; many alone stand in rows of three.
    columns = 2 if count == 1 or (count == 4 and spread is None) else min(count, 3)
    if spread is not None and count > 3:
        raise ValueError(f"`maps` must be at most 3 where there is a spread, got {count}.")
    figure, grid = drawing.grid(
        len(kinds) * count,
        columns,
        2.2 if count < 3 else 1.8,
        xlabel="flips $n$",
        ylabel="ones $k$",
    )
    for kind, (label, values, norm, colours) in enumerate(kinds):
        line = grid[kind * count : (kind + 1) * count]
        for index, (axes, name) in enumerate(zip(line, means, strict=True)):
            if name not in values:
                axes.set_axis_off()
                grid[index].tick_params(labelbottom=True)
                grid[index].set_xlabel(axes.get_xlabel())
                continue
            cells = np.ma.masked_invalid(values[name].T)
            ones, flips = (np.arange(size) for size in cells.shape)
            axes.pcolormesh(flips, ones, cells, norm=norm, cmap=colours, rasterized=True)
            axes.set_title("" if kind else name)
            inside = [] if kind else [p for p in (0.25, 0.5, 0.75) if cells.min() < p < cells.max()]
            if inside and min(cells.shape) > 1:
                axes.contour(flips, ones, cells, inside, colors="white", linewidths=0.8)
        drawing.colourbar(figure, ScalarMappable(norm, colours), line, label=label)
    return drawing.finish(figure, None, title)


@themed
def prediction_scatter(
    bayes: ArrayLike, network: ArrayLike | Mapping[str, ArrayLike], *, title: str | None = None
) -> Figure:
    """A network's predictions over the exact Bayes predictor's, with the diagonal.

    Args:
        bayes: probabilities of a one [...], of any shape.
        network: probabilities of a one [...], the same shape; or name -> such an array.
        title: heading.

    Example:
        >>> figure = prediction_scatter([0.2, 0.8], {"LSTM": [0.25, 0.8]})
        >>> figure.axes[0].get_title(loc="left")
        'LSTM'
    """
    shape = np.shape(bayes)
    x = checks.array("bayes", np.ravel(bayes), "prediction")
    named = network if isinstance(network, Mapping) else {"network": network}
    styles = curve_styles(named)
    figure, grid = drawing.grid(
        len(named), 2, 2.8, xlabel="Bayes predicts", ylabel="the network predicts"
    )
    for axes, (name, values) in zip(grid, named.items(), strict=True):
        if np.shape(values) != shape:
            raise ValueError(
                f"`network[{name!r}]` must have the shape of `bayes`, {shape}, "
                f"got {np.shape(values)}."
            )
        y = checks.array(f"network[{name!r}]", np.ravel(values), "prediction")
        colour = styles[name].colour
        axes.scatter(x, y, s=5, color=colour, alpha=0.4, linewidth=0, rasterized=True)
        axes.plot([0, 1], [0, 1], color=BLACK, lw=0.8, ls=(0, (4, 2)))
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=name)
        largest = f"largest difference {np.abs(x - y).max():.3f}"
        axes.text(0.97, 0.04, largest, ha="right")
    return drawing.finish(figure, None, title)


@themed
def regret_heatmap(
    x: ArrayLike,
    y: ArrayLike,
    values: ArrayLike,
    *,
    xlabel: str,
    ylabel: str,
    marks: Mapping[str, Point] | None = None,
    levels: Sequence[float] | int = 8,
    xscale: str = "linear",
    yscale: str = "linear",
    label: str = NATS,
    title: str | None = None,
) -> Figure:
    """Regret over a plane, with contours and marked points.

    Args:
        x: places [x].
        y: places [y].
        values: regret [y, x], in nats.
        xlabel: label of x.
        ylabel: label of y.
        marks: label -> (x, y), for instance optima.
        levels: contour levels in nats, or how many.
        xscale: "linear" or "log".
        yscale: "linear" or "log".
        label: what the colour shows.
        title: heading.

    Example:
        >>> plane = [[1.0, 2.0], [2.0, 3.0]]
        >>> figure = regret_heatmap([1, 2], [1, 2], plane, xlabel="a", ylabel="b")
        >>> figure.axes[0].get_xlabel()
        'a'
    """
    columns, rows = checks.array("x", x, "x"), checks.array("y", y, "y")
    plane = checks.array("values", values, f"y={len(rows)} x={len(columns)}")
    figure, axes = drawing.single(4.0)
    drawing.scales(axes, xscale, yscale)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    drawn = axes.pcolormesh(columns, rows, plane, shading="nearest", rasterized=True)
    if min(plane.shape) > 1 and np.ptp(plane) > 0:
        contours = axes.contour(columns, rows, plane, levels, colors="white", linewidths=0.9)
        axes.clabel(contours, fontsize=10, fmt="%.4g")
    drawing.colourbar(figure, drawn, axes, label=label)
    drawing.finish(figure, None, title)
    drawing.marks(axes, marks)
    return figure


@themed
def attention_maps(maps: Mapping[str, ArrayLike], *, title: str | None = None) -> Figure:
    """Attention weights, one row for each map and one column for each head.

    The colour grows with the square root, so that small weights show; zeros stay white.

    Args:
        maps: heading -> attention weights [head, query, key] or [query, key], not negative.
        title: heading.

    Example:
        >>> figure = attention_maps({"before": np.eye(3), "after": np.eye(4)})
        >>> [axes.get_title(loc="left") for axes in figure.axes[:2]]
        ['before', 'after']
    """
    weights = checks.arrays("maps", maps, "head query key", pad=True)
    heads = {len(one) for one in weights.values()}
    if len(heads) > 1 or min(one.min() for one in weights.values()) < 0:
        raise ValueError(f"`maps` must agree on heads and not be negative, got {heads} heads.")
    columns = heads.pop()
    norm = PowerNorm(0.5, 0.0, max(float(one.max()) for one in weights.values()) or 1.0)
    cells = [(name, head) for name in weights for head in range(columns)]
    figure, grid = drawing.grid(
        len(cells),
        columns if columns > 1 else 2,
        4.2 / max(columns, 2) + 0.35,
        xlabel="key",
        ylabel="query",
        shared=False,
    )
    for axes, (name, head) in zip(grid, cells, strict=True):
        axes.imshow(np.ma.masked_equal(weights[name][head], 0.0), norm=norm, cmap=DARKER)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4, integer=True))
        if columns == 1:
            axes.set_title(name)
        else:
            axes.set_title(f"head {head + 1}" if name == cells[0][0] else "", fontsize=10)
            axes.set_ylabel("" if head else f"{name}\nquery")
    drawing.colourbar(figure, ScalarMappable(norm, DARKER), grid, label="attention")
    return drawing.finish(figure, None, title)
