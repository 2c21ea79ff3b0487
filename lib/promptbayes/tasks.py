"""Task distributions over token sequences: sampler, exact Bayes predictor, posterior.

A task is a probability vector tau over the tokens; given tau, tokens are drawn independently.
A task distribution P(tau) is a Dirichlet density or a finite mixture of such vectors.
Conditioning either on a prompt gives the same kind of task distribution again, so "prompting is
conditioning" is one method, `posterior`. With two tokens, token 1 is "heads" and tau is its
probability. What a task of one's own has to offer is said by `Task`, `BayesTask` and
`PromptableTask`. Sections and equations, in all modules, are those of Genewein et al. (2025).

Constructors validate and hold float64 numpy arrays, from which `exact` computes without rounding to
float32. The classes validate no field, because they cross `jax.jit`: their numbers are data, so a
task rebuilt with other numbers does not retrace.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from scipy import special

# Entries of one [batch, time, component] intermediate (64 MiB in float32): a larger batch is
# worked through in pieces, so that a fine grid of components fits in memory.
_MAX_INTERMEDIATE = 2**24


class Sequences(NamedTuple):
    """Sampled sequences beside what the oracle, who knows tau, predicts for them.

    Example:
        >>> answers = Sequences(np.array([[0, 1, 1]]), None, mask=np.array([[0, 0, 1]]))
        >>> int(answers.mask.sum())
        1
    """

    #: x_1, ..., x_N, int32 [batch, time].
    tokens: jax.Array
    #: log p(x_t = a | tau) for every token a, in nats, [batch, time, token]; None where nobody
    #: knows it, and then there is no regret.
    log_source: jax.Array | None
    #: Which x_t count, 1 or 0, [batch, time]; None if all do. What does not count is read like the
    #: rest and costs nothing: its log loss, regret and divergence are 0.
    mask: jax.Array | None = None


class Task(Protocol):
    """A distribution over sequences that `tune`, `pretrain` and `search_hard_prefix` can draw from.

    It crosses `jax.jit`, so it is a *pytree* of arrays and numbers: a NamedTuple, or a frozen
    dataclass after `jax.tree_util.register_dataclass`. It need not be hashable. Its fields are
    data: inside `sample` they are traced, and other numbers do not compile anew. What shapes and
    branches depend on is a class attribute, as `num_tokens`, or a static field (`meta_fields`).

    Example:
        >>> class StickyCoin(NamedTuple):  # x_0 = 0, then x_n = x_(n-1) with probability stay
        ...     stay: float
        ...     num_tokens = 2
        ...     def sample(self, key, num_sequences, length):
        ...         turns = jax.random.bernoulli(key, 1 - self.stay, (num_sequences, length))
        ...         return Sequences(jnp.cumsum(turns, axis=1, dtype=jnp.int32) % 2, None)
        >>> task: Task = StickyCoin(1.0)
        >>> task.sample(jax.random.key(0), 1, 4).tokens.tolist()
        [[0, 0, 0, 0]]
    """

    @property
    def num_tokens(self) -> int:
        """The size |A| of the alphabet, at least 2; an int, not traced."""
        ...

    def sample(self, key: jax.Array, num_sequences: int, length: int, /) -> Sequences:
        """Draw sequences: tokens int [num_sequences, length] in 0..num_tokens-1.

        Args:
            key: one jax random key; traced, and the only source of chance.
            num_sequences: how many; an int, not traced.
            length: tokens in each, at least 1; an int, not traced.
        """
        ...


class BayesTask(Task, Protocol):
    """A `Task` that knows its exact predictor, as `kl_to` wants it.

    `task.predict` is a predictor like a network and can be handed to `evaluate` as it is. A plain
    method serves, compiled once for each task object; under `pytree_method` the task's numbers are
    data, and it is compiled once for all of them.

    Example:
        >>> task: BayesTask = coin(0.25)
        >>> np.exp(task.predict([[0, 1]]))[0, :, 1].round(3).tolist()
        [0.25, 0.25]
    """

    def predict(self, tokens: Any, /) -> jax.Array:
        """Log p(x_t = a | x_<t) in nats, [batch, time, token], for tokens int [batch, time]."""
        ...


class PromptableTask(BayesTask, Protocol):
    """A `BayesTask` that can be conditioned on a prompt; `posterior([])` is the task itself.

    Example:
        >>> task: PromptableTask = random_coins()
        >>> np.exp(task.posterior([1, 1]).predict([[0]])).round(2)[0, 0].tolist()
        [0.25, 0.75]
    """

    def posterior(self, tokens: Any, /) -> "PromptableTask":
        """The task that remains after a prompt, tokens int [time]: prompting is conditioning."""
        ...


_Method = TypeVar("_Method", bound=Callable[..., Any])


class _PytreeMethod:
    def __init__(self, function):
        self.function = function
        self.__doc__, self.__wrapped__ = function.__doc__, function

    def __get__(self, owner, kind=None):
        return self.function if owner is None else jax.tree_util.Partial(self.function, owner)


def pytree_method(method: _Method) -> _Method:
    """Decorator: a method that stays a pytree when it is taken from its object, a pytree itself.

    Example:
        >>> class Coin(NamedTuple):
        ...     heads: float
        ...     twice = pytree_method(lambda self: 2 * self.heads)
        >>> jax.jit(lambda method: method())(Coin(0.25).twice).item()  # 0.25 is data to jit
        0.5
    """
    wrapped: Any = _PytreeMethod(method)
    return wrapped


class ExchangeableTask(Protocol):
    """What `exact` asks of a task distribution under which only counts matter, not their order.

    A family of one's own has these and inherits nothing. `exact` asks in float64 numpy for a block
    of counts at a time: rows k_a, how often each token occurs in one sequence, [count, token].

    Example:
        >>> class KnownDie(NamedTuple):
        ...     probs: np.ndarray
        ...     num_components = 1
        ...     num_tokens = property(lambda self: len(self.probs))
        ...     def checked(self):
        ...         return KnownDie(die(self.probs).probs[0])
        ...     def log_marginal(self, counts):
        ...         return counts @ np.log(self.probs)
        ...     log_oracle = log_marginal
        >>> from promptbayes import exact
        >>> round(exact.cumulative_regret(random_coins(), KnownDie(np.array([0.8, 0.2])), 50), 10)
        1.4772242153
    """

    @property
    def num_tokens(self) -> int:
        """The size |A| of the alphabet."""
        ...

    @property
    def num_components(self) -> int:
        """What a row of counts costs, in numbers: components of the prior, 1 for one density."""
        ...

    def checked(self) -> "ExchangeableTask":
        """The same task in float64; ValueError where its numbers are not those of one task."""
        ...

    def log_marginal(self, counts: np.ndarray) -> np.ndarray:
        """Log xi(x) of ONE sequence, tau averaged out, nats [count]; -inf where impossible."""
        ...

    def log_oracle(self, counts: np.ndarray) -> np.ndarray:
        """E[log p(x | tau) | x], nats [count]; any number where x is impossible."""
        ...


class DirichletCategorical(NamedTuple):
    """tau ~ Dirichlet(alpha), then x_t ~ Categorical(tau); with alpha = (1, 1) the random coins.

    Example:
        >>> random_coins().posterior([1, 0, 0]).alpha.tolist()
        [3.0, 2.0]
    """

    #: Prior pseudo-counts, p(tau) proportional to prod_a tau_a^(alpha_a - 1), [token]; after a
    #: batch of prompts one row for each, [batch, token].
    alpha: np.ndarray | jax.Array
    num_components = 1  # one density

    @property
    def num_tokens(self) -> int:
        """The size |A| of the alphabet."""
        return self.alpha.shape[-1]

    def sample(self, key: jax.Array, num_sequences: int, length: int) -> Sequences:
        """Draw one tau for each sequence from the prior, then its tokens independently (Sec. 4.1).

        Arguments are those of `Task.sample`; a task with a batch axis gives one sequence per row.

        Raises:
            TypeError, ValueError: a size is no integer of at least 1, or does not fit the batch.

        Example:
            >>> random_coins().sample(jax.random.key(0), 4, 10).tokens.shape
            (4, 10)
        """
        _check_sizes(self, num_sequences, length)
        return _sample_dirichlet(self.alpha, key, num_sequences, length)

    @pytree_method
    def predict(self, tokens) -> jax.Array:
        """Predict each token from those before it, averaging tau over its posterior (Eq. 2).

            p(x_t = a | x_<t) = (alpha_a + k_a) / (sum_b alpha_b + t - 1),   k_a = #{s < t: x_s = a}

        With alpha = (1, 1) this is Laplace's rule. For tokens [batch, time] it gives log p in nats
        for every a, before seeing x_t, [batch, time, token].

        Raises:
            TypeError, ValueError: `tokens` are not integers, not [batch, time] or, which is seen
                only outside `jax.jit`, outside the alphabet.

        Example:
            >>> print(np.exp(random_coins().predict([[1, 1, 0]]))[0, :, 1].round(3))
            [0.5   0.667 0.75 ]
        """
        return _predict_dirichlet(self, _check_tokens(self, tokens, ranks=(2,)))

    def posterior(self, tokens) -> "DirichletCategorical":
        """Condition on a prompt: the task distribution that remains after `tokens` (App. E).

            p(tau | s) = Dirichlet(alpha + k(s)),   k_a(s) = #{t: s_t = a}

        `tokens` are one prompt [time], possibly empty, or a batch of prompts [batch, time], which
        gives a leading batch axis. Outside `jax.jit` it computes in float64. Errors as `predict`.

        Example:
            >>> random_coins().posterior([[0, 0], [1, 1]]).alpha.tolist()
            [[3.0, 1.0], [1.0, 3.0]]
        """
        xp, task, counts = _counted(self, _check_tokens(self, tokens, ranks=(1, 2)))
        alpha, counts = xp.broadcast_arrays(task.alpha, counts)
        return DirichletCategorical(alpha + counts)

    def checked(self) -> "DirichletCategorical":
        """The same in float64, its numbers checked as by `dirichlet`."""
        return dirichlet(self.alpha)

    def log_marginal(self, counts: np.ndarray) -> np.ndarray:
        """Log xi(x) for counts [count, token], unchecked; see `exact.log_marginal`."""
        total = counts.sum(axis=-1)
        longest = int(total.max(initial=0))
        rising = log_rising(self.alpha, longest)
        above = sum(rising[a, counts[:, a]] for a in range(self.num_tokens))
        return above - log_rising(self.alpha.sum(keepdims=True), longest)[0, total]

    def log_oracle(self, counts: np.ndarray) -> np.ndarray:
        """E[log p(x | tau) | x] for counts [count, token]; see `ExchangeableTask`."""
        total = counts.sum(axis=-1)
        times = np.arange(int(total.max(initial=0)) + 1)
        # Given x, tau_a has log-mean digamma(alpha_a + k_a) - digamma(A + n): few numbers, many x.
        own = times * special.digamma(self.alpha[:, None] + times)
        every = times * special.digamma(self.alpha.sum() + times)
        return sum(own[a, counts[:, a]] for a in range(self.num_tokens)) - every[total]


class CategoricalMixture(NamedTuple):
    """tau is one of finitely many vectors, tau = probs[c] with probability weights[c].

    One component is a single coin; many on a fine grid approximate any prior (with a gap, say).

    Example:
        >>> coin_mixture([0.2, 0.8]).posterior([1]).weights.round(3).tolist()
        [0.2, 0.8]
    """

    #: P(c), prior probability of each component, [component]; after a batch of prompts
    #: [batch, component].
    weights: np.ndarray | jax.Array
    #: p(x_t = a | c), [component, token]; after a batch of prompts [batch, component, token].
    probs: np.ndarray | jax.Array

    @property
    def num_tokens(self) -> int:
        """The size |A| of the alphabet."""
        return self.probs.shape[-1]

    @property
    def num_components(self) -> int:
        """How many vectors tau can be; see `ExchangeableTask`."""
        return self.probs.shape[-2]

    def sample(self, key: jax.Array, num_sequences: int, length: int) -> Sequences:
        """Draw one component for each sequence, then its tokens independently (Section 4.1).

        Arguments and errors are those of `DirichletCategorical.sample`.

        Example:
            >>> coin(0.0).sample(jax.random.key(0), 1, 4).tokens.tolist()
            [[0, 0, 0, 0]]
        """
        _check_sizes(self, num_sequences, length)
        return _sample_mixture(self.weights, self.probs, key, num_sequences, length)

    @pytree_method
    def predict(self, tokens) -> jax.Array:
        """Predict each token from those before it, averaging over the posterior (Eq. 2).

            p(x_t = a | x_<t) = sum_c P(c | x_<t) probs[c, a],
            P(c | x_<t) proportional to weights[c] prod_b probs[c, b]^k_b,   k_b = #{s < t: x_s = b}

        Shapes, units and errors are those of `DirichletCategorical.predict`. After a history that
        no component can produce, 0/0, every token gets log-probability -inf, so that the sum is
        still that of the sequence and no NaN appears.

        Example:
            >>> print(np.exp(coin_mixture([0.2, 0.8]).predict([[1, 1]]))[0, :, 1].round(2))
            [0.5  0.68]
        """
        return _predict_mixture(self, _check_tokens(self, tokens, ranks=(2,)))

    def posterior(self, tokens) -> "CategoricalMixture":
        """Condition on a prompt: the same components, weighted by how well they explain it.

            P(c | s) proportional to weights[c] prod_a probs[c, a]^k_a(s),   k_a(s) = #{t: s_t = a}

        As `DirichletCategorical.posterior`, with the batch axis on both fields. A prompt that no
        component can produce is a ValueError; under `jax.jit` it gives weights 0, and `predict`
        then gives -inf.

        Example:
            >>> coin_mixture([0.5, 1.0]).posterior([[1], [0]]).weights.round(3).tolist()
            [[0.333, 0.667], [1.0, 0.0]]
        """
        tokens = _check_tokens(self, tokens, ranks=(1, 2))
        xp, (weights, probs), counts = _counted(self, tokens)
        # One row of counts as a matrix [1, token], so that it multiplies one task's components.
        rows = _component_posterior(xp, weights[..., None, :], probs, counts[..., None, :])
        weights = rows[..., 0, :]
        lost = np.flatnonzero(weights.sum(axis=-1) == 0) if xp is np else []
        if len(lost):
            where = f" (row {lost[0]} of the batch)" if tokens.ndim == 2 else ""
            raise ValueError(
                f"`tokens` must be possible under at least one component, got a prompt{where} "
                "that has probability 0 under all of them."
            )
        probs = xp.broadcast_to(probs, (*weights.shape, self.num_tokens))
        return CategoricalMixture(weights, probs)

    def checked(self) -> "CategoricalMixture":
        """The same in float64, its numbers checked as by `mixture`."""
        return mixture(self.weights, self.probs)

    def log_marginal(self, counts: np.ndarray) -> np.ndarray:
        """Log xi(x) for counts [count, token], unchecked; see `exact.log_marginal`."""
        return _log_sum(self.weights, _log_likelihood(self.probs, counts))

    def log_oracle(self, counts: np.ndarray) -> np.ndarray:
        """E[log p(x | tau) | x] for counts [count, token]; see `ExchangeableTask`."""
        log_likelihood = _log_likelihood(self.probs, counts)
        log_marginal = _log_sum(self.weights, log_likelihood)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 log 0 and impossible x: not chosen
            posterior = np.exp(log_likelihood + np.log(self.weights) - log_marginal)
            return np.sum(np.where(posterior > 0, posterior * log_likelihood, 0.0), axis=-1)


def coin(p: float) -> CategoricalMixture:
    """One coin that shows heads (token 1) with known probability p (Section 4.1, "Single coin").

    Raises:
        TypeError, ValueError: `p` is not a real number, a single one, between 0 and 1.

    Example:
        >>> coin(0.2).probs.tolist()
        [[0.8, 0.2]]
    """
    return coin_mixture(_probabilities("p", p, ndim=0)[None])


def die(probs) -> CategoricalMixture:
    """One die with known face probabilities; an unknown one is `dirichlet([1.0] * 6)`.

    `probs` are the probability of each face, [token]. It is the single coin of Section 4.1 with
    more faces; errors are those of `mixture`.

    Example:
        >>> die([0.5, 0.1, 0.1, 0.1, 0.1, 0.1]).num_tokens
        6
    """
    return mixture([1.0], _real("probs", probs, ndim=1)[None])


def coin_mixture(probs, weights=None) -> CategoricalMixture:
    """A coin drawn from finitely many known ones (Section 4.1, "Two-coin mixture").

        P(tau) = sum_c weights[c] delta(tau - probs[c])

    Args:
        probs: probability of token 1 for each coin, [component]; errors are those of `mixture`.
        weights: prior probability of each coin, [component]; equal if left out.

    Example:
        >>> coin_mixture([0.2, 0.8]).weights.tolist()
        [0.5, 0.5]
    """
    probs = _probabilities("probs", probs, ndim=1)
    if weights is None:
        weights = np.full(probs.shape, 1.0 / probs.size)
    return mixture(weights, np.stack([1.0 - probs, probs], axis=-1))


def random_coins() -> DirichletCategorical:
    """A coin with unknown bias, all biases equally likely (Section 4.1, "Random coins").

    Example:
        >>> random_coins().alpha.tolist()
        [1.0, 1.0]
    """
    return dirichlet([1.0, 1.0])


def dirichlet(alpha) -> DirichletCategorical:
    """An unknown probability vector with a Dirichlet prior (Appendix E, "Beta-Bernoulli").

        p(tau) proportional to prod_a tau_a^(alpha_a - 1)

    Args:
        alpha: pseudo-count of each token, finite and above 0, [token]; for coins
            (tails, heads), so Beta(a, b) for the heads probability is `dirichlet([b, a])`.

    Raises:
        TypeError, ValueError: `alpha` does not hold at least two finite real numbers above 0.

    Example:
        >>> dirichlet([0.5, 0.5, 0.5]).num_tokens
        3
    """
    alpha = _real("alpha", alpha, ndim=1)
    _check_alphabet("alpha", alpha)
    if not np.all(alpha > 0):
        raise ValueError(f"`alpha` must be above 0 everywhere, got {alpha.min()}.")
    return DirichletCategorical(alpha)


def mixture(weights, probs) -> CategoricalMixture:
    """A finite mixture of known probability vectors over any alphabet (Eq. 1 for such tasks).

        P(tau) = sum_c weights[c] delta(tau - probs[c])

    Args:
        weights: prior probability of each component, [component].
        probs: token probabilities of each component, [component, token]; zeros are allowed. What
            sums to 1 only up to rounding is divided by its sum.

    Raises:
        TypeError: an argument does not hold real numbers.
        ValueError: a number is not a probability, a sum is not 1, or the shapes do not fit.

    Example:
        >>> mixture([0.5, 0.5], [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]).num_tokens
        3
    """
    weights = _probabilities("weights", weights, ndim=1)
    probs = _probabilities("probs", probs, ndim=2)
    _check_alphabet("probs", probs)
    if weights.shape != probs.shape[:1]:
        raise ValueError(
            f"`weights` must have one entry for each of the {probs.shape[0]} components, "
            f"got {weights.shape[0]}."
        )
    return CategoricalMixture(_normalised("weights", weights), _normalised("probs", probs))


# Sampling and prediction, one compiled function each.


@partial(jax.jit, static_argnames=("num_sequences", "length"))
def _sample_dirichlet(alpha, key, num_sequences, length):
    key_tau, key_tokens = jax.random.split(key)
    alpha = jnp.broadcast_to(jnp.asarray(alpha), (num_sequences, alpha.shape[-1]))
    # Dirichlet variables are normalised gamma variables; in logarithms a tiny alpha cannot give
    # log 0, nor 0/0 when every gamma underflows.
    log_tau = jax.nn.log_softmax(jax.random.loggamma(key_tau, alpha), axis=-1)
    return _sample_tokens(key_tokens, log_tau, length)


@partial(jax.jit, static_argnames=("num_sequences", "length"))
def _sample_mixture(weights, probs, key, num_sequences, length):
    key_tau, key_tokens = jax.random.split(key)
    component = jax.random.categorical(key_tau, jnp.log(weights), shape=(num_sequences,))
    if probs.ndim == 3:  # a batch of tasks: row b draws from task b
        tau = jax.vmap(lambda rows, c: rows[c])(probs, component)
    else:
        tau = jnp.asarray(probs)[component]
    return _sample_tokens(key_tokens, jnp.log(tau), length)


def _sample_tokens(key, log_tau, length):
    """Independent tokens for each row of log_tau [batch, token]."""
    log_source = jnp.broadcast_to(log_tau[:, None, :], (log_tau.shape[0], length, log_tau.shape[1]))
    return Sequences(jax.random.categorical(key, log_source).astype(jnp.int32), log_source)


@jax.jit
def _predict_dirichlet(task, tokens):
    alpha = jnp.asarray(task.alpha)[..., None, :]
    counts = _counts_before(tokens, alpha.shape[-1], alpha.dtype)
    pseudo_counts = jnp.broadcast_to(alpha, counts.shape) + counts
    return jnp.log(pseudo_counts) - jnp.log(jnp.sum(pseudo_counts, axis=-1, keepdims=True))


@jax.jit
def _predict_mixture(task, tokens):
    def one_sequence(task, tokens):
        weights, probs = task
        counts = _counts_before(tokens, probs.shape[-1], probs.dtype)
        posterior = _component_posterior(jnp, weights, probs, counts)
        return jnp.log(jnp.matmul(posterior, probs, precision="highest"))

    task = CategoricalMixture(*map(jnp.asarray, task))
    size = max(1, tokens.shape[1] * task.probs.shape[-2])
    pieces = min(tokens.shape[0], max(1, _MAX_INTERMEDIATE // size))
    if task.weights.ndim == 2:
        return jax.lax.map(lambda pair: one_sequence(*pair), (task, tokens), batch_size=pieces)
    return jax.lax.map(lambda row: one_sequence(task, row), tokens, batch_size=pieces)


def _counts_before(tokens, num_tokens, dtype):
    """How often each token came up before each time, [..., time, token]."""
    seen = jax.nn.one_hot(tokens, num_tokens, dtype=dtype)
    return jnp.cumsum(seen, axis=-2) - seen


# Conditioning. Written once for numpy (float64, outside jit) and jax.numpy (inside).


def _counted(task, tokens):
    """Numpy and a float64 task, or where something is traced jax.numpy; counts of the tokens."""
    traced = any(isinstance(leaf, Tracer) for leaf in (*task, tokens))
    xp = jnp if traced else np
    task = type(task)(*(xp.asarray(leaf) if traced else np.asarray(leaf, float) for leaf in task))
    alphabet = xp.arange(task.num_tokens).reshape((1,) * tokens.ndim + (-1,))
    counts = xp.sum(xp.asarray(tokens)[..., None] == alphabet, axis=-2).astype(task[0].dtype)
    return xp, task, counts


def _component_posterior(xp, weights, probs, counts):
    """P(c | counts), [..., time, component]; all zero where the counts are impossible.

    weights [(..., time,) component], probs [..., component, token], counts [..., time, token].
    """
    precision = {"precision": "highest"} if xp is jnp else {}  # no TF32 on accelerators
    columns = xp.swapaxes(probs, -1, -2)
    # 0 * log 0 is taken as 0; what a component cannot produce is excluded afterwards.
    log_probs = xp.log(xp.where(columns > 0, columns, 1))
    log_likelihood = xp.matmul(counts, log_probs, **precision)
    excluded = xp.matmul(counts, (columns == 0).astype(probs.dtype), **precision) > 0
    log_weights = xp.where(weights > 0, xp.log(xp.where(weights > 0, weights, 1)), -xp.inf)
    log_joint = xp.broadcast_to(log_weights, log_likelihood.shape) + log_likelihood
    log_joint = xp.where(excluded, -xp.inf, log_joint)
    largest = xp.max(log_joint, axis=-1, keepdims=True)
    joint = xp.exp(log_joint - xp.where(xp.isfinite(largest), largest, 0))
    total = xp.sum(joint, axis=-1, keepdims=True)
    return joint / xp.where(total > 0, total, 1)


# Counts, in float64 numpy for `exact`.


def log_rising(start, length):
    """Log of start (start + 1) ... (start + k - 1) for k = 0, ..., length, [..., k].

    Sums of logarithms, not differences of log-gammas: these cancel when start is large.
    """
    steps = np.cumsum(np.log(start[:, None] + np.arange(length)), axis=-1)
    return np.concatenate([np.zeros((len(start), 1)), steps], axis=-1)


def _log_likelihood(probs, counts):
    """Log p(x | c) for one sequence with these counts, [count, component]."""
    never = probs == 0
    log_probs = np.log(np.where(never, 1, probs))
    log_likelihood = np.zeros((len(counts), len(probs)))
    for a in range(probs.shape[1]):  # one order of adding for all, so that equals cancel to 0
        log_likelihood += counts[:, a, None] * log_probs[:, a]
    log_likelihood[counts @ never.T.astype(float) > 0] = -np.inf
    return log_likelihood


def _log_sum(weights, log_likelihood):
    """Log of sum_c weights[c] p(x | c), [count]."""
    with np.errstate(divide="ignore"):
        log_joint = log_likelihood + np.log(weights)
        largest = log_joint.max(axis=-1)
        shift = np.where(np.isfinite(largest), largest, 0.0)
        return np.log(np.sum(np.exp(log_joint - shift[:, None]), axis=-1)) + shift


# Validation, at the public entries only.


def check_int(name: str, value, least: float = 1) -> int:
    """The value as an int; raises unless it is one, of Python or numpy, of at least so many."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{name}` must be an int, got {value!r}.")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}, got {value}.")
    return int(value)


def check_number(name: str, value) -> float:
    """The value as a number of Python; raises unless it is one, of Python or numpy."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"`{name}` must be a number, got {value!r}.")
    return value.item() if isinstance(value, np.generic) else value


def check_contract(name: str, value, contract: type) -> None:
    """Raise unless the value has all parts of a protocol, its bases' included."""
    bases = reversed(contract.__mro__)
    parts = [part for base in bases for part in vars(base) if not part.startswith("_")]
    article = "an" if contract.__name__[0] in "AEIOU" else "a"
    missing = [part for part in parts if part not in dir(value)]
    if missing or isinstance(value, type):  # a class has methods, but nothing to call them on
        lack = f"which has no {', '.join(missing)}" if missing else "a class; pass an instance"
        raise TypeError(
            f"`{name}` must be {article} {contract.__name__} with {', '.join(parts)}, "
            f"got {value!r}, {lack}."
        )


def check_pytree(name: str, value) -> None:
    """Raise unless jit can trace the value: a pytree whose leaves are arrays or numbers."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        try:
            jax.typeof(leaf)
        except TypeError:
            where = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise TypeError(
                f"`{name}` must be a pytree of arrays and numbers, a NamedTuple of them or a "
                "dataclass after jax.tree_util.register_dataclass (static fields in meta_fields), "
                f"got {value!r} with a {type(leaf).__name__}{where}."
            ) from None


def check_hashable(name: str, value, advice: str) -> None:
    """Raise unless jit can take the value for static."""
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(f"`{name}` must be hashable{advice}, got {value!r}: {error}.") from None


def check_task(name: str, task, num_tokens: int, contract: type = Task) -> None:
    """Raise unless this fulfils the contract and has this alphabet."""
    check_contract(name, task, contract)
    check_pytree(name, task)
    if type(task.num_tokens) is not int:
        raise TypeError(f"`{name}` must have an int as num_tokens, got {task.num_tokens!r}.")
    if num_tokens != task.num_tokens:
        raise ValueError(
            f"`{name}` must have the predictor's alphabet of {num_tokens} tokens, "
            f"got {task.num_tokens}."
        )


def draw(task: Task, key: jax.Array, num_sequences: int, length: int) -> Sequences:
    """Sequences of a task, checked, for what is drawn inside a loop cannot be looked at there."""
    drawn = _draw(task, key, num_sequences, length)
    check_sequences("task.sample", drawn, task.num_tokens)
    if drawn.tokens.shape != (num_sequences, length):
        raise ValueError(
            f"`task.sample` must give tokens [num_sequences, length] = {(num_sequences, length)}, "
            f"got shape {drawn.tokens.shape}."
        )
    return drawn


@partial(jax.jit, static_argnames=("num_sequences", "length"))
def _draw(task, key, num_sequences, length):
    drawn = task.sample(key, num_sequences, length)
    check_is_sequences("task.sample(key, num_sequences, length)", drawn)
    return drawn


def check_is_sequences(name: str, sequences) -> None:
    """Raise unless these are `Sequences`."""
    if not isinstance(sequences, Sequences):
        raise TypeError(
            f"`{name}` must be Sequences(tokens, log_source), with log_source=None where nobody "
            f"knows it, got {type(sequences).__name__}."
        )


def check_sequences(name: str, sequences: Sequences, num_tokens: int):
    """Tokens [batch, time] and mask (or None) of sequences over this alphabet."""
    tokens = check_tokens(sequences.tokens, num_tokens, ranks=(2,), name=f"{name}.tokens")
    mask = sequences.mask
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape != tokens.shape or not np.all((mask == 0) | (mask == 1)):
            raise ValueError(
                f"`{name}` must have a mask of 0 and 1 in the shape of its tokens {tokens.shape}, "
                f"got shape {mask.shape}, values {np.unique(mask)[:5].tolist()}."
            )
    return tokens, mask


def _check_sizes(task, num_sequences, length):
    check_int("num_sequences", num_sequences)
    check_int("length", length)
    _check_batch("num_sequences", task, num_sequences)


def _check_tokens(task, tokens, ranks):
    tokens = check_tokens(tokens, task.num_tokens, ranks)
    if tokens.ndim == 2:
        _check_batch("tokens", task, len(tokens))
    return tokens


def _check_batch(name, task, size):
    if task[0].ndim == 2 and len(task[0]) != size:
        raise ValueError(f"`{name}` must fit the task's batch of {len(task[0])}, got {size}.")


def check_tokens(tokens, num_tokens, ranks, name="tokens"):
    """Tokens as an integer array; values are looked at only where they are known."""
    if not isinstance(tokens, jax.Array):
        tokens = np.asarray(tokens)
        if tokens.size == 0 and tokens.dtype == float:  # an empty list has no integer in it
            tokens = tokens.astype(np.int32)
    if not np.issubdtype(tokens.dtype, np.integer):
        raise TypeError(f"`{name}` must be integers, got dtype {tokens.dtype}.")
    if tokens.ndim not in ranks:
        expected = " or ".join({1: "[time]", 2: "[batch, time]"}[rank] for rank in ranks)
        raise ValueError(f"`{name}` must be {expected}, got shape {tokens.shape}.")
    if not isinstance(tokens, Tracer) and tokens.size:
        lowest, highest = int(tokens.min()), int(tokens.max())
        if lowest < 0 or highest >= num_tokens:
            raise ValueError(
                f"`{name}` must be between 0 and {num_tokens - 1}, "
                f"got values from {lowest} to {highest}."
            )
    return tokens


def _real(name, values, ndim):
    """A constant float64 array of the given rank with finite entries."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"`{name}` must be a regular array, got rows of unequal length.") from None
    if array.dtype.kind not in "iuf":
        raise TypeError(f"`{name}` must hold real numbers, got {values!r}.")
    array = array.astype(np.float64)  # a copy, which nobody changes
    array.setflags(write=False)
    if array.ndim != ndim:
        expected = {0: "a single number", 1: "a vector", 2: "a matrix"}[ndim]
        raise ValueError(f"`{name}` must be {expected}, got shape {array.shape}.")
    if array.size == 0:
        raise ValueError(f"`{name}` must not be empty, got shape {array.shape}.")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"`{name}` must be finite, got {values!r}.")
    return array


def _check_alphabet(name, array):
    if array.shape[-1] < 2:
        raise ValueError(f"`{name}` must cover at least 2 tokens, got {array.shape[-1]}.")


def _probabilities(name, values, ndim):
    array = _real(name, values, ndim)
    wrong = array[(array < 0) | (array > 1)]
    if wrong.size:
        raise ValueError(f"`{name}` must be between 0 and 1, got {wrong[0]}.")
    return array


def _normalised(name, array):
    """Probabilities divided by their sum, which may differ from 1 by float32 rounding only."""
    total = np.sum(array, axis=-1, keepdims=True)
    # Each of n float32 numbers is off by at most 2^-24 of itself, so their sum by 2^-24; the
    # factor 16 leaves room for numbers that were computed, not typed.
    if np.any(np.abs(total - 1) > 16 * 2.0**-24):
        worst = total.flat[np.argmax(np.abs(total - 1))]
        raise ValueError(f"`{name}` must sum to 1, got a sum of {worst}.")
    array = array / total
    array.setflags(write=False)
    return array
