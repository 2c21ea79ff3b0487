"""Where tuning goes on from a stored soft prompt: among prefixes, and among memories.

Live scale, two coins; drawn by `methods/memory`. On the pretrained networks SoftPT itself is tuned
on, for the page does the same with the memory; on untrained ones the memory, from both its starts.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import promptbayes as pb
import xarray as xr
from promptbayes import experiments, results, study

TARGET = pb.coin_mixture([0.2, 0.8])
FRESH = TARGET.sample(jax.random.key(77), study.NUM_SEQUENCES, pb.LIVE.length)
MEMORY = pb.METHODS["Memory"]


def stored_prefixes(setting, network):
    """SoftPT's prefixes [repetition, prefix, width]."""
    theta = results.load_cell(setting, network, "SoftPT").theta.values
    return jnp.asarray(theta[: pb.LIVE_REPETITIONS].reshape(pb.LIVE_REPETITIONS, 6, -1))


def regrets(predictors):
    """Of each, and the largest error."""
    each = [study.regret_on(predictor, FRESH) for predictor in predictors]
    return [float(e.mean) for e in each], max(float(e.standard_error) for e in each)


def compute():
    """Regret [network, repetition] of each run."""
    keys = [experiments.repetition_key(r) for r in range(pb.LIVE_REPETITIONS)]
    found, worst = {}, 0.0
    for network in experiments.NETWORKS:
        rows = {}
        base = pb.load_pretrained(network)
        prefixes = stored_prefixes("two-coin-mixture", network)
        on = pb.tune(
            base, pb.METHODS["SoftPT"], TARGET, pb.LIVE, keys, start=prefixes, progress=False
        )
        rows["soft_before"] = [base._replace(prefix=prefix) for prefix in prefixes]
        rows["soft_after"] = [on.predictor(r) for r in range(len(keys))]
        base = experiments.base_predictor("untrained-two-coin-mixture", network)
        prefixes = stored_prefixes("untrained-two-coin-mixture", network)
        rows["untrained"] = [base] * len(keys)
        rows["untrained_soft"] = [base._replace(prefix=prefix) for prefix in prefixes]
        left = jax.vmap(lambda p, b=base: MEMORY.from_prefix(b._replace(prefix=p)))(prefixes)
        for name, start in {"untrained_random_start": None, "untrained_soft_start": left}.items():
            run = pb.tune(base, MEMORY, TARGET, pb.LIVE, keys, start=start, progress=False)
            rows[name] = [run.predictor(r) for r in range(len(keys))]
        for name, predictors in rows.items():
            values, error = regrets(predictors)
            worst = max(worst, error)
            found.setdefault(name, []).append(values)
            print(f"{network}, {name}: {values} ± {error:.3f}", file=sys.stderr, flush=True)
    return xr.Dataset(
        {name: (("network", "repetition"), np.array(values)) for name, values in found.items()},
        coords={"network": list(experiments.NETWORKS), "repetition": np.arange(len(keys))},
        attrs={"largest_error": worst, "training": str(pb.LIVE)},
    )


if __name__ == "__main__":
    study.keep("memory_starts", compute)
