"""What a prefix can call up and what it cannot add: the tasks of Petrov et al. (2024) on our loop.

A small Transformer is pretrained on four skills, mixed, without being told which: ten digits in,
ten out, sorted up, sorted down, plus 1, plus 2. Then a memory and two LoRAs of about its size are
tuned to each of the four, to a composition (sort up and add 1) and to a new skill (counting).

    python book/studies/new_skills.py [folder] [--minutes 60]

can be stopped at any time, by Ctrl-C too, and the same command goes on: each pretrained network and
each run is kept in the folder as soon as it is done, pretraining every 1000 steps. One core is
enough; all three seeds take about three hours of it. When all is done the study's file is written;
`--store` writes it from what there is so far. `--quick` tests the whole with hardly any steps.
"""

import argparse
import itertools
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import promptbayes as pb
import xarray as xr
from promptbayes import study
from promptbayes.predictor import rounded

SKILLS = ("sort up", "sort down", "add 1", "add 2", "sort up and add 1", "counting")
DIGITS, RESERVED, LENGTH = 10, 10, 9  # in and out; the reserved token; how many stand in front
NETWORK = pb.Transformer(num_tokens=11)  # one block of width 128
PRETRAINING = pb.Training(num_steps=20_000, batch_size=64, length=2 * DIGITS, learning_rate=1e-3)
TUNING = pb.Training(num_steps=5_000, batch_size=64, length=2 * DIGITS)
RATES = (3e-3, 1e-2, 3e-2)
SEEDS = (0, 1, 2)
FRESH, CHECKPOINT = 4096, 1000  # sequences of an evaluation; steps


def outputs(x):
    """What each skill makes of digits [batch, 10]: [skill, batch, 10]."""
    up = jnp.sort(x, axis=1)
    count = (x[:, :, None] == x[:, None, :]).sum(axis=2)
    return jnp.stack([up, up[:, ::-1], x + 1, x + 2, up + 1, count])


class Skills(NamedTuple):
    """Ten digits of 0 to 7, and what a skill makes of them, which alone counts.

    The reserved tokens in front are the same for all sequences: a prefix of the predictor's.
    """

    chances: jax.Array  # of the skills, [skill]
    num_tokens = 11

    def sample(self, key, num_sequences, length):
        """Ten equal digits, which count 10, are drawn again."""
        key_x, key_skill = jax.random.split(key)
        x, again = jax.random.randint(key_x, (2, num_sequences, DIGITS), 0, 8)
        x = jnp.where((x == x[:, :1]).all(axis=1, keepdims=True), again, x)
        skill = jax.random.categorical(key_skill, jnp.log(self.chances), shape=(num_sequences,))
        y = outputs(x)[skill, jnp.arange(num_sequences)]
        counts = jnp.broadcast_to(jnp.arange(length) >= DIGITS, (num_sequences, length))
        return pb.Sequences(jnp.concatenate([x, y], axis=1), None, counts)


def untuned(network):
    """The network behind the reserved tokens, as it is pretrained."""
    return network.with_tokens([RESERVED] * LENGTH)


@dataclass(frozen=True)
class FromScratch:
    """All weights, from random ones, behind the reserved tokens."""

    def check(self, base):
        """Nothing to check here."""

    def init(self, key, base):
        """As for `pb.pretrain`."""
        return pb.initialise(base.network, key).params

    def apply(self, base, theta):
        """The embedding of the reserved tokens is trained, too."""
        return untuned(base._replace(params=theta))


@dataclass(frozen=True)
class LoRAEverywhere:
    """LoRA on the attention, as `pb.LoRA`, and on the two kernels of the MLP."""

    rank: int

    def check(self, base):
        """As `pb.LoRA`."""
        pb.LoRA(self.rank).check(base)

    def init(self, key, base):
        """A random, B zero."""
        keys = jax.random.split(key, 3)
        theta = pb.LoRA(self.rank).init(keys[0], base)
        for block, weights in base.params["torso"]["blocks"].items():
            for k, name in zip(keys[1:], ("up", "down"), strict=True):
                shape = weights[name]["kernel"].shape
                a = jax.nn.initializers.lecun_normal()(k, (shape[0], self.rank))
                theta[block][name] = {"a": a, "b": jnp.zeros((self.rank, shape[1]))}
        return theta

    def apply(self, base, theta):
        """W + A B for each kernel."""
        attention = {
            block: {name: ab for name, ab in each.items() if name not in ("up", "down")}
            for block, each in theta.items()
        }
        tuned = pb.LoRA(self.rank).apply(base, attention)
        blocks = dict(tuned.params["torso"]["blocks"])
        for block, each in theta.items():
            for name in ("up", "down"):
                kernel = blocks[block][name]["kernel"] + each[name]["a"] @ each[name]["b"]
                blocks[block] = blocks[block] | {name: {"kernel": kernel}}
        torso = tuned.params["torso"] | {"blocks": blocks}
        return tuned._replace(params=tuned.params | {"torso": torso})


#: About as many numbers each: 2304 (and an output that nothing is predicted from), 2048, 2304.
METHODS = {
    "Memory": pb.Memory(LENGTH),
    "LoRA, attention": pb.LoRA(2),
    "LoRA, attention and MLP": LoRAEverywhere(1),
}


def only(skill):
    """The task of one skill."""
    return Skills(jnp.array([float(name == skill) for name in SKILLS]))


def right(predictor, skill, number=FRESH):
    """Which outputs are right on fresh sequences of a skill, [sequence, output]; and the loss.

    Each output is predicted after the right ones before it. All ten are so predicted exactly if
    greedy decoding gives all ten: as long as it is right, it has read the same.
    """
    fresh = only(skill).sample(jax.random.key(77), number, 2 * DIGITS)
    said, loss = [], []
    for part in np.split(np.asarray(fresh.tokens), number // 512):
        log_probs = np.asarray(predictor(part))[:, -DIGITS:]
        answer = part[:, -DIGITS:]
        said.append(log_probs.argmax(axis=2) == answer)
        loss.append(-np.take_along_axis(log_probs, answer[..., None], 2).sum((1, 2)))
    return np.concatenate(said), float(np.concatenate(loss).mean())


def windows(losses, number):
    """Means over `number` equal stretches of a run."""
    return np.array([part.mean() for part in np.array_split(losses, number)], np.float32)


class Stop(Exception):
    """The time is up."""


class Work:
    """The folder with what is done, and the processor time that is left."""

    def __init__(self, folder, seconds, shrink):
        self.folder, self.end = folder, time.process_time() + seconds
        self.pretraining = replace(PRETRAINING, num_steps=PRETRAINING.num_steps // shrink)
        self.tuning = replace(TUNING, num_steps=TUNING.num_steps // shrink)
        self.checkpoint, self.fresh = CHECKPOINT // shrink, FRESH if shrink == 1 else 512
        folder.mkdir(parents=True, exist_ok=True)
        plan, path = f"{self.pretraining} {self.tuning} {NETWORK} {LENGTH}", folder / "plan.txt"
        if path.is_file() and path.read_text() != plan:
            raise SystemExit(f"{folder} holds runs of another plan: {path.read_text()}")
        path.write_text(plan)

    def say(self, text):
        """To the log."""
        print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)

    def check_time(self):
        """Raise Stop when it is up."""
        if time.process_time() > self.end:  # of the processor, not of the wall
            raise Stop

    def write(self, name, arrays):
        """In one step, so that a file is whole or not there."""
        part = self.folder / f"{name}.part"
        with open(part, "wb") as file:
            np.savez(file, **arrays)
        part.replace(self.folder / name)

    # Pretraining.

    def network_path(self, seed):
        """Where a pretrained network is kept."""
        return self.folder / f"network-{seed}.safetensors"

    def network(self, seed):
        """The pretrained network of a seed, rounded to float16; made if it is not there."""
        path = self.network_path(seed)
        if not path.is_file():
            self.pretrain(seed)
        return pb.load(path)

    def pretrain(self, seed):
        """Every 1000 steps the state is kept."""
        four = Skills(jnp.array([0.25] * 4 + [0.0] * 2))
        first: dict[int, pb.Tuned] = {}
        one, steps = replace(self.pretraining, num_steps=1), self.pretraining.num_steps
        key, blank = jax.random.key(seed), pb.initialise(NETWORK, jax.random.key(0))
        options = {"hook": first.__setitem__, "hook_steps": [0], "progress": False}
        pb.tune(blank, FromScratch(), four, one, key, **options)
        run, path, before = first[0], self.folder / f"pretraining-{seed}.npz", 0.0
        if path.is_file():
            kept = np.load(path)
            shape = jax.tree.structure((run.theta, run.state.moments))
            leaves = [jnp.asarray(kept[f"leaf{i}"]) for i in range(shape.num_leaves)]
            theta, moments = jax.tree.unflatten(shape, leaves)
            state = run.state._replace(moments=moments)
            run = run._replace(theta=theta, losses=kept["losses"], state=state)
            before = float(kept["seconds"])
        began = time.process_time()

        def keep(step, run):
            leaves = jax.tree.leaves((run.theta, run.state.moments))
            arrays = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
            seconds = before + time.process_time() - began
            self.write(path.name, arrays | {"losses": run.losses, "seconds": seconds})
            mean = run.losses[0, -self.checkpoint :].mean()
            self.say(f"seed {seed}, pretraining, {step} steps, {mean:.4f} nats, {seconds:.0f} s")
            if step < steps:
                self.check_time()

        done = run.losses.shape[1]
        if done < steps:
            stops = range(done + self.checkpoint, steps + 1, self.checkpoint)
            run = pb.resume(run, steps - done, hook=keep, hook_steps=[*stops], progress=False)
        network = rounded(run.predictor(0)._replace(prefix=blank.prefix))
        settings = {"task": "four skills", "seed": seed, "training": str(self.pretraining)}
        tests = [right(untuned(network), skill, self.fresh) for skill in SKILLS]
        kept = np.load(path)
        found = {
            "curve": windows(run.losses[0], 200),
            "match": [hit.all(axis=1).mean() for hit, _ in tests],
            "loss": [loss for _, loss in tests],
            "seconds": kept["seconds"],
        }
        self.write(f"untuned-{seed}.npz", found)
        self.say(f"seed {seed}, untuned: {np.round(found['match'], 3).tolist()}")
        pb.save(self.network_path(seed), network, settings)

    # Tuning.

    def run_path(self, seed, method, skill, rate):
        """Where a run is kept."""
        name = f"run-{seed}-{method}-{skill}-{rate:g}.npz".replace(" ", "_").replace(",", "")
        return self.folder / name

    def run(self, seed, method, skill, rate):
        """Tune and evaluate, unless it is done."""
        path = self.run_path(seed, method, skill, rate)
        if path.is_file():
            return
        self.check_time()
        network, start = self.network(seed), None
        began = time.process_time()
        base = untuned(network)
        if method == "Memory":  # in the place of the reserved tokens, and starting from theirs
            start = jax.tree.map(lambda x: x[None], METHODS[method].from_prefix(base))
            base = network
        training, key = replace(self.tuning, learning_rate=rate), jax.random.key(100 + seed)
        tuned = pb.tune(
            base, METHODS[method], only(skill), training, key, start=start, progress=False
        )
        tests = [right(tuned.predictor(0), each, self.fresh) for each in SKILLS]
        own, loss = tests[SKILLS.index(skill)]
        found = {
            "match": [hit.all(axis=1).mean() for hit, _ in tests],
            "digit": own.mean(axis=0),
            "loss": loss,
            "curve": windows(tuned.losses[0], 100),
            "seconds": time.process_time() - began,
        }
        self.write(path.name, found)
        self.say(
            f"seed {seed}, {method}, {skill}, {rate:g}: match "
            f"{np.round(found['match'], 3).tolist()}, loss {windows(tuned.losses[0], 10)[-2:]}, "
            f"{found['seconds']:.0f} s"
        )

    def best_rate(self, method, skill):
        """Whose run ends with the lowest training loss on the first seed; a tenth of it counts."""
        ends = []
        for rate in RATES:
            curve = np.load(self.run_path(SEEDS[0], method, skill, rate))["curve"]
            ends.append(np.nan_to_num(curve[-len(curve) // 10 :].mean(), nan=np.inf))
        return RATES[int(np.argmin(ends))]

    def everything(self):
        """In this order, so that what matters most is there first."""
        first = SEEDS[0]
        skills = [*SKILLS[:1], *SKILLS[-2:], *SKILLS[1:-2]]
        for rate in (RATES[1], RATES[0], RATES[2]):
            for skill, method in itertools.product(skills, METHODS):
                self.run(first, method, skill, rate)
        for seed in SEEDS[1:]:
            for skill, method in itertools.product(skills, METHODS):
                self.run(seed, method, skill, self.best_rate(method, skill))

    # What the page draws.

    def collect(self):
        """All runs that are there; the others are NaN."""
        runs = ("seed", "variant", "skill", "rate")
        sizes = [len(SEEDS), len(METHODS), len(SKILLS), len(RATES)]
        each = {"match": len(SKILLS), "digit": DIGITS, "curve": 100, "loss": None, "seconds": None}
        last = {"match": ("evaluated",), "digit": ("output",), "curve": ("window",)}
        data = {
            name: np.full(sizes if size is None else [*sizes, size], np.nan, np.float32)
            for name, size in each.items()
        }
        for place in itertools.product(*map(range, sizes)):
            s, m, k, r = place
            names = SEEDS[s], [*METHODS][m], SKILLS[k], RATES[r]
            if (path := self.run_path(*names)).is_file():
                kept = np.load(path)
                for name, array in data.items():
                    array[place] = kept[name]
        before = {"match": len(SKILLS), "loss": len(SKILLS), "curve": 200, "seconds": None}
        which = {"match": ("evaluated",), "loss": ("evaluated",), "curve": ("stretch",)}
        pre = {
            name: np.full([len(SEEDS)] if size is None else [len(SEEDS), size], np.nan, np.float32)
            for name, size in before.items()
        }
        for s, seed in enumerate(SEEDS):
            if (path := self.folder / f"untuned-{seed}.npz").is_file():
                kept = np.load(path)
                for name, array in pre.items():
                    array[s] = kept[name]
        variables = {name: ((*runs, *last.get(name, ())), array) for name, array in data.items()}
        for name, array in pre.items():
            variables[f"untuned_{name}"] = (("seed", *which.get(name, ())), array)
        network = pb.initialise(NETWORK, jax.random.key(0))
        numbers = [
            study.num_parameters(m, network if n == "Memory" else untuned(network))
            for n, m in METHODS.items()
        ]
        notes = {
            "pretraining": str(self.pretraining),
            "training": f"{self.tuning.num_steps} steps, batches of {self.tuning.batch_size}",
            "sequences": FRESH,
            "length": LENGTH,
            "core_seconds": float(np.nansum(data["seconds"]) + np.nansum(pre["seconds"])),
        }
        variables["parameters"] = ("variant", numbers)
        coordinates = {
            "seed": list(SEEDS),
            "variant": list(METHODS),
            "skill": list(SKILLS),
            "rate": list(RATES),
            "evaluated": list(SKILLS),
        }
        return xr.Dataset(variables, coordinates, notes)

    def store(self):
        """The study's file, and the network of the first seed beside it."""
        kept = Path(pb.__file__).parent / "studies"
        if (kept / "new_skills.nc").is_file():
            there, here = (int(d.loss.count()) for d in (study.kept("new_skills"), self.collect()))
            if here < there:
                raise SystemExit(f"{kept} holds {there} runs, {self.folder} only {here}.")
            (kept / "new_skills.nc").unlink()
        study.keep("new_skills", self.collect)
        if (path := self.network_path(SEEDS[0])).is_file():
            (kept / "new_skills.safetensors").write_bytes(path.read_bytes())
        self.say(f"stored in {kept}")


def main():
    """See the top of this file."""
    parser = argparse.ArgumentParser()
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    parser.add_argument("folder", nargs="?", type=Path, default=home / "promptbayes/new_skills")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    work = Work(chosen.folder, 60 * chosen.minutes, 200 if chosen.quick else 1)
    if not chosen.store:
        try:
            work.everything()
        except (Stop, KeyboardInterrupt):
            work.say("stopped; the same command goes on")
            return
        work.say("all done")
    if chosen.quick:
        print(json.dumps(work.collect().sizes), work.collect())
    else:
        work.store()


if __name__ == "__main__":
    main()
