"""What the protocol leaves open, varied: does SoftPT's regret hang on it?

- *Clipping.* The library clips the gradient over what is tuned. The paper's reference
  implementation clips over all weights, tuned or not, and drops what is not tuned afterwards: the
  gradient keeps its direction and gets shorter. Adam forgets a constant factor, but this one
  changes from step to step.
- *Start.* Prefixes start from random one-hot vectors in embedding space, as in the reference.
  Instead: standard normal vectors, or the embeddings of random tokens (Lester et al., 2021).

Keys are those of the stored results' first repetition, so data are the same in a row. Writes
`results/variants.md`; minutes for each row.
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
Regret of SoftPT on the target after 50 predictions, nats: as the library does it, then with one
thing changed. The norms are the gradient's, of what is tuned and of all weights (median over
steps, as the library does it). Made by `python benchmarks/variants.py`.

| network | seed | target | as it is | clipped over all | from normal | from tokens \
| standard error | norm of theta's | of all |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


class WithAllWeights(NamedTuple):
    """A method whose theta comes with the network's weights: (theta, params)."""

    method: Any

    def apply(self, base, both):
        theta, params = both
        return self.method.apply(base._replace(params=params), theta)


def normal(key, base):
    return jax.random.normal(key, (METHOD.length, base.network.embedding_width))


def token_embeddings(key, base):
    drawn = jax.random.randint(key, (METHOD.length,), 0, base.num_tokens)
    return base.embed(jax.nn.one_hot(drawn, base.num_tokens))


@functools.partial(jax.jit, static_argnames=("start", "over_all", "training"))
def tuned(base, task, key, start, over_all, training=pb.TUNING):
    """A tuned predictor, and the norm of both gradients at every step."""
    start_key, data = jax.random.split(key)
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

    theta = start(start_key, base)
    (theta, _), norms = lax.scan(step, (theta, adam.init(theta)), jnp.arange(training.num_steps))
    return METHOD.apply(base, theta), norms


def row(name, seed, target):
    base = pb.load_pretrained(name, seed)
    sequences = experiments.evaluation_sequences(experiments.SETTINGS["single-coin"], target)
    key = experiments.repetition_key(0)
    regrets, errors, norms = [], [], []
    variants = (METHOD.init, False), (METHOD.init, True), (normal, False), (token_embeddings, False)
    for start, over_all in variants:
        predictor, gradients = tuned(base, experiments.TASKS[target], key, start, over_all)
        total = pb.cumulative_regret(pb.evaluate(predictor, sequences), sequences)
        regrets.append(f"{total.mean[49]:.3f}")
        errors.append(total.standard_error[49])
        norms.append([f"{np.median(norm):.2f}" for norm in gradients])
    cells = name, str(seed), target, *regrets, f"{max(errors):.3f}", *norms[0]
    return f"| {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=["transformer-embedding-4"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--targets", nargs="+", default=["single-coin", "two-coin-mixture"])
    options = parser.parse_args()
    rows = [
        row(name, seed, target)
        for name in options.networks
        for seed in options.seeds
        for target in options.targets
    ]
    text = HEADING + "\n".join(rows) + "\n"
    print(text)
    (Path(__file__).parent / "results" / "variants.md").write_text(text)


if __name__ == "__main__":
    main()
