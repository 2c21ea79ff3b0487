"""Strict numerics for every test, and the small networks and runs that several files share.

Warnings are errors (pyproject.toml). Arrays of different rank do not mix silently. A tolerance is
derived where it is used; most are `roundings(n, dtype)`: n successive roundings of numbers of order
one, were they all in the same direction.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from promptbayes import (
    LSTM,
    LoRA,
    Memory,
    Predictor,
    Prefix,
    Sequences,
    Training,
    Transformer,
    Weights,
    networks,
    tune,
    tuning,
)

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_go_with_their_module():
    """Each compiled program keeps memory maps, and Linux allows a process 65,530 of them.

    All tests in one process come near: jax 0.7 then crashes while compiling, without a message.
    """
    yield
    jax.clear_caches()


# Every width differs from every other, so that a mixed-up axis cannot go unnoticed.
NETWORKS = {
    "LSTM": LSTM(embedding_width=6, width=8),
    "Transformer": Transformer(embedding_width=8, num_heads=2, mlp_width=16),
}
# The methods at the size of these networks, less HardPT, which is not tuned.
SMALL_METHODS = {
    "SimplexPT": Prefix("simplex", 2),
    "RealPT": Prefix("real", 2),
    "SoftPT": Prefix("soft", 2),
    "EmbedWT": Weights(("embedding",)),
    "UnembedWT": Weights(("unembedding",)),
    "Un+EmbedWT": Weights(("embedding", "unembedding")),
    "FullWT": Weights(("embedding", "torso", "unembedding")),
    "LoRAWT": LoRA(2),
    "Memory": Memory(2),
}
PREFIX_METHODS = ("SimplexPT", "RealPT", "SoftPT")
CONTEXT_METHODS = (*PREFIX_METHODS, "Memory")
# Prefixes start anywhere, and several starts share a run; weights start at the base.
NUM_SEEDS = {method: 3 if method in CONTEXT_METHODS else 1 for method in SMALL_METHODS}


def pytest_configure(config):
    if "error" not in config.getini("filterwarnings"):
        raise pytest.UsageError("pyproject.toml must make warnings errors: style.md, rule 14")


def roundings(number, dtype=np.float32):
    """The error of that many successive roundings of numbers of order one, all the same way."""
    return number * float(np.finfo(dtype).eps)


@pytest.fixture
def float64():
    """Float64 in jax, for one test."""
    if hasattr(jax, "enable_x64"):
        context = jax.enable_x64
    else:  # jax < 0.8
        from jax.experimental import enable_x64 as context
    with context(True):
        yield


def random_predictor(architecture, seed=0):
    """A predictor with noise in every weight, so that none is zero, or one, by construction."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape)
        if leaf.ndim == 2:
            return jnp.asarray(noise / np.sqrt(leaf.shape[0]), leaf.dtype)
        return jnp.asarray(0.2 * noise + (path[-1].key == "scale"), leaf.dtype)

    shapes = jax.eval_shape(lambda: networks.initial_params(architecture, jax.random.key(0)))
    params = jax.tree_util.tree_map_with_path(draw, shapes)
    return Predictor(architecture, params, jnp.zeros((0, architecture.embedding_width)))


@functools.cache
def small_predictor(network):
    """A random small network, the same for all tests."""
    return random_predictor(NETWORKS[network])


@pytest.fixture(params=NETWORKS)
def small(request):
    """Both small networks, one after the other."""
    return small_predictor(request.param)


class TwoCoinsWithoutNoise(NamedTuple):
    """The mixture of the coins 1/4 and 3/4, each batch of 64 holding x_1:3 exactly p(x_1:3) times.

    p(x_1:3) = (3^(3-k) + 3^k) / 128 for k heads is a multiple of 1/64: 14, 6, 6, 6, 6, 6, 6, 14. So
    the loss of a batch is the expected loss, its gradient has no noise, and optima can be known.
    """

    tokens: np.ndarray
    num_tokens = 2

    def sample(self, key, num_sequences, length):
        assert (num_sequences, length) == self.tokens.shape
        return Sequences(jnp.asarray(self.tokens), None)


def two_coins_without_noise():
    times = {k: (3 ** (3 - k) + 3**k) // 2 for k in range(4)}
    rows = [x for x in itertools.product((0, 1), repeat=3) for _ in range(times[sum(x)])]
    return TwoCoinsWithoutNoise(np.array(rows, np.int32))


class Run(NamedTuple):
    """One run of `tune` that all tests share."""

    base: object
    method: object
    tuned: object
    after_three_steps: object  # theta [seed, ...]


KEYS = 7  # the seed of the runs' keys
# Enough for the slowest of them, UnembedWT, a convex problem whose features are nearly dependent.
RUN = Training(num_steps=1998, batch_size=64, length=3, learning_rate=0.2)


@functools.cache
def run(network, method):
    """Tune a small network; compiled and run once for all tests."""
    base, how = small_predictor(network), SMALL_METHODS[method]
    thetas, advance = [], tuning._advance

    def and_keep_theta(*arguments):
        state, losses = jax.device_get(advance(*arguments))
        thetas.append(state[0])
        return state, losses

    keys = jax.random.split(jax.random.key(KEYS), NUM_SEEDS[method])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "_STEPS_A_CALL", 3)
        patch.setattr(tuning, "_advance", and_keep_theta)
        tuned = tune(base, how, two_coins_without_noise(), RUN, keys, progress=False)
    return Run(base, how, tuned, thetas[0])


MATRIX = [
    (network, method)
    for network in NETWORKS
    for method in SMALL_METHODS
    if (network, method) != ("LSTM", "LoRAWT")
]
