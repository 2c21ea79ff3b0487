"""Log loss and regret, in nats, of anything that maps tokens to log-probabilities.

Instantaneous regret at n is the log loss at step n minus the log loss of the oracle that knows
tau; cumulative regret is its running sum (Eq. 10). Neither asks whether the predictor is a network
or Bayes.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from .hardware import spread
from .tasks import (
    BayesTask,
    Sequences,
    check_hashable,
    check_is_sequences,
    check_pytree,
    check_sequences,
    check_task,
)

_CHUNK = 64  # sequences at once: bounds memory and keeps a core's work in its cache


class Estimate(NamedTuple):
    """A mean over sequences and how far it may be off."""

    mean: np.ndarray  #: [..., time] nats
    standard_error: np.ndarray  #: [..., time] nats; infinite for a single sequence


class SequentialPredictor(Protocol):
    """What is evaluated and searched: anything that maps tokens to log-probabilities under jit.

    A `Predictor`, the `predict` of a task, a function, or an object with a `__call__`. It is traced
    with tokens of several shapes, so it looks at `tokens.shape`, never at values; position t may
    depend on x_1, ..., x_(t-1) alone. One that is a pytree (a NamedTuple of arrays) has its numbers
    traced. Any other must be hashable, and what it holds is taken for constant: it is compiled once
    for each object, so do not change an object afterwards.

    Example:
        >>> def last_flip(tokens):  # two thirds for what came last
        ...     before = jnp.roll(tokens, 1, axis=1)
        ...     p = jnp.where(before == 1, 2 / 3, 1 / 3).at[:, 0].set(0.5)
        ...     return jnp.log(jnp.stack([1 - p, p], axis=-1))
        >>> predictor: SequentialPredictor = last_flip
        >>> evaluate(predictor, Sequences(np.array([[1, 1, 0]]), None)).round(3)[0]
        array([0.693, 0.405, 1.099], dtype=float32)
    """

    def __call__(self, tokens: Any, /) -> jax.Array:
        """Log pi(x_t = a | x_<t) in nats, [batch, time, token], for tokens int [batch, time]."""
        ...


def evaluate(predictor: SequentialPredictor, sequences: Sequences) -> np.ndarray:
    """Log losses -log pi(x_t | x_<t) in nats, [batch, time], in bounded memory (Eq. 3).

    Args:
        predictor: a `Predictor`, or a Bayes predictor such as `random_coins().predict`; see
            `SequentialPredictor`.
        sequences: of a task distribution; where their mask is 0, the loss is 0.

    Raises:
        TypeError, ValueError: no predictor, tokens outside its alphabet, another shape.

    Example:
        >>> from promptbayes import coin
        >>> evaluate(coin(0.5).predict, coin(0.2).sample(jax.random.key(0), 1, 3)).round(3)
        array([[0.693, 0.693, 0.693]], dtype=float32)
    """
    tokens, mask, _ = _check(predictor, sequences)
    return _counted(_in_chunks(_evaluate, as_pytree(predictor), tokens), mask)


def _check(predictor, sequences):
    """Tokens [batch, time] and mask (or None) that a predictor is asked about; its alphabet."""
    check_is_sequences("sequences", sequences)
    shape = np.shape(sequences.tokens)
    num_tokens = predictor_num_tokens(predictor, shape[1] if len(shape) == 2 else 1)
    tokens, mask = check_sequences("sequences", sequences, num_tokens)
    if not len(tokens):
        raise ValueError("`sequences` must hold at least one sequence, got none.")
    return jnp.asarray(tokens), mask, num_tokens


def _in_chunks(function, numbers, tokens):
    """`function(numbers, chunks)` of tokens [batch, time], in chunks of one size: [batch, time]."""
    num_chunks = -(-len(tokens) // _CHUNK)
    padded = jnp.concatenate(
        [tokens, jnp.zeros_like(tokens, shape=(-len(tokens) % _CHUNK, tokens.shape[1]))]
    )
    values = function(numbers, padded.reshape(num_chunks, _CHUNK, tokens.shape[1]))
    return np.asarray(values).reshape(padded.shape)[: len(tokens)]


def _counted(values, mask):
    return values if mask is None else np.where(mask == 1, values, np.zeros_like(values))


@jax.jit
def _evaluate(predictor, chunks):
    return spread(lambda tokens: log_loss(predictor(tokens), tokens), chunks)


def log_loss(log_probs, tokens):
    """-log of the probability given to what came, [batch, time]."""
    return -jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]


def as_pytree(predictor: Any) -> Any:
    """The predictor, or where it is no pytree, one without numbers, compiled for this object."""
    return jax.tree_util.Partial(predictor) if jax.tree_util.all_leaves([predictor]) else predictor


def predictor_num_tokens(predictor, length: int) -> int:
    """The alphabet of a predictor, checked: what it gives for tokens [batch, length]."""
    if not callable(predictor) or isinstance(predictor, type):
        raise TypeError(f"`predictor` must map tokens to log-probabilities, got {predictor!r}.")
    traced = as_pytree(predictor)
    check_pytree("predictor", traced)
    if traced is not predictor:
        check_hashable("predictor", predictor, " or a pytree of numbers")
    shape = _CHUNK, length
    given = jax.eval_shape(traced, jax.ShapeDtypeStruct(shape, jnp.int32))
    if given.shape[:-1] != shape:
        raise ValueError(
            f"`predictor` must give log-probabilities [batch, time, token] for tokens "
            f"{shape}, got shape {given.shape}."
        )
    return given.shape[-1]


def instantaneous_regret(log_losses, sequences) -> Estimate:
    """Regret at each step, [..., time] in nats: mean over sequences and error (Section 4.1).

    Args:
        log_losses: nats, [..., batch, time], as `evaluate` gives them.
        sequences: the `Sequences` that were evaluated; where their mask is 0, regret is 0.

    Raises:
        TypeError, ValueError: no `Sequences` with a `log_source`; log losses of another shape.

    Example:
        >>> from promptbayes import coin
        >>> flips = coin(0.2).sample(jax.random.key(0), 8, 2)
        >>> instantaneous_regret(evaluate(coin(0.2).predict, flips), flips).mean.tolist()
        [0.0, 0.0]
    """
    return _estimate(_excess(log_losses, sequences))


def cumulative_regret(log_losses, sequences) -> Estimate:
    """Regret of the first n predictions, for every n, [..., time] in nats (Eq. 10).

    Arguments and errors are those of `instantaneous_regret`.

    Example:
        >>> from promptbayes import coin
        >>> flips = coin(0.2).sample(jax.random.key(0), 8, 5)
        >>> float(cumulative_regret(evaluate(coin(0.2).predict, flips), flips).mean[-1])
        0.0
    """
    return _estimate(np.cumsum(_excess(log_losses, sequences), axis=-1))


def kl_to(task: BayesTask, predictor: SequentialPredictor, sequences: Sequences) -> Estimate:
    """Divergence, [time] in nats, of a predictor from the task's exact one, xi (Section 2).

        KL_n = sum_(t <= n) E_(x_<t ~ xi) sum_a xi(a | x_<t) log [xi(a | x_<t) / pi(a | x_<t)]

    The expectation over x_<t is the mean over sequences; that over x_t is computed, which is the
    same by the chain rule and far less noisy than log xi(x_t | x_<t) - log pi(x_t | x_<t). It is
    what pretraining minimises; infinite if pi excludes what xi does not.

    Args:
        task: whose Bayes predictor `task.predict` is the yardstick.
        predictor: a `Predictor`, or any `SequentialPredictor`.
        sequences: contexts, drawn from the task; from elsewhere, the mean is over these instead.
            Where their mask is 0, nothing is added.

    Raises:
        TypeError, ValueError: a task without `predict`, another alphabet, or as `evaluate`.

    Example:
        >>> from promptbayes import coin, random_coins
        >>> flips = random_coins().sample(jax.random.key(0), 512, 2)
        >>> kl_to(random_coins(), coin(0.5).predict, flips).mean.round(3)  # (5/3) log 2 - log 3
        array([0.   , 0.057])
    """
    tokens, mask, num_tokens = _check(predictor, sequences)
    check_task("task", task, num_tokens, BayesTask)
    pair = as_pytree(task.predict), as_pytree(predictor)
    values = _counted(_in_chunks(_divergences, pair, tokens), mask)
    return _estimate(np.cumsum(np.asarray(values, np.float64), axis=-1))


@jax.jit
def _divergences(pair, chunks):
    def divergence(tokens):
        log_xi, log_pi = (predictor(tokens) for predictor in pair)
        possible = log_xi > -jnp.inf  # 0 log 0 = 0
        terms = jnp.exp(log_xi) * (jnp.where(possible, log_xi, 0) - jnp.where(possible, log_pi, 0))
        return terms.sum(axis=-1)

    return spread(divergence, chunks)


def _excess(log_losses, sequences):
    check_is_sequences("sequences", sequences)
    if sequences.log_source is None:
        raise TypeError("`sequences` must have a log_source for regret to be measured from.")
    log_source = np.asarray(sequences.log_source)
    tokens, mask = check_sequences("sequences", sequences, log_source.shape[-1])
    log_losses = np.asarray(log_losses, np.float64)
    if log_losses.shape[-2:] != tokens.shape:
        raise ValueError(
            f"`log_losses` must be [..., batch, time] with batch and time of `sequences` "
            f"{tokens.shape}, got shape {log_losses.shape}."
        )
    source = np.take_along_axis(log_source, np.asarray(tokens)[..., None], axis=-1)
    return _counted(log_losses + source[..., 0], mask)


def _estimate(values):
    mean, num_sequences = values.mean(axis=-2), values.shape[-2]
    if num_sequences == 1:
        return Estimate(mean, np.full(mean.shape, np.inf))
    with np.errstate(invalid="ignore"):  # where a loss is infinite, so is the uncertainty
        standard_error = values.std(axis=-2, ddof=1) / np.sqrt(num_sequences)
    return Estimate(mean, np.where(np.isfinite(mean), standard_error, np.inf))
