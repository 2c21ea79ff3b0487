"""The plane of one real-valued row (u_0, u_1) in front of each network: two coins are read.

Beside the network's fault on two coins: how far its predictions are from those of a counter which
adds the row to its pseudo-counts. About two minutes on one core.
"""

import jax
import jax.numpy as jnp
import numpy as np
import promptbayes as pb
import xarray as xr
from promptbayes import study

NETWORKS = ("lstm", "transformer")
PLACES, NUM_SEQUENCES, LENGTH = np.arange(-3, 6.25, 0.5), 128, 50


@jax.jit
def _column(base, rows, tokens, log_target, log_counter):
    """Fault and distance from the counter after each of some rows, nats, [row, sequence]."""

    def one(row, log_counter):
        log_net = base._replace(prefix=base.embed(row[None]))(tokens)
        fault = jnp.exp(log_target) * (log_target - log_net)
        apart = jnp.exp(log_counter) * (log_counter - log_net)
        return fault.sum(axis=(1, 2)), apart.sum(axis=(1, 2))

    return jax.vmap(one)(rows, log_counter)


def compute() -> xr.Dataset:
    """Both networks, all rows of the plane; the counter only where its counts stay positive."""
    target = pb.coin_mixture([0.2, 0.8])
    tokens = target.sample(jax.random.key(0), NUM_SEQUENCES, LENGTH).tokens
    log_target = target.predict(tokens)
    shape = len(NETWORKS), len(PLACES), len(PLACES)
    fault, error, apart = (np.full(shape, np.nan) for _ in range(3))
    untuned = np.full((len(NETWORKS), NUM_SEQUENCES), np.nan)
    for i, network in enumerate(NETWORKS):
        base = pb.load_pretrained(network)
        log_net = base(tokens)
        untuned[i] = (jnp.exp(log_target) * (log_target - log_net)).sum(axis=(1, 2))
        for j, u1 in enumerate(PLACES):
            rows = np.stack([PLACES, np.full(len(PLACES), u1)], axis=1)
            possible = (rows > -1).all(axis=1)
            alpha = np.where(possible[:, None], 1 + rows, 1.0)
            log_counter = jnp.stack([pb.dirichlet(a).predict(tokens) for a in alpha])
            faults, aparts = _column(base, jnp.asarray(rows), tokens, log_target, log_counter)
            fault[i, j] = np.mean(faults, axis=1)
            error[i, j] = np.std(faults, axis=1, ddof=1) / np.sqrt(NUM_SEQUENCES)
            apart[i, j] = np.where(possible, np.mean(aparts, axis=1), np.nan)
    plane = "network", "u1", "u0"
    return xr.Dataset(
        {
            "fault": (plane, fault, {"units": "nats", "long_name": "KL(two coins || network)"}),
            "fault_error": (plane, error),
            "apart": (plane, apart, {"units": "nats", "long_name": "KL(counter || network)"}),
            "untuned": ("network", untuned.mean(axis=1), {"units": "nats"}),
        },
        coords={"network": list(NETWORKS), "u1": PLACES, "u0": PLACES},
    )


if __name__ == "__main__":
    study.keep("real_plane", compute)
