"""Experiments as values, the paper's twenty among them, and how to run one cell of them.

A setting says which networks are tuned to which target with which methods; a *cell* is one method
of one setting on one network, with all its repetitions. Running a cell gives a labelled dataset.
Wherever a `setting` is asked for, a name of the paper's `SETTINGS` or a `Setting` will do.
"""

import dataclasses
import datetime
import functools
import importlib.metadata
import importlib.util
import json
import platform
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from . import exact
from . import predictor as weights
from .methods import METHODS, HardPrefix
from .networks import LSTM, Architecture, Transformer
from .predictor import (
    PRETRAINED,
    Predictor,
    initialise,
    load_pretrained,
)
from .regret import cumulative_regret, evaluate, instantaneous_regret
from .states import Components, fit_components
from .tasks import Sequences, coin, coin_mixture, random_coins
from .tuning import PRETRAINING, TUNING, Training, Tuned, pretrain, search_hard_prefix, tune

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
_REPETITIONS, _EVALUATION = 2025, 2048  # the seeds that theirs are folded into
_EVALUATION_SEEDS = {"random-coins": 0, "single-coin": 1, "two-coin-mixture": 2}
_STEPS_A_POINT = 10  # of a stored curve of losses
_TRAJECTORIES = 20  # sequences, over all repetitions


@dataclass(frozen=True)
class NoTuning:
    """The network as tuning finds it; by its cell a file knows its network again."""

    def check(self, base: Predictor) -> None:
        """Anything can be left as it is."""

    def start(self, base: Predictor, key: jax.Array) -> Predictor:
        """The base itself."""
        del key
        return base


@dataclass(frozen=True)
class RandomPrefix:
    """RandomPF: a hard prompt of `length` random tokens, not tuned."""

    length: int

    def check(self, base: Predictor) -> None:
        """Raise unless there can be such a prompt."""
        if type(self.length) is not int or self.length < 0:
            raise ValueError(f"`length` of a prompt must be an int from 0, got {self.length!r}.")

    def start(self, base: Predictor, key: jax.Array) -> Predictor:
        """The base behind its prompt."""
        return base.with_tokens(jax.random.randint(key, (self.length,), 0, base.num_tokens))


class Pretrained(NamedTuple):
    """A pretrained predictor with the way there."""

    predictor: Predictor
    losses: np.ndarray  # [step], nats per sequence


PAPER_METHODS = (
    *("HardPT", "SimplexPT", "RealPT", "SoftPT"),
    *("EmbedWT", "UnembedWT", "Un+EmbedWT", "FullWT", "LoRAWT"),
    *("NoTuning", "RandomPF"),
)


def methods_named(*names: str, length: int = 6) -> dict[str, Any]:
    """Methods of `METHODS`, NoTuning and RandomPF by their names, all prefixes of one length.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> methods_named("SoftPT", "RandomPF", length=2)
        {'SoftPT': Prefix(kind='soft', length=2), 'RandomPF': RandomPrefix(length=2)}
    """
    known = METHODS | {"NoTuning": NoTuning(), "RandomPF": RandomPrefix(length)}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"`names` must be of {', '.join(known)}, got {', '.join(unknown)}.")
    return {
        name: replace(known[name], length=length)
        if any(one.name == "length" for one in dataclasses.fields(known[name]))
        else known[name]
        for name in names
    }


def check_name(argument: str, name) -> None:
    """Raise unless this can be part of a file's name."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w+.-]+", name):
        raise ValueError(
            f"`{argument}` must have names of letters, digits and + - . _, got {name!r}."
        )


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
            package; an `Architecture`, to be pretrained or initialised; or a `Predictor`.
        methods: name -> anything with `check`, `init` and `apply`, a `HardPrefix`, `NoTuning()`,
            which is added, or `RandomPrefix(...)`; see `methods_named`.
        training: of the methods.
        pretraining_training: of architectures.
        repetitions: of every method but NoTuning, about which nothing is random.
        prefix_length: of the hard prompt in the exact predictor PreBayesPT.
        num_evaluation: sequences of each task that all are evaluated on.
        figure: of the paper.
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
    networks: Mapping[str, str | Architecture | Predictor | Pretrained] = field(
        default_factory=lambda: {name: name for name in NETWORKS}
    )
    methods: Mapping[str, Any] = field(default_factory=lambda: methods_named(*PAPER_METHODS))
    training: Training = TUNING
    pretraining_training: Training = PRETRAINING
    repetitions: int = 10
    prefix_length: int = 6
    num_evaluation: int = NUM_EVALUATION
    figure: str = ""
    name: str = ""

    def __post_init__(self):
        for name in ("tasks", "networks", "methods"):
            table = getattr(self, name)
            if not isinstance(table, Mapping) or not table:
                raise TypeError(f"`{name}` must map names to values, got {table!r}.")
            for key in table:
                check_name(name, key)
        for name in ("training", "pretraining_training"):
            if not isinstance(getattr(self, name), Training):
                raise TypeError(f"`{name}` must be a Training, got {getattr(self, name)!r}.")
        for name, least in {"repetitions": 1, "prefix_length": 0, "num_evaluation": 2}.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"`{name}` must be an int of at least {least}, got {value!r}.")
        self._check_tasks()
        for name, value in self.networks.items():
            self._check_network(name, value)
        untuned = self.methods.get("NoTuning", NoTuning())
        if untuned != NoTuning():
            raise ValueError(f"`methods`: NoTuning must be NoTuning(), got {untuned!r}.")
        object.__setattr__(self, "methods", {**self.methods, "NoTuning": untuned})

    def _check_tasks(self):
        for name, task in self.tasks.items():
            num_tokens = getattr(task, "num_tokens", None)
            if not isinstance(num_tokens, int) or not callable(getattr(task, "sample", None)):
                raise TypeError(
                    f"`tasks`: {name} must have num_tokens and sample(key, num_sequences, length), "
                    f"got {task!r}."
                )
            describe(task)  # that it can be
        known = ", ".join(self.tasks)
        if self.target not in self.tasks:
            raise ValueError(f"`target` must be one of `tasks`, {known}, got {self.target!r}.")
        if self.pretraining is not None and self.pretraining not in self.tasks:
            raise ValueError(
                f"`pretraining` must be one of `tasks`, {known}, or None, got {self.pretraining!r}."
            )
        alphabets = {name: task.num_tokens for name, task in self.tasks.items()}
        if len(set(alphabets.values())) > 1:
            raise ValueError(f"`tasks` must have one alphabet, got num_tokens of {alphabets}.")

    def _check_network(self, name, value):
        if isinstance(value, str):
            if value not in ARCHITECTURES:
                known = ", ".join(ARCHITECTURES)
                raise ValueError(f"`networks`: {name} must be one of {known}, got {value!r}.")
            task = random_coins() if self.pretraining is None else self.tasks[self.pretraining]
            if describe(task) != describe(random_coins()):
                raise ValueError(
                    f"`networks`: {value} comes with the package pretrained on random coins; give "
                    f"ARCHITECTURES[{value!r}], which is then pretrained on {self.pretraining}."
                )
        elif not isinstance(value, Architecture | Predictor | Pretrained):
            raise TypeError(
                f"`networks`: {name} must be a name of ARCHITECTURES, an Architecture or a "
                f"Predictor, got {value!r}."
            )
        num_tokens = self.tasks[self.target].num_tokens
        if self.architecture(name).num_tokens != num_tokens:
            raise ValueError(
                f"`networks`: {name} must have the tasks' alphabet of {num_tokens} tokens, got "
                f"{self.architecture(name).num_tokens}."
            )

    def architecture(self, network: str) -> Architecture:
        """What a network is made of."""
        value = self.networks[network]
        if isinstance(value, str):
            return ARCHITECTURES[value]
        value = value.predictor if isinstance(value, Pretrained) else value
        return value.network if isinstance(value, Predictor) else value

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
        reasons = _refusals(self, method)
        if all(reasons.values()):
            raise ValueError(f"`methods`: {method} can tune no network. {reasons[network]}")
        return reasons[network]

    def repetitions_of(self, method: str) -> int:
        """How often a method is run."""
        return 1 if method == "NoTuning" else self.repetitions

    @property
    def background(self) -> str:
        """The task whose sequences span the states that are looked at: the pretraining one."""
        if self.pretraining is None and "random-coins" in self.tasks:
            return "random-coins"
        return self.pretraining or self.target


@functools.cache
def _refusals(chosen: Setting, method: str) -> dict[str, str]:
    """Network -> what the method's `check` says of it; empty where it passes."""
    how, reasons = chosen.methods[method], {}
    for network in chosen.networks:
        try:
            if not isinstance(how, HardPrefix):  # its search looks at more than the network
                how.check(_blank(chosen.architecture(network)))
            reasons[network] = ""
        except (TypeError, ValueError) as error:
            reasons[network] = str(error)
    return reasons


@functools.cache
def _blank(architecture: Architecture) -> Predictor:
    """A predictor of shapes, without numbers."""
    return jax.eval_shape(lambda: initialise(architecture, jax.random.key(0)))


def describe(task) -> dict[str, Any]:
    """What a file says of a task: its kind and its numbers, to nine digits.

    Raises:
        TypeError: it is no pytree of numbers, so nothing can be said of it.

    Example:
        >>> describe(coin(0.2))
        {'kind': 'CategoricalMixture', 'weights': [1.0], 'probs': [[0.8, 0.2]]}
    """
    known = jax.tree.structure(task).node_data()
    leaves = [(path, np.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(task)]
    if known is None or any(leaf.dtype.kind not in "biuf" for _, leaf in leaves):
        raise TypeError(
            f"`task` must be a pytree of numbers, such as a NamedTuple of arrays, got {task!r}."
        )
    kind, static = known
    described: dict[str, Any] = {"kind": kind.__name__} | (
        {"static": repr(static)} if static else {}
    )
    for path, leaf in leaves:
        digits = [float(f"{number:.9g}") for number in leaf.ravel()]
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        described[name] = np.reshape(digits, leaf.shape).tolist()
    return described


def _named(table: Mapping[str, Setting]) -> dict[str, Setting]:
    return {name: replace(setting, name=name) for name, setting in table.items()}


def _networks(variant: str) -> dict[str, str]:
    return {name: name + variant for name in NETWORKS}


_PREFIXES = ("SimplexPT", "RealPT", "SoftPT", "NoTuning", "RandomPF")
_LONG = methods_named(*_PREFIXES, length=25)
_SINGLE, _MIXTURE = "single-coin", "two-coin-mixture"
_NARROW, _LARGE = _networks("-embedding-4"), _networks("-large")
SETTINGS = _named(
    {
        "single-coin": Setting(target=_SINGLE, figure="1, 2, A5"),
        "two-coin-mixture": Setting(target=_MIXTURE, figure="3, A6, A7"),
        "untrained-two-coin-mixture": Setting(target=_MIXTURE, pretraining=None, figure="4a, A8"),
        "untrained-random-coins": Setting(target="random-coins", pretraining=None, figure="4b, A9"),
        "embedding-4-single-coin": Setting(
            target=_SINGLE, networks=_NARROW, repetitions=3, figure="A11"
        ),
        "embedding-4-two-coin-mixture": Setting(
            target=_MIXTURE, networks=_NARROW, repetitions=3, figure="A11"
        ),
        "prefix-25-two-coin-mixture": Setting(
            target=_MIXTURE, prefix_length=25, methods=_LONG, figure="A10"
        ),
        "prefix-25-untrained": Setting(
            target=_MIXTURE, pretraining=None, prefix_length=25, methods=_LONG, figure="A10"
        ),
        "large-single-coin": Setting(target=_SINGLE, networks=_LARGE, repetitions=3, figure="A12"),
        "large-two-coin-mixture": Setting(
            target=_MIXTURE, networks=_LARGE, repetitions=3, figure="A12"
        ),
    }
)


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


def setting_of(setting: str | Setting) -> Setting:
    """The paper's setting of this name, or an error that lists them; a `Setting` as it is."""
    if isinstance(setting, Setting):
        check_name("setting", setting.name)
        return setting
    if setting not in SETTINGS:
        raise ValueError(f"`setting` must be one of {', '.join(SETTINGS)}, got {setting!r}.")
    return SETTINGS[setting]


def load_settings(path) -> dict[str, Setting]:
    """The `SETTINGS` of a Python file: name -> `Setting`.

    What lies beside the file can be imported in it.

    Raises:
        ValueError: there is no such file, or it defines nothing of that kind.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise ValueError(f"`settings` must be a Python file, got {path}: no such file.")
    name = f"promptbayes_settings_{zlib.crc32(str(path).encode())}_{path.stem}"
    specification: Any = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(specification)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        specification.loader.exec_module(module)
    finally:
        del sys.modules[name]  # so that what it defines goes to a cluster by value, not by name
    found = getattr(module, "SETTINGS", None)
    if not isinstance(found, dict) or not found:
        raise ValueError(f"`settings`: {path} must define SETTINGS, a dict of name -> Setting.")
    for key, value in found.items():
        check_name("SETTINGS", key)
        if not isinstance(value, Setting):
            raise ValueError(f"`settings`: {key} of {path} must be a Setting, got {value!r:.60}.")
    return _named(found)


def base_predictor(
    setting: str | Setting, network: str, network_seed: int | None = None
) -> Predictor:
    """What the methods start from. Untrained means one fixed initialisation for all repetitions."""
    return _base(setting_of(setting), network, network_seed).predictor


@functools.cache
def _base(chosen: Setting, network: str, network_seed: int | None) -> Pretrained:
    """The predictor and the losses of its pretraining; none where they are not known."""
    chosen.methods_for(network)  # that there is such a network
    value, nothing = chosen.networks[network], np.empty(0)
    if isinstance(value, Pretrained):
        return value
    if isinstance(value, Predictor):
        return Pretrained(value, nothing)
    key = jax.random.key(_seed_of(chosen, network, network_seed))
    if chosen.pretraining is None:
        return Pretrained(initialise(chosen.architecture(network), key), nothing)
    if isinstance(value, str):
        shipped = load_pretrained(value, network_seed)
        path = weights.pretrained_path(value, network_seed)
        return Pretrained(shipped, np.asarray(weights.settings(path)["losses"]))
    return pretrained_on(chosen, network, key)


def pretrained_on(chosen: Setting, network: str, key: jax.Array) -> Pretrained:
    """An architecture of a setting, pretrained as the setting says."""
    task = chosen.tasks[chosen.pretraining or chosen.target]
    run = pretrain(chosen.architecture(network), task, chosen.pretraining_training, key)
    return Pretrained(run.predictor(0), run.losses[0])


def _seed_of(chosen: Setting, network: str, network_seed: int | None) -> int:
    """Left out, it is that of the network that ships, or of the one initialisation."""
    value = chosen.networks[network]
    if network_seed is not None:
        return network_seed
    return PRETRAINED[value] if isinstance(value, str) and chosen.pretraining else 0


def repetition_key(repetition) -> jax.Array:
    """What a repetition's start and data are drawn from, whatever else is run.

    Example:
        >>> repetition_key(0) == repetition_key(1)
        Array(False, dtype=bool)
    """
    return jax.random.fold_in(jax.random.key(_REPETITIONS), repetition)


def _num_weights(architecture) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(_blank(architecture).params))


def work(setting: str | Setting, network: str, method: str) -> float:
    """Multiply-adds of one repetition, about: what the progress of `reproduce` is measured in.

    Example:
        >>> work("single-coin", "lstm", "FullWT") > work("single-coin", "lstm", "NoTuning")
        True
    """
    chosen = setting_of(setting)
    network_of, how = chosen.architecture(network), chosen.methods[method]
    sequences = len(chosen.tasks) * chosen.num_evaluation
    evaluated = float(_num_weights(network_of) * sequences * max(MARKS))
    if isinstance(how, NoTuning | RandomPrefix):
        return evaluated
    if isinstance(how, HardPrefix):
        prompts = network_of.num_tokens ** min(how.length, 99)
        search = replace(chosen.training, num_steps=prompts, batch_size=2048)  # one prompt a step
        return tuning_work(network_of, 1, search) + evaluated
    passes = 3 if how == METHODS["FullWT"] else 2
    return tuning_work(network_of, passes, chosen.training) + evaluated


def tuning_work(architecture: Architecture, passes: int, training: Training) -> float:
    """Multiply-adds of reading all sequences so often with a network.

    Three passes if all weights are tuned: the prediction, and the gradients with respect to
    activations and to weights.
    """
    sequences = training.num_steps * training.batch_size
    return float(passes) * _num_weights(architecture) * sequences * training.length


def evaluation_seed(name: str) -> int:
    """What the evaluation set of a task is drawn with; it depends on the task's name alone.

    Example:
        >>> [evaluation_seed(name) for name in TASKS]
        [0, 1, 2]
    """
    return _EVALUATION_SEEDS.get(name, zlib.crc32(name.encode()))


_evaluation_sets: dict[tuple[str, int], Sequences] = {}


def evaluation_sequences(name: str, task=None, num_sequences: int = NUM_EVALUATION) -> Sequences:
    """The one fixed set of sequences on which every method of every setting is evaluated.

    Args:
        name: of the task; its `evaluation_seed` is folded into key 2048.
        task: if it is none of `TASKS`.
        num_sequences: how many.

    Raises:
        ValueError: the task does not tell its source.
    """
    task = TASKS[name] if task is None else task
    known = json.dumps([name, describe(task)]), num_sequences
    if known not in _evaluation_sets:
        key = jax.random.fold_in(jax.random.key(_EVALUATION), evaluation_seed(name))
        _evaluation_sets[known] = task.sample(key, num_sequences, max(MARKS))
    if _evaluation_sets[known].log_source is None:
        raise ValueError(f"`tasks`: sequences of {name} must have a log_source to compare with.")
    return _evaluation_sets[known]


@functools.cache
def _components(chosen: Setting, network: str, network_seed: int | None) -> Components:
    base = _base(chosen, network, network_seed).predictor
    return fit_components(base.states(background_sequences(chosen).tokens).content)


@functools.cache
def background_sequences(setting: str | Setting) -> Sequences:
    """The pretraining sequences on which states are looked at, 100 of 50 tokens."""
    chosen = setting_of(setting)
    return chosen.tasks[chosen.background].sample(jax.random.key(100), 100, 50)


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
    said = {
        "target": chosen.target,
        "pretraining": chosen.pretraining,
        "tasks": {
            name: describe(task) | {"evaluation_seed": evaluation_seed(name)}
            for name, task in chosen.tasks.items()
        },
        "evaluation": {
            "seed": _EVALUATION,
            "sequences": chosen.num_evaluation,
            "length": max(MARKS),
        },
        "architecture": repr(chosen.architecture(network)),
        "method": re.sub(r" at 0x\w+", "", repr(chosen.methods[method])),
        "training": dataclasses.asdict(chosen.training),
        "repetition_seed": _REPETITIONS,
    }
    return {
        "setting": chosen.name,
        "network": network,
        "method": method,
        "network_seed": _seed_of(chosen, network, network_seed),
        "experiment": json.dumps(said),
    }


_MEANINGS = {
    "regret": "instantaneous regret of each prediction",
    "regret_error": "standard error of the instantaneous regret",
    "cumulative_regret": "regret summed over the first predictions",
    "cumulative_regret_error": "standard error of the cumulative regret",
    "loss": "log loss of a sequence while tuning, mean over some steps",
    "pretraining_loss": "log loss of a sequence while pretraining, mean over some steps",
    "prompt_loss": "log loss of a sequence after each hard prompt",
    "background_tau": "probability of token 1 at the first step of a background sequence",
    "step": "number of the prediction",
    "mark": "number of predictions that are summed",
    "tuning_step": "gradient step, the middle of those that a loss is the mean of",
    "pretraining_step": "gradient step, the middle of those that a loss is the mean of",
    "prompt": "hard prompt in lexicographic order",
    "sequence": "of target sequences drawn from key 20: (repetition * size + sequence) % 20",
    "component": "principal component of the background, largest first, whitened",
}


def labelled(
    variables: dict[str, Any], attributes: dict[str, Any], *, repetitions, chosen: Setting
) -> xr.Dataset:
    """A cell: every axis with its coordinate, every variable with its meaning and unit."""
    cell = xr.Dataset(variables, attrs=attributes)
    steps = {
        "tuning_step": chosen.training.num_steps,
        "pretraining_step": chosen.pretraining_training.num_steps,
    }
    known = {
        "repetition": np.array(repetitions, np.int32),
        "evaluation": list(chosen.tasks),
        "mark": np.array(MARKS, np.int32),
    }
    from_zero = ("prompt", "parameter", "sequence", "background_sequence")
    for axis, size in {str(axis): size for axis, size in cell.sizes.items()}.items():
        if axis in steps:
            window = steps[axis] // size
            known[axis] = window * np.arange(size) + (window + 1) / 2
        elif axis not in known:
            known[axis] = np.arange(size, dtype=np.int32) + (axis not in from_zero)
    cell = cell.assign_coords({axis: known[str(axis)] for axis in cell.sizes})
    for name in _MEANINGS.keys() & cell.variables.keys():
        nats = {"units": "nats"} if "regret" in name or "loss" in name else {}
        cell[name].attrs |= {"long_name": _MEANINGS[name]} | nats
    return cell


def run_cell(
    setting: str | Setting,
    network: str,
    method: str,
    repetitions,
    *,
    network_seed: int | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Some repetitions of one method: tune, evaluate on all tasks of the setting, look inside.

    Args:
        setting: a key of `SETTINGS`, or a `Setting` with a name.
        network: one of the setting's networks, such as `"lstm"`.
        method: one of the setting's methods.
        repetitions: their numbers; repetition r draws from its own key, whatever else is run.
        network_seed: which pretrained network (or initialisation, where untrained).
        progress: show a progress bar.

    Returns:
        A dataset with, in nats: `regret` (instantaneous) and `regret_error` [repetition,
        evaluation, step], `cumulative_regret` and `cumulative_regret_error` [repetition,
        evaluation, mark], the untuned network's `untuned_regret` [evaluation, mark], by which
        `results.append` knows it again, `loss` [repetition, tuning_step], and what the method
        tuned. Its attributes are `cell_attributes` and `provenance`.

    Raises:
        ValueError: an unknown setting or network, or a method that cannot tune this network.

    Reference:
        Section 4 and Appendices G to J.
    """
    chosen = setting_of(setting)
    if method not in chosen.methods_for(network):
        refusal = f" ({chosen.refusal(network, method)})" if method in chosen.methods else ""
        raise ValueError(
            f"`method` of {chosen.name} on the {network} must be one of "
            f"{', '.join(chosen.methods_for(network))}, got {method!r}{refusal}."
        )
    began = time.perf_counter()
    base, losses = _base(chosen, network, network_seed)
    repetitions = list(repetitions)
    keys = jax.vmap(repetition_key)(jnp.array(repetitions))
    how, variables = chosen.methods[method], {}
    if isinstance(how, NoTuning | RandomPrefix):
        predictors = [how.start(base, key) for key in keys]
    elif isinstance(how, HardPrefix):
        predictors = [_searched(base, how, chosen, key, variables) for key in keys]
    else:
        target = chosen.tasks[chosen.target]
        tuned = tune(base, how, target, chosen.training, keys, progress=progress)
        predictors = [tuned.predictor(i) for i in range(tuned.num_seeds)]
        variables |= _tuning_variables(tuned)
    variables |= _regret_variables(predictors, chosen)
    variables["untuned_regret"] = untuned_regret(chosen, network, network_seed).variable
    if predictors[0].params is base.params:  # other weights have other states
        components = _components(chosen, network, network_seed)
        variables |= _state_variables(predictors, chosen, components, repetitions)
    if isinstance(how, NoTuning):
        variables |= _network_variables(base, losses, chosen, network, network_seed)
    attributes = cell_attributes(chosen, network, method, network_seed)
    attributes |= provenance(time.perf_counter() - began)
    return labelled(variables, attributes, repetitions=repetitions, chosen=chosen)


def _searched(base, how, chosen, key, variables):
    search = search_hard_prefix(
        base,
        chosen.tasks[chosen.target],
        how.length,
        key=key,
        sequence_length=chosen.training.length,
        num_sequences=min(2048, 8 * chosen.training.batch_size),
    )
    found = ("repetition", "prompt"), search.loss[None].astype(np.float32)
    best = ("repetition", "prefix"), search.best[None].astype(np.int32)
    for name, (dims, values) in {"prompt_loss": found, "best_prompt": best}.items():
        before = variables.get(name, (dims, np.empty((0, *values.shape[1:]), values.dtype)))[1]
        variables[name] = dims, np.concatenate([before, values])
    return base.with_tokens(search.best)


def _tuning_variables(tuned: Tuned) -> dict[str, Any]:
    """Loss in means over a few steps, and theta where it is small or stands for a prompt."""
    variables: dict = {"loss": (("repetition", "tuning_step"), _points(tuned.losses))}
    flat = [leaf.reshape(tuned.num_seeds, -1) for leaf in jax.tree.leaves(tuned.theta)]
    same_weights = tuned.predictor(0).params is tuned.base.params
    if same_weights or sum(leaf.shape[1] for leaf in flat) <= 1024:
        shapes = {"shapes": theta_shapes(jax.tree.map(lambda leaf: leaf[0], tuned.theta))}
        variables["theta"] = ("repetition", "parameter"), np.concatenate(flat, axis=1), shapes
    return variables


def theta_shapes(theta) -> str:
    """Path and shape of every leaf, as JSON."""
    leaves = jax.tree_util.tree_leaves_with_path(theta)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return json.dumps({name: leaf.shape for name, (_, leaf) in zip(names, leaves, strict=True)})


def _points(losses: ArrayLike) -> np.ndarray:
    """Losses [..., step] in means over ten steps, or as they are if these do not divide them."""
    losses = np.asarray(losses)
    window = _STEPS_A_POINT if losses.shape[-1] % _STEPS_A_POINT == 0 else 1
    return losses.reshape(*losses.shape[:-1], -1, window).mean(axis=-1).astype(np.float32)


def _regret_variables(predictors, chosen: Setting):
    curves = {
        name: []
        for name in ("regret", "regret_error", "cumulative_regret", "cumulative_regret_error")
    }
    marks = np.array(MARKS) - 1
    for name, task in chosen.tasks.items():
        sequences = evaluation_sequences(name, task, chosen.num_evaluation)
        losses = np.stack([evaluate(predictor, sequences) for predictor in predictors])
        step, total = (f(losses, sequences) for f in (instantaneous_regret, cumulative_regret))
        values = (
            step.mean,
            step.standard_error,
            total.mean[:, marks],
            total.standard_error[:, marks],
        )
        for curve, value in zip(curves, values, strict=True):
            curves[curve].append(value)
    return {
        name: (
            ("repetition", "evaluation", "mark" if name.startswith("cumulative") else "step"),
            np.stack(values, axis=1).astype(np.float32),
        )
        for name, values in curves.items()
    }


@functools.cache
def untuned_regret(
    setting: str | Setting, network: str, network_seed: int | None = None
) -> xr.DataArray:
    """Cumulative regret of the network as tuning finds it, nats [evaluation, mark]."""
    chosen = setting_of(setting)
    base = _base(chosen, network, network_seed).predictor
    dims, values = _regret_variables([base], chosen)["cumulative_regret"]
    labels = {"evaluation": list(chosen.tasks), "mark": np.array(MARKS, np.int32)}
    return xr.DataArray(values[0], labels, dims[1:])


def _state_variables(predictors, chosen: Setting, components: Components, repetitions):
    """Trajectories of target sequences (20 over the setting's repetitions) on the components."""
    each = max(1, _TRAJECTORIES // chosen.repetitions)
    target = chosen.tasks[chosen.target].sample(jax.random.key(20), _TRAJECTORIES, 50).tokens
    prefixes, contents = [], []
    for predictor, r in zip(predictors, repetitions, strict=True):
        rows = np.arange(r * each, (r + 1) * each) % _TRAJECTORIES
        states = predictor.states(target[rows])
        prefixes.append(components.project(states.prefix))
        contents.append(components.project(states.content))
    dims = "repetition", "sequence", "time", "component"
    variables: dict = {"trajectory": (dims, np.stack(contents).astype(np.float32))}
    if len(predictors[0].prefix):
        prefix = np.stack(prefixes).astype(np.float32)
        variables["prefix_trajectory"] = (("repetition", "prefix", "component"), prefix)
    return variables


def _network_variables(base, losses, chosen: Setting, network, network_seed):
    """The network that tuning starts from: states on pretraining sequences, and how it was trained.

    Kept, because elsewhere the same seed may give another network.
    """
    sequences = background_sequences(chosen)
    components = _components(chosen, network, network_seed)
    points = components.project(base.states(sequences.tokens).content)
    tau = np.exp(np.asarray(sequences.log_source)[:, 0, 1])
    variables = {
        "background": (
            ("background_sequence", "time", "component"),
            np.asarray(points, np.float32),
        ),
        "background_tau": ("background_sequence", tau.astype(np.float32)),
    }
    if len(losses):
        variables["pretraining_loss"] = "pretraining_step", _points(losses)
    return variables


def baselines(setting: str | Setting, evaluation: str) -> dict[str, NDArray[np.float64]]:
    """Cumulative regret of the exact predictors of a setting, after predictions 1 to 200.

    Args:
        setting: a key of `SETTINGS`, or a `Setting`.
        evaluation: the distribution that the sequences come from, one of the setting's tasks.

    Returns:
        name -> nats [step]: TargetBayes, or elsewhere than on the target that distribution's own
        EvalBayes; PreBayes unless the network is untrained; and on the target PreBayesPT, with
        the hard prefix that is best for N_tune predictions. What `exact` cannot compute is left
        out, see `left_out`.

    Raises:
        ValueError: an unknown setting or distribution.

    Example:
        >>> exactly = baselines("single-coin", "single-coin")
        >>> {name: round(float(curve[49]), 4) for name, curve in exactly.items()}
        {'TargetBayes': 0.0, 'PreBayes': 1.4772, 'PreBayesPT': 0.5711}
    """
    return _baselines(setting_of(setting), evaluation)[0]


def left_out(setting: str | Setting, evaluation: str) -> dict[str, str]:
    """The exact predictors that `baselines` leaves out, each with the reason."""
    return _baselines(setting_of(setting), evaluation)[1]


@functools.cache
def _baselines(chosen: Setting, evaluation: str):
    if evaluation not in chosen.tasks:
        known = ", ".join(chosen.tasks)
        raise ValueError(f"`evaluation` must be one of {known}, got {evaluation!r}.")
    source, length = chosen.tasks[evaluation], max(MARKS)
    pre: Any = None if chosen.pretraining is None else chosen.tasks[chosen.pretraining]
    on_target = evaluation == chosen.target

    def best_prompt():
        prompts = exact.hard_prompts(pre, source, chosen.prefix_length, min(MARKS))
        counts = prompts.best[0]
        return pre.posterior(np.repeat(np.arange(len(counts)), counts))

    predictors = {"TargetBayes" if on_target else "EvalBayes": lambda: source}
    if pre is not None:
        predictors["PreBayes"] = lambda: pre
    if pre is not None and on_target:
        predictors["PreBayesPT"] = best_prompt
    curves, reasons = {}, {}
    for name, task in predictors.items():
        try:
            curves[name] = exact.regret_curve(task(), source, length)
        except (TypeError, ValueError) as error:  # a family that it does not know, or too many sums
            reasons[name] = str(error)
    return curves, reasons


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
