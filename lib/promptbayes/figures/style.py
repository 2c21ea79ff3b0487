"""The look of the figures: what has which colour, marker and line style, and all sizes."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

P = ParamSpec("P")
LineStyle = str | tuple[int, tuple[int, ...]]

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

OTHERS = (
    Style(BLUE, "o", "-"),
    Style(OCHRE, "s", "--"),
    Style(TEAL, "^", DASHDOT),
    Style(PINK, "D", DOTTED),
    Style(RED, "v", DASHDOTDOT),
    Style(GREY, "P", (0, (8, 2))),
)
STRANGERS = tuple(style._replace(colour="#606060") for style in OTHERS)
HALO = [withStroke(linewidth=3.0, foreground="white")]
# Where more is lighter, the ramp stops before it fades on white; where more is darker, zero may.
RAMP = ListedColormap(plt.get_cmap("plasma")(np.linspace(0.0, 0.64, 256)), "ramp")
DARKER = "magma_r"
SLATE, RULE, PALE = "#5a6b7b", "#606060", "#c4c4c4"
RC: dict[Any, Any] = {
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


def themed(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw with the book's style, close the figure in pyplot, document what all figures share."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        before = set(plt.get_fignums())
        with plt.rc_context(RC):
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
    drawn.__doc__ = inspect.cleandoc(draw.__doc__ or "") + shared
    return drawn


def style_of(name: str, index: int = 0) -> Style | None:
    """Return the style of a name, if it has one of its own.

    "SoftPT, LSTM" has the method's colour and marker, and the network's line style and hatch.
    """
    known = [word for word in re.split(r"[\s,()/:]+", name) if word in METHOD_STYLE]
    methods = [METHOD_STYLE[word] for word in known if word not in NETWORKS]
    networks = [METHOD_STYLE[word] for word in known if word in NETWORKS]
    if methods and networks:
        return methods[0]._replace(linestyle=networks[0].linestyle, hatch=networks[0].hatch)
    return (methods + networks + [None])[0]


def curve_style(name: str, index: int) -> Style:
    """Return the style of a curve; names without one take turns."""
    if isinstance(name, Stranger):
        return STRANGERS[index % len(STRANGERS)]
    return style_of(name) or OTHERS[index % len(OTHERS)]


def shade(place: float, most: float) -> Any:
    """Return a colour of the ramp for a count between 0 and `most`."""
    return RAMP(place / max(most, 1))
