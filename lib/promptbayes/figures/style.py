"""The look of the figures: what has which colour, marker and line style, and all sizes."""

import functools
import inspect
import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

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
    "TargetBayes": Style(BLACK, "*", DOTTED, "|||"),
    "EvalBayes": Style(RED, "p", DOTTED, "|||"),
    "PreBayes": Style(PINK, "v", DASHDOT, "|||"),
    "PreBayesPT": Style(TEAL, "h", DASHDOT, "|||"),
    "NoTuning": Style(GREY, "x", DASHDOTDOT, "|||"),
    "RandomPF": Style(BLUE, "+", DASHDOTDOT, "|||"),
    "Oracle": Style(OCHRE, "1", DOTTED, "|||"),
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
# Behind words. Not a halo: it would make each letter of an SVG a path of its own.
CARD = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
# Where more is lighter, the ramp stops before it fades on white; where more is darker, zero may.
RAMP = ListedColormap(mpl.colormaps["plasma"](np.linspace(0.0, 0.64, 256)), "ramp")
DARKER = "magma_r"
RULE, PALE = "#606060", "#c4c4c4"
PLAIN_BAR, STRANGER = Style("#5a6b7b", "o", "-"), Style("#606060", "o", "-")
# Inches, 96 CSS pixels each. On a phone that is 390 pixels wide the text column has 344, and the
# smallest text has to be 9 there: 10 points, which is also what matplotlib writes by default.
WIDTH, PHONE, SMALLEST = 5.25, 344, 9.0
RC: dict[Any, Any] = {
    "figure.figsize": (WIDTH, 3.4),
    "figure.dpi": 96,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "figure.labelsize": 10.5,
    "figure.titlesize": 11,
    "font.size": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "hatch.linewidth": 0.6,
    "image.cmap": "cividis",
    "svg.fonttype": "path",
    "svg.hashsalt": "promptbayes",
}


def themed(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw with the book's style, and document what all figures share."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(RC):
            return draw(*args, **kwargs)

    shared = """

Returns:
    The figure; pyplot does not know it.

Raises:
    ValueError: if an array has another shape, or a number that must be finite is not.
"""
    drawn.__doc__ = inspect.cleandoc(draw.__doc__ or "") + shared
    return drawn


def style_of(name: str) -> Style | None:
    """Return the style of a name, if it has one of its own.

    "SoftPT, LSTM" has the method's colour and marker, and the network's line style and hatch.
    """
    known = [word for word in re.split(r"[\s,()/:]+", name) if word in METHOD_STYLE]
    methods = [METHOD_STYLE[word] for word in known if word not in NETWORKS]
    networks = [METHOD_STYLE[word] for word in known if word in NETWORKS]
    if methods and networks:
        return methods[0]._replace(linestyle=networks[0].linestyle, hatch=networks[0].hatch)
    return (methods + networks + [None])[0]


def curve_styles(names: Iterable[str]) -> dict[str, Style]:
    """Return a style for each curve of one figure, no two alike.

    Names without a style take turns, first with the colours that no other name has. A style that is
    taken already, say by the same network from another seed, keeps its colour and changes its line.
    """
    styles = {name: STRANGER if isinstance(name, Stranger) else style_of(name) for name in names}
    taken = {style.colour for style in styles.values() if style}
    turns = itertools.cycle(sorted(OTHERS, key=lambda style: style.colour in taken))
    chosen: dict[str, Style] = {}
    for name, style in styles.items():
        style = style or next(turns)
        used = {(one.colour, one.linestyle) for one in chosen.values()}
        free = (other for other in OTHERS if (style.colour, other.linestyle) not in used)
        if (style.colour, style.linestyle) in used:
            other = next(free, style)
            style = style._replace(linestyle=other.linestyle, marker=other.marker)
        chosen[name] = style
    return chosen


def shade(place: float, most: float) -> Any:
    """Return a colour of the ramp for a count between 0 and `most`."""
    return RAMP(place / max(most, 1))
