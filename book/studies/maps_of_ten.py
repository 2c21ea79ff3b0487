"""Prediction maps of all ten methods, tuned to two coins; drawn by `methods/overview`.

What the stored results hold, the first repetition at the paper's scale, is taken from there: the
prompts and prefixes, the embedding, the unembedding, the memory. All weights and LoRA's factors are
too many to be stored: they are tuned here, live, once; so is a memory that is not stored yet.
"""

import sys

import jax
import numpy as np
import promptbayes as pb
import xarray as xr
from jax.flatten_util import ravel_pytree
from promptbayes import results, study
from promptbayes.experiments import NETWORKS, TASKS, repetition_key
from promptbayes.methods import HardPrefix

LENGTH = 20  # of the maps
SETTING = "two-coin-mixture"
PARTS = ["prefix", "memory", "embedding", "torso", "unembedding"]
METHODS = ["NoTuning", *pb.METHODS]


def predictor_of(base, network, name):
    """The tuned predictor, and whether it is the stored one."""
    if name == "NoTuning":
        return base, True
    method = pb.METHODS[name]
    try:
        cell = results.load_cell(SETTING, network, name).isel(repetition=0)
    except FileNotFoundError:
        cell = {}
    if isinstance(method, HardPrefix):
        tokens = cell["best_prompt" if "best_prompt" in cell else "prompt"]
        return base.with_tokens(tokens.values), True
    if "theta" in cell:
        like = method.init(jax.random.key(0), base)
        return method.apply(base, ravel_pytree(like)[1](cell["theta"].values)), True
    tuned = pb.tune(base, method, TASKS[SETTING], pb.LIVE, repetition_key(0), progress=False)
    return tuned.predictor(0), False


def compute():
    """NaN where a method cannot tune a network."""
    sizes = {"network": len(NETWORKS), "method": len(METHODS), "evaluation": 2}
    sizes |= {"part": len(PARTS), "n": LENGTH + 1, "k": LENGTH + 1}
    axes = {"stored": (), "regret": ("evaluation",), "regret_error": ("evaluation",)}
    axes |= {"map": ("n", "k"), "spread": ("n", "k"), "moved": ("part",)}
    found = {
        name: (
            ("network", "method", *dims),
            np.full([sizes[dim] for dim in ("network", "method", *dims)], np.nan, np.float32),
        )
        for name, dims in axes.items()
    }
    evaluations = [SETTING, "random-coins"]
    fresh = {
        name: TASKS[name].sample(jax.random.key(77), study.NUM_SEQUENCES, pb.LIVE.length)
        for name in evaluations
    }
    for i, network in enumerate(NETWORKS):
        base = pb.load_pretrained(network)
        for j, name in enumerate(METHODS):
            try:
                predictor, stored = predictor_of(base, network, name)
            except ValueError as refusal:
                print(f"{network}, {name}: {refusal}", file=sys.stderr, flush=True)
                continue
            regrets = [study.regret_on(predictor, fresh[task]) for task in evaluations]
            parts = study.moved(base, predictor)
            mean, spread = study.prediction_map(predictor, LENGTH)
            values = {
                "stored": stored,
                "regret": [float(each.mean) for each in regrets],
                "regret_error": [float(each.standard_error) for each in regrets],
                "map": mean,
                "spread": spread,
                "moved": [parts.get(part, 0) for part in PARTS],
            }
            for key, value in values.items():
                found[key][1][i, j] = value
            shown = " ".join(f"{value:.3f}" for value in values["regret"])
            print(f"{network}, {name}, stored {stored}: {shown}", file=sys.stderr, flush=True)
    return xr.Dataset(
        found,
        coords={
            "network": list(NETWORKS),
            "method": METHODS,
            "evaluation": evaluations,
            "part": PARTS,
            "n": np.arange(LENGTH + 1),
            "k": np.arange(LENGTH + 1),
        },
        attrs={"training": str(pb.LIVE), "target": SETTING},
    )


if __name__ == "__main__":
    study.keep("maps_of_ten", compute)
