"""The networks against references written with loops, one number at a time, in float64."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_predictor, roundings, small_predictor
from flax import nnx
from promptbayes import LSTM, Architecture, Transformer, initialise, networks
from promptbayes.networks import TransformerTorso

TOKENS = np.array([[0, 2, 1, 1, 0], [2, 2, 0, 1, 2]])
DEEP = {
    "LSTM": LSTM(num_tokens=3, embedding_width=6, width=5, num_layers=2),
    "Transformer": Transformer(
        num_tokens=3, embedding_width=8, num_heads=2, mlp_width=7, num_layers=2
    ),
}
# At most 9 vectors through 2 layers, each a few sums of under 100 products, one after the other.
ROUNDINGS = 10_000


# References. A sequence at a time: what is read is [empty context, prefix, tokens].


def naive(predictor, sequence):
    """Log-probabilities [time, token] and states [1 + prefix + time, feature] of one sequence."""
    torso = {LSTM: naive_lstm, Transformer: naive_transformer}[type(predictor.network)]
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), predictor.params)
    embedding, unembedding = params["embedding"], params["unembedding"]
    embedded = [embedding["kernel"][token] + embedding["bias"] for token in sequence]
    read = [embedding["bias"], *np.asarray(predictor.prefix, np.float64), *embedded]
    outputs, states = torso(params["torso"], np.array(read), predictor.network)
    logits = outputs @ unembedding["kernel"] + unembedding["bias"]
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return log_probs[len(predictor.prefix) : -1], states


def naive_lstm(params, vectors, architecture):
    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    states = []
    for layer in params["layers"].values():
        h = c = np.zeros(architecture.width)
        hidden, cells = [], []
        for x in vectors:
            gates = x @ layer["input"]["kernel"] + layer["input"]["bias"] + h @ layer["recurrent"]
            i, f, g, o = gates.reshape(4, architecture.width)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            hidden.append(h)
            cells.append(c)
        vectors = np.array(hidden)
        states.append(cells)
    return vectors, np.concatenate(states, axis=-1)


def naive_transformer(params, vectors, architecture):
    width, num_heads = architecture.embedding_width, architecture.num_heads

    def layer_norm(x, norm):
        normal = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
        return normal * norm["scale"] + norm.get("bias", 0)

    def gelu(x):
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    stream = [x + naive_position(t, width) for t, x in enumerate(vectors)]
    states = []
    for block in params["blocks"].values():
        weights = block["attention"]
        normal = [layer_norm(x, block["attention_norm"]) for x in stream]
        queries, keys, values = (
            np.array([x @ weights[name]["kernel"] for x in normal])
            for name in ("query", "key", "value")
        )
        queries = np.array([layer_norm(q, weights["query_norm"]) for q in queries])
        keys = np.array([layer_norm(k, weights["key_norm"]) for k in keys])
        attended = []
        for t in range(len(stream)):
            heads = []
            for columns in np.split(np.arange(width), num_heads):
                past = range(t + 1)
                scores = [queries[t, columns] @ keys[s, columns] for s in past]
                weight = np.exp(np.array(scores) / np.sqrt(len(columns)))
                weight /= weight.sum()
                heads.append(sum(weight[s] * values[s, columns] for s in past))
            attended.append(np.concatenate(heads) @ weights["out"]["kernel"])
        stream = [x + a for x, a in zip(stream, attended)]
        stream = [
            x
            + gelu(layer_norm(x, block["mlp_norm"]) @ block["up"]["kernel"])
            @ block["down"]["kernel"]
            for x in stream
        ]
        stream = [layer_norm(x, block["norm"]) for x in stream]
        states.append(attended)
    return np.array(stream), np.concatenate(states, -1)


def naive_position(time, width):
    frequencies = [1e4 ** (-i / width) for i in range(0, width + 1, 2)]
    sines = [np.sin(time * frequency) for frequency in frequencies]
    cosines = [np.cos(time * frequency) for frequency in frequencies]
    return np.array((sines + cosines)[:width])


@pytest.mark.parametrize("network", DEEP)
def test_predictions_and_states_are_those_of_loops_in_float64(network, float64):
    deep = random_predictor(DEEP[network])
    width = deep.network.embedding_width
    deep = deep._replace(prefix=np.random.default_rng(2).normal(size=(3, width)))
    log_probs, states = deep(TOKENS), deep.states(TOKENS)
    assert log_probs.dtype == np.float64
    tolerance = roundings(ROUNDINGS, np.float64)
    for row, sequence in enumerate(TOKENS):
        expected, expected_states = naive(deep, sequence)
        np.testing.assert_allclose(log_probs[row], expected, atol=tolerance, rtol=0)
        together = np.concatenate([states.start[None], states.prefix, states.content[row]])
        np.testing.assert_allclose(together, expected_states, atol=tolerance, rtol=0)


@pytest.mark.parametrize("network", DEEP)
def test_float32_differs_from_the_loops_by_rounding_only(network):
    deep = random_predictor(DEEP[network])
    expected = np.array([naive(deep, sequence)[0] for sequence in TOKENS])
    # Half of all roundings go up: the sum of n is about the square root of n, 4 of them at most.
    tolerance = roundings(4 * np.sqrt(ROUNDINGS), np.float32)
    np.testing.assert_allclose(deep(TOKENS), expected, atol=tolerance, rtol=0)


def test_sinusoids_are_sines_then_cosines_cut_to_the_width(float64):
    for width, num_sines in ((128, 65), (4, 3), (5, 3)):
        table = networks.sinusoids(7, width)
        expected = np.array([naive_position(t, width) for t in range(7)])
        # Angles up to 6, each from a power and a product.
        np.testing.assert_allclose(table, expected, atol=roundings(100, np.float64), rtol=0)
        # At position 0 every sine is 0 and every cosine 1, exactly.
        assert table[0].tolist() == [0.0] * num_sines + [1.0] * (width - num_sines)


def test_gradient_of_the_recurrence_is_that_of_autodiff(float64):
    rng = np.random.default_rng(3)
    time, batch, width = 6, 3, 4
    shapes = (time, batch, 4 * width), (width, 4 * width), (batch, width), (batch, width)
    inputs = [rng.normal(size=shape) for shape in shapes]
    weights = [rng.normal(size=(time, batch, width)) for _ in range(2)]  # on hidden states, cells

    def gradient(recurrence):
        def total(*inputs):
            return sum((w * out).sum() for w, out in zip(weights, recurrence(*inputs)))

        return jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))(*inputs)

    by_autodiff = gradient(lambda *inputs: networks._recur_forward(*inputs)[0])
    for ours, plain in zip(gradient(networks.recur), by_autodiff):
        # Sums over 6 steps, 3 sequences and 16 gates of numbers below 10, and the chain of steps.
        np.testing.assert_allclose(ours, plain, atol=roundings(10_000, np.float64), rtol=0)


# What depends on what.


def torso_of(predictor):
    return networks.bind(predictor.network, predictor.params).torso


def test_outputs_depend_on_all_of_the_past_and_on_nothing_else(small):
    time, width = 5, small.network.embedding_width
    x_TxD = jnp.asarray(np.random.default_rng(4).normal(size=(time, width)), jnp.float32)

    @jax.jit
    def jacobian(x_TxD):
        def read(x_TxD):
            torso = torso_of(small)
            return torso(x_TxD[None], torso.start()).outputs[0]

        return jax.jacrev(read)(x_TxD)

    size = np.abs(jacobian(x_TxD)).sum(axis=(1, 3))  # [time of output, time of input]
    np.testing.assert_array_equal(size > 0, np.tri(time, dtype=bool))


def test_a_prediction_depends_on_earlier_tokens_only(small):
    tokens = np.array([[0, 1, 1, 0, 1, 0]])
    before = np.asarray(small(tokens))[0]
    for t in range(tokens.shape[1]):
        flipped = tokens.copy()
        flipped[0, t] = 1 - flipped[0, t]
        after = np.asarray(small(flipped))[0]
        np.testing.assert_array_equal(after[: t + 1], before[: t + 1])
        assert np.all(after[t + 1 :] != before[t + 1 :])


def test_reading_in_pieces_is_reading_at_once(small):
    """The scan is a loop, and the memory is all that the past leaves."""
    time, width = 6, small.network.embedding_width
    x_1xTxD = np.random.default_rng(5).normal(size=(1, time, width)).astype(np.float32)

    @jax.jit
    def at_once(x_1xTxD):
        torso = torso_of(small)
        return torso(x_1xTxD, torso.start())

    @jax.jit
    def one_by_one(x_1xTxD):
        torso = torso_of(small)
        memory, outputs, states = torso.start(), [], []
        for t in range(time):
            reading = torso(x_1xTxD[:, t : t + 1], memory)
            memory = reading.memory
            outputs.append(reading.outputs)
            states.append(reading.states)
        return networks.Reading(
            jnp.concatenate(outputs, axis=1), memory, jnp.concatenate(states, axis=1)
        )

    for piecewise, whole in zip(
        jax.tree.leaves(one_by_one(x_1xTxD)), jax.tree.leaves(at_once(x_1xTxD)), strict=True
    ):
        # Six steps of a few sums of at most 16 terms; LayerNorm makes small differences larger.
        np.testing.assert_allclose(piecewise, whole, atol=roundings(200), rtol=0)


def test_reading_nothing_changes_nothing(small):
    assert small(np.zeros((2, 0), int)).shape == (2, 0, 2)
    assert small(np.zeros((0, 4), int)).shape == (0, 4, 2)
    # The first prediction is made before any token is read.
    alone, first = small([[0]])[0, 0], small([[1, 0, 0]])[0, 0]
    np.testing.assert_allclose(alone, first, atol=roundings(20), rtol=0)


# Sizes and beginnings.


def num_parameters(architecture):
    shapes = jax.eval_shape(lambda: networks.initial_params(architecture, jax.random.key(0)))
    return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("architecture", "number"),
    [
        (LSTM(), 132_226),
        (Transformer(), 198_274),
        # By hand: embedding 2*4+4, input 4*512+512, recurrent 128*512, unembedding 128*2+2.
        (LSTM(embedding_width=4), 12 + 2560 + 65536 + 258),
        (Transformer(embedding_width=4), 4_214),
        # 2*256+256, two layers of 256*1024+1024+256*1024, 256*2+2.
        (LSTM(embedding_width=256, width=256, num_layers=2), 768 + 2 * 525_312 + 514),
        # 768, two blocks of 4*256^2 + 2*256*1024 + 8*256, 514.
        (
            Transformer(embedding_width=256, mlp_width=1024, num_layers=2),
            768 + 2 * (4 * 256**2 + 2 * 256 * 1024 + 8 * 256) + 514,
        ),
    ],
    ids=lambda x: str(x) if isinstance(x, Architecture) else "",
)
def test_number_of_parameters(architecture, number):
    assert num_parameters(architecture) == number


@pytest.mark.parametrize("architecture", [LSTM(), Transformer()], ids=["LSTM", "Transformer"])
def test_random_weights_have_the_papers_scale(architecture):
    params = initialise(architecture, jax.random.key(6)).params
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(params)):
        name = path[-1].key
        if name == "bias":
            assert np.all(leaf == 0)
        elif name == "scale":
            assert np.all(leaf == 1)
        elif name == "kernel":
            # LeCun: variance 1 / fan-in. Of n normal numbers, the sample variance has the relative
            # standard error sqrt(2 / n); cut at two standard deviations they spread less than that.
            relative = np.square(leaf).mean() * leaf.shape[0]
            assert abs(relative - 1) < 4 * np.sqrt(2 / leaf.size), path
        else:
            assert name == "recurrent"


class LastNormTorso(TransformerTorso):
    """As it once was: one LayerNorm behind the last block, made after the blocks."""

    def __init__(self, width, num_layers, num_heads, mlp_width, rngs):
        self.width, self.num_heads = width, num_heads
        blocks = [OneNormLess(width, num_heads, mlp_width, rngs) for _ in range(num_layers)]
        self.blocks = nnx.data(blocks)
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)


class OneNormLess(nnx.Module):
    def __init__(self, width, num_heads, mlp_width, rngs):
        self.attention_norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.attention = networks.Attention(width, num_heads, rngs)
        self.mlp_norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.up = nnx.Linear(width, mlp_width, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(mlp_width, width, use_bias=False, rngs=rngs)


@pytest.mark.parametrize("seed", [0, 1])
def test_untrained_transformers_of_one_block_keep_their_numbers(seed):
    """The stored results of untrained networks rest on them; embedding width 4 and 128."""
    for width in (4, 128):

        class Old(Transformer):
            def torso(self, rngs):
                return LastNormTorso(
                    self.embedding_width, self.num_layers, self.num_heads, self.mlp_width, rngs
                )

        key = jax.random.key(seed)
        old = networks.initial_params(Old(embedding_width=width), key)
        new = networks.initial_params(Transformer(embedding_width=width), key)
        old["torso"]["blocks"][0]["norm"] = old["torso"].pop("norm")
        assert jax.tree.structure(old) == jax.tree.structure(new)
        for mine, other in zip(jax.tree.leaves(new), jax.tree.leaves(old)):
            np.testing.assert_array_equal(mine, other)


SMALL_AND_DEEP = LSTM(width=32, num_layers=2)


def test_recurrent_kernel_is_orthogonal_gate_by_gate():
    params = initialise(SMALL_AND_DEEP, jax.random.key(7)).params
    gates = [
        gate
        for layer in params["torso"]["layers"].values()
        for gate in np.split(np.asarray(layer["recurrent"]), 4, axis=1)
    ]
    for gate in gates:
        # Householder's method keeps orthogonality to about the width in roundings.
        np.testing.assert_allclose(gate.T @ gate, np.eye(32), atol=roundings(32), rtol=0)
    for i in range(len(gates)):
        for j in range(i):  # drawn independently: no gate is another's copy
            assert np.abs(gates[i] - gates[j]).max() > 0.1


def test_another_key_gives_another_network_and_the_same_key_the_same():
    def draw(seed):
        return jax.tree.leaves(initialise(SMALL_AND_DEEP, jax.random.key(seed)).params)

    assert all(np.array_equal(a, b) for a, b in zip(draw(0), draw(0)))
    assert any(not np.array_equal(a, b) for a, b in zip(draw(0), draw(1)))


# Architectures as values.


def test_architectures_are_compared_by_value():
    assert LSTM(width=8) == LSTM(width=8) != LSTM(width=9)
    assert hash(Transformer()) == hash(Transformer())
    assert LSTM() != Transformer()


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: LSTM(width=0), ValueError, "`width` must be at least 1, got 0"),
        (lambda: LSTM(num_layers=-1), ValueError, "`num_layers` must be at least 1, got -1"),
        (lambda: LSTM(num_tokens=1), ValueError, "`num_tokens` must be at least 2, got 1"),
        (lambda: LSTM(width=8.0), TypeError, "`width` must be an int, got 8.0"),
        (lambda: LSTM(width=True), TypeError, "`width` must be an int, got True"),
        (lambda: LSTM(width=None), TypeError, "`width` must be an int, got None"),
        (
            lambda: Transformer(embedding_width=6),
            ValueError,
            "`num_heads` must divide `embedding_width`, got 4 heads for a width of 6",
        ),
        (lambda: Architecture().torso(None), NotImplementedError, "must define torso"),
    ],
)
def test_impossible_architectures_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()


class LastVector(networks.Torso):
    """A torso that remembers nothing."""

    def __init__(self, width, rngs):
        self.width = width
        self.mix = nnx.Linear(width, width, rngs=rngs)

    def start(self):
        return []

    def read(self, x_BxTxD, memory):
        outputs = jnp.tanh(self.mix(x_BxTxD))
        return networks.Reading(outputs, memory, outputs)


@dataclass(frozen=True, kw_only=True)
class Memoryless(Architecture):
    def torso(self, rngs):
        return LastVector(self.embedding_width, rngs)


def test_a_network_of_your_own_is_a_predictor():
    own = initialise(Memoryless(embedding_width=4), jax.random.key(8))
    log_probs = own([[0, 1, 0], [1, 1, 0]])
    np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, atol=roundings(10), rtol=0)
    # It sees the last token only: after it, both sequences are the same to it.
    np.testing.assert_array_equal(log_probs[0, 2], log_probs[1, 2])


def test_small_predictors_have_no_weight_at_rest():
    """What the other tests rely on: a forgotten bias or scale would show."""
    for network in ("LSTM", "Transformer"):
        for leaf in jax.tree.leaves(small_predictor(network).params):
            assert np.all(leaf != 0)
            assert np.all(leaf != 1)
