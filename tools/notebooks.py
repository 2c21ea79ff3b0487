"""Make `x.ipynb` from every chapter `x.md`, for Colab and for nbmake.

    python tools/notebooks.py            write all notebooks
    python tools/notebooks.py --check    change nothing; exit 1 if one of them is not up to date

Colab and Jupyter show neither the directives of a chapter nor its roles.  So Sphinx reads the book,
numbers it and resolves its references, as it does for the pages, and each node of its document tree
becomes plain Markdown here: theorems and exercises are quotations, solutions and folded proofs stay
folded, macros are expanded.  Code cells are taken as they are.  A node for which there is no method
below is an error and never passes through in silence.

This module is also the Sphinx extension with the builder.  Nothing is executed, and the notebooks
have no outputs, so that making them twice gives the same bytes.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
from docutils import nodes
from jupyter_book.sphinx import build_sphinx
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from myst_parser.config.main import MdParserConfig
from repository import ROOT, Repository
from sphinx.builders import Builder
from sphinx.errors import SphinxError
from sphinx.util.osutil import relative_uri
from sphinx_external_toc.parsing import parse_toc_yaml

Node = Any  # docutils does not type the children of its nodes

# Jupyter collapses the code, Colab hides it behind a form. A click opens either.
FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}


class Book(Repository):
    """Which pages there are, and where the repository lies on the web."""

    def __init__(self, root: Path = ROOT):
        super().__init__(root)
        self.pages = [str(page) for page in parse_toc_yaml(root / "_toc.yml")]

    @cached_property
    def chapters(self) -> list[str]:
        """The pages that are notebooks."""
        texts = {page: (self.root / page).read_text("utf8") for page in self.pages}
        return [page for page, text in texts.items() if is_myst_markdown_notebook(text)]


def read_chapter(path: Path, text: str = "", **options: Any) -> nbformat.NotebookNode:
    """The chapter as myst-nb reads it when it builds the book."""
    config = MdParserConfig(enable_extensions={"colon_fence", "dollarmath", "amsmath"})
    text = text or path.read_text("utf8")
    return read_myst_markdown_notebook(text, config, path=str(path), **options)


def with_placeholders(text: str, path: str) -> nbformat.NotebookNode:
    """The chapter with an empty output for each figure: without one Sphinx does not number it."""
    chapter = read_chapter(Path(path), text, add_source_map=True)
    for cell in chapter.cells:
        if "figure" in cell.metadata.get("mystnb", {}):
            cell.outputs = [nbformat.v4.new_output("display_data", data={"text/plain": ""})]
    return chapter


class Translator:
    """Turns the document of one chapter into the cells of its notebook."""

    def __init__(self, builder: "NotebookBuilder", docname: str):
        self.builder = builder
        self.docname = docname
        self.cells: list[dict[str, Any]] = []
        self.written: list[str] = []  # blocks of the Markdown cell that is being written
        self.solution = ""  # the title of the solution that is being read

    def add(self, kind: str, source: str, metadata: dict[str, Any]) -> None:
        cell: dict[str, Any] = {
            "cell_type": kind,
            "id": f"x-{len(self.cells):03d}",
            "metadata": metadata,
            "source": source.splitlines(keepends=True),
        }
        self.cells.append(
            cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})
        )

    def flush(self) -> None:
        """Complete a Markdown cell."""
        if self.written:
            source = "\n\n".join(self.written)
            self.add("markdown", fold(self.solution, source) if self.solution else source, {})
        self.written = []

    def read(self, node: Node, level: int = 0) -> None:
        """Read a document or a section."""
        child: Node
        for child in node.children:
            if isinstance(child, nodes.title):
                self.flush()
                self.written.append(f"{'#' * level} {self.inline(child)}")
            elif isinstance(child, nodes.section):
                self.read(child, level + 1)
            elif isinstance(child, nodes.container) and "cell_index" in child:
                self.flush()
                self.code(child)
            elif type(child).__name__ == "solution_node":
                self.flush()
                self.solution = child["title"]
                if isinstance(child[1].children[0], nodes.container):
                    self.written.append("It is the cell below.")
                self.read(child[1])
                self.flush()
                self.solution = ""
            elif made := self.block(child):
                self.written.append(made)

    def code(self, node: Node) -> None:
        """Read a code cell and the figure that it makes."""
        tags = node["cell_metadata"].get("tags", [])
        metadata: dict[str, Any] = {"tags": tags} if tags else {}
        # The check of an exercise stays open: a reader writes in it.
        if {"hide-input", "exercise-solution"} & {*tags}:
            metadata |= FOLDED
        self.add("code", node[0].astext().rstrip("\n"), metadata)
        shown = [self.block(figure) for figure in node.findall(nodes.figure)]
        if alt := node["cell_metadata"].get("mystnb", {}).get("image", {}).get("alt"):
            shown.append(fold("The figure in words", plain(alt)))
        if shown:
            self.add("markdown", "\n\n".join(shown), {})

    def call(self, kind: str, node: Node) -> str:
        name = type(node).__name__
        if made := getattr(self, f"{kind}_{name}", None):
            return made(node)
        what = " ".join(node.astext().split())[:60]
        raise SphinxError(
            f"{self.docname}: no notebook text for <{name}> ({what!r}); see tools/notebooks.py."
        )

    # Running text

    def inline(self, node: Node) -> str:
        return "".join(self.call("inline", child) for child in node.children)

    inline_inline = inline

    def inline_Text(self, node: Node) -> str:
        return plain(node.astext())

    def inline_emphasis(self, node: Node) -> str:
        around = node.parent
        while around and not isinstance(around, nodes.emphasis):
            around = around.parent
        return self.inline(node) if around else f"*{self.inline(node)}*"

    def inline_strong(self, node: Node) -> str:
        return f"**{self.inline(node)}**"

    def inline_literal(self, node: Node) -> str:
        text = " ".join(node.astext().split())
        return f"`` {text} ``" if "`" in text else f"`{text}`"

    def inline_math(self, node: Node) -> str:
        return f"${self.formula(' '.join(node.astext().split()))}$"

    def inline_reference(self, node: Node) -> str:
        text, address = self.inline(node), node.get("refuri", "")
        if "bibtex-citation" in node.parent.get("classes", []):
            address = self.builder.sources[urlsplit(address).fragment]
        elif node.get("internal"):
            address = address.split("#")[0]  # notebooks have no anchors
        return f"[{text}]({address})" if address else text

    inline_number_reference = inline_reference

    def formula(self, text: str) -> str:
        return self.builder.macro.sub(lambda found: self.builder.macros[found[1]], text)

    # Blocks

    def block(self, node: Node) -> str:
        return self.call("block", node)

    def blocks(self, found: Iterable[Node]) -> str:
        return "\n\n".join(made for node in found if (made := self.block(node)))

    def block_nothing(self, node: Node) -> str:
        return ""

    block_target = block_comment = block_nothing
    block_compound = block_nothing  # the table of contents

    def block_raw(self, node: Node) -> str:
        if "<script" in node.astext():  # of the theme
            return ""
        return node.astext()

    def block_paragraph(self, node: Node) -> str:
        # What looks like a list, a quotation or a heading is none.
        text = re.sub(r"^(\d*)([.)>#+-])(?=\s)", r"\1\\\2", self.inline(node), flags=re.MULTILINE)
        return text.strip()

    def block_literal_block(self, node: Node) -> str:
        return f"```{node.get('language', '')}\n{node.astext().rstrip()}\n```"

    def block_math_block(self, node: Node) -> str:
        lines = [line for line in self.formula(node.astext()).split("\n") if line.strip()]
        if r"\\" in node.astext() and not re.search(r"\\begin\{(?s:.)*?\\\\", node.astext()):
            lines = [r"\begin{aligned}", *lines, r"\end{aligned}"]  # as Sphinx does
        if number := self.number("displaymath", node):
            lines.append(rf"\tag{{{number}}}")
        return "\n".join(["$$", *lines, "$$"])

    def block_bullet_list(self, node: Node) -> str:
        return self.items(node, ["- "] * len(node))

    def block_enumerated_list(self, node: Node) -> str:
        return self.items(node, [f"{i}. " for i in range(1, len(node) + 1)])

    def items(self, node: Node, marks: list[str]) -> str:
        made = [
            mark + indent(self.blocks(item.children), " " * len(mark)).strip()
            for mark, item in zip(marks, node.children)
        ]
        loose = any(len(item.children) > 1 for item in node.children)
        return ("\n\n" if loose else "\n").join(made)

    def block_image(self, node: Node) -> str:
        # Colab shows no relative image, so it gets the file in the repository.
        there = self.builder.book
        raw = there.url.replace("github.com", "raw.githubusercontent.com")
        return f"![{node['alt']}]({raw}/{there.branch}/{node['uri']})"

    def block_figure(self, node: Node) -> str:
        number = self.number("figure", node)
        images = [self.block(image) for image in node.findall(nodes.image)]
        words = [f"**Fig. {number}** {self.inline(c)}" for c in node.findall(nodes.caption)]
        return "\n\n".join([*images, *words])

    def block_table(self, node: Node) -> str:
        rows = [
            " ".join(self.blocks(entry.children).split()).replace("|", r"\vert{}")
            for entry in node.findall(nodes.entry)
        ]
        width = len(next(node.findall(nodes.row)).children)
        lines = ["| " + " | ".join(rows[i : i + width]) + " |" for i in range(0, len(rows), width)]
        if not list(node.findall(nodes.thead)):
            lines.insert(0, "|" + "   |" * width)
        lines.insert(1, "|" + " --- |" * width)
        number = self.number("table", node)
        titles = [f"**Table {number}** {self.inline(t)}\n" for t in node.findall(nodes.title)]
        return "\n".join([*titles, *lines])

    def block_container(self, node: Node) -> str:
        if node.get("design_component") != "dropdown":
            return self.call("unknown", node)
        title, *body = node.children
        return fold(title.astext(), self.blocks(body))

    def block_sidebar(self, node: Node) -> str:
        return quote(self.blocks(node.children[1:]))  # a margin note has an empty title

    def block_important(self, node: Node) -> str:
        return quote("**Important**\n\n" + self.blocks(node.children))

    def block_proof_node(self, node: Node) -> str:
        said = self.blocks(node[0].children)
        return quote(said.replace("Proof.", "**Proof.**", 1) + " ∎")

    def block_theorem_node(self, node: Node) -> str:
        kind = node.get("countertype", "exercise")
        head = f"{node.get('realtype', kind).capitalize()} {self.number(kind, node)}"
        head += self.inline(node[0]).rstrip()
        return quote(f"**{head}**\n\n" + self.blocks(node[1].children))

    block_lemma_node = block_corollary_node = block_proposition_node = block_theorem_node
    block_definition_node = block_exercise_enumerable_node = block_theorem_node

    def number(self, kind: str, node: Node) -> str:
        """The number that Sphinx has given to a figure, an equation, a theorem."""
        numbers = self.builder.env.toc_fignumbers.get(self.docname, {}).get(kind, {})
        found = [numbers[name] for name in node["ids"] if name in numbers]
        return ".".join(map(str, found[0])) if found else ""


def plain(text: str) -> str:
    """Text in which nothing is taken for Markdown or a formula."""
    return re.sub(r"[\\`*$]|(?<!\w)_|_(?!\w)|<(?=[\w/!])", r"\\\g<0>", text)


def indent(text: str, by: str) -> str:
    return "\n".join((by + line).rstrip() for line in text.split("\n"))


def quote(text: str) -> str:
    """A quotation.  Display equations go on one line: a `>` inside one would be typeset."""
    text = re.sub(r"^\$\$\n(?s:.)*?\n\$\$$", lambda m: " ".join(m[0].split("\n")), text, flags=re.M)
    return indent(text, "> ")


def fold(title: str, text: str) -> str:
    """What a reader opens when they want to."""
    return f"<details>\n<summary><b>{title}</b></summary>\n\n{text}\n\n</details>"


class NotebookBuilder(Builder):
    """`sphinx-build -b notebooks`: a notebook for every chapter."""

    name = format = "notebooks"

    def init(self) -> None:
        self.book = Book(Path(self.app.srcdir))
        self.chapters = {page.removesuffix(".md") for page in self.book.chapters}
        self.macros: dict[str, str] = self.config.mathjax3_config["tex"]["macros"]
        self.macro = re.compile(rf"\\({'|'.join(self.macros)})(?![a-zA-Z])")

    def prepare_writing(self, docnames: set[str]) -> None:
        # Citations lead to what is cited: a bibliography is no notebook.
        self.sources = {}
        bibliography: Any = self.env.get_domain("cite")
        for found in bibliography.citations:
            fields = found.entry.fields
            doi = f"https://doi.org/{fields['doi']}" if "doi" in fields else ""
            self.sources[found.citation_id] = doi or fields.get("url", "")

    def get_outdated_docs(self) -> set[str]:
        return self.chapters

    def get_target_uri(self, docname: str, typ: str | None = None) -> str:
        if docname in self.chapters:
            return f"{docname}.ipynb"
        return self.book.file(f"{docname}.md")

    def get_relative_uri(self, from_: str, to: str, typ: str | None = None) -> str:
        target = self.get_target_uri(to)
        return target if "://" in target else relative_uri(self.get_target_uri(from_), target)

    def write_doc(self, docname: str, doctree: nodes.document) -> None:
        if docname not in self.chapters:
            return
        made = Translator(self, docname)
        made.add("code", self.book.install_cell, {"tags": ["remove-cell"]})
        made.read(doctree)
        made.flush()
        notebook = {
            "cells": made.cells,
            "metadata": {
                "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                "language_info": {"name": "python"},
            },
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        path = Path(self.outdir, f"{docname}.ipynb")
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False)
        path.write_text(text + "\n", "utf8")


def make_notebooks(root: Path) -> Path:
    """Make all notebooks of a book; a warning of Sphinx is an error.

    Returns:
        The folder in which they lie. What Sphinx has read is kept beside it, so that only pages
        that have changed are read again.
    """
    made = root / ".cache" / "notebooks" / "made"
    settings = {
        "latex_individualpages": False,
        "nb_execution_mode": "off",
        "nb_mime_priority_overrides": [("notebooks", "text/plain", 0)],
        **{"html_static_path": [], "html_logo": None, "html_favicon": None},  # of pages alone
    }
    status = build_sphinx(
        root, made, noconfig=True, path_config=root / "_config.yml", confoverrides=settings,
        builder="notebooks", quiet=True, warningiserror=True, keep_going=True,
    )  # fmt: skip
    if status:
        raise SystemExit("The notebooks were not made.")
    return made


def main() -> None:
    """Write the notebooks, or check them."""
    parser = argparse.ArgumentParser(description="Make the notebooks of the book.")
    parser.add_argument("--check", action="store_true", help="change nothing, report differences")
    parser.add_argument("--root", type=Path, default=ROOT, help="of another book")
    arguments = parser.parse_args()
    made, stale = make_notebooks(arguments.root), []
    chapters = Book(arguments.root).chapters
    for name in (str(Path(page).with_suffix(".ipynb")) for page in chapters):
        text, target = (made / name).read_text("utf8"), arguments.root / name
        if not target.exists() or target.read_text("utf8") != text:
            stale.append(name)
            if not arguments.check:
                target.write_text(text, "utf8")
    if stale and arguments.check:
        sys.exit("\n  ".join(["Not up to date (run `make notebooks`):", *stale]))
    print(f"{len(chapters)} notebooks, {len(stale)} written.")


def _read_with_placeholders(app) -> None:
    if app.builder.name == NotebookBuilder.name:
        for docname in app.builder.chapters:
            path = app.env.doc2path(docname)
            reader = "notebooks.with_placeholders", {"path": path}, False
            app.env.mystnb_config.custom_formats[path] = reader


def setup(app) -> dict:
    """Register with Sphinx."""
    app.add_builder(NotebookBuilder)
    app.connect("builder-inited", _read_with_placeholders, priority=900)  # after myst-nb
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    main()
