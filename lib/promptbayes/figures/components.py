"""Internal states of a network on two principal components."""

from collections.abc import Mapping

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from . import checks, drawing
from .style import BLACK, PALE, RAMP, RED, RULE, curve_styles, themed


@themed
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
    states = checks.array("points", points, "sequence time component=2")
    step = checks.array("steps", steps, f"time={states.shape[1]}")
    bias = checks.array("tau", tau, f"sequence={states.shape[0]}")
    figure, grid = drawing.grid(2, 2, 2.9, xlabel="component 1", ylabel="component 2")
    colours = {"step $n$": np.tile(step, len(bias)), r"bias $\tau$": np.repeat(bias, len(step))}
    for axes, (label, colour) in zip(grid, colours.items(), strict=True):
        drawn = axes.scatter(*states.reshape(-1, 2).T, c=colour, cmap=RAMP, s=4, rasterized=True)
        drawing.colourbar(figure, drawn, axes, location="top", label=label)
    return drawing.finish(figure, None, title)


@themed
def prefix_trajectories(
    background: ArrayLike,
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    title: str | None = None,
) -> Figure:
    """What a prefix does to the state: the untuned network grey, target sequences coloured.

    Triangles are the states while the prefix is read, one path per repetition; the red circle is
    the state after the prefix, from which the target sequences start.

    Args:
        background: components of the untuned network's states [sequence, time, component=2].
        panels: method -> (prefix states [seed, prefix, component=2],
            target sequences' states [sequence, time, component=2]).
        title: heading.

    Example:
        >>> states = np.zeros((5, 4, 2))
        >>> figure = prefix_trajectories(states, {"SoftPT": (states[:2], states[:3])})
        >>> figure.axes[0].get_title(loc="left")
        'SoftPT'
    """
    ground = checks.array("background", background, "sequence time component=2").reshape(-1, 2)
    styles = curve_styles(checks.mapping("panels", panels))
    figure, grid = drawing.grid(len(panels), 2, 2.2, xlabel="component 1", ylabel="component 2")
    for axes, (name, pair) in zip(grid, panels.items(), strict=True):
        if len(pair) != 2:
            raise ValueError(f"`panels[{name!r}]` must be a pair (prefix, content).")
        prefix = checks.array(f"panels[{name!r}][0]", pair[0], "seed prefix component=2")
        content = checks.array(f"panels[{name!r}][1]", pair[1], "sequence time component=2")
        colour = styles[name].colour
        axes.plot(*ground.T, ",", color=PALE, antialiased=False, rasterized=True, zorder=0)
        axes.add_collection(LineCollection(list(content), colors=colour, linewidths=0.8, alpha=0.6))
        axes.add_collection(LineCollection(list(prefix), colors=BLACK, linewidths=0.6, zorder=3))
        axes.plot(*prefix[:, :-1].reshape(-1, 2).T, "^", ms=4.5, color=BLACK, zorder=3)
        axes.plot(*prefix[:, -1].T, "o", ms=7, mfc="none", mec=RED, mew=1.8, zorder=4)
        axes.autoscale()
        axes.set_title(name)
    keys = [
        Line2D([], [], ls="", marker="o", ms=4, color=PALE, label="untuned network"),
        Line2D([], [], color=RULE, lw=1.2, label="target sequences"),
        Line2D([], [], color=BLACK, lw=0.6, marker="^", ms=4.5, label="prefix states"),
        Line2D([], [], ls="", marker="o", mfc="none", mec=RED, mew=1.8, label="after the prefix"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=2, handlelength=1.5)
    return drawing.finish(figure, None, title)
