"""The paper's twenty settings as data, and how to run one cell of them.

A setting says which network is tuned to which target with which methods; a *cell* is one method of
one setting on one network, with all its repetitions. Running a cell gives a labelled dataset.
"""

import datetime
import functools
import importlib.metadata
import platform
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from . import exact
from .methods import METHODS, HardPrefix, Prefix
from .networks import LSTM, Transformer
from .predictor import (
    PRETRAINED,
    Predictor,
    initialise,
    load_pretrained,
    pretrained_path,
    settings,
)
from .regret import cumulative_regret, evaluate, instantaneous_regret
from .states import Components, fit_components
from .tasks import Sequences, coin, coin_mixture, random_coins
from .tuning import TUNING, Training, search_hard_prefix, tune

TASKS = {
    "random-coins": random_coins(),
    "single-coin": coin(0.2),
    "two-coin-mixture": coin_mixture([0.2, 0.8]),
}
ARCHITECTURES = {
    "lstm": LSTM(),
    "transformer": Transformer(),
    "lstm-embedding-4": LSTM(embedding_width=4),
    "transformer-embedding-4": Transformer(embedding_width=4),
    "lstm-large": LSTM(embedding_width=256, width=256, num_layers=2),
    "transformer-large": Transformer(embedding_width=256, mlp_width=1024, num_layers=2),
}
NETWORKS = ("lstm", "transformer")
MARKS = (50, 100, 200)  # N_tune, N_train, N_eval
NUM_EVALUATION = 2048  # sequences
_STEPS_A_POINT = 10  # of a stored curve of losses
_GRADIENT_PREFIXES = ("SimplexPT", "RealPT", "SoftPT")
_UNTUNED = ("NoTuning", "RandomPF")
# The paper's; `Memory` is not, and a cell of it has to run from two starts.
_ALL = (*(name for name in METHODS if name != "Memory"), *_UNTUNED)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One of the paper's experiments, for either network."""

    target: str  # of TASKS
    pretrained: bool = True
    variant: str = ""  # of the architecture: "", "-embedding-4", "-large"
    prefix_length: int = 6
    repetitions: int = 10
    methods: tuple[str, ...] = _ALL
    figure: str = ""  # of the paper

    def methods_for(self, network: str) -> list[str]:
        """The methods that this network can be tuned with."""
        return [name for name in self.methods if network != "lstm" or name != "LoRAWT"]


_PREFIXES = (*_GRADIENT_PREFIXES, *_UNTUNED)
_SINGLE, _MIXTURE = "single-coin", "two-coin-mixture"
SETTINGS = {
    "single-coin": Setting(target=_SINGLE, figure="1, 2, A5"),
    "two-coin-mixture": Setting(target=_MIXTURE, figure="3, A6, A7"),
    "untrained-two-coin-mixture": Setting(target=_MIXTURE, pretrained=False, figure="4a, A8"),
    "untrained-random-coins": Setting(target="random-coins", pretrained=False, figure="4b, A9"),
    "embedding-4-single-coin": Setting(
        target=_SINGLE, variant="-embedding-4", repetitions=3, figure="A11"
    ),
    "embedding-4-two-coin-mixture": Setting(
        target=_MIXTURE, variant="-embedding-4", repetitions=3, figure="A11"
    ),
    "prefix-25-two-coin-mixture": Setting(
        target=_MIXTURE, prefix_length=25, methods=_PREFIXES, figure="A10"
    ),
    "prefix-25-untrained": Setting(
        target=_MIXTURE, pretrained=False, prefix_length=25, methods=_PREFIXES, figure="A10"
    ),
    "large-single-coin": Setting(target=_SINGLE, variant="-large", repetitions=3, figure="A12"),
    "large-two-coin-mixture": Setting(
        target=_MIXTURE, variant="-large", repetitions=3, figure="A12"
    ),
}


# Cumulative regret of SoftPT in nats that the authors report in their answers to the reviews; at
# N_tune, median over repetitions, is our reading.
PAPER = {
    ("single-coin", "lstm"): 0.01,
    ("single-coin", "transformer"): 0.01,
    ("two-coin-mixture", "lstm"): 0.98,
    ("two-coin-mixture", "transformer"): 1.20,
    ("embedding-4-single-coin", "lstm"): 0.34,
    ("embedding-4-single-coin", "transformer"): 0.65,
    ("embedding-4-two-coin-mixture", "lstm"): 1.36,
    ("embedding-4-two-coin-mixture", "transformer"): 1.92,
    ("large-single-coin", "lstm"): 0.01,
    ("large-single-coin", "transformer"): 0.03,
    ("large-two-coin-mixture", "lstm"): 0.91,
    ("large-two-coin-mixture", "transformer"): 1.04,
}


# Where a claim of the paper does not show in the stored results; asserted in tests/test_claims.py.
FINDINGS = {
    "embedding-4-two-coin-mixture": "claim 6: on the LSTM SoftPT's lead over HardPT stays, because "
    "hard prompts do harm there; its lead over NoTuning shrinks to less than half",
    "large-single-coin": "claim 7: SoftPT removes more than nine tenths of the fault on all our "
    "large networks and takes one of each kind to the optimum, but stops more than 0.03 nats above "
    "it on one of two LSTMs",
}


def setting_of(name: str) -> Setting:
    """The setting of this name, or an error that lists them."""
    if name not in SETTINGS:
        raise ValueError(f"`setting` must be one of {', '.join(SETTINGS)}, got {name!r}.")
    return SETTINGS[name]


@functools.cache
def base_predictor(setting: str, network: str, network_seed: int | None = None) -> Predictor:
    """What the methods start from. Untrained means one fixed initialisation for all repetitions."""
    chosen = setting_of(setting)
    if network not in NETWORKS:
        raise ValueError(f"`network` must be one of {', '.join(NETWORKS)}, got {network!r}.")
    name = network + chosen.variant
    if chosen.pretrained:
        return load_pretrained(name, network_seed)
    seed = _seed_of(chosen, network, network_seed)
    return initialise(ARCHITECTURES[name], jax.random.key(seed))


def _seed_of(chosen: Setting, network: str, network_seed: int | None) -> int:
    """Left out, it is that of the network that ships, or of the one initialisation."""
    if network_seed is not None:
        return network_seed
    return PRETRAINED[network + chosen.variant] if chosen.pretrained else 0


def repetition_key(repetition) -> jax.Array:
    """What a repetition's start and data are drawn from, whatever else is run.

    Example:
        >>> repetition_key(0) == repetition_key(1)
        Array(False, dtype=bool)
    """
    return jax.random.fold_in(jax.random.key(2025), repetition)


@functools.cache
def _num_weights(architecture) -> int:
    shapes = jax.eval_shape(lambda: initialise(architecture, jax.random.key(0)).params)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def work(setting: str, network: str, method: str, training: Training = TUNING) -> float:
    """Multiply-adds of one repetition, about: what the progress of `reproduce` is measured in.

    Example:
        >>> work("single-coin", "lstm", "FullWT") > work("single-coin", "lstm", "NoTuning")
        True
    """
    chosen = setting_of(setting)
    name = network + chosen.variant
    evaluated = _num_weights(ARCHITECTURES[name]) * len(TASKS) * NUM_EVALUATION * max(MARKS)
    if method in _UNTUNED:
        return float(evaluated)
    if isinstance(METHODS[method], HardPrefix):
        prompts = ARCHITECTURES[name].num_tokens ** chosen.prefix_length
        search = replace(training, num_steps=prompts, batch_size=2048)  # a step tries one prompt
        return tuning_work(name, 1, search) + evaluated
    return tuning_work(name, 3 if method == "FullWT" else 2, training) + evaluated


def tuning_work(name: str, passes: int, training: Training) -> float:
    """Multiply-adds of reading all sequences so often with a network of `ARCHITECTURES`.

    Three passes if all weights are tuned: the prediction, and the gradients with respect to
    activations and to weights.
    """
    sequences = training.num_steps * training.batch_size
    return float(passes) * _num_weights(ARCHITECTURES[name]) * sequences * training.length


@functools.cache
def evaluation_sequences(task: str) -> Sequences:
    """The one fixed set of sequences on which every method of every setting is evaluated."""
    key = jax.random.fold_in(jax.random.key(2048), list(TASKS).index(task))
    return TASKS[task].sample(key, NUM_EVALUATION, max(MARKS))


@functools.cache
def state_components(setting: str, network: str, network_seed: int | None) -> Components:
    """Principal components of the untuned network's states on pretraining sequences."""
    base = base_predictor(setting, network, network_seed)
    return fit_components(base.states(_background_sequences().tokens).content)


def run_cell(
    setting: str,
    network: str,
    method: str,
    repetitions,
    *,
    network_seed: int | None = None,
    training: Training = TUNING,
    progress: bool = True,
) -> xr.Dataset:
    """Some repetitions of one method: tune, evaluate on all three distributions, look inside.

    Args:
        setting: a key of `SETTINGS`.
        network: `"lstm"` or `"transformer"`.
        method: one of the setting's methods.
        repetitions: their numbers; repetition r draws from its own key, whatever else is run.
        network_seed: which pretrained network (or initialisation, where untrained).
        training: other than the paper's, for a quick look.
        progress: show a progress bar.

    Returns:
        A dataset with, in nats: `regret` and `regret_error` [repetition, evaluation, step],
        `cumulative_regret` and `cumulative_regret_error` [repetition, evaluation, mark], the
        untuned network's `untuned_regret` [evaluation, mark], by which `results.append` knows it
        again, `loss` [repetition, tuning_step], and what the method tuned.

    Reference:
        Section 4 and Appendices G to J.
    """
    chosen = setting_of(setting)
    if method not in chosen.methods_for(network):
        raise ValueError(
            f"`method` of {setting} on the {network} must be one of "
            f"{', '.join(chosen.methods_for(network))}, got {method!r}."
        )
    began = time.perf_counter()
    base = base_predictor(setting, network, network_seed)
    repetitions = list(repetitions)
    keys = jax.vmap(repetition_key)(jnp.array(repetitions))
    variables: dict[str, tuple] = {}
    if method in _UNTUNED or isinstance(METHODS[method], HardPrefix):
        predictors = [_untuned(base, chosen, method, key, training, variables) for key in keys]
    else:
        how = METHODS[method]
        if isinstance(how, Prefix):
            how = replace(how, length=chosen.prefix_length)
        tuned = tune(base, how, TASKS[chosen.target], training, keys, progress=progress)
        predictors = [tuned.predictor(i) for i in range(tuned.num_seeds)]
        variables |= _tuning_variables(tuned)
    variables |= _regret_variables(predictors)
    untuned = untuned_regret(setting, network, network_seed)
    variables["untuned_regret"] = ("evaluation", "mark"), untuned
    if method in ("NoTuning", "RandomPF", "HardPT", *_GRADIENT_PREFIXES):
        variables |= _state_variables(
            predictors, chosen, state_components(setting, network, network_seed), repetitions
        )
    if method == "NoTuning":
        variables |= _network_variables(base, setting, network, network_seed)
    return xr.Dataset(
        variables,
        coords={
            "repetition": np.array(repetitions, np.int32),
            "evaluation": list(TASKS),
            "step": np.arange(1, max(MARKS) + 1, dtype=np.int32),
            "mark": np.array(MARKS, np.int32),
        },
        attrs={
            "setting": setting,
            "network": network,
            "method": method,
            "network_seed": _seed_of(chosen, network, network_seed),
            "training": str(training),
            **provenance(time.perf_counter() - began),
        },
    )


def _untuned(base, chosen, method, key, training, variables):
    if method == "NoTuning":
        return base
    if method == "RandomPF":
        tokens = jax.random.randint(key, (chosen.prefix_length,), 0, base.num_tokens)
        return base.with_tokens(tokens)
    search = search_hard_prefix(
        base,
        TASKS[chosen.target],
        chosen.prefix_length,
        key=key,
        sequence_length=training.length,
        num_sequences=min(2048, 8 * training.batch_size),
    )
    found = ("repetition", "prompt"), search.loss[None].astype(np.float32)
    best = ("repetition", "prefix"), search.best[None].astype(np.int32)
    for name, (dims, values) in {"prompt_loss": found, "prompt": best}.items():
        before = variables.get(name, (dims, np.empty((0, *values.shape[1:]), values.dtype)))[1]
        variables[name] = dims, np.concatenate([before, values])
    return base.with_tokens(search.best)


def _tuning_variables(tuned):
    """Loss in means over a few steps, and theta where it is small."""
    steps = tuned.losses.shape[1]
    block = _STEPS_A_POINT if steps % _STEPS_A_POINT == 0 else 1
    loss = tuned.losses.reshape(tuned.num_seeds, steps // block, block).mean(-1)
    variables: dict = {"loss": (("repetition", "tuning_step"), loss.astype(np.float32))}
    flat = [leaf.reshape(tuned.num_seeds, -1) for leaf in jax.tree.leaves(tuned.theta)]
    if isinstance(tuned.method, Prefix) or sum(leaf.shape[1] for leaf in flat) <= 1024:
        variables["theta"] = ("repetition", "parameter"), np.concatenate(flat, axis=1)
    return variables


def _regret_variables(predictors):
    curves = {
        name: []
        for name in ("regret", "regret_error", "cumulative_regret", "cumulative_regret_error")
    }
    marks = np.array(MARKS) - 1
    for task in TASKS:
        sequences = evaluation_sequences(task)
        losses = np.stack([evaluate(predictor, sequences) for predictor in predictors])
        step, total = (f(losses, sequences) for f in (instantaneous_regret, cumulative_regret))
        values = (
            step.mean,
            step.standard_error,
            total.mean[:, marks],
            total.standard_error[:, marks],
        )
        for name, value in zip(curves, values, strict=True):
            curves[name].append(value)
    return {
        name: (
            ("repetition", "evaluation", "mark" if name.startswith("cumulative") else "step"),
            np.stack(values, axis=1).astype(np.float32),
        )
        for name, values in curves.items()
    }


@functools.cache
def untuned_regret(setting: str, network: str, network_seed: int | None) -> np.ndarray:
    """Cumulative regret of the network as tuning finds it, nats [evaluation, mark]."""
    base = base_predictor(setting, network, network_seed)
    return _regret_variables([base])["cumulative_regret"][1][0]


@functools.cache
def _background_sequences() -> Sequences:
    return random_coins().sample(jax.random.key(100), 100, 50)


def _state_variables(predictors, chosen, components, repetitions):
    """Trajectories of target sequences (20 over the paper's repetitions) on the components."""
    each = 20 // chosen.repetitions
    target = TASKS[chosen.target].sample(jax.random.key(20), 20, 50).tokens
    prefixes, contents = [], []
    for predictor, r in zip(predictors, repetitions, strict=True):
        rows = np.arange(r * each, (r + 1) * each) % 20
        states = predictor.states(target[rows])
        prefixes.append(components.project(states.prefix))
        contents.append(components.project(states.content))
    dims = "repetition", "sequence", "time", "component"
    variables: dict = {"trajectory": (dims, np.stack(contents).astype(np.float32))}
    if len(predictors[0].prefix):
        prefix = np.stack(prefixes).astype(np.float32)
        variables["prefix_trajectory"] = (("repetition", "prefix", "component"), prefix)
    return variables


def _network_variables(base, setting, network, network_seed):
    """The network that tuning starts from: states on pretraining sequences, and how it was trained.

    Kept, because elsewhere the same seed may give another network.
    """
    sequences = _background_sequences()
    components = state_components(setting, network, network_seed)
    points = components.project(base.states(sequences.tokens).content)
    tau = np.exp(np.asarray(sequences.log_source)[:, 0, 1])
    variables = {
        "background": (
            ("background_sequence", "time", "component"),
            np.asarray(points, np.float32),
        ),
        "background_tau": ("background_sequence", tau.astype(np.float32)),
    }
    chosen = setting_of(setting)
    if chosen.pretrained:
        losses = settings(pretrained_path(network + chosen.variant, network_seed))["losses"]
        means = np.reshape(losses, (-1, _STEPS_A_POINT)).mean(axis=1)
        variables["pretraining_loss"] = "pretraining_step", means.astype(np.float32)
    return variables


@functools.cache
def baselines(setting: str, evaluation: str) -> dict[str, NDArray[np.float64]]:
    """Cumulative regret of the exact predictors of a setting, after predictions 1 to 200.

    Args:
        setting: a key of `SETTINGS`.
        evaluation: the distribution that the sequences come from, a key of `TASKS`.

    Returns:
        name -> nats [step]: TargetBayes, or elsewhere than on the target that distribution's own
        EvalBayes; PreBayes unless the network is untrained; and on the target PreBayesPT, with
        the hard prefix that is best for N_tune predictions.

    Raises:
        ValueError: an unknown setting or distribution.

    Example:
        >>> exactly = baselines("single-coin", "single-coin")
        >>> {name: round(float(curve[49]), 4) for name, curve in exactly.items()}
        {'TargetBayes': 0.0, 'PreBayes': 1.4772, 'PreBayesPT': 0.5711}
    """
    chosen = setting_of(setting)
    if evaluation not in TASKS:
        known = ", ".join(TASKS)
        raise ValueError(f"`evaluation` must be one of {known}, got {evaluation!r}.")
    source, pre = TASKS[evaluation], TASKS["random-coins"]
    on_target = evaluation == chosen.target
    predictors: dict[str, exact.Task] = {"TargetBayes" if on_target else "EvalBayes": source}
    if chosen.pretrained:
        predictors["PreBayes"] = pre
    if chosen.pretrained and on_target:
        length = min(MARKS)
        counts, _ = exact.hard_prompts(pre, source, chosen.prefix_length, length).best
        predictors["PreBayesPT"] = pre.posterior(np.repeat(np.arange(len(counts)), counts))
    length = max(MARKS)
    return {name: exact.regret_curve(task, source, length) for name, task in predictors.items()}


def provenance(seconds: float) -> dict:
    """Where, when and with what something was computed."""
    names = ("promptbayes", "jax", "flax", "optax", "numpy")
    return {
        "versions": " ".join(f"{name}-{importlib.metadata.version(name)}" for name in names),
        "commit": _commit(),
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}, {platform.machine()}",
        "seconds": round(seconds, 1),
        "date": datetime.date.today().isoformat(),
    }


@functools.cache
def _commit() -> str:
    """The commit of the checkout that this file lies in; empty for an installed package."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()
