"""FullWT on two coins with a share of pretraining data mixed in: does it keep the old task?

Each sequence of a batch comes from random coins with probability `share`, else from two coins. Both
networks, live scale; regret on two coins and on random coins, on sequences that tuning never saw.
"""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import promptbayes as pb
import xarray as xr
from promptbayes import study
from promptbayes.experiments import repetition_key

TASKS = {"two coins": pb.coin_mixture([0.2, 0.8]), "random coins": pb.random_coins()}
SHARES = [0.0, 0.1, 0.25, 0.5, 0.75, 1.0]


class MixedIn(NamedTuple):
    """Two coins, but each sequence with probability `share` from random coins."""

    share: float
    num_tokens = 2

    def sample(self, key, num_sequences, length):
        """Draw both and choose for each sequence."""
        keys = jax.random.split(key, 3)
        chosen = jax.random.bernoulli(keys[2], self.share, (num_sequences,))
        new, old = (
            task.sample(k, num_sequences, length) for task, k in zip(TASKS.values(), keys[:2])
        )
        return pb.Sequences(
            jnp.where(chosen[:, None], old.tokens, new.tokens),
            jnp.where(chosen[:, None, None], old.log_source, new.log_source),
        )


def compute() -> xr.Dataset:
    """Tune and evaluate."""
    fresh = {
        name: task.sample(jax.random.key(77), study.NUM_SEQUENCES, pb.LIVE.length)
        for name, task in TASKS.items()
    }
    keys = [repetition_key(r) for r in range(pb.LIVE_REPETITIONS)]
    shape = len(study.LABELS), len(SHARES), len(keys), len(fresh)
    found = np.zeros((2, *shape))
    for i, network in enumerate(study.LABELS):
        base = pb.load_pretrained(network)
        for j, share in enumerate(SHARES):
            task = MixedIn(share)
            tuned = pb.tune(base, pb.METHODS["FullWT"], task, pb.LIVE, keys, progress=False)
            for r in range(len(keys)):
                for k, sequences in enumerate(fresh.values()):
                    found[:, i, j, r, k] = study.regret_on(tuned.predictor(r), sequences)
            print(network, share, found[0, i, j].round(3).tolist(), file=sys.stderr, flush=True)
    dims = "network", "share", "repetition", "evaluation"
    return xr.Dataset(
        {"regret": (dims, found[0]), "error": (dims, found[1])},
        {"network": list(study.LABELS), "share": SHARES, "evaluation": list(fresh)},
        {"training": str(pb.LIVE), "sequences": study.NUM_SEQUENCES},
    )


if __name__ == "__main__":
    study.keep("mixed_in", compute)
