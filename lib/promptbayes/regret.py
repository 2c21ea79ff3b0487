"""Log loss and regret, in nats, of anything that maps tokens to log-probabilities.

Instantaneous regret at n is the log loss at step n minus the log loss of the oracle that knows
tau; cumulative regret is its running sum (Eq. 10). Neither asks whether the predictor is a network
or Bayes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .hardware import spread
from .tasks import Sequences, check_tokens

_CHUNK = 64  # sequences at once: bounds memory and keeps a core's work in its cache


class Estimate(NamedTuple):
    """A mean over sequences and how far it may be off."""

    mean: np.ndarray  # [..., time] nats
    standard_error: np.ndarray  # [..., time] nats


def evaluate(predictor: Callable[[Any], jax.Array], sequences) -> np.ndarray:
    """Log losses -log pi(x_t | x_<t), in bounded memory.

    Args:
        predictor: tokens [batch, time] -> log-probabilities [batch, time, token]: a `Predictor`,
            or a Bayes predictor such as `random_coins().predict`.
        sequences: `Sequences` of a task distribution.

    Returns:
        Nats, [batch, time].

    Reference:
        Eq. 3.

    Example:
        >>> import jax
        >>> from promptbayes import tasks
        >>> flips = tasks.coin(0.2).sample(jax.random.key(0), 4, 3)
        >>> evaluate(tasks.coin(0.5).predict, flips).round(3)[0]
        array([0.693, 0.693, 0.693], dtype=float32)
    """
    if not callable(predictor):
        raise TypeError(f"`predictor` must map tokens to log-probabilities, got {predictor!r}.")
    check_sequences(sequences)
    tokens = check_tokens(sequences.tokens, predictor_num_tokens(predictor), ranks=(2,))
    if not len(tokens):
        raise ValueError("`sequences` must hold at least one sequence, got none.")
    tokens = jnp.asarray(tokens)
    num_chunks = -(-len(tokens) // _CHUNK)
    padded = jnp.concatenate(
        [tokens, jnp.zeros_like(tokens, shape=(-len(tokens) % _CHUNK, tokens.shape[1]))]
    )
    chunks = padded.reshape(num_chunks, _CHUNK, tokens.shape[1])
    losses = _evaluate(as_pytree(predictor), chunks)
    return np.asarray(losses).reshape(padded.shape)[: len(tokens)]


@jax.jit
def _evaluate(predictor, chunks):
    return spread(lambda tokens: log_loss(predictor(tokens), tokens), chunks)


def log_loss(log_probs, tokens):
    """-log of the probability given to what came, [batch, time]."""
    if log_probs.shape[:-1] != tokens.shape:
        raise ValueError(
            f"`predictor` must give log-probabilities [batch, time, token] for tokens "
            f"{tokens.shape}, got shape {log_probs.shape}."
        )
    return -jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]


def as_pytree(predictor):
    """A callable whose numbers jit can trace: a task's bound method keeps its task's numbers."""
    owner = getattr(predictor, "__self__", None)
    if isinstance(owner, tuple):
        return jax.tree_util.Partial(predictor.__func__, owner)
    return predictor if isinstance(predictor, tuple) else jax.tree_util.Partial(predictor)


def predictor_num_tokens(predictor) -> int:
    """The alphabet of a predictor, of the task whose method it is, or of what it returns."""
    known = getattr(getattr(predictor, "__self__", predictor), "num_tokens", None)
    if isinstance(known, int):
        return known
    return jax.eval_shape(predictor, jax.ShapeDtypeStruct((1, 1), jnp.int32)).shape[-1]


def check_sequences(sequences) -> None:
    """Raise unless this has the fields of `Sequences`."""
    if not all(hasattr(sequences, name) for name in Sequences._fields):
        raise TypeError(
            f"`sequences` must be Sequences(tokens, log_source), as task.sample gives them, "
            f"got {type(sequences).__name__}."
        )


def instantaneous_regret(log_losses, sequences) -> Estimate:
    """Regret at each step: mean over sequences and its standard error.

    Args:
        log_losses: nats, [..., batch, time], as `evaluate` gives them.
        sequences: the `Sequences` that were evaluated.

    Returns:
        `Estimate` of [..., time] in nats.

    Reference:
        Section 4.1, "Performance measure".
    """
    return _estimate(_excess(log_losses, sequences))


def cumulative_regret(log_losses, sequences) -> Estimate:
    """Regret of the first n predictions, for every n; see `instantaneous_regret`.

    Reference:
        Eq. 10.

    Example:
        >>> import jax
        >>> from promptbayes import tasks
        >>> flips = tasks.coin(0.2).sample(jax.random.key(0), 8, 5)
        >>> float(cumulative_regret(evaluate(tasks.coin(0.2).predict, flips), flips).mean[-1])
        0.0
    """
    return _estimate(np.cumsum(_excess(log_losses, sequences), axis=-1))


def _excess(log_losses, sequences):
    check_sequences(sequences)
    tokens = np.asarray(sequences.tokens)
    log_losses = np.asarray(log_losses, np.float64)
    if log_losses.shape[-2:] != tokens.shape:
        raise ValueError(
            f"`log_losses` must be [..., batch, time] with batch and time of `sequences` "
            f"{tokens.shape}, got shape {log_losses.shape}."
        )
    source = np.take_along_axis(np.asarray(sequences.log_source), tokens[..., None], axis=-1)
    return log_losses + source[..., 0]


def _estimate(values):
    mean, num_sequences = values.mean(axis=-2), values.shape[-2]
    if num_sequences == 1:
        return Estimate(mean, np.full(mean.shape, np.inf))
    with np.errstate(invalid="ignore"):  # where a loss is infinite, so is the uncertainty
        standard_error = values.std(axis=-2, ddof=1) / np.sqrt(num_sequences)
    return Estimate(mean, np.where(np.isfinite(mean), standard_error, np.inf))
