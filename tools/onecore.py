"""A pytest plugin: each of pytest-xdist's workers keeps to one core, and so do its notebooks.

XLA splits small products badly over cores: two chapters, one a core, end before one after the other
on both.
"""

import os


def pytest_configure(config) -> None:
    """Worker `gw3` takes the fourth of the cores that it may use; it has them all at the start."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
