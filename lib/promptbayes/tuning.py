"""The one loop: Adam on log loss over theta, for every method, and for pretraining too.

The whole of it: draw a batch from the task, differentiate the summed log loss with respect to
theta, clip, step. All repetitions run in one compiled program, whatever the number of steps, so a
run can be looked at on its way and continued; the search over hard prefixes, which needs no
gradient, is here as well.
"""

import math
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from tqdm import tqdm

from .hardware import micro_batch_size, spread, sum_over_micro_batches
from .methods import METHODS, PARTS, Method, Weights, check_method, check_theta
from .networks import Architecture
from .predictor import Predictor, check_architecture, check_key, initialise, is_key, no_prefix
from .regret import SequentialPredictor, as_pytree, evaluate, log_loss, predictor_num_tokens
from .tasks import Sequences, Task, check_int, check_number, check_task, draw

_STEPS_A_CALL = 50  # at most, between two looks at the progress bar and at Ctrl-C
_PROMPTS_A_CALL = 64  # of a search: likewise, and what bounds its memory
#: Multiply-adds of a hard search at most, unless told otherwise; two hours on two cores.
MAX_WORK = 5e14
_WORK_A_SECOND = 7e10  # the paper's Transformer in benchmarks/
# What a token costs beside products with weights (softmax, tanh, counting): 2,000 in a Laplace
# predictor, 8,000 in the smallest LSTM, 65,000 in the smallest Transformer.
_WORK_A_TOKEN = 20_000


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long, on what and how fast to tune; defaults are the paper's for tuning (Section 4.1).

    A field that is no number, or too small, is refused: TypeError, ValueError.

    Example:
        >>> Training(num_steps=10).batch_size
        256
    """

    num_steps: int = 1000  #: gradient steps
    batch_size: int = 256  #: sequences in each step
    length: int = 50  #: tokens in each sequence
    learning_rate: float = 5e-3  #: Adam's
    max_grad_norm: float = 1.0  #: to which the global norm is clipped; infinite for no clipping

    def __post_init__(self):
        for name in ("num_steps", "batch_size", "length"):
            object.__setattr__(self, name, check_int(name, getattr(self, name)))
        for name in ("learning_rate", "max_grad_norm"):
            value = check_number(name, getattr(self, name))
            object.__setattr__(self, name, value)
            if not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value!r}.")
        if math.isinf(self.learning_rate):
            raise ValueError("`learning_rate` must be finite, got inf.")


TUNING = Training()  #: the paper's, of every method
PRETRAINING = Training(length=100, learning_rate=1e-3)  #: the paper's
LIVE = Training(num_steps=400, batch_size=64)  #: what chapters tune while being read
LIVE_REPETITIONS = 2  #: of it, one a core; three cost two cores as much as four
#: What chapters pretrain while being read.
LIVE_PRETRAINING = Training(num_steps=600, batch_size=64, learning_rate=1e-3)


class State(NamedTuple):
    """What `resume` needs besides theta and the number of steps done."""

    task: Task  #: what the batches are drawn from
    training: Training  #: what the run began with
    moments: Any  #: the optimiser's, a pytree of arrays [seed, ...]
    keys: jax.Array  #: of the data; step n of repetition r draws from `fold_in(keys[r], n)`, [seed]
    micro_batch: int  #: sequences processed at once; another number would round differently


class Tuned(NamedTuple):
    """What tuning gives: the tuned numbers of every repetition, and the way there."""

    base: Predictor  #: what was tuned
    method: Method  #: how
    theta: Any  #: the tuned numbers, a pytree of arrays [seed, ...], as the method's `init` has it
    losses: np.ndarray  #: nats per sequence, each before its step, [seed, step]
    state: State  #: what `resume` continues from

    @property
    def num_seeds(self) -> int:
        """Number of repetitions."""
        return len(self.losses)

    def predictor(self, index: int) -> Predictor:
        """The tuned predictor of one repetition, 0 to num_seeds - 1; ValueError for another."""
        if index not in range(self.num_seeds):  # jax would take the nearest without a word
            raise ValueError(f"`index` must be in 0..{self.num_seeds - 1}, got {index!r}.")
        return self.method.apply(self.base, jax.tree.map(lambda x: x[index], self.theta))

    def evaluate(self, sequences: Sequences) -> np.ndarray:
        """Log losses of every repetition on the same sequences, [seed, batch, time] nats."""
        return np.stack([evaluate(self.predictor(i), sequences) for i in range(self.num_seeds)])


Hook = Callable[[int, Tuned], Any]  #: hook(step, tuned)


def tune(
    base: Predictor,
    method: Method,
    task: Task,
    training: Training,
    keys,
    *,
    start: Any = None,
    hook: Hook | None = None,
    hook_steps: Iterable[int] = (),
    micro_batch: int | None = None,
    progress: bool = True,
) -> Tuned:
    """Minimise log loss on a target task over what the method frees (Eq. 7; Section 4.1).

    Repetition r draws its data from its own key, step by step, and sees the same data under every
    method. Prefixes are never part of the loss, nor is what the sequences' mask leaves out.

    Args:
        base: the `Predictor` to tune; a prefix that it has stays, and a tuned one comes behind it.
        method: `Prefix`, `Weights`, `LoRA`, `Memory`, or any other `Method`.
        task: the target, any `Task` with the base's alphabet.
        training: a `Training`.
        keys: one jax random key for each repetition, [seed]; a single key means one repetition.
        start: theta [seed, ...] to start from; the method's own `init` if left out. The data stay
            the same.
        hook: called as `hook(step, tuned)` on the way, for snapshots or curves; what is tuned so
            far is a `Tuned` like the one returned.
        hook_steps: after how many steps of the run; 0 is before the first, `num_steps` the end.
        micro_batch: sequences to process at once, a divisor of the batch size; what is fast on this
            machine if left out (`hardware.micro_batch_size`). Numbers change by rounding alone.
        progress: show a progress bar where there is a terminal or a notebook to show it.

    Raises:
        TypeError, ValueError: a wrong argument, named, before the loop is compiled; so for a task
            whose first batch is not `Sequences` of its alphabet.

    Example:
        >>> from promptbayes import LSTM, Prefix, coin, initialise
        >>> base = initialise(LSTM(width=8), jax.random.key(0))
        >>> short, snapshots = Training(num_steps=3, batch_size=4, length=5), {}
        >>> tune(base, Prefix("soft", 2), coin(0.2), short, jax.random.key(1),
        ...      hook=snapshots.__setitem__, hook_steps=[0, 2]).theta.shape
        (1, 2, 128)
        >>> {step: tuned.losses.shape for step, tuned in snapshots.items()}
        {0: (1, 0), 2: (1, 2)}
    """
    if not isinstance(base, Predictor):
        raise TypeError(f"`base` must be a Predictor, got {base!r}.")
    check_method(method, base)
    keys = _check_run(task, base.num_tokens, training, keys)
    split = jax.vmap(jax.random.split)(keys)  # [seed, 2]: one for the start, one for the data
    init = partial(jax.vmap(lambda key: method.init(key, base)), split[:, 0])
    theta = init() if start is None else _started(start, jax.eval_shape(init))
    check_theta(method, base, theta)
    begun = _start(base, method, task, training, theta, split[:, 1], micro_batch)
    return _run(begun, training.num_steps, hook, hook_steps, progress)


def _started(start, like):
    """A start of one's own, once it has this form."""
    form, expected = (jax.tree.map(np.shape, theta) for theta in (start, like))
    if form != expected:
        raise ValueError(f"`start` must be theta [seed, ...] of shapes {expected}, got {form}.")
    return jax.tree.map(lambda leaf, known: jnp.asarray(leaf, known.dtype), start, like)


def pretrain(
    architecture: Architecture,
    task: Task,
    training: Training,
    key,
    *,
    hook: Hook | None = None,
    hook_steps: Iterable[int] = (),
    micro_batch: int | None = None,
    progress: bool = True,
) -> Tuned:
    """Train all weights from random initialisation: `tune` with everything free (Eq. 5).

    Of the result, `.predictor(0)` is the pretrained network. Hooks, micro-batch, bar and errors are
    as in `tune`. `architecture` is `LSTM(...)`, `Transformer(...)` or your own, `task` the
    pretraining distribution, `training` such as `PRETRAINING`, and `key` one jax random key, or
    several [seed] for several networks at once.

    Example:
        >>> from promptbayes import random_coins, LSTM
        >>> short = Training(num_steps=2, batch_size=4, length=5)
        >>> pretrain(LSTM(width=8), random_coins(), short, jax.random.key(0)).losses.shape
        (1, 2)
    """
    check_architecture(architecture)
    keys = _check_run(task, architecture.num_tokens, training, key)
    split = jax.vmap(jax.random.split)(keys)
    theta = jax.vmap(lambda key: initialise(architecture, key).params)(split[:, 0])
    blank = jax.tree.map(lambda x: jnp.zeros_like(x[0]), theta)  # every number comes from theta
    base = Predictor(architecture, blank, no_prefix(architecture))
    start = _start(base, Weights(PARTS), task, training, theta, split[:, 1], micro_batch)
    label = f"pretraining {type(architecture).__name__}"
    return _run(start, training.num_steps, hook, hook_steps, progress, label)


def resume(
    tuned: Tuned,
    num_steps: int,
    *,
    hook: Hook | None = None,
    hook_steps: Iterable[int] = (),
    progress: bool = True,
) -> Tuned:
    """Continue a run of `tune` or `pretrain` for `num_steps` more, as if it had not stopped.

    Weights, optimiser, data and micro-batch go on where they were: a run in pieces gives the
    numbers of one run, to the bit on the same machine. A snapshot from a hook will do for `tuned`;
    what comes back is of the whole run, earlier losses included. Hooks, bar and errors are as in
    `tune`, with `hook_steps` after `tuned`, counted from the start of the run.

    Example:
        >>> from promptbayes import random_coins, LSTM
        >>> short = Training(num_steps=2, batch_size=4, length=5)
        >>> done = pretrain(LSTM(width=8), random_coins(), short, jax.random.key(0))
        >>> resume(done, 3).losses.shape
        (1, 5)
    """
    if not isinstance(tuned, Tuned):
        raise TypeError(f"`tuned` must be a Tuned, got {type(tuned).__name__}.")
    num_steps = check_int("num_steps", num_steps)
    return _run(tuned, tuned.losses.shape[1] + num_steps, hook, hook_steps, progress)


def _start(base, method, task, training, theta, keys, micro_batch) -> Tuned:
    """Before the first step; what is drawn there is checked here, where it can be looked at."""
    draw(task, jax.random.fold_in(keys[0], 0), training.batch_size, training.length)
    size = _micro_batch(base, training.batch_size, training.length, micro_batch)
    state = State(task, training, jax.vmap(_optimizer(training).init)(theta), keys, size)
    return Tuned(base, method, theta, np.zeros((len(keys), 0), np.float32), state)


def _micro_batch(base: Predictor, batch_size: int, length: int, chosen: int | None = None) -> int:
    """The one chosen, if it can be, or the machine's."""
    if chosen is None:
        num_weights = sum(weights.size for weights in jax.tree.leaves(base.params))
        return micro_batch_size(base.network, batch_size, length, num_weights)
    if batch_size % check_int("micro_batch", chosen):
        raise ValueError(f"`micro_batch` must divide the batch size, {batch_size}, got {chosen}.")
    return int(chosen)


def _run(tuned: Tuned, end: int, hook, hook_steps, progress: bool, label="") -> Tuned:
    base, method, _, losses, (task, training, _, keys, micro_batch) = tuned
    first = losses.shape[1]
    hook_steps = _check_hook(hook, hook_steps, first, end)
    training = replace(training, num_steps=1)  # how many there are is no part of the program
    # On the host between calls: what comes back has another sharding, which would be a jit cache
    # miss: every run of more than one call would be compiled twice.
    state = jax.device_get((tuned.theta, tuned.state.moments))

    def so_far(state, losses):
        theta, moments = jax.tree.map(jnp.asarray, state)
        return Tuned(base, method, theta, losses, tuned.state._replace(moments=moments))

    if 0 in hook_steps and not first:
        hook(0, tuned)
    stops = sorted({*range(first + _STEPS_A_CALL, end, _STEPS_A_CALL), *hook_steps, end} - {first})
    label = label or next((name for name, known in METHODS.items() if known == method), str(method))
    with _bar(progress, total=end - first, desc=label, unit="step") as bar:
        for start, stop in zip([first, *stops], stops, strict=False):
            run = base, method, task, training, micro_batch, _STEPS_A_CALL, state, keys, start, stop
            state, chunk = jax.device_get(_advance(*run))
            losses = np.concatenate([losses, chunk[:, : stop - start]], axis=1)
            bar.update(stop - start)
            bar.set_postfix_str(f"{losses[:, -1].mean():.3f} nats")
            if stop in hook_steps:
                hook(stop, so_far(state, losses))
    return so_far(state, losses)


@partial(jax.jit, static_argnames=("method", "training", "micro_batch", "most"))
def _advance(base, method, task, training, micro_batch, most, state, keys, start, stop):
    """Steps start to stop - 1, at most so many, for every repetition: state, losses [seed, most].

    The number of steps is data: one program for all of them, or a run in other pieces would be
    compiled again, and differ by rounding.
    """

    def run(state, key):
        def step(index, carry):
            state, losses = carry
            state, loss = _step(base, method, task, training, micro_batch, key, state, index)
            return state, losses.at[index - start].set(loss)

        return lax.fori_loop(start, stop, step, (state, jnp.zeros(most)))

    return spread(run, state, keys)


def _step(base, method, task, training, micro_batch, key, state, index):
    theta, moments = state
    drawn = task.sample(jax.random.fold_in(key, index), training.batch_size, training.length)
    loss, gradient = loss_and_gradient(
        base, method, theta, drawn.tokens, drawn.mask, micro_batch=micro_batch
    )
    updates, moments = _optimizer(training).update(gradient, moments)
    return (optax.apply_updates(theta, updates), moments), loss


def loss_and_gradient(base, method, theta, tokens, mask=None, *, micro_batch=None):
    """Mean over sequences of their summed log loss, and its gradient with respect to theta."""
    batch_size, length = tokens.shape
    size = _micro_batch(base, batch_size, length, micro_batch)

    def mean_loss(theta):
        prepared = method.apply(base, theta).prepare(length)
        batch = tokens, mask
        return sum_over_micro_batches(_summed_loss, prepared, batch, size) / batch_size

    return jax.value_and_grad(mean_loss)(theta)


def _summed_loss(predictor, batch):
    tokens, mask = batch
    return _counted(log_loss(predictor(tokens), tokens), mask).sum()


def _counted(losses, mask):
    return losses if mask is None else jnp.where(mask == 1, losses, 0)


def _optimizer(training: Training) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(training.max_grad_norm), optax.adam(training.learning_rate)
    )


class HardSearch(NamedTuple):
    """Every hard prompt of one length and its loss."""

    tokens: np.ndarray  #: int [prompt, length], in lexicographic order
    loss: np.ndarray  #: [prompt], nats per sequence
    standard_error: np.ndarray  #: [prompt], nats

    @property
    def best(self) -> np.ndarray:
        """Tokens of the prompt with the smallest loss, [length]."""
        return self.tokens[np.argmin(self.loss)]


def search_hard_prefix(
    predictor: SequentialPredictor,
    task: Task,
    length: int,
    *,
    key,
    num_sequences: int = 2048,
    sequence_length: int = 50,
    max_work: float = MAX_WORK,
    progress: bool = True,
) -> HardSearch:
    """HardPT: try all |A|^length prompts on the same fresh sequences of the target (Section 3).

    No cleverer search can find a better prompt of this length; it can only find this one sooner.

    Args:
        predictor: a `Predictor` or a Bayes predictor such as `random_coins().predict`, for
            prompting either is prepending tokens.
        task: the target, any `Task` with the predictor's alphabet; what its mask leaves out is no
            part of the loss.
        length: of the prompts; 0 gives the loss without one.
        key: a jax random key for the sequences.
        num_sequences: how many to score every prompt on.
        sequence_length: tokens in each; the prompt's own are not part of the loss.
        max_work: how many multiply-adds to do at most: prompts times tokens read after each, times
            the numbers that the predictor consists of and 20,000 for what is not such a product.
        progress: as in `tune`.

    Raises:
        TypeError, ValueError: a wrong argument, named, or more than `max_work`; the message says
            how many hours that takes.

    Example:
        >>> from promptbayes import coin, random_coins
        >>> predict = random_coins().predict
        >>> search_hard_prefix(predict, coin(0.1), 2, key=jax.random.key(0)).best
        array([0, 0], dtype=int32)
    """
    length = check_int("length", length, 0)
    num_sequences = check_int("num_sequences", num_sequences, 2)
    sequence_length = check_int("sequence_length", sequence_length)
    check_key("key", key)
    check_task("task", task, predictor_num_tokens(predictor, sequence_length))
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
    tokens, _, mask = draw(task, key, num_sequences, sequence_length)
    losses = []
    with _bar(progress, total=num_prompts, desc="HardPT", unit="prompt") as bar:
        for start in range(0, num_prompts, _PROMPTS_A_CALL):
            # The last block is padded: another shape would be a jit cache miss.
            rows = np.arange(start, start + min(_PROMPTS_A_CALL, num_prompts)) % num_prompts
            of_block = _prompt_losses(searched, jnp.asarray(prompts[rows]), tokens, mask)
            losses.append(jax.device_get(of_block))
            bar.update(min(_PROMPTS_A_CALL, num_prompts - start))
    mean, error = (np.concatenate(blocks)[:num_prompts] for blocks in zip(*losses))
    return HardSearch(prompts, mean, error)


@jax.jit
def _prompt_losses(predictor, prompts, tokens, mask):
    size = math.gcd(len(tokens), 64)  # sequences at once: bounded memory
    chunks = jax.tree.map(lambda x: x.reshape(-1, size, x.shape[1]), (tokens, mask))

    def loss(prompt):
        def chunk_loss(chunk):
            content, mask = chunk
            repeated = jnp.broadcast_to(prompt, (size, len(prompt)))
            prompted = jnp.concatenate([repeated, content], axis=1)
            losses = log_loss(predictor(prompted), prompted)[:, len(prompt) :]
            return _counted(losses, mask).sum(axis=1)

        losses = lax.map(chunk_loss, chunks).reshape(-1)
        return losses.mean(), losses.std(ddof=1) / jnp.sqrt(len(losses))

    return spread(loss, prompts)


def _bar(progress: bool, **settings) -> tqdm:
    """A progress bar, unless nobody watches or it is unasked (TQDM_DISABLE: builds of the book)."""
    watched = "ipykernel" in sys.modules or sys.stderr.isatty()
    quiet = not progress or not watched or bool(os.environ.get("TQDM_DISABLE"))
    return tqdm(disable=quiet, leave=None, **settings)  # stays if done, but not below another bar


def _check_hook(hook, hook_steps, first: int, end: int) -> frozenset[int]:
    """Steps at which the hook is due; those up to `first` had it in an earlier run, but for 0."""
    steps = [hook_steps] if isinstance(hook_steps, int | np.integer) else list(hook_steps)
    if (hook is None) != (not steps) or not (hook is None or callable(hook)):
        raise ValueError(f"`hook` and `hook_steps` go together, got {hook!r} at {steps}.")
    steps = [check_int("hook_steps", step, 0) for step in steps]
    if steps and max(steps) > end:
        raise ValueError(f"`hook_steps` must be in 0..{end}, got {max(steps)}.")
    return frozenset(step for step in steps if step > first or step == first == 0)


def _check_run(task, num_tokens: int, training: Training, keys: Any) -> jax.Array:
    """Check what `tune` and `pretrain` share; returns the keys as [seed]."""
    if not isinstance(training, Training):
        raise TypeError(f"`training` must be a Training, got {training!r}.")
    check_task("task", task, num_tokens)
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
