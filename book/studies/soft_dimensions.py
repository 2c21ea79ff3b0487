"""Prefixes between RealPT and SoftPT on one and the same LSTM; drawn by `experiments/controls`.

Live scale, both targets, two repetitions. RealPT's vectors lie in the plane of the two tokens; here
random directions join it, until with 128 dimensions it is SoftPT in other coordinates.
"""

import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import promptbayes as pb
import xarray as xr
from promptbayes import experiments, study

DIMENSIONS = [2, 4, 16, 128]


@dataclass(frozen=True)
class Between:
    """Six vectors b + s E + u R: the tokens' plane and some random directions as long as E's."""

    dimensions: int
    length: int = 6

    def check(self, base):
        """Nothing to check here."""

    def init(self, key, base):
        """Random one-hot s, and u = 0."""
        tokens = jax.random.randint(key, (self.length,), 0, base.num_tokens)
        random = jnp.zeros((self.length, self.dimensions - base.num_tokens))
        return jax.nn.one_hot(tokens, base.num_tokens), random

    def apply(self, base, theta):
        """The base behind these vectors."""
        kernel, bias = (base.params["embedding"][name] for name in ("kernel", "bias"))
        rows = jax.random.normal(jax.random.key(4), (126, kernel.shape[1]))
        rows *= jnp.sqrt((kernel**2).mean())
        s, u = theta
        return base._replace(prefix=s @ kernel + bias + u @ rows[: u.shape[1]])


def compute():
    """Regret [target, dimensions, repetition]."""
    bases = {"lstm": pb.load_pretrained("lstm")}
    found, untuned, worst = [], [], 0.0
    for setting in study.SETTINGS.values():
        target = experiments.TASKS[setting]
        found.append([])
        for dimensions in DIMENSIONS:
            run = study.run("Between", method=Between(dimensions), target=target, bases=bases)
            mean, error = run.regret["lstm"]
            found[-1].append(mean)
            worst = max(worst, float(error.max()))
            print(setting, dimensions, mean.round(3), file=sys.stderr, flush=True)
        untuned.append(float(run.untuned["lstm"].mean))
    return xr.Dataset(
        {
            "regret": (("target", "dimensions", "repetition"), np.array(found)),
            "untuned": ("target", np.array(untuned)),
        },
        coords={"target": [*study.SETTINGS.values()], "dimensions": DIMENSIONS},
        attrs={"largest_error": worst, "training": str(pb.LIVE)},
    )


if __name__ == "__main__":
    study.keep("soft_dimensions", compute)
