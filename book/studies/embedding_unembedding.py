"""The best unembedding behind embeddings that were tuned: how do the two divide the work?

On two coins, of both networks: one stored repetition of EmbedWT and three of Un+EmbedWT keep their
embeddings, and the unembedding is fitted anew as in `unembedding_optimum`, on 2048 sequences;
scored on 2048 fresh ones. `python book/studies/embedding_unembedding.py` computes it again, in
about two minutes.
"""

import sys

import jax
import numpy as np
import xarray as xr
from promptbayes import study
from unembedding_optimum import (
    LENGTH,
    TARGETS,
    faults,
    features,
    log_odds,
    optimum,
    probabilities,
    share_explained,
    weights,
)

SETTING, NUM_TRAINING, NUM_FRESH = "two-coin-mixture", 2048, 2048
REPETITIONS = {"EmbedWT": 1, "Un+EmbedWT": 3}


def refit(network, name, repetition):
    """One repetition with its own unembedding, and with the best."""
    target = TARGETS[SETTING]
    predictor = study.stored_predictor(name, network, repetition=repetition)
    training = target.sample(jax.random.key(1301), NUM_TRAINING, LENGTH).tokens
    fresh = target.sample(jax.random.key(1302), NUM_FRESH, LENGTH).tokens
    x, fresh_x = features(predictor, training), features(predictor, fresh)
    q, fresh_q = probabilities(target, training), probabilities(target, fresh)
    w, gradient, left, _ = optimum(x, q, weights(predictor))
    before, after = (faults(fresh_x, v, fresh_q) for v in (weights(predictor), w))
    r2, _ = share_explained(x, log_odds(q), fresh_x, log_odds(fresh_q))
    found = {
        "as_stored": before.mean(),
        "as_stored_error": before.std(ddof=1) / np.sqrt(NUM_FRESH),
        "refitted": after.mean(),
        "refitted_error": after.std(ddof=1) / np.sqrt(NUM_FRESH),
        "training": faults(x, w, q).mean(),
        "gradient": gradient,
        "left": left,
        "r2_log_odds": r2,
        "weights": ("feature", w),
    }
    return xr.Dataset(found)


def compute():
    """Both networks, both methods."""
    rows = []
    for network in ("lstm", "transformer"):
        for name, repetitions in REPETITIONS.items():
            for repetition in range(repetitions):
                print(network, name, repetition, file=sys.stderr, flush=True)
                place = {"network": [network], "method": [name], "repetition": [repetition]}
                rows.append(refit(network, name, repetition).expand_dims(place))
    found = xr.merge(rows, join="outer", compat="no_conflicts")
    return found.assign_attrs(sequences=f"{NUM_TRAINING} to fit, {NUM_FRESH} fresh ones")


if __name__ == "__main__":
    print(study.keep("embedding_unembedding", compute))
