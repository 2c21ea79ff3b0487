"""Every method on every network: what it frees moves, what it does not free stays as it is."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from conftest import (
    KEYS,
    MATRIX,
    NUM_SEEDS,
    PREFIX_METHODS,
    SMALL_METHODS,
    roundings,
    run,
    small_predictor,
)
from promptbayes import (
    LSTM,
    METHODS,
    HardPrefix,
    LoRA,
    Prefix,
    Training,
    Transformer,
    Weights,
    coin,
    initialise,
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
            if method not in PREFIX_METHODS:
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
    leaves = named_leaves(done.tuned.theta)
    if method in shapes:
        assert {leaf.shape for leaf in leaves.values()} == shapes[method]
    else:
        params = named_leaves(done.base.params)
        assert leaves.keys() == freed(network, method)
        assert all(leaf.shape == (seeds, *params[name].shape) for name, leaf in leaves.items())


@pytest.mark.parametrize(
    ("network", "method"), [pair for pair in MATRIX if pair[1] not in PREFIX_METHODS]
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
    ],
)
def test_number_of_tuned_parameters(method, architecture, number):
    assert count(METHODS[method], architecture) == number


# The table and what it refuses.


def test_the_table_holds_the_papers_methods():
    assert list(METHODS) == ["HardPT", *SMALL_METHODS]
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
        ("LSTM", Prefix("soft", 0), ValueError, "`length` of a tuned prefix must be .* 1, got 0"),
        ("LSTM", Prefix("soft", -2), ValueError, "`length` of a tuned prefix must be .* 1, got -2"),
        ("LSTM", Prefix("soft", 2.0), TypeError, "`length` of a prefix must be an int, got 2.0"),
        ("LSTM", Prefix("soft", True), TypeError, "`length` of a prefix must be an int, got True"),
        ("LSTM", Weights(("head",)), ValueError, "`parts` must be a tuple of embedding, torso, un"),
        ("LSTM", Weights("embedding"), ValueError, r"must be a tuple of .*, got 'embedding'"),
        ("LSTM", Weights(["embedding"]), ValueError, r"must be a tuple of .*, got \['embedding'\]"),
        ("LSTM", Weights(()), ValueError, r"`parts` must be a tuple of .*, got \(\)"),
        ("LSTM", Weights(None), ValueError, "`parts` must be a tuple of .*, got None"),
        ("LSTM", LoRA(4), ValueError, "LoRA is defined on a Transformer's attention, got .* LSTM"),
        ("Transformer", LoRA(0), ValueError, "`rank` must be an int of at least 1, got 0"),
        ("Transformer", LoRA("4"), ValueError, "`rank` must be an int of at least 1, got '4'"),
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
