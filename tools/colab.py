"""A Sphinx role for the page of the course: {colab}`path` opens a notebook, {file-of}`path` a file.

The address of the repository stands in `_config.yml` and nowhere else.
"""

from pathlib import Path

import yaml
from docutils import nodes

ROOT = Path(__file__).resolve().parent.parent


def link(name, rawtext, text, lineno, inliner, options=None, content=()):
    """A link to a file of the repository, in Colab or as it stands."""
    if not (ROOT / text).exists():
        message = inliner.reporter.error(f"{text!r} is not in the repository.", line=lineno)
        return [inliner.problematic(rawtext, rawtext, message)], [message]
    settings = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))["repository"]
    address = f"{settings['url']}/blob/{settings['branch']}/{text}"
    if name == "colab":
        address = address.replace("https://github.com", "https://colab.research.google.com/github")
    shown = "Open in Colab" if name == "colab" else text
    return [nodes.reference(rawtext, shown, refuri=address)], []


def setup(app):
    """Register the roles."""
    app.add_role("colab", link)
    app.add_role("file-of", link)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
