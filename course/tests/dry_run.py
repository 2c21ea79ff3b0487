"""Twelve submissions as a class might hand them in, and the whole way of a teacher with them.

    python course/tests/dry_run.py FOLDER     writes them; FOLDER is named after an assignment
    python course/tests/dry_run.py --time     make, hand out and grade both assignments in a folder
                                              that goes away; checks what comes back; prints times

Run it with the course's Python: `.venv-course/bin/python`.
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil
import test_course as course
import wrong

ROOT = course.build.ROOT
FIRST = {
    "loop": "while True: pass",
    "memory": "kept = [bytearray(10**8) for _ in range(60)]\nimport time; time.sleep(60)",
    "fork-bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "output": "while True: print('x' * 10**6)",
}
SAID = {
    "loop": "took too long",
    "memory": "more than 4 GiB of memory",
    "fork-bomb": "more than",  # 32 processes, or the memory, whatever is seen first
    "output": "printed more than",
}
HONEST = ["right-1", "right-2", "right-3", "half-right", "wrong-1", "wrong-2", "wrong-3"]
IDS = [*HONEST, "untouched", *FIRST]


def hand_in(folder):
    """Three right, one half right, three wrong, one untouched, and four hostile in one question."""
    course.KEY = course.build.secret()
    name = folder.name
    solved, rows = course.solutions(name), wrong.ANSWERS[name]
    folder.mkdir(parents=True, exist_ok=True)
    answers = {f"right-{i}": solved for i in (1, 2, 3)}
    answers["half-right"] = dict(list(solved.items())[: len(solved) // 2])
    for i in range(3):
        answers[f"wrong-{i + 1}"] = {question: row[i][0] for question, row in rows.items()}
    answers["untouched"] = {}
    answers |= {kind: solved | {"q1": code} for kind, code in FIRST.items()}
    for student in IDS:
        text = course.answered(name, student, answers[student])
        nbformat.reads(text, as_version=4)
        (folder / f"{student}.ipynb").write_text(text)


def expected(name):
    """Student -> points without what is marked by hand."""
    worth, rows = course.assignment(name), wrong.ANSWERS[name]
    parts = worth.parts("", "any").items()
    points = dict.fromkeys(worth.questions, 0.0)
    for step, part in parts:
        points[step.split(".")[0]] += 0 if part.hand else part.points
    half = list(points)[: len(points) // 2]
    found = {f"right-{i}": sum(points.values()) for i in (1, 2, 3)}
    found |= {"half-right": sum(points[q] for q in half), "untouched": 0}
    found |= {f"wrong-{i + 1}": sum(row[i][1] for row in rows.values()) for i in range(3)}
    return found | {kind: sum(points.values()) - points["q1"] for kind in FIRST}


def grade(folder):
    """`make grade` as a teacher types it; what came back, checked, and the seconds it took."""
    began = time.monotonic()
    subprocess.run(["make", "--silent", "grade", f"FOLDER={folder}"], cwd=ROOT, check=True)
    wall = time.monotonic() - began
    graded, wanted = folder / "graded", expected(folder.name)
    with open(graded / "grades.csv", newline="", encoding="utf8") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == sorted(IDS)
    seconds = {}
    for student in IDS:
        row = rows[student]
        result = json.loads((graded / "results" / f"{student}.json").read_text("utf8"))
        seconds[student] = result["seconds"]
        assert float(row["total"]) == wanted[student], (student, row, wanted[student])
        page = (graded / "feedback" / f"{student}.html").read_text("utf8")
        said = SAID.get(student, "")
        assert said in row["remark"], (student, row["remark"])
        assert said in page, student
    return seconds, wanted, wall


def measured(name, folder):
    """Print the table of one assignment."""
    hand_in(folder)
    busy, own = used()
    seconds, points, wall = grade(folder)
    busy, own = (after - before for after, before in zip(used(), (busy, own)))
    print(f"\n{name}: twelve in {wall:.0f} s, of which others used {max(0.0, busy - own):.0f} s")
    for student in IDS:
        print(f"  {student:12} {points[student]:4g} points {seconds[student]:6.1f} s")
    # What is not inside a sandbox (the solutions for these numbers, pages) is taken to grow with
    # the class, though much of it is done once.
    cores = os.cpu_count() or 1
    rest = max(0.0, wall - sum(seconds.values()) / cores) / len(IDS)
    honest = sum(seconds[s] for s in seconds if s not in FIRST) / (len(IDS) - len(FIRST))
    hostile = sum(seconds[s] for s in FIRST) / len(FIRST)
    for text, share in (("all honest", 0.0), ("every third hostile", 1 / 3)):
        each = (1 - share) * honest + share * hostile
        minutes = 100 * (each / cores + rest) / 60
        print(f"  a class of 100, {text}, {cores} at a time: {minutes:.0f} minutes")


def used():
    """Seconds that processors worked on anything, and on what this process has started."""
    times = psutil.cpu_times()
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(times) - times.idle - times.iowait, own.ru_utime + own.ru_stime


def main():
    """Write the submissions, or go the whole way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--time", action="store_true", help="grade both assignments, print times")
    arguments = parser.parse_args()
    if bool(arguments.folder) == arguments.time:
        parser.error("give a folder, or --time")
    if arguments.folder:
        hand_in(arguments.folder.resolve())
        print(f"{len(IDS)} submissions in {arguments.folder}")
        return
    print(f"{os.cpu_count()} cores, load before: {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        roster = Path(place) / "students.txt"
        roster.write_text("\n".join(IDS) + "\n")
        tickets = ROOT / "course" / "tickets.csv"
        own = tickets.read_bytes() if tickets.exists() else None
        subprocess.run(["make", "--silent", "course", f"ROSTER={roster}"], cwd=ROOT, check=True)
        assert len(tickets.read_text("utf8").splitlines()) == 1 + len(IDS)
        tickets.unlink() if own is None else tickets.write_bytes(own)  # those of a real class
        for name in course.build.sources():
            measured(name, Path(place) / name)


if __name__ == "__main__":
    sys.exit(main())
