"""Expected regret without sampling, in float64 numpy.

Under an exchangeable task, such as both families of `tasks`, a sequence's probability depends only
on how often each token occurs. An expectation over all |A|^N sequences is therefore a sum over the
few possible counts: N + 1 of them for coins. They are worked through in blocks, so that memory does
not grow with them. A Bayes predictor is named by the task distribution it is Bayesian for: anything
that meets `ExchangeableTask`.
"""

from math import comb
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from .tasks import (
    CategoricalMixture,
    DirichletCategorical,
    ExchangeableTask,
    check_contract,
    check_int,
    check_number,
    log_rising,
)

Task = ExchangeableTask

MAX_TERMS = 10**8  #: of a sum, unless told otherwise; one term is one count under one component
_BLOCK = 2**18  # numbers in an array of one block: 2 MiB, which stay in a core's cache
_FACTORS_A_SECOND = 1.5e7  # terms times tokens, on one core of a cloud machine


class HardPrompts(NamedTuple):
    """The regret after every hard prompt of one length; the order of its tokens does not matter."""

    #: k_a(s), how often the prompt holds each token, [prompt, token]; for coins, row k is the
    #: prompt with k heads.
    counts: np.ndarray
    #: E[log p(x_1:N | tau) - log pi(x_1:N | s)] in nats, [prompt]; infinite for a prompt that the
    #: predictor holds for impossible.
    regret: np.ndarray

    @property
    def best(self) -> tuple[np.ndarray, float]:
        """The counts of the prompt with the least regret (the first, on a tie), and its regret."""
        index = int(np.argmin(self.regret))
        return self.counts[index], float(self.regret[index])


class PseudoCounts(NamedTuple):
    """The best that a conjugate counter can do when its pseudo-counts may be any numbers."""

    #: The minimising pseudo-counts, [token]; infinite or 0 where only a limit is best.
    alpha: np.ndarray
    #: The prediction before the first token, alpha_a / sum_b alpha_b, [token]; where alpha is
    #: infinite or 0, the direction of that limit.
    mean: np.ndarray
    #: Cumulative regret with alpha, in nats.
    regret: float


def cumulative_regret(
    predictor_task: Task, source_task: Task, length: int, *, max_terms: float = MAX_TERMS
) -> float:
    """Expected excess log loss, in nats, of a Bayes predictor over the oracle that knows tau.

        R(N) = E_(tau ~ source) E_(x_1:N | tau) [log p(x_1:N | tau) - log pi(x_1:N)]     (Eq. 10)

    It is infinite if the source produces something that pi holds for impossible.

    Args:
        predictor_task: the task distribution that the predictor pi is Bayesian for.
        source_task: the task distribution that the sequences come from.
        length: N, number of predictions.
        max_terms: how many terms to sum at most, counts times components; memory is bounded
            without it.

    Raises:
        TypeError: a task lacks something of `ExchangeableTask`, which is named, `length` is not
            an integer, or `max_terms` not a number.
        ValueError: the alphabets differ, a task's numbers are invalid, `length` is below 1, or
            the sum has more than `max_terms` terms (the message says how long they take).

    Example:
        >>> from promptbayes.tasks import coin, random_coins
        >>> round(cumulative_regret(random_coins(), coin(0.2), 50), 10)
        1.4772242153
    """
    length, source_task, predictor_task = _check(length, max_terms, source_task, predictor_task)
    return _regret(predictor_task, source_task, length)


def regret_curve(
    predictor_task: Task, source_task: Task, length: int, *, max_terms: float = MAX_TERMS
) -> np.ndarray:
    """Cumulative regret in nats after each prediction, R(1), ..., R(N), [time].

    R(n) at entry n - 1 is `cumulative_regret`, whose arguments and errors these are (Fig. 1).

    Example:
        >>> from promptbayes.tasks import coin, random_coins
        >>> print(regret_curve(random_coins(), coin(0.5), 3).round(4))
        [0.     0.0589 0.1308]
    """
    length, source_task, predictor_task = _check(
        length, max_terms, source_task, predictor_task, all_lengths=True
    )
    return np.array([_regret(predictor_task, source_task, n) for n in range(1, length + 1)])


def mutual_information(source_task: Task, length: int, *, max_terms: float = MAX_TERMS) -> float:
    """What the tokens tell about tau: the regret that nobody who does not know tau can avoid.

        I(tau; x_1:N) = E_(x_1:N) KL(p(tau | x_1:N) || p(tau))

    In nats; 0 for a single coin. It is Eq. 10 for the predictor of Eq. 2 (Cover and Thomas, 2006,
    Section 13.1). Arguments and errors are those of `cumulative_regret`.

    Example:
        >>> from promptbayes.tasks import coin_mixture
        >>> round(mutual_information(coin_mixture([0.2, 0.8]), 50), 10)
        0.6931438296
    """
    length, source_task, _ = _check(length, max_terms, source_task, source_task)
    # As entropies, H(x) - H(x | tau): by exchangeability, E[log p(x | tau)] is the expectation of
    # sum_a k_a E[log tau_a | x_1 = a].
    ones = np.eye(source_task.num_tokens, dtype=int)
    first = np.where(source_task.log_marginal(ones) > -np.inf, source_task.log_oracle(ones), 0)

    def gained(counts, log_xi):
        return sum(k * log_tau for k, log_tau in zip(counts.T, first)) - log_xi

    return _expected(gained, length, source_task)


def kl_divergence(
    source_task: Task, predictor_task: Task, length: int, *, max_terms: float = MAX_TERMS
) -> float:
    """How far, in nats, the predictor is from the source's own Bayes predictor: its own fault.

        KL(xi || pi) = E_(x_1:N ~ xi) [log xi(x_1:N) - log pi(x_1:N)]     (Eq. 4)

    It is 0 if the two tasks are the same. Arguments and errors are those of `cumulative_regret`.

    Example:
        >>> from promptbayes.tasks import dirichlet, random_coins
        >>> krichevsky_trofimov = dirichlet([0.5, 0.5])
        >>> round(kl_divergence(random_coins(), krichevsky_trofimov, 100), 3)
        0.132
    """
    length, source_task, predictor_task = _check(length, max_terms, source_task, predictor_task)

    def excess(counts, log_xi):
        return log_xi - predictor_task.log_marginal(counts)

    return _expected(excess, length, source_task, predictor_task)


def log_marginal(task: Task, counts) -> np.ndarray:
    """Log-probability in nats, [...], of ONE sequence with these counts, tau averaged out (Eq. 1).

        Dirichlet:  xi(x_1:n) = prod_a alpha_a (alpha_a + 1) ... (alpha_a + k_a - 1)
                                / (A (A + 1) ... (A + n - 1)),   A = sum_a alpha_a
        mixture:    xi(x_1:n) = sum_c weights[c] prod_a probs[c, a]^k_a

    `counts` are k_a, how often each token occurs, integers, [..., token]; what the task cannot
    produce has -inf.

    Raises:
        TypeError, ValueError: as `cumulative_regret` for `task`; `counts` are not integers, are
            negative or do not have one entry for each token.

    Example:
        >>> from promptbayes.tasks import random_coins
        >>> print(np.exp(log_marginal(random_coins(), [[2, 0], [1, 1]])).round(4))
        [0.3333 0.1667]
    """
    task = _check_task("task", task)
    counts = np.asarray(counts)
    if not np.issubdtype(counts.dtype, np.integer):
        raise TypeError(f"`counts` must be integers, got dtype {counts.dtype}.")
    if counts.ndim == 0 or counts.shape[-1] != task.num_tokens:
        raise ValueError(
            f"`counts` must have {task.num_tokens} entries on the last axis, one for each token, "
            f"got shape {counts.shape}."
        )
    if np.any(counts < 0):
        raise ValueError(f"`counts` must not be negative, got {counts.min()}.")
    return _log_marginal(task, counts.reshape(-1, task.num_tokens)).reshape(counts.shape[:-1])


def hard_prompts(
    predictor_task: Task,
    source_task: Task,
    prompt_length: int,
    length: int,
    *,
    max_terms: float = MAX_TERMS,
) -> HardPrompts:
    """Cumulative regret after every hard prompt, and so the best one without a search.

        R(s) = E_(tau ~ source) E_(x_1:N | tau) [log p(x_1:N | tau) - log pi(x_1:N | s)]

    The predictor sees a prompt only through its counts, so all |A|^L prompts are covered by the
    far fewer counts (Eq. 7 for S = A). `prompt_length` is L, an integer; 0 is the empty prompt
    alone. Other arguments and errors are those of `cumulative_regret`.

    Example:
        >>> from promptbayes.tasks import coin, random_coins
        >>> counts, regret = hard_prompts(random_coins(), coin(0.2), 6, 50).best
        >>> counts.tolist(), round(regret, 10)
        ([5, 1], 0.5710946354)
    """
    length, source_task, predictor_task = _check(
        length, max_terms, source_task, predictor_task, prompt_length
    )
    prompts = np.concatenate([*_counts(int(prompt_length), source_task.num_tokens, _BLOCK)])
    log_prompts = _log_marginal(predictor_task, prompts)
    possible = np.flatnonzero(log_prompts > -np.inf)
    regret = np.where(log_prompts > -np.inf, 0.0, np.inf)
    for counts, prob, _ in _blocks(length, source_task, predictor_task):
        log_oracle = source_task.log_oracle(counts)
        for i in possible:
            log_predictor = predictor_task.log_marginal(prompts[i] + counts) - log_prompts[i]
            regret[i] += prob @ (log_oracle - log_predictor)
    return HardPrompts(prompts, regret)


def best_pseudo_counts(
    source_task: DirichletCategorical | CategoricalMixture, length: int
) -> PseudoCounts:
    """The pseudo-counts with which a conjugate counter predicts a source best (Appendix E).

        alpha* = argmin_alpha R(N; Dirichlet(alpha)),
        p(x_t = a | x_<t) = (alpha_a + k_a) / (A + t - 1),   A = sum_a alpha_a

    For N >= 2 finite counts are best as soon as tau varies at all: with T = sum_a Var(tau_a) /
    E(tau_a) and alpha = E(tau) / e, the slope of the regret in e is -N (N - 1) T / 2 at e = 0.

    A single coin (or what float64 cannot tell from one) has no minimiser: the regret falls to 0 as
    alpha grows along its probabilities. The limit is returned: `regret` 0.0, `alpha` infinite,
    `mean` its direction. Coins that each always show one token are the other limit, alpha = 0. A
    token that never occurs gets alpha 0. For N = `length` = 1 only the mean matters: alpha is it.

    Raises:
        TypeError: `source_task` is not one of the two families, for which the counts of each
            single token are known apart, or `length` is not an integer.
        ValueError: the task's numbers are invalid or `length` is below 1.
        RuntimeError: the minimiser did not reach a stationary point.

    Example:
        >>> from promptbayes.tasks import coin_mixture
        >>> print(best_pseudo_counts(coin_mixture([0.2, 0.8]), 3).alpha.round(6))
        [0.888889 0.888889]
    """
    if not isinstance(source_task, DirichletCategorical | CategoricalMixture):
        raise TypeError(
            "`source_task` must be a DirichletCategorical or a CategoricalMixture, whose single "
            f"tokens' counts are known apart from the others', got {type(source_task).__name__}."
        )
    length, source_task, _ = _check(length, np.inf, source_task, source_task)
    if isinstance(source_task, DirichletCategorical):  # the Bayes predictor is such a counter
        alpha = np.asarray(source_task.alpha)
        return PseudoCounts(alpha, alpha / alpha.sum(), _counter_regret(source_task, alpha, length))
    mean = np.asarray(source_task.weights @ source_task.probs)
    used = source_task.weights > 0
    if np.all((source_task.probs[used] == 0) | (source_task.probs[used] == 1)):
        # The first token says it all: regret H(first token), which is 0 for a single coin.
        limit = np.where(mean == 1, np.inf, 0.0)
        return PseudoCounts(limit, mean, float(np.sum(special.entr(mean))))
    # The counts with this mean and the total variance of tau; infinite for a single coin.
    variance = np.sum(source_task.weights @ (source_task.probs - mean) ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        start = np.where(mean > 0, mean * ((1 - np.sum(mean**2)) / variance - 1), 0.0)
    # In the logarithm of the mass A the curvature is about (N / A)^2. It is a sum of about N terms,
    # each off by about N 2^-53 because it comes from a sum of N logarithms. At A = 2^20 that leaves
    # three digits; beyond, A is unknown, and finite counts could save at most (N / 2A)^2 nats.
    if not start.sum() < 2.0**20:
        limit = np.where(mean > 0, np.inf, 0.0)
        regret = length * np.sum(source_task.weights @ special.rel_entr(source_task.probs, mean))
        return PseudoCounts(limit, mean, float(regret))
    alpha = mean.copy()
    if length > 1:
        alpha[mean > 0] = _minimise(_tails(source_task, length)[mean > 0], start[mean > 0])
    return PseudoCounts(alpha, alpha / alpha.sum(), _counter_regret(source_task, alpha, length))


# Sums over counts.


def _blocks(length, source_task, *tasks):
    """Blocks of what the source can produce: counts [count, token], their probabilities, log xi."""
    log_factorial = log_rising(np.ones(1), length)[0]
    for counts in _counts(length, source_task.num_tokens, _block_rows(source_task, *tasks)):
        log_xi = source_task.log_marginal(counts)
        log_prob = log_factorial[length] - np.sum(log_factorial[counts], axis=-1) + log_xi
        if np.any(log_prob == -np.inf):
            possible = log_prob > -np.inf
            counts, log_prob, log_xi = counts[possible], log_prob[possible], log_xi[possible]
        if len(counts):
            # At least the smallest float: what a predictor excludes costs infinitely much however
            # seldom it comes.
            yield counts, np.maximum(np.exp(log_prob), np.finfo(float).tiny), log_xi


def _expected(of_counts, length, source_task, *tasks):
    """E of of_counts(counts, log xi) over all that the source can produce."""
    blocks = _blocks(length, source_task, *tasks)
    return float(sum(prob @ of_counts(counts, log_xi) for counts, prob, log_xi in blocks))


def _counts(length, num_tokens, rows):
    """All counts that sum to `length`, [count, token], so many rows at a time; heads ascending.

    The first token's count falls from `length` to 0. The rest is shared out among the others, and
    a rest of s comes behind all ways to share out less: the combinatorial number system.
    """
    below = [np.arange(length + 1)]  # at [m][s]: ways to share out fewer than s among m + 1 tokens
    for _ in range(num_tokens - 2):
        below.append(np.cumsum(below[-1]))
    num_counts = _num_counts(length, num_tokens)
    for start in range(0, num_counts, rows):
        index, columns, left = np.arange(start, min(start + rows, num_counts)), [], length
        for ways in reversed(below):
            rest = np.searchsorted(ways, index, side="right") - 1
            columns.append(left - rest)
            index, left = index - ways[rest], rest
        yield np.stack([*columns, left], axis=-1)


def _num_counts(length, num_tokens):
    return comb(length + num_tokens - 1, num_tokens - 1)


def _block_rows(*tasks):
    return max(1, _BLOCK // max(max(task.num_components, task.num_tokens) for task in tasks))


def _log_marginal(task, counts):
    """`log_marginal` for counts [count, token], unchecked, in blocks."""
    rows = _block_rows(task)
    pieces = [task.log_marginal(counts[i : i + rows]) for i in range(0, len(counts), rows)]
    return np.concatenate(pieces) if pieces else np.zeros(0)


def _regret(predictor_task, source_task, length):
    # The three parts of regret share as little as possible, so that
    # regret = information + divergence is a check on them and not a definition.
    def excess(counts, _):
        return source_task.log_oracle(counts) - predictor_task.log_marginal(counts)

    return _expected(excess, length, source_task, predictor_task)


# The best counter. E[log of a rising product of k terms] = sum_i P(k > i) log(alpha + i), so only
# the tails of each token's own count are needed, for any alphabet.


def _tails(task, length):
    """P(k_a > i) for i = 0, ..., length - 1, [token, i]."""
    ones, log_factorial = np.arange(length + 1), log_rising(np.ones(1), length)[0]
    log_choose = log_factorial[length] - (log_factorial + log_factorial[::-1])
    rows = []
    for a in range(task.num_tokens):
        if isinstance(task, DirichletCategorical):
            of_one = DirichletCategorical(
                np.array([task.alpha.sum() - task.alpha[a], task.alpha[a]])
            )
        else:
            heads = task.probs[:, a]
            of_one = CategoricalMixture(task.weights, np.stack([1 - heads, heads], axis=-1))
        log_prob = log_choose + _log_marginal(of_one, np.stack([ones[::-1], ones], axis=-1))
        rows.append(np.cumsum(np.exp(log_prob)[::-1])[::-1][1:])
    return np.array(rows)


def _counter_regret(source_task, alpha, length):
    """R(N) of the counter with pseudo-counts alpha; alpha 0 is fine for a token without counts."""
    steps = np.arange(length)
    gained = special.xlogy(_tails(source_task, length), alpha[:, None] + steps)
    log_predictor = np.sum(gained) - np.sum(np.log(alpha.sum() + steps))
    ones = np.eye(len(alpha), dtype=int)  # E[H(tau)]: of one token, for someone who knows tau
    entropy = float(-np.exp(source_task.log_marginal(ones)) @ source_task.log_oracle(ones))
    return float(-length * entropy - log_predictor)


def _minimise(tails, start):
    """The pseudo-counts that minimise -E[log xi], by Newton's method on their logarithms."""
    steps = np.arange(tails.shape[1])

    def value(log_alpha):
        alpha = np.exp(log_alpha)
        return np.sum(np.log(alpha.sum() + steps)) - np.sum(tails * np.log(alpha[:, None] + steps))

    def gradient(log_alpha):
        alpha = np.exp(log_alpha)
        own = np.sum(tails / (alpha[:, None] + steps), axis=-1)
        return alpha * (np.sum(1 / (alpha.sum() + steps)) - own)

    def hessian(log_alpha):
        alpha = np.exp(log_alpha)
        own = np.sum(tails / (alpha[:, None] + steps) ** 2, axis=-1)
        second = np.diag(own) - np.sum(1 / (alpha.sum() + steps) ** 2)
        return np.outer(alpha, alpha) * second + np.diag(gradient(log_alpha))

    found = optimize.minimize(
        value, np.log(start), method="trust-exact", jac=gradient, hess=hessian, tol=1e-6
    ).x
    # The value is flat to rounding here, the gradient is not. Three steps do, but for coins that
    # nearly always show one token, where all slopes are small.
    for _ in range(20):
        found = found - np.linalg.solve(hessian(found), gradient(found))
    # Each of the up to 2 N terms of the gradient is below N and rounded to 2^-53 of itself.
    tolerance = 2 * tails.shape[1] ** 2 * 2.0**-53
    if not (
        np.max(np.abs(gradient(found))) <= tolerance
        and np.all(np.linalg.eigvalsh(hessian(found)) > 0)
    ):
        raise RuntimeError(
            "`best_pseudo_counts` did not reach a minimum: the slope stayed above rounding."
        )
    return np.exp(found)


# Validation.


def _check_task(name, task):
    """The task in float64, its numbers checked by its own constructor."""
    check_contract(name, task, ExchangeableTask)
    try:
        task = task.checked()
    except ValueError as error:
        raise ValueError(f"`{name}` must be one valid task: {error}") from None
    # A family of one's own may give other numbers than those of ONE sequence, which add up over the
    # next token; 1e-4, so that one in float32 passes.
    ones = np.eye(task.num_tokens, dtype=int)
    one, two = task.log_marginal(ones), task.log_marginal(ones[0] + ones)
    sums, expected = [np.exp(one).sum(), np.exp(two).sum()], [1, np.exp(one).flat[0]]
    shapes = [one.shape, two.shape, task.log_oracle(ones).shape]
    if shapes != 3 * [(len(ones),)] or not np.allclose(sums, expected, atol=1e-4):
        raise ValueError(
            f"`{name}` must give log_marginal and log_oracle of ONE sequence for each row of "
            f"counts, got shapes {shapes} for {len(ones)} rows, and probabilities that add up to "
            f"{np.round(sums, 4)} over the next token, expected {np.round(expected, 4)}."
        )
    return task


def _check(length, max_terms, source_task, predictor_task, prompt_length=0, all_lengths=False):
    """Length and tasks, once nothing is wrong with them and the sum is not too long."""
    source_task = _check_task("source_task", source_task)
    predictor_task = _check_task("predictor_task", predictor_task)
    num_tokens = source_task.num_tokens
    if predictor_task.num_tokens != num_tokens:
        raise ValueError(
            f"`predictor_task` must have the source's {num_tokens} tokens, "
            f"got {predictor_task.num_tokens}."
        )
    prompt_length = check_int("prompt_length", prompt_length, 0)
    length = check_int("length", length)
    max_terms = check_number("max_terms", max_terms)
    # Counts of all lengths 0..N over |A| tokens are those of length N over one token more.
    counts = _num_counts(length, num_tokens + all_lengths)
    counts *= _num_counts(prompt_length, num_tokens)
    components = max(source_task.num_components, predictor_task.num_components)
    terms = counts * components
    if not terms <= max_terms:
        hours = terms * num_tokens / _FACTORS_A_SECOND / 3600
        raise ValueError(
            f"`length` must leave at most {max_terms:.1e} terms to sum, got {terms:.1e} "
            f"({counts:.1e} counts under {components} components) at length {length} over "
            f"{num_tokens} tokens. They take about {hours:.2g} hours on one core, and "
            f"{max(_BLOCK, components) / 2**14:.0f} MiB; `max_terms={1.1 * terms:.1e}` goes on."
        )
    return length, source_task, predictor_task
