"""`make bench`: how fast tuning is, as ratios measured side by side in one run.

For each network and method: seconds per step and repetition of `tune` and of a plain loop
(`plain.py`), in interleaved rounds, after asserting that both compute the same. Medians go to
`results/<device>.md` and `.json`. Wall time is compared only within the run, never over runs.
"""

import argparse
import functools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=len(jax.devices()) * 2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lever-rounds", type=int, default=3)
    parser.add_argument("--memory-of", nargs=2, metavar=("NETWORK", "METHOD"))
    parser.add_argument("--time-of", nargs=3, metavar=("NETWORK", "METHOD", "LEVER"))
    parser.add_argument("--again", nargs="+", choices=PARTS, help="measure these parts alone")
    parser.add_argument("--out", default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.memory_of:
        return print_peak_memory(*options.memory_of)
    if options.time_of:
        return print_time_without(*options.time_of, options)
    if options.again:
        report = json.loads((Path(options.out) / f"{jax.default_backend()}.json").read_text())
        report |= {part: PARTS[part](options) for part in options.again}
        return write(report, Path(options.out))
    cases = [(n, m) for n in NETWORKS for m in METHODS if (n, m) != ("LSTM", "LoRAWT")]
    rows = [measure(*case, options) for case in cases]
    for row in rows:
        row["peak_gib"] = peak_memory(row["network"], row["method"])
    report = {
        "machine": machine(),
        "repetitions": options.repetitions,
        "rounds": options.rounds,
        "matmul_gflops": matmul_rate() / 1e9,
        "rows": rows,
    }
    report |= {part: measure_part(options) for part, measure_part in PARTS.items()}
    for row in rows:
        row["share_of_matmul"] = flops(row) / row["tune_s"] / (report["matmul_gflops"] * 1e9)
    write(report, Path(options.out))


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


LEVERS = {
    "all": "nothing switched off",
    "micro-batches": "the whole batch at once",
    "sharing": "the first projections for every sequence, not once for every token",
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
        hardware.CACHE_BYTES = 2**60
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
    tokens, width, positions = 256 * 50, 128, 50 + (7 if row["method"] == "SoftPT" else 1)
    if row["network"] == "LSTM":
        weights, attention = 4 * width * width, 0
    else:
        weights, attention = 9 * width * width, 2 * width * positions
    return 2 * tokens * (weights * (3 if row["method"] == "FullWT" else 2) + attention * 3)


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


def machine():
    name = jax.devices()[0].device_kind
    if name == "cpu":
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.is_file() else []
        model = next((s.split(":")[1].strip() for s in lines if "model name" in s), "CPU")
        name = f"{os.cpu_count()} cores of {model}"
    return f"{name}, {platform.machine()}, jax {jax.__version__}"


def write(report, folder):
    folder.mkdir(exist_ok=True)
    name = jax.default_backend()
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    lines = [
        f"# Tuning speed on {report['machine']}",
        "",
        f"{report['repetitions']} repetitions, medians of {report['rounds']} interleaved rounds; "
        f"float32 products of size 2048, one a core, run at {report['matmul_gflops']:.0f} GFLOP/s.",
        "",
        "| network | method | tune, ms per step and repetition | plain loop, ms | times faster "
        "| compile, s | traces | peak memory, GiB | of the matmul rate |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in report["rows"]:
        lines.append(
            f"| {r['network']} | {r['method']} | {1000 * r['tune_s']:.1f} | "
            f"{1000 * r['plain_s']:.1f} | {r['ratio']:.2f} | {r['compile_s']:.1f} | "
            f"{r['traces']} | {r['peak_gib']:.2f} | {r['share_of_matmul']:.0%} |"
        )
    lines += [
        "",
        "Ten repetitions of 200 steps, compile included (the plain loop's time composed of its "
        "compile and its steps, measured right before and after):",
        "",
    ]
    for r in report["end_to_end"]:
        lines.append(
            f"- {r['network']}, {r['method']}: {r['tune_s']:.0f} s against {r['plain_s']:.0f} s, "
            f"{r['ratio']:.1f} times faster"
        )
    lines += ["", "Evaluation of ten repetitions on 2048 sequences of length 200:", ""]
    lines += [f"- {n}: {s:.1f} s" for n, s in report["evaluation_seconds"].items()]
    lines += ["", "Exhaustive search of 64 hard prompts on 2048 sequences of length 50:", ""]
    lines += [f"- {n}: {s:.1f} s" for n, s in report["hard_search_seconds"].items()]
    lines += ["", "What each lever gains: times slower with it switched off.", ""]
    names = list(LEVERS)[1:]
    lines += [f"| network | method | {' | '.join(names)} |", "| --- " * (2 + len(names)) + "|"]
    for r in report["levers"]:
        whole = r["seconds"]["all"]
        gains = [f"{r['seconds'][n] / whole:.2f}" if n in r["seconds"] else "–" for n in names]
        lines.append(f"| {r['network']} | {r['method']} | {' | '.join(gains)} |")
    lines += [""] + [f"- {name}: {LEVERS[name]}" for name in names]
    text = "\n".join(lines) + "\n"
    (folder / f"{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
