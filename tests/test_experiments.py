"""The paper's settings as data, and one small cell of each kind from end to end."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
from conftest import NETWORKS, roundings
from promptbayes import (
    METHODS,
    Prefix,
    Training,
    __main__,
    coin,
    cumulative_regret,
    dirichlet,
    evaluate,
    experiments,
    results,
    tune,
)
from promptbayes.__main__ import main
from promptbayes.predictor import pretrained_path, settings

PAPER = experiments.SETTINGS
SHORT = Training(num_steps=2, batch_size=4, length=5)


@pytest.fixture(autouse=True)
def small_scale(monkeypatch):
    """Eight sequences instead of 2048, and two steps instead of a thousand."""
    small = {
        name: replace(setting, training=SHORT, num_evaluation=8)
        for name, setting in experiments.SETTINGS.items()
    }
    monkeypatch.setattr(experiments, "SETTINGS", small)


WITH_MEMORY = {
    *("single-coin", "two-coin-mixture"),
    *("untrained-two-coin-mixture", "untrained-random-coins"),
}


def test_twenty_settings():
    settings = experiments.SETTINGS
    assert len(settings) * len(experiments.NETWORKS) == 20
    assert {s.target for s in settings.values()} == set(experiments.TASKS)
    assert set(experiments.PAPER_METHODS) - {"NoTuning", "RandomPF"} == set(METHODS) - {"Memory"}
    assert all(set(s.methods) <= {*METHODS, "NoTuning", "RandomPF"} for s in settings.values())
    for name, setting in settings.items():
        length = 25 if name.startswith("prefix-25") else 6
        assert setting.methods["SoftPT"].length == setting.prefix_length == length
        assert setting.methods["RandomPF"].length == length
        assert ("Memory" in setting.methods) == (name in WITH_MEMORY)
    assert settings["single-coin"].repetitions_of("Memory") == 3
    # Table of settings in the protocol: three repetitions where the paper has three.
    three = {name for name, s in settings.items() if s.repetitions == 3}
    assert three == {n for n in settings if n.startswith(("embedding-4", "large"))}
    assert "LoRAWT" in settings["single-coin"].methods_for("transformer")
    assert "LoRAWT" not in settings["single-coin"].methods_for("lstm")


@pytest.mark.parametrize("method", ["NoTuning", "RandomPF", "HardPT", "SoftPT", "UnembedWT"])
def test_a_cell(method):
    cell = experiments.run_cell(
        "untrained-two-coin-mixture", "lstm", method, [0, 3], progress=False
    )
    assert dict(cell.regret.sizes) == {"repetition": 2, "evaluation": 3, "step": 200}
    np.testing.assert_array_equal(cell.repetition, [0, 3])
    # The curve and what tables quote are one computation: they agree to float32's rounding of
    # 200 summands of at most some nats.
    summed = cell.regret.cumsum("step").sel(step=cell.mark)
    np.testing.assert_allclose(summed, cell.cumulative_regret, rtol=1e-4, atol=1e-3)
    assert cell.attrs["method"] == method
    if method == "HardPT":
        assert cell.prompt_loss.shape == (2, 64)
    if method in ("SoftPT", "UnembedWT"):
        assert cell.theta.shape == (2, {"SoftPT": 768, "UnembedWT": 258}[method])
        assert cell.loss.sizes["repetition"] == 2
    if method in ("SoftPT", "HardPT", "RandomPF"):
        assert cell.prefix_trajectory.shape == (2, 6, 2)
        assert cell.trajectory.shape == (2, 2, 50, 2)


def test_the_untuned_cell_keeps_the_network():
    """Its states on pretraining sequences, whitened, with their bias, and its pretraining loss."""
    cell = experiments.run_cell("single-coin", "lstm", "NoTuning", [0])
    points, tau = cell.background.values.reshape(-1, 2), cell.background_tau.values.astype(float)
    # The components were fitted to these 100 x 50 states, computed in float32.
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=roundings(100))
    np.testing.assert_allclose(points.var(axis=0), 1, rtol=roundings(100))
    ones = np.asarray(experiments.background_sequences("single-coin").tokens).sum(axis=1)
    excess = (ones - 50 * tau) ** 2 / (50 * tau * (1 - tau))
    # Squares of about standard normals: mean 1, and the mean of 100 is off by sqrt(2 / 100).
    assert abs(excess.mean() - 1) < 4 * np.sqrt(2 / 100)
    losses = settings(pretrained_path("lstm"))["losses"]
    means = [np.mean(losses[i : i + 10]) for i in range(0, 1000, 10)]
    np.testing.assert_allclose(cell.pretraining_loss, means, rtol=roundings(1))
    untrained = experiments.run_cell("untrained-random-coins", "lstm", "NoTuning", [0])
    assert "background" in untrained
    assert "pretraining_loss" not in untrained
    # Each says which network it was.
    assert (cell.attrs["network_seed"], untrained.attrs["network_seed"]) == (2, 0)


def test_repetitions_do_not_depend_on_their_company():
    """Repetition 3 alone starts from the same prefix and sees the same data as beside others."""
    run = {
        tuple(which): experiments.run_cell(
            "untrained-two-coin-mixture", "lstm", "SoftPT", which, progress=False
        )
        for which in ([0, 3], [3])
    }
    together, alone = run[0, 3].isel(repetition=1), run[(3,)].isel(repetition=0)
    # Two steps of Adam: the same sums in another order at most, a few float32 roundings.
    np.testing.assert_allclose(together.theta, alone.theta, atol=1e-5)
    np.testing.assert_allclose(together.loss, alone.loss, rtol=1e-5)


def test_methods_share_data_and_baseline():
    """The first loss of methods that start as the base itself is the same: same data, same base."""
    losses = [
        experiments.run_cell(
            "untrained-two-coin-mixture", "lstm", method, [1], progress=False
        ).loss.values[0, 0]
        for method in ("EmbedWT", "UnembedWT")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_unknown_names_are_listed():
    with pytest.raises(ValueError, match="`setting` must be one of single-coin"):
        experiments.run_cell("triple-coin", "lstm", "SoftPT", [0])
    with pytest.raises(ValueError, match="`method` of single-coin on the lstm must be one of"):
        experiments.run_cell("single-coin", "lstm", "LoRAWT", [0])


def test_reproduce_skips_what_is_there(tmp_path, capsys):
    command = ["reproduce", "untrained-two-coin-mixture", "--network", "lstm", "--methods"]
    command += ["NoTuning", "RandomPF", "--folder", str(tmp_path)]
    main([*command, "--repetitions", "1"])
    path = results.cell_path("untrained-two-coin-mixture", "lstm", "RandomPF", folder=tmp_path)
    first = results.read(path)
    main([*command, "--repetitions", "2"])
    second = results.read(path)
    np.testing.assert_array_equal(second.repetition, [0, 1])
    np.testing.assert_array_equal(second.cumulative_regret[0], first.cumulative_regret[0])
    written = path.stat().st_mtime_ns
    main([*command, "--repetitions", "2"])
    assert path.stat().st_mtime_ns == written


def test_what_no_tuning_is_stored_for_gets_it_first(tmp_path):
    """And then cells of another network are named and not stored; the rest goes on."""
    setting = "untrained-random-coins"
    command = ["--network", "lstm", "--folder", str(tmp_path), "--methods", "RandomPF"]
    main(["reproduce", setting, *command, "--repetitions", "1"])
    untuned, random = (
        results.cell_path(setting, "lstm", method, folder=tmp_path)
        for method in ("NoTuning", "RandomPF")
    )
    assert random.is_file()
    stored = results.read(untuned)
    other = stored.assign(cumulative_regret=stored.cumulative_regret + 0.01)
    results.write(untuned, other)
    both = [setting, setting.replace("random-coins", "two-coin-mixture")]
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", *both, *command, "--repetitions", "2"])
    # A text: printed on stderr, and the exit code is 1.
    assert f"{setting}/lstm/RandomPF: `path`: {random} belongs to another" in stopped.value.code
    assert len(results.read(random).repetition) == 1
    mixture = results.cell_path("untrained-two-coin-mixture", "lstm", "RandomPF", folder=tmp_path)
    assert len(results.read(mixture).repetition) == 2


def test_a_dry_run_tells_what_is_missing_and_runs_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(__main__, "_speed", lambda name: 1e9)
    monkeypatch.setattr(experiments, "run_cell", None)
    command = ["reproduce", "single-coin", "--network", "lstm", "--methods", "SoftPT"]
    main([*command, "--repetitions", "2", "--folder", str(tmp_path), "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    blocks = len(lines) - 3  # one of NoTuning, then all repetitions side by side or one by one
    assert [line.split(":")[0] for line in lines[:2]] == [
        "single-coin/lstm/NoTuning",
        "single-coin/lstm/SoftPT",
    ]
    seconds = (
        experiments.work("single-coin", "lstm", "NoTuning")
        + experiments.work("single-coin", "lstm", "SoftPT") * (blocks)
    ) / 1e9
    assert f"single-coin, lstm: {seconds / 3600:.2f} hours" in lines
    assert not list(tmp_path.iterdir())


def test_speed_is_measured_by_a_few_steps():
    """On a small network, whose steps take no time: a positive number."""
    assert __main__._speed(NETWORKS["LSTM"]) > 0


SMALL_CAMPAIGN = """
import sys
from dataclasses import replace
from promptbayes import Training, __main__, experiments

short = Training(num_steps=2, batch_size=4, length=5)
for name, setting in experiments.SETTINGS.items():
    experiments.SETTINGS[name] = replace(setting, training=short, num_evaluation=8)
__main__.main(sys.argv[1:])
"""


def test_a_killed_campaign_goes_on_where_it_was(tmp_path):
    """kill -9 costs the block of repetitions that was running, and leaves only whole files."""
    command = [sys.executable, "-c", SMALL_CAMPAIGN, "reproduce", "untrained-two-coin-mixture"]
    command += ["--network", "lstm", "--methods", "UnembedWT", "--folder", str(tmp_path)]
    path = results.cell_path("untrained-two-coin-mixture", "lstm", "UnembedWT", folder=tmp_path)
    # Compiled fast; numbers are compared with numbers of such programs alone.
    fast = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    forever = [*command, "--repetitions", "999"]
    with subprocess.Popen(forever, stderr=subprocess.PIPE, env=fast) as process:
        while not path.exists():
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    kept = results.read(path)
    done = len(kept.repetition)
    assert 0 < done < 999
    np.testing.assert_array_equal(kept.repetition, range(done))
    one_more = [*command, "--repetitions", str(done + 1)]
    subprocess.run(one_more, check=True, capture_output=True, env=fast)
    whole = results.read(path)
    np.testing.assert_array_equal(whole.repetition, range(done + 1))
    for name in ("cumulative_regret", "theta"):
        np.testing.assert_array_equal(whole[name][:done], kept[name])


def test_work_is_what_takes_time():
    """Twice the layers and width are about eight times the work; what is tuned matters less."""
    work, single = experiments.work, PAPER["single-coin"]
    softpt = work(single, "transformer", "SoftPT")
    assert 7 < work(PAPER["large-single-coin"], "transformer", "SoftPT") / softpt < 9
    assert work(single, "transformer", "FullWT") > softpt
    assert work(single, "transformer", "NoTuning") < softpt / 10


def test_shards_share_nothing_and_miss_nothing(tmp_path):
    from argparse import Namespace

    from promptbayes.__main__ import _cells

    options = Namespace(
        settings=[], network=None, methods=None, repetitions=None, network_seed=None
    )
    cells, everything = {}, (experiments.SETTINGS, tmp_path, [])
    for shard in ("1/1", "1/3", "2/3", "3/3"):
        options.shard = shard
        cells[shard] = [cell for cell, _ in _cells(options, *everything)]
    parts = [set(cells[f"{i}/3"]) for i in (1, 2, 3)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(cells["1/1"])
    options.shard = "4/3"
    with pytest.raises(ValueError, match="`--shard` must be i/n"):
        list(_cells(options, *everything))


def test_a_memory_runs_from_two_starts(monkeypatch):
    """The run with the lower last losses is the cell, the other stands beside it."""
    name, network = "untrained-two-coin-mixture", "lstm"
    chosen, runs, starts = experiments.SETTINGS[name], {}, []

    def tuned_as_it_should_be(*arguments, start=None, **options):
        run = tune(*arguments, start=start, **options)
        begun = "random" if start is None else "SoftPT"
        better = np.array([begun == "random", begun == "SoftPT"])  # in repetition 0, in 1
        runs[begun] = run._replace(losses=run.losses + np.where(better, 0, 9)[:, None])
        starts.append(start)
        return runs[begun]

    monkeypatch.setattr(experiments, "tune", tuned_as_it_should_be)
    prefixes = np.random.default_rng(0).normal(size=(2, 6, 128)).astype(np.float32)
    cell = experiments.run_cell(name, network, "Memory", [0, 1], prefixes=prefixes, progress=False)
    assert cell.start.values.tolist() == ["random", "SoftPT"]
    sequences = experiments.evaluation_sequences(chosen, chosen.target)
    for r, (better, other) in enumerate([("random", "SoftPT"), ("SoftPT", "random")]):
        theta = [np.ravel(leaf[r]) for leaf in jax.tree.leaves(runs[better].theta)]
        np.testing.assert_array_equal(cell.theta[r], np.concatenate(theta))
        for run, prefixed in ((runs[better], ""), (runs[other], "other_")):
            np.testing.assert_array_equal(cell[f"{prefixed}loss"][r], run.losses[r].astype("f4"))
            losses = evaluate(run.predictor(r), sequences)
            expected = cumulative_regret(losses, sequences).mean[49]
            found = cell[f"{prefixed}cumulative_regret"].sel(evaluation=chosen.target, mark=50)
            np.testing.assert_allclose(found[r], expected, rtol=roundings(1))
    # What SoftPT's prefix leaves is what the second run starts from: it predicts the same.
    base, method = experiments.base_predictor(name, network), chosen.methods["Memory"]
    assert starts[0] is None
    for r in range(2):
        started = method.apply(base, jax.tree.map(lambda leaf, r=r: leaf[r], starts[1]))
        prompted = chosen.methods["SoftPT"].apply(base, prefixes[r])
        np.testing.assert_allclose(started([[0, 1]]), prompted([[0, 1]]), atol=1e-6)


def test_a_memory_runs_after_soft_prefixes(tmp_path):
    """Refused without them; in one command they come first, wherever they are named."""
    name = "untrained-two-coin-mixture"
    command = ["reproduce", name, "--network", "lstm", "--folder", str(tmp_path), "--methods"]
    with pytest.raises(SystemExit, match="lstm/Memory: a memory starts from SoftPT's prefix too"):
        main([*command, "Memory", "--repetitions", "1"])
    for count in ("1", "2"):
        main([*command, "Memory", "SoftPT", "--repetitions", count])
    stored = results.load_cell(name, "lstm", "Memory", tmp_path)
    np.testing.assert_array_equal(stored.repetition, [0, 1])
    assert set(stored.start.values) <= {"random", "SoftPT"}
    assert stored.other_loss.dims == stored.loss.dims
    assert stored.sizes["parameter"] == 2 * 128  # cell and hidden states of one layer
    assert "prefix_trajectory" not in stored


def test_untrained_is_one_fixed_initialisation():
    base = experiments.base_predictor("untrained-random-coins", "lstm")
    chosen = experiments.SETTINGS["untrained-random-coins"]
    again = experiments.base_predictor(replace(chosen), "lstm")
    for mine, other in zip(jax.tree.leaves(base), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_what_a_setting_cannot_be_is_said():
    setting, paper = experiments.Setting, experiments.TASKS
    for fields, message in (
        ({"target": "typo"}, "`target` must be one of `tasks`, random-coins, .* got 'typo'"),
        ({"target": "mine", "tasks": {"mine": coin(0.3)}}, "`pretraining` must be one of"),
        ({"networks": {"gru": "gru"}}, "`networks`: gru must be one of lstm, transformer"),
        (
            {"networks": {"mine": NETWORKS["LSTM"]}},
            "`networks`: mine must be a Predictor, .* got LSTM",
        ),
        ({"tasks": paper | {"die": dirichlet([1.0] * 3)}}, "`tasks`: die must have the alphabet"),
        ({"tasks": paper | {"mine": 0.3}}, "`tasks` must be pytrees of numbers, .* got 0.3"),
        ({"tasks": paper | {"a/b": coin(0.3)}}, "`tasks` must have names of letters"),
        (
            {"tasks": paper | {"random-coins": dirichlet([2.0, 1.0])}},
            "`networks`: lstm comes pretrained on random coins alone",
        ),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            setting(**{"target": "single-coin"} | fields)
    short = setting(target="single-coin", methods={"SoftPT": Prefix("soft", 0)})
    with pytest.raises(ValueError, match="SoftPT can tune no network. `length` must be at least 1"):
        short.methods_for("lstm")


def test_a_repetition_beyond_the_twentieth_has_its_trajectories():
    setting = replace(PAPER["untrained-random-coins"], repetitions=25, num_evaluation=8)
    cell = experiments.run_cell(setting, "lstm", "RandomPF", [2, 22])
    assert cell.trajectory.shape == (2, 1, 50, 2)
    assert np.isfinite(cell.trajectory).all()


def test_cells_that_cannot_be_run_are_named(tmp_path):
    """By name and reason, with exit code 1, after all others were run."""
    command = ["reproduce", "untrained-random-coins", "--network", "lstm", "--repetitions", "1"]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--methods", "LoRAWT", "RandomPF", "--folder", str(tmp_path)])
    assert "untrained-random-coins/lstm/LoRAWT cannot be run: LoRA is defined on" in str(
        stopped.value.code  # a text: printed on stderr, and the exit code is 1
    )
    assert {path.name for path in tmp_path.rglob("*.nc")} == {"NoTuning.nc", "RandomPF.nc"}


def test_the_seed_of_an_evaluation_set_is_its_name():
    """The paper's three keep their numbers, wherever they stand."""
    for number, (name, task) in enumerate(experiments.TASKS.items()):
        key = jax.random.fold_in(jax.random.key(2048), number)
        expected = task.sample(key, 8, 200).tokens
        setting = replace(PAPER["single-coin"], num_evaluation=8)
        found = experiments.evaluation_sequences(setting, name).tokens
        np.testing.assert_array_equal(found, expected)
    seeds = {experiments.evaluation_seed(name) for name in ("worn", "coin", "a", "b")}
    assert len(seeds) == 4


OWN = """
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from promptbayes import LSTM, Sequences, initialise, random_coins
from promptbayes.experiments import Setting, methods_named


class Sticky(NamedTuple):
    stay: float
    num_tokens = 2

    def sample(self, key, num_sequences, length):
        turns = jax.random.bernoulli(key, 1 - self.stay, (num_sequences, length))
        tokens = jnp.cumsum(turns, axis=1, dtype=jnp.int32) % 2
        before = jnp.concatenate([jnp.zeros_like(tokens[:, :1]), tokens[:, :-1]], axis=1)
        stays = jax.nn.one_hot(before, 2)
        return Sequences(tokens, jnp.log(stays * self.stay + (1 - stays) * (1 - self.stay)))


@dataclass(frozen=True)
class Bias:
    def check(self, base):
        pass

    def init(self, key, base):
        return base.params["unembedding"]["bias"]

    def apply(self, base, theta):
        unembedding = base.params["unembedding"] | {"bias": theta}
        return base._replace(params=base.params | {"unembedding": unembedding})


SETTINGS = {
    "sticky": Setting(
        target="sticky-coin",
        tasks={"sticky-coin": Sticky(0.9), "random-coins": random_coins()},
        networks={"small": initialise(LSTM(embedding_width=6, width=8), jax.random.key(0))},
        methods=methods_named("HardPT", "SoftPT", "RandomPF", length=2) | {"Bias": Bias()},
        repetitions=2,
        num_evaluation=8,
    )
}
"""
COMMANDS = """
import sys
from promptbayes import results
from promptbayes.__main__ import main

own = sys.argv[1]
main(["reproduce", own, "--steps", "4", "--batch", "8"])
main(["reproduce", own, "--steps", "4", "--batch", "8"])
main(["table", own, "--folder", own.replace(".py", "-quick")])
main(["figures", own, "--folder", own.replace(".py", "-quick"), "--out", sys.argv[2]])
print(results.summary("single-coin", "lstm")[0].predictor, "of the paper's")
"""


def test_own_settings_are_run_printed_and_drawn(tmp_path):
    """A task, a method and a network of one's own, from another folder, by the commands alone."""
    own, out = tmp_path / "mine" / "my_settings.py", tmp_path / "figures"
    own.parent.mkdir()
    own.write_text(OWN)
    ran = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(own), str(out)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    folder = own.parent / "my_settings-quick"
    cells = {path.stem: results.read(path) for path in folder.rglob("*.nc")}
    assert set(cells) == {"HardPT", "SoftPT", "RandomPF", "Bias", "NoTuning"}
    assert {path.name for path in own.parent.iterdir()} - {"__pycache__"} == {own.name, folder.name}
    said = results.experiment(cells["Bias"])
    assert said["tasks"]["sticky-coin"]["stay"] == 0.9
    assert said["tasks"]["sticky-coin"]["kind"] == "Sticky"
    assert (said["training"]["num_steps"], said["training"]["batch_size"]) == (4, 8)
    assert "0 repetitions to run" in ran.stdout  # the second time
    for row in ("sticky small Bias", "sticky small NoTuning"):
        assert row in " ".join(ran.stdout.split())
    assert "sticky: `exact` knows no Bayes predictor of sticky-coin" in ran.stdout
    assert "not the setting's training, but 4 steps of 8 sequences" in ran.stdout
    assert "TargetBayes of the paper's" in ran.stdout
    drawn = {path.stem for path in (out / "sticky" / "small").iterdir()}
    assert {"tuning-loss", "hard-prefixes", "states", "trajectories"} <= drawn
    assert {"bars-sticky-coin", "cumulative-regret-random-coins"} <= drawn
