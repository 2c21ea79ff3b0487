"""A figure as pages and notebooks show it: sharp on every screen, and the same bits each time."""

import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from .style import RC

# A screen with two device pixels to a CSS pixel, of which 96 make an inch.
SHARP = 192


def _shorter(path: str) -> str:
    """Return a path of an SVG without spare blanks, and with places to a tenth of a point."""
    path = re.sub(r"\s*([A-Za-z])\s*", r"\1", path)
    return re.sub(r"\d\d+\.\d+", lambda number: f"{float(number[0]):.1f}", path)


class Picture(Figure):
    """A figure that notebooks show as SVG, or as PNG where its colours are numbers.

    The dark theme turns an SVG's lightness over, and leaves a PNG as it is: a heat map has to agree
    with its caption. The letters of an SVG are shapes, since a phone does not have our font, and in
    another one they would not have the room that the layout gave them. What has thousands of points
    is a picture inside the SVG.
    """

    colours_are_numbers = False  #: whether it is shown as PNG

    def savefig(self, fname: Any, **options: Any) -> None:
        """Save with the book's style; without the date, so that equal figures are equal files."""
        kind = options.get("format") or str(fname).rpartition(".")[2]
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        with mpl.rc_context(RC):
            super().savefig(
                fname, **{"dpi": SHARP, "metadata": undated, "facecolor": "white"} | options
            )

    def svg(self) -> str:
        """The figure as SVG, as short as a screen allows."""
        file = io.StringIO()
        self.savefig(file, format="svg")
        text = re.sub(r"<!--.*?-->", "", file.getvalue(), flags=re.DOTALL)
        text = re.sub(r"\s*\n\s*", "\n", text)
        return re.sub(r'(?<= d=")[^"]*', lambda path: _shorter(path[0]), text)

    def png(self) -> bytes:
        """The figure as PNG with two device pixels to a CSS pixel and 256 colours."""
        drawn, file = io.BytesIO(), io.BytesIO()
        self.savefig(drawn, format="png")
        few = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(file, format="png", optimize=True)
        return file.getvalue()

    def _ipython_display_(self) -> None:
        """Called by IPython, in place of what matplotlib has registered for figures."""
        from IPython.display import display

        if self.colours_are_numbers:
            width, height = (round(96 * inches) for inches in self.get_size_inches())
            size = {"image/png": {"width": width, "height": height}}
            display({"image/png": self.png()}, metadata=size, raw=True)
        else:
            display({"image/svg+xml": self.svg()}, raw=True)
