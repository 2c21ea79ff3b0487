"""Task distributions against the enumeration of all sequences, and their sampling statistics."""

from contextlib import nullcontext
from itertools import product
from math import lgamma
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import promptbayes as pb
import pytest
from promptbayes import tasks
from promptbayes.tasks import (
    CategoricalMixture,
    DirichletCategorical,
    coin,
    coin_mixture,
    die,
    dirichlet,
    mixture,
    random_coins,
)

TASKS = {
    "random_coins": random_coins(),
    "coin": coin(0.2),
    "two_coins": coin_mixture([0.2, 0.8]),
    "beta": dirichlet([0.5, 3.0]),
    "dice": dirichlet([0.4, 1.0, 2.5]),
    "dice_mixture": mixture([0.3, 0.7], [[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]]),
    "unused_component": coin_mixture([0.2, 0.9], [1.0, 0.0]),
    "certain": coin_mixture([0.0, 1.0], [0.25, 0.75]),
}

# One float32 operation is off by at most 2^-24 of its result. A predictive log-probability comes
# from up to ten counts, each times a logarithm below 8, so from numbers below 80, in about ten
# operations on them.
FLOAT32 = 10 * 80 * 2.0**-24


@pytest.fixture(params=TASKS)
def task(request):
    return TASKS[request.param]


def x64():
    """Float64 in jax, by the name that this version has for it."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64

    return enable_x64()


def every_sequence(num_tokens, length):
    return np.array(list(product(range(num_tokens), repeat=length)), np.int32)


def brute_force_marginal(task, sequences):
    """P(x) by definition: the integral over tau, in Python floats, sequence by sequence."""
    result = []
    for x in sequences:
        counts = [int(np.sum(x == a)) for a in range(task.num_tokens)]
        if isinstance(task, DirichletCategorical):  # the Dirichlet integral
            alpha = [float(a) for a in task.alpha]
            log_p = lgamma(sum(alpha)) - lgamma(sum(alpha) + len(x))
            log_p += sum(lgamma(a + k) - lgamma(a) for a, k in zip(alpha, counts))
            result.append(np.exp(log_p))
        else:
            result.append(
                sum(w * np.prod([p[t] for t in x]) for w, p in zip(task.weights, task.probs))
            )
    return np.array(result)


@pytest.mark.parametrize("double", [False, True])
def test_predictions_are_ratios_of_enumerated_marginals(task, double):
    """p(a | x_<t) = P(x_<t a) / P(x_<t), both from the definition."""
    length = 5
    sequences = every_sequence(task.num_tokens, length)
    with x64() if double else nullcontext():
        predicted = np.exp(np.asarray(task.predict(sequences), float))
    # In float64 both sides are computed in some tens of operations on numbers below 80.
    tolerance = 1e-12 if double else FLOAT32
    for t in range(length):
        before = brute_force_marginal(task, sequences[:, :t])
        possible = before > 0
        for a in range(task.num_tokens):
            extended = np.column_stack([sequences[:, :t], np.full(len(sequences), a)])
            after = brute_force_marginal(task, extended)
            np.testing.assert_allclose(
                predicted[possible, t, a], after[possible] / before[possible], atol=tolerance
            )
        assert np.all(predicted[~possible, t] == 0)


def test_chain_rule_gives_the_marginal_of_every_sequence(task):
    sequences = every_sequence(task.num_tokens, 6)
    with x64():
        log_probs = np.asarray(task.predict(sequences))
    chain = np.take_along_axis(log_probs, sequences[..., None], axis=-1).sum(axis=(1, 2))
    marginal = brute_force_marginal(task, sequences)
    assert not np.any(np.isnan(log_probs))
    np.testing.assert_allclose(np.exp(chain), marginal, rtol=1e-12, atol=0)
    assert np.exp(chain).sum() == pytest.approx(1.0, abs=1e-12)


def test_predictions_sum_to_one_where_the_history_is_possible(task):
    sequences = every_sequence(task.num_tokens, 4)
    total = np.exp(np.asarray(task.predict(sequences), float)).sum(axis=-1)
    for t in range(4):
        possible = brute_force_marginal(task, sequences[:, :t]) > 0
        np.testing.assert_allclose(total[possible, t], 1.0, atol=FLOAT32)
        assert np.all(total[~possible, t] == 0)


def test_laplace_rule():
    tokens = every_sequence(2, 6)
    heads = np.cumsum(tokens, axis=1) - tokens
    expected = (heads + 1) / (np.arange(6) + 2)
    predicted = np.exp(random_coins().predict(tokens))[..., 1]
    np.testing.assert_allclose(predicted, expected, atol=FLOAT32)


def test_one_component_is_the_constant_predictor():
    predicted = coin(0.2).predict(every_sequence(2, 6))
    np.testing.assert_allclose(
        predicted, np.broadcast_to(np.log([0.8, 0.2]), predicted.shape), atol=FLOAT32
    )


def test_a_die_is_known_and_with_two_faces_a_coin():
    loaded = die([0.1, 0.1, 0.1, 0.1, 0.1, 0.5])
    predicted = np.exp(loaded.predict([[5, 0, 3]]))[0]
    np.testing.assert_allclose(predicted, np.tile([0.1] * 5 + [0.5], (3, 1)), atol=FLOAT32)
    for of_die, of_coin in zip(die([0.8, 0.2]), coin(0.2)):
        np.testing.assert_array_equal(of_die, of_coin)


def test_what_counts_say_about_a_sequence(task):
    """Log xi from the definition; E[log p(x | tau) | x] over the posterior of tau.

    The oracle's comes from posteriors given x, one at a time: by components, or for a Dirichlet
    as the slope at 0 of log E[tau_a^e | x], a ratio of gamma functions. The central difference with
    e = 1e-4 is off by e^2 / 6 times a third derivative, which is at most 2 (1 / alpha^3 + 1) with
    alpha at least 0.4, and by 2^-52 / e times numbers below 10.
    """
    sequences = every_sequence(task.num_tokens, 5)
    counts = (sequences[..., None] == np.arange(task.num_tokens)).sum(axis=1)
    with np.errstate(divide="ignore"):
        expected = np.log(brute_force_marginal(task, sequences))
    np.testing.assert_allclose(task.log_marginal(counts), expected, rtol=1e-12, atol=1e-12)
    oracle = task.log_oracle(counts)
    for x, k, value in zip(sequences[::7], counts[::7], oracle[::7]):
        if brute_force_marginal(task, x[None])[0] == 0:
            continue
        after = task.posterior(x)
        if isinstance(task, DirichletCategorical):
            total, step = after.alpha.sum(), 1e-4

            def log_moment(a, e, after=after, total=total):
                return (
                    lgamma(after.alpha[a] + e) - lgamma(after.alpha[a])
                    - lgamma(total + e) + lgamma(total)
                )  # fmt: skip

            slopes = [
                (log_moment(a, step) - log_moment(a, -step)) / (2 * step)
                for a in range(task.num_tokens)
            ]
            error = step**2 / 6 * 2 * (1 / 0.4**3 + 1) + 10 * 2.0**-52 / step
            assert abs(value - k @ slopes) <= k.sum() * error
        else:
            # 0 log 0 = 0 for a face that did not come up; a component it rules out has no weight.
            log_p = [
                sum(n * np.log(p) for n, p in zip(k, row) if n) if w else 0.0
                for w, row in zip(after.weights, task.probs)
            ]
            np.testing.assert_allclose(value, after.weights @ log_p, rtol=1e-12, atol=1e-12)


def test_fine_grid_converges_to_the_density():
    """A grid of midpoints is the midpoint rule for the integral over tau.

    Its relative error for f = tau^k (1 - tau)^(n - k) is at most h^2 / 24 times the integral of
    |f''| over that of f, which is at most 77 for n <= 7 (at k = 1: the total variation of f' is
    1.37, the integral 1 / 56). The prediction is a ratio of two such integrals.
    """
    num = 2000
    grid = coin_mixture((np.arange(num) + 0.5) / num)
    tokens = every_sequence(2, 7)
    with x64():
        difference = np.abs(np.asarray(grid.predict(tokens) - random_coins().predict(tokens)))
    assert difference.max() <= 2 * 77 / (24 * num**2)


def test_large_grid_is_worked_through_in_pieces():
    """The pieces of a large batch give what the rows give alone."""
    grid = coin_mixture(np.linspace(0.0, 1.0, 4001))
    tokens = random_coins().sample(jax.random.key(0), 100, 100).tokens
    assert tokens.size * 4001 > 2**24  # more than one piece
    # A matrix product may add the 4001 terms in another order: each is off by 2^-24 of itself at
    # most 4001 times, and rounding errors add up as their square root; likelihoods below 100.
    tolerance = 100 * np.sqrt(4001) * 2.0**-24
    rows = np.concatenate([grid.predict(tokens[i : i + 1]) for i in (0, 41, 42, 99)])
    np.testing.assert_allclose(
        grid.predict(tokens)[np.array([0, 41, 42, 99])], rows, atol=tolerance
    )


def test_posterior_predicts_like_the_prompted_prior(task):
    """p(x | s) from the posterior equals p(s x) / p(s) from the prior, for every s and x."""
    prompts, continuations = every_sequence(task.num_tokens, 3), every_sequence(task.num_tokens, 4)
    prompts = prompts[brute_force_marginal(task, prompts) > 0]
    batch = task.posterior(prompts)
    for i, prompt in enumerate(prompts):
        posterior = task.posterior(prompt)
        both = np.column_stack([np.tile(prompt, (len(continuations), 1)), continuations])
        expected = np.asarray(task.predict(both))[:, 3:]
        np.testing.assert_allclose(posterior.predict(continuations), expected, atol=FLOAT32)
        for of_batch, alone in zip(batch, posterior):
            np.testing.assert_array_equal(of_batch[i], alone)


def test_a_batch_of_tasks_predicts_and_samples_row_by_row(task):
    prompts = every_sequence(task.num_tokens, 2)
    prompts = prompts[brute_force_marginal(task, prompts) > 0]
    batch = task.posterior(prompts)
    tokens = np.zeros((len(prompts), 3), np.int32)
    rows = [task.posterior(prompt).predict(tokens[:1])[0] for prompt in prompts]
    np.testing.assert_allclose(batch.predict(tokens), np.stack(rows), atol=FLOAT32)
    assert batch.sample(jax.random.key(0), len(prompts), 5).tokens.shape == (len(prompts), 5)
    with pytest.raises(ValueError, match="num_sequences"):
        batch.sample(jax.random.key(0), len(prompts) + 1, 5)
    with pytest.raises(ValueError, match="tokens"):
        batch.predict(np.zeros((len(prompts) + 1, 3), np.int32))


def test_a_batch_of_different_coins_samples_each_from_its_own():
    batch = coin_mixture([0.0, 1.0]).posterior([[1], [0], [1]])
    tokens = batch.sample(jax.random.key(0), 3, 4).tokens
    assert tokens.tolist() == [[1] * 4, [0] * 4, [1] * 4]


def test_posterior_in_two_steps_and_of_nothing(task):
    for prompt in every_sequence(task.num_tokens, 4):
        if brute_force_marginal(task, prompt[None])[0] == 0:
            continue
        at_once, in_two = task.posterior(prompt), task.posterior(prompt[:1]).posterior(prompt[1:])
        for one, other in zip(at_once, in_two):
            np.testing.assert_allclose(one, other, atol=1e-14)
    for one, other in zip(task.posterior([]), task):
        np.testing.assert_allclose(one, other, atol=1e-16)


def test_posterior_is_the_same_under_jit(task):
    prompts = every_sequence(task.num_tokens, 3)
    prompts = prompts[brute_force_marginal(task, prompts) > 0]
    inside = jax.jit(lambda task, prompts: task.posterior(prompts))(task, prompts)
    for traced, concrete in zip(inside, task.posterior(prompts)):
        np.testing.assert_allclose(traced, concrete, atol=FLOAT32)
        assert isinstance(concrete, np.ndarray)
        assert concrete.dtype == np.float64


def test_impossible_histories():
    """No NaN: -inf for what follows, an error from `posterior`, no weight left under jit."""
    predicted = np.asarray(coin_mixture([0.0, 1.0]).predict([[0, 1, 0]]))
    np.testing.assert_array_equal(predicted[0, 1], [0.0, -np.inf])
    assert np.all(predicted[0, 2] == -np.inf)
    with pytest.raises(ValueError, match=r"`tokens` .*row 1"):
        coin(0.0).posterior([[0, 0], [0, 1]])
    with pytest.raises(ValueError, match="`tokens`"):
        coin(0.0).posterior([1])
    inside = jax.jit(lambda tokens: coin(0.0).posterior(tokens))(jnp.array([1]))
    assert inside.weights.tolist() == [0.0]
    assert np.all(np.asarray(inside.predict([[0]])) == -np.inf)


# Sampling. One frequency over m independent draws has standard error sqrt(p (1 - p) / m).


@pytest.mark.parametrize("name", ["random_coins", "two_coins", "beta", "dice", "dice_mixture"])
def test_samples_have_the_enumerated_distribution(name):
    task, length, num = TASKS[name], 3, 40_000
    sampled = task.sample(jax.random.key(1), num, length)
    sequences = every_sequence(task.num_tokens, length)
    place = task.num_tokens ** np.arange(length)[::-1]
    frequency = np.bincount(sampled.tokens @ place, minlength=len(sequences)) / num
    expected = brute_force_marginal(task, sequences)
    standard_error = np.sqrt(expected * (1 - expected) / num)
    assert np.all(np.abs(frequency - expected) <= 4 * standard_error)


def test_one_tau_for_each_sequence_from_the_prior(task):
    sampled = task.sample(jax.random.key(2), 2000, 4)
    assert sampled.tokens.dtype == jnp.int32
    assert sampled.tokens.shape == (2000, 4)
    assert sampled.log_source.shape == (2000, 4, task.num_tokens)
    tau = np.exp(np.asarray(sampled.log_source, float))
    np.testing.assert_array_equal(tau, np.broadcast_to(tau[:, :1], tau.shape))
    np.testing.assert_allclose(tau.sum(axis=-1), 1.0, atol=FLOAT32)
    if isinstance(task, DirichletCategorical):
        total = task.alpha.sum()
        mean = task.alpha / total
        variance = mean * (1 - mean) / (total + 1)
        # The fourth moment of something in [0, 1] about its mean is at most its variance.
        assert np.all(np.abs(tau[:, 0].var(axis=0) - variance) <= 4 * np.sqrt(variance / 2000))
    else:
        distance = np.abs(tau[:, 0, None, :] - task.probs).max(axis=-1)
        np.testing.assert_allclose(distance.min(axis=-1), 0.0, atol=FLOAT32)
        mean = task.weights @ task.probs
        variance = task.weights @ (task.probs - mean) ** 2
    # Where tau does not vary its float32 value is compared, not its mean.
    error = 4 * np.sqrt(variance / 2000) + FLOAT32
    assert np.all(np.abs(tau[:, 0].mean(axis=0) - mean) <= error)


def test_log_source_is_what_the_tokens_come_from():
    """The tokens' frequency follows tau sequence by sequence: z-scores have variance 1."""
    num, length = 4000, 200
    sampled = random_coins().sample(jax.random.key(3), num, length)
    tau = np.exp(np.asarray(sampled.log_source[:, 0, 1], float))
    score = (np.asarray(sampled.tokens).mean(axis=1) - tau) / np.sqrt(tau * (1 - tau) / length)
    usable = (tau > 0.05) & (tau < 0.95)
    square = score[usable] ** 2
    assert abs(square.mean() - 1) <= 4 * square.std() / np.sqrt(usable.sum())


def test_impossible_tokens_are_never_sampled():
    sampled = mixture([1.0], [[0.5, 0.0, 0.5]]).sample(jax.random.key(4), 500, 50)
    assert not np.any(sampled.tokens == 1)
    assert np.all(sampled.log_source[..., 1] == -np.inf)


def test_extreme_pseudo_counts_sample_without_nan():
    sampled = dirichlet([1e-4, 1e-4]).sample(jax.random.key(5), 500, 10)
    assert not np.any(np.isnan(sampled.log_source))
    constant = np.asarray(sampled.tokens == sampled.tokens[:, :1]).all(axis=1).mean()
    assert constant > 0.99  # P(ten equal tokens) = 1 - O(1e-4 log 10)


def test_seeds():
    first, again, other = (random_coins().sample(jax.random.key(s), 20, 20) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert np.any(first.tokens != other.tokens)


# Tracing.


@pytest.mark.parametrize(
    "make", [coin, lambda p: coin_mixture([p, 1 - p]), lambda p: dirichlet([p, 1 - p])]
)
def test_other_numbers_do_not_retrace(make):
    traces = []

    @jax.jit
    def use(task, key):
        traces.append(None)
        tokens = task.sample(key, 4, 6).tokens
        return task.predict(tokens), task.posterior(tokens)

    for p in (0.2, 0.3, 0.4):
        use(make(p), jax.random.key(0))
    assert len(traces) == 1


def test_sampling_under_jit_equals_sampling_outside():
    for task in (random_coins(), coin_mixture([0.2, 0.8])):
        inside = jax.jit(lambda task, key: task.sample(key, 8, 9))(task, jax.random.key(0))
        outside = task.sample(jax.random.key(0), 8, 9)
        np.testing.assert_array_equal(inside.tokens, outside.tokens)


# Validation.


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: coin(1.5), ValueError, r"`p` must be between 0 and 1, got 1\.5"),
        (lambda: coin([0.2]), ValueError, r"`p` must be a single number, got shape \(1,\)"),
        (lambda: coin("0.2"), TypeError, "`p` must hold real numbers"),
        (lambda: coin(float("nan")), ValueError, "`p` must be finite, got nan"),
        (lambda: die([0.5, 0.6]), ValueError, r"`probs` must sum to 1, got a sum of 1\.1"),
        (lambda: die(6), ValueError, r"`probs` must be a vector, got shape \(\)"),
        (lambda: die([1.0]), ValueError, "`probs` .* 2 tokens, got 1"),
        (lambda: die(["six"]), TypeError, "`probs` must hold real numbers"),
        (lambda: coin_mixture([0.2, -0.1]), ValueError, r"`probs` must .* got -0\.1"),
        (lambda: coin_mixture(0.2), ValueError, r"`probs` must be a vector, got shape \(\)"),
        (lambda: coin_mixture([]), ValueError, "`probs` must not be empty"),
        (lambda: coin_mixture([0.2, 0.8], [1.0]), ValueError, "`weights` .* 2 components, got 1"),
        (lambda: coin_mixture([0.2, 0.8], [0.5, 0.6]), ValueError, r"`weights` .* sum of 1\.1"),
        (lambda: mixture([1.0], [[1.0]]), ValueError, "`probs` .* 2 tokens, got 1"),
        (lambda: mixture([1.0], [[0.5, 0.4]]), ValueError, r"`probs` .* sum of 0\.9"),
        (lambda: mixture([1.0], [0.5, 0.5]), ValueError, r"`probs` must be a matrix"),
        (lambda: mixture([1.0, 0.0], [[1.0, 0.0], [1.0]]), ValueError, "`probs` .* unequal length"),
        (lambda: dirichlet([1.0, 0.0]), ValueError, r"`alpha` must be above 0 everywhere, got 0"),
        (lambda: dirichlet([1.0]), ValueError, "`alpha` .* 2 tokens, got 1"),
        (lambda: dirichlet([1.0, np.inf]), ValueError, "`alpha` must be finite"),
        (lambda: dirichlet([1.0, 1j]), TypeError, "`alpha` must hold real numbers"),
    ],
)
def test_constructors_reject(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("task", [random_coins(), coin(0.2)], ids=["dirichlet", "mixture"])
@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        ([[0.0, 1.0]], TypeError, "`tokens` must be integers, got dtype float"),
        ([[True, False]], TypeError, "`tokens` must be integers, got dtype bool"),
        ([[0, 2]], ValueError, "`tokens` must be between 0 and 1, got values from 0 to 2"),
        ([[-1, 0]], ValueError, "`tokens` must be between 0 and 1, got values from -1 to 0"),
        ([[[0]]], ValueError, r"`tokens` must be .*\[batch, time\], got shape \(1, 1, 1\)"),
    ],
)
def test_tokens_are_checked(task, tokens, error, message):
    for method in (task.predict, task.posterior):
        with pytest.raises(error, match=message):
            method(tokens)
    with pytest.raises(ValueError, match="`tokens`"):
        task.predict([0, 1])


@pytest.mark.parametrize("task", [random_coins(), coin(0.2)], ids=["dirichlet", "mixture"])
@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((0, 5), ValueError, "`num_sequences` must be at least 1, got 0"),
        ((5, 0), ValueError, "`length` must be at least 1, got 0"),
        ((5, 2.0), TypeError, r"`length` must be an int, got 2\.0"),
        ((True, 2), TypeError, "`num_sequences` must be an int, got True"),
    ],
)
def test_sizes_are_checked(task, sizes, error, message):
    with pytest.raises(error, match=message):
        task.sample(jax.random.key(0), *sizes)


def test_constructors_hold_float64_and_accept_lists_and_float32():
    for task in (coin(1), coin_mixture([0, 1]), dirichlet([1, 2]), mixture([1], [[1, 0]])):
        for field in task:
            assert isinstance(field, np.ndarray)
            assert field.dtype == np.float64
            with pytest.raises(ValueError, match="read-only"):
                field[...] = 0.0
    thirds = mixture(np.full(3, 1 / 3, np.float32), np.full((3, 3), 1 / 3, np.float32))
    np.testing.assert_allclose(thirds.weights.sum(), 1.0, rtol=2.0**-52)
    np.testing.assert_allclose(thirds.probs.sum(axis=-1), 1.0, rtol=2.0**-52)


def test_the_given_array_is_not_frozen():
    alpha = np.array([1.0, 2.0])
    task = dirichlet(alpha)
    alpha[0] = 5.0
    assert task.alpha[0] == 1.0


def test_the_classes_accept_anything():
    """They cross jit as tracers and as jax's own placeholders."""
    assert DirichletCategorical(None).alpha is None
    assert jax.tree.structure(CategoricalMixture(0, 0)).num_leaves == 2


# Contracts.


class Bent(NamedTuple):
    """A coin as one would write it oneself."""

    heads: object
    num_tokens = 2

    def sample(self, key, num_sequences, length):
        heads = jax.random.bernoulli(key, self.heads, (num_sequences, length))
        return tasks.Sequences(heads.astype(jnp.int32), None)

    @tasks.pytree_method
    def predict(self, tokens):
        p = jnp.array([1 - self.heads, self.heads])
        return jnp.broadcast_to(jnp.log(p), (*jnp.shape(tokens), 2))


@pytest.mark.parametrize("kind", [Bent, tasks.coin])
def test_a_predict_taken_from_its_task_carries_the_tasks_numbers(kind):
    traces = []

    @jax.jit
    def call(predict, tokens):
        traces.append(1)
        return predict(tokens)

    tokens = np.array([[0, 1, 1]])
    for heads in (0.25, 0.5):
        expected = np.log([[1 - heads, heads]] * 3)
        for predict in (kind(heads).predict, jax.tree.map(jnp.asarray, kind(heads).predict)):
            np.testing.assert_allclose(predict(tokens)[0], expected, atol=FLOAT32)
        np.testing.assert_allclose(call(kind(heads).predict, tokens)[0], expected, atol=FLOAT32)
    assert traces == [1]
    assert type(kind(0.5)).predict.__name__ == "predict"


def test_a_contract_names_what_is_missing():
    tasks.check_task("task", coin(0.2), 2, tasks.PromptableTask)
    tasks.check_task("task", Bent(0.2), 2, tasks.BayesTask)
    with pytest.raises(TypeError, match="a PromptableTask with .*, which has no posterior"):
        tasks.check_task("task", Bent(0.2), 2, tasks.PromptableTask)
    with pytest.raises(ValueError, match="`task` must have the predictor's alphabet of 3 tokens"):
        tasks.check_task("task", Bent(0.2), 3)


@pytest.mark.parametrize("one", [3, np.int32(3), np.uint8(3)])
def test_a_numpy_integer_is_an_integer(one):
    training = pb.Training(num_steps=one, batch_size=one, length=one, learning_rate=np.float32(0.5))
    assert training == pb.Training(num_steps=3, batch_size=3, length=3, learning_rate=0.5)
    assert "np." not in repr(training) + repr(pb.LSTM(width=one))  # it is stored so
    assert coin(0.2).sample(jax.random.key(0), one, one).tokens.shape == (3, 3)
    assert pb.exact.cumulative_regret(random_coins(), coin(0.2), one) > 0
    small = pb.initialise(pb.LSTM(embedding_width=4, width=4), jax.random.key(0))
    for method in (pb.Prefix("soft", one), pb.Memory(one)):
        method.check(small)
