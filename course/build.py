"""Make the student's and the teacher's notebook of every assignment from its one source.

    python course/build.py                     notebooks for students and for teachers, the secret
    python course/build.py --check             change nothing; exit 1 if a notebook is out of date
    python course/build.py --roster FILE       and a ticket for every id in FILE, one a line

A source is a MyST text notebook, as a chapter is. Three things are special in it:

- a code cell with `:question: q1` and the tag `answer` is where a student writes. What stands
  between BEGIN SOLUTION and END SOLUTION is for teachers; what stands before is the starter;
- a code cell with `:question: q1`, `:points: 3` and the tag `grade` checks. What stands between
  BEGIN HIDDEN TESTS and END HIDDEN TESTS says what is asked of the answers; `grade.py` explains it;
- what stands between BEGIN MARK SCHEME and END MARK SCHEME is how to mark by hand.

These marks, and what takes them out, are nbgrader's.
"""

import argparse
import csv
import hashlib
import hmac
import logging
import re
import secrets
import sys
from pathlib import Path

import jupytext
import nbformat
from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearMarkScheme,
    ClearSolutions,
    LockCells,
)

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tools"))

from repository import ROOT, Repository  # noqa: E402

SECRET = HERE / "secret.txt"
MARKS = ("SOLUTION", "HIDDEN TESTS", "MARK SCHEME")


def sources():
    """Name -> source of every assignment."""
    return {path.stem: path for path in sorted((HERE / "assignments").glob("*.md"))}


def link(target):
    """The address of a file of the repository; a chapter's notebook shows its formulas."""
    path = ROOT / target
    if not path.exists():
        raise ValueError(f"a link of an assignment leads nowhere: {target!r}.")
    notebook = path.with_suffix(".ipynb")
    shown = notebook if path.suffix == ".md" and notebook.exists() else path
    return Repository().file(shown.relative_to(ROOT).as_posix())


def teacher(source):
    """The notebook with its solutions, hidden tests and marking schemes."""
    read = jupytext.reads(Path(source).read_text("utf8"), fmt="md:myst")
    cells = [nbformat.v4.new_code_cell(Repository().install_cell)]
    for cell in read.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(
                r"\]\(/([^()\s#]+)\)", lambda found: f"]({link(found[1])})", cell.source
            )
        tags = cell.metadata.pop("tags", [])
        question = cell.metadata.pop("question", None)
        points = cell.metadata.pop("points", None)
        if question:
            grade = "grade" in tags
            cell.metadata["nbgrader"] = {
                "schema_version": 3,
                "grade_id": question if grade else f"{question}-answer",
                "grade": grade,
                "solution": not grade,
                "locked": grade,
                "task": False,
            } | ({"points": points} if grade else {})
        cells.append(cell)
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata.kernelspec = {
        "display_name": "Python 3", "language": "python", "name": "python3"
    }  # fmt: skip
    made.metadata.language_info = {"name": "python"}
    for number, cell in enumerate(made.cells):
        cell.id = f"x-{number:03d}"
    return made


def student(source):
    """The notebook that is handed out."""
    made = teacher(source)
    for step in (
        ClearSolutions(code_stub={"python": "# Your code comes here."}),
        LockCells(),
        ClearHiddenTests(),
        ClearMarkScheme(enforce_metadata=False),
        CheckCellMetadata(),
    ):
        step.log.setLevel(logging.WARNING)
        made, _ = step.preprocess(made, {})
    made.cells = [cell for cell in made.cells if cell.source.strip()]
    for cell in made.cells:
        cell.source = cell.source.strip("\n")
    return made


def text(notebook):
    """A notebook as the text of its file."""
    return nbformat.writes(notebook, version=4).rstrip("\n") + "\n"


def secret(path=SECRET):
    """The teacher's secret; drawn on first use. Who has it knows the hidden cases."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(16) + "\n")
    return path.read_text().strip()


def derive(key, *words):
    """Letters that only who has the secret can derive from these words."""
    message = "\n".join(words).encode()
    return hmac.new(key.encode(), message, hashlib.sha256).hexdigest()


def ticket(key, student_id):
    """What a student types beside the id; their numbers are drawn from both."""
    return derive(key, "ticket", student_id)[:8]


def main():
    """Write the notebooks, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing, report differences")
    parser.add_argument("--roster", type=Path, help="a file with one student's id a line")
    arguments = parser.parse_args()
    stale = []
    for name, source in sources().items():
        target, made = HERE / "notebooks" / f"{name}.ipynb", text(student(source))
        if not target.exists() or target.read_text("utf8") != made:
            stale.append(target.relative_to(ROOT).as_posix())
            if not arguments.check:
                target.write_text(made, "utf8")
        if not arguments.check:
            (HERE / "teacher").mkdir(exist_ok=True)
            (HERE / "teacher" / f"{name}.ipynb").write_text(text(teacher(source)), "utf8")
    if arguments.check:
        print("Not up to date (run `make course`):" if stale else "Up to date.", *stale)
        return int(bool(stale))
    key = secret()
    print(f"{len(sources())} assignments, {len(stale)} students' notebooks written.")
    if arguments.roster:
        ids = arguments.roster.read_text("utf8").split()
        with open(HERE / "tickets.csv", "w", newline="", encoding="utf8") as file:
            csv.writer(file).writerows([("id", "ticket"), *((i, ticket(key, i)) for i in ids)])
        print(f"{len(ids)} tickets in course/tickets.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
