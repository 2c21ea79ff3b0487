"""Experiments as values, the paper's twenty among them, and how to run one cell of them.

A setting says which networks are tuned to which target with which methods; a *cell* is one method
of one setting on one network, with all its repetitions. Running a cell gives a labelled dataset.
Wherever a `setting` is asked for, a name of the paper's `SETTINGS` or a `Setting` will do.
"""

import contextlib
import dataclasses
import functools
import json
import re
import runpy
import sys
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from . import exact
from . import predictor as weights
from .methods import METHODS, HardPrefix, Memory, Prefix
from .networks import LSTM, Architecture, Transformer
from .predictor import (
    PRETRAINED,
    Predictor,
    initialise,
    load_pretrained,
    named_leaves,
    without_numbers,
)
from .provenance import provenance
from .regret import cumulative_regret, evaluate, instantaneous_regret
from .states import Components, fit_components
from .tasks import Sequences, coin, coin_mixture, random_coins
from .tuning import TUNING, HardSearch, Training, Tuned, search_hard_prefix, tune

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
NUM_EVALUATION, _LENGTH = 2048, max(MARKS)  # sequences, predictions in each
_REPETITIONS, _EVALUATION = 2025, 2048  # the seeds that theirs are folded into
_EVALUATION_SEEDS = {"random-coins": 0, "single-coin": 1, "two-coin-mixture": 2}
_STEPS_A_POINT = 10  # of a stored curve of losses
_TRAJECTORIES = 20  # sequences, over all repetitions
_LAST_STEPS = 100  # whose mean loss says which of two runs is better


@dataclass(frozen=True)
class NoTuning:
    """The network as tuning finds it; by its cell a file knows its network again."""

    def start(self, base: Predictor, key: jax.Array) -> Predictor:
        """The base itself."""
        del key
        return base


@dataclass(frozen=True)
class RandomPrefix:
    """RandomPF: a hard prompt of `length` random tokens, not tuned."""

    length: int

    def start(self, base: Predictor, key: jax.Array) -> Predictor:
        """The base behind its prompt."""
        return base.with_tokens(jax.random.randint(key, (self.length,), 0, base.num_tokens))


PAPER_METHODS = (*(name for name in METHODS if name != "Memory"), "NoTuning", "RandomPF")


def methods_named(*names: str, length: int = 6) -> dict[str, Any]:
    """Methods of `METHODS`, NoTuning and RandomPF by their names, all prefixes of one length.

    Example:
        >>> methods_named("SoftPT", "RandomPF", length=2)
        {'SoftPT': Prefix(kind='soft', length=2), 'RandomPF': RandomPrefix(length=2)}
    """
    known = METHODS | {"NoTuning": NoTuning(), "RandomPF": RandomPrefix(length)}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"`names` must be of {', '.join(known)}, got {', '.join(unknown)}.")
    return {
        name: replace(how, length=length) if isinstance(how, HardPrefix | Prefix | Memory) else how
        for name, how in ((name, known[name]) for name in names)
    }


def check_name(argument: str, name) -> None:
    """Raise unless this can be part of a file's name."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w+.-]+", name):
        raise ValueError(f"`{argument}` must have names of letters, digits, + - . _, got {name!r}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """One experiment: networks, tuned to a target with some methods, evaluated on some tasks.

    What is left out is the paper's; `Setting(target="single-coin")` is its first experiment.

    Args:
        target: what is tuned to, one of `tasks`.
        pretraining: what the networks were pretrained on, one of `tasks`; None: they are untrained.
        tasks: name -> task, over one alphabet. All are evaluated on, so their samples must tell the
            source (`log_source`), with which regret compares.
        networks: name -> one of `ARCHITECTURES` by its name, with the weights that come with the
            package; a `Predictor`, such as one that was pretrained, saved and loaded; or an
            `Architecture`, untrained.
        methods: name -> a method as `tune` takes it, a `HardPrefix`, `RandomPrefix(...)` or
            `NoTuning()`, which is added; see `methods_named`. A `Memory` runs from two starts if
            SoftPT of the same length is there; the better run is its cell.
        training: of the methods.
        repetitions: of a method; NoTuning has one, for nothing about it is random, a `Memory` at
            most three.
        prefix_length: of the hard prompt in the exact predictor PreBayesPT.
        num_evaluation: sequences of each task that all are evaluated on.
        name: of the folder of its results; in a table of settings its key.

    Raises:
        TypeError, ValueError: a field, named, that cannot be.

    Example:
        >>> tasks = {"random-coins": random_coins(), "worn-coin": coin(0.4)}
        >>> worn = Setting(target="worn-coin", tasks=tasks, name="worn", num_evaluation=8)
        >>> run_cell(worn, "lstm", "NoTuning", [0]).evaluation.values.tolist()
        ['random-coins', 'worn-coin']
    """

    target: str
    pretraining: str | None = "random-coins"
    tasks: Mapping[str, Any] = field(default_factory=lambda: TASKS)
    networks: Mapping[str, str | Architecture | Predictor] = field(
        default_factory=lambda: {name: name for name in NETWORKS}
    )
    methods: Mapping[str, Any] = field(default_factory=lambda: methods_named(*PAPER_METHODS))
    training: Training = TUNING
    repetitions: int = 10
    prefix_length: int = 6
    num_evaluation: int = NUM_EVALUATION
    name: str = ""

    def __post_init__(self):
        for argument in ("tasks", "networks", "methods"):
            for name in getattr(self, argument):
                check_name(argument, name)
        for argument in ("target", "pretraining"):
            value = getattr(self, argument)
            if value not in self.tasks and (value, argument) != (None, "pretraining"):
                known = ", ".join(self.tasks)
                raise ValueError(f"`{argument}` must be one of `tasks`, {known}, got {value!r}.")
        described = {name: describe(task) for name, task in self.tasks.items()}
        for name, value in self.networks.items():
            if isinstance(value, str) and value not in ARCHITECTURES:
                known = ", ".join(ARCHITECTURES)
                raise ValueError(f"`networks`: {name} must be one of {known}, got {value!r}.")
            trained_on = described.get(self.pretraining or "")
            if isinstance(value, str) and trained_on not in (None, describe(random_coins())):
                raise ValueError(f"`networks`: {value} comes pretrained on random coins alone.")
            if not isinstance(value, str | Predictor) and self.pretraining is not None:
                raise ValueError(
                    f"`networks`: {name} must be a Predictor, which is pretrained, saved and "
                    f"loaded first, or a name of ARCHITECTURES, got {value!r}. An Architecture is "
                    "initialised, not pretrained: say `pretraining=None`."
                )
            num_tokens = self.architecture(name).num_tokens
            for task_name, task in self.tasks.items():
                if task.num_tokens != num_tokens:
                    raise ValueError(
                        f"`tasks`: {task_name} must have the alphabet of {name}, {num_tokens} "
                        f"tokens, got {task.num_tokens}."
                    )
        object.__setattr__(self, "methods", {**self.methods, "NoTuning": NoTuning()})

    def architecture(self, network: str) -> Architecture:
        """What a network is made of."""
        value = self.networks[network]
        if isinstance(value, str):
            return ARCHITECTURES[value]
        return value.network if isinstance(value, Predictor) else value

    def shipped(self, network: str) -> str | None:
        """The name of the pretrained network of the package that this is, or None."""
        value = self.networks[network]
        return value if isinstance(value, str) and self.pretraining else None

    def methods_for(self, network: str) -> list[str]:
        """The methods that this network can be tuned with.

        Raises:
            ValueError: an unknown network, or a method that none of the networks can be tuned with.
        """
        if network not in self.networks:
            known = ", ".join(self.networks)
            raise ValueError(f"`network` must be one of {known}, got {network!r}.")
        return [name for name in self.methods if not self.refusal(network, name)]

    def refusal(self, network: str, method: str) -> str:
        """Why a network cannot be tuned with a method; empty if it can."""
        how = self.methods[method]
        reasons = {name: refusal(how, self.architecture(name)) for name in self.networks}
        if all(reasons.values()):
            raise ValueError(f"`methods`: {method} can tune no network. {reasons[network]}")
        return reasons[network]

    def repetitions_of(self, method: str) -> int:
        """How often a method is run."""
        how = self.methods[method]
        most = 1 if isinstance(how, NoTuning) else 3 if isinstance(how, Memory) else np.inf
        return int(min(most, self.repetitions))

    def starts_from_prefixes(self, method: str) -> bool:
        """Whether a method runs from SoftPT's tuned prefixes too: a memory of their length."""
        how = self.methods[method]
        return isinstance(how, Memory) and self.methods.get("SoftPT") == Prefix("soft", how.length)


@functools.cache
def refusal(how, architecture: Architecture) -> str:
    """Why a method cannot tune a network: what its `check` says of shapes; empty if it can."""
    if isinstance(how, HardPrefix | NoTuning | RandomPrefix):
        return ""
    try:
        jax.eval_shape(how.check, without_numbers(architecture))
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def describe(task) -> dict[str, Any]:
    """What a file says of a task, a pytree of numbers: its kind and its numbers, to nine digits.

    Example:
        >>> describe(coin(0.2))
        {'kind': 'CategoricalMixture', 'weights': [1.0], 'probs': [[0.8, 0.2]]}
    """
    known = jax.tree.structure(task).node_data()
    leaves = {name: np.asarray(leaf) for name, leaf in named_leaves(task).items()}
    if known is None or any(leaf.dtype.kind not in "biuf" for leaf in leaves.values()):
        raise TypeError(
            f"`tasks` must be pytrees of numbers, such as a NamedTuple of arrays, got {task!r}."
        )
    kind, static = known
    described = {"kind": kind.__name__} | ({"static": repr(static)} if static else {})
    for name, leaf in leaves.items():
        digits = [float(f"{number:.9g}") for number in leaf.ravel()]
        described[name] = np.reshape(digits, leaf.shape).tolist()
    return described


def _paper_settings() -> dict[str, Setting]:
    """In the order of the protocol's table of settings; `Memory` is ours."""
    narrow, large = ({n: n + variant for n in NETWORKS} for variant in ("-embedding-4", "-large"))
    prefixes = methods_named("SimplexPT", "RealPT", "SoftPT", "NoTuning", "RandomPF", length=25)
    ours: Any = {"methods": methods_named(*PAPER_METHODS, "Memory")}
    small: Any = {"networks": narrow, "repetitions": 3}
    big: Any = {"networks": large, "repetitions": 3}
    long: Any = {"prefix_length": 25, "methods": prefixes}
    one, two, many = "single-coin", "two-coin-mixture", "random-coins"
    return {
        "single-coin": Setting(target=one, **ours),
        "two-coin-mixture": Setting(target=two, **ours),
        "untrained-two-coin-mixture": Setting(target=two, pretraining=None, **ours),
        "untrained-random-coins": Setting(target=many, pretraining=None, **ours),
        "embedding-4-single-coin": Setting(target=one, **small),
        "embedding-4-two-coin-mixture": Setting(target=two, **small),
        "prefix-25-two-coin-mixture": Setting(target=two, **long),
        "prefix-25-untrained": Setting(target=two, pretraining=None, **long),
        "large-single-coin": Setting(target=one, **big),
        "large-two-coin-mixture": Setting(target=two, **big),
    }


def _named(table: Mapping[str, Setting]) -> dict[str, Setting]:
    return {name: replace(setting, name=name) for name, setting in table.items()}


SETTINGS = _named(_paper_settings())


# Cumulative regret of SoftPT in nats that the authors report in their answers to the reviews; at
# N_tune, median over repetitions, is our reading.
PAPER = {
    "single-coin": {"lstm": 0.01, "transformer": 0.01},
    "two-coin-mixture": {"lstm": 0.98, "transformer": 1.20},
    "embedding-4-single-coin": {"lstm": 0.34, "transformer": 0.65},
    "embedding-4-two-coin-mixture": {"lstm": 1.36, "transformer": 1.92},
    "large-single-coin": {"lstm": 0.01, "transformer": 0.03},
    "large-two-coin-mixture": {"lstm": 0.91, "transformer": 1.04},
}
# Where a claim of the paper does not show in the stored results; asserted in tests/test_claims.py.
FINDINGS = {
    "embedding-4-two-coin-mixture": "claim 6: on the LSTM SoftPT's lead over HardPT stays, because "
    "hard prompts do harm there; its lead over NoTuning shrinks to less than half",
    "large-single-coin": "claim 7: SoftPT removes more than nine tenths of the fault on all our "
    "large networks and ends within 0.03 nats of the optimum on both Transformers and one LSTM, "
    "but above that on the other of two LSTMs",
}


def setting_of(setting: str | Setting) -> Setting:
    """The paper's setting of this name, or an error that lists them; a `Setting` as it is."""
    if isinstance(setting, Setting):
        check_name("setting", setting.name)
        return setting
    if setting not in SETTINGS:
        raise ValueError(f"`setting` must be one of {', '.join(SETTINGS)}, got {setting!r}.")
    return SETTINGS[setting]


def load_settings(path) -> dict[str, Setting]:
    """The `SETTINGS` of a Python file: name -> `Setting`. It can import what lies beside it.

    Raises:
        ValueError: there is no such file, or it defines nothing of that kind.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise ValueError(f"`settings` must be a Python file, got {path}: no such file.")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    # No module stays: what the file defines goes to a cluster by value, not by name.
    found = runpy.run_path(str(path), run_name=f"promptbayes_settings_{path.stem}").get("SETTINGS")
    if not isinstance(found, dict) or not all(isinstance(s, Setting) for s in found.values()):
        raise ValueError(f"`settings`: {path} must define SETTINGS, a dict of name -> Setting.")
    for key in found:
        check_name("SETTINGS", key)
    return _named(found)


@functools.cache
def base_predictor(
    setting: str | Setting, network: str, network_seed: int | None = None
) -> Predictor:
    """What the methods start from. Untrained means one fixed initialisation for all repetitions."""
    chosen = setting_of(setting)
    chosen.methods_for(network)  # that there is such a network
    value = chosen.networks[network]
    if isinstance(value, Predictor):
        if network_seed is not None:
            raise ValueError(f"`network_seed`: {chosen.name} has but one {network}, as it is.")
        return value
    if shipped := chosen.shipped(network):
        return load_pretrained(shipped, network_seed)
    return initialise(chosen.architecture(network), jax.random.key(network_seed or 0))


def repetition_key(repetition) -> jax.Array:
    """What a repetition's start and data are drawn from, whatever else is run.

    Example:
        >>> repetition_key(0) == repetition_key(1)
        Array(False, dtype=bool)
    """
    return jax.random.fold_in(jax.random.key(_REPETITIONS), repetition)


def _num_weights(architecture: Architecture) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(without_numbers(architecture).params))


def work(setting: str | Setting, network: str, method: str) -> float:
    """Multiply-adds of one repetition, about: what the progress of `reproduce` is measured in.

    Example:
        >>> work("single-coin", "lstm", "FullWT") > work("single-coin", "lstm", "NoTuning")
        True
    """
    chosen = setting_of(setting)
    architecture, how = chosen.architecture(network), chosen.methods[method]
    sequences = len(chosen.tasks) * chosen.num_evaluation
    evaluated = float(_num_weights(architecture) * sequences * _LENGTH)
    if isinstance(how, NoTuning | RandomPrefix):
        return evaluated
    if isinstance(how, HardPrefix):
        prompts = architecture.num_tokens ** min(how.length, 99)
        search = replace(chosen.training, num_steps=prompts, batch_size=2048)  # one prompt a step
        return tuning_work(architecture, 1, search) + evaluated
    passes = 3 if how == METHODS["FullWT"] else 2
    runs = 2 if chosen.starts_from_prefixes(method) else 1
    return runs * (tuning_work(architecture, passes, chosen.training) + evaluated)


def tuning_work(architecture: Architecture, passes: int, training: Training) -> float:
    """Multiply-adds of reading all sequences so often with a network.

    Three passes if all weights are tuned: prediction, gradients of activations and of weights.
    """
    sequences = training.num_steps * training.batch_size
    return float(passes) * _num_weights(architecture) * sequences * training.length


def evaluation_seed(task: str) -> int:
    """What the evaluation set of a task is drawn with; it depends on the task's name alone.

    Example:
        >>> [evaluation_seed(name) for name in TASKS]
        [0, 1, 2]
    """
    return _EVALUATION_SEEDS.get(task, zlib.crc32(task.encode()))


@functools.lru_cache(maxsize=8)
def evaluation_sequences(chosen: Setting, task: str) -> Sequences:
    """The one fixed set of a task's sequences on which every method is evaluated."""
    key = jax.random.fold_in(jax.random.key(_EVALUATION), evaluation_seed(task))
    sequences = chosen.tasks[task].sample(key, chosen.num_evaluation, _LENGTH)
    if sequences.log_source is None:
        raise ValueError(f"`tasks`: sequences of {task} must have a log_source to compare with.")
    return sequences


def background_sequences(setting: str | Setting) -> Sequences:
    """The pretraining sequences on which states are looked at, 100 of 50 tokens."""
    chosen = setting_of(setting)
    untrained = "random-coins" if "random-coins" in chosen.tasks else chosen.target
    task = chosen.tasks[chosen.pretraining or untrained]
    return task.sample(jax.random.key(100), 100, 50)


def cell_attributes(
    setting: str | Setting, network: str, method: str, network_seed: int | None = None
) -> dict[str, Any]:
    """What a cell is, as its file says: names, and all values as JSON in `experiment`.

    Example:
        >>> said = json.loads(cell_attributes("single-coin", "lstm", "SoftPT")["experiment"])
        >>> said["target"], said["tasks"]["single-coin"]["probs"], said["method"]
        ('single-coin', [[0.8, 0.2]], "Prefix(kind='soft', length=6)")
    """
    chosen = setting_of(setting)
    if network_seed is None:
        network_seed = PRETRAINED.get(chosen.shipped(network) or "", 0)
    said = {
        "target": chosen.target,
        "pretraining": chosen.pretraining,
        "tasks": {
            name: describe(task) | {"evaluation_seed": evaluation_seed(name)}
            for name, task in chosen.tasks.items()
        },
        "evaluation": {"seed": _EVALUATION, "sequences": chosen.num_evaluation, "length": _LENGTH},
        "architecture": repr(chosen.architecture(network)),
        "method": re.sub(r" at 0x\w+", "", repr(chosen.methods[method])),
        "training": dataclasses.asdict(chosen.training),
        "repetition_seed": _REPETITIONS,
    }
    return {
        "setting": chosen.name,
        "network": network,
        "method": method,
        "network_seed": network_seed,
        "experiment": json.dumps(said),
    }


def labelled(
    variables: dict[str, Any], attributes: dict[str, Any], *, repetitions, chosen: Setting
) -> xr.Dataset:
    """A cell: every axis with its coordinate, a count where `variables` do not say another one."""
    known = {
        "repetition": np.array(repetitions, np.int32),
        "evaluation": list(chosen.tasks),
        "mark": np.array(MARKS, np.int32),
    }
    cell = xr.Dataset(variables, attrs=attributes)
    from_zero = ("prompt", "parameter", "sequence", "background_sequence")
    for axis, size in cell.sizes.items():
        if axis not in cell.coords:
            count = np.arange(size, dtype=np.int32) + (axis not in from_zero)
            cell = cell.assign_coords({axis: known.get(str(axis), count)})
    return cell


def run_cell(
    setting: str | Setting,
    network: str,
    method: str,
    repetitions,
    *,
    network_seed: int | None = None,
    prefixes=None,
    micro_batch: int | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Some repetitions of one method: tune, evaluate on all tasks of the setting, look inside.

    Args:
        setting: a key of `SETTINGS`, or a `Setting` with a name.
        network: one of the setting's networks, such as `"lstm"`.
        method: one of the setting's methods.
        repetitions: their numbers; repetition r draws from its own key, whatever else is run.
        network_seed: which pretrained network (or initialisation, where untrained).
        prefixes: for a memory what SoftPT found in these repetitions, see `results.soft_prefixes`.
        micro_batch: see `tune`; the cell's attribute of that name says which one it was.
        progress: show a progress bar.

    Returns:
        A dataset with, in nats: `regret` (instantaneous) and `regret_error` [repetition,
        evaluation, step], `cumulative_regret` and `cumulative_regret_error` [repetition,
        evaluation, mark], the untuned network's `untuned_regret` [evaluation, mark], by which
        `results.append` knows it again, `loss` [repetition, tuning_step], and what the method
        tuned. Of a memory it is the run with the lower mean loss over the last 100 steps, named by
        `start` [repetition]; `other_loss`, `other_regret` and so on are those of the other run.

    Raises:
        ValueError: an unknown setting or network, or a method that cannot tune this network.

    Reference:
        Section 4 and Appendices G to J.
    """
    chosen = setting_of(setting)
    if method not in chosen.methods_for(network):
        why = f" ({chosen.refusal(network, method)})" if method in chosen.methods else ""
        raise ValueError(
            f"`method` of {chosen.name} on the {network} must be one of "
            f"{', '.join(chosen.methods_for(network))}, got {method!r}{why}."
        )
    if chosen.starts_from_prefixes(method) and prefixes is None:
        raise ValueError(f"`prefixes`: {method} starts from SoftPT's too; run SoftPT first.")
    began = time.perf_counter()
    base = base_predictor(chosen, network, network_seed)
    repetitions = list(repetitions)
    keys = jax.vmap(repetition_key)(jnp.array(repetitions))
    attributes = cell_attributes(chosen, network, method, network_seed)
    how, variables = chosen.methods[method], {}
    arguments = base, how, chosen.tasks[chosen.target], chosen.training, keys
    if isinstance(how, NoTuning | RandomPrefix):
        predictors = [how.start(base, key) for key in keys]
    elif isinstance(how, HardPrefix):
        searches = search_prompts(*arguments, progress=progress)
        predictors = [base.with_tokens(search.best) for search in searches]
        losses, best = ([each.loss for each in searches], [each.best for each in searches])
        variables["prompt_loss"] = ("repetition", "prompt"), np.stack(losses)
        variables["best_prompt"] = ("repetition", "prefix"), np.stack(best)
    else:
        options = {"micro_batch": micro_batch, "progress": progress}
        tuned = tune(*arguments, **options)
        if chosen.starts_from_prefixes(method):
            soft = chosen.methods["SoftPT"]
            left = jax.vmap(lambda prefix: how.from_prefix(soft.apply(base, prefix)))
            again = tune(*arguments, start=left(jnp.asarray(prefixes)), **options)
            tuned, variables = _better(tuned, again, chosen)
        predictors = _predictors(tuned)
        variables |= _tuning_variables(tuned)
        attributes["micro_batch"] = str(tuned.state.micro_batch)
    variables |= _regret_variables(predictors, chosen)
    variables["untuned_regret"] = untuned_regret(chosen, network, network_seed).variable
    if predictors[0].params is base.params:  # other weights have other states
        states = base.states(background_sequences(chosen).tokens).content
        components = fit_components(states)
        variables |= _state_variables(predictors, chosen, components, repetitions)
        if isinstance(how, NoTuning):
            points = components.project(states).astype(np.float32)
            variables["background"] = ("background_sequence", "time", "component"), points
            variables |= _network_variables(chosen, chosen.shipped(network), network_seed)
    attributes |= provenance(time.perf_counter() - began)
    return labelled(variables, attributes, repetitions=repetitions, chosen=chosen)


def _predictors(tuned: Tuned) -> list[Predictor]:
    return [tuned.predictor(index) for index in range(tuned.num_seeds)]


def _better(tuned: Tuned, again: Tuned, chosen: Setting) -> tuple[Tuned, dict[str, Any]]:
    """Of two runs the better one in each repetition, and what is kept of the other."""
    first, second = (run.losses[:, -_LAST_STEPS:].mean(axis=1) for run in (tuned, again))
    better = first <= second

    def choose(takes_first: np.ndarray) -> Tuned:
        def of(one, other):
            return np.where(takes_first.reshape(-1, *[1] * (np.ndim(one) - 1)), one, other)

        theta = jax.tree.map(lambda *both: jnp.asarray(of(*both)), tuned.theta, again.theta)
        return tuned._replace(theta=theta, losses=of(tuned.losses, again.losses))

    other = choose(~better)
    variables = _regret_variables(_predictors(other), chosen)
    variables["loss"] = ("repetition", "tuning_step"), _points(other.losses)[0]
    variables = {f"other_{name}": values for name, values in variables.items()}
    variables["start"] = "repetition", np.where(better, "random", "SoftPT")
    return choose(better), variables


def search_prompts(
    base: Predictor, how: HardPrefix, task: Any, training: Training, keys, *, progress: bool = True
) -> list[HardSearch]:
    """A search for each repetition, on eight batches of the training, 2,048 sequences at most."""
    size = {"num_sequences": min(2048, 8 * training.batch_size), "sequence_length": training.length}
    return [
        search_hard_prefix(base, task, how.length, key=key, progress=progress, **size)
        for key in keys
    ]


def _tuning_variables(tuned: Tuned) -> dict[str, Any]:
    """Loss in means over a few steps, and theta where it is small or stands for a prompt."""
    loss, steps = _points(tuned.losses)
    variables: dict[str, Any] = {
        "loss": (("repetition", "tuning_step"), loss),
        "tuning_step": ("tuning_step", steps),
    }
    flat = [leaf.reshape(tuned.num_seeds, -1) for leaf in jax.tree.leaves(tuned.theta)]
    same_weights = tuned.predictor(0).params is tuned.base.params
    if same_weights or sum(leaf.shape[1] for leaf in flat) <= 1024:
        shapes = {"shapes": theta_shapes(jax.tree.map(lambda leaf: leaf[0], tuned.theta))}
        variables["theta"] = ("repetition", "parameter"), np.concatenate(flat, axis=1), shapes
    return variables


def theta_shapes(theta) -> str:
    """Path and shape of every leaf, as JSON."""
    return json.dumps({name: leaf.shape for name, leaf in named_leaves(theta).items()})


def _points(losses) -> tuple[np.ndarray, np.ndarray]:
    """Losses [..., step] in means over ten steps, if these divide them, and their middles."""
    losses = np.asarray(losses)
    window = _STEPS_A_POINT if losses.shape[-1] % _STEPS_A_POINT == 0 else 1
    means = losses.reshape(*losses.shape[:-1], -1, window).mean(axis=-1).astype(np.float32)
    return means, window * np.arange(means.shape[-1]) + (window + 1) / 2


def _regret_variables(predictors: list[Predictor], chosen: Setting) -> dict[str, Any]:
    axes = {"regret": "step", "regret_error": "step"}
    axes |= {"cumulative_regret": "mark", "cumulative_regret_error": "mark"}
    curves = []  # of each task, these four
    for task in chosen.tasks:
        sequences = evaluation_sequences(chosen, task)
        losses = np.stack([evaluate(each, sequences) for each in predictors])
        total = cumulative_regret(losses, sequences)
        at_marks = (values[:, np.array(MARKS) - 1] for values in total)
        curves.append([*instantaneous_regret(losses, sequences), *at_marks])
    return {
        name: (("repetition", "evaluation", axis), np.stack(values, axis=1).astype(np.float32))
        for (name, axis), values in zip(axes.items(), zip(*curves), strict=True)
    }


@functools.cache
def untuned_regret(chosen: Setting, network: str, network_seed: int | None = None) -> xr.DataArray:
    """Cumulative regret of the network as tuning finds it, nats [evaluation, mark]."""
    base = base_predictor(chosen, network, network_seed)
    dims, values = _regret_variables([base], chosen)["cumulative_regret"]
    labels = {"evaluation": list(chosen.tasks), "mark": np.array(MARKS, np.int32)}
    return xr.DataArray(values[0], labels, dims[1:])


def _state_variables(predictors, chosen: Setting, components: Components, repetitions):
    """Trajectories of target sequences (20 over the setting's repetitions) on the components."""
    each = max(1, _TRAJECTORIES // chosen.repetitions)
    target = chosen.tasks[chosen.target].sample(jax.random.key(20), _TRAJECTORIES, 50).tokens
    prefixes, contents = [], []
    for tuned, r in zip(predictors, repetitions, strict=True):
        states = tuned.states(target[np.arange(r * each, (r + 1) * each) % _TRAJECTORIES])
        prefixes.append(components.project(states.prefix))
        contents.append(components.project(states.content))
    dims = "repetition", "sequence", "time", "component"
    variables: dict[str, Any] = {"trajectory": (dims, np.stack(contents).astype(np.float32))}
    if len(predictors[0].prefix):
        prefix = np.stack(prefixes).astype(np.float32)
        variables["prefix_trajectory"] = ("repetition", "prefix", "component"), prefix
    return variables


def _network_variables(chosen: Setting, shipped: str | None, seed) -> dict[str, Any]:
    """The network that tuning starts from: the sources of its states, and how it was trained.

    Kept, because elsewhere the same seed may give another network.
    """
    tau = np.exp(np.asarray(background_sequences(chosen).log_source)[:, 0, 1])
    variables: dict[str, Any] = {"background_tau": ("background_sequence", tau.astype(np.float32))}
    if shipped:
        path = weights.pretrained_path(shipped, seed)
        loss, steps = _points(weights.settings(path)["losses"])
        variables["pretraining_loss"] = "pretraining_step", loss
        variables["pretraining_step"] = "pretraining_step", steps
    return variables


@functools.cache
def baselines(setting: str | Setting, evaluation: str) -> dict[str, NDArray[np.float64]]:
    """Cumulative regret of the exact predictors on one of a setting's tasks, 1 to 200 predictions.

    Returns:
        name -> nats [step]: TargetBayes, or elsewhere than on the target that distribution's own
        EvalBayes; PreBayes unless the network is untrained; and on the target PreBayesPT, with
        the hard prefix that is best for N_tune predictions. What `exact` cannot compute is left
        out.

    Example:
        >>> exactly = baselines("single-coin", "single-coin")
        >>> {name: round(float(curve[49]), 4) for name, curve in exactly.items()}
        {'TargetBayes': 0.0, 'PreBayes': 1.4772, 'PreBayesPT': 0.5711}
    """
    chosen = setting_of(setting)
    if evaluation not in chosen.tasks:
        known = ", ".join(chosen.tasks)
        raise ValueError(f"`evaluation` must be one of {known}, got {evaluation!r}.")
    source, length, on_target = chosen.tasks[evaluation], _LENGTH, evaluation == chosen.target
    curves = {}
    with contextlib.suppress(TypeError, ValueError):  # a family not known, or too much work
        own = "TargetBayes" if on_target else "EvalBayes"
        curves[own] = exact.regret_curve(source, source, length)
        if chosen.pretraining is not None:
            pre = chosen.tasks[chosen.pretraining]
            curves["PreBayes"] = exact.regret_curve(pre, source, length)
            if on_target:
                prompts = exact.hard_prompts(pre, source, chosen.prefix_length, min(MARKS))
                counts = prompts.best[0]
                prompted = pre.posterior(np.repeat(np.arange(len(counts)), counts))
                curves["PreBayesPT"] = exact.regret_curve(prompted, source, length)
    return curves
