"""What a method of tuning moves, what it costs, and the hard prefixes it can choose from."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from . import checks, drawing
from .style import GREY, NATS, RULE, curve_styles, shade, themed

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


@themed
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
    if unknown := [place for place in checks.mapping("tuned", tuned) if place not in _PLACES]:
        raise ValueError(f"`tuned` must have places of {', '.join(_PLACES)}, got {unknown}.")
    above = set(tuned) - set(_PARTS)
    figure, axes = drawing.single(2.2 if above else 1.3)
    colour = curve_styles([name])[name].colour

    def box(column: int, row: int, text: str, is_tuned: bool) -> Any:
        edge: dict = {"ec": colour, "lw": 3.0} if is_tuned else {"ec": GREY}
        frame = {"boxstyle": "round,pad=0.55", "fc": "white", **edge}
        return axes.text(column, row, text, ha="center", va="center", bbox=frame)

    def arrow(start: Any, end: Any) -> None:
        ends = {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
        style = {"arrowstyle": "->", "color": RULE, "shrinkA": 2, "shrinkB": 2, **ends}
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
            drawing.note(axes, text, (column, 0), (0, -18), ha="center", va="top")
    axes.set_xlim(-0.45, 4.45)
    axes.set_ylim(-0.75 if set(tuned) & set(_PARTS) else -0.4, 1.4 if above else 0.4)
    axes.set_axis_off()
    return drawing.finish(figure, None, title)


@themed
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
    sizes = checks.array("num_parameters", num_parameters, f"method={len(names)}")
    if sizes.min() <= 0:
        raise ValueError(f"`num_parameters` must be positive, got {sizes.min():g}.")
    seeds = np.asarray(regret, dtype=float)
    seeds = seeds[:, None] if seeds.ndim == 1 else seeds
    low, median, high = np.quantile(
        checks.array("regret", seeds, f"method={len(names)} seed"), [0.25, 0.5, 0.75], axis=1
    )
    figure, axes = drawing.single()
    axes.set_xscale("log")
    styles = curve_styles(names)
    for index, name in enumerate(names):
        axes.errorbar(
            sizes[index],
            median[index],
            yerr=[[median[index] - low[index]], [high[index] - median[index]]],
            color=styles[name].colour,
            marker=styles[name].marker,
            ms=8,
            capsize=2.5 * (seeds.shape[1] > 1),
        )
    drawing.rules(axes, reference)
    axes.margins(x=0.12, y=0.1)
    axes.set(xlabel="tuned parameters", ylabel=ylabel)
    drawing.finish(figure, axes, title)
    places = zip(sizes.tolist(), median.tolist(), strict=True)
    whiskers = np.linspace(low, high, 9).ravel()
    others = np.column_stack([np.tile(sizes, 9), whiskers])
    drawing.label_points(axes, dict(zip(names, places, strict=True)), others)
    return figure


@themed
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
    prefixes = checks.array("tokens", tokens, "prompt length").astype(int)
    losses = checks.array("loss", loss, f"prompt={len(prefixes)}")
    order = np.argsort(losses, kind="stable")
    prefixes, losses, rank = prefixes[order], losses[order], np.arange(1.0, len(order) + 1)
    ones = (prefixes == 1).sum(axis=1)
    figure, axes = drawing.single()
    axes.plot(rank, losses, color=GREY, lw=0.8, zorder=1)
    for count in np.unique(ones).tolist():
        chosen = ones == count
        axes.scatter(
            rank[chosen],
            losses[chosen],
            s=30,
            color=shade(count, int(ones.max())),
            marker="osD^vP*X"[count % 8],
            label=f"{count} one" + "s" * (count != 1),
            zorder=2,
        )
    axes.margins(y=0.2)
    drawing.rules(axes, reference)
    axes.set(xlabel=f"the {len(order)} prefixes, sorted by loss", ylabel=ylabel)
    drawing.finish(figure, axes, title)
    words = ["".join(map(str, prefix)) for prefix in prefixes]
    first, last = (1.0, float(losses[0])), (float(rank[-1]), float(losses[-1]))
    ends = {f"best: {words[0]}": first, f"worst: {words[-1]}": last}
    drawing.label_points(axes, ends, np.column_stack([rank, losses]))
    return figure
