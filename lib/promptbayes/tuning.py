"""The one loop: Adam on log loss over theta, for every method, and for pretraining too.

The whole of it: draw a batch from the task, differentiate the summed log loss with respect to
theta, clip, step. All repetitions run in one compiled program; the search over hard prefixes, which
needs no gradient, is here as well.
"""

import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from tqdm import tqdm

from .hardware import micro_batch_size, spread, sum_over_micro_batches
from .methods import METHODS, PARTS, HardPrefix, Weights
from .networks import Architecture
from .predictor import Predictor, check_key, initialise, is_key, no_prefix
from .regret import as_pytree, evaluate, log_loss, predictor_num_tokens

_STEPS_A_CALL = 50  # between two looks at the progress bar and at Ctrl-C
_PROMPTS_A_CALL = 64  # of a search: likewise, and what bounds its memory
# Multiply-adds of a hard search; two hours on two cores, at the rate of the paper's Transformer in
# benchmarks/. What a token costs beside products with weights (softmax, tanh, counting) weighs as
# 2,000 in a Laplace predictor, 8,000 in the smallest LSTM, 65,000 in the smallest Transformer.
MAX_WORK = 5e14
_WORK_A_SECOND = 7e10
_WORK_A_TOKEN = 20_000


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long, on what and how fast to tune; defaults are the paper's for tuning.

    Example:
        >>> Training(num_steps=10).batch_size
        256
    """

    num_steps: int = 1000
    batch_size: int = 256
    length: int = 50  # of the sequences
    learning_rate: float = 5e-3
    max_grad_norm: float = 1.0

    def __post_init__(self):
        for name in ("num_steps", "batch_size", "length"):
            value = getattr(self, name)
            if type(value) is not int:
                raise TypeError(f"`{name}` must be an int, got {value!r}.")
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        for name in ("learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if type(value) not in (int, float):
                raise TypeError(f"`{name}` must be a number, got {value!r}.")
            if not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value!r}.")
        if math.isinf(self.learning_rate):  # an infinite norm means: do not clip
            raise ValueError("`learning_rate` must be finite, got inf.")


TUNING = Training()
PRETRAINING = Training(length=100, learning_rate=1e-3)
LIVE = Training(num_steps=400, batch_size=64)  # what chapters tune while being read
LIVE_REPETITIONS = 2  # of it, one a core; three cost two cores as much as four
LIVE_PRETRAINING = Training(num_steps=600, batch_size=64, learning_rate=1e-3)


class Tuned(NamedTuple):
    """What tuning gives: the tuned numbers of every repetition, and the way there."""

    base: Predictor
    method: Any
    theta: Any  # [seed, ...]: as the method's `init` has it
    losses: np.ndarray  # [seed, step], nats per sequence, each before its step

    @property
    def num_seeds(self) -> int:
        """Number of repetitions."""
        return len(self.losses)

    def predictor(self, seed: int) -> Predictor:
        """The tuned predictor of one repetition."""
        if seed not in range(self.num_seeds):  # jax would take the nearest without a word
            raise ValueError(f"`seed` must be in 0..{self.num_seeds - 1}, got {seed!r}.")
        return self.method.apply(self.base, jax.tree.map(lambda x: x[seed], self.theta))

    def evaluate(self, sequences) -> np.ndarray:
        """Log losses of every repetition on the same sequences, [seed, batch, time] nats."""
        return np.stack([evaluate(self.predictor(i), sequences) for i in range(self.num_seeds)])


def tune(
    base, method, task, training: Training, keys, *, start=None, progress: bool = True
) -> Tuned:
    """Minimise log loss on a target task over what the method frees.

    Repetition r draws its data from its own key, step by step, and sees the same data under every
    method. Prefixes are never part of the loss.

    Args:
        base: the `Predictor` to tune.
        method: `Prefix`, `Weights`, `LoRA`, `Memory`, or anything with their `check`, `init` and
            `apply`.
        task: the target: anything with `sample(key, num_sequences, length) -> Sequences`.
        training: a `Training`.
        keys: one jax random key for each repetition, [seed]; a single key means one repetition.
        start: theta [seed, ...] to start from; the method's own `init` if left out. The data stay
            the same.
        progress: show a progress bar where there is a terminal or a notebook to show it.

    Returns:
        A `Tuned` with theta [seed, ...] and losses [seed, step].

    Raises:
        TypeError, ValueError: a wrong argument, named, before anything is compiled.

    Reference:
        Eq. 7; Section 4.1, "Training and tuning details".

    Example:
        >>> import jax
        >>> from promptbayes import LSTM, Prefix, coin, initialise
        >>> base = initialise(LSTM(width=8), jax.random.key(0))
        >>> short = Training(num_steps=3, batch_size=4, length=5)
        >>> tune(base, Prefix("soft", 2), coin(0.2), short, jax.random.key(1)).theta.shape
        (1, 2, 128)
    """
    if not isinstance(base, Predictor):
        raise TypeError(f"`base` must be a Predictor, got {base!r}.")
    if isinstance(method, HardPrefix):
        raise TypeError("`method`: hard prompts have no gradient; use search_hard_prefix.")
    parts = ("check", "init", "apply")
    if isinstance(method, type) or not all(hasattr(method, part) for part in parts):
        raise TypeError(f"`method` must be a Prefix, Weights or LoRA, got {method!r}.")
    method.check(base)
    keys = _check_run(task, base.num_tokens, training, keys)
    split = jax.vmap(jax.random.split)(keys)  # [seed, 2]: one for the start, one for the data
    init = jax.vmap(lambda key: method.init(key, base))
    theta = init(split[:, 0]) if start is None else _started(start, init, split[:, 0])
    name = next((name for name, known in METHODS.items() if known == method), str(method))
    return _run(base, method, task, training, theta, split[:, 1], name if progress else None)


def _started(start, init, keys):
    """A start of one's own, once it has the form of what `init` gives."""
    like = jax.eval_shape(init, keys)
    form, expected = (jax.tree.map(np.shape, theta) for theta in (start, like))
    if form != expected:
        raise ValueError(f"`start` must be theta [seed, ...] of shapes {expected}, got {form}.")
    return jax.tree.map(lambda leaf, known: jnp.asarray(leaf, known.dtype), start, like)


def pretrain(architecture, task, training: Training, key, *, progress: bool = True) -> Tuned:
    """Train all weights from random initialisation: `tune` with everything free.

    Args:
        architecture: `LSTM(...)`, `Transformer(...)` or your own.
        task: the pretraining distribution.
        training: a `Training`, such as `PRETRAINING`.
        key: a jax random key, or several [seed] for several networks at once.
        progress: as in `tune`.

    Returns:
        A `Tuned`; `.predictor(0)` is the pretrained network.

    Reference:
        Section 2, "Meta-Learning"; Eq. 5.

    Example:
        >>> import jax
        >>> from promptbayes import random_coins, LSTM
        >>> short = Training(num_steps=2, batch_size=4, length=5)
        >>> pretrain(LSTM(width=8), random_coins(), short, jax.random.key(0)).losses.shape
        (1, 2)
    """
    if not isinstance(architecture, Architecture):
        raise TypeError(f"`architecture` must be an Architecture, got {architecture!r}.")
    keys = _check_run(task, architecture.num_tokens, training, key)
    split = jax.vmap(jax.random.split)(keys)
    theta = jax.vmap(lambda key: initialise(architecture, key).params)(split[:, 0])
    method = Weights(PARTS)
    blank = jax.tree.map(lambda x: jnp.zeros_like(x[0]), theta)  # every number comes from theta
    base = Predictor(architecture, blank, no_prefix(architecture))
    label = f"pretraining {type(architecture).__name__}"
    return _run(base, method, task, training, theta, split[:, 1], label if progress else None)


def _run(base, method, task, training, theta, keys, label) -> Tuned:
    # On the host between calls: what comes back spread over cores would count as another kind of
    # input, and every run of more than one call would be compiled twice.
    state = jax.device_get((theta, jax.vmap(_optimizer(training).init)(theta)))
    steps = max(d for d in range(1, _STEPS_A_CALL + 1) if training.num_steps % d == 0)
    losses = []
    with tqdm(
        total=training.num_steps,
        desc=label,
        unit="step",
        disable=_quiet(label),
        leave=None,  # it stays when it is done, but not below another bar
    ) as bar:
        for start in range(0, training.num_steps, steps):
            advanced = _advance(base, method, task, training, steps, state, keys, start)
            state, chunk = jax.device_get(advanced)
            losses.append(chunk)
            bar.update(steps)
            bar.set_postfix_str(f"{losses[-1][:, -1].mean():.3f} nats")
    theta = jax.tree.map(jnp.asarray, state[0])
    return Tuned(base, method, theta, np.concatenate(losses, axis=1))


@partial(jax.jit, static_argnames=("method", "training", "steps"))
def _advance(base, method, task, training, steps, state, keys, start):
    """A few steps of the loop for every repetition; returns the state and losses [seed, step]."""

    def run(state, key):
        return lax.scan(
            partial(_step, base, method, task, training, key), state, start + jnp.arange(steps)
        )

    return spread(run, state, keys)


def _step(base, method, task, training, key, state, index):
    theta, moments = state
    tokens = task.sample(
        jax.random.fold_in(key, index), training.batch_size, training.length
    ).tokens
    loss, gradient = loss_and_gradient(base, method, theta, tokens)
    updates, moments = _optimizer(training).update(gradient, moments)
    return (optax.apply_updates(theta, updates), moments), loss


def loss_and_gradient(base, method, theta, tokens):
    """Mean over sequences of their summed log loss, and its gradient with respect to theta."""
    batch_size, length = tokens.shape
    num_weights = sum(weights.size for weights in jax.tree.leaves(base.params))
    size = micro_batch_size(batch_size, length, base.network.floats_per_token, num_weights)

    def mean_loss(theta):
        prepared = method.apply(base, theta).prepare(length)
        return sum_over_micro_batches(_summed_loss, prepared, tokens, size) / batch_size

    return jax.value_and_grad(mean_loss)(theta)


def _summed_loss(predictor, tokens):
    return log_loss(predictor(tokens), tokens).sum()


def _optimizer(training: Training) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(training.max_grad_norm), optax.adam(training.learning_rate)
    )


class HardSearch(NamedTuple):
    """Every hard prompt of one length and its loss."""

    tokens: np.ndarray  # int [prompt, length], in lexicographic order
    loss: np.ndarray  # [prompt], nats per sequence
    standard_error: np.ndarray  # [prompt], nats

    @property
    def best(self) -> np.ndarray:
        """Tokens of the prompt with the smallest loss, [length]."""
        return self.tokens[np.argmin(self.loss)]


def search_hard_prefix(
    predictor: Callable[[Any], jax.Array],
    task,
    length: int,
    *,
    key,
    num_sequences: int = 2048,
    sequence_length: int = 50,
    max_work: float = MAX_WORK,
    progress: bool = True,
) -> HardSearch:
    """HardPT: try all |A|^length prompts on the same fresh sequences of the target.

    No cleverer search can find a better prompt of this length; it can only find this one sooner.

    Args:
        predictor: tokens -> log-probabilities: a `Predictor` or a Bayes predictor such as
            `random_coins().predict`, for prompting either is prepending tokens.
        task: the target, which knows its `num_tokens`.
        length: of the prompts; 0 gives the loss without one.
        key: a jax random key for the sequences.
        num_sequences: how many to score every prompt on.
        sequence_length: tokens in each; the prompt's own are not part of the loss.
        max_work: how many multiply-adds to do at most: prompts times tokens read after each, times
            the numbers that the predictor consists of and 20,000 for what is not such a product.
        progress: as in `tune`.

    Returns:
        A `HardSearch`.

    Raises:
        TypeError: a wrong argument, named.
        ValueError: likewise, or more than `max_work`; the message says how many hours it takes.

    Reference:
        Section 3, "Hard token search".

    Example:
        >>> import jax
        >>> from promptbayes import coin, random_coins
        >>> predict = random_coins().predict
        >>> search_hard_prefix(predict, coin(0.1), 2, key=jax.random.key(0)).best
        array([0, 0], dtype=int32)
    """
    if not callable(predictor):
        raise TypeError(f"`predictor` must map tokens to log-probabilities, got {predictor!r}.")
    for name, value, least in (
        ("length", length, 0),
        ("num_sequences", num_sequences, 2),
        ("sequence_length", sequence_length, 1),
    ):
        if type(value) is not int:
            raise TypeError(f"`{name}` must be an int, got {value!r}.")
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}.")
    check_key("key", key)
    _check_task(task, predictor_num_tokens(predictor))
    num_prompts = task.num_tokens ** min(length, 63)  # already too many; more has too many digits
    searched = as_pytree(predictor)
    of_token = _WORK_A_TOKEN + sum(np.size(leaf) for leaf in jax.tree.leaves(searched))
    work = num_prompts * num_sequences * (length + sequence_length) * of_token
    if type(max_work) not in (int, float):
        raise TypeError(f"`max_work` must be a number, got {max_work!r}.")
    if not work <= max_work:
        raise ValueError(
            f"`length` {length} means {'more than ' if length > 63 else ''}{num_prompts} prompts "
            f"over {task.num_tokens} tokens. To read {num_sequences} sequences after each takes "
            f"{work:.1e} multiply-adds, more than {max_work:.1e}, and about "
            f"{work / _WORK_A_SECOND / 3600:.2g} hours on two cores. `max_work={1.1 * work:.1e}` "
            "goes on; fewer `num_sequences` are less work."
        )
    digits = np.indices((task.num_tokens,) * length, np.int32)
    prompts = digits.reshape(length, num_prompts).T  # lexicographic
    tokens = task.sample(key, num_sequences, sequence_length).tokens
    losses = []
    label = "HardPT" if progress else None
    with tqdm(
        total=num_prompts, desc=label, unit="prompt", disable=_quiet(label), leave=None
    ) as bar:
        for start in range(0, num_prompts, _PROMPTS_A_CALL):
            # The last block is filled up: one shape, compiled once.
            rows = np.arange(start, start + min(_PROMPTS_A_CALL, num_prompts)) % num_prompts
            of_block = _prompt_losses(searched, jnp.asarray(prompts[rows]), tokens)
            losses.append(jax.device_get(of_block))
            bar.update(min(_PROMPTS_A_CALL, num_prompts - start))
    mean, error = (np.concatenate(blocks)[:num_prompts] for blocks in zip(*losses))
    return HardSearch(prompts, mean, error)


@jax.jit
def _prompt_losses(predictor, prompts, tokens):
    size = math.gcd(len(tokens), 64)  # sequences at once: bounded memory
    chunks = tokens.reshape(-1, size, tokens.shape[1])

    def loss(prompt):
        def chunk_loss(chunk):
            prompted = jnp.concatenate(
                [jnp.broadcast_to(prompt, (size, len(prompt))), chunk], axis=1
            )
            return log_loss(predictor(prompted), prompted)[:, len(prompt) :].sum(axis=1)

        losses = lax.map(chunk_loss, chunks).reshape(-1)
        return losses.mean(), losses.std(ddof=1) / jnp.sqrt(len(losses))

    return spread(loss, prompts)


def _quiet(label) -> bool:
    """No bar without a label, nor where nobody watches (builds of the book set TQDM_DISABLE)."""
    watched = "ipykernel" in sys.modules or sys.stderr.isatty()
    return label is None or not watched or bool(os.environ.get("TQDM_DISABLE"))


def _check_task(task, num_tokens: int) -> None:
    known = getattr(task, "num_tokens", None)
    if not callable(getattr(task, "sample", None)) or not isinstance(known, int):
        raise TypeError(
            f"`task` must have num_tokens and sample(key, num_sequences, length), got {task!r}."
        )
    if num_tokens != known:
        raise ValueError(
            f"`task` must have the predictor's alphabet of {num_tokens} tokens, got {known}."
        )


def _check_run(task, num_tokens: int, training: Training, keys: Any) -> jax.Array:
    """Check what `tune` and `pretrain` share; returns the keys as [seed]."""
    if not isinstance(training, Training):
        raise TypeError(f"`training` must be a Training, got {training!r}.")
    _check_task(task, num_tokens)
    if isinstance(keys, list | tuple) and keys:
        for key in keys:
            check_key("keys", key)
        keys = jnp.stack(keys)
    if not is_key(keys):
        raise TypeError(
            f"`keys` must be jax random keys such as jax.random.key(0) or "
            f"jax.random.split(key, 10), got {keys!r}."
        )
    array: Any = keys
    if array.ndim > 1 or array.size == 0:
        raise ValueError(f"`keys` must be one key or [seed] keys, got shape {array.shape}.")
    return jnp.atleast_1d(array)
