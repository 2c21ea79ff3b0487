"""Regret estimated from samples, against the exact regret and against sums written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import roundings, small_predictor
from promptbayes import (
    Sequences,
    coin,
    coin_mixture,
    cumulative_regret,
    dirichlet,
    evaluate,
    exact,
    instantaneous_regret,
    kl_to,
    random_coins,
    regret,
)

SOURCES = {
    "single coin": coin(0.2),
    "two-coin mixture": coin_mixture([0.2, 0.8]),
    "random coins": random_coins(),
    "three tokens": dirichlet([0.5, 1.0, 2.0]),
}
PREDICTORS = {
    "single coin": random_coins(),
    "two-coin mixture": random_coins(),
    "random coins": dirichlet([0.5, 0.5]),
    "three tokens": dirichlet([1.0, 1.0, 1.0]),
}


@pytest.mark.parametrize("name", SOURCES)
def test_regret_of_samples_is_the_exact_regret(name):
    source, predictor, length = SOURCES[name], PREDICTORS[name], 50
    sequences = source.sample(jax.random.key(0), 2048, length)
    losses = evaluate(predictor.predict, sequences)
    sampled = cumulative_regret(losses, sequences)
    curve = exact.regret_curve(predictor, source, length)
    steps = instantaneous_regret(losses, sequences)
    increments = np.diff(curve, prepend=0)
    for n in (0, 4, 49):  # 4 standard errors: fails by chance once in 16,000
        assert abs(sampled.mean[n] - curve[n]) < 4 * sampled.standard_error[n]
        assert abs(steps.mean[n] - increments[n]) < 4 * steps.standard_error[n]


def test_the_papers_exact_number_is_met():
    sequences = coin(0.2).sample(jax.random.key(1), 2048, 50)
    sampled = cumulative_regret(evaluate(random_coins().predict, sequences), sequences)
    assert abs(sampled.mean[-1] - 1.4772242153) < 4 * sampled.standard_error[-1]


def test_the_oracle_has_no_regret():
    sequences = coin(0.2).sample(jax.random.key(2), 100, 20)
    total = cumulative_regret(evaluate(coin(0.2).predict, sequences), sequences)
    # log(0.2) in two float32 computations, 20 times.
    np.testing.assert_allclose(total.mean, 0, atol=20 * roundings(4), rtol=0)


def test_estimates_are_means_and_standard_errors_over_sequences():
    rng = np.random.default_rng(3)
    seeds, batch, time = 4, 7, 5
    sequences = random_coins().sample(jax.random.key(3), batch, time)
    losses = rng.normal(size=(seeds, batch, time))
    tokens, log_source = np.asarray(sequences.tokens), np.asarray(sequences.log_source)
    excess = np.array(
        [
            [
                [losses[s, b, t] + log_source[b, t, tokens[b, t]] for t in range(time)]
                for b in range(batch)
            ]
            for s in range(seeds)
        ]
    )
    for estimate, values in (
        (instantaneous_regret(losses, sequences), excess),
        (cumulative_regret(losses, sequences), np.cumsum(excess, axis=2)),
    ):
        deviation = values - values.mean(axis=1, keepdims=True)
        error = np.sqrt((deviation**2).sum(axis=1) / (batch - 1) / batch)
        tolerance = {"atol": roundings(100, np.float64), "rtol": 0}
        np.testing.assert_allclose(estimate.mean, values.mean(axis=1), **tolerance)
        np.testing.assert_allclose(estimate.standard_error, error, **tolerance)
        assert estimate.mean.shape == (seeds, time)
        # A seed alone gives what it gives among others; lists will do.
        alone = type(estimate)(*(field[2] for field in estimate))
        function = instantaneous_regret if values is excess else cumulative_regret
        np.testing.assert_allclose(function(losses[2].tolist(), sequences).mean, alone.mean)


def test_evaluate_is_minus_the_log_probability_of_what_came(small):
    tokens = np.random.default_rng(0).integers(0, 2, size=(130, 6))
    log_probs = np.asarray(small(tokens))
    expected = -np.array(
        [[log_probs[b, t, x] for t, x in enumerate(row)] for b, row in enumerate(tokens)]
    )
    for number in (1, 64, 130):  # less than a chunk, one, three with padding
        losses = evaluate(small, Sequences(tokens[:number], None))
        # The same network on batches of another size.
        np.testing.assert_allclose(losses, expected[:number], atol=roundings(100), rtol=0)


def test_networks_tasks_and_functions_are_evaluated_alike():
    tokens = [[0, 1, 1], [1, 1, 0]]
    uniform = np.full((2, 3), np.log(2))

    class Fair:
        def predict(self, tokens):
            return jnp.full((*tokens.shape, 2), jnp.log(0.5))

    network = small_predictor("LSTM")
    flat = jax.tree.map(jnp.zeros_like, network.params["unembedding"])
    for predictor in (
        network._replace(params=network.params | {"unembedding": flat}),
        coin(0.5).predict,
        Fair().predict,
        lambda tokens: jnp.full((*tokens.shape, 2), jnp.log(0.5)),
    ):
        losses = evaluate(predictor, Sequences(tokens, None))
        np.testing.assert_allclose(losses, uniform, atol=roundings(4), rtol=0)


def test_what_a_predictor_holds_for_impossible_costs_infinitely_much():
    sequences = Sequences([[0, 0, 1, 0], [0, 0, 0, 0]], np.log(np.full((2, 4, 2), 0.5)))
    losses = evaluate(coin(0.0).predict, sequences)
    total = cumulative_regret(losses, sequences)
    assert total.mean.tolist()[2:] == [np.inf, np.inf]
    assert total.standard_error.tolist()[2:] == [np.inf, np.inf]
    np.testing.assert_allclose(total.mean[:2], -np.log(2) * np.array([1, 2]), rtol=roundings(4))


def test_one_sequence_says_nothing_about_its_error():
    sequences = coin(0.2).sample(jax.random.key(4), 1, 3)
    estimate = cumulative_regret(np.zeros((1, 3)), sequences)
    assert estimate.standard_error.tolist() == [np.inf] * 3


def test_evaluation_compiles_once_whatever_the_numbers_are():
    regret._evaluate.clear_cache()
    for p in (0.2, 0.3, 0.9):
        sequences = coin(p).sample(jax.random.key(5), 70, 4)
        evaluate(coin_mixture([p, 0.5]).predict, sequences)
    assert regret._evaluate._cache_size() == 1
    small = small_predictor("LSTM")
    for factor in (1, 2):
        evaluate(jax.tree.map(lambda x, f=factor: f * x, small), sequences)
    assert regret._evaluate._cache_size() == 2


def test_a_plain_predictor_compiles_once_for_each_object():
    class Fair:
        def predict(self, tokens):
            return jnp.full((*tokens.shape, 2), jnp.log(0.5))

    regret._evaluate.clear_cache()
    one, other = Fair(), Fair()
    for fair in (one, one, other):
        evaluate(fair.predict, FLIPS)
    assert regret._evaluate._cache_size() == 2


def test_what_the_mask_leaves_out_has_no_regret():
    sequences = coin_mixture([0.2, 0.8]).sample(jax.random.key(7), 70, 5)
    mask = np.random.default_rng(7).integers(0, 2, (70, 5))
    masked = sequences._replace(mask=mask)
    losses = evaluate(random_coins().predict, sequences)
    np.testing.assert_array_equal(evaluate(random_coins().predict, masked), losses * mask)
    source = np.take_along_axis(
        np.asarray(sequences.log_source), np.asarray(sequences.tokens)[..., None], axis=-1
    )[..., 0]
    excess = (losses.astype(float) + source) * mask
    # Whether the losses were masked before or not; 70 sums in float64.
    for given in (losses, losses * mask):
        tolerance = {"atol": roundings(100, np.float64), "rtol": 0}
        step, total = instantaneous_regret(given, masked), cumulative_regret(given, masked)
        np.testing.assert_allclose(step.mean, excess.mean(axis=0), **tolerance)
        np.testing.assert_allclose(total.mean, excess.cumsum(axis=1).mean(axis=0), **tolerance)


@pytest.mark.parametrize("name", ["random coins", "two-coin mixture", "three tokens"])
def test_kl_between_bayes_predictors_is_the_exact_divergence(name):
    source, predictor, length = SOURCES[name], PREDICTORS[name], 20
    estimate = kl_to(source, predictor.predict, source.sample(jax.random.key(8), 2048, length))
    for n in (1, 5, 20):
        exactly = exact.kl_divergence(source, predictor, n)
        # At n = 1 there is no context, so no chance: a difference of float32 logarithms below 8.
        rounding = n * 8 * roundings(10)
        error = abs(estimate.mean[n - 1] - exactly)
        assert error < 4 * estimate.standard_error[n - 1] + rounding
    assert estimate.mean[-1] > 0.01  # there was something to measure
    # A fraction of the noise of the log-ratio of what came.
    sequences = source.sample(jax.random.key(8), 2048, length)
    came = evaluate(predictor.predict, sequences) - evaluate(source.predict, sequences)
    assert estimate.standard_error[-1] < came.sum(axis=1).std() / np.sqrt(2048) / 1.5


def test_kl_of_a_network_is_the_sum_written_out(small):
    sequences = random_coins().sample(jax.random.key(9), 70, 4)
    mask = np.random.default_rng(8).integers(0, 2, (70, 4))
    log_xi = np.asarray(random_coins().predict(sequences.tokens), float)
    log_pi = np.asarray(small(sequences.tokens), float)
    terms = (np.exp(log_xi) * (log_xi - log_pi)).sum(-1)
    for counted, given in ((terms, sequences), (terms * mask, sequences._replace(mask=mask))):
        estimate, total = kl_to(random_coins(), small, given), counted.cumsum(axis=1)
        error = total.std(axis=0, ddof=1) / np.sqrt(70)
        # The same network on batches of another size.
        np.testing.assert_allclose(estimate.mean, total.mean(axis=0), atol=roundings(300), rtol=0)
        np.testing.assert_allclose(estimate.standard_error, error, atol=roundings(300), rtol=0)


def test_kl_is_zero_to_oneself_and_infinite_to_what_excludes_the_possible():
    flips = coin(1.0).sample(jax.random.key(10), 3, 4)
    assert kl_to(coin(1.0), coin(1.0).predict, flips).mean.tolist() == [0.0] * 4
    flips = coin(0.5).sample(jax.random.key(10), 3, 4)
    assert kl_to(coin(0.5), coin(1.0).predict, flips).mean[0] == np.inf


class Unhashable:
    __hash__ = None

    def __call__(self, tokens):
        raise AssertionError("the check comes too late")


FLIPS = Sequences(np.zeros((2, 3), int), np.zeros((2, 3, 2)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: evaluate(coin(0.2), FLIPS), TypeError, "`predictor` must map tokens to log-prob"),
        (lambda: evaluate(None, FLIPS), TypeError, "`predictor` must map tokens .*, got None"),
        (
            lambda: evaluate(coin(0.2).predict, FLIPS.tokens),
            TypeError,
            r"`sequences` must be Sequences\(tokens, log_source\).*, got ndarray",
        ),
        (
            lambda: evaluate(coin(0.2).predict, Sequences(np.full((1, 2), 2), None)),
            ValueError,
            "`sequences.tokens` must be between 0 and 1, got values from 2 to 2",
        ),
        (
            lambda: evaluate(lambda x: coin(0.2).predict(x), Sequences([[0, -1]], None)),
            ValueError,
            "`sequences.tokens` must be between 0 and 1, got values from -1 to 0",
        ),
        (
            lambda: evaluate(small_predictor("LSTM"), dirichlet([1, 1, 9]).sample(KEY, 9, 9)),
            ValueError,
            "`sequences.tokens` must be between 0 and 1, got values from 0 to 2",
        ),
        (
            lambda: evaluate(coin(0.2).predict, Sequences([0, 1], None)),
            ValueError,
            r"`sequences.tokens` must be \[batch, time\], got shape \(2,\)",
        ),
        (
            lambda: evaluate(coin(0.2).predict, Sequences(np.zeros((0, 3), int), None)),
            ValueError,
            "`sequences` must hold at least one sequence, got none",
        ),
        (
            lambda: evaluate(lambda tokens: jnp.zeros((*tokens.shape[:1], 2)), FLIPS),
            ValueError,
            r"`predictor` must give log-probabilities \[batch, time, token\]",
        ),
        (
            lambda: kl_to(FLIPS, coin(0.2).predict, FLIPS),
            TypeError,
            "`task` must be a BayesTask with num_tokens, sample, predict, got",
        ),
        (
            lambda: kl_to(dirichlet([1, 1, 1]), coin(0.2).predict, FLIPS),
            ValueError,
            "`task` must have the predictor's alphabet of 2 tokens, got 3",
        ),
        (
            lambda: evaluate(coin(0.2).predict, FLIPS._replace(mask=np.ones((3, 2)))),
            ValueError,
            r"`sequences` must have a mask of 0 and 1 in the shape .* \(2, 3\), got shape \(3, 2\)",
        ),
        (
            lambda: cumulative_regret(np.zeros((2, 3)), FLIPS._replace(log_source=None)),
            TypeError,
            "`sequences` must have a log_source",
        ),
        (
            lambda: evaluate(Unhashable(), FLIPS),
            TypeError,
            "`predictor` must be hashable or a pytree of numbers",
        ),
        (
            lambda: cumulative_regret(np.zeros((2, 4)), FLIPS),
            ValueError,
            r"`log_losses` must be \[..., batch, time\] .* \(2, 3\), got shape \(2, 4\)",
        ),
        (
            lambda: instantaneous_regret(np.zeros(3), FLIPS),
            ValueError,
            r"`log_losses` must be .* got shape \(3,\)",
        ),
        (
            lambda: instantaneous_regret(np.zeros((2, 3)), FLIPS.tokens),
            TypeError,
            "`sequences` must be Sequences",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


KEY = jax.random.key(6)
