"""The paper's claims (Section 4), on the stored results.

Regret is cumulative, in nats, on the target, the median over the stored repetitions. Two words are
given a number here, and only here:

- *reaches the optimum*: at most 0.03 nats above TargetBayes for every 50 predictions. The standard
  error of an evaluation is about 0.01 nats, and three of them are 0.03; the paper has two decimals.
- *stays clear of it*: more than that.

Where a claim of the paper does not show in our runs, the test asserts what shows instead, and its
docstring says so.
"""

import functools

import numpy as np
import pytest
from promptbayes import dirichlet, evaluate, exact, experiments, random_coins, results, states

NETWORKS = experiments.NETWORKS
PREFIXES = ("HardPT", "SimplexPT", "RealPT", "SoftPT")
NEAR = 0.03  # nats
N_TUNE, N_TRAIN, N_EVAL = experiments.MARKS


def gap(setting, network, method, mark=N_TUNE):
    """Median regret on the target above TargetBayes."""
    return gaps(setting, network, method, mark)[0]


def gaps(setting, network, method, mark=N_TUNE):
    """The same on each network (untrained: initialisation) that is stored, the default first."""
    rows = rows_of(setting, network, mark)
    return np.array(rows[method].networks) - rows["TargetBayes"].median


@functools.cache
def rows_of(setting, network, mark):
    return {row.predictor: row for row in results.summary(setting, network, mark=mark)}


def removed(setting, network):
    """The share of what could be removed that SoftPT removes, on each network."""
    tuned, untuned = (gaps(setting, network, method) for method in ("SoftPT", "NoTuning"))
    assert tuned.shape == untuned.shape
    return 1 - tuned / untuned


# 1. Pretrained networks predict like the Bayes predictor of the pretraining distribution.


@pytest.mark.parametrize("network", NETWORKS)
def test_1_pretrained_networks_are_near_bayes(network):
    """KL to the exact predictor over 100 steps is below the yardstick, KL(Laplace || KT)."""
    stored = results.load_cell("single-coin", network, "NoTuning")
    stored = stored.cumulative_regret.sel(evaluation="random-coins", mark=N_TRAIN, repetition=0)
    # On the same sequences as the network, so that their noise is the same and falls out.
    sequences = experiments.evaluation_sequences(
        experiments.SETTINGS["single-coin"], "random-coins"
    )
    cut = sequences._replace(
        tokens=sequences.tokens[:, :N_TRAIN], log_source=sequences.log_source[:, :N_TRAIN]
    )
    losses = evaluate(random_coins().predict, cut).sum(axis=1)
    oracle = -np.take_along_axis(
        np.asarray(cut.log_source), np.asarray(cut.tokens)[..., None], axis=-1
    ).sum(axis=(1, 2))
    of_bayes = (losses - oracle).mean()
    yardstick = exact.kl_divergence(random_coins(), dirichlet([0.5, 0.5]), N_TRAIN)
    assert 0 < float(stored) - of_bayes < yardstick


@pytest.mark.parametrize("network", NETWORKS)
def test_1_the_state_carries_step_and_ratio(network):
    """Two components explain more of both than they leave (R2 > 1/2; by chance about 0.05)."""
    tokens = experiments.background_sequences("single-coin").tokens
    content = experiments.base_predictor("single-coin", network).states(tokens).content
    a, b = states.fit_components(content).project(content).reshape(-1, 2).T
    terms = np.stack([np.ones_like(a), a, b, a * a, a * b, b * b], axis=1)
    ones, step = np.cumsum(tokens, axis=1).ravel(), np.tile(np.arange(1, 51), len(tokens))
    for wanted in (step, ones / step):
        rest = wanted - terms @ np.linalg.lstsq(terms, wanted, rcond=None)[0]
        assert rest.var() < 0.5 * wanted.var()


# 2. SoftPT steers both pretrained networks to the optimum on the single coin; no other prefix does.


@pytest.mark.parametrize("network", NETWORKS)
def test_2_a_soft_prefix_steers_to_one_coin(network):
    assert gap("single-coin", network, "SoftPT") < NEAR


@pytest.mark.parametrize("method", [*PREFIXES[:-1], "RandomPF"])
@pytest.mark.parametrize("network", NETWORKS)
def test_2_no_other_prefix_of_this_length_does(network, method):
    assert gap("single-coin", network, method) > NEAR


@pytest.mark.parametrize("network", NETWORKS)
def test_2_soft_prefixes_stay_good_beyond_the_steps_they_were_tuned_on(network):
    """The 150 steps after N_tune cost less than half of what they cost PreBayes."""
    later = gap("single-coin", network, "SoftPT", N_EVAL) - gap("single-coin", network, "SoftPT")
    prebayes = (
        exact.cumulative_regret(random_coins(), experiments.TASKS["single-coin"], mark)
        for mark in (N_EVAL, N_TUNE)
    )
    assert later < (next(prebayes) - next(prebayes)) / 2


# 3. No prefix reaches the optimum on the two-coin mixture; tuning weights does, also beyond N_tune.


@pytest.mark.parametrize("method", [*PREFIXES, "RandomPF"])
@pytest.mark.parametrize("network", NETWORKS)
def test_3_no_prefix_reaches_the_mixture(network, method):
    assert gap("two-coin-mixture", network, method) > NEAR


REACH_THE_MIXTURE = [
    ("lstm", "FullWT"),
    ("lstm", "EmbedWT"),
    ("lstm", "Un+EmbedWT"),
    ("transformer", "FullWT"),
    ("transformer", "LoRAWT"),
]


@pytest.mark.parametrize("mark", experiments.MARKS)
@pytest.mark.parametrize(("network", "method"), REACH_THE_MIXTURE)
def test_3_weights_reach_the_mixture_and_beyond_tuning(network, method, mark):
    assert gap("two-coin-mixture", network, method, mark) < NEAR * mark / N_TUNE


# 4. On untrained networks.

UNTRAINED = "untrained-two-coin-mixture", "untrained-random-coins"


@pytest.mark.parametrize("setting", UNTRAINED)
def test_4_a_soft_prefix_alone_steers_an_untrained_transformer(setting):
    """It removes more than four fifths of what could be removed; other prefixes less than half."""
    untuned = gap(setting, "transformer", "NoTuning")
    assert NEAR < gap(setting, "transformer", "SoftPT") < untuned / 5
    for method in PREFIXES[:-1]:
        assert gap(setting, "transformer", method) > untuned / 2


@pytest.mark.parametrize("setting", UNTRAINED)
def test_4_it_degrades_beyond_tuning_and_lora_is_very_effective(setting):
    soft, lora = (
        np.array([gap(setting, "transformer", method, mark) for mark in (N_TUNE, N_EVAL)])
        for method in ("SoftPT", "LoRAWT")
    )
    # More regret for each of the 150 later steps than for each of the 50 first.
    assert (soft[1] - soft[0]) / (N_EVAL - N_TUNE) > soft[0] / N_TUNE
    assert lora[0] < soft[0]


@pytest.mark.parametrize("setting", UNTRAINED)
def test_4_it_does_little_for_an_untrained_lstm(setting):
    """Less than half of what it does for the Transformer, as a share of what could be removed."""
    left = {
        network: gap(setting, network, "SoftPT") / gap(setting, network, "NoTuning")
        for network in NETWORKS
    }
    assert 1 - left["lstm"] < (1 - left["transformer"]) / 2


@pytest.mark.parametrize("setting", UNTRAINED)
def test_4_so_it_is_on_every_initialisation(setting):
    """With the bounds of the tests above."""
    lstm, transformer = (removed(setting, network) for network in NETWORKS)
    assert len(lstm) == len(transformer) > 1
    assert min(transformer) > 4 / 5
    assert max(lstm) < min(transformer) / 2


# 5. Length 25 instead of 6 changes neither 3 nor 4.


@pytest.mark.parametrize("method", PREFIXES[1:])
@pytest.mark.parametrize("network", NETWORKS)
def test_5_a_longer_prefix_does_not_reach_the_mixture(network, method):
    assert gap("prefix-25-two-coin-mixture", network, method) > NEAR


def test_5_a_longer_soft_prefix_alone_steers_an_untrained_transformer():
    setting = "prefix-25-untrained"
    untuned = gap(setting, "transformer", "NoTuning")
    assert NEAR < gap(setting, "transformer", "SoftPT") < untuned / 5
    for method in ("SimplexPT", "RealPT"):
        assert gap(setting, "transformer", method) > untuned / 2


# 6. An embedding of width 4 takes most of SoftPT's advantage away.


def lead(setting, network, over):
    """By how much SoftPT is better than another method, in nats."""
    return gap(setting, network, over) - gap(setting, network, "SoftPT")


@pytest.mark.parametrize(
    ("network", "target"),
    [
        ("lstm", "single-coin"),
        ("transformer", "single-coin"),
        ("transformer", "two-coin-mixture"),
    ],
)
def test_6_a_narrow_embedding_makes_soft_prefixes_weak(network, target):
    """SoftPT's lead over HardPT is less than half of what it is at width 128."""
    narrow = lead(f"embedding-4-{target}", network, "HardPT")
    assert narrow < lead(target, network, "HardPT") / 2


def test_6_except_on_the_lstm_and_the_mixture_where_hard_prompts_do_harm():
    """Finding: there the lead over HardPT stays, for hard prompts are worse than none.

    What is more than halved is the lead over the network without a prompt.
    """
    wide, narrow = "two-coin-mixture", "embedding-4-two-coin-mixture"
    assert gap(wide, "lstm", "HardPT") > gap(wide, "lstm", "NoTuning")
    assert lead(narrow, "lstm", "HardPT") > lead(wide, "lstm", "HardPT") / 2
    assert lead(narrow, "lstm", "NoTuning") < lead(wide, "lstm", "NoTuning") / 2


# 7. Larger networks change nothing in kind.


def stored_large(setting, network, method):
    """Skips where the cell is not stored; `table` lists these."""
    if method not in rows_of(setting, network, N_TUNE):
        pytest.skip(f"{setting}/{network}/{method} is not stored")


@pytest.mark.parametrize("setting", ["large-single-coin", "large-two-coin-mixture"])
def test_7_the_cells_that_the_claim_rests_on_are_stored(setting):
    """SoftPT and NoTuning on two large Transformers; other cells may be missing."""
    rows = rows_of(setting, "transformer", N_TUNE)
    assert all(len(rows[method].networks) >= 2 for method in ("SoftPT", "NoTuning"))


@pytest.mark.parametrize("network", NETWORKS)
def test_7_a_soft_prefix_steers_large_networks_to_one_coin(network):
    """More than nine tenths of its own fault are removed, on every large network."""
    assert min(removed("large-single-coin", network)) > 9 / 10


def test_7_to_the_optimum_but_not_on_every_network():
    """Finding: both Transformers and one LSTM are steered to the optimum; the other LSTM is not.

    The paper has 0.01 and 0.03 nats.
    """
    lstm, transformer = (gaps("large-single-coin", network, "SoftPT") for network in NETWORKS)
    assert min(lstm) < NEAR < max(lstm)
    assert max(transformer) < NEAR


@pytest.mark.parametrize("method", [*PREFIXES[:-1], "RandomPF"])
@pytest.mark.parametrize("network", NETWORKS)
def test_7_no_other_prefix_steers_a_large_network_further(network, method):
    stored_large("large-single-coin", network, method)
    soft = gap("large-single-coin", network, "SoftPT")
    assert gap("large-single-coin", network, method) > soft + NEAR


@pytest.mark.parametrize("method", [*PREFIXES, "RandomPF"])
@pytest.mark.parametrize("network", NETWORKS)
def test_7_no_prefix_takes_a_large_network_to_two_coins(network, method):
    stored_large("large-two-coin-mixture", network, method)
    assert gap("large-two-coin-mixture", network, method) > NEAR


@pytest.mark.parametrize(("network", "method"), REACH_THE_MIXTURE)
def test_7_weights_take_a_large_network_to_two_coins(network, method):
    stored_large("large-two-coin-mixture", network, method)
    assert gap("large-two-coin-mixture", network, method) < NEAR
