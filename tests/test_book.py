"""The book: its notebooks, the files around it, and, after a build, its pages.

The tests of the pages read `_build/html`.  They are skipped where there is none or an old one;
`make book` builds it and then runs them with BOOK_HTML=required, which forbids the skip.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import promptbayes
import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
sys.path.insert(0, str(ROOT / "tools"))

import bookcache  # noqa: E402
import docstrings  # noqa: E402
import drawings  # noqa: E402
import execute  # noqa: E402
import notebooks  # noqa: E402

BOOK = notebooks.Book()

# What Colab would show as it stands: a directive, a role, a target, an option of a directive.
MYST = re.compile(
    r"^\s*(`{3,}|~{3,}|:{3,})\s*\{|\{[\w:.+-]+\}`|^\([^()\s]+\)=\s*$|^:(label|name|class|alt):",
    re.MULTILINE,
)


def markdown_of(text: str) -> list[str]:
    cells = json.loads(text)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


def code_of(text: str) -> list[str]:
    cells = json.loads(text)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_no_page_has_a_placeholder():
    for page in BOOK.pages:
        for line in (ROOT / page).read_text().splitlines():
            assert not re.fullmatch(r"[A-Z]+(-[A-Z]+)+|.*\b(TODO|FIXME|TBD)\b.*", line), (
                page,
                line,
            )


# The chapters and their notebooks


def test_every_page_of_the_book_is_in_the_toc_and_exists():
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / "book").rglob("*.md")}
    assert set(BOOK.pages) == found - {p for p in found if p.startswith("book/assets/")}
    assert len(BOOK.pages) == len(set(BOOK.pages))


def test_every_page_with_code_is_a_chapter_and_every_notebook_has_one():
    for page in BOOK.pages:
        if "{code-cell}" in (ROOT / page).read_text("utf8"):
            assert page in BOOK.chapters, f"{page} has code, but its front matter names no kernel"
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "book").rglob("*.ipynb")
        if ".ipynb_checkpoints" not in path.parts
    }
    assert found == {str(Path(page).with_suffix(".ipynb")) for page in BOOK.chapters}


def notebooks_of(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "tools" / "notebooks.py", "--root", root, *options]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.skipif(
    os.environ.get("BOOK_HTML") == "required", reason="`make book` has just done it"
)
def test_notebooks_are_what_the_chapters_make():
    done = notebooks_of(ROOT, "--check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", BOOK.chapters)
def test_notebook_has_no_directive_no_role_and_no_output(page):
    text = (ROOT / page).with_suffix(".ipynb").read_text("utf8")
    for source in markdown_of(text):
        assert not MYST.search(source), source
    cells = json.loads(text)["cells"]
    assert [cell["id"] for cell in cells] == [f"x-{i:03d}" for i in range(len(cells))]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.parametrize("page", BOOK.chapters)
def test_notebook_installs_on_colab_and_only_there(page):
    text = (ROOT / page).with_suffix(".ipynb").read_text("utf8")
    first, *others = code_of(text)
    assert 'if "google.colab" in sys.modules:\n    %pip install' in first
    assert f"git+{BOOK.url}.git@{BOOK.branch}" in first
    assert not any("pip install" in source for source in others)


@pytest.mark.parametrize("page", BOOK.chapters)
def test_every_figure_of_a_chapter_says_what_it_shows(page):
    for cell in notebooks.read_chapter(ROOT / page).cells:
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt")
        assert alt is None or len(alt.split()) >= 4, f"{page}: alt text {alt!r} is too short"


@pytest.mark.parametrize("page", BOOK.chapters)
def test_every_figure_of_a_notebook_is_told_in_words(page):
    """Neither Jupyter nor Colab reads an alternative text from a cell, so it stands below."""
    cells = json.loads((ROOT / page).with_suffix(".ipynb").read_text("utf8"))["cells"]
    below = {"".join(c["source"]): "".join(n["source"]) for c, n in pairwise(cells)}
    for cell in notebooks.read_chapter(ROOT / page).cells:
        if alt := cell.metadata.get("mystnb", {}).get("image", {}).get("alt"):
            assert notebooks.plain(alt) in below[cell.source.rstrip("\n")], alt
    shown = "\n".join(markdown_of(json.dumps({"cells": cells})))
    assert all(len(alt.split()) >= 4 for alt in re.findall(r"!\[(.*?)\]\(", shown))


def formulas(source: str) -> list[str]:
    text = re.sub(r"(?s)```.*?```|`[^`]*`|\\\$", "", source)
    return re.findall(r"(?s)\$\$(.+?)\$\$|\$([^$]+?)\$", text)


@pytest.mark.parametrize("page", BOOK.chapters)
def test_formulas_of_a_notebook_need_no_macros(page):
    """Nothing defines the macros of `_config.yml` there, and Colab forgets definitions."""
    macros = BOOK.config["sphinx"]["config"]["mathjax3_config"]["tex"]["macros"]
    text = (ROOT / page).with_suffix(".ipynb").read_text("utf8")
    for formula in ("".join(parts) for source in markdown_of(text) for parts in formulas(source)):
        assert not re.search(rf"\\({'|'.join(macros)})(?![a-zA-Z])", formula), formula
        assert len(re.findall(r"(?<!\\)\{", formula)) == len(re.findall(r"(?<!\\)\}", formula))


@pytest.mark.parametrize("page", BOOK.chapters)
def test_solutions_of_a_notebook_are_folded(page):
    source = (ROOT / page).read_text("utf8")
    cells = json.loads((ROOT / page).with_suffix(".ipynb").read_text("utf8"))["cells"]
    code = [c["metadata"] for c in cells if "exercise-solution" in c["metadata"].get("tags", [])]
    assert len(code) == source.count(":tags: [exercise-solution]")
    assert all(c["cellView"] == "form" and c["jupyter"]["source_hidden"] for c in code)
    words = [w for w in markdown_of(json.dumps({"cells": cells})) if "Solution to Exercise" in w]
    assert len(words) >= source.count("{solution-start}")
    assert all(w.startswith("<details>") and w.endswith("</details>") for w in words)


FRONT = """---
jupytext: {text_representation: {format_name: myst}}
kernelspec: {name: python3, language: python, display_name: Python 3}
---

"""


def small_book(root: Path, **chapters: str) -> Path:
    """A book of a few chapters, the first of them its cover page."""
    (root / "book").mkdir()
    for name, text in chapters.items():
        (root / "book" / f"{name}.md").write_text(text, "utf8")
    first, *others = (f"book/{name}.md" for name in chapters)
    part = {"caption": "Part", "numbered": True, "chapters": [{"file": name} for name in others]}
    toc = {"format": "jb-book", "root": first} | ({"parts": [part]} if others else {})
    (root / "_toc.yml").write_text(yaml.safe_dump(toc), "utf8")
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
    config["repository"] |= {"url": "https://github.com/someone/something"}
    config["sphinx"]["local_extensions"] = {"notebooks": "tools", "webpages": "tools"}
    (root / "_config.yml").write_text(yaml.safe_dump(config), "utf8")
    shutil.copy(ROOT / "book" / "references.bib", root / "book" / "references.bib")
    (root / "book" / "curve.svg").write_text("<svg/>", "utf8")
    return root


EVERYTHING = r"""
(here)=
# Title

See {doc}`first` and {ref}`the start <start>`, {eq}`eq-a` and {eq}`eq-b`, {numref}`fig-a`,
{prf:ref}`thm-a`, {cite:t}`genewein2025`, {cite:p}`xie2021`, ``{role}`kept` ``,
[the start](first.md), [](#eq-b) and {py:class}`sum`; 2 * 3, \$5, $\E x$.

```{math}
:label: eq-a
a &= \KL \\
c &= d
```

$$
x = y
$$ (eq-b)

::::{prf:theorem} A name
:label: thm-a

By {eq}`eq-b`,

$$
x
> 0.
$$

::::

:::{important}
- One
- Two, $|x|$
:::

```{figure} curve.svg
:name: fig-a
:alt: A curve that falls

What it shows, with {eq}`eq-a`.
```

```{list-table}
:header-rows: 1
* - a
  - b
* - $|x|$
  - *y*
```

```{exercise} Try
:label: ex-a
Do it.
```

```{solution-start} ex-a
:class: dropdown
```

Done, by {prf:ref}`thm-a`.

```{code-cell} ipython3
:tags: [exercise-solution]
answer = 1
```

```{solution-end}
```

```{code-cell} ipython3
:tags: [hide-input]
:mystnb:
:  image:
:    alt: "A line that rises"
:  figure:
:    name: fig-b
:    caption: "It rises, see {eq}`eq-a`."
x = 1
```
"""


def test_generator_turns_everything_into_plain_markdown(tmp_path):
    start = FRONT + "(start)=\n# Start\n\nHello, {doc}`second`.\n"
    last = "# Bibliography\n\n```{bibliography}\n```\n"
    book = small_book(tmp_path, first=start, second=FRONT + EVERYTHING, last=last)
    done = notebooks_of(book)
    assert done.returncode == 0, done.stderr
    text = (book / "book" / "second.ipynb").read_text("utf8")
    shown = "\n\n".join(markdown_of(text))
    assert not MYST.search(shown.replace("`` {role}`kept` ``", ""))
    for expected in (
        "See [Start](first.ipynb) and [the start](first.ipynb), (1.1) and (1.2), Fig. 1.1,\n",
        "Theorem 1.1, Genewein *et al.* [[2025](https://arxiv.org/abs/2505.17010)], [[Xie *et al.*",
        ", 2021](https://arxiv.org/abs/2111.02080)], `` {role}`kept` ``,\n[the start](first.ipynb)",
        "and `sum`; 2 \\* 3, \\$5, $\\operatorname{E} x$.",
        "$$\n\\begin{aligned}\na &= \\operatorname{KL} \\\\\n",
        "c &= d\n\\end{aligned}\n\\tag{1.1}\n$$",
        "$$\nx = y\n\\tag{1.2}\n$$",
        "> **Theorem 1.1 (A name)**\n>\n> By (1.2),\n>\n> $$ x > 0. $$",
        "> **Important**\n>\n> - One\n> - Two, $|x|$",
        "![A curve that falls](https://raw.githubusercontent.com/someone/something/main/book/",
        "**Fig. 1.1** What it shows, with (1.1).",
        "| a | b |\n| --- | --- |\n| $\\vert{}x\\vert{}$ | *y* |",
        "> **Exercise 1.1 (Try)**\n>\n> Do it.",
        "<details>\n<summary><b>Solution to Exercise 1.1</b></summary>\n\nDone, by Theorem 1.1.\n",
        "**Fig. 1.2** It rises, see (1.1).",
        "<summary><b>The figure in words</b></summary>\n\nA line that rises\n\n</details>",
    ):
        assert expected in shown, expected
    folded = [c["metadata"].get("cellView") for c in json.loads(text)["cells"] if "outputs" in c]
    assert folded == [None, "form", "form"]
    again = book / ".cache" / "notebooks" / "made" / "book" / "second.ipynb"
    assert notebooks_of(book, "--check").returncode == 0
    assert again.read_text("utf8") == text
    (book / "book" / "second.md").write_text(FRONT + "# Another", "utf8")
    stale = notebooks_of(book, "--check")
    assert stale.returncode == 1
    assert "book/second.ipynb" in stale.stderr
    assert (book / "book" / "second.ipynb").read_text("utf8") == text


def test_generator_refuses_what_it_cannot_show(tmp_path):
    wrong = {
        "```{mermaid}\nx\n```": "Unknown directive type: 'mermaid'",
        "A {strange}`role`.": '"strange"',
        "See {eq}`eq-none`.": "eq-none",
        "{cite}`nobody1900`": '"nobody1900"',
        "[x](nowhere.md)": "nowhere.md",
        "![x](nowhere.svg)": "nowhere.svg",
    }
    (tmp_path / "wrong").mkdir()
    done = notebooks_of(
        small_book(tmp_path / "wrong", first=FRONT + "# Start\n\n" + "\n\n".join(wrong))
    )
    assert done.returncode == 1
    assert [message for message in wrong.values() if message not in done.stderr] == []
    (tmp_path / "new").mkdir()
    note = "# Start\n\nA note.[^1]\n\n[^1]: Here."
    done = notebooks_of(small_book(tmp_path / "new", first=FRONT + note))
    assert done.returncode != 0
    assert "no notebook text for <footnote_reference>" in done.stderr


# Their execution


def executed(*cells: tuple[str, str, str]):
    """A notebook as nbmake leaves it: the install cell, then (source, stream, text)."""
    done = nbformat.v4.new_notebook()
    done.cells = [nbformat.v4.new_code_cell("install")]
    for source, stream, text in cells:
        output = nbformat.v4.new_output("stream", name=stream, text=text)
        done.cells.append(nbformat.v4.new_code_cell(source, outputs=[output], execution_count=7))
    return done


def test_outputs_go_to_the_cells_of_the_chapter(tmp_path):
    text = (
        FRONT
        + "# Start\n\n```{code-cell}\nprint(1)\n```\n\nText.\n\n```{code-cell}\nprint(2)\n```\n"
    )
    small_book(tmp_path, first=text)
    path = tmp_path / "book" / "first.md"
    run = executed(("print(1)", "stdout", "1"), ("print(2)", "stdout", "2"))
    joined = execute.join_outputs(notebooks.read_chapter(path), run)
    shown = [cell.outputs[0].text for cell in joined.cells if cell.cell_type == "code"]
    assert shown == ["1", "2"]
    changed = executed(("print(1)", "stdout", "1"), ("print(3)", "stdout", "3"))
    with pytest.raises(ValueError, match="make notebooks"):
        execute.join_outputs(notebooks.read_chapter(path), changed)


def test_a_chapter_that_prints_to_stderr_is_found():
    run = executed(("print(1)", "stdout", "1"), ("tune()", "stderr", "50%|#####"))
    (found,) = execute.stderr_of(run)
    assert "tune()" in found
    assert "50%" in found
    assert execute.stderr_of(executed(("print(1)", "stdout", "1"))) == []


# The files around the book


def own_files() -> list[Path]:
    """The text files of the repository that people write."""
    skipped = {"_build", "mathjax", "__pycache__", "build"}
    return [
        path
        for path in sorted(ROOT.rglob("*"))
        if path.suffix in {".py", ".md", ".yml", ".toml", ".txt", ".cff", ".bib", ".css", ""}
        and path.is_file()
        and not skipped & set(path.relative_to(ROOT).parts)
        and not any(
            (part.startswith(".") and part != ".ci") or part.endswith(".egg-info")
            for part in path.relative_to(ROOT).parts
        )
    ]


def test_the_address_of_the_repository_stands_once():
    holding = [path for path in own_files() if BOOK.url.split("//")[1] in path.read_text("utf8")]
    assert [path.relative_to(ROOT).as_posix() for path in holding] == ["_config.yml"]


def test_licence_of_code_and_text():
    text = (ROOT / "LICENSE").read_text("utf8")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "CC BY 4.0" in text


def test_citation_of_book_and_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["preferred-citation"]["title"].startswith(BOOK.config["title"])
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == [
        "Genewein", "Wenliang", "Grau-Moya", "Ruoss", "Orseau", "Hutter",
    ]  # fmt: skip
    assert "2505.17010" in paper["url"]


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf8"))
    assert citation["version"] == promptbayes.__version__ == version("promptbayes")
    changes = (ROOT / "CHANGELOG.md").read_text("utf8")
    assert f"\n## {promptbayes.__version__}, {citation['date-released']}\n" in changes


def test_readme_names_only_what_exists():
    tree = re.search(r"```text\n(.*?)```", (ROOT / "README.md").read_text("utf8"), re.DOTALL)
    assert tree is not None
    names = re.findall(r"^([\w./-]+)", tree[1], re.MULTILINE)
    assert len(names) >= 6
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_readme_example_gives_what_it_says():
    """Each `# 1.234 ...` comment is the rounded value of the last expression before it."""
    text = (ROOT / "README.md").read_text("utf8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope: dict = {}
    said = 0
    for line in example.splitlines():
        found = re.match(r"^(?P<code>[^#]+?)\s+# (?P<sign>[<]?)\s*(?P<value>\d+\.\d+)", line)
        if not found:
            exec(line, scope)
            continue
        value, expected = float(eval(found["code"], scope)), found["value"]
        said += 1
        if found["sign"]:
            assert value < float(expected), line
        else:
            assert f"{value:.{len(expected.split('.')[1])}f}" == expected, line
    assert said >= 3


@pytest.mark.parametrize("name", sorted(drawings.drawings()))
def test_drawing_is_what_its_code_draws(name):
    assert (drawings.ASSETS / name).read_text("utf8") == drawings.drawings()[name]


def test_a_change_of_the_library_changes_the_key(tmp_path, monkeypatch):
    library = tmp_path / "promptbayes"
    library.mkdir()
    (library / "tasks.py").write_text("a = 1\n")
    monkeypatch.setattr(bookcache, "LIBRARY", library)
    keys = [bookcache.library_key()]
    (library / "tasks.py").write_text("a = 2\n")
    keys.append(bookcache.library_key())
    (library / "weights").mkdir()
    (library / "weights" / "lstm.safetensors").write_bytes(b"\0")
    keys.append(bookcache.library_key())
    monkeypatch.setattr(bookcache, "_installed", lambda package: "0")
    keys.append(bookcache.library_key())
    assert len(set(keys)) == 4
    assert bookcache.library_key() == keys[-1]


def test_docstrings_become_restructuredtext():
    made = docstrings.to_rst(
        [
            "Regret over |A|^N sequences of `tau`.",
            "",
            "    R(n) = x_<n * |A|",
            "",
            "Args:",
            "    length: N, with `a_b` and c_d.",
            "Example:",
            "    >>> a_b",
            "    c_d",
        ]
    )
    assert made == [
        r"Regret over \|A\|^N sequences of ``tau``.",
        "",
        ".. code-block:: text",
        "",
        "    R(n) = x_<n * |A|",
        "",
        "Args:",
        r"    length: N, with ``a_b`` and c\_d.",
        "Example:",
        "    >>> a_b",
        "    c_d",
    ]


# The page of the library

API = "book/reference/api.md"


def documented_modules() -> list[str]:
    text = (ROOT / API).read_text("utf8")
    return re.findall(r"^\.\. automodule:: promptbayes\.(\w+)$", text, re.MULTILINE)


def test_api_page_has_every_module_once():
    assert sorted(documented_modules()) == sorted(docstrings.modules())


def test_modules_stand_in_the_order_of_their_imports():
    """As the page says: none imports from one below it."""
    order = documented_modules()
    for name, module in docstrings.modules().items():
        text = Path(module.__file__).read_text("utf8")
        imported = re.findall(r"^ *from \.(\w+) import", text, re.MULTILINE)
        for names in re.findall(r"^ *from \. import \(?([^()\n]+)", text, re.MULTILINE):
            imported += [part.split(" as ")[0].strip() for part in names.split(",")]
        below = set(order[order.index(name) :])
        assert not below & set(imported), f"{name} imports {below & set(imported)}"


def test_names_that_stand_for_two_things_are_told_apart():
    homes: dict[str, list[str]] = {}
    for name, module in docstrings.modules().items():
        for defined in docstrings.definitions(module):
            homes.setdefault(defined, []).append(name)
    text = (ROOT / API).read_text("utf8")
    section = text.split("## Names that stand for two things")[1].split("\n## ")[0]
    told = {}
    for terms, words in re.findall(r"^(`.+)\n: (.+)$", section, re.MULTILINE):
        for term in re.findall(r"`(\w+)`", terms):
            told[term] = set(re.findall(r"`(\w+)`", words))
    twice = {name: set(where) for name, where in homes.items() if len(where) > 1}
    assert told.keys() == twice.keys()
    assert all(told[name] >= where for name, where in twice.items())


# The built pages


def _why_not() -> str:
    if not (HTML / "sources.txt").exists():
        return "there is no built book; run `make book`"
    if (HTML / "sources.txt").read_text("utf8").strip() != bookcache.sources_key():
        return "the built book is older than its sources; run `make book`"
    return ""


@pytest.fixture(scope="module")
def pages() -> dict[str, BeautifulSoup]:
    reason = _why_not()
    if reason and os.environ.get("BOOK_HTML") == "required":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    return {
        path.relative_to(HTML).as_posix(): parse(path)
        for path in sorted(HTML.rglob("*.html"))
        if not {"_static", "_sources"} & set(path.relative_to(HTML).parts)
    }


@cache
def parse(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf8"), "html.parser")


def of_chapter(pages: dict[str, BeautifulSoup], page: str) -> BeautifulSoup:
    return pages[str(Path(page).with_suffix(".html"))]


def test_every_page_was_built(pages):
    assert {str(Path(page).with_suffix(".html")) for page in BOOK.pages} <= set(pages)
    assert "index.html" in pages
    for page in BOOK.pages:
        assert len(of_chapter(pages, page).select("article h1")) == 1, page


def test_images_have_alt_text(pages):
    poor = [
        (name, image["src"], image.get("alt"))
        for name, page in pages.items()
        for image in page.select("article img")
        if len(image.get("alt", "").split()) < 3
        or re.search(r"\.(png|svg|jpe?g|gif)$", image.get("alt", ""))
    ]
    assert poor == []


def test_references_are_resolved(pages):
    for name, page in pages.items():
        article = page.select_one("article") or page
        loose = [x for x in article.select(".xref:not(a)") if x.find_parent("a") is None]
        assert loose == [], name
        assert not article.select(".problematic, .system-message"), name
        assert "[?]" not in article.get_text(), name


def test_api_page_shows_everything_public(pages):
    page = of_chapter(pages, API)
    shown = {str(element["id"]) for element in page.select("article [id]")}
    missing = []
    for name, module in docstrings.modules().items():
        missing += [f"{name}.{defined}" for defined in docstrings.definitions(module)]
        for (kind, field), described in docstrings.fields(module).items():
            missing += [] if described else [f"{name}.{kind}.{field}"]
    assert [name for name in missing if f"promptbayes.{name}" not in shown] == []
    for name in ("predictor.Predictor", "regret.SequentialPredictor", "networks.Torso"):
        assert f"promptbayes.{name}.__call__" in shown
    table = page.select_one("#what-pb-exports table")
    assert table is not None
    rows = [row.select_one("td a[href]") for row in table.select("tbody tr")]
    listed = {str(link.get_text()): str(link["href"]) for link in rows if link is not None}
    assert sorted(listed) == sorted(promptbayes.__all__)
    assert all(link.removeprefix("#") in shown for link in listed.values())
    for name, link in listed.items():  # of two things of one name, that which is exported
        home = getattr(getattr(promptbayes, name), "__module__", "")
        assert not home.startswith("promptbayes.") or link == f"#{home}.{name}"


def test_links_inside_the_book_lead_somewhere(pages):
    broken = []
    for name, page in pages.items():
        for link in page.select("a[href]"):
            parts = urlsplit(str(link["href"]))
            if parts.scheme or parts.netloc or str(link["href"]) in ("#", ""):
                continue
            path = (HTML / name).parent / unquote(parts.path) if parts.path else HTML / name
            path = Path(os.path.normpath(path))
            if not path.exists():
                broken.append((name, link["href"]))
            elif parts.fragment and path.suffix == ".html":
                anchors = parse(path)
                if not anchors.find(attrs={"id": unquote(parts.fragment)}):
                    broken.append((name, link["href"]))
    assert broken == []


@pytest.mark.parametrize("page", BOOK.chapters)
def test_colab_button_opens_the_notebook(pages, page):
    links = {
        str(link["href"])
        for link in of_chapter(pages, page).select("a[href]")
        if "colab.research.google.com" in str(link["href"])
    }
    notebook = str(Path(page).with_suffix(".ipynb"))
    repository = BOOK.url.removeprefix("https://github.com/")
    base = "https://colab.research.google.com/github"
    assert links == {f"{base}/{repository}/blob/{BOOK.branch}/{notebook}"}
    assert (ROOT / notebook).exists()


def test_pages_load_nothing_from_elsewhere(pages):
    remote = re.compile(r"^(https?:)?//")
    loaded = []
    for name, page in pages.items():
        for tag, attribute in (
            ("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"),
            ("source", "src"), ("video", "src"), ("object", "data"), ("embed", "src"),
        ):  # fmt: skip
            for element in page.find_all(tag, attrs={attribute: remote}):
                if tag == "link" and element.get("rel") in (["canonical"], ["license"]):
                    continue
                loaded.append((name, element[attribute]))
    assert loaded == []
    for sheet in HTML.rglob("*.css"):
        text = sheet.read_text("utf8")
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", text), sheet


def test_mathjax_and_its_fonts_lie_in_the_book(pages):
    for name, page in pages.items():
        for script in page.select("script[src*=mathjax]"):
            path = (HTML / name).parent / str(script["src"]).split("?")[0]
            assert path.resolve().is_file()
            assert len(list(path.parent.glob("output/chtml/fonts/woff-v2/*.woff"))) > 20
            assert (path.parent / "input/tex/extensions/ams.js").is_file()


@pytest.mark.parametrize("page", BOOK.chapters)
def test_numbers_in_the_notebook_are_those_of_the_page(pages, page):
    article = of_chapter(pages, page)
    on_page = {
        span.get_text().strip("()#\N{PILCROW SIGN}\N{LINK SYMBOL} ")
        for span in article.select("article .eqno")
    }
    text = (ROOT / page).with_suffix(".ipynb").read_text("utf8")
    shown = "\n".join(markdown_of(text))
    assert set(re.findall(r"\\tag\{([\d.]+)\}", shown)) == on_page
    boxes = {
        re.sub(r"\s+", " ", number.get_text()).strip()
        for number in article.select("article .admonition-title .caption-number")
    }
    titles = set(re.findall(r"(?:\*\*|<b>)((?!Solution)[A-Z][a-z]+ [\d.]+)", shown))
    assert boxes - titles == set()


@pytest.mark.parametrize("page", BOOK.chapters)
def test_outputs_are_results_not_noise(pages, page):
    article = of_chapter(pages, page)
    assert not article.select(".output.stderr, .output.traceback")
    assert "it/s]" not in article.get_text()


@pytest.mark.parametrize("page", [page for page in BOOK.chapters if "/pr" in page])
def test_exercises_reject_the_starter_and_accept_the_solution(pages, page):
    """What the self-checks printed when the page ran: on the starter, and on the solution."""
    article = of_chapter(pages, page)

    def printed(tag):
        return [
            " ".join(output.get_text() for output in cell.select(".cell_output"))
            for cell in article.select(f"div.cell.tag_{tag}")
        ]

    starters, solutions = printed("exercise-check"), printed("exercise-solution")
    assert len(starters) == len(solutions) >= 2
    assert all("Not yet" in text and "Correct." not in text for text in starters), starters
    assert all("Correct." in text and "Not yet" not in text for text in solutions), solutions
