"""Every method on every network: what it frees moves, what it does not free stays as it is."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    CONTEXT_METHODS,
    KEYS,
    MATRIX,
    NUM_SEEDS,
    PREFIX_METHODS,
    SMALL_METHODS,
    random_predictor,
    roundings,
    run,
    small_predictor,
)
from flax import nnx
from jax.flatten_util import ravel_pytree
from promptbayes import (
    LSTM,
    METHODS,
    HardPrefix,
    LoRA,
    Memory,
    Prefix,
    Training,
    Transformer,
    Weights,
    coin,
    evaluate,
    figures,
    initialise,
    load,
    networks,
    save,
    tune,
)

TOKENS = np.array([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]])
WEIGHT_METHODS = ("EmbedWT", "UnembedWT", "Un+EmbedWT", "FullWT")


def named_leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


FREED = {  # written out once more
    "EmbedWT": r"\['embedding'\]",
    "UnembedWT": r"\['unembedding'\]",
    "Un+EmbedWT": r"\['(un)?embedding'\]",
    "FullWT": "",
    "LoRAWT": r".*\['attention'\]\['(query|key|value|out)'\]",
}


def freed(network, method):
    """Names of the weights that the method may change."""
    params = named_leaves(small_predictor(network).params)
    return {name for name in params if method in FREED and re.match(FREED[method], name)}


def entry(tree, seed):
    return jax.tree.map(lambda leaf: leaf[seed], tree)


@pytest.mark.parametrize(("network", "method"), MATRIX)
def test_exactly_what_is_freed_moves(network, method):
    done = run(network, method)
    theta = {"three steps": done.after_three_steps, "all steps": done.tuned.theta}
    before = named_leaves(done.base.params)
    for seed in range(NUM_SEEDS[method]):
        for name, value in theta.items():
            tuned = done.method.apply(done.base, entry(value, seed))
            after = named_leaves(tuned.params)
            assert after.keys() == before.keys()
            moved = {leaf for leaf in before if not np.array_equal(before[leaf], after[leaf])}
            assert moved == freed(network, method), name
            if method not in CONTEXT_METHODS:
                assert tuned.prefix is done.base.prefix
        # Within a leaf, nothing that has a gradient was left out: after three steps all of it has.
    start = start_of(done, method)
    for leaf, first in named_leaves(start).items():
        third = named_leaves(done.after_three_steps)[leaf]
        assert np.all(np.any(third != first, axis=tuple(range(1, first.ndim)))), leaf


def start_of(done, method):
    """Theta [seed, ...] at the start: `tune` gives the first half of each key to `init`."""
    keys = jax.random.split(jax.random.key(KEYS), NUM_SEEDS[method])
    starts = [done.method.init(jax.random.split(key)[0], done.base) for key in keys]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *starts)


@pytest.mark.parametrize(("network", "method"), MATRIX)
def test_only_the_tuned_numbers_are_in_theta(network, method):
    """No copy of a frozen weight is carried for each repetition."""
    done = run(network, method)
    width, tokens = done.base.network.embedding_width, done.base.num_tokens
    seeds = NUM_SEEDS[method]
    shapes = {
        "SimplexPT": {(seeds, 2, tokens)},
        "RealPT": {(seeds, 2, tokens)},
        "SoftPT": {(seeds, 2, width)},
        "LoRAWT": {(seeds, width, 2), (seeds, 2, width)},
    }
    if network == "LSTM":
        shapes["Memory"] = {(seeds, 1, done.base.network.width)}
    else:  # the output, and what two positions have in two heads
        shapes["Memory"] = {(seeds, width), (seeds, 1, 2, 2, width // 2)}
    leaves = named_leaves(done.tuned.theta)
    if method in shapes:
        assert {leaf.shape for leaf in leaves.values()} == shapes[method]
    else:
        params = named_leaves(done.base.params)
        assert leaves.keys() == freed(network, method)
        assert all(leaf.shape == (seeds, *params[name].shape) for name, leaf in leaves.items())


@pytest.mark.parametrize(
    ("network", "method"), [pair for pair in MATRIX if pair[1] not in CONTEXT_METHODS]
)
def test_weight_tuning_starts_at_the_base(network, method):
    base, how = small_predictor(network), SMALL_METHODS[method]
    start = how.apply(base, how.init(jax.random.key(1), base))
    before, after = named_leaves(base), named_leaves(start)
    assert before.keys() == after.keys()
    for name, leaf in before.items():
        np.testing.assert_array_equal(after[name], leaf)


# Prefixes.


def test_prefixes_start_at_random_one_hot_rows(small):
    for method in PREFIX_METHODS:
        how = Prefix(SMALL_METHODS[method].kind, 200)
        theta = np.asarray(how.init(jax.random.key(2), small))
        width = small.network.embedding_width if method == "SoftPT" else 2
        assert theta.shape == (200, width)
        assert np.all(np.sort(theta, axis=1) == np.eye(width)[-1])
        # Each place is hit with probability 1 / width: 4 standard errors of a binomial share.
        error = np.sqrt((1 / width) * (1 - 1 / width) / 200)
        assert np.all(np.abs(theta.mean(axis=0) - 1 / width) < 4 * error)


def test_simplex_and_real_prefixes_go_through_the_embedding(small):
    theta = np.array([[0.5, -1.0], [3.0, 0.25], [0.0, 0.0]], np.float32)
    kernel, bias = (np.asarray(small.params["embedding"][name]) for name in ("kernel", "bias"))
    simplex = np.exp(theta) / np.exp(theta).sum(axis=1, keepdims=True)
    for kind, rows in (("real", theta), ("simplex", simplex)):
        prefix = Prefix(kind, 3).apply(small, theta).prefix
        np.testing.assert_allclose(prefix, rows @ kernel + bias, atol=roundings(20), rtol=0)


def test_a_one_hot_real_prefix_is_a_hard_prompt(small):
    prefixed = Prefix("real", 3).apply(small, np.eye(2, dtype=np.float32)[[0, 1, 1]])
    prompted = small.with_tokens([0, 1, 1])
    np.testing.assert_allclose(prefixed.prefix, prompted.prefix, atol=roundings(4), rtol=0)


def test_a_soft_prefix_is_taken_as_it_is(small):
    theta = np.random.default_rng(3).normal(size=(4, small.network.embedding_width))
    assert Prefix("soft", 4).apply(small, theta).prefix is theta


def test_a_prefix_is_tuned_behind_the_prompt(small):
    """What was there stays to the bit, and the whole predicts as the two in a row."""
    prompted = small.with_tokens([1, 0, 0])
    theta = np.random.default_rng(6).normal(size=(2, 2)).astype(np.float32)
    for kind in ("real", "simplex"):
        whole = Prefix(kind, 2).apply(prompted, theta).prefix
        alone = Prefix(kind, 2).apply(small, theta).prefix
        np.testing.assert_array_equal(whole, np.concatenate([prompted.prefix, alone]))
    training = Training(num_steps=2, batch_size=4, length=3)
    tuned = tune(prompted, Prefix("soft", 2), coin(0.2), training, jax.random.key(0)).predictor(0)
    np.testing.assert_array_equal(tuned.prefix[:3], prompted.prefix)
    again = tune(tuned, Prefix("soft", 1), coin(0.2), training, jax.random.key(1)).predictor(0)
    np.testing.assert_array_equal(again.prefix[:5], tuned.prefix)
    assert again.prefix.shape == (6, small.network.embedding_width)
    one_hot = Prefix("real", 2).apply(prompted, np.eye(2, dtype=np.float32))
    # As in test_predictor: the same numbers summed in another order.
    np.testing.assert_allclose(
        one_hot(TOKENS), small.with_tokens([1, 0, 0, 0, 1])(TOKENS), atol=roundings(300), rtol=0
    )


# LoRA.


def test_lora_adds_a_product_to_each_attention_kernel():
    base, rng = small_predictor("Transformer"), np.random.default_rng(4)
    theta = LoRA(3).init(jax.random.key(5), base)
    theta = jax.tree.map(lambda x: rng.normal(size=x.shape).astype("f"), theta)
    tuned = LoRA(3).apply(base, theta)
    for block, factors in theta.items():
        for kernel, ab in factors.items():
            place = [
                params["torso"]["blocks"][block]["attention"][kernel]["kernel"]
                for params in (base.params, tuned.params)
            ]
            np.testing.assert_allclose(
                place[1], place[0] + ab["a"] @ ab["b"], atol=roundings(20), rtol=0
            )


def test_lora_starts_with_lecuns_a_and_a_zero_b():
    wide = initialise(Transformer(num_layers=2, mlp_width=1), jax.random.key(6))
    factors = [
        ab for block in LoRA(4).init(jax.random.key(7), wide).values() for ab in block.values()
    ]
    assert len(factors) == 2 * 4
    assert all(np.all(ab["b"] == 0) for ab in factors)
    a = np.array([ab["a"] for ab in factors])
    assert len(np.unique(a[:, 0, 0])) == 8  # each drawn by itself
    # Variance 1 / width, to 4 standard errors of a sample variance, sqrt(2 / n).
    assert abs(np.square(a).mean() * 128 - 1) < 4 * np.sqrt(2 / a.size)


# Memory.


def random_memory(base, length=2, seed=8):
    """The base with a memory that no prefix has left."""
    rng, method = np.random.default_rng(seed), Memory(length)
    theta = method.init(jax.random.key(0), base)
    return method.apply(
        base, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), theta)
    )


# Behind the empty context, and behind a memory.
@pytest.mark.parametrize(("precision", "carrying"), [("float32", False), ("float64", True)])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("architecture", [
    LSTM(embedding_width=6, width=5),
    Transformer(embedding_width=8, num_heads=2, mlp_width=7),
], ids=["LSTM", "Transformer"])  # fmt: skip
def test_every_prefix_is_a_special_case(architecture, num_layers, carrying, precision, request):
    if precision == "float64":
        request.getfixturevalue("float64")
    base = random_predictor(dataclasses.replace(architecture, num_layers=num_layers))
    if carrying:
        base = random_memory(base)
    prefix = np.random.default_rng(9).normal(size=(3, architecture.embedding_width))
    prefixed = base._replace(prefix=prefix.astype(precision))
    method = Memory(3)
    remembered = method.apply(base, method.from_prefix(prefixed))
    assert remembered.prefix.shape == (0, architecture.embedding_width)
    # As for reading in pieces: some sums of at most 16 terms, which LayerNorm may enlarge.
    tolerance = {"atol": {"float32": 1e-6, "float64": 1e-14}[precision], "rtol": 0}
    np.testing.assert_allclose(remembered(TOKENS), prefixed(TOKENS), **tolerance)
    states, expected = remembered.states(TOKENS), prefixed.states(TOKENS)
    np.testing.assert_allclose(states.content, expected.content, **tolerance)
    np.testing.assert_allclose(states.start, expected.start, **tolerance)
    assert states.prefix.shape == (0, expected.prefix.shape[1])


def test_on_the_lstm_a_memory_has_no_length():
    """What prefixes of 1 and of 9 rows leave are both special cases of the same numbers."""
    base = small_predictor("LSTM")
    for length in (1, 9):
        prompted = base.with_tokens(np.arange(length) % 2)
        remembered = Memory(2).apply(base, Memory(length).from_prefix(prompted))
        np.testing.assert_allclose(remembered(TOKENS), prompted(TOKENS), atol=1e-6, rtol=0)


def test_a_memory_starts_as_that_of_a_random_hard_prompt(small):
    """One prompt for each key, each of the four as often, behind what the base has read."""

    prompted = small.with_tokens([1])
    keys = jax.random.split(jax.random.key(10), 200)
    starts = jax.vmap(lambda key: Memory(2).init(key, prompted))(keys)
    drawn = np.concatenate([leaf.reshape(200, -1) for leaf in jax.tree.leaves(starts)], axis=1)
    remembering = prompted._replace(memory=prompted.read(), prefix=prompted.prefix[:0])
    prompts = [[0, 0], [0, 1], [1, 0], [1, 1]]
    thetas = [Memory(2).from_prefix(remembering.with_tokens(prompt)) for prompt in prompts]
    known = np.stack([ravel_pytree(theta)[0] for theta in thetas])
    distance = np.abs(drawn[:, None] - known[None]).max(-1)
    assert np.all(distance.min(axis=1) < roundings(100))
    assert np.all(np.sort(distance, axis=1)[:, 1] > 0.01)
    shares = np.bincount(distance.argmin(axis=1), minlength=4) / 200
    assert np.all(np.abs(shares - 1 / 4) < 4 * np.sqrt(1 / 4 * 3 / 4 / 200))


def test_what_a_memory_frees_and_what_stays():
    """On the Transformer it stands behind the empty context; on the LSTM it is all there is."""
    for network in ("LSTM", "Transformer"):
        base = small_predictor(network)
        theta = Memory(2).init(jax.random.key(11), base)
        memory, empty = Memory(2).apply(base, theta).memory, base.read()
        if network == "LSTM":
            np.testing.assert_array_equal(memory.output, theta[-1][1][0])
            own = theta
        else:
            np.testing.assert_array_equal(memory.output, theta.output)
            for new, old in zip(jax.tree.leaves(memory.layers), jax.tree.leaves(empty.layers)):
                np.testing.assert_array_equal(new[:, :1], old)
            own = jax.tree.map(lambda leaf: leaf[:, 1:], memory.layers)
            theta = theta.layers
        for mine, other in zip(jax.tree.leaves(own), jax.tree.leaves(theta), strict=True):
            np.testing.assert_array_equal(mine, other)


def test_prompts_and_prefixes_are_read_behind_a_memory(small):
    tokens = np.array([1, 0, 0])
    prefix = np.random.default_rng(12).normal(size=(2, small.network.embedding_width)).astype("f")
    rows = small.with_tokens(tokens).prefix
    whole = small._replace(prefix=np.concatenate([prefix, rows]))
    carrying = small._replace(memory=small._replace(prefix=prefix).read())
    in_front = np.concatenate([np.tile(tokens, (2, 1)), TOKENS], axis=1)
    tolerance = {"atol": roundings(300), "rtol": 0}  # as for prompts in test_predictor
    for prompted in (carrying.with_tokens(tokens), Prefix("soft", 3).apply(carrying, rows)):
        np.testing.assert_allclose(prompted(TOKENS), whole(TOKENS), **tolerance)
        states, expected = prompted.states(TOKENS), whole.states(TOKENS)
        np.testing.assert_allclose(states.content, expected.content, **tolerance)
        np.testing.assert_allclose(states.prefix, expected.prefix[2:], **tolerance)
        np.testing.assert_allclose(states.start, expected.start, **tolerance)
    np.testing.assert_allclose(carrying(in_front)[:, 3:], whole(TOKENS), **tolerance)


@pytest.mark.parametrize("method", ["EmbedWT", "FullWT"])
def test_under_other_weights_a_prefix_is_read_again_and_a_memory_is_not(small, method):
    how, prefixed = SMALL_METHODS[method], small.with_tokens([0, 1])
    carrying = small._replace(memory=prefixed.read())
    theta = jax.tree.map(lambda x: 1.5 * x, how.init(None, small))
    for leaf, before in zip(
        jax.tree.leaves(how.apply(carrying, theta).read()), jax.tree.leaves(carrying.memory)
    ):
        np.testing.assert_array_equal(leaf, before)
    again = how.apply(prefixed, theta).read()
    assert np.all(again.output != carrying.memory.output)


def test_a_tuned_memory_is_evaluated_saved_and_loaded(small, tmp_path):
    tuned = random_memory(small)
    save(tmp_path / "x", tuned)
    again = load(tmp_path / "x")
    assert jax.tree.structure(again) == jax.tree.structure(tuned)
    flips = coin(0.3).sample(jax.random.key(13), 70, 5)
    losses = evaluate(again, flips)
    came = np.take_along_axis(np.asarray(tuned(flips.tokens)), flips.tokens[..., None], axis=-1)
    np.testing.assert_allclose(losses, -came[..., 0], atol=roundings(100), rtol=0)
    assert np.all(np.abs(losses - evaluate(small, flips)).max(axis=0) > 0.001)


class Leaky(networks.Torso):
    """One vector that decays, and where it is told to, a counter."""

    def __init__(self, width, counts, rngs):
        self.width, self.counts = width, counts
        self.mix = nnx.Linear(width, width, rngs=rngs)

    def start(self):
        counter = jnp.zeros((1,), jnp.int32 if self.counts else float)
        return {"h": jnp.zeros((1, self.width)), "time": counter}

    def read(self, x_BxTxD, memory):
        def step(h, x):
            h = h / 2 + jnp.tanh(self.mix(x))
            return h, h

        first = jnp.broadcast_to(memory["h"], (len(x_BxTxD), self.width))
        last, h_TxBxD = jax.lax.scan(step, first, jnp.swapaxes(x_BxTxD, 0, 1))
        h_BxTxD = jnp.swapaxes(h_TxBxD, 0, 1)
        after = {"h": last, "time": memory["time"] + x_BxTxD.shape[1]}
        return networks.Reading(h_BxTxD, after, h_BxTxD)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeakyNetwork(networks.Architecture):
    counts: int = 1

    def torso(self, rngs):
        return Leaky(self.embedding_width, self.counts == 2, rngs)


def test_of_a_torso_of_ones_own_all_is_free():
    base = initialise(LeakyNetwork(embedding_width=4), jax.random.key(14))
    prompted = base.with_tokens([1, 0, 1])
    theta = Memory(3).from_prefix(prompted)
    assert sum(leaf.size for leaf in jax.tree.leaves(theta)) == 4 + 4 + 1
    remembered = Memory(3).apply(base, theta)
    np.testing.assert_allclose(remembered(TOKENS), prompted(TOKENS), atol=1e-6, rtol=0)
    states = remembered.states(TOKENS)
    np.testing.assert_allclose(states.content, prompted.states(TOKENS).content, atol=1e-6, rtol=0)
    assert states.prefix.shape == (0, 4)
    Memory(3).check(base)
    with pytest.raises(TypeError, match="`base`: the memory of its LeakyNetwork holds int32, whi"):
        Memory(3).check(initialise(LeakyNetwork(counts=2), jax.random.key(14)))


def test_a_prefix_of_another_length_is_refused(small):
    for rows in (0, 2, 4):
        prompted = small.with_tokens([0] * rows)
        with pytest.raises(ValueError, match=f"prefix of 3 rows, got {rows}; .* Memory.{rows}.\\."):
            Memory(3).from_prefix(prompted)
    with pytest.raises(TypeError, match="`predictor` must be a Predictor with a prefix, got None"):
        Memory(3).from_prefix(None)


def count(method, architecture):
    """Tuned numbers at the paper's scale, without computing any."""

    def init():
        return method.init(jax.random.key(0), initialise(architecture, jax.random.key(0)))

    return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(init)))


@pytest.mark.parametrize(
    ("method", "architecture", "number"),
    [
        ("SimplexPT", LSTM(), 6 * 2),
        ("RealPT", LSTM(), 6 * 2),
        ("SoftPT", LSTM(), 6 * 128),
        ("EmbedWT", LSTM(), 2 * 128 + 128),
        ("UnembedWT", LSTM(), 128 * 2 + 2),
        ("Un+EmbedWT", LSTM(), 2 * 128 + 128 + 128 * 2 + 2),
        ("FullWT", LSTM(), 132_226),
        ("FullWT", Transformer(), 198_274),
        ("LoRAWT", Transformer(), 4_096),
        # The 4,214 of the paper are the network alone; LoRA's 4 * (4 * 4 + 4 * 4) come on top.
        ("FullWT", Transformer(embedding_width=4), 4_214),
        ("LoRAWT", Transformer(embedding_width=4), 128),
        ("Memory", LSTM(width=32), 2 * 32),
        ("Memory", LSTM(num_layers=2), 2 * 2 * 128),
        ("Memory", Transformer(), 1_664),
        ("Memory", Transformer(num_layers=2), 2 * 6 * 2 * 128 + 128),
    ],
)
def test_number_of_tuned_parameters(method, architecture, number):
    assert count(METHODS[method], architecture) == number


# The table and what it refuses.


def test_the_table_holds_the_papers_methods_and_memory():
    assert list(METHODS) == ["HardPT", *SMALL_METHODS]
    drawn = [name for names in list(figures.GROUPS.values())[:2] for name in names]
    assert sorted(drawn) == sorted(METHODS)
    lengths = {method.length for method in METHODS.values() if hasattr(method, "length")}
    assert lengths == {6}
    for name, small in SMALL_METHODS.items():
        assert type(METHODS[name]) is type(small)
    assert [METHODS[name].kind for name in PREFIX_METHODS] == ["simplex", "real", "soft"]
    assert [METHODS[name].parts for name in WEIGHT_METHODS] == [
        ("embedding",), ("unembedding",), ("embedding", "unembedding"),
        ("embedding", "torso", "unembedding"),
    ]  # fmt: skip


def test_methods_are_values():
    for method in METHODS.values():
        again = dataclasses.replace(method)
        assert again == method
        assert again is not method
        assert hash(again) == hash(method)


@pytest.mark.parametrize(
    ("network", "method", "error", "message"),
    [
        ("LSTM", Prefix("hard", 2), ValueError, "`kind` must be one of .*soft, got 'hard'"),
        ("LSTM", Prefix("soft", 0), ValueError, "`length` must be at least 1, got 0"),
        ("LSTM", Prefix("soft", -2), ValueError, "`length` must be at least 1, got -2"),
        ("LSTM", Prefix("soft", 2.0), TypeError, "`length` must be an int, got 2.0"),
        ("LSTM", Prefix("soft", True), TypeError, "`length` must be an int, got True"),
        ("LSTM", Weights(("head",)), ValueError, "`parts` must be a tuple of embedding, torso, un"),
        ("LSTM", Weights("embedding"), ValueError, r"must be a tuple of .*, got 'embedding'"),
        ("LSTM", Weights(["embedding"]), ValueError, r"must be a tuple of .*, got \['embedding'\]"),
        ("LSTM", Weights(()), ValueError, r"`parts` must be a tuple of .*, got \(\)"),
        ("LSTM", Weights(None), ValueError, "`parts` must be a tuple of .*, got None"),
        ("LSTM", LoRA(4), ValueError, "LoRA is defined on a Transformer's attention, got .* LSTM"),
        ("Transformer", LoRA(0), ValueError, "`rank` must be at least 1, got 0"),
        ("Transformer", LoRA("4"), TypeError, "`rank` must be an int, got '4'"),
        ("LSTM", Memory(0), ValueError, "`length` must be at least 1, got 0"),
        ("LSTM", Memory(6.0), TypeError, "`length` must be an int, got 6.0"),
        ("LSTM", Memory(True), TypeError, "`length` must be an int, got True"),
        ("LSTM", HardPrefix(6), TypeError, "no gradient; use search_hard_prefix"),
        ("LSTM", "SoftPT", TypeError, "a Method with check, init, apply, got 'SoftPT'"),
        ("LSTM", Prefix, TypeError, "a Method with .*, got .*, a class; pass an instance"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned_is_refused_before_anything_is_traced(network, method, error, message):
    class Untouched:
        num_tokens = 2

        def sample(self, key, num_sequences, length):
            raise AssertionError("the check comes too late")

    with pytest.raises(error, match=message):
        tune(small_predictor(network), method, Untouched(), Training(), jax.random.key(0))


@dataclasses.dataclass(frozen=True)
class Bias:
    """A method of one's own: the unembedding's bias."""

    settings: object = ()

    def check(self, base):
        pass

    def init(self, key, base):
        return base.params["unembedding"]["bias"]

    def apply(self, base, theta):
        unembedding = base.params["unembedding"] | {"bias": theta}
        return base._replace(params=base.params | {"unembedding": unembedding})


class NoApply:
    def check(self, base):
        pass

    def init(self, key, base):
        return base.prefix


class NoTheta(Bias):
    def init(self, key, base):
        return {}


class Integers(Bias):
    def init(self, key, base):
        return np.arange(2)


class NoResult(Bias):
    def apply(self, base, theta):
        return None


def test_a_method_of_ones_own_tunes_what_it_says(small):
    training = Training(num_steps=3, batch_size=4, length=3)
    tuned = tune(small, Bias(), coin(0.2), training, jax.random.key(0)).predictor(0)
    before, after = named_leaves(small.params), named_leaves(tuned.params)
    moved = {leaf for leaf in before if not np.array_equal(before[leaf], after[leaf])}
    assert moved == {"['unembedding']['bias']"}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (NoApply(), "`method` must be a Method .*, which has no apply"),
        (Bias([1]), r"`method` must be hashable, .*\[1\].*unhashable type: 'list'"),
        (NoTheta(), "`method` must give theta as float arrays: .*none"),
        (Integers(), "`method` must give theta as float arrays: .*int"),
        (NoResult(), "`method` must make a Predictor .*apply gave None"),
    ],
)
def test_half_a_method_is_refused(method, message):
    with pytest.raises(TypeError, match=message):
        tune(small_predictor("LSTM"), method, coin(0.2), Training(), jax.random.key(0))
