"""What several figures draw: grids of axes, curves, reference lines, labels, legends."""

import itertools
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from .checks import Array
from .picture import Picture
from .style import BLACK, CARD, RED, RULE, WIDTH, Style

Point = tuple[float, float]


def single(height: float = 3.4) -> tuple[Picture, Axes]:
    """Return a figure with one axes, of this height in inches."""
    figure = Picture(figsize=(WIDTH, height))
    return figure, figure.subplots()


def grid(
    num_panels: int,
    columns: int,
    height: float,
    *,
    xlabel: str = "",
    ylabel: str = "",
    shared: bool = True,
) -> tuple[Picture, list[Axes]]:
    """Return a figure of `num_panels` axes, at most `columns` in a row of `height` inches."""
    columns = min(columns, num_panels)
    rows = -(-num_panels // columns)
    figure = Picture(figsize=(WIDTH, height * rows + 0.3))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)
    panels = list(axes.flat)
    for spare in panels[num_panels:]:
        spare.remove()
    for lowest in panels[num_panels - columns : num_panels]:
        lowest.tick_params(labelbottom=True)
        lowest.set_xlabel(xlabel)
    for first in panels[:num_panels:columns]:
        first.set_ylabel(ylabel)
    return figure, panels[:num_panels]


def curve(axes: Axes, x: Array, y: Array, name: str, style: Style, place: Point = (0, 1)) -> None:
    """Draw a named curve with a few markers, staggered by its `place`: (index, count)."""
    index, count = place
    every = max(1, len(x) // 8)
    axes.plot(
        x,
        y,
        label=name,
        color=style.colour,
        linestyle=style.linestyle,
        linewidth=2.0,
        marker=style.marker,
        markevery=(int(index * every / count), every),
        zorder=3,
    )


def area(axes: Axes, x: Array, low: Any, high: Array, colour: str, alpha: float) -> None:
    """Fill between two curves, at no more places than can be seen: an SVG has to stay small."""
    seen = np.unique(np.linspace(0, len(x) - 1, 100).round().astype(int))
    low, high = np.broadcast_to(low, x.shape)[seen], high[seen]
    axes.fill_between(x[seen], low, high, color=colour, alpha=alpha, linewidth=0, zorder=2)


def note(axes: Axes, text: str, place: Point, shift: Point, **options: Any) -> Annotation:
    """Write text `shift` points away from a place, on a white card."""
    return axes.annotate(
        text, place, xytext=shift, textcoords="offset points", bbox=CARD, **options
    )


def rules(
    axes: Axes, horizontal: Mapping[str, float] | None, vertical: Mapping[str, float] | None = None
) -> None:
    """Draw reference lines: the horizontal named in the legend, the vertical at their top."""
    dashes = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
    for index, (name, value) in enumerate((horizontal or {}).items()):
        axes.axhline(value, color=BLACK, lw=1.2, ls=dashes[index % 3], label=name, zorder=1)
    for name, value in (vertical or {}).items():
        axes.axvline(value, color=RULE, lw=0.9, ls=(0, (1, 1.5)), zorder=1)
        symbol = name.removeprefix("N_")  # as a subscript it would be too small on a phone
        top: Any = ("data", "axes fraction")
        note(axes, symbol, (value, 1.0), (2, 1), xycoords=top, ha="right", color=RULE)


def label_points(
    axes: Axes, points: Mapping[str, Point], others: Array | None = None, gap: float = 8.0
) -> None:
    """Write a label beside each point, on the first side where it covers no point and no label.

    Call it last: it looks at where the points and `others` [point, 2] have come to lie.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not points:
        return
    figure.draw_without_rendering()
    size = 5.0 * figure.dpi / 72
    middles = np.array([*points.values(), *(() if others is None else others)])
    taken = [
        Bbox.from_extents(*(middle - size), *(middle + size))
        for middle in axes.transData.transform(middles)
    ]
    sides = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    for name, place in points.items():
        for attempt, (right, up) in enumerate([*sides, sides[0]]):
            anchor = ("center", "left", "right")[right], ("center", "bottom", "top")[up]
            label = note(
                axes, name, place, (gap * right, gap * up), ha=anchor[0], va=anchor[1], zorder=6
            )
            box = label.get_window_extent()
            inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            free = inside and axes.bbox.containsy(box.y1) and not box.count_overlaps(taken)
            if free or attempt == len(sides):
                taken.append(box)
                break
            label.remove()


def legend_below(figure: Figure) -> None:
    """Add a legend under the axes, with as many columns as there is room for."""
    named = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles, labels = ([*itertools.chain(*one)] for one in zip(*named, strict=True))
    letters = [len(re.sub(r"\\[a-z]+|[\\${}_^]", "", label)) for label in labels]
    # In points: the line and its gap, letters of six on average, the gap to the next column.
    columns = int((72 * WIDTH + 10) // (34 + 6 * max(letters) + 12))
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(max(columns, 1), len(labels)),
        columnspacing=1.2,
    )


def finish(figure: Figure, axes: Axes | None, title: str | None) -> Figure:
    """Add the legend of these axes, inside if it is short, and the title; return the figure."""
    labels = axes.get_legend_handles_labels()[1] if axes else []
    if axes and 0 < len(labels) < 4 and max(map(len, labels)) < 24:
        axes.legend()
    elif labels:
        legend_below(figure)
    if title:
        figure.suptitle(textwrap.fill(title, 58), x=0.01, ha="left")
    return figure


def colourbar(figure: Picture, mappable: ScalarMappable, axes: Any, **options: Any) -> None:
    """Add a thin labelled colour bar; colours are numbers in this figure."""
    figure.colours_are_numbers = True
    bar = figure.colorbar(mappable, ax=axes, aspect=28, pad=0.02, **options)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def scales(axes: Axes, xscale: str, yscale: str) -> None:
    """Set the scales of both axes."""
    for name, scale in (("xscale", xscale), ("yscale", yscale)):
        if scale not in ("linear", "log"):
            raise ValueError(f'`{name}` must be "linear" or "log", got {scale!r}.')
    axes.set(xscale=xscale, yscale=yscale)


def marks(axes: Axes, marks: Mapping[str, Point] | None) -> None:
    """Mark points with a ring and a label that is readable on any ground."""
    for place in (marks or {}).values():
        axes.plot(*place, "o", ms=7, mfc="white", mec=RED, mew=1.8, zorder=5)
    label_points(axes, marks or {})
