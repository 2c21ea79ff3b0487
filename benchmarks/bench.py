"""`make bench`: how fast tuning is, as ratios measured side by side in one run.

For each network and method: seconds per step and repetition of `tune` and of a plain loop
(`plain.py`), in interleaved rounds, after asserting that both compute the same. Medians go to
`results/<kind of machine>.md` and `.json`, which the book's page on speed shows. Wall time is
compared only within the run, never over runs. `hardware.CACHE_BYTES` and `hardware.MIN_ROWS` are
checked against the table of micro-batches.
"""

import argparse
import collections
import functools
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import plain
import promptbayes as pb
from promptbayes import hardware, networks, tuning
from promptbayes.tuning import Training

NETWORKS = {"LSTM": pb.LSTM(), "Transformer": pb.Transformer()}
METHODS = ("SoftPT", "EmbedWT", "FullWT", "LoRAWT")
TASK = pb.coin_mixture([0.2, 0.8])
STEPS = 5  # of a round
SIZED = ("SoftPT", "EmbedWT", "FullWT")  # the methods whose micro-batches are tried
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=len(jax.devices()) * 2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lever-rounds", type=int, default=3)
    parser.add_argument("--memory-of", nargs=2, metavar=("NETWORK", "METHOD"))
    parser.add_argument("--profile-of", nargs=2, metavar=("NETWORK", "METHOD"))
    parser.add_argument("--time-of", nargs=3, metavar=("NETWORK", "METHOD", "LEVER"))
    parser.add_argument("--only", nargs="+", choices=PARTS, help="measure these parts alone")
    parser.add_argument("--again", action="store_true", help="and keep the other parts")
    parser.add_argument("--out", default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.memory_of:
        return print_peak_memory(*options.memory_of)
    if options.profile_of:
        return print_profile(*options.profile_of)
    if options.time_of:
        return print_time_without(*options.time_of, options)
    kept = Path(options.out) / f"{file_name()}.json"
    report = json.loads(kept.read_text()) if options.again else {"machine": machine()}
    if report["machine"] != machine():
        parser.error(f"{kept} is of another machine, {report['machine']}: measure all of it.")
    for part in options.only or PARTS:
        report[part] = PARTS[part](options)
        write(report, Path(options.out))  # a run that is stopped keeps what it has


def rows(options):
    """`tune` and the plain loop side by side, for networks and methods."""
    cases = [(n, m) for n in NETWORKS for m in METHODS if (n, m) != ("LSTM", "LoRAWT")]
    measured = [measure(*case, options) for case in cases]
    rates = [matmul_rate() for _ in range(3)]
    for row in measured:
        row["peak_gib"] = peak_memory(row["network"], row["method"])
        row["share_of_matmul"] = flops(row) / row["tune_s"] / statistics.median(rates)
    return {
        "matmul_gflops": statistics.median(rates) / 1e9,
        "repetitions": options.repetitions,
        "cores": len(jax.devices()),
        "cases": measured,
    }


def setup(network, method, num_steps, repetitions):
    base = pb.initialise(NETWORKS[network], jax.random.key(0))
    training = Training(num_steps=num_steps)
    keys = jax.random.split(jax.random.key(1), repetitions)
    return base, pb.METHODS[method], training, keys


def measure(network, method, options):
    base, how, training, keys = setup(network, method, STEPS, options.repetitions)
    assert_same(base, how, training, keys)
    before = tuning._advance._cache_size()

    began = time.perf_counter()
    pb.tune(base, how, TASK, training, keys, progress=False)
    tune_first = time.perf_counter() - began
    step, optimizer = plain.make_step(base, how, TASK, training)
    theta = how.init(keys[0], base)
    began = time.perf_counter()
    jax.block_until_ready(step(theta, optimizer.init(theta), keys[0], 0))
    plain_first = time.perf_counter() - began

    tune_times, plain_times = [], []
    for _ in range(options.rounds):
        began = time.perf_counter()
        pb.tune(base, how, TASK, training, keys, progress=False)
        tune_times.append((time.perf_counter() - began) / STEPS / len(keys))
        began = time.perf_counter()
        state = theta, optimizer.init(theta)
        for index in range(STEPS):
            *state, value = step(*state, keys[0], index)
        jax.block_until_ready(value)
        plain_times.append((time.perf_counter() - began) / STEPS)
    tune_s, plain_s = statistics.median(tune_times), statistics.median(plain_times)
    row = {
        "network": network,
        "method": method,
        "tune_s": tune_s,
        "plain_s": plain_s,
        "ratio": plain_s / tune_s,
        "compile_s": tune_first - tune_s * STEPS * len(keys),
        "plain_compile_s": plain_first - plain_s,
        "traces": tuning._advance._cache_size() - before,
        "tune_spread": [min(tune_times), max(tune_times)],
        "plain_spread": [min(plain_times), max(plain_times)],
    }
    print({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}, flush=True)
    return row


def assert_same(base, method, training, keys):
    """Same gradient and same first losses as the plain loop, to 1e-4 relative."""
    theta = method.init(keys[0], base)
    if isinstance(method, pb.LoRA):  # B = 0 at the start hides A: compare elsewhere
        theta = jax.tree.map(lambda x: x + 0.01 * jax.random.normal(keys[0], x.shape), theta)
    tokens = TASK.sample(keys[0], training.batch_size, training.length).tokens
    ours = jax.jit(lambda t: tuning.loss_and_gradient(base, method, t, tokens))(theta)
    theirs = jax.jit(jax.value_and_grad(lambda t: plain.loss(t, base, method, tokens)))(theta)
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4 * float(jnp.abs(other).max()))

    tuned = pb.tune(base, method, TASK, training, keys[:1], progress=False)
    start, data = jax.random.split(keys[0])
    theta = method.init(start, base)
    step, optimizer = plain.make_step(base, method, TASK, training)
    state, losses = (theta, optimizer.init(theta)), []
    for index in range(STEPS):
        *state, value = step(*state, data, index)
        losses.append(float(value))
    np.testing.assert_allclose(tuned.losses[0], losses, rtol=1e-4)


def end_to_end(network, method, num_steps=200, repetitions=10):
    """Ten repetitions of 200 steps, compile included.

    The plain loop's time is composed of its compile and its steps, measured before and after.
    """
    base, how, training, keys = setup(network, method, num_steps, repetitions)
    step, optimizer = plain.make_step(base, how, TASK, training)
    theta = how.init(keys[0], base)
    state = theta, optimizer.init(theta)
    began = time.perf_counter()
    jax.block_until_ready(step(*state, keys[0], 0))
    first = time.perf_counter() - began

    def plain_step():
        began = time.perf_counter()
        jax.block_until_ready(step(*state, keys[0], 0))
        return time.perf_counter() - began

    steps = [plain_step() for _ in range(STEPS)]
    jax.clear_caches()
    began = time.perf_counter()
    pb.tune(base, how, TASK, training, keys, progress=False)
    seconds = time.perf_counter() - began
    plain_step()  # compiles again
    steps += [plain_step() for _ in range(STEPS)]
    plain_seconds = repetitions * (first + (num_steps - 1) * statistics.median(steps))
    return {
        "network": network,
        "method": method,
        "tune_s": seconds,
        "plain_s": plain_seconds,
        "ratio": plain_seconds / seconds,
    }


def evaluation(network):
    """Ten repetitions on 2048 sequences of length 200, compile included."""
    base = pb.initialise(NETWORKS[network], jax.random.key(0))
    sequences = TASK.sample(jax.random.key(3), 2048, 200)
    jax.clear_caches()
    began = time.perf_counter()
    for repetition in range(10):
        pb.evaluate(base.with_tokens([repetition % 2] * 6), sequences)
    return time.perf_counter() - began


def hard_search(network):
    """All 64 prompts of length 6 on 2048 sequences of length 50, compile included."""
    base = pb.initialise(NETWORKS[network], jax.random.key(0))
    jax.clear_caches()
    began = time.perf_counter()
    pb.search_hard_prefix(base, TASK, 6, key=jax.random.key(4))
    return time.perf_counter() - began


def micro_batches(options):
    """Seconds per step and repetition with each size, in interleaved rounds; what is chosen."""
    return [
        sizes_of(network, method, options.lever_rounds) for network in NETWORKS for method in SIZED
    ]


def sizes_of(network, method, rounds):
    base, how, training, keys = setup(network, method, STEPS, len(jax.devices()))
    jax.clear_caches()
    times = {size: [] for size in SIZES}
    for _ in range(1 + rounds):  # the first compiles
        for size, taken in times.items():
            began = time.perf_counter()
            pb.tune(base, how, TASK, training, keys, micro_batch=size, progress=False)
            taken.append((time.perf_counter() - began) / STEPS / len(keys))
    seconds = {str(size): statistics.median(taken[1:]) for size, taken in times.items()}
    chosen = pb.tune(base, how, TASK, training, keys, progress=False).state.micro_batch
    row = {"network": network, "method": method, "chosen": chosen, "seconds": seconds}
    print(row, flush=True)
    return row


def profiles(_):
    """Where a step's time goes, on one core, each in a process of its own."""
    cases = [(network, method) for network in NETWORKS for method in ("SoftPT", "FullWT")]
    return [profile(*case) for case in cases]


def profile(network, method):
    command = [sys.executable, __file__, "--profile-of", network, method]
    env = os.environ | {"PROMPTBAYES_CPU_DEVICES": "1"}
    cores = os.sched_getaffinity(0)  # what is started inherits them
    os.sched_setaffinity(0, {min(cores)})
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    finally:
        os.sched_setaffinity(0, cores)
    return {"network": network, "method": method} | json.loads(done.stdout)


def print_profile(network, method):
    """Milliseconds of a step by kind of operation, from jax's own profile of three steps.

    A program's operations are told apart by its text: a fusion that calls a `dot` is a product.
    """
    steps = 3
    base, how, training, keys = setup(network, method, steps, 1)
    texts, advance = [], tuning._advance

    def keep_text(*arguments):
        texts.append(advance.lower(*arguments).compile().as_text())
        return advance(*arguments)

    tuning._advance = keep_text
    run = functools.partial(pb.tune, base, how, TASK, training, keys, progress=False)
    run()
    tuning._advance = advance
    began = time.perf_counter()
    run()
    whole = (time.perf_counter() - began) / steps
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (file,) = Path(folder).rglob("*.xplane.pb")
        spent = spent_in(jax.profiler.ProfileData.from_file(str(file)), kinds_of(texts[0]))
    parts = {kind: spent[kind] / steps / 1e9 for kind in ("products", "copies", "other")}
    rate = flops({"network": network, "method": method}) / parts["products"]
    one_core = matmul_rate()
    print(json.dumps({"step_s": whole, "products_rate": rate / one_core} | parts))


# Words of XLA's names for operations that compute nothing.
MOVES = {
    *("copy", "transpose", "concatenate", "slice", "broadcast", "pad"),
    *("bitcast", "dynamic", "update", "fusion"),
}


def kinds_of(text):
    """Name of an operation in a compiled program -> products, copies or other."""
    with_product = set()
    for body in re.split(r"\n\n", text):
        if re.search(r"\sdot\(", body) and (name := re.match(r"%?(\S+)", body.strip())):
            with_product.add(name[1])
    kinds = {}
    for name, operation in re.findall(r"^\s+(?:ROOT )?%?(\S+) = (.*)$", text, re.MULTILINE):
        called = re.search(r"calls=%?([^\s,]+)", operation)
        if re.search(r"\sdot\(", operation) or (called and called[1] in with_product):
            kinds[name] = "products"
        elif set(re.findall("[a-z]+", name)) <= MOVES:
            kinds[name] = "copies"
        elif not re.search(r"\s(while|call|conditional)\(", operation):
            kinds[name] = "other"
    return kinds


def spent_in(data, kinds):
    """Nanoseconds by kind, of the operations that the program's text names."""
    spent = collections.Counter()
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in kinds:
                    spent[kinds[event.name]] += event.duration_ns
    return spent


LEVERS = {
    "all": "nothing switched off",
    "micro-batches": "the whole batch at once",
    "sharing": "the first projections for every sequence, not once for every token",
    "products": "the gradients of products with kernels as jax writes them",
    "gradient": "the LSTM's recurrence differentiated by jax",
    "cores": "one device: XLA splits single products over the cores",
}


def levers(options):
    """Seconds per step and repetition of FullWT with each lever switched off, in fresh processes.

    The processes take turns, so that a change of the machine's speed meets all.
    """
    return [lever_times(network, "FullWT", options) for network in NETWORKS]


def lever_times(network, method, options):
    names = [name for name in LEVERS if name != "gradient" or network == "LSTM"]
    times = {name: [] for name in names}
    for name in names * options.lever_rounds:
        command = [sys.executable, __file__, "--time-of", network, method, name]
        command += ["--repetitions", str(options.repetitions)]
        env = os.environ | ({"PROMPTBAYES_CPU_DEVICES": "1"} if name == "cores" else {})
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        times[name].append(float(done.stdout))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {"network": network, "method": method, "seconds": medians}


def print_time_without(network, method, lever, options):
    """Median of three rounds of `tune` with one lever switched off."""
    if lever == "micro-batches":
        tuning.micro_batch_size = lambda architecture, batch_size, *_: batch_size
    if lever == "products":
        networks.product = jnp.matmul
    if lever == "gradient":
        networks.recur = lambda *inputs: networks._recur_forward(*inputs)[0]
    if lever == "sharing":
        for torso in (networks.LSTMTorso, networks.TransformerTorso):
            torso.read = functools.partialmethod(_prepare_and_read, torso.prepare, torso.read)
            torso.prepare = networks.Torso.prepare
    base, how, training, keys = setup(network, method, STEPS, options.repetitions)
    times = []
    for _ in range(4):  # the first compiles
        began = time.perf_counter()
        pb.tune(base, how, TASK, training, keys, progress=False)
        times.append((time.perf_counter() - began) / STEPS / len(keys))
    print(statistics.median(times[1:]))


def _prepare_and_read(torso, prepare, read, x, memory):
    return read(torso, prepare(torso, x, memory), memory)


PARTS = {  # each compares within itself, so that one can be measured again
    "tuning": rows,
    "micro_batches": micro_batches,
    "profiles": profiles,
    "end_to_end": lambda _: [end_to_end(n, m) for n in NETWORKS for m in ("SoftPT", "FullWT")],
    "evaluation_seconds": lambda _: {name: evaluation(name) for name in NETWORKS},
    "hard_search_seconds": lambda _: {name: hard_search(name) for name in NETWORKS},
    "levers": levers,
}


def matmul_rate(size=2048):
    """Floating-point operations a second of large float32 products, one on each device at once."""
    count = len(jax.devices())
    a = jax.random.normal(jax.random.key(0), (count, size, size))
    product = jax.jit(lambda a: hardware.spread(jnp.matmul, a, a))
    times = []
    for _ in range(6):
        began = time.perf_counter()
        product(a).block_until_ready()
        times.append(time.perf_counter() - began)
    return count * 2 * size**3 / statistics.median(times[1:])


def flops(row):
    """Operations of the matrix products in one step of `tune`, what is computed once left out.

    Forward, back to the activations and, where torso weights are tuned, back to the weights.
    """
    # The last token of 50 is predicted, not read; the empty context and a prefix are read once.
    tokens, width, positions = 256 * 49, 128, 49 + (7 if row["method"] == "SoftPT" else 1)
    if row["network"] == "LSTM":
        weights, attention = 4 * width * width, 0
    else:
        weights, attention = 9 * width * width, 2 * width * positions
    tuned = {"FullWT": weights, "LoRAWT": width * width}.get(row["method"], 0)  # LoRA: the last map
    return 2 * tokens * (2 * weights + tuned + attention * 3)


def peak_memory(network, method):
    """Of a process of its own that tunes ten repetitions at the paper's scale, in GiB."""
    command = [sys.executable, __file__, "--memory-of", network, method]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak_memory(network, method):
    base, how, training, keys = setup(network, method, 2, 10)
    pb.tune(base, how, TASK, training, keys, progress=False)
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would also count the process that started this one
        kib = next(line.split()[1] for line in status.read_text().splitlines() if "VmHWM" in line)
    else:
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(int(kib) / 2**20)


def file_name():
    if jax.default_backend() != "cpu":
        return jax.default_backend()
    return "cpu-" + hardware.cpu().kind.lower().replace(" ", "-").replace("_", "-")


def machine():
    name = jax.devices()[0].device_kind
    if name == "cpu":
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.is_file() else []
        model = next((s.split(":")[1].strip() for s in lines if "model name" in s), "CPU")
        name = f"{os.cpu_count()} cores of {model}, {hardware.cpu().kind}"
        if "xla_cpu_max_isa" in os.environ.get("XLA_FLAGS", ""):
            name += f" ({os.environ['XLA_FLAGS']})"
    return f"{name}, jax {jax.__version__}"


def write(report, folder):
    folder.mkdir(exist_ok=True)
    (folder / f"{file_name()}.json").write_text(json.dumps(report, indent=1) + "\n")
    tables = (table(report[part]) for part, table in TABLES.items() if part in report)
    lines = [f"# {report['machine']}", "", *(line for table in tables for line in [*table, ""])]
    text = "\n".join(lines).rstrip() + "\n"
    (folder / f"{file_name()}.md").write_text(text)
    print(text, flush=True)


def grid(header, *rows):
    """A Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def tuning_table(part):
    header = ["network", "method", "tune, ms", "plain loop, ms", "times faster"]
    header += ["compile, s", "the loop's, s", "peak, GiB", "of the matmul rate"]
    rows = [
        [
            row["network"],
            row["method"],
            f"{1000 * row['tune_s']:.1f}",
            f"{1000 * row['plain_s']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['compile_s']:.1f}",
            f"{row['plain_compile_s']:.1f}",
            f"{row['peak_gib']:.2f}",
            f"{row['share_of_matmul']:.0%}",
        ]
        for row in part["cases"]
    ]
    return [
        "Wall time over steps and repetitions, medians of interleaved rounds: of `tune`, "
        f"{part['repetitions']} repetitions on {part['cores']} cores, and of the plain loop, one. "
        "Peak memory is of a process with ten repetitions. The last column counts the products of "
        "matrices alone, and compares with the rate of large float32 products on all cores "
        f"together, {part['matmul_gflops']:.0f} GFLOP/s.",
        "",
        *grid(header, *rows),
    ]


def sizes_table(part):
    def cells(row):
        best = min(row["seconds"].values())
        for size, seconds in row["seconds"].items():
            text = f"{seconds / best:.2f}"
            yield f"**{text}**" if int(size) == row["chosen"] else text

    def first(row):
        return [row["network"], row["method"], f"{1000 * min(row['seconds'].values()):.1f}"]

    return [
        "Sequences of a micro-batch: time over the best of the row; the library's choice is bold.",
        "",
        *grid(
            ["network", "method", "best, ms", *map(str, SIZES)],
            *([*first(row), *cells(row)] for row in part),
        ),
    ]


def profiles_table(part):
    names = "products", "copies", "other"
    rows = [
        [
            row["network"],
            row["method"],
            f"{1000 * row['step_s']:.0f}",
            *(f"{1000 * row[name]:.0f}" for name in names),
            f"{row['products_rate']:.0%}",
        ]
        for row in part
    ]
    return [
        "Where a step goes on one core, milliseconds. The operations are timed with the profiler "
        "on, the step without it, so that the parts need not add up. Products are of matrices, "
        "copies only move numbers; the last column is the products' own rate.",
        "",
        *grid(["network", "method", "step", *names, "of the matmul rate"], *rows),
    ]


def end_to_end_table(part):
    rows = (
        [
            r["network"],
            r["method"],
            f"{r['tune_s']:.0f}",
            f"{r['plain_s']:.0f}",
            f"{r['ratio']:.1f}",
        ]
        for r in part
    )
    return [
        "Ten repetitions of 200 steps, compile included (the plain loop's time composed of its "
        "compile and its steps, measured right before and after):",
        "",
        *grid(["network", "method", "tune, s", "plain loop, s", "times faster"], *rows),
    ]


def seconds_table(what, part):
    return [f"{what}: " + ", ".join(f"{name} {taken:.1f} s" for name, taken in part.items()) + "."]


def levers_table(part):
    names = list(LEVERS)[1:]

    def gains(row):
        whole = row["seconds"]["all"]
        for name in names:
            yield f"{row['seconds'][name] / whole:.2f}" if name in row["seconds"] else "–"

    return [
        "What each lever gains: time without it over time with all.",
        "",
        *grid(
            ["network", "method", *names],
            *([row["network"], row["method"], *gains(row)] for row in part),
        ),
        "",
        *(f"- without {name}: {LEVERS[name]}" for name in names),
    ]


TABLES = {
    "tuning": tuning_table,
    "micro_batches": sizes_table,
    "profiles": profiles_table,
    "end_to_end": end_to_end_table,
    "evaluation_seconds": functools.partial(
        seconds_table, "Evaluation of ten repetitions on 2048 sequences of length 200"
    ),
    "hard_search_seconds": functools.partial(
        seconds_table, "Exhaustive search of 64 hard prompts on 2048 sequences of length 50"
    ),
    "levers": levers_table,
}


if __name__ == "__main__":
    main()
