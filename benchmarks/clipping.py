"""Does it matter what the gradient is clipped over? Regret of SoftPT with either norm.

The library clips over what is tuned. The paper's reference implementation clips over all weights,
tuned or not, and drops what is not tuned afterwards: the gradient keeps its direction and gets
shorter. Adam forgets a constant factor, but this one changes from step to step. Start and data are
those of the stored results' first repetition. Writes `results/clipping.md`; minutes for each row.
"""

import argparse
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import promptbayes as pb
from jax import lax
from promptbayes import experiments, tuning

METHOD = pb.METHODS["SoftPT"]
HEADING = """\
SoftPT clipped over what is tuned, and over all weights as in the reference implementation: regret
on the target after 50 predictions, nats, and the norms (median over steps). Network of the default
seed unless numbered. Made by `python benchmarks/clipping.py`.

| network | target | over theta | over all | standard error | norm of theta's | of all |
| --- | --- | --- | --- | --- | --- | --- |
"""


class WithAllWeights(NamedTuple):
    """A method whose theta comes with the network's weights: (theta, params)."""

    method: Any

    def apply(self, base, both):
        theta, params = both
        return self.method.apply(base._replace(params=params), theta)


@functools.partial(jax.jit, static_argnames=("over_all", "training"))
def tuned(base, task, key, over_all, training=pb.TUNING):
    """A tuned predictor, and the norm of both gradients at every step."""
    start, data = jax.random.split(key)
    clip = optax.clip_by_global_norm(training.max_grad_norm)
    adam = optax.adam(training.learning_rate)

    def step(state, index):
        theta, moments = state
        key = jax.random.fold_in(data, index)
        tokens = task.sample(key, training.batch_size, training.length).tokens
        both = WithAllWeights(METHOD)
        _, gradient = tuning.loss_and_gradient(base, both, (theta, base.params), tokens)
        norms = optax.global_norm(gradient[0]), optax.global_norm(gradient)
        chosen = gradient if over_all else gradient[:1]
        update, moments = adam.update(clip.update(chosen, clip.init(chosen))[0][0], moments)
        return (optax.apply_updates(theta, update), moments), norms

    theta = METHOD.init(start, base)
    (theta, _), norms = lax.scan(step, (theta, adam.init(theta)), jnp.arange(training.num_steps))
    return METHOD.apply(base, theta), norms


def row(name, seed, target):
    base = pb.load_pretrained(name, seed)
    sequences = experiments.evaluation_sequences(target)
    key = experiments.repetition_key(0)
    found = []
    for over_all in (False, True):
        predictor, norms = tuned(base, experiments.TASKS[target], key, over_all)
        total = pb.cumulative_regret(pb.evaluate(predictor, sequences), sequences)
        found.append((total.mean[49], total.standard_error[49]))
    (ours, error), (theirs, _) = found
    label = name if seed is None else f"{name} {seed}"
    of_theta, of_all = (np.median(norm) for norm in norms)
    return (
        f"| {label} | {target} | {ours:.3f} | {theirs:.3f} | {error:.3f} "
        f"| {of_theta:.2f} | {of_all:.2f} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=["transformer-embedding-4"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[None])
    options = parser.parse_args()
    rows = [
        row(name, seed, target)
        for name in options.networks
        for seed in options.seeds
        for target in ("single-coin", "two-coin-mixture")
    ]
    text = HEADING + "\n".join(rows) + "\n"
    print(text)
    (Path(__file__).parent / "results" / "clipping.md").write_text(text)


if __name__ == "__main__":
    main()
