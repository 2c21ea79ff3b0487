"""A soft prefix tuned on samples of the network itself as it is after a long hard prompt.

The teacher is a pretrained network behind n flips, a fifth of them ones; the student is the same
network behind L soft vectors. The student's excess loss over the teacher, KL(teacher || student),
says how well the vectors stand for the flips. Beside it the best of the L + 1 prompts of L tokens,
zeros first. About six minutes on one core.
"""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import promptbayes as pb
import xarray as xr
from promptbayes import study

NETWORKS = ("lstm", "transformer")
FLIPS, VECTORS = (10, 20, 50), (1, 2, 6)
POOL, FRESH, FEW, LENGTH, BLOCK, CHUNK = 2048, 512, 128, 50, 10, 512


class Samples(NamedTuple):
    """A task that is a pool of sequences, [sequence, time], drawn from with replacement."""

    pool: jax.Array
    num_tokens = 2

    def sample(self, key, num_sequences, length):
        """Rows of the pool, cut to `length`."""
        rows = jax.random.randint(key, (num_sequences,), 0, len(self.pool))
        return pb.Sequences(self.pool[rows, :length], None)


@jax.jit
def _block(predictor, memories, keys):
    """Each sequence's next BLOCK tokens, [sequence, time], and what it remembers after them."""

    def one(memory, key):
        reader = predictor._replace(prefix=predictor.prefix[:0], memory=memory)

        def step(tokens, t):
            log_probs = reader(tokens[None])[0, t]
            drawn = jax.random.categorical(jax.random.fold_in(key, t), log_probs)
            return tokens.at[t].set(drawn.astype(jnp.int32)), None

        tokens = jax.lax.scan(step, jnp.zeros(BLOCK, jnp.int32), jnp.arange(BLOCK))[0]
        return tokens, reader.with_tokens(tokens).read()

    return jax.vmap(one)(memories, keys)


def draw(predictor, key, number):
    """Sequences drawn from a predictor, token after token, int32 [number, LENGTH]."""
    drawn = []
    for chunk in range(number // CHUNK):
        memories = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (CHUNK, *leaf.shape)), predictor.read()
        )
        blocks = []
        for block in range(LENGTH // BLOCK):
            keys = jax.random.split(jax.random.fold_in(key, 1000 * chunk + block), CHUNK)
            tokens, memories = _block(predictor, memories, keys)
            blocks.append(np.asarray(tokens))
        drawn.append(np.concatenate(blocks, axis=1))
    return np.concatenate(drawn)


@jax.jit
def _divergences(teacher, student, tokens):
    log_p, log_q = teacher(tokens), student(tokens)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(axis=(1, 2))


def excess(teacher, student, tokens):
    """KL(teacher || student) over a sequence, nats, at contexts of the teacher; and its error."""
    values = np.concatenate(
        [_divergences(teacher, student, tokens[i : i + FEW]) for i in range(0, len(tokens), FEW)]
    ).astype(float)
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))


def compute() -> xr.Dataset:
    """Every network, number of flips and number of vectors."""
    shape = len(NETWORKS), len(FLIPS), len(VECTORS)
    soft, soft_error, hard, hard_error = (np.full(shape, np.nan) for _ in range(4))
    untuned, untuned_error = np.full(shape[:2], np.nan), np.full(shape[:2], np.nan)
    ones = np.zeros(len(FLIPS), int)
    for i, network in enumerate(NETWORKS):
        base = pb.load_pretrained(network)
        for j, flips in enumerate(FLIPS):
            ones[j] = flips // 5
            prompt = np.random.default_rng(0).permutation(np.arange(flips) < ones[j]).astype(int)
            teacher = base.with_tokens(prompt)
            pool, fresh = (
                draw(teacher, jax.random.key(seed), number)
                for seed, number in ((0, POOL), (1, FRESH))
            )
            untuned[i, j], untuned_error[i, j] = excess(teacher, base, fresh)
            for m, vectors in enumerate(VECTORS):
                tuned = pb.tune(
                    base,
                    pb.Prefix("soft", vectors),
                    Samples(jnp.asarray(pool)),
                    pb.LIVE,
                    jax.random.key(2),
                    progress=False,
                )
                student = tuned.predictor(0)
                soft[i, j, m], soft_error[i, j, m] = excess(teacher, student, fresh)
                prompts = np.tri(vectors + 1, vectors, -1, dtype=int)[:, ::-1]  # zeros first
                found = [excess(teacher, base.with_tokens(s), pool[:FEW])[0] for s in prompts]
                best = base.with_tokens(prompts[int(np.argmin(found))])
                hard[i, j, m], hard_error[i, j, m] = excess(teacher, best, fresh)
                print(
                    f"{network}, {flips} flips, untuned {untuned[i, j]:.4f}, {vectors} vectors: "
                    f"{soft[i, j, m]:.4f} +- {soft_error[i, j, m]:.4f}, tokens {hard[i, j, m]:.4f}",
                    file=sys.stderr,
                )
    each, both = ("network", "flips", "vectors"), ("network", "flips")
    return xr.Dataset(
        {
            "soft": (each, soft, {"units": "nats", "long_name": "KL, tuned soft prefix"}),
            "soft_error": (each, soft_error),
            "hard": (
                each,
                hard,
                {"units": "nats", "long_name": "KL, best of the prompts of L tokens, zeros first"},
            ),
            "hard_error": (each, hard_error),
            "untuned": (both, untuned, {"units": "nats", "long_name": "KL, no prefix"}),
            "untuned_error": (both, untuned_error),
            "ones": ("flips", ones),
        },
        coords={"network": list(NETWORKS), "flips": list(FLIPS), "vectors": list(VECTORS)},
    )


if __name__ == "__main__":
    study.keep("soft_distilled", compute)
