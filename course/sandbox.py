"""Run a student's cells where they can neither read the tests nor harm anything.

`run` starts `runner.py` in namespaces of its own (Linux; `unshare`, `mount`, `chroot`, `setpriv`
and `prlimit` of util-linux): its own processes, no network, and a file system that holds the Python
of the book, the library and an empty folder in memory, and nothing else. The course, the secret and
other students' work are not hidden there, they are absent. When the runner ends, or is ended,
everything that it started ends with it.
"""

import functools
import json
import math
import os
import selectors
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
TOO_LONG = "took too long"  # so does `runner.py` say
FIRST_UID = 64100  # users that own nothing; one for each sandbox that runs at the same time

# $1 is where the sandbox's file system is built, $2 its size, $3 the folders that it shows, $4 to
# $6 the user and the limits, the rest the command.
SETUP = r"""
set -eu
root=$1 size=$2 shown=$3 user=$4 memory=$5 tasks=$6
shift 6
mount -t tmpfs -o "size=$size,mode=755" sandbox "$root"
echo "$shown" | while IFS= read -r path; do
    if [ -h "$path" ]; then
        mkdir -p "$root$(dirname "$path")"
        cp -P "$path" "$root$path"
        continue
    fi
    if [ -d "$path" ]; then mkdir -p "$root$path"
    else mkdir -p "$root$(dirname "$path")"; : > "$root$path"; fi
    mount --bind "$path" "$root$path"
    case $path in /dev/*) ;; *) mount -o remount,bind,ro "$root$path" ;; esac
done
mkdir -p "$root/proc" "$root/tmp" "$root/dev/shm"
mount -t proc proc "$root/proc"
chmod 1777 "$root/tmp" "$root/dev/shm"
cd "$root/tmp"
exec chroot "$root" setpriv $user --no-new-privs --bounding-set=-all --inh-caps=-all \
    prlimit --as="$memory" --nproc="$tasks" --core=0 --nofile=1024 \
    env -i HOME=/tmp TMPDIR=/tmp PATH=/usr/bin:/bin LANG=C.UTF-8 MPLBACKEND=agg \
    JAX_PLATFORMS=cpu PROMPTBAYES_CPU_DEVICES=1 PYTHONDONTWRITEBYTECODE=1 "$@"
"""


@dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    cell_seconds: float = 90  # after each time-out half of it, see `shorter`
    ask_seconds: float = 20  # for all answers of one part of a question; likewise
    start_seconds: float = 120  # until the first cell begins
    total_seconds: float = 300  # all runs together
    memory: int = 4 * 2**30  # bytes, all processes together
    processes: int = 32
    tasks: int = 512  # processes and threads
    output: int = 2**20  # bytes, printed
    answers: int = 4 * 2**20  # bytes, handed over
    files: str = "512m"  # the folder in memory
    breaches: int = 3  # then the notebook is given up

    def shorter(self, times=1):
        """These, after so many time-outs: one loop may be a mistake, ten must not take an hour."""
        cell, ask = self.cell_seconds, self.ask_seconds
        for _ in range(times):
            cell, ask = max(cell / 2, min(cell, 20)), max(ask / 2, min(ask, 5))
        return replace(self, cell_seconds=cell, ask_seconds=ask)


@dataclass
class Outcome:
    """What came back: by step the values, by step what went wrong, and why the run was given up."""

    values: dict = field(default_factory=dict)
    errors: dict = field(default_factory=dict)
    given_up: str = ""
    seconds: float = 0.0


class NoSandbox(RuntimeError):
    """There is no way here to keep a submission from reading the tests."""


def _shown(python):
    """The folders and devices that a sandbox shows, read-only."""
    says = "import sys; print(sys.prefix); print(sys.base_prefix)"
    prefixes = subprocess.run([python, "-c", says], capture_output=True, text=True, check=True)
    shown = ["/usr", "/bin", "/lib", "/lib64", "/sbin", "/etc/ld.so.cache", "/etc/passwd"]
    shown += [f"/dev/{name}" for name in ("null", "zero", "random", "urandom")]
    shown += prefixes.stdout.splitlines()
    shown += [str(ROOT / "lib"), str(ROOT / "course" / "runner.py")]
    found = []
    for path in dict.fromkeys(shown):
        inside = any(Path(path).is_relative_to(other) for other in found if other[:4] != "/dev")
        if os.path.lexists(path) and not inside:
            found.append(path)
    return found


def _command(python, mode, root, slot, limits):
    run = [python, "-P", str(ROOT / "course" / "runner.py")]
    path = f"PYTHONPATH={ROOT / 'lib'}"
    if mode == "none":
        settings = ["MPLBACKEND=agg", "JAX_PLATFORMS=cpu", "PROMPTBAYES_CPU_DEVICES=1"]
        return ["env", path, *settings, *run]
    uid = FIRST_UID + slot
    user = f"--reuid={uid} --regid={uid} --clear-groups" if mode == "root" else ""
    space = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
    space += ["--user", "--map-root-user"] if mode == "user" else []
    memory = str(2 * limits.memory + 4 * 2**30)  # addresses, of which Python needs many
    shown = "\n".join(_shown(python))
    setup = [root, limits.files, shown, user, memory, str(limits.tasks)]
    return [*space, "sh", "-c", SETUP, "sandbox", *setup, path, *run]


@functools.cache
def mode(python=sys.executable):
    """How submissions can be shut in here: as "root", in a "user" namespace, or NoSandbox."""
    tried = ["root"] if os.geteuid() == 0 else []
    said = {}
    for way in [*tried, "user"]:
        outcome, why = _once(python, way, [], [], set(), Limits(), 0)
        if not outcome.given_up and not why:
            return way
        said[way] = outcome.given_up or why
    raise NoSandbox(
        "Submissions cannot be shut in here: neither as another user nor in a namespace. "
        f"What was said: {said}. Run on Linux with util-linux, as root or where user namespaces "
        "are allowed; or pass --unsafe to run them as they are, with all of your rights."
    )


class _Reader:
    """What one run of the runner says, and which step it is in."""

    def __init__(self, outcome):
        self.outcome, self.rest = outcome, b""
        self.step, self.since, self.ready, self.done = "start", time.monotonic(), False, False

    def feed(self, data):
        """Take what came; ValueError where it is not what the runner writes."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except RecursionError as error:
                raise ValueError("nested too deeply") from error
            step = message.get("at") if isinstance(message, dict) else None
            if not isinstance(step, str):
                raise ValueError("no step")
            if isinstance(message.get("values"), list):
                self.outcome.values[step] = message["values"]
            elif "error" in message:
                self.outcome.errors[step] = str(message["error"])[:500]
            else:
                self.step, self.since = step, time.monotonic()
                self.ready |= step == "ready"
                self.done |= step == "done"


def _usage(process):
    """Bytes and processes of the runner and of all that it started."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        return 0, 0
    memory = 0
    for member in family:
        try:
            memory += member.memory_info().rss
        except psutil.Error:
            continue
    return memory, len(family)


def _once(python, way, cells, asks, skip, limits, slot, end=math.inf):
    """One run. What came back, and which step broke a limit and how (None if none did)."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="sandbox-") as root:
        command = _command(python, way, root, slot, limits)
        try:
            process = subprocess.Popen(
                command, stdin=-1, stdout=-1, stderr=-1, bufsize=0, start_new_session=True, cwd=root
            )
        except OSError as error:
            return Outcome(given_up=f"the sandbox did not start: {error}"), None
        try:
            return _follow(process, cells, asks, skip, limits, outcome, end)
        finally:
            _end(process)


def _end(process):
    """Kill the runner. Its namespace's other processes are killed with it by the kernel."""
    for member in _family(process):
        try:
            member.kill()
        except psutil.Error:
            continue
    process.kill()
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()
    process.wait()


def _family(process):
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        return []


def _follow(process, cells, asks, skip, limits, outcome, end):
    first = {"cells": cells, "skip": sorted(skip)}
    after = [limits.shorter(times) for times in range(4)]
    first |= {kind: [getattr(x, kind) for x in after] for kind in ("cell_seconds", "ask_seconds")}
    pending = [json.dumps(first).encode() + b"\n", json.dumps(asks).encode() + b"\n"]
    reader, said, printed, received = _Reader(outcome), b"", 0, 0
    end = min(end, time.monotonic() + limits.total_seconds)
    looked = time.monotonic()
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        sending = pending.pop(0)
        while not reader.done:
            if sending:
                try:
                    sending = sending[os.write(process.stdin.fileno(), sending) :]
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    sending = b""
            elif reader.ready and pending:
                sending = pending.pop(0)
                continue
            why = ""
            ready = selector.select(timeout=0.05 if sending else 0.1)
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    printed, said = printed + len(data), (said + data)[-2000:]
                else:
                    received += len(data)
                    try:
                        reader.feed(data)
                    except ValueError:
                        why = "it wrote into the answers of the notebook."
            now = time.monotonic()
            is_cell = reader.step.startswith("cell")
            allowed = limits.cell_seconds if is_cell else limits.ask_seconds
            allowed = limits.start_seconds if reader.step == "start" else allowed + 5
            if printed > limits.output:
                why = f"it printed more than {limits.output // 2**10} KiB."
            elif received > limits.answers or len(reader.rest) > limits.answers:
                why = "it handed over too much."
            elif now - reader.since > allowed:
                why = f"it {TOO_LONG} and could not be interrupted."
            elif now > end:
                outcome.given_up = f"the notebook took more than {limits.total_seconds:.0f} s."
            elif now - looked > 0.2:
                looked = now
                memory, processes = _usage(process)
                if memory > limits.memory:
                    why = f"it used more than {limits.memory / 2**30:.0f} GiB of memory."
                elif processes > limits.processes:
                    why = f"it started more than {limits.processes} processes."
            gone = not selector.get_map() or (not ready and process.poll() is not None)
            if gone and not why and not reader.done:
                why = "it ended the process that runs the notebook."
            if outcome.given_up:
                return outcome, None
            if why and reader.step == "start":
                outcome.given_up = f"the sandbox did not start: {said.decode(errors='replace')}"
                return outcome, None
            if why:
                return outcome, (reader.step, why)
    return outcome, None


def run(python, way, cells, asks, limits=None, slot=0):
    """Run the cells, [(step, source)], then hand over what `asks` names, [{step, name, calls}].

    A step that breaks a limit is left out and the rest is run again, at most `limits.breaches`
    times, so that each step loses only what it breaks itself.
    """
    limits = limits or Limits()
    skip, kept, began = set(), Outcome(), time.monotonic()
    end = began + limits.total_seconds
    while True:
        outcome, why = _once(python, way, cells, asks, skip, limits, slot, end)
        kept.values |= outcome.values
        kept.errors = outcome.errors | {s: e for s, e in kept.errors.items() if s in skip}
        kept.given_up = outcome.given_up
        if why is None or outcome.given_up:
            break
        step, reason = why
        kept.errors[step] = reason
        skip.add(step)
        slow = [TOO_LONG in error for error in [reason, *outcome.errors.values()]]
        limits = limits.shorter(sum(slow))
        if len(skip) >= limits.breaches or step == "start":
            kept.given_up = f"{len(skip)} steps broke a limit; the rest was not run. Last: {reason}"
            break
    kept.seconds = time.monotonic() - began
    return kept
