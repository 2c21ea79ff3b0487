"""Twelve submissions as a class might hand them in: python course/tests/dry_run.py FOLDER

FOLDER ends in the name of an assignment. Then `make grade FOLDER=...` grades them.
"""

import sys
from pathlib import Path

import nbformat
import test_course as course
import wrong

FIRST = {
    "loop": "while True: pass",
    "memory": "kept = [bytearray(10**8) for _ in range(200)]\nimport time; time.sleep(60)",
    "fork-bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "output": "while True: print('x' * 10**6)",
}


def main(folder):
    """Three right, one half right, three wrong, one untouched, and four hostile in one question."""
    course.KEY = course.build.secret()
    name = folder.name
    solved, rows = course.solutions(name), wrong.ANSWERS[name]
    folder.mkdir(parents=True, exist_ok=True)
    made = {f"right-{i}": course.answered(name, f"right-{i}", solved) for i in (1, 2, 3)}
    half = dict(list(solved.items())[: len(solved) // 2])
    made["half-right"] = course.answered(name, "half-right", half)
    for i in range(3):
        answers = {question: row[i][0] for question, row in rows.items()}
        made[f"wrong-{i + 1}"] = course.answered(name, f"wrong-{i + 1}", answers)
    made["untouched"] = course.answered(name, "untouched", {})
    for kind, code in FIRST.items():
        text = course.answered(name, kind, solved | {"q1": code})
        made[kind] = text
    for student, text in made.items():
        nbformat.reads(text, as_version=4)
        (folder / f"{student}.ipynb").write_text(text)
    print(f"{len(made)} submissions in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
