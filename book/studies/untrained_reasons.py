"""Two guesses about untrained networks and soft prompts, tested; drawn by `experiments/untrained`.

Live scale, two coins, SoftPT, three initialisations each.
An untrained LSTM forgets its prefix: what if its forget gates start further open?
An untrained Transformer fails beyond the flips of its tuning: what if these are twice as many?
"""

import sys
from dataclasses import replace

import jax
import numpy as np
import promptbayes as pb
import xarray as xr
from promptbayes import experiments, study

TARGET = pb.coin_mixture([0.2, 0.8])
SOFT, SETTING = pb.METHODS["SoftPT"], "untrained-two-coin-mixture"
BIASES, LENGTHS, SEEDS = [0.0, 2.0, 4.0], [50, 100], [0, 1, 2]
FRESH = TARGET.sample(jax.random.key(77), study.NUM_SEQUENCES, pb.LIVE.length)
LONG = TARGET.sample(jax.random.key(78), 512, 200)


def forgetful(seed, bias):
    """The untrained LSTM, this number added to the bias of every forget gate."""
    base = experiments.base_predictor(SETTING, "lstm", seed)
    width = base.network.width

    def shift(path, leaf):
        named = jax.tree_util.keystr(path, simple=True, separator=".")
        if named.startswith("torso") and named.endswith("input.bias"):
            return leaf.at[width : 2 * width].add(bias)
        return leaf

    return base._replace(params=jax.tree_util.tree_map_with_path(shift, base.params))


def tuned(base, training, repetitions):
    """The predictor of each repetition."""
    keys = [experiments.repetition_key(r) for r in range(repetitions)]
    run = pb.tune(base, SOFT, TARGET, training, keys, progress=False)
    return [run.predictor(r) for r in range(repetitions)]


def compute():
    """Regret of every run; on the Transformer of every ten flips."""
    untuned, soft, worst = [], [], 0.0
    for bias in BIASES:
        untuned.append([])
        soft.append([])
        for seed in SEEDS:
            base = forgetful(seed, bias)
            ends = [study.regret_on(p, FRESH) for p in (base, *tuned(base, pb.LIVE, 2))]
            untuned[-1].append(float(ends[0].mean))
            soft[-1].append([float(end.mean) for end in ends[1:]])
            worst = max(worst, *(float(end.standard_error) for end in ends))
            print("forget bias", bias, seed, untuned[-1][-1], soft[-1][-1], file=sys.stderr)
    tens = []
    for length in LENGTHS:
        tens.append([])
        for seed in SEEDS:
            base = experiments.base_predictor(SETTING, "transformer", seed)
            [found] = tuned(base, replace(pb.LIVE, length=length), 1)
            steps = pb.instantaneous_regret(pb.evaluate(found, LONG), LONG).mean
            tens[-1].append(np.asarray(steps).reshape(20, 10).sum(axis=1))
            print("length", length, seed, tens[-1][-1].round(2), file=sys.stderr)
    return xr.Dataset(
        {
            "untuned": (("bias", "seed"), np.array(untuned)),
            "soft": (("bias", "seed", "repetition"), np.array(soft)),
            "ten_flips": (("length", "seed", "flips"), np.array(tens)),
        },
        coords={
            "bias": BIASES,
            "seed": SEEDS,
            "length": LENGTHS,
            "flips": np.arange(10, 201, 10),
        },
        attrs={"largest_error": worst, "training": str(pb.LIVE)},
    )


if __name__ == "__main__":
    study.keep("untrained_reasons", compute)
