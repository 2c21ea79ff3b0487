"""Where the outputs of executed chapters are kept, and what makes them stale.

jupyter-cache compares the code cells of a chapter, not the library that they import.  So the
cache lies in a folder whose name is a hash of everything else that an output depends on: the
library's files, its stored weights and results, and the versions of the packages.  When one of
them changes, the folder is another one, and every chapter is executed again.

This module is also the Sphinx extension that tells the build where that folder is.  It notes from
which sources the pages were made (`sources_key`), so that their tests know whether to look at
them, and puts the notebooks for Colab where the download buttons point.
"""

import hashlib
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "lib" / "promptbayes"
HTML = ROOT / "_build" / "html"
LEFT_BY_TOOLS = {".ipynb_checkpoints", "__pycache__", "node_modules"}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "matplotlib", "xarray", "ipykernel")


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def library_key() -> str:
    """The hash of what a chapter's outputs depend on besides its own code."""
    digest = hashlib.sha256()
    digest.update(f"python {sys.version_info.major}.{sys.version_info.minor}\n".encode())
    for package in PACKAGES:
        digest.update(f"{package} {_installed(package)}\n".encode())
    for path in sorted(LIBRARY.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(LIBRARY).as_posix()} ".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """The folder of the jupyter-cache that belongs to the library as it is now."""
    return ROOT / ".cache" / "chapters" / library_key()


def sources_key() -> str:
    """The hash of the book's own sources, without what is only tested or installed."""
    return _hash_of("_config.yml", "_toc.yml", "book")


def build_key() -> str:
    """The hash of all that a build and its checks depend on: nothing changed, nothing to do."""
    others = "tools", "tests", "benchmarks", "requirements.txt", "Makefile"
    return f"{library_key()} {sources_key()} {_hash_of(*others)}"


def _hash_of(*names: str) -> str:
    """Of files and folders of the project; not of what tools leave in them."""
    digest = hashlib.sha256()
    roots = [ROOT / name for name in names]
    for path in (file for root in roots for file in [root, *sorted(root.rglob("*"))]):
        if path.is_file() and not LEFT_BY_TOOLS.intersection(path.parts):
            digest.update(f"{path.relative_to(ROOT).as_posix()} ".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def main() -> int:
    """`make book` asks `unchanged` first, and says `done` at its end."""
    built = HTML / "built.txt"
    if sys.argv[1:] == ["done"]:
        built.write_text(build_key() + "\n", "utf8")
    elif sys.argv[1:] != ["unchanged"]:
        raise SystemExit("usage: bookcache.py unchanged | done")
    elif not built.exists() or built.read_text("utf8").strip() != build_key():
        return 1
    return 0


def _use_cache(app, config) -> None:
    config.nb_execution_cache_path = str(cache_folder())


def _finish(app, exception) -> None:
    if exception is not None or app.builder.format != "html":
        return
    html = Path(app.outdir)
    for target in (html / "_sources").rglob("*.ipynb"):
        shutil.copy(ROOT / target.relative_to(html / "_sources"), target)
    (html / "sources.txt").write_text(sources_key() + "\n", "utf8")


def setup(app) -> dict:
    """Register with Sphinx."""
    # myst-nb reads its options at `builder-inited`, after this.
    app.connect("config-inited", _use_cache)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    raise SystemExit(main())
