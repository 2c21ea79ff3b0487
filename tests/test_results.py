"""The store: what is written is read, nothing is ever half there, foreign files are named."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
import xarray as xr
from promptbayes import LSTM, Training, __main__, coin, exact, experiments, initialise, results

UNTUNED = np.arange(9, dtype=np.float32).reshape(3, 3)  # of the network that all cells start from


@pytest.fixture
def path(tmp_path):
    """Where a cell goes whose network is known: its NoTuning cell is there."""
    untuned = cell([0], "NoTuning")
    untuned = untuned.assign(cumulative_regret=untuned.cumulative_regret * 0 + UNTUNED)
    results.append(tmp_path / "NoTuning.nc", untuned)
    return tmp_path / "SoftPT.nc"


def cell(repetitions, method="SoftPT", seconds=1.0, setting="single-coin"):
    """A cell as `run_cell` makes it, with numbers that say where they belong."""
    repetitions = np.array(repetitions, np.int32)
    size = len(repetitions)
    curve = (
        np.linspace(-1, 3, 200)[None, None, :] + repetitions[:, None, None] + np.zeros((1, 3, 1))
    )
    return xr.Dataset(
        {
            "regret": (("repetition", "evaluation", "step"), curve.astype(np.float32)),
            "cumulative_regret": (
                ("repetition", "evaluation", "mark"),
                np.cumsum(curve, axis=-1)[..., [49, 99, 199]].astype(np.float32),
            ),
            "cumulative_regret_error": (
                ("repetition", "evaluation", "mark"),
                np.full((size, 3, 3), 0.25, np.float32),
            ),
            "loss": (("repetition", "tuning_step"), np.full((size, 4), 30.0, np.float32)),
            "untuned_regret": (("evaluation", "mark"), UNTUNED),
        },
        coords={
            "repetition": repetitions,
            "evaluation": list(experiments.TASKS),
            "step": np.arange(1, 201, dtype=np.int32),
            "mark": np.array([50, 100, 200], np.int32),
            "tuning_step": 125.5 + 250 * np.arange(4),
        },
        attrs=experiments.cell_attributes(setting, "lstm", method)
        | {
            "seconds": seconds,
            "versions": "jax-0.10.2",
            "commit": "abc1234",
            "device": "2 x cpu, x86_64",
            "date": "2026-11-21",
        },
    )


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "SoftPT.nc"
    written = cell([0, 1])
    results.write(path, written)
    read = results.read(path)
    # 16 bits over 32500 steps of the largest value: off by at most half a step of the packing.
    half_step = float(np.abs(written.regret).max()) / 32500 / 2
    # and by float32's rounding of what is unpacked
    np.testing.assert_allclose(read.regret, written.regret, rtol=2**-22, atol=1.01 * half_step)
    np.testing.assert_array_equal(read.cumulative_regret, written.cumulative_regret)
    assert read.attrs["setting"] == "single-coin"
    assert list(tmp_path.iterdir()) == [path]


def test_a_cell_says_with_which_micro_batch_it_was_begun(path, monkeypatch):
    """Of several the first; cells from before there was a choice, and searches, say none."""
    assert results.micro_batch(path) is None
    results.append(path, cell([0]))
    assert results.micro_batch(path) is None
    for repetition, size in enumerate(("16", "16", "32"), start=1):
        results.append(path, cell([repetition]).assign_attrs(micro_batch=size))
    assert results.read(path).attrs["micro_batch"] == "16; 32"
    assert results.micro_batch(path) == 16
    monkeypatch.setattr(results.jax, "default_backend", lambda: "gpu")
    assert results.micro_batch(path) is None


def test_appending_adds_only_what_is_new(path):
    results.append(path, cell([0, 1]))
    altered = cell([1, 2]).assign(cumulative_regret=cell([1, 2]).cumulative_regret + 100)
    results.append(path, altered)
    read = results.read(path)
    np.testing.assert_array_equal(read.repetition, [0, 1, 2])
    np.testing.assert_array_equal(
        read.cumulative_regret[1], cell([1]).cumulative_regret[0], "a kept repetition changed"
    )
    assert read.attrs["seconds"] == 2.0


def test_a_cell_says_where_all_its_repetitions_come_from(path):
    later = {"commit": "def5678", "date": "2026-11-22"}
    for repetition, changed in enumerate(({}, later, later, {})):
        results.append(path, cell([repetition]).assign_attrs(changed))
    origin = results.read(path).attrs
    assert origin["commit"] == "abc1234; def5678"
    assert origin["date"] == "2026-11-21; 2026-11-22"
    assert origin["device"] == "2 x cpu, x86_64"


def test_repetitions_are_in_order_however_they_come(path):
    for repetitions in ([2, 3], [0], [1]):
        results.append(path, cell(repetitions))
    read = results.read(path)
    np.testing.assert_array_equal(read.repetition, range(4))
    np.testing.assert_array_equal(read.cumulative_regret, cell(range(4)).cumulative_regret)


SMALL = initialise(LSTM(width=8), jax.random.key(0))
SINGLE = experiments.SETTINGS["single-coin"]
OTHERS = {
    r"training\.num_steps is 1000 there and 20 here": {
        "training": replace(SINGLE.training, num_steps=20)
    },
    r"tasks\.single-coin\.probs is \[\[0\.8, 0\.2\]\] there and \[\[0\.7, 0\.3\]\] here": {
        "tasks": experiments.TASKS | {"single-coin": coin(0.3)}
    },
    "target is single-coin there and two-coin-mixture here": {"target": "two-coin-mixture"},
    r"tasks\.another": {"tasks": experiments.TASKS | {"another": coin(0.5)}},
    r"evaluation\.sequences is 2048 there and 64 here": {"num_evaluation": 64},
    "architecture is LSTM.* there and LSTM.*width=8": {"networks": {"lstm": SMALL}},
}


@pytest.mark.parametrize("there", [[], [0]])
@pytest.mark.parametrize("named", OTHERS)
def test_cells_of_another_experiment_do_not_mix(path, named, there):
    """Not with the cell, nor with what lies beside it; the difference is named."""
    if there:
        results.append(path, cell(there))
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    other = cell([1], setting=replace(SINGLE, **OTHERS[named]))
    with pytest.raises(ValueError, match=f"is of another experiment: .*{named}"):
        results.append(path, other)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_another_method_of_the_same_name_is_refused(path):
    results.append(path, cell([0]))
    longer = replace(SINGLE, methods=experiments.methods_named("SoftPT", length=7))
    with pytest.raises(ValueError, match=r"method is Prefix\(.*length=6\) there"):
        results.append(path, cell([1], setting=longer))


def test_tasks_in_another_order_come_under_their_own_names(path):
    """By their labels, in the cell and in what its network is known by."""
    results.append(path, cell([0]))
    tasks = dict(reversed(experiments.TASKS.items()))
    permuted = cell([1], setting=replace(SINGLE, tasks=tasks)).isel(evaluation=[2, 1, 0])
    permuted["regret"] = permuted.regret + np.arange(3)[None, :, None]  # each task its own
    results.append(path, permuted)
    read = results.read(path)
    for task in experiments.TASKS:
        here, there = (data.cumulative_regret.sel(evaluation=task) for data in (permuted, read))
        np.testing.assert_array_equal(there[1], here[0])
        here, there = (data.regret.sel(evaluation=task) for data in (permuted, read))
        # Packed as 16 bits: off by half a step of the largest value, and float32's rounding.
        np.testing.assert_allclose(there[1], here[0], rtol=2**-22, atol=1.01 * 8 / 32500 / 2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda block: block.isel(step=slice(100)), "has other labels of step"),
        (lambda block: block.drop_vars("loss"), "has other variables than the block: loss"),
        (
            lambda block: block.assign_coords(tuning_step=np.arange(4.0)),
            "has other labels of tuning_step",
        ),
    ],
)
def test_other_axes_are_refused(path, change, named):
    results.append(path, cell([0]))
    with pytest.raises(ValueError, match=named):
        results.append(path, change(cell([1])))
    np.testing.assert_array_equal(results.read(path).repetition, [0])


def test_a_file_says_what_is_in_it(path):
    results.append(path, cell([0]))
    said = results.experiment(results.read(path))
    assert (said["target"], said["pretraining"]) == ("single-coin", "random-coins")
    assert said["tasks"]["two-coin-mixture"] == {
        "kind": "CategoricalMixture",
        "weights": [0.5, 0.5],
        "probs": [[0.8, 0.2], [0.2, 0.8]],
        "evaluation_seed": 2,
    }
    assert Training(**said["training"]) == SINGLE.training
    assert said["evaluation"] == {"seed": 2048, "sequences": 2048, "length": 200}


def test_a_file_of_the_old_form_is_named_and_left_alone(path):
    old = cell([0])
    del old.attrs["experiment"]
    results.write(path, old)
    before = path.read_bytes()
    for touch in (lambda: results.read(path), lambda: results.append(path, cell([1]))):
        with pytest.raises(ValueError, match=r"SoftPT\.nc does not say.*computes it again"):
            touch()
    assert path.read_bytes() == before


def test_what_comes_with_the_package_says_all(monkeypatch):
    """Every stored file: an experiment that is its setting's, an axis without labels nowhere."""
    paths = sorted(results.FOLDER.rglob("*.nc"))
    assert len(paths) > 200
    assert sum(path.stat().st_size for path in paths) < 8e6
    for path in paths:
        stored = results.read(path)
        names = (stored.attrs[name] for name in ("setting", "network", "method", "network_seed"))
        said = experiments.cell_attributes(*names)
        assert json.loads(said["experiment"]) == results.experiment(stored), path
        assert set(stored.dims) <= set(stored.coords), path
        if "theta" in stored:
            shapes = json.loads(stored.theta.attrs["shapes"]).values()
            assert sum(np.prod(shape) for shape in shapes) == stored.sizes["parameter"]


@pytest.mark.parametrize("there", [[], [0]])
def test_a_cell_belongs_to_one_network(path, there):
    """Whether it has repetitions already or not; rounding is no other network."""
    if there:
        results.append(path, cell(there))
    other = cell([1]).assign(untuned_regret=cell([1]).untuned_regret + np.eye(3) * 2e-3)
    with pytest.raises(
        ValueError, match=r"another network: .* by up to 0\.0020 nats from NoTuning"
    ):
        results.append(path, other)
    assert path.is_file() == bool(there)
    with pytest.raises(ValueError, match="another network"):
        results.append(path.with_name("NoTuning.nc"), other.assign_attrs(method="NoTuning"))
    nothing = other.assign(untuned_regret=other.untuned_regret * np.nan)
    with pytest.raises(ValueError, match="another network"):
        results.append(path, nothing)
    rounded = cell([1]).assign(untuned_regret=cell([1]).untuned_regret + 1e-4)
    results.append(path, rounded)
    np.testing.assert_array_equal(results.read(path).repetition, [*there, 1])


def test_each_network_has_its_own_cell_of_no_tuning(path):
    named = results.cell_path("single-coin", "lstm", "SoftPT", 3, path.parent)
    with pytest.raises(ValueError, match="append its NoTuning cell, NoTuning-network-3.nc, first"):
        results.append(named, cell([0]))


def test_every_cell_of_a_setting_has_its_own_repetitions(tmp_path):
    for method, repetitions in {"SoftPT": [0, 1, 2], "FullWT": [0]}.items():
        path = results.cell_path("single-coin", "lstm", method, folder=tmp_path)
        results.write(path, cell(repetitions, method))
    untuned = cell([0], "NoTuning").drop_dims("tuning_step")
    results.write(results.cell_path("single-coin", "lstm", "NoTuning", folder=tmp_path), untuned)
    cells = results.load_cells("single-coin", "lstm", folder=tmp_path)
    sizes = [(method, cell.sizes["repetition"]) for method, cell in cells.items()]
    assert sizes == [("SoftPT", 3), ("FullWT", 1), ("NoTuning", 1)]


def test_what_is_missing_or_unknown_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="reproduce single-coin --network lstm"):
        results.load_cells("single-coin", "lstm", folder=tmp_path)
    with pytest.raises(ValueError, match="`setting` must be one of single-coin"):
        results.load_cells("three-coins", "lstm")
    with pytest.raises(ValueError, match="`network` must be one of lstm"):
        results.load_cells("single-coin", "rnn")


@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
def test_a_damaged_file_is_named_and_left_alone(path, damage):
    results.write(path, cell([0]))
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"not a net"}[damage])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"SoftPT\.nc is damaged or no netCDF file"):
        results.read(path)
    with pytest.raises(ValueError, match=r"SoftPT\.nc"):
        results.append(path, cell([1]))
    assert path.read_bytes() == before


def test_a_foreign_file_is_named_and_left_alone(tmp_path):
    path = tmp_path / "weather.nc"
    xr.Dataset({"rain": ("day", [1.0])}).to_netcdf(path, engine="scipy")
    with pytest.raises(ValueError, match=r"weather\.nc is a netCDF file, but not a cell"):
        results.read(path)


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from test_results import cell
from promptbayes import results
print("ready", flush=True)
for r in range(10_000):
    results.append({path!r}, cell([r]))
"""


@pytest.mark.parametrize("delay", [0.05, 0.21])
def test_kill_at_any_moment_leaves_a_whole_file(path, delay):
    code = WRITER.format(tests=str(__file__).rsplit("/", 1)[0], path=str(path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        while not path.exists():
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    repetitions = results.read(path).repetition.values
    # Each write adds the next repetition, so a whole file holds 0, 1, ... without a gap.
    np.testing.assert_array_equal(repetitions, np.arange(len(repetitions)))
    results.append(path, cell([len(repetitions)]))  # and the next run goes on from there
    assert len(results.read(path).repetition) == len(repetitions) + 1


def test_two_processes_that_write_one_cell_lose_nothing(path):
    """Each adds its own repetitions, one at a time, as fast as it can."""
    code = WRITER.replace("range(10_000)", "range({first}, 60, 2)")
    tests = str(__file__).rsplit("/", 1)[0]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code.format(tests=tests, path=str(path), first=first)]
        )
        for first in (0, 1)
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    read = results.read(path)
    np.testing.assert_array_equal(read.repetition, range(60))
    np.testing.assert_array_equal(read.cumulative_regret, cell(range(60)).cumulative_regret)


@pytest.fixture
def some_results(tmp_path):
    """SoftPT with three repetitions, and one on another pretrained network."""
    for seed, repetitions in {None: [0, 1, 2], 1: [0]}.items():
        path = results.cell_path("single-coin", "lstm", "SoftPT", seed, tmp_path)
        results.write(path, cell(repetitions, seconds=1800.0))
    return tmp_path


@pytest.mark.parametrize("mark", experiments.MARKS)
def test_a_summary_has_the_exact_predictors_first(some_results, mark):
    rows = results.summary("single-coin", "lstm", mark=mark, folder=some_results)
    assert [row.predictor for row in rows] == ["TargetBayes", "PreBayes", "PreBayesPT", "SoftPT"]
    uniform, coin = experiments.TASKS["random-coins"], experiments.TASKS["single-coin"]
    assert rows[0].median == 0
    assert rows[1].median == pytest.approx(exact.cumulative_regret(uniform, coin, mark))
    assert {row.repetitions for row in rows[:3]} == {0}
    runs = cell([0, 1, 2]).cumulative_regret.sel(evaluation="single-coin", mark=mark).values
    found = rows[3]
    assert found.median == runs[1]
    assert (found.low, found.high) == pytest.approx(((runs[0] + runs[1]) / 2, runs[1:].mean()))
    assert (found.repetitions, found.error) == (3, 0.25)
    assert found.networks == (runs[1], runs[0])
    assert found.paper == (0.01 if mark == 50 else None)


def test_a_summary_refuses_another_mark(some_results):
    with pytest.raises(ValueError, match=r"`mark` must be one of \(50, 100, 200\), got 60"):
        results.summary("single-coin", "lstm", mark=60, folder=some_results)


def test_the_table_shows_numbers_gaps_findings_and_hours(some_results, capsys):
    finding = "embedding-4-two-coin-mixture"
    __main__.main(["table", "single-coin", finding, "--folder", str(some_results)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    (soft,) = (line for line in lines if line[:3] == ["single-coin", "lstm", "SoftPT"])
    at_50 = cell([0, 1, 2]).cumulative_regret.sel(evaluation="single-coin", mark=50).values
    assert soft[3] == f"{at_50[1]:.3f}"
    assert soft[7:] == ["3", "0.250", f"{at_50[0]:.3f}", "to", f"{at_50[1]:.3f}", "(2)", "0.01"]
    assert [finding, "lstm", "not", "computed"] in lines
    assert [f"{finding}:", "not", "as", "the", "paper", "claims."] in [line[:6] for line in lines]
    assert ["single-coin", "1.00", "0.00"] in lines  # two cells of half an hour each
    assert lines[-1] == ["1.0", "in", "all,", "on", "2", "x", "cpu,", "x86_64"]
