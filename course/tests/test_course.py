"""What must hold of the course: what is handed out, how it is graded, what hostile notebooks do."""

import csv
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
import wrong

COURSE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(COURSE))

import build  # noqa: E402
import grade  # noqa: E402
import sandbox  # noqa: E402

KEY = "a secret for tests"
PYTHON = os.environ.get("COURSE_PYTHON", str(build.ROOT / ".venv" / "bin" / "python"))
COLAB = os.environ.get("COURSE_COLAB_PYTHON", str(build.ROOT / ".venv-colab" / "bin" / "python"))
NAMES = list(build.sources()) if os.environ.get("COURSE_ALL") else ["assignment-1"]
# The tests may run beside others on a busy machine.
PATIENT = sandbox.Limits(cell_seconds=240, ask_seconds=120, start_seconds=240, total_seconds=600)


def assignment(name):
    return grade.Assignment(name, build.sources()[name])


def numbered(notebook, student_id):
    """The notebook after its student has typed id and ticket."""
    typed = {"STUDENT": student_id, "TICKET": build.ticket(KEY, student_id)}
    for cell in notebook.cells:
        for name, value in typed.items():
            cell.source = re.sub(rf"^{name} = .*$", f"{name} = {value!r}", cell.source, flags=re.M)
    return notebook


def answered(name, student_id, answers):
    """The student's notebook with a cell of answers after each question's starter."""
    notebook = numbered(build.student(build.sources()[name]), student_id)
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        found = cell.metadata.get("nbgrader", {}).get("grade_id", "").removesuffix("-answer")
        if not cell.metadata.get("nbgrader", {}).get("grade") and found in answers:
            cells.append(nbformat.v4.new_code_cell(answers[found]))
    notebook.cells = cells
    return build.text(notebook)


def solutions(name):
    """Question -> the reference solution."""
    found = {}
    for cell in build.teacher(build.sources()[name]).cells:
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("solution"):
            found[marks["grade_id"].removesuffix("-answer")] = cell.source
    return found


def table(path):
    with open(path, newline="", encoding="utf8") as file:
        return list(csv.DictReader(file))


def by_question(result):
    points = {}
    for part in result["parts"]:
        question = part["step"].split(".")[0]
        points[question] = points.get(question, 0) + (part["score"] or 0)
    return points


# What is handed out


@pytest.mark.parametrize("name", build.sources())
def test_student_version_is_built_and_holds_no_solution_and_no_hidden_test(name):
    source = build.sources()[name]
    text = (COURSE / "notebooks" / f"{name}.ipynb").read_text("utf8")
    assert text == build.text(build.student(source)), "run `make course`"
    teacher = build.text(build.teacher(source))
    for mark in build.MARKS:
        assert f"BEGIN {mark}" in teacher
        assert f"BEGIN {mark}" not in text
    # Not one line of what was taken out, in a cell or in its metadata; the starter's lines may be.
    taken, left = [], ""
    for cell in build.teacher(source).cells:
        pattern = rf"### BEGIN ({'|'.join(build.MARKS)})\n(.*?)### END \1"
        taken += [
            line.strip()
            for _, r in re.findall(pattern, cell.source, re.S)
            for line in r.split("\n")
        ]
        left += re.sub(pattern, "", cell.source, flags=re.S) + "\n"
    telling = [line for line in taken if len(line) > 12 and line not in left]
    assert len(telling) > 30
    for line in telling:
        assert json.dumps(line)[1:-1] not in text
    for cell in json.loads(text)["cells"]:
        assert not cell.get("outputs")
        assert set(cell["metadata"]) <= {"nbgrader", "deletable", "editable"}


@pytest.mark.parametrize("name", build.sources())
def test_an_assignment_has_its_points_and_names_its_pages(name):
    found = assignment(name)
    assert sum(found.questions.values()) == 30
    assert 5 <= len(found.questions) <= 7
    parts = found.parts(KEY, "ada")
    assert sum(part.hand for part in parts.values()) == 1
    text = build.sources()[name].read_text("utf8")
    assert text.count("*Rests on*") == len(found.questions)


def test_numbers_come_from_id_and_secret():
    found = assignment("assignment-1")
    asked = lambda key, who: [part.calls for part in found.parts(key, who).values()]  # noqa: E731
    assert asked(KEY, "ada") == asked(KEY, "ada")
    assert asked(KEY, "ada") != asked(KEY, "bob")
    assert asked(KEY, "ada") != asked("another", "ada")
    assert build.ticket(KEY, "ada") not in (build.ticket(KEY, "bob"), build.ticket("x", "ada"))


def test_no_page_of_the_book_holds_a_teacher_version():
    for path in (build.ROOT / "book").rglob("*"):
        if path.suffix in (".md", ".ipynb"):
            assert "BEGIN HIDDEN" not in path.read_text("utf8"), path
    ignored = (build.ROOT / ".gitignore").read_text("utf8").split()
    assert {"/course/secret.txt", "/course/teacher/", "/course/tickets.csv"} <= set(ignored)


# What is graded


@pytest.fixture(scope="module")
def way():
    try:
        return sandbox.mode(PYTHON)
    except sandbox.NoSandbox as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=NAMES)
def class_of_five(request, way, tmp_path_factory):
    """Reference, untouched starter and three notebooks of wrong answers, each executed once."""
    name = request.param
    folder = tmp_path_factory.mktemp("class") / name
    folder.mkdir()
    (folder / "right.ipynb").write_text(answered(name, "right", solutions(name)))
    (folder / "starter.ipynb").write_text(answered(name, "starter", {}))
    for i in range(3):
        answers = {question: rows[i][0] for question, rows in wrong.ANSWERS[name].items()}
        text = answered(name, f"wrong{i}", answers)
        (folder / f"wrong{i}.ipynb").write_text(text)
    results = grade.grade(folder, assignment(name), KEY, PYTHON, way, 2, PATIENT)
    return name, folder, {result["student"]: result for result in results}


def test_the_solution_gets_all_points_and_the_starter_none(class_of_five):
    _, _, results = class_of_five
    assert results["right"]["problems"] == []
    for part in results["right"]["parts"]:
        assert part["score"] == (None if part["hand"] else part["points"]), part
    assert results["starter"]["problems"] == []  # it runs
    for part in results["starter"]["parts"]:
        assert part["score"] == 0, part


def test_typical_wrong_answers_get_their_part(class_of_five):
    name, _, results = class_of_five
    for i in range(3):
        result = results[f"wrong{i}"]
        assert result["problems"] == []
        expected = {question: rows[i][1] for question, rows in wrong.ANSWERS[name].items()}
        assert by_question(result) == expected, (i, result["parts"])


def test_feedback_and_table_and_marks_by_hand(class_of_five, way):
    name, folder, _ = class_of_five
    graded = folder / "graded"
    rows = {row["student"]: row for row in table(graded / "grades.csv")}
    assert float(rows["starter"]["total"]) == 0
    assert float(rows["right"]["total"]) == 27
    assert rows["right"]["to mark"] == list(assignment(name).questions)[-1]
    page = (graded / "feedback" / "right.html").read_text("utf8")
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(https?:)?//", page)

    marks = table(graded / "by-hand.csv")
    for mark in marks:
        mark |= {"points": "2.5", "comment": "the range is missing"}
    with open(graded / "by-hand.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, marks[0].keys())
        writer.writeheader()
        writer.writerows(marks)
    said = []
    grade.grade(folder, assignment(name), KEY, PYTHON, way, 2, PATIENT, said.append)
    assert "0 to grade" in said[0]  # nothing ran again
    rows = {row["student"]: row for row in table(graded / "grades.csv")}
    assert float(rows["right"]["total"]) == 29.5
    assert "the range is missing" in (graded / "feedback" / "right.html").read_text("utf8")


@pytest.mark.skipif(not Path(COLAB).exists(), reason="no environment with Colab's versions")
@pytest.mark.parametrize("name", NAMES)
def test_the_solution_gets_all_points_on_the_versions_of_colab(name, tmp_path):
    way = sandbox.mode(COLAB)
    folder = tmp_path / name
    folder.mkdir()
    (folder / "right.ipynb").write_text(answered(folder.name, "right", solutions(folder.name)))
    [result] = grade.grade(folder, assignment(folder.name), KEY, COLAB, way, 1, PATIENT)
    assert [part for part in result["parts"] if part["score"] not in (None, part["points"])] == []


# What a hostile notebook can do

SMALL = COURSE / "tests" / "small.md"
LIMITS = sandbox.Limits(
    cell_seconds=5, ask_seconds=5, total_seconds=200, memory=2**30, start_seconds=200
)
HOSTILE = {
    "loop": "while True: pass",
    "deaf-loop": (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\n"
        "while True: pass"
    ),
    "loop-when-asked": "def double(x):\n    while True: pass",
    "missing-import": "import a_module_that_is_not_there\ndef double(x): return 2 * x",
    "output": "while True: print('x' * 10**6)",
    "memory": "kept = [bytearray(10**8) for _ in range(200)]\nimport time; time.sleep(60)",
    "memory-at-once": "double = lambda x: len(bytearray(10**12))",
    "fork-bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "outlives": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        os.execv('/bin/sleep', ['sleep', '98765'])\n    os._exit(0)\ntime.sleep(1)"
    ),
    "exit": "import os; os._exit(0)",
    "kills": "import os, signal\nfor p in range(1, 400):\n    if p != os.getpid():\n"
    "        try: os.kill(p, 9)\n        except OSError: pass",
    "reads": f"text = open({str(SMALL)!r}).read()\nsource = {{}}\nexec(text, source)",
    "searches": (
        "import os\nfor folder, _, files in os.walk('/'):\n    for file in files:\n"
        "        if file in ('grade.py', 'small.md', 'secret.txt', 'build.py'):\n"
        "            double = lambda x: 'found ' + folder\n            break"
    ),
    "writes": f"open({str(COURSE / 'grade.py')!r}, 'a').write('pass')",
    "escapes": "import os\nos.chroot('.')\nos.setuid(0)\nopen('/etc/shadow').read()",
    "network": (
        "import socket\nsocket.create_connection(('1.1.1.1', 53), 2)\ndef double(x): return 2 * x"
    ),
    "equals-all": (
        "class Any(float):\n    def __sub__(self, other): return 0.0\n    __rsub__ = __sub__\n"
        "    def __eq__(self, other): return True\n    def __abs__(self): return 0.0\n"
        "double = lambda x: Any(0)"
    ),
    "patches": (
        "import builtins, json, math, sys\nbuiltins.abs = lambda x: 0\n"
        "sys.modules['grade'] = sys.modules['sandbox'] = math\n"
        "math.isclose = lambda *a, **k: True\n"
        "double = lambda x: 0"
    ),
    "forges": (
        "import os\nfor fd in range(3, 64):\n"
        '    try: os.write(fd, b\'{"at": "q1.0", "score": 9}\\n\')\n'
        "    except OSError: pass\ndouble = lambda x: 0"
    ),
    "garbage": (
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'[' * 3000 + b'\\n')\n"
        "    except OSError: pass\ndouble = lambda x: 0"
    ),
    "renamed": "def doubled(x): return 2 * x",
    "not-a-number": "double = lambda x: float('nan')",
    "infinite": "double = lambda x: float('inf')",
    "huge-number": "double = lambda x: 10**5000",
    "deep": "def double(x):\n    r = []\n    for _ in range(10**5): r = [r]\n    return r",
    "long": "double = lambda x: [0] * 10**8",
    "html": "double = lambda x: '<script>alert(1)</script>'",
    "truth": "double = lambda x: True",
}


@pytest.fixture(scope="module")
def small():
    return grade.Assignment("small", SMALL)


@pytest.fixture(scope="module")
def hostile(small, way, tmp_path_factory):
    """Every hostile notebook, graded in one folder with an honest one."""
    folder = tmp_path_factory.mktemp("hostile") / "small"
    folder.mkdir()

    def submit(name, first, second="def triple(x): return 3 * x", turn=False):
        cells = [
            f"STUDENT = {name!r}\nTICKET = {build.ticket(KEY, name)!r}",
            first,
            second,
            "assert True",
        ]
        cells = [nbformat.v4.new_code_cell(source) for source in (cells[::-1] if turn else cells)]
        text = build.text(nbformat.v4.new_notebook(cells=cells))
        (folder / f"{name}.ipynb").write_text(text)

    for name, code in HOSTILE.items():
        submit(name, code)
    submit("honest", "def double(x): return 2 * x")
    submit("reordered", "def double(x): return 2 * x", turn=True)
    submit("deleted", "")
    (folder / "no-json.ipynb").write_text("this is no JSON")
    (folder / "empty.ipynb").write_text("")
    (folder / "nested.ipynb").write_text("[" * 10**5)
    (folder / "other-json.ipynb").write_text('{"cells": [{"cell_type": 3, "source": {}}]}')
    (folder / "link.ipynb").symlink_to(folder / "honest.ipynb")
    with open(folder / "large.ipynb", "wb") as file:
        file.truncate(grade.LARGEST + 1)
    results = grade.grade(folder, small, KEY, PYTHON, way, 2, LIMITS)
    return folder, {result["student"]: result for result in results}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_notebook_loses_what_it_breaks_and_nothing_else(hostile, name):
    result = hostile[1][name]
    first, second = result["parts"]
    assert first["score"] == 0
    assert first["message"].strip()
    assert result["seconds"] < LIMITS.total_seconds + 60
    assert "found" not in first["message"]
    # What breaks the answers themselves takes the second question with it: its own loss.
    if name not in ("kills", "patches", "garbage", "fork-bomb"):
        assert second["score"] == 2, result


@pytest.mark.parametrize("name", ["no-json", "empty", "nested", "other-json", "link", "large"])
def test_what_is_no_notebook_gets_nothing_and_a_message(hostile, name):
    result = hostile[1][name]
    assert [part["score"] for part in result["parts"]] == [0, 0]
    assert result["problems"]
    assert result["seconds"] == 0
    assert (hostile[0] / "graded" / "feedback" / f"{name}.html").exists()


def test_a_student_is_told_which_limit_was_broken(hostile):
    for name, said in {
        "memory": "more than 1 GiB of memory",
        "loop": "more than 5 s",
        "output": "printed more than",
    }.items():
        assert said in hostile[1][name]["problems"][0]
        page = (hostile[0] / "graded" / "feedback" / f"{name}.html").read_text("utf8")
        assert said in page


def test_loops_get_less_and_less_time():
    assert [sandbox.Limits().shorter(n).cell_seconds for n in range(5)] == [90, 45, 22.5, 20, 20]
    assert [sandbox.Limits().shorter(n).ask_seconds for n in range(4)] == [20, 10, 5, 5]


def test_the_page_has_the_titles_of_the_questions(class_of_five):
    name, folder, _ = class_of_five
    page = (folder / "graded" / "feedback" / "right.html").read_text("utf8")
    assert "Written response" not in page
    assert "Student's answer" not in page
    for title in assignment(name).titles.values():
        assert page.count(f">{title}</span>") == 1
        assert page.count(f">{title.split('. ', 1)[1]}</a>") == 1


def test_the_others_are_not_touched(hostile):
    folder, results = hostile
    for name in ("honest", "reordered"):
        assert [part["score"] for part in results[name]["parts"]] == [2, 2], results[name]
    assert [part["score"] for part in results["deleted"]["parts"]] == [0, 2]
    left = [p for p in psutil.process_iter(["cmdline"]) if "98765" in (p.info["cmdline"] or [])]
    assert left == []
    assert "alert(1)" not in (folder / "graded" / "grades.csv").read_text()
    assert "<script" not in (folder / "graded" / "feedback" / "html.html").read_text()


def test_a_second_attempt_is_graded_like_the_first_and_only_it_runs(hostile, small, way):
    folder, _ = hostile
    (folder / "renamed.ipynb").write_text(
        (folder / "honest.ipynb").read_text().replace("honest", "renamed")
    )
    said = []
    again = grade.grade(folder, small, KEY, PYTHON, way, 2, LIMITS, said.append)
    assert "1 to grade" in said[0]
    result = next(result for result in again if result["student"] == "renamed")
    assert [part["score"] for part in result["parts"]] == [2, 2]


def test_a_copied_notebook_is_told_so(hostile, small, way, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "copy.ipynb").write_text((hostile[0] / "honest.ipynb").read_text())
    [result] = grade.grade(folder, small, KEY, PYTHON, way, 1, LIMITS)
    assert "not yours" in result["problems"][0]


def test_grading_is_refused_without_a_sandbox(monkeypatch, tmp_path, capsys):
    folder = tmp_path / "assignment-1"
    folder.mkdir()
    monkeypatch.setattr(sandbox, "_command", lambda *a: ["false"])
    sandbox.mode.cache_clear()
    monkeypatch.setattr(sys, "argv", ["grade.py", str(folder), "--python", sys.executable])
    with pytest.raises(SystemExit, match="--unsafe"):
        grade.main()
    sandbox.mode.cache_clear()
