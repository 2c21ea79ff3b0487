"""Inside the sandbox: run a student's cells and hand their answers over as plain values.

It reads two lines of JSON from its input. The first has the cells. When they have run, it asks for
the second, which says what to hand over: variables, or what functions return. It holds no expected
answer and no test. Whatever a student's code does to this process, it can only change the values
that leave it, and `grade.py` judges these elsewhere.

Every line that it writes is one JSON object:

    {"at": step}                     this step begins; if the process ends now, it is to blame
    {"at": step, "error": text}      it failed
    {"at": step, "values": [...]}    the answers to one question
"""

import json
import math
import os
import signal
import sys

MAX_ITEMS = 50_000


class NotPlain(TypeError):
    """A value that is no number, text, list or dictionary of such."""


def plain(value, depth=0, budget=None):
    """The value as what JSON can hold: numbers, texts, truth values, lists, dictionaries."""
    budget = [MAX_ITEMS] if budget is None else budget
    budget[0] -= 1
    if budget[0] < 0 or depth > 6:
        raise NotPlain("the answer has too many parts.")
    if value is None or type(value) in (bool, str):
        return value[:MAX_ITEMS] if isinstance(value, str) else value
    if type(value) in (int, float):
        if isinstance(value, int) and abs(value) > 2**53:
            raise NotPlain("the answer is a whole number beyond 2^53.")
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        return value
    if isinstance(value, dict):
        return {
            str(k)[:200]: plain(v, depth + 1, budget) for k, v in list(value.items())[:MAX_ITEMS]
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item, depth + 1, budget) for item in value]
    if hasattr(value, "tolist"):  # numpy and jax
        if getattr(value, "size", 0) > MAX_ITEMS:
            raise NotPlain("the answer has too many parts.")
        return plain(value.tolist(), depth + 1, budget)
    raise NotPlain(f"the answer is of type {type(value).__name__}, not a number, text or list.")


def main():
    """Run the cells, then answer."""
    requests = os.fdopen(os.dup(0), "r", encoding="utf8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf8")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(2, 1)  # what students print goes where errors go
    sys.stdin = open(0, closefd=False)  # noqa: SIM115

    def say(**message):
        answers.write(json.dumps(message, allow_nan=False) + "\n")
        answers.flush()

    request = json.loads(requests.readline())
    skip = set(request["skip"])

    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance(colors="nocolor", history_length=0)
    shell.history_manager.enabled = False

    # By kind of step, each limit shorter than the one before; the next after each time-out.
    allowed = {kind: list(request[kind]) for kind in ("cell_seconds", "ask_seconds")}

    def limited(kind, function):
        """The value, or the text of what was raised."""
        seconds = allowed[kind][0]

        def too_long(*_):
            if len(allowed[kind]) > 1:
                del allowed[kind][0]
            raise TimeoutError(f"this took too long (more than {seconds:.0f} s) and was stopped.")

        try:
            signal.signal(signal.SIGALRM, too_long)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            return function(), None
        except BaseException as error:
            return None, f"{type(error).__name__}: {error}"[:500]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def run(source):
        done = shell.run_cell(source, store_history=False)
        error = done.error_before_exec or done.error_in_exec
        if error is not None:
            raise error

    for step, source in request["cells"]:
        if step in skip:
            continue
        say(at=step)
        _, error = limited("cell_seconds", lambda source=source: run(source))
        if error:
            say(at=step, error=error)
    say(at="ready")

    for ask in json.loads(requests.readline()):
        step, name, calls = ask["step"], ask["name"], ask["calls"]
        if step in skip:
            continue
        say(at=step)
        if name not in shell.user_ns:
            say(at=step, error=f"there is no `{name}` in the notebook.")
            continue
        asked = shell.user_ns[name]

        def answer(asked=asked, calls=calls):
            if calls is None:
                return [plain(asked)]
            return [plain(asked(*arguments)) for arguments in calls]

        values, error = limited("ask_seconds", answer)
        say(at=step, error=error) if error else say(at=step, values=values)
    say(at="done")
    os._exit(0)  # whatever waits at exit, waits for nothing


if __name__ == "__main__":
    main()
