"""Make `x.ipynb` from every chapter `x.md`, for Colab and for nbmake.

    python tools/notebooks.py            write all notebooks
    python tools/notebooks.py --check    change nothing; exit 1 if one of them is not up to date

A chapter is a MyST text notebook.  Colab and Jupyter show neither its directives nor its roles, so
they become plain Markdown here: equations keep their numbers, references become links to the other
notebooks, theorems and admonitions become quotations, folded solutions stay folded.  A directive or
role that is not in the tables below is an error and never passes through in silence.

The notebooks have no outputs and depend on nothing but the chapters, `_toc.yml`, `_config.yml` and
the bibliography, so that making them twice gives the same bytes.
"""

import argparse
import json
import posixpath
import re
import sys
import textwrap
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from myst_nb.core.read import read_myst_markdown_notebook
from myst_parser.config.main import MdParserConfig
from pybtex.database import parse_file

ROOT = Path(__file__).resolve().parent.parent

# The first cell of every notebook.  The build of the book does not see it.
INSTALL_CELL = """\
# On Colab, this installs the library of the book. Anywhere else, it does nothing.
import sys

if "google.colab" in sys.modules:
    %pip install --quiet "promptbayes @ git+{url}.git@{branch}"
"""

ADMONITIONS = {
    "admonition": "",
    "attention": "Attention",
    "caution": "Caution",
    "danger": "Danger",
    "error": "Error",
    "hint": "Hint",
    "important": "Important",
    "note": "Note",
    "seealso": "See also",
    "tip": "Tip",
    "warning": "Warning",
    "margin": "",
    "sidebar": "",
    "topic": "",
}
# sphinx-proof's boxes, each numbered by itself.
PROOFS = {
    name: name.capitalize()
    for name in (
        *("algorithm", "assumption", "axiom", "conjecture", "corollary", "criterion"),
        *("definition", "example", "lemma", "notation", "observation", "property"),
        *("proposition", "remark", "theorem"),
    )
}
TRANSPARENT = {"container", "div", "tab-set", "grid", "card-carousel", "epigraph", "only"}
CITATIONS = {"cite", "cite:p", "cite:ps", "cite:t", "cite:ts", "cite:author", "cite:year"}
REFERENCES = {"ref", "numref", "eq", "prf:ref", "math:numref", "doc"}
CODE_ROLES = {
    "code", "kbd", "file", "samp", "command", "func", "class", "mod", "meth", "attr", "data", "obj"
}  # fmt: skip

FENCE = re.compile(r"^( *)(`{3,}|~{3,}|:{3,})(.*)$")
DIRECTIVE = re.compile(r"^\{([\w:.+-]+)\}\s*(.*)$")
INLINE = re.compile(
    r"(?<!`)\{(?P<role>[\w:.+-]+)\}(?P<ticks>`+)(?!`)(?P<body>.+?)(?<!`)(?P=ticks)(?!`)"
    r"|(?<!`)(?P<cticks>`+)(?!`)(?P<code>.+?)(?<!`)(?P=cticks)(?!`)",
    re.DOTALL,
)
LINK = re.compile(r"(?<!!)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]+)\)")
IMAGE = re.compile(r"!\[(?P<alt>[^\[\]]*)\]\((?P<target>[^()\s]+)\)")
TARGET = re.compile(r"^\(([^()\s]+)\)=\s*$")
LABELLED = re.compile(r"^(.*)\$\$\s*\(([^()\s]+)\)\s*$")


class ChapterError(Exception):
    """A chapter holds something that a notebook cannot show."""


@dataclass
class Label:
    """What a cross-reference points at."""

    chapter: str
    kind: str  # "eq", "figure", "table", "section", "exercise", "theorem", ...
    number: str
    title: str

    @property
    def name(self) -> str:
        names = {"figure": "Fig.", "table": "Table", "eq": ""} | PROOFS
        return f"{names.get(self.kind, self.kind.capitalize())} {self.number}".strip()


@dataclass
class Block:
    """Either a piece of running text (`name` is empty) or a directive."""

    name: str
    argument: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    indent: str = ""

    @property
    def label(self) -> str:
        return str(self.options.get("label") or self.options.get("name", ""))

    @property
    def folded(self) -> bool:
        return "dropdown" in str(self.options.get("class", ""))


def split_blocks(lines: list[str]) -> list[Block]:
    """Split Markdown into directives and the text between them."""
    blocks: list[Block] = []
    text: list[str] = []
    i = 0
    while i < len(lines):
        opened = FENCE.match(lines[i])
        if not opened:
            text.append(lines[i])
            i += 1
            continue
        indent, fence, info = opened.groups()
        closing = re.compile(rf"^ *{re.escape(fence[0])}{{{len(fence)},}}\s*$")
        end = next((j for j in range(i + 1, len(lines)) if closing.match(lines[j])), len(lines))
        directive = DIRECTIVE.match(info.strip())
        if directive:
            if any(line.strip() for line in text):
                blocks.append(Block("", lines=text))
            text = []
            body = [line.removeprefix(indent) for line in lines[i + 1 : end]]
            options, body = split_options(body)
            blocks.append(Block(directive[1], directive[2].strip(), options, body, indent))
        else:
            text += lines[i : end + 1]
        i = end + 1
    if any(line.strip() for line in text):
        blocks.append(Block("", lines=text))
    return blocks


def split_options(body: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The options at the head of a directive (`:key: value`, or YAML between dashes)."""
    options: dict[str, Any] = {}
    if body and body[0].strip() == "---":
        end = next(i for i in range(1, len(body)) if body[i].strip() == "---")
        loaded = yaml.safe_load("\n".join(body[1:end])) or {}
        return loaded, body[end + 1 :]
    head = 0
    while head < len(body) and body[head].startswith(":") and not FENCE.match(body[head]):
        head += 1
    plain = [re.match(r"^:([\w-]+):\s*(.*)$", line) for line in body[:head]]
    if all(plain):
        options = {found[1]: found[2].strip() for found in plain if found}
    if not all(plain) or "mystnb" in options:  # nested values: YAML with a colon before each line
        loaded = yaml.safe_load("\n".join(line[1:] for line in body[:head]))
        options = dict(loaded)
    while head and head < len(body) and not body[head].strip():
        head += 1
    return options, body[head:]


def text_outside_code(lines: list[str]) -> list[str]:
    """The lines that are not inside a plain code fence."""
    kept, closing = [], None
    for line in lines:
        opened = FENCE.match(line)
        if closing:
            if closing.match(line):
                closing = None
        elif opened:
            closing = re.compile(rf"^ *{re.escape(opened[2][0])}{{{len(opened[2])},}}\s*$")
        else:
            kept.append(line)
    return kept


@dataclass
class Book:
    """The chapters in their order, and everything that can be referred to."""

    root: Path = ROOT

    @cached_property
    def config(self) -> dict[str, Any]:
        return yaml.safe_load((self.root / "_config.yml").read_text("utf8"))

    @property
    def url(self) -> str:
        return self.config["repository"]["url"]

    @property
    def branch(self) -> str:
        return self.config["repository"]["branch"]

    @cached_property
    def _pages(self) -> dict[str, tuple[int, ...]]:
        toc = yaml.safe_load((self.root / "_toc.yml").read_text("utf8"))
        pages: dict[str, tuple[int, ...]] = {toc["root"]: ()}
        count = 0

        def visit(entries: list[dict], number: tuple[int, ...]) -> None:
            for i, entry in enumerate(entries, start=1):
                if "file" not in entry:
                    continue
                own = (*number, i) if number else ()
                pages[entry["file"]] = own
                visit(entry.get("sections", []), own)

        for part in toc.get("parts", [{"chapters": toc.get("chapters", [])}]):
            numbered = part.get("numbered", False)
            for entry in part["chapters"]:
                if numbered:
                    count += 1
                pages[entry.get("file", "")] = (count,) if numbered else ()
                visit(entry.get("sections", []), (count,) if numbered else ())
        pages.pop("", None)
        return pages

    @property
    def pages(self) -> list[str]:
        """Every page of the book, as `_toc.yml` names it."""
        return list(self._pages)

    @cached_property
    def chapters(self) -> list[str]:
        """The pages that are notebooks."""
        return [page for page in self.pages if is_notebook(self.root / page)]

    @cached_property
    def bibliography(self) -> dict[str, tuple[str, str, str]]:
        """Key -> (authors, year, address)."""
        entries = {}
        for name in self.config["bibtex_bibfiles"]:
            for key, entry in parse_file(str(self.root / name), "bibtex").entries.items():
                people = [
                    " ".join(p.prelast_names + p.last_names)
                    for p in entry.persons.get("author", entry.persons.get("editor", []))
                ]
                people = [re.sub(r"[{}]", "", latex_to_text(p)) for p in people]
                who = people[0] if len(people) == 1 else f"{people[0]} and {people[1]}"
                if len(people) > 2:
                    who = f"{people[0]} et al."
                doi = entry.fields.get("doi")
                address = f"https://doi.org/{doi}" if doi else entry.fields.get("url", "")
                entries[key] = (who, entry.fields["year"], address)
        return entries

    @cached_property
    def labels(self) -> dict[str, Label]:
        """Every label of the book with the number that Sphinx gives it (`numfig`)."""
        labels: dict[str, Label] = {}
        counters: dict[tuple[str, tuple[int, ...]], int] = defaultdict(int)

        def next_number(page: str, kind: str) -> str:
            section = self._pages[page][:1]
            counters[kind, section] += 1
            return ".".join(map(str, (*section, counters[kind, section])))

        def visit(page: str, blocks: list[Block]) -> None:
            for block in blocks:
                kind = block.name.removeprefix("prf:").removesuffix("-start")
                if not block.name:
                    visit_text(page, block.lines)
                    continue
                numbered = (
                    (kind == "math" and block.label)
                    or (kind == "figure" and "".join(block.lines).strip())
                    or (kind in ("list-table", "table", "csv-table") and block.argument)
                    or (block.name == f"prf:{kind}" and kind in PROOFS)
                    or kind == "exercise"
                )
                number = ""
                if numbered and "nonumber" not in block.options:
                    kind = {"math": "eq", "list-table": "table", "csv-table": "table"}.get(
                        kind, kind
                    )
                    number = next_number(page, kind)
                if block.label:
                    labels[block.label] = Label(page, kind, number, block.argument)
                self.numbers[page, id(block)] = number
                if kind == "code-cell":
                    figure = cell_figure(block)
                    if figure is not None:
                        number = next_number(page, "figure")
                        self.numbers[page, figure.get("name", figure["caption"])] = number
                        if "name" in figure:
                            labels[figure["name"]] = Label(page, "figure", number, "")
                elif kind not in ("math", "eq"):
                    visit(page, split_blocks(block.lines))

        def visit_text(page: str, lines: list[str]) -> None:
            pending: list[str] = []
            for line in text_outside_code(lines):
                if found := TARGET.match(line):
                    pending.append(found[1])
                elif heading := re.match(r"^#+\s+(.*)$", line):
                    for name in pending:
                        labels[name] = Label(page, "section", "", heading[1])
                    pending = []
                elif found := LABELLED.match(line):
                    labels[found[2]] = Label(page, "eq", next_number(page, "eq"), "")
                elif line.strip():
                    for name in pending:
                        labels[name] = Label(page, "section", "", "")
                    pending = []

        for page in self.pages:
            visit(page, split_blocks(body_of(self.root / page)))
        return labels

    @cached_property
    def numbers(self) -> dict[tuple[str, Any], str]:
        return {}

    @cached_property
    def titles(self) -> dict[str, str]:
        titles = {}
        for page in self.pages:
            heading = next(
                (line for line in body_of(self.root / page) if re.match(r"^# ", line)), f"# {page}"
            )
            titles[page] = heading[2:].strip()
        return titles

    def address(self, page: str, target: str) -> str:
        """Where a notebook finds another page: its notebook, else its text in the repository."""
        if target in self.chapters:
            notebook = str(Path(target).with_suffix(".ipynb"))
            return posixpath.relpath(notebook, posixpath.dirname(page))
        return f"{self.url}/blob/{self.branch}/{target}"


def latex_to_text(text: str) -> str:
    from pybtex.richtext import Text

    return str(Text.from_latex(text)) if "\\" in text or "{" in text else text


def body_of(path: Path) -> list[str]:
    """The lines of a chapter without its front matter."""
    text = path.read_text("utf8")
    if text.startswith("---\n"):
        text = text.split("\n---\n", 1)[1]
    return text.split("\n")


def is_notebook(path: Path) -> bool:
    """Whether the front matter names a kernel."""
    text = path.read_text("utf8")
    if path.suffix != ".md" or not text.startswith("---\n"):
        return False
    return "kernelspec" in (yaml.safe_load(text[4:].split("\n---\n", 1)[0]) or {})


def read_chapter(path: Path) -> Any:
    """The chapter as myst-nb reads it when it builds the book."""
    return read_myst_markdown_notebook(
        path.read_text("utf8"),
        MdParserConfig(enable_extensions={"colon_fence", "dollarmath", "amsmath"}),
        "{code-cell}",
        "{raw-cell}",
        path=str(path),
    )


def cell_figure(block: Block) -> dict[str, str] | None:
    """`mystnb: {figure: {caption, name}}` of a code cell."""
    raw = block.options.get("mystnb")
    if raw is None:
        return None
    loaded = yaml.safe_load(raw) if isinstance(raw, str) else raw
    figure = (loaded or {}).get("figure")
    return figure if figure and figure.get("caption") else None


@dataclass
class Writer:
    """Turns the Markdown of one chapter into what a notebook shows."""

    book: Book
    page: str

    def fail(self, what: str) -> ChapterError:
        return ChapterError(f"{self.page}: {what}")

    # Running text

    def inline(self, text: str) -> str:
        """Roles, links and images of running text; code spans stay as they are."""
        kept: list[str] = []

        def keep(plain: str) -> str:
            kept.append(plain)
            return f"\0{len(kept) - 1}\0"

        def replace(found: re.Match) -> str:
            if found["role"]:
                return keep(self.role(found["role"], " ".join(found["body"].split())))
            return keep(found[0])

        text = INLINE.sub(replace, text)
        text = IMAGE.sub(lambda m: f"![{m['alt']}]({self.image(m['target'])})", text)
        text = LINK.sub(lambda m: self.link(m["text"], m["target"]), text)
        text = re.sub(r"^\[\^([\w-]+)\]:", r"<sup>\1</sup>", text, flags=re.MULTILINE)
        text = re.sub(r"\[\^([\w-]+)\]", r"<sup>\1</sup>", text)
        while "\0" in text:
            text = re.sub(r"\0(\d+)\0", lambda m: kept[int(m[1])], text)
        return text

    def role(self, role: str, body: str) -> str:
        name = role.removeprefix("py:")
        titled = re.match(r"^(.*?)\s*<([^<>]+)>$", body)
        if role in CITATIONS:
            return self.citation(role, body)
        if role in REFERENCES:
            return self.reference(role, titled[2] if titled else body, titled[1] if titled else "")
        if name in CODE_ROLES:
            shown = titled[1] if titled else body
            return f"`{shown.rsplit('.', 1)[-1] if shown.startswith('~') else shown.lstrip('!')}`"
        if role == "term":
            return titled[1] if titled else body
        if role == "math":
            return f"${body}$"
        if role == "abbr":
            return f"{titled[1]} ({titled[2]})" if titled else body
        if role in ("sub", "sup"):
            return f"<{role}>{body}</{role}>"
        if role == "download":
            return titled[1] if titled else body
        raise self.fail(f"no notebook text for the role {{{role}}}; see tools/notebooks.py.")

    def citation(self, role: str, body: str) -> str:
        shown = []
        for key in (part.strip() for part in body.split(",")):
            if key not in self.book.bibliography:
                raise self.fail(f"the bibliography has no entry {key!r}.")
            who, year, address = self.book.bibliography[key]
            text = {"cite:author": who, "cite:year": year}.get(role)
            if text is None:
                text = f"{who} ({year})" if role in ("cite:t", "cite:ts") else f"{who}, {year}"
            shown.append(f"[{text}]({address})" if address else text)
        joined = ("; " if role in ("cite", "cite:p", "cite:ps") else ", ").join(shown)
        return f"({joined})" if role in ("cite", "cite:p", "cite:ps") else joined

    def reference(self, role: str, target: str, text: str) -> str:
        if role == "doc":
            return self.link(text, target if target.endswith(".md") else f"{target}.md")
        label = self.book.labels.get(target)
        if label is None:
            raise self.fail(f"nothing has the label {target!r}.")
        if role == "eq" or (label.kind == "eq" and not text):
            shown = f"({label.number})"
        elif role == "numref" and text:
            shown = text.replace("%s", label.number).replace("{number}", label.number)
        elif label.kind == "section":
            shown = text or label.title
        elif role == "ref" and label.kind in ("figure", "table") and not text:
            shown = label.title or label.name
        else:
            shown = text or label.name
        if label.chapter == self.page:
            return shown
        return f"[{shown}]({self.book.address(self.page, label.chapter)})"

    def resolve(self, target: str) -> str:
        """A path as the chapter gives it, from the root of the repository."""
        base = "" if target.startswith("/") else posixpath.dirname(self.page)
        return posixpath.normpath(posixpath.join(base, target.lstrip("/")))

    def link(self, text: str, target: str) -> str:
        if re.match(r"^(https?|mailto):", target):
            return f"[{text}]({target})"
        if target.startswith("#"):
            if target[1:] in self.book.labels:
                return self.reference("ref", target[1:], text)
            return f"[{text}]({target})"
        path, _, anchor = target.partition("#")
        path = self.resolve(path)
        if path in self.book.pages:
            if anchor in self.book.labels:
                return self.reference("ref", anchor, text)
            return f"[{text or self.book.titles[path]}]({self.book.address(self.page, path)})"
        if not (self.book.root / path).exists():
            raise self.fail(f"the link {target!r} leads nowhere.")
        return f"[{text or path}]({self.book.url}/blob/{self.book.branch}/{path})"

    def image(self, target: str) -> str:
        """Colab shows no relative image, so it gets the file in the repository."""
        if re.match(r"^(https?|data):", target):
            return target
        path = self.resolve(target)
        if not (self.book.root / path).exists():
            raise self.fail(f"there is no image {target!r}.")
        raw = self.book.url.replace("https://github.com/", "https://raw.githubusercontent.com/")
        return f"{raw}/{self.book.branch}/{path}"

    def text(self, lines: list[str]) -> list[str]:
        """Running text, with plain code fences and display equations left alone."""
        out: list[str] = []
        running: list[str] = []
        closing: re.Pattern | None = None
        in_math = False

        def flush() -> None:
            if running:
                out.extend(self.inline("\n".join(running)).split("\n"))
                running.clear()

        for line in lines:
            if closing:
                out.append(line)
                if closing.match(line):
                    closing = None
                continue
            if (opened := FENCE.match(line)) and not in_math:
                flush()
                out.append(line)
                closing = re.compile(rf"^ *{re.escape(opened[2][0])}{{{len(opened[2])},}}\s*$")
                continue
            if TARGET.match(line) or line.startswith("%"):
                continue
            starts = line.count("$$")
            if starts or in_math:
                flush()
                if found := LABELLED.match(line):
                    number = self.book.labels[found[2]].number
                    line = f"{found[1]}\\tag{{{number}}}$$" if found[1].strip() else ""
                    if not line:
                        out.append(f"\\tag{{{number}}}")
                        line = "$$"
                if starts % 2:
                    in_math = not in_math
                if starts and not in_math and not line.strip().startswith("$$"):
                    line = line if "\\tag" in line else self.inline(line)
                out.append(line)
                continue
            running.append(line)
        flush()
        return out

    # Directives

    def blocks(self, lines: list[str]) -> list[str]:
        out: list[str] = []
        for block in split_blocks(lines):
            if not block.name:
                out += self.text(block.lines)
                continue
            made = self.directive(block)
            if block.indent:
                made = [block.indent + line if line else line for line in made]
            if out and out[-1].strip() and made:
                out.append("")
            out += made
            if made and made[-1].strip():
                out.append("")
        while out and not out[-1].strip():
            out.pop()
        return out

    def directive(self, block: Block) -> list[str]:
        name = block.name
        if name == "math":
            return self.equation(block)
        if name in ADMONITIONS:
            title = ADMONITIONS[name]
            lines = block.lines
            if name in ("admonition", "topic", "sidebar"):
                title = self.inline(block.argument)
            elif block.argument:
                lines = [block.argument, *lines]
            body = self.blocks(lines)
            return fold(title, body) if block.folded else quote(title, body)
        if name == "dropdown":
            return fold(self.inline(block.argument) or "More", self.blocks(block.lines))
        if name.startswith("prf:"):
            return self.proof(block)
        if name in ("exercise", "exercise-start"):
            head = self.numbered_title("Exercise", block)
            if name == "exercise-start":
                return [f"**{head}**"]
            body = self.blocks(block.lines)
            return fold(head, body) if block.folded else quote(head, body)
        if name in ("solution", "solution-start"):
            label = self.book.labels.get(block.argument)
            if label is None:
                raise self.fail(f"the solution to {block.argument!r} has no exercise.")
            head = f"Solution to {label.name}"
            if name == "solution-start":
                return [f"**{head}**"]
            return fold(head, self.blocks(block.lines))
        if name in ("exercise-end", "solution-end", "index", "tableofcontents", "toctree"):
            return []
        if name in ("figure", "image"):
            return self.figure(block)
        if name == "list-table":
            return self.list_table(block)
        if name == "table":
            caption = self.table_caption(block)
            return [*caption, *self.blocks(block.lines)]
        if name == "glossary":
            return self.glossary(block)
        if name in ("code-block", "code", "sourcecode"):
            return [f"```{block.argument}", *block.lines, "```"]
        if name in TRANSPARENT:
            return self.blocks(block.lines)
        if name in ("tab-item", "grid-item", "grid-item-card", "card"):
            title = self.inline(block.argument)
            if title and (target := block.options.get("link")):
                kind = block.options.get("link-type", "url")
                title = self.reference(kind, target, title) if kind != "url" else title
                if kind == "url":
                    title = self.link(title, target)
            body = [line for line in block.lines if line.strip() not in ("^^^", "+++")]
            return [f"**{title}**", "", *self.blocks(body)] if title else self.blocks(body)
        raise self.fail(f"no notebook text for the directive {{{name}}}; see tools/notebooks.py.")

    def equation(self, block: Block) -> list[str]:
        body = [
            line.rstrip() for line in ([block.argument] if block.argument else []) + block.lines
        ]
        text = "\n".join(body).strip("\n")
        # As Sphinx does: `\\` and `&` work without an environment of their own.
        if "\\\\" in text and "\\begin{" not in text.split("\\\\")[0]:
            text = f"\\begin{{aligned}}\n{text}\n\\end{{aligned}}"
        lines = ["$$", *(line for line in text.split("\n") if line.strip())]
        if block.label:
            lines.append(f"\\tag{{{self.book.labels[block.label].number}}}")
        return [*lines, "$$"]

    def number_of(self, block: Block) -> str:
        if block.label:
            return self.book.labels[block.label].number
        return ""

    def numbered_title(self, kind: str, block: Block) -> str:
        head = f"{kind} {self.number_of(block)}".strip()
        argument = block.argument
        return f"{head} ({self.inline(argument)})" if argument else head

    def proof(self, block: Block) -> list[str]:
        kind = block.name.removeprefix("prf:")
        body = self.blocks(block.lines)
        if kind == "proof":
            lead = self.inline(block.argument)
            body = [lead, *body] if lead else body
            return fold("Proof", body) if block.folded else quote("Proof", [*body, "", "∎"])
        if kind not in PROOFS:
            raise self.fail(f"no notebook text for the directive {{{block.name}}}.")
        return quote(self.numbered_title(PROOFS[kind], block), body)

    def figure(self, block: Block) -> list[str]:
        alt = block.options.get("alt", "")
        lines = [f"![{alt}]({self.image(block.argument)})"]
        caption = " ".join(self.blocks(block.lines)).strip()
        if caption:
            number = self.number_of(block)
            lines += ["", f"**Fig. {number}** {caption}" if number else caption]
        return lines

    def table_caption(self, block: Block) -> list[str]:
        if not block.argument:
            return []
        number = self.number_of(block)
        head = f"**Table {number}** " if number else ""
        return [head + self.inline(block.argument), ""]

    def list_table(self, block: Block) -> list[str]:
        rows: list[list[list[str]]] = []
        for line in block.lines:
            if found := re.match(r"^[*-] [*-]\s?(.*)$", line):
                rows.append([[found[1]]])
            elif found := re.match(r"^  [*-]\s?(.*)$", line):
                rows[-1].append([found[1]])
            elif line.strip():
                rows[-1][-1].append(line.strip())
        cells = [[self.inline(" ".join(cell)).replace("|", "\\|") for cell in row] for row in rows]
        if not int(block.options.get("header-rows", 0)):
            cells.insert(0, [""] * len(cells[0]))
        made = ["| " + " | ".join(row) + " |" for row in cells]
        made.insert(1, "|" + " --- |" * len(cells[0]))
        return [*self.table_caption(block), *made]

    def glossary(self, block: Block) -> list[str]:
        made: list[str] = []
        for line in block.lines:
            if line.strip() and not line.startswith(" "):
                made += ["", f"**{self.inline(line.strip())}**  "]
            elif line.strip():
                made.append(self.inline(line.strip().removeprefix(": ")))
        return made[1:]


def quote(title: str, body: list[str]) -> list[str]:
    """A quotation.  Display equations go on one line: a `>` inside one would be typeset."""
    lines, formula = [], None
    for line in body:
        if formula is not None:
            formula.append(line.strip())
            if line.strip().endswith("$$"):
                lines.append(" ".join(formula))
                formula = None
        elif line.strip() == "$$" or (line.strip().startswith("$$") and line.count("$$") == 1):
            formula = [line.strip()]
        else:
            lines.append(line)
    head = [f"**{title}**", ""] if title else []
    return [f"> {line}".rstrip() for line in head + lines]


def fold(title: str, body: list[str]) -> list[str]:
    """What a reader opens when they want to."""
    return ["<details>", f"<summary><b>{title}</b></summary>", "", *body, "", "</details>"]


def make_notebook(book: Book, page: str) -> str:
    """The notebook of one chapter, as the text of its file."""
    book.labels  # noqa: B018  numbers everything first
    chapter = read_chapter(book.root / page)
    writer = Writer(book, page)
    sources: list[tuple[str, str, dict]] = [
        ("code", INSTALL_CELL.format(url=book.url, branch=book.branch), {"tags": ["remove-cell"]})
    ]
    cell: Any
    for cell in chapter.cells:
        if cell.cell_type == "markdown":
            text = "\n".join(writer.blocks(cell.source.split("\n"))).strip("\n")
            text = re.sub(r"\n{3,}", "\n\n", text)
            if text:
                sources.append(("markdown", text, dict(cell.metadata)))
            continue
        metadata = json.loads(json.dumps(cell.metadata))
        tags = metadata.get("tags", [])
        hidden = {"hide-input", "hide-cell", "remove-input", "remove-cell"} & set(tags)
        if hidden and "exercise-check" not in tags:  # these are for writing in
            metadata["jupyter"] = {"source_hidden": True}
            metadata["cellView"] = "form"
        sources.append(("code", cell.source, metadata))
        figure = metadata.get("mystnb", {}).get("figure")
        if figure and figure.get("caption"):
            name = figure.get("name")
            number = book.labels[name].number if name in book.labels else ""
            caption = writer.inline(figure["caption"].strip())
            head = f"**Fig. {number}** " if number else ""
            sources.append(("markdown", head + caption, {}))

    cells = []
    for i, (kind, source, metadata) in enumerate(sources):
        made: dict[str, Any] = {
            "cell_type": kind,
            "id": f"x-{i:03d}",
            "metadata": metadata,
            "source": source.rstrip("\n").splitlines(keepends=True),
        }
        if kind == "code":
            made |= {"execution_count": None, "outputs": []}
        cells.append(made)
    notebook = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the notebooks, or check them."""
    parser = argparse.ArgumentParser(description=textwrap.dedent(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing, report differences")
    arguments = parser.parse_args()
    book = Book()
    stale, refused = [], 0
    for page in book.chapters:
        target = (book.root / page).with_suffix(".ipynb")
        try:
            made = make_notebook(book, page)
        except ChapterError as error:
            print(error, file=sys.stderr)
            refused += 1
            continue
        if not target.exists() or target.read_text("utf8") != made:
            stale.append(str(target.relative_to(book.root)))
            if not arguments.check:
                target.write_text(made, "utf8")
    if stale and arguments.check:
        print("Not up to date (run `make notebooks`):", *stale, sep="\n  ")
    if refused or (stale and arguments.check):
        return 1
    print(f"{len(book.chapters)} notebooks, {len(stale)} written.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
