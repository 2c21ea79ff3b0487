"""Grade a folder of submissions; `make grade FOLDER=...` calls it.

    python course/grade.py FOLDER [--python PYTHON] [--workers N] [--unsafe]

FOLDER is named after the assignment (`.../assignment-1`) and holds one notebook for each student,
`<id>.ipynb`. What is written lies in FOLDER/graded: `grades.csv` with the points of each question,
`feedback/<id>.html`, `by-hand.csv` for what a teacher marks, and one file of results for each
student, so that a second call does only what is new.

This process never runs a student's code. `sandbox.py` does, elsewhere, and hands over plain values;
so it does with the teacher's notebook, for the same numbers. Here the two are compared.

**Hidden tests.** In a source, the hidden region of a question's `grade` cell calls

    part(points, name, calls=None, close=1e-6, judge=None, hint="")

for each part of the question. `name` is a variable or, with `calls`, a function, and `calls` a list
of lists of arguments. The part is right if every value agrees with the reference solution's to
`close`, or if `judge(values, reference)` says so. `rng` draws numbers that only the teacher's
secret and the student's id determine. `by_hand(points, name)` shows a text to the teacher instead.
A function of the solution must depend on its arguments alone.
"""

import argparse
import concurrent.futures
import csv
import hashlib
import json
import math
import os
import queue
import random
import re
import stat
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import build
import feedback
import sandbox

HERE = Path(__file__).resolve().parent
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
LARGEST = 10 * 2**20  # bytes of a notebook
HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS\n(.*?)### END HIDDEN TESTS", re.DOTALL)
ITSELF = "numbers.0"  # the step that asks a notebook whose it is


@dataclass
class Part:
    """One thing that is asked in a question."""

    points: float
    name: str
    calls: list | None = None
    close: float = 1e-6
    judge: Any = None
    hint: str = ""
    hand: bool = False


@dataclass
class Assignment:
    """The teacher's notebook, taken apart."""

    name: str
    source: Path
    cells: list = field(default_factory=list)
    questions: dict = field(default_factory=dict)  # question -> points
    hidden: dict = field(default_factory=dict)  # question -> code
    titles: dict = field(default_factory=dict)  # question -> its heading

    def __post_init__(self):
        heading = ""
        for cell in build.teacher(self.source).cells:
            marks = cell.metadata.get("nbgrader", {})
            if cell.cell_type == "markdown":
                heading = (re.findall(r"^## (.+?)(?: \(.*)?$", cell.source, re.M) or [heading])[-1]
            if marks.get("grade"):
                self.titles[marks["grade_id"]] = heading or marks["grade_id"]
                self.questions[marks["grade_id"]] = marks["points"]
                self.hidden[marks["grade_id"]] = "\n".join(HIDDEN.findall(cell.source))
            elif cell.cell_type == "code" and "%pip" not in cell.source:
                self.cells.append(cell.source)

    def parts(self, key, student_id):
        """Step -> what is asked of this student. A second time it is the same."""
        found = {}
        for question, code in self.hidden.items():
            parts = []
            scope = {
                "rng": random.Random(build.derive(key, self.name, question, student_id)),
                "math": math,
                "same": same,
                "part": lambda *a, p=parts, **k: p.append(Part(*a, **k)),
                "by_hand": lambda n, name, p=parts: p.append(Part(n, name, hand=True)),
            }
            exec(compile(code, f"{self.source.name}, {question}", "exec"), scope)
            total = sum(part.points for part in parts)
            if total != self.questions[question]:
                raise ValueError(f"the parts of {question} have {total} points in all.")
            found |= {f"{question}.{i}": part for i, part in enumerate(parts)}
        return found

    def numbered(self, key, student_id):
        """The cells of the teacher's notebook with this student's numbers."""
        pattern = re.compile(r"^(STUDENT|TICKET) = .*$", re.MULTILINE)
        mine = {"STUDENT": student_id, "TICKET": build.ticket(key, student_id)}
        return [
            pattern.sub(lambda found: f"{found[1]} = {mine[found[1]]!r}", cell)
            for cell in self.cells
        ]


def same(value, reference, close):
    """Whether two plain values agree, numbers to within `close` (of 1, or of their size)."""
    if isinstance(reference, bool) or reference is None:
        return value is reference
    if isinstance(reference, (int, float)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return abs(value - reference) <= close * max(1.0, abs(reference))
    if isinstance(reference, str):
        return isinstance(value, str) and value.strip().casefold() == reference.strip().casefold()
    if isinstance(reference, list):
        return (
            isinstance(value, list)
            and len(value) == len(reference)
            and all(same(v, r, close) for v, r in zip(value, reference))
        )
    return value == reference


def read_cells(path):
    """The code cells of a submission, in its order; ValueError says what is wrong with the file."""
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("this is not a file of its own.")
    if status.st_size > LARGEST:
        raise ValueError(f"the file is larger than {LARGEST // 2**20} MiB.")
    try:
        notebook = json.loads(path.read_bytes())
        cells = notebook["cells"]
        found = []
        for cell in cells:
            source = cell["source"]
            source = "".join(source) if isinstance(source, list) else source
            if not isinstance(source, str):
                raise TypeError
            if cell["cell_type"] == "code":
                found.append(source)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("this is not a Jupyter notebook (no JSON with cells).") from error
    return found


def prepared(cells):
    """Steps and cells; what installs or calls a shell is left out."""
    return [
        (f"cell {number}", re.sub(r"^(\s*)([%!]pip\b.*)$", r"\1pass  # \2", source, flags=re.M))
        for number, source in enumerate(cells, 1)
    ]


def references(assignment, key, ids, python):
    """Student -> step -> the teacher's values; one process for all of these, of our own code."""
    cells, asks = [], [{"step": ITSELF, "name": "STUDENT", "calls": None}]
    for number, student_id in enumerate(ids):
        own = enumerate(assignment.numbered(key, student_id))
        cells += [(f"cell {number}.{i}", cell) for i, cell in own]
        for step, part in assignment.parts(key, student_id).items():
            name = part.name
            if part.calls is None:
                name = f"kept_{number}_{step.replace('.', '_')}"
                cells.append((f"cell {number}.{step}", f"{name} = {part.name}"))
            asks.append({"step": f"{number}/{step}", "name": name, "calls": part.calls})
    wide = sandbox.Limits(
        cell_seconds=600, ask_seconds=600, total_seconds=3600, answers=2**28, output=2**28
    )
    outcome = sandbox.run(python, "none", cells, asks, wide)
    if outcome.errors or outcome.given_up:
        raise RuntimeError(f"the solution does not run: {outcome.errors} {outcome.given_up}")
    return {
        student_id: {
            step.split("/", 1)[1]: values
            for step, values in outcome.values.items()
            if step.startswith(f"{number}/")
        }
        for number, student_id in enumerate(ids)
    }


def judged(parts, outcome, expected):
    """What each part of the submission is worth, with a message for the student."""
    results = []
    for step, part in parts.items():
        row = {
            "step": step,
            "question": step.split(".")[0],
            "name": part.name,
            "points": part.points,
            "score": 0.0,
        }
        row |= {"hand": part.hand, "message": ""}
        values = outcome.values.get(step)
        if part.hand:
            written = values[0] if values else ""
            row["text"] = written if isinstance(written, str) else ""
            row["score"] = None if row["text"].strip() else 0.0
            row["message"] = "your teacher marks this." if row["text"].strip() else "no answer."
        elif values is None:
            row["message"] = outcome.errors.get(step) or outcome.given_up or "no answer."
        else:
            wanted = expected[step]
            try:
                if part.judge:
                    pair = (values, wanted) if part.calls else (values[0], wanted[0])
                    right = [bool(part.judge(*pair))]
                else:
                    right = [same(v, r, part.close) for v, r in zip(values, wanted)]
                    right += [False] * (len(wanted) - len(values))
            except Exception:  # the judge met a value that it did not expect
                right = [False]
            row["score"] = float(part.points) if all(right) else 0.0
            row["message"] = "right." if all(right) else part.hint or "not the value asked for."
            if not all(right) and part.calls and not part.judge:
                row["message"] = f"{sum(right)} of {len(right)} hidden cases right. {part.hint}"
        results.append(row)
    return results


def grade_one(path, assignment, key, python, way, limits, slot):
    """The results of one submission. Nothing that is in it can raise here."""
    student_id = path.stem
    parts = assignment.parts(key, student_id)
    result = {"student": student_id, "problems": [], "cells": [], "seconds": 0.0}
    try:
        cells = read_cells(path)
    except ValueError as error:
        result["problems"].append(str(error))
        outcome = sandbox.Outcome(given_up=f"not graded: {error}")
    else:
        asks = [{"step": s, "name": p.name, "calls": p.calls} for s, p in parts.items()]
        asks += [
            {"step": f"numbers.{i}", "name": name, "calls": None}
            for i, name in enumerate(("STUDENT", "TICKET"))
        ]
        outcome = sandbox.run(python, way, prepared(cells), asks, limits, slot)
        result |= {"cells": cells, "seconds": round(outcome.seconds, 1)}
        right = [student_id, build.ticket(key, student_id)]
        typed = [(outcome.values.get(f"numbers.{i}") or [None])[0] for i in (0, 1)]
        if typed != right:
            result["problems"].append(
                "STUDENT and TICKET in the notebook are not yours. The numbers asked for are those "
                "of your id and your ticket, so answers for other numbers do not count."
            )
        result["problems"] += [
            f"{step}: {error}" for step, error in outcome.errors.items() if step.startswith("cell")
        ]
        result["problems"] += [outcome.given_up] if outcome.given_up else []
    return result, outcome


def stamp(path, assignment, key):
    """What a result depends on; the same stamp, the same result."""
    mark = hashlib.sha256()
    status = os.lstat(path)
    regular = stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST
    mark.update(path.read_bytes() if regular else str(status.st_size).encode())
    for file in (assignment.source, HERE / "grade.py", HERE / "sandbox.py", HERE / "runner.py"):
        mark.update(file.read_bytes())
    mark.update(key.encode())
    return mark.hexdigest()


def write(path, text):
    """All of the file or nothing of it."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, "utf8")
    draft.replace(path)


def grade(folder, assignment, key, python, way, workers=2, limits=None, say=print):
    """Grade what is new in a folder, then write the table, the feedback and the list by hand."""
    graded = folder / "graded"
    (graded / "feedback").mkdir(parents=True, exist_ok=True)
    (graded / "results").mkdir(exist_ok=True)
    submissions, refused = [], []
    for path in sorted(folder.glob("*.ipynb")):
        (submissions if ID.fullmatch(path.stem) else refused).append(path)
    for path in refused:
        say(f"{path.name!r}: not graded; a file is named after an id: letters, digits and . _ @ -")
    stamps = {path: stamp(path, assignment, key) for path in submissions}

    def kept(path):
        try:
            result = json.loads((graded / "results" / f"{path.stem}.json").read_text("utf8"))
        except (OSError, ValueError):
            return None
        return result if result.get("stamp") == stamps[path] else None

    new = [path for path in submissions if kept(path) is None]
    say(f"{assignment.name}: {len(submissions)} submissions, {len(new)} to grade.")
    slots = queue.Queue()
    for slot in range(workers):
        slots.put(slot)

    def one(path, expected):
        slot = slots.get()
        try:
            result, outcome = grade_one(path, assignment, key, python, way, limits, slot)
        finally:
            slots.put(slot)
        parts = assignment.parts(key, path.stem)
        result |= {"parts": judged(parts, outcome, expected[path.stem]), "stamp": stamps[path]}
        write(graded / "results" / f"{path.stem}.json", json.dumps(result, indent=1) + "\n")
        return result

    if new:
        ids, expected, began = [path.stem for path in new], {}, time.monotonic()
        shares = [ids[i::workers] for i in range(min(workers, len(ids)))]
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            for found in pool.map(lambda ids: references(assignment, key, ids, python), shares):
                expected |= found
            say(f"  the solution for their numbers: {time.monotonic() - began:.0f} s")
            waiting = [pool.submit(one, path, expected) for path in new]
            for done in concurrent.futures.as_completed(waiting):
                result = done.result()
                say(f"  {result['student']}: {total(result):g} points, {result['seconds']:.0f} s")
    results = [kept(path) for path in submissions]
    marks = read_marks(graded / "by-hand.csv", results)
    write_marks(graded / "by-hand.csv", results, marks)
    write_table(graded / "grades.csv", assignment, results, marks)
    for result in results:
        page = feedback.page(assignment, result, marks)
        write(graded / "feedback" / f"{result['student']}.html", page)
    say(f"{graded / 'grades.csv'}")
    return results


def total(result):
    """The points so far."""
    return sum(part["score"] or 0.0 for part in result["parts"])


def read_marks(path, results):
    """(student, question) -> (points, comment), as the teacher has put them in for this text."""
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf8") as file:
        rows = list(csv.DictReader(file))
    texts = {
        (result["student"], part["question"]): harmless(part["text"]).split()
        for result in results
        for part in result["parts"]
        if part["hand"]
    }
    marks = {}
    for row in rows:
        unchanged = texts.get((row["student"], row["question"])) == row["text"].split()
        if row["points"].strip() and unchanged:
            try:
                points = float(row["points"])
            except ValueError:
                raise SystemExit(
                    f"by-hand.csv: `points` of {row['student']} must be a number, "
                    f"got {row['points']!r}."
                ) from None
            marks[row["student"], row["question"]] = points, row["comment"]
    return marks


def harmless(text):
    """Text that a spreadsheet does not take for a formula."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def write_marks(path, results, marks):
    """What is to be marked by hand, with what has been marked."""
    rows = [("student", "question", "points", "of", "comment", "text")]
    for result in results:
        for part in result["parts"]:
            if part["hand"] and part["text"].strip():
                question = part["question"]
                points, comment = marks.get((result["student"], question), ("", ""))
                shown = harmless(part["text"])
                row = (result["student"], question, points, part["points"], comment, shown)
                rows.append(row)
    write_rows(path, rows)


def scores(assignment, result, marks):
    """Question -> points; None where a teacher has not marked yet."""
    found = dict.fromkeys(assignment.questions, 0.0)
    for part in result["parts"]:
        question = part["question"]
        score, _ = feedback.given(result, part, marks)
        if score is None or found[question] is None:
            found[question] = None
        else:
            found[question] += score
    return found


def write_table(path, assignment, results, marks):
    """One row a student: points by question, their sum, what is still to mark, a remark."""
    rows = [("student", *assignment.questions, "total", "of", "to mark", "remark")]
    for result in results:
        found = scores(assignment, result, marks)
        automatic = {
            q: sum(p["score"] or 0 for p in result["parts"] if p["question"] == q) for q in found
        }
        points = {q: automatic[q] if found[q] is None else found[q] for q in found}
        remark = harmless(" ".join(result["problems"])[:300])
        rest = [q for q in found if found[q] is None]
        rows.append(
            (
                result["student"],
                *(f"{p:g}" for p in points.values()),
                f"{sum(points.values()):g}",
                sum(assignment.questions.values()),
                " ".join(rest),
                remark,
            )
        )
    write_rows(path, rows)


def write_rows(path, rows):
    """A CSV file, all of it or nothing."""
    draft = path.with_name(path.name + ".part")
    with open(draft, "w", newline="", encoding="utf8") as file:
        csv.writer(file).writerows(rows)
    draft.replace(path)


def main():
    """Grade the folder that is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default=str(build.ROOT / ".venv" / "bin" / "python"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--unsafe", action="store_true", help="run submissions without a sandbox")
    arguments = parser.parse_args()
    folder, known = arguments.folder.resolve(), build.sources()
    if not folder.is_dir():
        sys.exit(f"FOLDER must be a folder with notebooks, got {arguments.folder}.")
    if folder.name not in known:
        sys.exit(f"FOLDER must end in one of {', '.join(known)}, got {arguments.folder}.")
    if arguments.unsafe:
        way = "none"
        print("Without a sandbox: a submission can read and change whatever you can.")
    else:
        try:
            way = sandbox.mode(arguments.python)
        except sandbox.NoSandbox as error:
            sys.exit(str(error))
    assignment = Assignment(folder.name, known[folder.name])
    grade(folder, assignment, build.secret(), arguments.python, way, arguments.workers)


if __name__ == "__main__":
    main()
