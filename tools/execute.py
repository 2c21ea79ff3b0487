"""Run every chapter once, through nbmake, for the tests and for the book.

    python tools/execute.py [chapter.md ...]

nbmake executes copies of the notebooks, as many at a time as there are cores, each on one of them
(`onecore.py`).  What it computed goes into the cache from which the build
of the book takes its outputs (`bookcache.py`).  A chapter whose code and library are the same as
when it last ran without an error is not run again, so `make test` and `make book`, in whichever
order, run each chapter once.  Exits with 1 if a chapter fails or prints to stderr.
"""

import argparse
import os
import shutil
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest
from bookcache import ROOT, cache_folder
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from notebooks import Book, read_chapter

CELL_TIMEOUT = 1200  # seconds; far more than any cell takes, for machines with other work


def join_outputs(chapter, executed):
    """The chapter as myst-nb reads it, with the outputs of the executed notebook.

    The notebook's first code cell, the installation on Colab, is not in the chapter.
    """
    mine = [cell for cell in chapter.cells if cell.cell_type == "code"]
    theirs = [cell for cell in executed.cells if cell.cell_type == "code"][1:]
    if [c.source.rstrip("\n") for c in mine] != [c.source.rstrip("\n") for c in theirs]:
        raise ValueError("its notebook is not up to date; run `make notebooks`.")
    for count, (cell, done) in enumerate(zip(mine, theirs, strict=True), start=1):
        cell.outputs = done.outputs
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output["execution_count"] = count
    return chapter


def stderr_of(notebook) -> list[str]:
    """What the cells wrote to stderr.  A page shows results, not warnings or progress bars."""
    return [
        f"    {cell.source.splitlines()[0]} ...\n{textwrap.indent(output.text[:1000], '      ')}"
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr"
    ]


class Keeper:
    """A pytest plugin that stores each notebook as soon as it has run."""

    def __init__(self, copies: dict[Path, str], cache):
        self.copies = copies
        self.cache = cache
        self.problems: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" or not report.passed:
            return
        copy = next(path for path in self.copies if str(report.nodeid).startswith(_relative(path)))
        page = self.copies[copy]
        executed = nbformat.read(copy, 4)
        if noise := stderr_of(executed):
            self.problems.append(f"{page} prints to stderr:\n" + "\n".join(noise))
            return
        try:
            done = join_outputs(read_chapter(ROOT / page), executed)
        except ValueError as error:
            self.problems.append(f"{page}: {error}")
            return
        self.cache.cache_notebook_bundle(
            CacheBundleIn(done, str(ROOT / page), data={"execution_seconds": report.duration}),
            overwrite=True,
        )


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def main() -> int:
    """Execute what has to be executed."""
    parser = argparse.ArgumentParser(description="Run the chapters through nbmake.")
    parser.add_argument("chapters", nargs="*", help="such as book/index.md; default: all")
    arguments = parser.parse_args()
    book = Book()
    unknown = set(arguments.chapters) - set(book.chapters)
    if unknown:
        parser.error(f"not chapters of _toc.yml: {', '.join(sorted(unknown))}")

    folder = cache_folder()
    for other in folder.parent.glob("*"):  # of an older library: never matched again
        if other != folder:
            shutil.rmtree(other)
    cache = get_cache(str(folder))
    cache.change_cache_limit(10_000)
    run = ROOT / ".cache" / "run"
    shutil.rmtree(run, ignore_errors=True)
    copies: dict[Path, str] = {}
    for page in arguments.chapters or book.chapters:
        try:
            cache.match_cache_notebook(read_chapter(ROOT / page))
        except KeyError:
            copy = (run / page).with_suffix(".ipynb")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy((ROOT / page).with_suffix(".ipynb"), copy)
            copies[copy] = page
    wanted = len(arguments.chapters or book.chapters)
    print(f"{wanted} chapters, {wanted - len(copies)} unchanged since they last ran.", flush=True)
    if not copies:
        return 0

    # What the kernels inherit.  Compiled programs are kept: later runs do not compile them again.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's remarks on the machine
    os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars are for those who wait
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    keeper = Keeper(copies, cache)
    options = ["--nbmake", "--overwrite", f"--nbmake-timeout={CELL_TIMEOUT}", "--durations=0"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if min(cores, len(copies)) > 1:
        options += [f"--numprocesses={cores}", "--maxschedchunk=1", "-p", "onecore"]
    # The settings of the library's tests (doctests, warnings as errors) are not meant for nbmake.
    options += ["-o", "addopts=", "-o", "filterwarnings=", "-p", "no:cacheprovider", "-v"]
    status = pytest.main([*options, *map(str, copies)], plugins=[keeper])
    for problem in keeper.problems:
        print(problem, file=sys.stderr)
    return 1 if keeper.problems else int(status)


if __name__ == "__main__":
    raise SystemExit(main())
