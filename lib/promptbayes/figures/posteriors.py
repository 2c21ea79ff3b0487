"""Posterior densities of the bias of a coin."""

from collections.abc import Mapping

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from . import checks, drawing
from .style import BLUE, DOTTED, RULE, curve_styles, shade, themed


@themed
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
    taus = checks.array("grid", grid, "tau")
    curves = checks.array("densities", densities, f"step tau={len(taus)}")
    flips = checks.array("tokens", tokens, "step").astype(int)
    prior = len(curves) - len(flips)
    if prior not in (0, 1):
        raise ValueError(
            f"`tokens` must have shape [{len(curves)}], or [{len(curves) - 1}] where the first row "
            f"of `densities` is the prior, got {flips.shape}."
        )
    figure, panels = drawing.grid(len(curves), 3, 1.4, xlabel=r"bias $\tau$", ylabel="density")
    for row, axes in enumerate(panels):
        axes.plot(taus, curves[max(row - 1, 0)], color=RULE, lw=1.2, ls=DOTTED)
        axes.plot(taus, curves[row], color=BLUE, lw=2.0)
        drawing.area(axes, taus, 0, curves[row], BLUE, 0.15)
        seen = "".join(map(str, flips[: row + 1 - prior]))
        seen = seen if len(seen) <= 10 else "…" + seen[-9:]
        axes.set_title(f"after {seen}" if seen else "prior", fontsize=10)
    panels[0].set_yticks([])
    panels[0].set_ylim(0, 1.05 * curves.max())
    return drawing.finish(figure, None, title)


@themed
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
    taus, atoms = checks.array("grid", grid, "tau"), atoms or {}
    curves = (
        checks.arrays("densities", densities, f"tau={len(taus)}") if densities or not atoms else {}
    )
    figure, axes = drawing.single()
    styles = curve_styles([*curves, *atoms])
    for index, (name, curve) in enumerate(curves.items()):
        drawing.curve(axes, taus, curve, name, styles[name], (index, len(curves)))
        drawing.area(axes, taus, 0, curve, styles[name].colour, 0.12)
    axes.set(xlabel=r"bias $\tau$", ylabel="density" if curves else "probability")
    axes.set_ylim(bottom=0)
    stems = axes.twinx() if curves and atoms else axes
    for index, (name, (locations, weights)) in enumerate(atoms.items()):
        place = checks.array(f"atoms[{name!r}][0]", locations, "atom")
        mass = checks.array(f"atoms[{name!r}][1]", weights, f"atom={len(place)}")
        style = styles[name]
        # The first stems are the widest, so that later ones at the same place do not hide them.
        width = 2.0 + 3.0 * (len(atoms) - 1 - index)
        stems.vlines(place, 0, mass, colors=style.colour, lw=width, alpha=0.8)
        stems.plot(place, mass, style.marker, ms=8, color=style.colour, label=name)
    if atoms:
        stems.set_ylim(bottom=0)
    if stems is not axes:
        stems.set_ylabel("probability")
        stems.spines["right"].set_visible(True)
    drawing.legend_below(figure)
    return drawing.finish(figure, None, title)


@themed
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
    taus = checks.array("grid", grid, "tau")
    curves = checks.array("densities", densities, f"prompt tau={len(taus)}")
    counts = checks.array("heads", heads, f"prompt={len(curves)}").astype(int)
    figure, axes = drawing.single()
    for count in np.unique(counts).tolist():
        group = curves[counts == count]
        shapes = [np.column_stack([taus, one]) for one in group]
        colour = shade(count, int(counts.max()))
        axes.add_collection(LineCollection(shapes, colors=[colour], linewidths=1.8))
        peak = int(group[0].argmax())
        side = {0: "left", len(taus) - 1: "right"}.get(peak, "center")
        text = f"{count} one{'s' * (count != 1)}\n{len(group)} prompt{'s' * (len(group) != 1)}"
        drawing.note(axes, text, (taus[peak], group[0][peak]), (0, 3), ha=side, color=colour)
    axes.autoscale()
    axes.set_ylim(0, 1.16 * curves.max())
    axes.set(xlabel=r"bias $\tau$", ylabel="posterior density")
    return drawing.finish(figure, None, title)
