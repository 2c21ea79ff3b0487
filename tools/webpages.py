"""A Sphinx extension: what the other extensions write into the pages and no reader needs.

Scripts and styles that no page of this book uses are left out: thebe runs code on servers of
others (and is declared twice, which is an error), the tabs are sphinx-design's.  Some attributes
are mended, each for the reason that stands beside it.  `tests/test_browser.py` finds out whether
all of this is still needed and enough.
"""

import re

from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style
from pybtex.style.labels.alpha import LabelStyle

UNUSED = re.compile(r"thebe|design-tabs", re.IGNORECASE)

MENDED = {
    # One id for all proofs, exercises and solutions of a page.
    ' id="proof-content"': "",
    ' id="exercise-content"': "",
    ' id="solution-content"': "",
    ' id="proof"': "",
    # It would be read in the place of "Show code cell source".
    ' aria-label="Toggle hidden content"': "",
    # Deprecated, and not what a list may hold.
    'role="doc-biblioentry"': 'role="listitem"',
}


class AuthorYearLabels(LabelStyle):
    """[Li and Vitányi, 2008]: in the bibliography as in the text."""

    def format_label(self, entry):
        """The names as sphinxcontrib-bibtex's `author_year` writes them, and the year."""
        persons = entry.persons.get("author") or entry.persons.get("editor") or []
        names = [" ".join(map(str, p.rich_prelast_names + p.rich_last_names)) for p in persons]
        said = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
        return f"{said or entry.fields['title']}, {entry.fields.get('year', 'n.d.')}"


class AuthorYearStyle(Style):
    """pybtex's plain style, with the labels of the text."""

    default_label_style = AuthorYearLabels


def _mend(app, pagename, templatename, context, doctree) -> None:
    def unused(asset) -> bool:
        said = (str(asset.filename), *map(str, asset.attributes.values()))
        return any(UNUSED.search(part) for part in said)

    for kind in ("script_files", "css_files"):
        context[kind][:] = [a for a in context[kind] if isinstance(a, str) or not unused(a)]
    for written, wanted in MENDED.items():
        context["body"] = context.get("body", "").replace(written, wanted)


def setup(app) -> dict:
    """Register with Sphinx and with pybtex."""
    register_plugin("pybtex.style.formatting", "author_year", AuthorYearStyle)
    app.connect("html-page-context", _mend, priority=900)  # after the others
    return {"parallel_read_safe": True, "parallel_write_safe": True}
