"""The book's figures: arrays in, matplotlib figures out.

One visual language for all pages: a method, a baseline or a network has the same colour, marker
and line style everywhere (`METHOD_STYLE`). They survive colour blindness, black-and-white print and
the dark theme, which inverts a picture and turns its hues back (the tests measure it).
Every function returns its figure and closes it in pyplot, so that a notebook shows it once: as the
last expression of its cell. Style settings hold inside a function only.
"""

import functools
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike, NDArray

P = ParamSpec("P")
Array = NDArray[np.float64]
LineStyle = str | tuple[int, tuple[int, ...]]
Point = tuple[float, float]

# Found by a search: on white and inverted, with full sight and three kinds of colour blindness,
# every pair differs by more than twice what is noticeable at the size of a bar or a legend line.
BLACK, GREY, BLUE, RED = "#000000", "#929292", "#00289f", "#b32c00"
OCHRE, TEAL, PINK = "#af8f16", "#156c65", "#d969d7"
DOTTED, DASHDOT, DASHDOTDOT = (0, (1, 1)), "-.", (0, (5, 1, 1, 1, 1, 1))


class Style(NamedTuple):
    """How one thing is drawn: lines take colour, marker and linestyle, bars colour and hatch."""

    colour: str
    marker: str
    linestyle: LineStyle
    hatch: str = ""


# Colours and markers tell the members of a group apart, line styles and hatches the groups.
METHOD_STYLE: dict[str, Style] = {
    "HardPT": Style(OCHRE, "s", "-"),
    "SimplexPT": Style(TEAL, "^", "-"),
    "RealPT": Style(PINK, "D", "-"),
    "SoftPT": Style(BLUE, "o", "-"),
    "Memory": Style(RED, "H", "-"),
    "EmbedWT": Style(OCHRE, "<", "--", "///"),
    "UnembedWT": Style(TEAL, ">", "--", "///"),
    "Un+EmbedWT": Style(PINK, "d", "--", "///"),
    "FullWT": Style(BLUE, "P", "--", "///"),
    "LoRAWT": Style(RED, "X", "--", "///"),
    "TargetBayes": Style(BLACK, "*", DOTTED, "..."),
    "EvalBayes": Style(RED, "p", DOTTED, "..."),
    "PreBayes": Style(BLUE, "v", DASHDOT, "..."),
    "PreBayesPT": Style(TEAL, "h", DASHDOT, "..."),
    "NoTuning": Style(GREY, "x", DASHDOTDOT, "..."),
    "RandomPF": Style(PINK, "+", DASHDOTDOT, "..."),
    "Oracle": Style(OCHRE, "1", DOTTED, "..."),
    "LSTM": Style(OCHRE, "o", "--"),
    "Transformer": Style(BLUE, "s", "-", "xxx"),
}
GROUPS: dict[str, tuple[str, ...]] = {
    "prefix methods": ("HardPT", "SimplexPT", "RealPT", "SoftPT", "Memory"),
    "weight methods": ("EmbedWT", "UnembedWT", "Un+EmbedWT", "FullWT", "LoRAWT"),
    "baselines": (
        *("TargetBayes", "EvalBayes", "PreBayes", "PreBayesPT"),
        *("NoTuning", "RandomPF", "Oracle"),
    ),
}
NETWORKS = ("LSTM", "Transformer")


class Stranger(str):
    """The name of a method or a network that these tables do not know: drawn grey, in bars last."""


MARKS = {"N_tune": 50, "N_train": 100, "N_eval": 200}
NATS = "cumulative regret (nats)"

_OTHERS = (
    Style(BLUE, "o", "-"),
    Style(OCHRE, "s", "--"),
    Style(TEAL, "^", DASHDOT),
    Style(PINK, "D", DOTTED),
    Style(RED, "v", DASHDOTDOT),
    Style(GREY, "P", (0, (8, 2))),
)
_STRANGERS = tuple(style._replace(colour="#606060") for style in _OTHERS)
_HALO = [withStroke(linewidth=3.0, foreground="white")]
# Where more is lighter, the ramp stops before it fades on white; where more is darker, zero may.
_RAMP = ListedColormap(plt.get_cmap("plasma")(np.linspace(0.0, 0.64, 256)), "ramp")
_DARKER = "magma_r"
_SLATE, _RULE, _PALE = "#5a6b7b", "#606060", "#c4c4c4"
_RC: dict[Any, Any] = {
    "figure.figsize": (7.0, 4.0),
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "figure.labelsize": 11,
    "figure.titlesize": 12,
    "font.size": 10,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "legend.handlelength": 3.0,
    "hatch.linewidth": 0.6,
    "image.cmap": "cividis",
}


def _themed(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw with the book's style, close the figure in pyplot, document what all figures share."""

    @functools.wraps(draw)
    def themed(*args: P.args, **kwargs: P.kwargs) -> Figure:
        before = set(plt.get_fignums())
        with plt.rc_context(_RC):
            try:
                return draw(*args, **kwargs)
            finally:
                for number in set(plt.get_fignums()) - before:
                    plt.close(number)

    shared = """

Returns:
    The figure, closed in pyplot.

Raises:
    ValueError: if an array has another shape, or a number that must be finite is not.
"""
    themed.__doc__ = inspect.cleandoc(draw.__doc__ or "") + shared
    return themed


def _array(name: str, value: Any, axes: str, *, pad: bool = False, gaps: bool = False) -> Array:
    """Return `value` as floats with these axes ("seed time", "tau=11"); `pad` adds the first."""
    expected = f"[{', '.join(axes.split())}]"
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be numbers of shape {expected}, {error}.") from error
    sizes = [axis.partition("=")[2] for axis in axes.split()]
    if pad and array.ndim == len(sizes) - 1:
        array = array[None]
    if array.ndim != len(sizes) or not all(
        length == int(size) if size else length > 0
        for length, size in zip(array.shape, sizes, strict=True)
    ):
        raise ValueError(f"`{name}` must have shape {expected}, got {np.shape(value)}.")
    if not gaps and not np.isfinite(array).all():
        raise ValueError(
            f"`{name}` must be finite, got {(~np.isfinite(array)).sum()} that are not."
        )
    return array


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Return `value` if it maps at least one label to something."""
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"`{name}` must map at least one label to its arrays, got {value!r:.60}.")
    return value


def _arrays(name: str, value: Any, axes: str, **options: bool) -> dict[str, Array]:
    """Return a mapping from labels to arrays, each checked by `_array`."""
    items = _mapping(name, value).items()
    return {label: _array(f"{name}[{label!r}]", one, axes, **options) for label, one in items}


def _style(name: str, index: int = 0) -> Style | None:
    """Return the style of a name, if it has one of its own.

    "SoftPT, LSTM" has the method's colour and marker, and the network's line style and hatch.
    """
    known = [word for word in re.split(r"[\s,()/:]+", name) if word in METHOD_STYLE]
    methods = [METHOD_STYLE[word] for word in known if word not in NETWORKS]
    networks = [METHOD_STYLE[word] for word in known if word in NETWORKS]
    if methods and networks:
        return methods[0]._replace(linestyle=networks[0].linestyle, hatch=networks[0].hatch)
    return (methods + networks + [None])[0]


def _curve_style(name: str, index: int) -> Style:
    """Return the style of a curve; names without one take turns."""
    if isinstance(name, Stranger):
        return _STRANGERS[index % len(_STRANGERS)]
    return _style(name) or _OTHERS[index % len(_OTHERS)]


def _shade(place: float, most: float) -> Any:
    """Return a colour of the ramp for a count between 0 and `most`."""
    return _RAMP(place / max(most, 1))


def _grid(
    num_panels: int,
    columns: int,
    height: float,
    *,
    xlabel: str = "",
    ylabel: str = "",
    shared: bool = True,
) -> tuple[Figure, list[Axes]]:
    """Return a figure of `num_panels` axes, at most `columns` in a row of `height` inches."""
    columns = min(columns, num_panels)
    rows = -(-num_panels // columns)
    size = (7.0, height * rows + 0.3)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, sharex=shared, sharey=shared
    )
    panels = list(axes.flat)
    for spare in panels[num_panels:]:
        spare.remove()
    for lowest in panels[num_panels - columns : num_panels]:
        lowest.tick_params(labelbottom=True)
        lowest.set_xlabel(xlabel)
    for first in panels[:num_panels:columns]:
        first.set_ylabel(ylabel)
    return figure, panels[:num_panels]


def _curve(axes: Axes, x: Array, y: Array, name: str, index: int, count: int) -> str:
    """Draw one of `count` named curves, with a few staggered markers; return its colour."""
    style = _curve_style(name, index)
    every = max(1, len(x) // 8)
    axes.plot(
        x,
        y,
        label=name,
        color=style.colour,
        linestyle=style.linestyle,
        linewidth=2.0,
        marker=style.marker,
        markevery=(index * every // count, every),
        zorder=3,
    )
    return style.colour


def _repetitions(axes: Axes, curves: Mapping[str, Array], window: int = 1) -> None:
    """Draw the median over repetitions thick, the quartiles as a band, each repetition thin."""
    for index, (name, curve) in enumerate(curves.items()):
        x = window * np.arange(curve.shape[1]) + (window + 1) / 2
        low, median, high = np.quantile(curve, [0.25, 0.5, 0.75], axis=0)
        colour = _curve(axes, x, median, name, index, len(curves))
        if len(curve) > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0, zorder=2)
            thin = [np.column_stack([x, one]) for one in curve]
            axes.add_collection(LineCollection(thin, colors=colour, linewidths=0.6, alpha=0.35))


def _note(axes: Axes, text: str, place: Point, shift: Point, **options: Any) -> Annotation:
    """Write text `shift` points away from a place, with a white halo."""
    return axes.annotate(
        text, place, xytext=shift, textcoords="offset points", path_effects=_HALO, **options
    )


def _rules(
    axes: Axes, horizontal: Mapping[str, float] | None, vertical: Mapping[str, float] | None = None
) -> None:
    """Draw reference lines: the horizontal named in the legend, the vertical at their top."""
    dashes = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
    for index, (name, value) in enumerate((horizontal or {}).items()):
        axes.axhline(value, color=BLACK, lw=1.2, ls=dashes[index % 3], label=name, zorder=1)
    for name, value in (vertical or {}).items():
        axes.axvline(value, color=_RULE, lw=0.9, ls=(0, (1, 1.5)), zorder=1)
        symbol = re.sub(r"^(\w)_(\w+)$", r"$\1_{\\mathrm{\2}}$", name)
        top: Any = ("data", "axes fraction")
        _note(axes, symbol, (value, 1.0), (2, 1), xycoords=top, ha="right", color=_RULE)


def _label_points(
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
            label = _note(
                axes, name, place, (gap * right, gap * up), ha=anchor[0], va=anchor[1], zorder=6
            )
            box = label.get_window_extent()
            inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            free = inside and axes.bbox.containsy(box.y1) and not box.count_overlaps(taken)
            if free or attempt == len(sides):
                taken.append(box)
                break
            label.remove()


def _finish(figure: Figure, axes: Axes | None, title: str | None) -> Figure:
    """Add the legend, inside the axes if it is short, and the title; return the figure."""
    handles, labels = axes.get_legend_handles_labels() if axes else ([], [])
    if axes and len(labels) > 5:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, columnspacing=1.2)
    elif axes and labels:
        axes.legend()
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure


@_themed
def loss_curves(
    losses: Mapping[str, ArrayLike],
    *,
    window: int = 1,
    optimum: float | None = None,
    top: float | None = None,
    title: str | None = None,
    ylabel: str = "log loss (nats per sequence)",
) -> Figure:
    """Loss over gradient steps: median thick, quartiles as a band, each repetition thin.

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
    curves = _arrays("losses", losses, "seed step", pad=True)
    figure, axes = plt.subplots(figsize=(7.0, 4.6 if len(curves) > 5 else 4.0))
    _repetitions(axes, curves, window)
    _rules(axes, None if optimum is None else {"optimum": optimum})
    axes.set_ylim(top=top)
    axes.set(xlabel="gradient step", ylabel=ylabel)
    return _finish(figure, axes, title)


@_themed
def regret_curves(
    regret: Mapping[str, ArrayLike],
    *,
    cumulative: bool = True,
    marks: Mapping[str, float] | None = None,
    standard_error: Mapping[str, ArrayLike] | None = None,
    top: float | None = None,
    title: str | None = None,
) -> Figure:
    """Regret over the number of predictions: median thick, quartiles, each repetition thin.

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
    curves = _arrays("regret", regret, "seed time", pad=True)
    length = max(curve.shape[1] for curve in curves.values())
    figure, axes = plt.subplots(figsize=(7.0, 4.6 if len(curves) > 5 else 4.0))
    _repetitions(axes, curves)
    for name, value in (standard_error or {}).items():
        if name not in curves:
            raise ValueError(f"`standard_error` must name curves of `regret`, got {name!r}.")
        time = curves[name].shape[1]
        error = _array(f"standard_error[{name!r}]", value, f"time={time}")
        middle, colour = np.median(curves[name], axis=0), _curve_style(name, [*curves].index(name))
        for edge in (middle - 2 * error, middle + 2 * error):
            axes.plot(np.arange(1, time + 1), edge, color=colour.colour, lw=0.9, ls=DOTTED)
    marks = MARKS if marks is None else marks
    _rules(axes, None, {name: place for name, place in marks.items() if place <= length})
    axes.set_xlim(0, length)
    axes.set_ylim(top=top)
    kind = "cumulative" if cumulative else "instantaneous"
    axes.set(xlabel="predictions $n$", ylabel=f"{kind} regret (nats)")
    return _finish(figure, axes, title)


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


def _bar(axes: Axes, row: int, name: str, seeds: Array, top: float, value: bool) -> None:
    """Draw one horizontal bar, cut at `top`, with its whisker and its value."""
    style = _style(name) or Style(_SLATE, "", "-")
    if isinstance(name, Stranger):
        style = _STRANGERS[0]
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
    if low < high and median <= top:
        whisker = [[median - low], [min(high, top) - median]]
        axes.errorbar(median, row, xerr=whisker, color=BLACK, lw=1.2, capsize=2.5)
    if value:
        text = f"{median:z.2f}" + (" →" if median > top else "")
        _note(axes, text, (min(max(median, high, 0.0), top), row), (4, 0), va="center")


@_themed
def regret_bar_panels(
    panels: Mapping[str, Mapping[str, ArrayLike]],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    xlabel: str = NATS,
    values: bool = True,
    top: float | None = None,
    title: str | None = None,
) -> Figure:
    """Panels of horizontal regret bars side by side, with the same rows and the same scale.

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
        heading: _arrays(f"panels[{heading!r}]", bars, "seed", pad=True)
        for heading, bars in _mapping("panels", panels).items()
    }
    rows = _bar_rows(dict.fromkeys(name for bars in arrays.values() for name in bars), groups)
    every = [array for bars in arrays.values() for array in bars.values()]
    figure, grid = _grid(len(arrays), len(arrays), 0.7 + 0.26 * len(rows))
    figure.supxlabel(xlabel)
    room = 1.05 + 0.12 * len(arrays) * values
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
    return _finish(figure, None, title)


def regret_bars(bars: Mapping[str, ArrayLike], **options: Any) -> Figure:
    """One panel of `regret_bar_panels`; it takes the same options.

    Args:
        bars: name -> regret [seed] or a single number, in nats.
        options: `groups`, `xlabel`, `values`, `top`, `title`, as there.

    Returns:
        The figure, closed in pyplot.

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
        The figure, closed in pyplot.

    Raises:
        ValueError: if an array has another shape, or a number is not finite.

    Example:
        >>> figure = headline_bars({"Single coin": {"SoftPT": 0.01}, "Mixture": {"SoftPT": 1.0}})
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['SoftPT']
    """
    options.setdefault("groups", {})
    return regret_bar_panels(panels, **options)


@_themed
def sorted_hard_prefixes(
    tokens: ArrayLike,
    loss: ArrayLike,
    *,
    reference: Mapping[str, float] | None = None,
    ylabel: str = "log loss (nats per sequence)",
    title: str | None = None,
) -> Figure:
    """The loss of every hard prefix, sorted, best and worst named; colour and marker count ones.

    Args:
        tokens: prefixes [prompt, length].
        loss: their losses [prompt], in nats per sequence.
        reference: label -> loss, drawn as horizontal lines.
        ylabel: label of the loss.
        title: heading.

    Example:
        >>> figure = sorted_hard_prefixes([[0], [1]], [2.0, 1.0])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['best: 1', 'worst: 0']
    """
    prefixes = _array("tokens", tokens, "prompt length").astype(int)
    losses = _array("loss", loss, f"prompt={len(prefixes)}")
    order = np.argsort(losses, kind="stable")
    prefixes, losses, rank = prefixes[order], losses[order], np.arange(1.0, len(order) + 1)
    ones = (prefixes == 1).sum(axis=1)
    figure, axes = plt.subplots()
    axes.plot(rank, losses, color=GREY, lw=0.8, zorder=1)
    for count in np.unique(ones).tolist():
        chosen = ones == count
        axes.scatter(
            rank[chosen],
            losses[chosen],
            s=30,
            color=_shade(count, int(ones.max())),
            marker="osD^vP*X"[count % 8],
            label=f"{count} one" + "s" * (count != 1),
            zorder=2,
        )
    axes.margins(y=0.12)
    _rules(axes, reference)
    axes.set(xlabel=f"the {len(order)} prefixes, sorted by loss", ylabel=ylabel)
    _finish(figure, axes, title)
    words = ["".join(map(str, prefix)) for prefix in prefixes]
    first, last = (1.0, float(losses[0])), (float(rank[-1]), float(losses[-1]))
    ends = {f"best: {words[0]}": first, f"worst: {words[-1]}": last}
    _label_points(axes, ends, np.column_stack([rank, losses]))
    return figure


def _colourbar(figure: Figure, mappable: ScalarMappable, axes: Any, **options: Any) -> None:
    """Add a thin labelled colour bar."""
    bar = figure.colorbar(mappable, ax=axes, aspect=28, pad=0.02, **options)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


@_themed
def state_components(
    points: ArrayLike, steps: ArrayLike, tau: ArrayLike, *, title: str | None = None
) -> Figure:
    """Internal states on two principal components, coloured by step and by the coin's bias.

    Args:
        points: whitened components [sequence, time, component=2].
        steps: the step n of each state [time].
        tau: the probability of token 1 of each sequence [sequence].
        title: heading.

    Example:
        >>> figure = state_components(np.zeros((3, 4, 2)), [0, 1, 2, 3], [0.1, 0.5, 0.9])
        >>> [len(axes.collections[0].get_offsets()) for axes in figure.axes[:2]]
        [12, 12]
    """
    states = _array("points", points, "sequence time component=2")
    step = _array("steps", steps, f"time={states.shape[1]}")
    bias = _array("tau", tau, f"sequence={states.shape[0]}")
    figure, grid = _grid(2, 2, 3.6, xlabel="component 1", ylabel="component 2")
    colours = {"step $n$": np.tile(step, len(bias)), r"bias $\tau$": np.repeat(bias, len(step))}
    for axes, (label, colour) in zip(grid, colours.items(), strict=True):
        drawn = axes.scatter(*states.reshape(-1, 2).T, c=colour, cmap=_RAMP, s=4, rasterized=True)
        _colourbar(figure, drawn, axes, location="top", label=label)
    return _finish(figure, None, title)


@_themed
def prefix_trajectories(
    background: ArrayLike,
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    title: str | None = None,
) -> Figure:
    """What a prefix does to the state: pretraining states grey, target sequences coloured.

    Triangles are the states while the prefix is read, one path per repetition; the red circle is
    the state after the prefix, from which the target sequences start.

    Args:
        background: components of pretraining states [sequence, time, component=2].
        panels: method -> (prefix states [seed, prefix, component=2],
            target sequences' states [sequence, time, component=2]).
        title: heading.

    Example:
        >>> states = np.zeros((5, 4, 2))
        >>> figure = prefix_trajectories(states, {"SoftPT": (states[:2], states[:3])})
        >>> figure.axes[0].get_title(loc="left")
        'SoftPT'
    """
    ground = _array("background", background, "sequence time component=2").reshape(-1, 2)
    columns = 2 if len(_mapping("panels", panels)) in (2, 4) else 3
    figure, grid = _grid(len(panels), columns, 2.8, xlabel="component 1", ylabel="component 2")
    for index, (axes, (name, pair)) in enumerate(zip(grid, panels.items(), strict=True)):
        if len(pair) != 2:
            raise ValueError(f"`panels[{name!r}]` must be a pair (prefix, content).")
        prefix = _array(f"panels[{name!r}][0]", pair[0], "seed prefix component=2")
        content = _array(f"panels[{name!r}][1]", pair[1], "sequence time component=2")
        colour = _curve_style(name, index).colour
        axes.plot(*ground.T, "o", ms=1.4, mew=0, color=_PALE, rasterized=True, zorder=0)
        axes.add_collection(LineCollection(list(content), colors=colour, linewidths=0.8, alpha=0.6))
        axes.add_collection(LineCollection(list(prefix), colors=BLACK, linewidths=0.6, zorder=3))
        axes.plot(*prefix[:, :-1].reshape(-1, 2).T, "^", ms=4.5, color=BLACK, zorder=3)
        axes.plot(*prefix[:, -1].T, "o", ms=7, mfc="none", mec=RED, mew=1.8, zorder=4)
        axes.autoscale()
        axes.set_title(name)
    keys = [
        Line2D([], [], ls="", marker="o", ms=4, color=_PALE, label="pretraining states"),
        Line2D([], [], color=_RULE, lw=1.2, label="target sequences"),
        Line2D([], [], color=BLACK, lw=0.6, marker="^", ms=4.5, label="prefix states"),
        Line2D([], [], ls="", marker="o", mfc="none", mec=RED, mew=1.8, label="after the prefix"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=4, handlelength=1.5)
    return _finish(figure, None, title)


@_themed
def posterior_flips(
    grid: ArrayLike, densities: ArrayLike, tokens: ArrayLike, *, title: str | None = None
) -> Figure:
    """The posterior over tau, flip by flip, each beside the one before it (dotted).

    Args:
        grid: values of tau [tau].
        densities: posterior densities [step, tau], one after each flip; with one row more than
            there are flips, the first row is the prior.
        tokens: the flips [step].
        title: heading.

    Example:
        >>> figure = posterior_flips([0.0, 0.5, 1.0], [[1, 1, 1], [0, 1, 2]], [1])
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['prior', 'after 1']
    """
    taus = _array("grid", grid, "tau")
    curves = _array("densities", densities, f"step tau={len(taus)}")
    flips = _array("tokens", tokens, "step").astype(int)
    prior = len(curves) - len(flips)
    if prior not in (0, 1):
        raise ValueError(
            f"`tokens` must have shape [{len(curves)}], or [{len(curves) - 1}] where the first row "
            f"of `densities` is the prior, got {flips.shape}."
        )
    figure, panels = _grid(len(curves), 4, 1.5, xlabel=r"bias $\tau$", ylabel="density")
    for row, axes in enumerate(panels):
        axes.plot(taus, curves[max(row - 1, 0)], color=_RULE, lw=1.2, ls=DOTTED)
        axes.plot(taus, curves[row], color=BLUE, lw=2.0)
        axes.fill_between(taus, curves[row], color=BLUE, alpha=0.15, linewidth=0)
        seen = "".join(map(str, flips[: row + 1 - prior]))
        seen = seen if len(seen) <= 10 else "…" + seen[-9:]
        axes.set_title(f"after {seen}" if seen else "prior", fontsize=10)
    panels[0].set_yticks([])
    panels[0].set_ylim(0, 1.05 * curves.max())
    return _finish(figure, None, title)


@_themed
def posterior_densities(
    grid: ArrayLike,
    densities: Mapping[str, ArrayLike],
    *,
    atoms: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    title: str | None = None,
) -> Figure:
    """Shapes of posteriors over tau: densities as curves, atoms as stems on an axis of their own.

    Args:
        grid: values of tau [tau].
        densities: label -> density [tau]; may be empty where there are atoms.
        atoms: label -> (locations [atom], probabilities [atom]).
        title: heading.

    Example:
        >>> figure = posterior_densities([0, 1], {"flat": [1, 1]}, atoms={"coin": ([0.2], [1.0])})
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['density', 'probability']
    """
    taus, atoms = _array("grid", grid, "tau"), atoms or {}
    curves = _arrays("densities", densities, f"tau={len(taus)}") if densities or not atoms else {}
    figure, axes = plt.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        colour = _curve(axes, taus, curve, name, index, len(curves))
        axes.fill_between(taus, curve, color=colour, alpha=0.12, linewidth=0)
    axes.set(xlabel=r"bias $\tau$", ylabel="density" if curves else "probability")
    axes.set_ylim(bottom=0)
    stems = axes.twinx() if curves and atoms else axes
    for index, (name, (locations, weights)) in enumerate(atoms.items()):
        place = _array(f"atoms[{name!r}][0]", locations, "atom")
        mass = _array(f"atoms[{name!r}][1]", weights, f"atom={len(place)}")
        style = _curve_style(name, index + len(curves))
        # The first stems are the widest, so that later ones at the same place do not hide them.
        width = 2.0 + 3.0 * (len(atoms) - 1 - index)
        stems.vlines(place, 0, mass, colors=style.colour, lw=width, alpha=0.8)
        stems.plot(place, mass, style.marker, ms=8, color=style.colour, label=name)
    if atoms:
        stems.set_ylim(bottom=0)
    if stems is not axes:
        stems.set_ylabel("probability")
        stems.spines["right"].set_visible(True)
    figure.legend(loc="outside lower center", ncols=3)
    return _finish(figure, None, title)


@_themed
def prompt_posteriors(
    grid: ArrayLike, densities: ArrayLike, heads: ArrayLike, *, title: str | None = None
) -> Figure:
    r"""The posterior after each prompt: equal counts of ones give equal shapes.

    Every prompt is drawn, and the label at the peak says how many prompts share the count.

    Args:
        grid: values of tau [tau].
        densities: posterior densities [prompt, tau].
        heads: number of ones in each prompt [prompt].
        title: heading.

    Example:
        >>> figure = prompt_posteriors([0, 1], [[2, 0], [1, 1], [1, 1]], [0, 1, 1])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['0 ones\n1 prompt', '1 one\n2 prompts']
    """
    taus = _array("grid", grid, "tau")
    curves = _array("densities", densities, f"prompt tau={len(taus)}")
    counts = _array("heads", heads, f"prompt={len(curves)}").astype(int)
    figure, axes = plt.subplots()
    for count in np.unique(counts).tolist():
        group = curves[counts == count]
        shapes = [np.column_stack([taus, one]) for one in group]
        shade = _shade(count, int(counts.max()))
        axes.add_collection(LineCollection(shapes, colors=[shade], linewidths=1.8))
        peak = int(group[0].argmax())
        side = {0: "left", len(taus) - 1: "right"}.get(peak, "center")
        text = f"{count} one{'s' * (count != 1)}\n{len(group)} prompt{'s' * (len(group) != 1)}"
        _note(axes, text, (taus[peak], group[0][peak]), (0, 3), ha=side, color=shade)
    axes.autoscale()
    axes.set_ylim(0, 1.16 * curves.max())
    axes.set(xlabel=r"bias $\tau$", ylabel="posterior density")
    return _finish(figure, None, title)


@_themed
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
    means = _arrays("maps", maps, "n k", gaps=True)
    kinds: list[tuple[str, dict[str, Array], Normalize, Any]] = [
        ("p(1 | k ones in n flips)", means, Normalize(0.0, 1.0), _RAMP)
    ]
    if spread is not None:
        widths = _arrays("spread", spread, "n k", gaps=True)
        if missing := [name for name in widths if name not in means]:
            raise ValueError(f"`spread` must name predictors of `maps`, got {missing}.")
        most = max(float(np.nanmax(width, initial=0.0)) for width in widths.values())
        kinds.append((spread_label, widths, Normalize(0.0, most or 1.0), _DARKER))
    count = len(means)
    # A single predictor has its spread beside it; many alone need two rows, or titles touch.
    columns = 2 if count == 1 else 3 if count > 4 and spread is None else count
    figure, grid = _grid(
        len(kinds) * count,
        columns,
        3.0 if count < 3 else 2.5,
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
        _colourbar(figure, ScalarMappable(norm, colours), line, label=label)
    return _finish(figure, None, title)


def prediction_map(
    probabilities: ArrayLike, spread: ArrayLike | None = None, *, name: str = "", **options: Any
) -> Figure:
    """One prediction map p(1 | k ones in n flips), with the spread inside each cell beside it.

    Args:
        probabilities: probability of a one [n, k], with n and k from 0 and NaN where k > n.
        spread: how far sequences with equal counts differ [n, k].
        name: the predictor.
        options: `spread_label` and `title`, as in `prediction_maps`.

    Returns:
        The figure, closed in pyplot.

    Raises:
        ValueError: if an array has another shape.

    Example:
        >>> figure = prediction_map([[1 / 2, np.nan], [1 / 3, 2 / 3]], name="Bayes")
        >>> len(figure.axes)  # the map and its colour bar
        2
    """
    both = None if spread is None else {name: spread}
    return prediction_maps({name: probabilities}, spread=both, **options)


@_themed
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
    x = _array("bayes", np.ravel(bayes), "prediction")
    named = network if isinstance(network, Mapping) else {"network": network}
    figure, grid = _grid(len(named), 3, 3.8, xlabel="Bayes predicts", ylabel="the network predicts")
    for index, (axes, (name, values)) in enumerate(zip(grid, named.items(), strict=True)):
        if np.shape(values) != shape:
            raise ValueError(
                f"`network[{name!r}]` must have the shape of `bayes`, {shape}, "
                f"got {np.shape(values)}."
            )
        y = _array(f"network[{name!r}]", np.ravel(values), "prediction")
        colour = _curve_style(name, index).colour
        axes.scatter(x, y, s=5, color=colour, alpha=0.4, linewidth=0, rasterized=True)
        axes.plot([0, 1], [0, 1], color=BLACK, lw=0.8, ls=(0, (4, 2)))
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=name)
        largest = f"largest difference {np.abs(x - y).max():.3f}"
        axes.text(0.97, 0.04, largest, ha="right", fontsize=9)
    return _finish(figure, None, title)


@_themed
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
    places = _array("x", x, "x")
    curves = _arrays("ys", ys, f"x={len(places)}", gaps=True)
    figure, axes = plt.subplots()
    _scales(axes, xscale, yscale)
    for index, (name, curve) in enumerate(curves.items()):
        _curve(axes, places, curve, name, index, len(curves))
    _rules(axes, hlines, vlines)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    _finish(figure, axes, title)
    _marks(axes, marks)
    return figure


def _scales(axes: Axes, xscale: str, yscale: str) -> None:
    """Set the scales of both axes."""
    for name, scale in (("xscale", xscale), ("yscale", yscale)):
        if scale not in ("linear", "log"):
            raise ValueError(f'`{name}` must be "linear" or "log", got {scale!r}.')
    axes.set(xscale=xscale, yscale=yscale)


def _marks(axes: Axes, marks: Mapping[str, Point] | None) -> None:
    """Mark points with a ring and a label that is readable on any ground."""
    for place in (marks or {}).values():
        axes.plot(*place, "o", ms=7, mfc="white", mec=RED, mew=1.8, zorder=5)
    _label_points(axes, marks or {})


def kl_over_training(
    steps: ArrayLike,
    kl: Mapping[str, ArrayLike],
    *,
    yardstick: tuple[str, float] | None = None,
    title: str | None = None,
) -> Figure:
    """KL(ξ ‖ π) of networks from the Bayes predictor over training, both axes logarithmic.

    Args:
        steps: gradient steps [step], positive.
        kl: network -> divergence [step], in nats per sequence.
        yardstick: (label, nats), drawn as a line.
        title: heading.

    Returns:
        The figure, closed in pyplot.

    Raises:
        ValueError: if an array has another shape.

    Example:
        >>> figure = kl_over_training([1, 10], {"LSTM": [2.0, 0.1]}, yardstick=("KT", 0.132))
        >>> [line.get_label() for line in figure.axes[0].get_lines()]
        ['LSTM', 'KT']
    """
    return lines(
        _array("steps", steps, "step"),
        _arrays("kl", kl, f"step={np.size(steps)}", gaps=True),
        xlabel="gradient step",
        ylabel=r"$\mathrm{KL}(\xi \,\|\, \pi)$ (nats per sequence)",
        xscale="log",
        yscale="log",
        hlines=None if yardstick is None else dict([yardstick]),
        title=title,
    )


@_themed
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
    price = _array("information", information, f"predictor={len(names)}")
    own = _array("fault", fault, f"predictor={len(names)}")
    figure, axes = plt.subplots(figsize=(7.0, 1.6 + 0.34 * len(names)))
    rows = np.arange(len(names))
    axes.barh(rows, price, 0.7, color=GREY, label=r"not knowing: $I(\tau; x)$")
    fault_label = r"own fault: $\mathrm{KL}(\xi \,\|\, \pi)$"
    hatched = {"edgecolor": "white", "linewidth": 0, "hatch": "///"}
    axes.barh(rows, own, 0.7, left=price, color=RED, label=fault_label, **hatched)
    for row, whole in enumerate(price + own):
        _note(axes, f"{whole:z.2f}", (whole, row), (4, 0), va="center")
    axes.set_yticks(rows, names)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel(xlabel)
    figure.legend(loc="outside lower center", ncols=2)
    return _finish(figure, None, title)


@_themed
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
    columns, rows = _array("x", x, "x"), _array("y", y, "y")
    plane = _array("values", values, f"y={len(rows)} x={len(columns)}")
    figure, axes = plt.subplots(figsize=(7.0, 4.6))
    _scales(axes, xscale, yscale)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    drawn = axes.pcolormesh(columns, rows, plane, shading="nearest", rasterized=True)
    if min(plane.shape) > 1 and np.ptp(plane) > 0:
        contours = axes.contour(columns, rows, plane, levels, colors="white", linewidths=0.9)
        axes.clabel(contours, fontsize=9, fmt="%.4g")
    _colourbar(figure, drawn, axes, label=label)
    _finish(figure, None, title)
    _marks(axes, marks)
    return figure


@_themed
def parameters_and_regret(
    names: Sequence[str],
    num_parameters: ArrayLike,
    regret: ArrayLike,
    *,
    reference: Mapping[str, float] | None = None,
    ylabel: str = NATS,
    title: str | None = None,
) -> Figure:
    """Regret against the number of tuned parameters: median as a point, quartiles as a whisker.

    Args:
        names: methods [method].
        num_parameters: tuned numbers [method], positive.
        regret: regret [method] or [method, seed], in nats.
        reference: label -> regret, drawn as horizontal lines.
        ylabel: label of the regret.
        title: heading.

    Example:
        >>> figure = parameters_and_regret(["SoftPT", "FullWT"], [768, 132226], [1.0, 0.7])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['SoftPT', 'FullWT']
    """
    sizes = _array("num_parameters", num_parameters, f"method={len(names)}")
    if sizes.min() <= 0:
        raise ValueError(f"`num_parameters` must be positive, got {sizes.min():g}.")
    seeds = np.asarray(regret, dtype=float)
    seeds = seeds[:, None] if seeds.ndim == 1 else seeds
    low, median, high = np.quantile(
        _array("regret", seeds, f"method={len(names)} seed"), [0.25, 0.5, 0.75], axis=1
    )
    figure, axes = plt.subplots()
    axes.set_xscale("log")
    for index, name in enumerate(names):
        axes.errorbar(
            sizes[index],
            median[index],
            yerr=[[median[index] - low[index]], [high[index] - median[index]]],
            color=_curve_style(name, index).colour,
            marker=_curve_style(name, index).marker,
            ms=8,
            capsize=2.5 * (seeds.shape[1] > 1),
        )
    _rules(axes, reference)
    axes.margins(x=0.12, y=0.1)
    axes.set(xlabel="tuned parameters", ylabel=ylabel)
    _finish(figure, axes, title)
    places = zip(sizes.tolist(), median.tolist(), strict=True)
    _label_points(axes, dict(zip(names, places, strict=True)))
    return figure


# place -> its column and row in `what_moves`, and the column that it feeds
_PARTS = ("embedding", "torso", "unembedding")
_PLACES = {
    "tokens": (0, 1, 1),
    "vectors": (1, 1, 2),
    "memory": (2, 1, 2),
    "embedding": (1, 0, 2),
    "torso": (2, 0, 3),
    "unembedding": (3, 0, 4),
}


@_themed
def what_moves(name: str, tuned: Mapping[str, str], *, title: str | None = None) -> Figure:
    """What a method tunes: the parts of the predictor in a row, the tuned ones filled.

    Args:
        name: of the method, for the colour.
        tuned: place -> what is tuned there, a few words. Places are `embedding`, `torso`,
            `unembedding`; and in front of the content `tokens`, which go through the embedding,
            `vectors`, which do not, and `memory`, which the torso holds when the content begins;
            any other one is an error.
        title: heading.

    Example:
        >>> figure = what_moves("SoftPT", {"vectors": "6 vectors of 128"})
        >>> sum(text.get_text() == "embedding" for text in figure.axes[0].texts)
        1
    """
    if unknown := [place for place in _mapping("tuned", tuned) if place not in _PLACES]:
        raise ValueError(f"`tuned` must have places of {', '.join(_PLACES)}, got {unknown}.")
    above = set(tuned) - set(_PARTS)
    figure, axes = plt.subplots(figsize=(7.0, 2.4 if above else 1.5))
    colour = _curve_style(name, 0).colour

    def box(column: int, row: int, text: str, is_tuned: bool) -> Any:
        edge: dict = {"ec": colour, "lw": 3.0} if is_tuned else {"ec": GREY}
        frame = {"boxstyle": "round,pad=0.55", "fc": "white", **edge}
        return axes.text(column, row, text, ha="center", va="center", bbox=frame)

    def arrow(start: Any, end: Any) -> None:
        ends = {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
        style = {"arrowstyle": "->", "color": _RULE, "shrinkA": 2, "shrinkB": 2, **ends}
        axes.annotate("", end.get_position(), start.get_position(), arrowprops=style)

    words = ("content\n$x_{<t}$", *_PARTS, "$\\pi(x_t)$")
    row = [box(column, 0, text, text in tuned) for column, text in enumerate(words)]
    for start, end in itertools.pairwise(row):
        arrow(start, end)
    for place, text in tuned.items():
        column, height, feeds = _PLACES[place]
        if place in above:
            arrow(box(column, height, text, True), row[feeds])
        else:
            _note(axes, text, (column, 0), (0, -18), ha="center", va="top")
    axes.set_xlim(-0.45, 4.45)
    axes.set_ylim(-0.75 if set(tuned) & set(_PARTS) else -0.4, 1.4 if above else 0.4)
    axes.set_axis_off()
    return _finish(figure, None, title)


@_themed
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
    weights = _arrays("maps", maps, "head query key", pad=True)
    heads = {len(one) for one in weights.values()}
    if len(heads) > 1 or min(one.min() for one in weights.values()) < 0:
        raise ValueError(f"`maps` must agree on heads and not be negative, got {heads} heads.")
    columns = heads.pop()
    norm = PowerNorm(0.5, 0.0, max(float(one.max()) for one in weights.values()) or 1.0)
    cells = [(name, head) for name in weights for head in range(columns)]
    figure, grid = _grid(
        len(cells),
        columns if columns > 1 else 2,
        max(1.6, 6.0 / columns) if columns > 1 else 3.2,
        xlabel="key",
        ylabel="query",
        shared=False,
    )
    for axes, (name, head) in zip(grid, cells, strict=True):
        axes.imshow(np.ma.masked_equal(weights[name][head], 0.0), norm=norm, cmap=_DARKER)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4, integer=True))
        if columns == 1:
            axes.set_title(name)
        else:
            axes.set_title(f"head {head + 1}" if name == cells[0][0] else "", fontsize=10)
            axes.set_ylabel("" if head else f"{name}\nquery")
    _colourbar(figure, ScalarMappable(norm, _DARKER), grid, label="attention")
    return _finish(figure, None, title)


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
