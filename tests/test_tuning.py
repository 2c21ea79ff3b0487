"""The loop against optima that are known, against a loop written out, and counted traces."""

import functools
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from conftest import (
    CONTEXT_METHODS,
    KEYS,
    MATRIX,
    NETWORKS,
    NUM_SEEDS,
    PREFIX_METHODS,
    RUN,
    SMALL_METHODS,
    roundings,
    run,
    small_predictor,
    two_coins_without_noise,
)
from jax.flatten_util import ravel_pytree
from promptbayes import (
    LIVE,
    LSTM,
    PRETRAINING,
    TUNING,
    Memory,
    Prefix,
    Sequences,
    Training,
    Tuned,
    Weights,
    coin,
    coin_mixture,
    die,
    dirichlet,
    evaluate,
    exact,
    initialise,
    pretrain,
    random_coins,
    resume,
    search_hard_prefix,
    tune,
    tuning,
)


def expected_loss(predictor):
    """Exact expected log loss on the two coins, nats per sequence."""
    tokens = two_coins_without_noise().tokens
    log_probs = np.asarray(predictor(tokens), np.float64)
    return -np.take_along_axis(log_probs, tokens[..., None], axis=-1).sum() / len(tokens)


def two_coins_entropy():
    """What nobody can be better than: the entropy of x_1:3, reached by its Bayes predictor."""
    rows, times = np.unique(two_coins_without_noise().tokens, axis=0, return_counts=True)
    assert len(rows) == 8
    return -(times / 64 * np.log(times / 64)).sum()


# Known optima.


def test_the_entropy_is_what_the_bayes_predictor_loses():
    bayes = coin_mixture([0.25, 0.75])
    # Three float32 predictions a sequence.
    np.testing.assert_allclose(expected_loss(bayes.predict), two_coins_entropy(), atol=roundings(9))


@pytest.mark.parametrize(
    ("network", "method"), [pair for pair in MATRIX if pair[1] not in CONTEXT_METHODS]
)
def test_weight_methods_reach_the_entropy(network, method):
    """There are 7 histories to predict after: any of these methods has room to do each as Bayes.

    Nothing is below the entropy. "Reached" means: of what the base loses in excess, less than one
    part in fifty is left.
    """
    done, entropy = run(network, method), two_coins_entropy()
    before = expected_loss(done.base) - entropy
    assert before > 0.05  # there was something to gain
    for seed in range(NUM_SEEDS[method]):
        after = expected_loss(done.tuned.predictor(seed)) - entropy
        assert -roundings(9) < after < before / 50


@pytest.fixture(scope="module")
def loss_of_prefix():
    """For a network: prefix -> its expected loss and the gradient, one compilation each."""

    def build(network):
        base, tokens = small_predictor(network), two_coins_without_noise().tokens

        def loss(prefix):
            log_probs = base._replace(prefix=prefix)(tokens)
            return -jnp.take_along_axis(log_probs, tokens[..., None], axis=-1).sum() / len(tokens)

        return jax.jit(jax.value_and_grad(loss))

    return {network: build(network) for network in NETWORKS}


@pytest.mark.parametrize("method", PREFIX_METHODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_prefix_methods_reach_the_best_prefix(network, method, loss_of_prefix):
    """The best is found by another optimiser, scipy's L-BFGS, from 12 random starts.

    "Reached" means: of what the best gains over the average random one, less than one part in
    twenty is missing, in the best repetition (there are local optima, and directions in which the
    best prefix is infinitely far away).
    """
    done = run(network, method)
    shape = done.tuned.theta.shape[1:]

    def loss(flat):
        theta = jnp.asarray(flat.reshape(shape), jnp.float32)
        prefix, pull_back = jax.vjp(lambda theta: done.method.apply(done.base, theta).prefix, theta)
        value, gradient = loss_of_prefix[network](prefix)
        return float(value), np.asarray(pull_back(gradient)[0], np.float64).ravel()

    starts = [done.method.init(key, done.base) for key in jax.random.split(jax.random.key(0), 12)]
    best = min(
        scipy.optimize.minimize(loss, np.ravel(start), jac=True, method="L-BFGS-B").fun
        for start in starts
    )
    random = np.mean([loss(np.ravel(start))[0] for start in starts])
    assert random - best > 0.01  # there was something to gain
    reached = min(expected_loss(done.tuned.predictor(seed)) for seed in range(NUM_SEEDS[method]))
    assert reached - best < (random - best) / 20


@pytest.mark.parametrize("network", NETWORKS)
def test_memory_reaches_the_best_memory_and_is_no_worse_than_prefixes(network):
    """As for prefixes; and every prefix of this length is a memory, so the best is no worse."""
    done = run(network, "Memory")
    starts = [done.method.init(key, done.base) for key in jax.random.split(jax.random.key(0), 12)]
    tokens = two_coins_without_noise().tokens
    unravel = ravel_pytree(starts[0])[1]

    @jax.jit
    @jax.value_and_grad
    def of_numbers(flat):
        log_probs = done.method.apply(done.base, unravel(flat))(tokens)
        return -jnp.take_along_axis(log_probs, tokens[..., None], axis=-1).sum() / len(tokens)

    def loss(flat):
        value, gradient = of_numbers(jnp.asarray(flat, jnp.float32))
        return float(value), np.asarray(gradient, np.float64)

    flat = [np.asarray(ravel_pytree(start)[0], np.float64) for start in starts]
    best = min(
        scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B").fun for start in flat
    )
    random = np.mean([loss(start)[0] for start in flat])
    assert random - best > 0.01  # there was something to gain
    reached = min(expected_loss(done.tuned.predictor(seed)) for seed in range(3))
    assert reached - best < (random - best) / 20
    soft = min(expected_loss(run(network, "SoftPT").tuned.predictor(seed)) for seed in range(3))
    assert best < soft + roundings(100)


def test_pretraining_on_one_coin_reaches_its_entropy():
    """From real samples: what is left is the noise of Adam's steps, which can be estimated.

    Near the optimum a step of Adam is about eta g / s, s^2 the variance of the gradient g of a
    batch of B. Per coordinate with curvature h this settles at a variance of eta s / 2h, which
    costs eta s / 4 nats. At the optimum the variance of one sequence's gradient is h (Fisher's
    identity), so s = sqrt(h / B) and the excess is eta / 4 times the sum of sqrt(h / B).
    """
    training = Training(num_steps=500, batch_size=64, length=4, learning_rate=0.01)
    done = pretrain(NETWORKS["LSTM"], coin(0.2), training, jax.random.key(3), progress=False)
    tuned = done.predictor(0)
    tokens = np.indices((2,) * 4).reshape(4, 16).T  # every sequence of 4 flips
    heads = tokens.sum(axis=1)
    weight = 0.2**heads * 0.8 ** (4 - heads)
    entropy = -4 * (0.2 * np.log(0.2) + 0.8 * np.log(0.8))

    def losses(params):
        log_probs = tuned._replace(params=params)(tokens)
        return -jnp.take_along_axis(log_probs, tokens[..., None], axis=-1).sum(axis=(1, 2))

    each, gradients = losses(tuned.params), jax.jit(jax.jacrev(losses))(tuned.params)
    excess = weight @ np.asarray(each, np.float64) - entropy
    curvature = np.concatenate(
        [np.tensordot(weight, np.square(leaf), 1).ravel() for leaf in jax.tree.leaves(gradients)]
    )
    noise = training.learning_rate / 4 * np.sqrt(curvature / training.batch_size).sum()
    assert 0 < excess < 4 * noise
    assert noise < 0.02  # else the bound would say nothing


# The loop.


def test_losses_are_those_before_each_step(small):
    network = type(small.network).__name__
    done, seeds = run(network, "SoftPT"), NUM_SEEDS["SoftPT"]
    starts = jax.vmap(jax.random.split)(jax.random.split(jax.random.key(KEYS), seeds))[:, 0]
    assert done.tuned.losses.shape == (seeds, RUN.num_steps)
    for seed in range(seeds):
        start = done.method.apply(done.base, done.method.init(starts[seed], done.base))
        # The prefix itself is no part of the loss. One batch in another order of summation.
        np.testing.assert_allclose(
            done.tuned.losses[seed, 0], expected_loss(start), atol=roundings(100), rtol=0
        )
        third = done.method.apply(done.base, done.after_three_steps[seed])
        np.testing.assert_allclose(
            done.tuned.losses[seed, 3], expected_loss(third), atol=roundings(100), rtol=0
        )


@pytest.mark.parametrize("network", NETWORKS)
def test_a_memory_goes_on_where_a_soft_prefix_stopped(network):
    """From the memory that each tuned prefix leaves: its loss first, and then a lower one."""
    soft = run(network, "SoftPT").tuned
    predictors = [soft.predictor(seed) for seed in range(3)]
    memories = [Memory(2).from_prefix(predictor) for predictor in predictors]
    start = jax.tree.map(lambda *leaves: np.stack(leaves), *memories)
    tuned = tune(
        soft.base, Memory(2), two_coins_without_noise(), LONG, KEYS_10[:3], start=start,
        progress=False,
    )  # fmt: skip
    before = [expected_loss(predictor) for predictor in predictors]
    np.testing.assert_allclose(tuned.losses[:, 0], before, atol=roundings(100), rtol=0)
    after = [expected_loss(tuned.predictor(seed)) for seed in range(3)]
    assert np.all(np.array(after) < np.array(before) - 0.001)


class CountedCoin(NamedTuple):
    """A coin whose sampler counts how often Python runs it: once or twice for each trace."""

    heads: np.ndarray
    num_tokens = 2
    calls = []  # noqa: RUF012, shared on purpose

    def sample(self, key, num_sequences, length):
        CountedCoin.calls.append((num_sequences, length))
        shape = num_sequences, length
        return Sequences(jax.random.bernoulli(key, self.heads, shape).astype(jnp.int32), None)


# The gradient is clipped at every step, so that clipping matters.
SHORT = {
    "num_steps": 4, "batch_size": 8, "length": 4, "learning_rate": 0.05, "max_grad_norm": 0.01
}  # fmt: skip
KEYS_10 = jax.random.split(jax.random.key(11), 10)
LONG = Training(num_steps=100, batch_size=64, length=3, learning_rate=0.01)


def short(keys, base=None, method=("soft", 2), heads=0.3, start=None):
    """A run of four calls of one step, everything about it built anew."""
    return tune(
        base or small_predictor("LSTM"),
        Prefix(*method) if isinstance(method, tuple) else method,
        CountedCoin(np.float32(heads)),
        Training(**SHORT),
        keys,
        start=start,
        progress=False,
    )


@pytest.fixture(autouse=True)
def one_step_a_call(monkeypatch):
    monkeypatch.setattr(tuning, "_STEPS_A_CALL", 1)


@pytest.fixture(scope="module")
def counted():
    """The runs with 1, 3 and 10 repetitions, with the traces and compilations that each took."""
    runs = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "_STEPS_A_CALL", 1)
        for seeds in (1, 3, 10):
            CountedCoin.calls.clear()
            compiled = tuning._advance._cache_size()
            done = short(KEYS_10[:seeds])
            runs[seeds] = done, len(CountedCoin.calls), tuning._advance._cache_size() - compiled
    return runs


def test_one_program_for_any_number_of_repetitions(counted):
    """Four calls each: the state that comes back must not look like another kind of input."""
    traces = {seeds: traces for seeds, (_, traces, _) in counted.items()}
    assert traces[1] >= traces[3]  # what is known from the first trace may be used again
    assert traces[3] == traces[10]
    assert [compilations for _, _, compilations in counted.values()] == [1, 1, 1]


def test_no_trace_when_numbers_or_equal_settings_are_built_again(counted):
    CountedCoin.calls.clear()
    compiled = tuning._advance._cache_size()
    other = jax.tree.map(lambda x: 2 * x, small_predictor("LSTM"))
    architecture = type(other.network)(**vars(other.network))
    short(KEYS_10[3:6])  # other keys, an equal method, an equal Training
    short(KEYS_10[:3], heads=0.9)  # another coin
    short(KEYS_10[:3], base=other._replace(network=architecture))  # other weights
    short(list(KEYS_10[:3]))  # a plain list
    assert CountedCoin.calls == []
    assert tuning._advance._cache_size() == compiled


def test_a_memory_is_compiled_once_too():
    """Whatever its numbers are, and wherever it starts."""
    CountedCoin.calls.clear()
    compiled = tuning._advance._cache_size()
    first = short(KEYS_10[:3], method=Memory(2))
    assert tuning._advance._cache_size() == compiled + 1
    CountedCoin.calls.clear()
    other = jax.tree.map(lambda x: 2 * x, small_predictor("LSTM"))
    short(KEYS_10[3:6], base=other, method=Memory(2), heads=0.9)
    short(KEYS_10[3:6], method=Memory(2), start=first.theta)
    assert CountedCoin.calls == []
    assert tuning._advance._cache_size() == compiled + 1


@pytest.mark.parametrize(
    ("network", "method"),
    [("LSTM", "FullWT"), ("LSTM", "Memory"), ("Transformer", "SoftPT"), ("Transformer", "Memory")],
)
def test_a_predictor_with_a_memory_is_tuned_further(network, method):
    base, how = small_predictor(network), SMALL_METHODS[method]
    carrying = base._replace(memory=base.with_tokens([0, 1]).read())
    done = short(KEYS_10[:1], base=carrying, method=how)
    for_start, for_data = jax.random.split(KEYS_10[0])
    tokens = CountedCoin(np.float32(0.3)).sample(jax.random.fold_in(for_data, 0), 8, 4).tokens
    start = how.apply(carrying, how.init(for_start, carrying))
    expected = evaluate(start, Sequences(tokens, None)).sum(axis=1).mean()
    np.testing.assert_allclose(done.losses[0, 0], expected, atol=roundings(100), rtol=0)
    memory = done.predictor(0).memory
    if method != "Memory":
        assert memory is carrying.memory
    elif network == "Transformer":  # behind the empty context and the first memory
        for leaf, before in zip(
            jax.tree.leaves(memory.layers), jax.tree.leaves(carrying.memory.layers)
        ):
            assert leaf.shape[1] == 5
            np.testing.assert_array_equal(leaf[:, :3], before)


def test_repetitions_together_are_repetitions_alone(counted):
    together, alone = counted[10][0], [short(KEYS_10[:1]), short(KEYS_10[2])]
    for seed, one in zip((0, 2), alone):
        assert one.num_seeds == 1
        # The same program on each: four steps may differ in the order of sums. Adam divides by the
        # gradient's size, which enlarges its rounding error, here to about a hundredfold.
        np.testing.assert_allclose(together.losses[seed], one.losses[0], atol=roundings(100))
        np.testing.assert_allclose(together.theta[seed], one.theta[0], atol=roundings(1000))
    np.testing.assert_array_equal(counted[1][0].losses, alone[0].losses)


def test_the_loop_is_adam_on_clipped_gradients_written_out():
    """From the updates of Kingma & Ba (2015), Algorithm 1, with the default decay rates."""
    base, method = small_predictor("LSTM"), Prefix("soft", 2)
    key = jax.random.key(12)
    for_start, for_data = jax.random.split(key)
    task = CountedCoin(np.float32(0.3))
    theta = np.asarray(method.init(for_start, base), np.float64)
    mean = square = np.zeros_like(theta)

    @jax.jit
    def loss_and_gradient(theta, tokens):
        def loss(theta):
            log_probs = method.apply(base, theta)(tokens)
            came = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)
            return -came.sum(axis=(1, 2)).mean()

        return jax.value_and_grad(loss)(theta)

    losses, norms = [], []
    for step in range(SHORT["num_steps"]):
        tokens = task.sample(jax.random.fold_in(for_data, step), 8, 4).tokens
        loss, gradient = jax.device_get(loss_and_gradient(theta.astype(np.float32), tokens))
        norms.append(np.linalg.norm(gradient))
        gradient = gradient * min(1, SHORT["max_grad_norm"] / norms[-1])
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        unbiased = mean / (1 - 0.9 ** (step + 1)), square / (1 - 0.999 ** (step + 1))
        theta = theta - SHORT["learning_rate"] * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        losses.append(loss)
    assert min(norms) > SHORT["max_grad_norm"]  # clipped at every step
    assert max(norms) > 1.2 * min(norms)  # and by different amounts, which Adam can tell
    done = short(key)
    # Gradients agree to some tens of roundings; entries far smaller than the largest less well.
    np.testing.assert_allclose(done.losses[0], losses, atol=roundings(100), rtol=0)
    np.testing.assert_allclose(done.theta[0], theta, atol=roundings(2000), rtol=0)


def blind():
    """A network that does not look: its loss says how many heads a batch has, and nothing else."""
    base = small_predictor("LSTM")
    unembedding = {
        "kernel": jnp.zeros_like(base.params["unembedding"]["kernel"]),
        "bias": jnp.array([0.0, 1.0]),
    }
    return base._replace(params=base.params | {"unembedding": unembedding})


def test_every_repetition_and_every_step_has_data_of_its_own():
    done = short(KEYS_10, base=blind())
    # Each loss is a number of heads among 32 flips: 40 of them, equal only by chance. Were steps
    # or repetitions to share data, a row or a column would repeat.
    assert len(np.unique(done.losses, axis=0)) == 10
    assert len(np.unique(done.losses, axis=1).T) == 4


def test_repetitions_see_the_same_data_under_every_method():
    prefixed = short(KEYS_10[:3], base=blind())
    weights = short(KEYS_10[:3], base=blind(), method=Weights(("unembedding",)))
    # Before the first step both are the same predictor.
    np.testing.assert_allclose(prefixed.losses[:, 0], weights.losses[:, 0], atol=roundings(50))
    assert np.all(prefixed.losses[:, 1:] != weights.losses[:, 1:])


def test_a_gradient_of_zero_moves_nothing():
    done = short(KEYS_10[:3], base=blind())
    start = [Prefix("soft", 2).init(jax.random.split(key)[0], done.base) for key in KEYS_10[:3]]
    np.testing.assert_array_equal(done.theta, np.stack(start))


def test_tuning_leaves_the_base_as_it_was():
    base = small_predictor("LSTM")
    before = jax.device_get(base)
    done = short(KEYS_10[:3])
    assert done.base is base
    for leaf, copy in zip(jax.tree.leaves(base), jax.tree.leaves(before)):
        np.testing.assert_array_equal(leaf, copy)


@pytest.mark.parametrize("method", ["FullWT", "Memory"])
def test_micro_batches_give_the_gradient_of_the_batch(small, method, float64):
    as_float64 = jax.tree.map(lambda x: np.asarray(x, np.float64), small)
    method = SMALL_METHODS[method]
    tokens = np.random.default_rng(0).integers(0, 2, size=(6, 3)).astype(np.int32)
    theta = method.init(jax.random.key(0), as_float64)

    def loss_and_gradient(size):
        of_size = functools.partial(tuning.loss_and_gradient, micro_batch=size)
        return jax.jit(lambda theta: of_size(as_float64, method, theta, tokens))(theta)

    whole, parts = loss_and_gradient(6), loss_and_gradient(2)
    for one, other in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        # Sums of six terms of order one, in another order.
        np.testing.assert_allclose(one, other, atol=roundings(1000, np.float64), rtol=0)

    @jax.jit
    @jax.value_and_grad
    def plain(theta):  # the mean over sequences of their sums over time
        log_probs = method.apply(as_float64, theta)(tokens)
        came = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)
        return -came.sum(axis=(1, 2)).mean()

    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(plain(theta)), strict=True):
        np.testing.assert_allclose(one, other, atol=roundings(1000, np.float64), rtol=0)


def test_ctrl_c_stops_the_loop_and_harms_nothing(monkeypatch, counted):
    base = small_predictor("LSTM")
    before = jax.device_get(base)

    class Interrupted(tuning.tqdm):
        calls = 0

        def update(self, n=1):
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "tqdm", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        short(KEYS_10[:3])
    monkeypatch.undo()
    monkeypatch.setattr(tuning, "_STEPS_A_CALL", 1)
    for leaf, copy in zip(jax.tree.leaves(base), jax.tree.leaves(before)):
        np.testing.assert_array_equal(leaf, copy)
    np.testing.assert_array_equal(short(KEYS_10[:3]).losses, counted[3][0].losses)


def test_nothing_is_printed_where_nobody_watches(capfd):
    tune(
        small_predictor("LSTM"), Prefix("soft", 2), CountedCoin(np.float32(0.3)),
        Training(**SHORT), KEYS_10[:1],
    )  # fmt: skip
    assert capfd.readouterr() == ("", "")


def test_tuned_predictors_are_evaluated_side_by_side(counted):
    done = counted[3][0]
    assert isinstance(done, Tuned)
    sequences = coin(0.3).sample(jax.random.key(13), 5, 4)
    losses = done.evaluate(sequences)
    assert losses.shape == (3, 5, 4)
    for seed in range(3):
        np.testing.assert_array_equal(losses[seed], evaluate(done.predictor(seed), sequences))


# Hooks, pieces of a run, masks.


def assert_same_bits(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("a_call", [1, 2, 50])
def test_a_run_in_pieces_is_one_run_to_the_bit(counted, monkeypatch, a_call):
    monkeypatch.setattr(tuning, "_STEPS_A_CALL", a_call)
    whole = counted[3][0]  # four steps, one a call
    first = tune(
        small_predictor("LSTM"), Prefix("soft", 2), CountedCoin(np.float32(0.3)),
        Training(**(SHORT | {"num_steps": 1})), KEYS_10[:3], progress=False,
    )  # fmt: skip
    assert first.losses.shape == (3, 1)
    done = resume(resume(first, 2, progress=False), 1, progress=False)
    assert_same_bits(done.losses, whole.losses)
    assert_same_bits(done.theta, whole.theta)
    assert_same_bits(done.state.moments, whole.state.moments)
    assert np.any(whole.theta != first.theta)


def test_pretraining_goes_on_too():
    training = Training(num_steps=4, batch_size=4, length=3)
    run = [NETWORKS["Transformer"], random_coins(), training, KEYS_10[0]]
    whole = pretrain(*run, progress=False)
    run[2] = Training(num_steps=3, batch_size=4, length=3)
    done = resume(pretrain(*run, progress=False), 1, progress=False)
    assert_same_bits(done.predictor(0), whole.predictor(0))
    assert_same_bits(done.losses, whole.losses)


def test_a_run_goes_on_with_the_micro_batch_it_began_with(monkeypatch):
    """Whatever this machine would take: a recurrent network's gradient rounds otherwise."""
    base, training = small_predictor("LSTM"), Training(num_steps=2, batch_size=8, length=3)
    arguments = base, Weights(("torso",)), coin(0.3), training, KEYS_10[0]
    begun = tune(*arguments, micro_batch=2, progress=False)
    whole = tune(*arguments, micro_batch=8, progress=False)
    assert (begun.state.micro_batch, whole.state.micro_batch) == (2, 8)
    gone_on = resume(begun, 2, progress=False)
    assert gone_on.state.micro_batch == 2
    arguments = *arguments[:3], replace(training, num_steps=4), arguments[4]
    assert_same_bits(gone_on.theta, tune(*arguments, micro_batch=2, progress=False).theta)
    monkeypatch.setattr(tuning, "micro_batch_size", lambda *arguments: 4)
    assert tune(*arguments, progress=False).state.micro_batch == 4
    # The same gradient: Adam's first step has size one whatever the rounding.
    for one, other in zip(jax.tree.leaves(begun.losses), jax.tree.leaves(whole.losses)):
        np.testing.assert_allclose(one, other, atol=roundings(1000))
    with pytest.raises(ValueError, match="`micro_batch` must divide the batch size, 8, got 3"):
        tune(*arguments, micro_batch=3, progress=False)
    with pytest.raises(TypeError, match="`micro_batch` must be an int, got 2.0"):
        tune(*arguments, micro_batch=2.0, progress=False)


def test_the_hook_sees_the_run_on_its_way_and_changes_nothing(counted):
    whole, seen = counted[3][0], []
    arguments = small_predictor("LSTM"), Prefix("soft", 2), CountedCoin(np.float32(0.3))
    compiled = tuning._advance._cache_size()
    watched = tune(
        *arguments, Training(**SHORT), KEYS_10[:3], progress=False,
        hook=lambda step, tuned: seen.append((step, tuned)), hook_steps=[4, 0, 3],
    )  # fmt: skip
    assert tuning._advance._cache_size() == compiled
    assert_same_bits(watched.theta, whole.theta)
    assert [step for step, _ in seen] == [0, 3, 4]
    (_, start), (_, third), (_, end) = seen
    assert start.losses.shape == (3, 0)
    init = [Prefix("soft", 2).init(jax.random.split(key)[0], whole.base) for key in KEYS_10[:3]]
    assert_same_bits(start.theta, np.stack(init))
    assert_same_bits(third.losses, whole.losses[:, :3])
    assert_same_bits(end.theta, whole.theta)
    # A snapshot is a run that can go on; its hook is called where it would have been.
    later = []
    for snapshot in (start, third):
        done = resume(
            snapshot, 4 - snapshot.losses.shape[1], progress=False,
            hook=lambda step, tuned: later.append(step), hook_steps=range(1, 5),
        )  # fmt: skip
        assert_same_bits(done.theta, whole.theta)
    assert later == [1, 2, 3, 4, 4]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"hook": print}, ValueError, "`hook` and `hook_steps` go together"),
        ({"hook_steps": [1]}, ValueError, "`hook` and `hook_steps` go together, got None"),
        ({"hook": "print", "hook_steps": [1]}, ValueError, "`hook` and .* together, got 'print'"),
        ({"hook": print, "hook_steps": [8]}, ValueError, r"`hook_steps` .* 0..7, got 8"),
        ({"hook": print, "hook_steps": [0.5]}, TypeError, "`hook_steps` must be an int, got 0.5"),
        ({"num_steps": 0}, ValueError, "`num_steps` must be at least 1, got 0"),
        ({"num_steps": 2.0}, TypeError, "`num_steps` must be an int, got 2.0"),
        ({"tuned": None}, TypeError, "`tuned` must be a Tuned, got NoneType"),
    ],
)
def test_what_cannot_go_on_is_refused(counted, changes, error, message):
    with pytest.raises(error, match=message):
        resume(**({"tuned": counted[3][0], "num_steps": 3} | changes))


class Masked(NamedTuple):
    """Given sequences of which some tokens count."""

    tokens: np.ndarray
    mask: np.ndarray
    num_tokens = 2

    def sample(self, key, num_sequences, length):
        return Sequences(jnp.asarray(self.tokens), None, jax.tree.map(jnp.asarray, self.mask))


RNG = np.random.default_rng(5)
SOME = Masked(RNG.integers(0, 2, (8, 4)).astype(np.int32), RNG.integers(0, 2, (8, 4)))


@pytest.mark.parametrize("micro_batch", [2, 8])
def test_only_what_the_mask_counts_is_in_the_loss(small, micro_batch):
    """Whatever the micro-batches."""
    assert 0 < SOME.mask.sum() < SOME.mask.size
    training = Training(num_steps=1, batch_size=8, length=4)
    options = {"micro_batch": micro_batch, "progress": False}
    done = tune(small, Weights(("embedding",)), SOME, training, KEYS_10[0], **options)
    came = np.take_along_axis(np.asarray(small(SOME.tokens)), SOME.tokens[..., None], axis=-1)
    expected = -(came[..., 0] * SOME.mask).sum() / 8
    np.testing.assert_allclose(done.losses, [[expected]], atol=roundings(100), rtol=0)
    assert abs(expected + came.sum() / 8) > 0.1  # without the mask it would be another number
    evaluated = evaluate(small, SOME.sample(None, 8, 4))
    np.testing.assert_allclose(evaluated.sum() / 8, expected, atol=roundings(100), rtol=0)


def test_a_mask_of_zeros_moves_nothing_and_one_of_ones_is_none():
    base, method = small_predictor("LSTM"), Prefix("soft", 2)
    training = Training(num_steps=2, batch_size=8, length=4)

    def thetas(mask):
        task = SOME._replace(mask=mask)
        return tune(base, method, task, training, KEYS_10[0], progress=False).theta

    start = method.init(jax.random.split(KEYS_10[0])[0], base)
    np.testing.assert_array_equal(thetas(np.zeros((8, 4)))[0], start)
    ones, none = thetas(np.ones((8, 4))), thetas(None)
    # Two steps of Adam, as in repetitions together and alone.
    np.testing.assert_allclose(ones, none, atol=roundings(1000))
    assert np.any(none[0] != start)


def test_the_search_scores_what_the_mask_counts():
    found = search_hard_prefix(
        random_coins().predict, SOME, 1, key=KEYS_10[0], num_sequences=8, sequence_length=4
    )
    for prompt, loss in zip(found.tokens, found.loss):
        prompted = np.hstack([np.tile(prompt, (8, 1)), SOME.tokens])
        losses = evaluate(random_coins().predict, Sequences(prompted, None))[:, 1:]
        np.testing.assert_allclose(loss, (losses * SOME.mask).sum() / 8, rtol=roundings(20))


# Settings and what they refuse.


def test_the_papers_settings():
    assert vars(TUNING) == {
        "num_steps": 1000, "batch_size": 256, "length": 50, "learning_rate": 5e-3,
        "max_grad_norm": 1.0,
    }  # fmt: skip
    assert vars(PRETRAINING) == vars(TUNING) | {"length": 100, "learning_rate": 1e-3}
    assert (LIVE.num_steps, LIVE.batch_size, LIVE.length) == (400, 64, 50)
    assert hash(Training()) == hash(Training(num_steps=1000))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_steps": -1}, ValueError, "`num_steps` must be at least 1, got -1"),
        ({"num_steps": 0}, ValueError, "`num_steps` must be at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1, got 0"),
        ({"length": -5}, ValueError, "`length` must be at least 1, got -5"),
        ({"num_steps": 1e3}, TypeError, "`num_steps` must be an int, got 1000.0"),
        ({"num_steps": True}, TypeError, "`num_steps` must be an int, got True"),
        ({"learning_rate": 0.0}, ValueError, "`learning_rate` must be positive, got 0.0"),
        ({"learning_rate": float("nan")}, ValueError, "`learning_rate` must be positive, got nan"),
        ({"learning_rate": float("inf")}, ValueError, "`learning_rate` must be finite, got inf"),
        ({"learning_rate": "fast"}, TypeError, "`learning_rate` must be a number, got 'fast'"),
        ({"max_grad_norm": -1}, ValueError, "`max_grad_norm` must be positive, got -1"),
        ({"max_grad_norm": None}, TypeError, "`max_grad_norm` must be a number, got None"),
    ],
)
def test_impossible_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        Training(**settings)


def test_a_start_of_another_form_is_refused():
    theta = Prefix("soft", 2).init(KEYS_10[0], small_predictor("LSTM"))
    for start in (theta, jnp.stack([theta] * 2), {"prefix": theta[None]}):
        with pytest.raises(
            ValueError, match=r"`start` must be theta .* of shapes \(1, 2, 6\), got"
        ):
            short(KEYS_10[:1], start=start)
    start = jnp.stack([theta + 1])
    again, other = short(KEYS_10[:1], start=start), short(KEYS_10[:1])
    assert np.all(np.abs(again.theta - start) <= SHORT["num_steps"] * SHORT["learning_rate"] * 2)
    assert again.losses[0, 0] != other.losses[0, 0]


class Silent:
    """A task without an alphabet."""

    def sample(self, key, num_sequences, length):
        raise AssertionError("the check comes too late")


EIGHT = Training(num_steps=1, batch_size=8, length=4)


class Plain:
    """A task that is no pytree."""

    num_tokens = 2

    def sample(self, key, num_sequences, length):
        raise AssertionError("the check comes too late")


class Draws(NamedTuple):
    """A task that draws whatever it was told to."""

    number: float = 0.0
    num_tokens = 2

    def sample(self, key, num_sequences, length):
        return jnp.full((num_sequences, length), self.number, jnp.int32)


class DrawsOne(Draws):
    def sample(self, key, num_sequences, length):
        return Sequences(super().sample(key, num_sequences, length), None)


class DrawsFewer(Draws):
    def sample(self, key, num_sequences, length):
        return Sequences(super().sample(key, num_sequences, length - 1), None)


class DrawsFloats(Draws):
    def sample(self, key, num_sequences, length):
        return Sequences(jnp.zeros((num_sequences, length)), None)


class TracedAlphabet(NamedTuple):
    num_tokens: float = 2.0
    sample = Draws.sample


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"task": Plain()},
            TypeError,
            "`task` must be a pytree .*register_dataclass.* with a Plain",
        ),
        ({"task": Draws("heads")}, TypeError, "`task` must be a pytree .* with a str at .number"),
        ({"task": Draws}, TypeError, "`task` must be a Task with .*, a class; pass an instance"),
        ({"task": TracedAlphabet()}, TypeError, "`task` must have an int as num_tokens, got 2.0"),
        ({"task": Draws()}, TypeError, "`task.sample.*` must be Sequences.*, got .*Array|Tracer"),
        (
            {"task": DrawsOne(2)},
            ValueError,
            "`task.sample.tokens` must be between 0 and 1, got .*2",
        ),
        ({"task": DrawsOne(-1)}, ValueError, "`task.sample.tokens` must be between 0 and 1"),
        ({"task": DrawsFewer()}, ValueError, r"`task.sample` must give .* \(256, 50\), got .*49"),
        ({"task": DrawsFloats()}, TypeError, "`task.sample.tokens` must be integers, got .*float"),
        (
            {"task": SOME._replace(mask=SOME.mask[:, 1:]), "training": EIGHT},
            ValueError,
            r"`task.sample` must have a mask of 0 and 1 in the shape .* \(8, 4\), got .* \(8, 3\)",
        ),
        (
            {"task": SOME._replace(mask=SOME.mask / 2), "training": EIGHT},
            ValueError,
            "`task.sample` must have a mask of 0 and 1 .* 0.5",
        ),
        ({"base": NETWORKS["LSTM"]}, TypeError, "`base` must be a Predictor, got LSTM"),
        ({"base": coin(0.2)}, TypeError, "`base` must be a Predictor, got CategoricalMixture"),
        ({"task": None}, TypeError, "`task` must be a Task with num_tokens, sample, got None"),
        ({"task": Silent()}, TypeError, "`task` must be a Task with num_tokens, sample"),
        ({"task": dirichlet([1, 1, 1])}, ValueError, "`task` must have .* 2 tokens, got 3"),
        ({"training": {"num_steps": 3}}, TypeError, "`training` must be a Training, got {"),
        ({"keys": 0}, TypeError, "`keys` must be jax random keys such as .*, got 0"),
        ({"keys": None}, TypeError, "`keys` must be jax random keys such as .*, got None"),
        ({"keys": np.zeros(2, np.uint32)}, TypeError, "`keys` must be jax random keys such as"),
        ({"keys": [0, 1]}, TypeError, "`keys` must be one jax random key such as .*, got 0"),
        ({"keys": []}, TypeError, r"`keys` must be jax random keys such as .*, got \[\]"),
        ({"keys": KEYS_10[:0]}, ValueError, r"`keys` must be one key or .*, got shape \(0,\)"),
        (
            {"keys": KEYS_10.reshape(2, 5)},
            ValueError,
            r"`keys` must be one key or \[seed\] keys, got shape \(2, 5\)",
        ),
    ],
)
def test_what_cannot_be_run_is_refused(changes, error, message):
    arguments = {
        "base": small_predictor("LSTM"),
        "method": Prefix("soft", 2),
        "task": coin(0.2),
        "training": Training(num_steps=1),
        "keys": jax.random.key(0),
    } | changes
    with pytest.raises(error, match=message):
        tune(**arguments)


def test_pretrain_refuses_what_is_no_architecture():
    with pytest.raises(TypeError, match="`architecture` must be an Architecture .*, got Predictor"):
        pretrain(small_predictor("LSTM"), coin(0.2), LIVE, jax.random.key(0))
    with pytest.raises(ValueError, match="`task` must have .* 2 tokens, got 3"):
        pretrain(NETWORKS["LSTM"], dirichlet([1, 1, 1]), LIVE, jax.random.key(0))


@pytest.mark.parametrize("seed", [3, -1, 0.5, "0"])
def test_there_are_only_so_many_repetitions(seed, counted):
    with pytest.raises(ValueError, match=f"`index` must be in 0..2, got {seed!r}"):
        counted[3][0].predictor(seed)


# The search over hard prefixes.


def test_every_prompt_of_the_exact_predictor_loses_what_it_must():
    source, length, steps = coin(0.1), 3, 20
    found = search_hard_prefix(
        random_coins().predict, source, length, key=jax.random.key(14), sequence_length=steps
    )
    assert found.tokens.tolist() == [[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    expected = exact.hard_prompts(random_coins(), source, length, steps)
    by_heads = dict(zip(expected.counts[:, 1], expected.regret))
    entropy = -steps * (0.1 * np.log(0.1) + 0.9 * np.log(0.9))
    for prompt, loss, error in zip(*found):
        assert abs(loss - entropy - by_heads[prompt.sum()]) < 4 * error
    # The order of a prompt's tokens is nothing to the exact predictor: sums of 20 numbers.
    for heads in range(4):
        same = found.loss[found.tokens.sum(axis=1) == heads]
        np.testing.assert_allclose(same, same[0], rtol=roundings(20))
    assert found.best.tolist() == [0, 0, 0]
    assert found.best.sum() == expected.best[0][1]


def test_prompting_a_network_in_the_search_is_with_tokens(small):
    found = search_hard_prefix(
        small, two_coins_without_noise(), 2, key=jax.random.key(0), num_sequences=64,
        sequence_length=3,
    )  # fmt: skip
    tokens = two_coins_without_noise().tokens
    for prompt, loss, error in zip(*found):
        prompted = small.with_tokens(prompt)
        losses = evaluate(prompted, Sequences(tokens, None)).sum(axis=1)
        tolerance = {"atol": roundings(300), "rtol": 0}  # as for prefixes in test_predictor
        np.testing.assert_allclose(loss, losses.mean(), **tolerance)
        np.testing.assert_allclose(error, losses.std(ddof=1) / np.sqrt(64), **tolerance)
    assert found.best.tolist() == found.tokens[np.argmin(found.loss)].tolist()


def test_a_search_over_no_prompt_gives_the_loss_without_one():
    found = search_hard_prefix(
        random_coins().predict, coin(0.2), 0, key=jax.random.key(15), num_sequences=7,
        sequence_length=5,
    )  # fmt: skip
    sequences = coin(0.2).sample(jax.random.key(15), 7, 5)
    expected = evaluate(random_coins().predict, sequences).sum(axis=1)
    assert found.tokens.shape == (1, 0)
    np.testing.assert_allclose(found.loss, [expected.mean()], rtol=roundings(20))
    np.testing.assert_allclose(
        found.standard_error, [expected.std(ddof=1) / np.sqrt(7)], rtol=roundings(50)
    )


def test_prompts_over_three_tokens_are_all_there_in_order():
    found = search_hard_prefix(
        dirichlet([1, 1, 1]).predict, dirichlet([1, 1, 5]), 2, key=jax.random.key(16),
        num_sequences=4, sequence_length=2,
    )  # fmt: skip
    assert found.tokens.tolist() == [[a, b] for a in range(3) for b in range(3)]
    assert found.tokens.dtype == np.int32


def test_a_search_in_blocks_is_the_search_and_compiles_once(monkeypatch):
    """Eight prompts at once; then by threes, the last block filled up with a prompt it has had."""

    def search():
        shapes = []

        def predict(tokens):
            shapes.append(tokens.shape)
            return random_coins().predict(tokens)

        found = search_hard_prefix(
            predict, coin(0.2), 3, key=jax.random.key(17), num_sequences=8, sequence_length=4
        )
        return found, shapes

    at_once, traced = search()
    monkeypatch.setattr(tuning, "_PROMPTS_A_CALL", 3)
    by_threes, traced_by_threes = search()
    assert traced_by_threes == traced
    np.testing.assert_array_equal(by_threes.tokens, at_once.tokens)
    np.testing.assert_allclose(by_threes.loss, at_once.loss, rtol=roundings(20))
    np.testing.assert_allclose(by_threes.standard_error, at_once.standard_error, rtol=roundings(50))


def test_all_prompts_of_six_faces_can_be_searched():
    """46,656 of them: every face six times is in one place of the list only."""
    loaded = die([0.02, 0.02, 0.02, 0.02, 0.02, 0.9])
    unknown = dirichlet(np.ones(6))
    found = search_hard_prefix(
        unknown.predict, loaded, 6, key=jax.random.key(18), num_sequences=64, sequence_length=1
    )
    assert found.tokens.shape == (6**6, 6)
    np.testing.assert_array_equal(found.tokens @ 6 ** np.arange(6)[::-1], np.arange(6**6))
    # One prediction: -log (1 + k) / 12 for a face that came k times, over the 64 that were thrown.
    thrown = loaded.sample(jax.random.key(18), 64, 1).tokens[:, 0]
    counts = (found.tokens[..., None] == np.arange(6)).sum(axis=1)
    expected = -np.log((1 + counts[:, thrown]) / 12).mean(axis=1)
    np.testing.assert_allclose(found.loss, expected, atol=roundings(64))
    # At its full size, with a network of 16 cells, it is within the limit.
    small = initialise(LSTM(num_tokens=6, embedding_width=16, width=16), jax.random.key(0))
    numbers = sum(weights.size for weights in jax.tree.leaves(small.params))
    assert 6**6 * 2048 * 56 * (20_000 + numbers) < tuning.MAX_WORK


def test_the_limit_of_a_search_is_its_work(small):
    sizes = {"num_sequences": 4, "sequence_length": 5, "key": jax.random.key(19)}
    numbers = sum(weights.size for weights in jax.tree.leaves(small))
    work = 2**3 * 4 * (3 + 5) * (20_000 + numbers)
    assert len(search_hard_prefix(small, coin(0.2), 3, max_work=work, **sizes).loss) == 8
    with pytest.raises(ValueError, match="means 8 prompts .* goes on"):
        search_hard_prefix(small, coin(0.2), 3, max_work=work - 1, **sizes)


SEARCH = {
    "predictor": random_coins().predict, "task": coin(0.2), "length": 2, "key": jax.random.key(0)
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"length": 20},  # 2^20 x 2048 x 70 x 20,002 at 7e10 a second
            ValueError,
            r"means 1048576 prompts .* takes 3\.0e\+15 multiply-adds, more than 5\.0e\+14, and "
            r"about 12 hours on two cores. `max_work=3\.3e\+15` goes on",
        ),
        ({"length": 10**9}, ValueError, "means more than 9223372036854775808 prompts"),
        ({"max_work": 1e5}, ValueError, "means 4 prompts .* more than 1.0e.05"),
        ({"max_work": None}, TypeError, "`max_work` must be a number, got None"),
        ({"length": -1}, ValueError, "`length` must be at least 0, got -1"),
        ({"length": 2.0}, TypeError, "`length` must be an int, got 2.0"),
        ({"length": True}, TypeError, "`length` must be an int, got True"),
        ({"num_sequences": 1}, ValueError, "`num_sequences` must be at least 2, got 1"),
        ({"sequence_length": 0}, ValueError, "`sequence_length` must be at least 1, got 0"),
        ({"predictor": coin(0.2)}, TypeError, "`predictor` must map tokens to log-prob"),
        ({"task": None}, TypeError, "`task` must be a Task with num_tokens, sample"),
        ({"task": dirichlet([1, 1, 1])}, ValueError, "`task` must have .* 2 tokens, got 3"),
        (
            {"predictor": lambda tokens: coin(0.2).predict(tokens), "task": dirichlet([1, 1, 1])},
            ValueError,
            "`task` must have .* 2 tokens, got 3",
        ),
        ({"key": 0}, TypeError, "`key` must be one jax random key such as .*, got 0"),
        ({"key": KEYS_10}, TypeError, "`key` must be one jax random key such as"),
    ],
)
def test_what_cannot_be_searched_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        search_hard_prefix(**(SEARCH | changes))
