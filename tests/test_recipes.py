"""The recipes of CONTRIBUTING.md, run as an outsider would run them.

The code is taken from the page, so that the page cannot say what does not work. It runs in a folder
of its own, each file in a process of its own, with the package as `pip install` would leave it: a
copy of what pyproject.toml says belongs to it, and nothing of this checkout.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import promptbayes as pb
import pytest
from promptbayes import results

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf8")
# Fence, language, code; four things can be fenced by three backticks, a chapter needs more.
FENCED = re.compile(r"^(?P<fence>`{3,})(?P<language>\w+)\n(?P<code>.*?)^(?P=fence)$", re.M | re.S)
BLOCKS = [(found["language"], found["code"]) for found in FENCED.finditer(PAGE)]
FILES = {code.split("\n")[0].removeprefix("# "): code for kind, code in BLOCKS if kind == "python"}
COMMANDS = [line for kind, code in BLOCKS if kind == "sh" for line in code.splitlines()]
CHAPTER = re.search(r"such as `(book/[\w/]+\.md)`", PAGE)


class Outside:
    """A folder with the files of the recipes, and the package installed in another one."""

    def __init__(self, folder: Path, site: Path):
        self.folder, self.site = folder, site

    def run(self, *arguments: str, folder: Path | None = None):
        """`python arguments` there."""
        environment = {
            "PYTHONPATH": str(self.site),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is most of the time
            "TQDM_DISABLE": "1",
        }
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=folder or self.folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )

    def succeed(self, *arguments: str, folder: Path | None = None) -> str:
        """What it prints."""
        ran = self.run(*arguments, folder=folder)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout


def install(site: Path) -> None:
    """Copy what pyproject.toml says belongs to the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["tool"]["setuptools"]
    source = ROOT / project["package-dir"][""]
    for package in project["packages"]:
        for pattern in ("*.py", *project["package-data"].get(package, ())):
            for path in source.joinpath(*package.split(".")).glob(pattern):
                target = site / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    folder, site = tmp_path_factory.mktemp("recipes"), tmp_path_factory.mktemp("site")
    install(site)
    for name, code in FILES.items():
        (folder / name).write_text(code, "utf8")
    made = Outside(folder, site)
    where = made.succeed("-c", "import promptbayes; print(promptbayes.__file__)")
    assert Path(where.strip()) == site / "promptbayes" / "__init__.py"
    return made


@pytest.fixture(scope="module")
def saved(outside):
    """What the recipe of the network prints last, once it has saved its network."""
    return outside.succeed("check_network.py").splitlines()[-1]


def test_a_network_comes_closer_to_the_exact_predictor_of_a_task(outside):
    printed = outside.succeed("check_task.py")
    number = r"(\d+\.\d+)"
    found = re.findall(rf"after (\d+) steps {number} \+- {number} nats", printed)
    (first, far, error_far), (last, near, error_near) = [tuple(map(float, row)) for row in found]
    assert first < last
    assert near + 4 * error_near < far - 4 * error_far


def test_the_check_of_a_task_finds_a_wrong_predictor(outside, tmp_path):
    right = "stays = self.stays + seen_before(repeated)"
    assert FILES["sticky.py"].count(right) == 1
    wrong = FILES["sticky.py"].replace(right, right.replace("repeated", "~repeated"))
    (tmp_path / "sticky.py").write_text(wrong, "utf8")
    (tmp_path / "check_task.py").write_text(FILES["check_task.py"], "utf8")
    ran = outside.run("check_task.py", folder=tmp_path)
    assert ran.returncode == 1
    assert "assert np.allclose(said, known" in ran.stderr


def test_a_network_is_loaded_in_another_process(outside, saved):
    loaded = outside.succeed("check_loaded.py").splitlines()[-1]
    assert re.fullmatch(r"GRU\(.*\) says \[-\d.*\]", loaded)
    assert loaded == saved  # to the bit, as far as it is printed


def test_a_method_moves_what_it_says_and_gains(outside):
    gains = re.findall(
        r"gains (-?\d+\.\d+) \+- (\d+\.\d+) nats", outside.succeed("check_method.py")
    )
    assert len(gains) == 2
    assert all(float(gain) > 4 * float(error) for gain, error in gains)


def test_an_experiment_is_run_printed_and_drawn(outside, saved):
    commands = [line for line in COMMANDS if line.startswith("python -m promptbayes")]
    assert [shlex.split(line)[3] for line in commands] == ["reproduce", "table", "figures"]
    reproduced, table, drawn = [outside.succeed(*shlex.split(line)[1:]) for line in commands]

    folder = outside.folder / "my_settings-quick"
    assert f"5 repetitions to run, into {folder.name}" in reproduced
    cells = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.nc")}
    methods = ("SoftPT", "FirstVector", "NoTuning")
    assert set(cells) == {f"stubborn/GRU/{method}.nc" for method in methods}
    said = results.experiment(results.read(cells["stubborn/GRU/FirstVector.nc"]))
    assert said["tasks"]["stubborn-coins"]["stays"] == 90
    assert said["method"].startswith("FirstVector(")
    assert said["training"]["num_steps"] == 20

    rows = [line.split() for line in table.splitlines()]
    regret = {row[2]: float(row[3]) for row in rows if row[:2] == ["stubborn", "GRU"]}
    assert set(regret) == set(methods)
    assert regret["NoTuning"] > max(regret["SoftPT"], regret["FirstVector"])

    made = {path.stem for path in (outside.folder / "figures/stubborn/GRU").glob("*.svg")}
    per_task = ("bars", "regret", "cumulative-regret")
    expected = {f"{kind}-{task}" for kind in per_task for task in said["tasks"]}
    assert expected | {"tuning-loss", "states", "trajectories"} <= made
    assert f"{len(made)} figures" in drawn


def test_a_chapter_becomes_a_notebook_that_runs(outside, tmp_path):
    pytest.importorskip("myst_nb", reason="the tools of the book are not installed here")
    (text,) = [code for kind, code in BLOCKS if kind == "md"]
    assert CHAPTER is not None
    page = tmp_path / CHAPTER[1]
    page.parent.mkdir(parents=True)
    page.write_text(text, "utf8")
    shutil.copy(ROOT / "_config.yml", tmp_path)
    shutil.copy(ROOT / "book" / "references.bib", tmp_path / "book")
    (tmp_path / "_toc.yml").write_text(f"format: jb-book\nroot: {CHAPTER[1]}\n", "utf8")
    notebook = page.with_suffix(".ipynb")
    command = [sys.executable, ROOT / "tools" / "notebooks.py", "--root", tmp_path]
    subprocess.run(command, check=True)
    arguments = ["--nbmake", "-q", "-p", "no:cacheprovider", notebook.name]
    assert "1 passed" in outside.succeed("-m", "pytest", *arguments, folder=page.parent)


def test_the_page_names_what_exists():
    names = set(re.findall(r"\bpb\.(\w+)", PAGE))
    assert len(names) > 10
    assert [name for name in names if not hasattr(pb, name)] == []
    paths = re.findall(r"`((?:lib|tests|tools|book)/[\w./]+\.\w+)`", PAGE)
    assert len(paths) > 4
    own = CHAPTER[1] if CHAPTER else None
    assert [path for path in paths if path != own and not (ROOT / path).exists()] == []
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf8"), re.M))
    named = set(re.findall(r"\bmake ([\w-]+)(?=`|  |\n)", PAGE))
    assert {"test", "book", "lint"} <= named <= targets
