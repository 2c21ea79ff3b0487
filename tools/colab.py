"""A Sphinx role for the page of the course: {colab}`path` opens a notebook, {file-of}`path` a file.

The address of the repository stands in `_config.yml` and nowhere else.
"""

from docutils import nodes
from repository import ROOT, Repository


def link(name, rawtext, text, lineno, inliner, options=None, content=()):
    """A link to a file of the repository, in Colab or as it stands."""
    if not (ROOT / text).exists():
        message = inliner.reporter.error(f"{text!r} is not in the repository.", line=lineno)
        return [inliner.problematic(rawtext, rawtext, message)], [message]
    address = Repository().file(text)
    if name == "colab":
        address = address.replace("https://github.com", "https://colab.research.google.com/github")
    shown = "Open in Colab" if name == "colab" else text
    return [nodes.reference(rawtext, shown, refuri=address)], []


def setup(app):
    """Register the roles."""
    app.add_role("colab", link)
    app.add_role("file-of", link)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
