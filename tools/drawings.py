"""Draw the logo, the icon and the cover of the book: `python tools/drawings.py`.

All three show one computation: a uniform prior over the bias of a coin, a prompt of six flips, and
the posterior after it.  The numbers on the cover come from `promptbayes.exact`.
"""

from pathlib import Path

import numpy as np
from promptbayes import exact
from promptbayes.tasks import coin, random_coins
from scipy import stats

ASSETS = Path(__file__).resolve().parent.parent / "book" / "assets"
PROMPT = (0, 0, 1, 0, 0, 0)
TARGET, LENGTH = 0.2, 50
BLUE, ORANGE, INK, GREY = "#0072B2", "#D55E00", "#222222", "#767676"
FONT = "font-family='Helvetica, Arial, sans-serif'"


def curve(flips: tuple[int, ...], x0: float, y0: float, width: float, height: float) -> str:
    """The posterior density after these flips as the points of a path; `height` shows density 3."""
    heads = sum(flips)
    tau = np.linspace(0.0, 1.0, 81)
    density = stats.beta.pdf(tau, 1 + heads, 1 + len(flips) - heads)
    points = zip(x0 + tau * width, y0 - density / 3 * height, strict=True)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def area(points: str, x0: float, y0: float, width: float, colour: str, opacity: float) -> str:
    """The surface between a curve and its axis."""
    path = f"M{x0:.1f},{y0:.1f} L{points} L{x0 + width:.1f},{y0:.1f} Z"
    return f"<path d='{path}' fill='{colour}' fill-opacity='{opacity}'/>"


def line(points: str, colour: str, width: float, dashes: str = "") -> str:
    """A curve."""
    dashed = f" stroke-dasharray='{dashes}'" if dashes else ""
    style = f"stroke='{colour}' stroke-width='{width}' stroke-linejoin='round'{dashed}"
    return f"<polyline points='{points}' fill='none' {style}/>"


def logo(ink: str, blue: str, orange: str, title: str = "") -> str:
    """Flat prior, posterior after the prompt's first half and after all of it."""
    frame = (6.0, 54.0, 52.0, 46.0)
    half, full = curve(PROMPT[:3], *frame), curve(PROMPT, *frame)
    parts = [
        area(full, frame[0], frame[1], frame[2], orange, 0.18),
        line(curve((), *frame), ink, 3.5),
        line(half, blue, 3.5),
        line(full, orange, 4.5),
        f"<path d='M4,54 H60' stroke='{ink}' stroke-width='3' stroke-linecap='round'/>",
    ]
    return svg(64, 64, parts, title)


def svg(width: int, height: int, parts: list[str], title: str = "") -> str:
    """An SVG file."""
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}'"
    named = [f"<title>{title}</title>"] if title else []
    return "\n".join([head + ">", *named, *parts, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, size: int = 17, colour: str = INK, more: str = "") -> str:
    """Words in the middle of x."""
    style = f"{FONT} font-size='{size}' fill='{colour}' text-anchor='middle' {more}".strip()
    return f"<text x='{x:.0f}' y='{y:.0f}' {style}>{words}</text>"


def panel(x0: float, flips: tuple[int, ...], name: str, below: str, colour: str) -> list[str]:
    """One density over tau, with the target marked."""
    y0, width, height = 272.0, 190.0, 130.0
    points = curve(flips, x0, y0, width, height)
    target = x0 + TARGET * width
    ticks = [text(x0 + t * width, y0 + 20, f"{t:g}", 14, GREY) for t in (0, TARGET, 1)]
    return [
        text(x0 + width / 2, 118, name, 16, INK, "font-weight='bold'"),
        area(points, x0, y0, width, colour, 0.16),
        f"<path d='M{target:.1f},{y0} V132' stroke='{GREY}' stroke-width='1.5'"
        " stroke-dasharray='4 4'/>",
        line(points, colour, 3.5),
        f"<path d='M{x0},{y0} H{x0 + width}' stroke='{INK}' stroke-width='1.5'/>",
        *ticks,
        text(x0 + width / 2, y0 + 46, below, 16),
    ]


def cover() -> str:
    """Prior, prompt, posterior; and what the prompt is worth."""
    before = exact.cumulative_regret(random_coins(), coin(TARGET), LENGTH)
    after = exact.cumulative_regret(random_coins().posterior(PROMPT), coin(TARGET), LENGTH)
    # On a phone 344 pixels wide: letters of 14 have 9.5 there.
    width, height = 504, 352
    parts = [
        f"<rect width='{width}' height='{height}' fill='#ffffff'/>",
        text(width / 2, 22, "A prompt", 16, INK, "font-weight='bold'"),
        *panel(24, (), "What pretraining taught", f"regret {before:.2f} nats", BLUE),
        *panel(290, PROMPT, "What it knows now", f"regret {after:.2f} nats", ORANGE),
    ]
    for i, flip in enumerate(PROMPT):
        x = width / 2 + (i - (len(PROMPT) - 1) / 2) * 36
        style = f"fill='{ORANGE if flip else '#ffffff'}' stroke='{INK}' stroke-width='2'"
        parts.append(f"<circle cx='{x:.0f}' cy='50' r='15' {style}/>")
        parts.append(text(x, 55, str(flip), 16, "#ffffff" if flip else INK))
    arrow = "M228,200 H276 M276,200 l-11,-6 M276,200 l-11,6"
    parts.append(
        f"<path d='{arrow}' stroke='{INK}' stroke-width='2.5' fill='none' stroke-linecap='round'/>"
    )
    parts.append(text(width / 2, 86, "conditioning", 15, INK, "font-style='italic'"))
    parts.append(text(width / 2, 342, f"on a coin of bias {TARGET}, {LENGTH} flips", 15, GREY))
    title = "A flat prior over the bias of a coin becomes, after a prompt of six flips, a posterior"
    return svg(width, height, parts, title)


def drawings() -> dict[str, str]:
    """File name -> content."""
    return {
        "logo.svg": logo("#5A5A5A", BLUE, ORANGE),
        "logo-dark.svg": logo("#C8C8C8", "#56B4E9", "#F0924C"),
        "favicon.svg": logo("#8A8A8A", "#3A8FC7", ORANGE),
        "cover.svg": cover(),
    }


if __name__ == "__main__":
    for name, content in drawings().items():
        (ASSETS / name).write_text(content, "utf8")
