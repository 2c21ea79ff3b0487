"""One tuning method, studied: what it moves, what it reaches live and stored, what states do.

What the pages of Part III have in common. What is special to a method stands on its page.
"""

import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

from . import exact, figures, results
from .experiments import (
    ARCHITECTURES,
    NETWORKS,
    base_predictor,
    refusal,
    repetition_key,
    search_prompts,
    setting_of,
)
from .methods import METHODS, HardPrefix
from .predictor import Predictor, load_pretrained
from .provenance import provenance
from .regret import Estimate, cumulative_regret, evaluate
from .states import Components, fit_components
from .tasks import Sequences, coin_mixture, random_coins
from .tuning import LIVE, LIVE_REPETITIONS, HardSearch, Training, Tuned, tune

LABELS: dict[str, str] = dict(zip(NETWORKS, figures.NETWORKS, strict=True))
SETTINGS = {"one coin": "single-coin", "two coins": "two-coin-mixture"}
NUM_SEQUENCES = 2048  # that a live run is evaluated on
_STUDIED = coin_mixture([0.2, 0.8])


def num_parameters(method: Any, base: Predictor) -> int:
    """How many numbers a method tunes; for a hard prefix, how many tokens it searches.

    Args:
        method: a `Method` or a `HardPrefix`.
        base: the predictor to tune.

    Raises:
        TypeError, ValueError: the method's own `check`.

    Example:
        >>> num_parameters(METHODS["SoftPT"], load_pretrained("lstm"))
        768
    """
    if isinstance(method, HardPrefix):
        return method.length
    method.check(base)
    theta = jax.eval_shape(lambda: method.init(jax.random.key(0), base))
    return sum(leaf.size for leaf in jax.tree.leaves(theta))


def moved(base: Predictor, tuned: Predictor) -> dict[str, int]:
    """Part of the predictor -> how many of its numbers are not the base's, found by comparing.

    Args:
        base: the predictor as it was.
        tuned: another with the same network.

    Returns:
        Parts that differ, of `prefix`, `memory`, `embedding`, `torso`, `unembedding`. A prefix
        counts by its rows beyond the base's, a memory whole.

    Example:
        >>> base = load_pretrained("lstm")
        >>> moved(base, base.with_tokens([0, 1]))
        {'prefix': 256}
    """
    found = {"prefix": tuned.prefix.size - base.prefix.size, "memory": 0}
    if tuned.memory is not None and tuned.memory is not base.memory:
        found["memory"] = sum(leaf.size for leaf in jax.tree.leaves(tuned.memory))
    for part, weights in base.params.items():
        unlike = jax.tree.map(lambda a, b: int(jnp.sum(a != b)), weights, tuned.params[part])
        found[part] = sum(jax.tree.leaves(unlike))
    return {part: count for part, count in found.items() if count}


class Run(NamedTuple):
    """One method, run on some networks and one target."""

    name: str  #: of the method
    bases: dict[str, Predictor]  #: network -> the predictor before
    runs: dict[str, Tuned | list[HardSearch]]  #: network -> what tuning gave, or each search
    predictors: dict[str, list[Predictor]]  #: network -> the tuned predictor of each repetition
    untuned: dict[str, Estimate]  #: network -> regret before, nats
    regret: dict[str, Estimate]  #: network -> regret of each repetition [seed], nats
    optimum: float  #: TargetBayes' regret, nats


def run(
    name: str,
    *,
    method: Any = None,
    target: Any = _STUDIED,
    bases: Mapping[str, Predictor] | None = None,
    training: Training = LIVE,
    repetitions: int = LIVE_REPETITIONS,
) -> Run:
    """Tune the networks that ship with one method, live, and score them on fresh sequences.

    Every method sees the same data in repetition r, and is scored on the same sequences.

    Args:
        name: of the method; a key of `METHODS`, or any name if `method` is given.
        method: a `Method` or a `HardPrefix`; the one of that name if left out.
        target: an exchangeable task, so that its optimum is exact; two coins, 0.2 and 0.8.
        bases: network -> predictor; the LSTM and the Transformer that ship, as far as the method
            can tune them.
        training: of gradient methods; a search scores its prompts on eight of its batches.
        repetitions: how many.

    Returns:
        A `Run`; regrets are cumulative over `training.length` predictions.

    Raises:
        TypeError, ValueError: as `tune` and `search_hard_prefix`; no network can be tuned so.

    Example:
        >>> short = Training(num_steps=2, batch_size=4, length=5)
        >>> live = run("UnembedWT", training=short, bases={"lstm": load_pretrained("lstm")})
        >>> live.regret["lstm"].mean.shape
        (2,)
    """
    method = METHODS[name] if method is None else method
    if bases is None:
        refused = {network: refusal(method, ARCHITECTURES[network]) for network in NETWORKS}
        if all(refused.values()):
            raise ValueError(f"`method`: {name} can tune no network. {refused[NETWORKS[0]]}")
        bases = {network: load_pretrained(network) for network in NETWORKS if not refused[network]}
    keys = [repetition_key(r) for r in range(repetitions)]
    fresh = target.sample(jax.random.key(77), NUM_SEQUENCES, training.length)
    runs, predictors, untuned, regret = {}, {}, {}, {}
    for network, base in bases.items():
        if isinstance(method, HardPrefix):
            runs[network] = search_prompts(base, method, target, training, keys, progress=False)
            predictors[network] = [base.with_tokens(found.best) for found in runs[network]]
        else:
            runs[network] = tune(base, method, target, training, keys, progress=False)
            predictors[network] = [runs[network].predictor(r) for r in range(repetitions)]
        untuned[network] = regret_on(base, fresh)
        each = [regret_on(predictor, fresh) for predictor in predictors[network]]
        regret[network] = Estimate(*map(np.array, zip(*each, strict=True)))
    optimum = exact.mutual_information(target, training.length)
    return Run(name, dict(bases), runs, predictors, untuned, regret, optimum)


def regret_on(predictor, sequences: Sequences) -> Estimate:
    """Regret of a predictor after the last prediction, nats, with its error over sequences.

    Example:
        >>> ten = coin_mixture([0.2, 0.8]).sample(jax.random.key(0), 64, 10)
        >>> regret_on(random_coins().predict, ten).mean.shape
        ()
    """
    total = cumulative_regret(evaluate(predictor, sequences), sequences)
    return Estimate(total.mean[-1], total.standard_error[-1])


def stored_predictor(
    name: str, network: str, *, setting: str = "two-coin-mixture", repetition: int = 0
) -> Predictor:
    """The predictor with which a stored repetition of a method ended.

    Args:
        name: of the method.
        network: `"lstm"` or `"transformer"`, the default one.
        setting: a key of `experiments.SETTINGS`.
        repetition: its number.

    Raises:
        FileNotFoundError: nothing of this method is stored.
        ValueError: what it tuned is too large to be stored.

    Example:
        >>> stored_predictor("SoftPT", "lstm").prefix.shape
        (6, 128)
    """
    base, method = base_predictor(setting, network), setting_of(setting).methods[name]
    cell = results.load_cell(setting, network, name).sel(repetition=repetition)
    if isinstance(method, HardPrefix):
        return base.with_tokens(cell.best_prompt.values)
    if "theta" not in cell:
        raise ValueError(f"`name`: what {name} tuned on the {network} is not stored.")
    _, as_tuned = ravel_pytree(method.init(jax.random.key(0), base))
    return method.apply(base, as_tuned(cell.theta.values))


def stored_table(name: str, folder=None) -> str:
    """What is stored of one method on both targets, beside no tuning and the optimum, as text.

    Args:
        name: of the method.
        folder: where the results are; the package's own if left out.

    Returns:
        Lines for `print`: cumulative regret after 50 predictions in nats, medians over repetitions
        with quartiles, and the range over pretrained networks where more than one is stored.

    Raises:
        ValueError: nothing is stored of this method.

    Example:
        >>> print(stored_table("SoftPT").splitlines()[0])
        regret, nats            untuned      SoftPT    quartiles  runs  optimum
    """
    lines = [f"{'regret, nats':22}{'untuned':>9}{name:>12}{'quartiles':>13}  runs  optimum"]
    for target, setting in SETTINGS.items():
        for network, label in LABELS.items():
            rows = {row.predictor: row for row in _summary(setting, network, folder)}
            if name not in rows:
                continue
            row, optimum = rows[name], rows["TargetBayes"].median
            untuned = f"{rows['NoTuning'].median:9.3f}" if "NoTuning" in rows else " " * 9
            quartiles = f"{row.low:.3f}-{row.high:.3f}" if row.repetitions > 1 else ""
            lines.append(
                f"{target + ', ' + label:22}{untuned}{row.median:12.3f}{quartiles:>13}"
                f"{row.repetitions:6}{optimum:9.3f}"
            )
            if len(row.networks) > 1:
                among = f"{len(row.networks)} pretrained networks"
                span = f"{min(row.networks):.3f}-{max(row.networks):.3f}"
                lines.append(f"  {among:34}{span:>20}")
    if len(lines) == 1:
        raise ValueError(f"`name`: nothing is stored of {name!r} on {', '.join(SETTINGS)}.")
    return "\n".join(lines)


def _summary(setting, network, folder):
    try:
        return results.summary(setting, network, folder=folder)
    except FileNotFoundError:
        return []


def bars(live: Run, *, beside: tuple[str, ...] = ()) -> Figure:
    """A live run on two coins between the untuned network and the optimum, beside stored results.

    Args:
        live: what `run` returns, on two coins.
        beside: more methods whose stored medians are drawn.

    Example:
        >>> short = Training(num_steps=1, batch_size=2, length=50)
        >>> figure = bars(run("EmbedWT", training=short))
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['LSTM', 'Transformer']
    """
    panels = {}
    for network in live.bases:
        rows = {row.predictor: row for row in _summary(SETTINGS["two coins"], network, None)}
        label = LABELS.get(network, network)
        panels[label] = {"untuned": live.untuned[network].mean}
        panels[label][f"{live.name}, live"] = live.regret[network].mean
        panels[label] |= {
            f"{name}, stored": _with_quartiles(rows[name])
            for name in (live.name, *beside)
            if name in rows
        }
        panels[label]["TargetBayes"] = live.optimum
    return figures.headline_bars(panels)


def _with_quartiles(row: results.Summary) -> np.ndarray:
    """Five numbers with the row's median and quartiles, which a bar draws."""
    return np.array([row.low, row.low, row.median, row.high, row.high])


class Paths(NamedTuple):
    """States on two principal components of the untuned network's states on random coins."""

    background: np.ndarray  #: [sequence, time, component=2]: the untuned network on random coins
    prefix: dict[str, np.ndarray]  #: predictor -> start and prefix states [1, prefix, component]
    content: dict[str, np.ndarray]  #: predictor -> states on the sequences [sequence, time, ...]
    components: Components  #: the basis

    def figure(self) -> Figure:
        """One panel for each predictor; see `figures.prefix_trajectories`."""
        panels = {}
        for name, prefix in self.prefix.items():
            start = np.broadcast_to(prefix[:, -1:], (len(self.content[name]), 1, 2))
            panels[name] = prefix, np.concatenate([start, self.content[name]], axis=1)
        return figures.prefix_trajectories(self.background, panels)


def paths(base: Predictor, predictors: Mapping[str, Predictor], sequences: Sequences) -> Paths:
    """How the states of some predictors move while they read the same sequences.

    Args:
        base: the untuned network, whose states on 100 random coins give the two components.
        predictors: name -> predictor with the base's width of states.
        sequences: what to read; ten are enough for a picture.

    Example:
        >>> base = load_pretrained("lstm")
        >>> seen = paths(base, {"zeros": base.with_tokens([0, 0])}, _STUDIED.sample(
        ...     jax.random.key(0), 3, 10))
        >>> seen.prefix["zeros"].shape, seen.content["zeros"].shape
        ((1, 3, 2), (3, 10, 2))
    """
    background = base.states(random_coins().sample(jax.random.key(100), 100, 50).tokens).content
    components = fit_components(background)
    prefix, content = {}, {}
    for name, predictor in predictors.items():
        states = predictor.states(sequences.tokens)
        before = np.concatenate([np.asarray(states.start)[None], np.asarray(states.prefix)])
        prefix[name] = components.project(before)[None]
        content[name] = components.project(states.content)
    return Paths(components.project(background), prefix, content, components)


def prediction_map(predictor, length: int, *, per_count: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """p(1 | k ones in n flips) of a predictor, averaged over orders, and its spread over them.

    Args:
        predictor: tokens -> log-probabilities, over two tokens.
        length: the largest n.
        per_count: random orders for each k; fewer different ones where n is small.

    Returns:
        Mean and standard deviation [n, k], n and k from 0 to `length`, NaN where k > n.

    Example:
        >>> mean, spread = prediction_map(random_coins().predict, 3)
        >>> mean.round(2)[2], float(np.nanmax(spread)) < 1e-6
        (array([0.25, 0.5 , 0.75,  nan]), True)
    """
    rng = np.random.default_rng(0)
    rows = np.arange(length) < np.repeat(np.arange(length + 1), per_count)[:, None]
    tokens = rng.permuted(rows.astype(np.int32), axis=1)
    tokens = np.concatenate([tokens, tokens[:, :1]], axis=1)  # a last one, to be predicted
    ones = np.exp(np.asarray(predictor(jnp.asarray(tokens)))[..., 1])
    seen = np.cumsum(tokens, axis=1) - tokens
    mean = np.full((length + 1, length + 1), np.nan)
    spread = mean.copy()
    for n in range(length + 1):
        for k in range(n + 1):
            cell = ones[seen[:, n] == k, n]
            if len(cell):
                mean[n, k], spread[n, k] = cell.mean(), cell.std()
    return mean, spread


def kept(name: str) -> xr.Dataset:
    """What a study computed that is too long for a page; its `attrs` say where, when and by what.

    Args:
        name: of the study; `python book/studies/NAME.py` computes it again.

    Raises:
        FileNotFoundError: it has not been computed.
    """
    path = _study_path(name)
    if not path.is_file():
        raise FileNotFoundError(f"`name`: no {path}; `python book/studies/{name}.py` computes it.")
    with xr.open_dataset(path, engine="scipy") as opened:
        return opened.load()


def keep(name: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
    """Compute a study and keep it with its provenance; what is there already is not replaced.

    Args:
        name: of the study, as that of its script.
        compute: gives its numbers, with coordinates; `attrs` may hold notes.
    """
    path = _study_path(name)
    if not path.is_file():
        began = time.perf_counter()
        found = compute()
        origin = {**provenance(time.perf_counter() - began), "script": f"book/studies/{name}.py"}
        results.write(path, found.assign_attrs(origin), packed=())
    return kept(name)


def _study_path(name: str) -> Path:
    return Path(str(files("promptbayes"))) / "studies" / f"{name}.nc"
