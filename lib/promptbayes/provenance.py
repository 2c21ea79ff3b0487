"""Where, when and with what something that is kept was computed."""

import contextlib
import datetime
import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import jax


def provenance(seconds: float) -> dict:
    """What every stored file says of its making; `seconds` is how long that took.

    Example:
        >>> provenance(2.0)["seconds"]
        2.0
    """
    names, version = ("promptbayes", "jax", "flax", "optax", "numpy"), importlib.metadata.version
    return {
        "versions": " ".join(f"{name}-{version(name)}" for name in names),
        "commit": _commit(),
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}, {platform.machine()}",
        "seconds": round(seconds, 1),
        "date": datetime.date.today().isoformat(),
    }


@functools.cache
def _commit() -> str:
    """The commit of the checkout that this file lies in; empty for an installed package."""
    command, here = ["git", "describe", "--always", "--dirty"], Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        ran = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10)
        return ran.stdout.strip()
    return ""
