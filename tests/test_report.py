"""A setting's figures show the stored numbers beside the exact ones, and all that is stored."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from conftest import roundings
from promptbayes import METHODS, TUNING, __main__, exact, experiments, figures, report, results

SETTING, NETWORK, UNTRAINED = "two-coin-mixture", "lstm", "untrained-two-coin-mixture"
REPETITIONS = {"SoftPT": 3, "HardPT": 2, "FullWT": 1, "NoTuning": 1}  # not in the order of figures
DRAWN = [
    *("pretraining-loss", "tuning-loss"),
    *(
        f"{kind}-{task}"
        for task in ("two-coin-mixture", "random-coins", "single-coin")
        for kind in ("regret", "cumulative-regret", "bars")
    ),
    *("hard-prefixes", "states", "trajectories"),
]
MIXTURE, UNIFORM = experiments.TASKS["two-coin-mixture"], experiments.TASKS["random-coins"]


def cell(setting, method, repetitions, seed=0):
    """A cell as `run_cell` makes it, of random numbers."""
    rng = np.random.default_rng([seed, repetitions, *method.encode()])

    def draw(dims, *shape):
        return ("repetition", *dims), rng.uniform(0.1, 1.0, (repetitions, *shape)).astype("f4")

    variables = {
        "regret": draw(["evaluation", "step"], 3, 200),
        "cumulative_regret": draw(["evaluation", "mark"], 3, 3),
    }
    if method in ("SoftPT", "FullWT"):
        dims, loss = draw(["tuning_step"], 100)
        variables["loss"] = dims, 26 + loss
        variables["tuning_step"] = "tuning_step", 5.5 + 10 * np.arange(100)
    if method == "HardPT":
        variables["prompt_loss"] = draw(["prompt"], 64)
        variables["best_prompt"] = draw(["prefix"], 6)
    if method != "FullWT":
        variables["trajectory"] = draw(["sequence", "time", "component"], 2, 50, 2)
    if method == "NoTuning":
        variables["background"] = draw(["background_sequence", "time", "component"], 10, 50, 2)
        variables["background_tau"] = draw(["background_sequence"], 10)
        if setting == SETTING:
            variables["pretraining_loss"] = draw(["pretraining_step"], 100)
            variables["pretraining_step"] = "pretraining_step", 5.5 + 10 * np.arange(100)
        for name in {"background", "background_tau", "pretraining_loss"} & variables.keys():
            dims, values = variables[name]
            variables[name] = dims[1:], values[0]  # the network is the same in all repetitions
    if method in ("SoftPT", "HardPT"):
        variables["prefix_trajectory"] = draw(["prefix", "component"], 6, 2)
    chosen = experiments.setting_of(setting)
    attributes = experiments.cell_attributes(setting, NETWORK, method)
    return experiments.labelled(
        variables, attributes, repetitions=range(repetitions), chosen=chosen
    )


def write(folder, setting, methods=REPETITIONS, network_seed=None):
    for method, repetitions in methods.items():
        path = results.cell_path(setting, NETWORK, method, network_seed, folder)
        results.write(path, cell(setting, method, repetitions, seed=network_seed or 0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of a pretrained and of an untrained network."""
    where = tmp_path_factory.mktemp("results")
    write(where, SETTING)
    write(where, UNTRAINED)
    return where


@pytest.fixture(scope="module")
def run(folder):
    return report.stored(SETTING, NETWORK, folder=folder)


def curves_of(axes):
    """The thick line of every name in the legend."""
    return {line.get_label(): line for line in axes.get_lines() if line.get_label()[0] != "_"}


def thin_lines(axes):
    """All repetitions that are drawn thin, a list for each name that has several."""
    return [[path.vertices for path in one.get_paths()] for one in axes.collections[1::2]]


# --- What is drawn, and what is left out ---------------------------------------------------------


def test_all_that_is_stored_is_drawn(folder):
    assert list(report.figures_of(SETTING, NETWORK, folder=folder)) == DRAWN


def test_untrained_networks_have_no_pretraining(folder):
    assert list(report.figures_of(UNTRAINED, NETWORK, folder=folder)) == DRAWN[1:]


def test_without_the_network_its_states_are_left_out(tmp_path):
    write(tmp_path, SETTING, {"SoftPT": 1})
    left = set(DRAWN) - {"pretraining-loss", "hard-prefixes", "states", "trajectories"}
    assert set(report.figures_of(SETTING, NETWORK, folder=tmp_path)) == left


def test_what_is_not_stored_is_left_out(tmp_path):
    write(tmp_path, SETTING, {"NoTuning": 1})  # not tuned, not searched, no prefix
    left = set(DRAWN) - {"tuning-loss", "hard-prefixes", "trajectories"}
    assert set(report.figures_of(SETTING, NETWORK, folder=tmp_path)) == left


def test_methods_come_in_the_order_of_their_groups(run):
    assert list(run.cells) == ["HardPT", "SoftPT", "FullWT", "NoTuning"]


def test_another_network_has_its_own_cells(tmp_path, folder):
    write(tmp_path, SETTING, {"SoftPT": 1}, network_seed=1)
    run = report.stored(SETTING, NETWORK, network_seed=1, folder=tmp_path)
    np.testing.assert_array_equal(
        run.cells["SoftPT"].cumulative_regret, cell(SETTING, "SoftPT", 1, 1).cumulative_regret
    )
    with pytest.raises(FileNotFoundError, match="nothing of `setting` two-coin-mixture on the"):
        report.stored(SETTING, NETWORK, network_seed=1, folder=folder)


# --- The numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluation", experiments.TASKS)
def test_bars_are_medians_and_exact_values(run, evaluation):
    figure = run.regret_bars(evaluation)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["n = 50", "n = 100", "n = 200"]
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    source = experiments.TASKS[evaluation]
    for axes, mark in zip(figure.axes, experiments.MARKS, strict=True):
        widths = {rows[round(bar.get_y() + bar.get_height() / 2)]: bar for bar in axes.patches}
        expected = {
            method: np.median(
                stored.cumulative_regret.sel(evaluation=evaluation, mark=mark).astype(float)
            )
            for method, stored in run.cells.items()
        }
        own = "TargetBayes" if evaluation == SETTING else "EvalBayes"
        expected[own] = exact.cumulative_regret(source, source, mark)
        expected["PreBayes"] = exact.cumulative_regret(UNIFORM, source, mark)
        if evaluation == SETTING:
            expected["PreBayesPT"] = exact.hard_prompts(UNIFORM, source, 6, mark).best[1]
        assert widths.keys() == expected.keys()
        for name, bar in widths.items():
            # An exact one is a difference of up to four log-factorials of at most log 206! = 895
            # nats; either side may have each of them wrong by a rounding.
            close = pytest.approx(expected[name], abs=roundings(8 * 895, float))
            assert bar.get_width() == close, name


@pytest.mark.parametrize("evaluation", experiments.TASKS)
def test_curves_are_medians_and_exact_values(run, evaluation):
    for cumulative in (False, True):
        axes = run.regret_curves(evaluation, cumulative=cumulative).axes[0]
        assert axes.get_ylabel().startswith("cumulative" if cumulative else "instantaneous")
        drawn = {name: line.get_ydata() for name, line in curves_of(axes).items()}
        assert drawn.keys() == {*run.cells, *experiments.baselines(SETTING, evaluation)}
        for method, stored in run.cells.items():
            curve = stored.regret.sel(evaluation=evaluation).values
            curve = np.cumsum(curve, axis=1) if cumulative else curve
            median = np.median(curve, axis=0)  # two ways to weigh the two in the middle
            np.testing.assert_allclose(drawn[method], median, rtol=roundings(4, float))
        total = exact.regret_curve(UNIFORM, experiments.TASKS[evaluation], 200)
        shown = drawn["PreBayes"] if cumulative else np.cumsum(drawn["PreBayes"])
        np.testing.assert_allclose(shown, total, rtol=roundings(2 * 200, float))  # 200 sums
        rules = {line.get_xdata()[0] for line in axes.get_lines() if len(line.get_xdata()) == 2}
        assert rules == {50, 100, 200}


def test_repetitions_that_a_method_does_not_have_are_not_drawn(run):
    """Drawn is what each method has."""
    axes = run.regret_curves(SETTING).axes[0]
    hard, soft = thin_lines(axes)  # a single repetition has only its thick line
    assert (len(hard), len(soft)) == (REPETITIONS["HardPT"], REPETITIONS["SoftPT"])
    regret = run.cells["SoftPT"].regret.sel(evaluation=SETTING)
    np.testing.assert_array_equal([path[:, 1] for path in soft], regret.cumsum("step"))
    assert np.isfinite([line.get_ydata() for line in curves_of(axes).values()]).all()


def test_baselines_are_those_that_exist():
    names = {task: list(experiments.baselines(SETTING, task)) for task in experiments.TASKS}
    assert names == {
        "random-coins": ["EvalBayes", "PreBayes"],
        "single-coin": ["EvalBayes", "PreBayes"],
        "two-coin-mixture": ["TargetBayes", "PreBayes", "PreBayesPT"],
    }
    assert list(experiments.baselines(UNTRAINED, SETTING)) == ["TargetBayes"]
    assert list(experiments.baselines(UNTRAINED, "single-coin")) == ["EvalBayes"]
    np.testing.assert_array_equal(experiments.baselines(SETTING, "single-coin")["EvalBayes"], 0.0)


ENTROPY = -(0.2 * np.log(0.2) + 0.8 * np.log(0.8))  # of one flip, in nats


@pytest.mark.parametrize(
    ("task", "entropy"),
    [("single-coin", ENTROPY), ("two-coin-mixture", ENTROPY), ("random-coins", 0.5)],
)
def test_the_optimum_is_what_the_oracle_loses_and_the_price_of_not_knowing(task, entropy):
    source = experiments.TASKS[task]
    expected = 100 * entropy + exact.cumulative_regret(source, source, 100)
    # Either side sums 100 terms of up to log C(100, 50) = 67 nats each, from 100 logarithms.
    assert report._bayes_loss(source, 100) == pytest.approx(expected, rel=roundings(10**4, float))


def test_tuning_loss_has_a_point_for_each_ten_steps(run):
    axes = run.tuning_loss().axes[0]
    drawn = curves_of(axes)
    assert list(drawn) == ["SoftPT", "FullWT", "optimum"]
    for method in ("SoftPT", "FullWT"):
        np.testing.assert_array_equal(drawn[method].get_xdata(), 5.5 + 10 * np.arange(100))
        median = np.median(run.cells[method].loss, axis=0)
        np.testing.assert_allclose(drawn[method].get_ydata(), median, rtol=roundings(4, float))
    assert set(drawn["optimum"].get_ydata()) == {report._bayes_loss(MIXTURE, TUNING.length)}


@pytest.mark.parametrize(("start", "is_cut"), [(26.5, False), (40.0, True)])
def test_only_a_far_higher_start_is_cut(run, start, is_cut):
    soft = run.cells["SoftPT"].copy(deep=True)
    soft.loss[:, 0] = start
    axes = run._replace(cells={"SoftPT": soft}).tuning_loss().axes[0]
    assert (axes.get_ylim()[1] < start) == is_cut
    assert axes.get_ylim()[1] > soft.loss[:, 1:].max()


def test_pretraining_loss_has_a_point_for_each_ten_steps(run):
    line = curves_of(run.pretraining_loss().axes[0])["LSTM"]
    np.testing.assert_array_equal(line.get_ydata(), run.untuned.pretraining_loss)
    np.testing.assert_array_equal(line.get_xdata(), 5.5 + 10 * np.arange(100))


def test_hard_prefixes_are_named_as_they_were_searched(run):
    losses = run.cells["HardPT"].prompt_loss.mean("repetition").values
    axes = run.hard_prefixes().axes[0]
    np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), np.sort(losses))
    best, worst = (f"{i:06b}" for i in (losses.argmin(), losses.argmax()))  # lexicographic
    assert {text.get_text() for text in axes.texts} == {f"best: {best}", f"worst: {worst}"}


def test_states_are_coloured_by_step_and_bias(run):
    by_step, by_bias = (axes.collections[0] for axes in run.states().axes[:2])
    points = run.untuned.background.values.reshape(-1, 2)
    for dots in (by_step, by_bias):
        np.testing.assert_array_equal(dots.get_offsets(), points)
    steps, bias = (np.reshape(dots.get_array(), (10, 50)) for dots in (by_step, by_bias))
    np.testing.assert_array_equal(steps[7], np.arange(1, 51))
    np.testing.assert_array_equal(bias[:, 7], run.untuned.background_tau)


def test_trajectories_start_after_their_own_prefix(run):
    figure = run.trajectories()
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == ["HardPT", "SoftPT"]
    background = np.transpose(panels["SoftPT"].get_lines()[0].get_data())
    np.testing.assert_array_equal(background, run.untuned.background.values.reshape(-1, 2))
    soft = run.cells["SoftPT"]
    content, prefixes = (
        np.array([path.vertices for path in lines.get_paths()])
        for lines in panels["SoftPT"].collections
    )
    np.testing.assert_array_equal(prefixes, soft.prefix_trajectory)
    for (r, s), path in zip(itertools.product(range(3), range(2)), content, strict=True):
        np.testing.assert_array_equal(path[0], soft.prefix_trajectory[r, -1])
        np.testing.assert_array_equal(path[1:], soft.trajectory[r, s])


# --- What the tables do not know -----------------------------------------------------------------


def test_every_table_knows_every_method():
    known = {*METHODS, *experiments.PAPER_METHODS}
    assert known <= set(itertools.chain(*figures.GROUPS.values()))
    assert known <= figures.METHOD_STYLE.keys()
    assert set(report._LABELS) == set(experiments.NETWORKS)


def test_an_unknown_method_is_drawn_last_and_grey(run):
    stranger = figures.Stranger("MyPT")
    run = run._replace(cells=run.cells | {stranger: run.cells["SoftPT"]})
    axes = run.regret_bars(SETTING).axes[0]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows[-2:] == ["others", "MyPT"]
    grey = (0x60 / 255,) * 3
    assert axes.patches[-1].get_facecolor()[:3] == pytest.approx(grey)
    line = curves_of(run.regret_curves(SETTING).axes[0])["MyPT"]
    assert line.get_color() == "#606060"


def test_a_stored_method_that_no_table_knows_is_not_lost(tmp_path):
    own = {"MyPT": experiments.METHODS["SoftPT"]} | experiments.SETTINGS[SETTING].methods
    setting = replace(experiments.SETTINGS[SETTING], methods=own)
    for method in ("MyPT", "SoftPT"):
        stored = cell(setting, "SoftPT", 1)
        stored.attrs |= experiments.cell_attributes(setting, NETWORK, method)
        results.write(results.cell_path(setting, NETWORK, method, folder=tmp_path), stored)
    assert list(report.stored(setting, NETWORK, folder=tmp_path).cells) == ["SoftPT", "MyPT"]


# --- Errors --------------------------------------------------------------------------------------


def test_wrong_names_are_listed(run):
    with pytest.raises(ValueError, match="`setting` must be one of single-coin"):
        report.figures_of("coins", NETWORK)
    with pytest.raises(ValueError, match="`network` must be one of lstm, transformer, got 'gru'"):
        report.figures_of(SETTING, "gru")
    for draw in (run.regret_curves, run.regret_bars):
        with pytest.raises(ValueError, match="`evaluation` must be one of random-coins.*'dice'"):
            draw("dice")


def test_nothing_stored_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="reproduce single-coin --network lstm` computes"):
        report.figures_of("single-coin", "lstm", folder=tmp_path)


# --- The command ---------------------------------------------------------------------------------


@pytest.fixture
def two_figures(monkeypatch):
    """Two small figures in place of fourteen, where something is stored."""
    real = report.figures_of

    def figures_of(setting, network, *, folder):
        report.stored(setting, network, folder=folder)
        return {name: figures.regret_bars({"SoftPT": 1.0}) for name in ("bars", "more-bars")}

    monkeypatch.setattr(report, "figures_of", figures_of)
    return real


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("form", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_figures_are_written_where_they_belong(two_figures, folder, tmp_path, capsys, form, start):
    arguments = ["figures", SETTING, "single-coin", "--folder", str(folder), "--out", str(tmp_path)]
    __main__.main([*arguments, *(["--format", form] if form != "svg" else [])])
    place = f"{SETTING}/{NETWORK}"
    assert files_in(tmp_path) == {f"{place}/bars.{form}", f"{place}/more-bars.{form}"}
    assert (tmp_path / place / f"bars.{form}").read_bytes().startswith(start)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"{tmp_path / place}: 2 figures",
        f"{SETTING}, transformer: not computed",
        "single-coin, lstm: not computed",
        "single-coin, transformer: not computed",
    ]


def test_figures_draws_all_settings_of_one_network(two_figures, folder, tmp_path, capsys):
    __main__.main(["figures", "--network", "lstm", "--folder", str(folder), "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {SETTING, UNTRAINED}
    assert "transformer" not in capsys.readouterr().out


def test_every_figure_of_a_setting_is_a_file(tmp_path):
    write(tmp_path, UNTRAINED, {"SoftPT": 2, "NoTuning": 1})
    out = tmp_path / "out"
    arguments = ["figures", UNTRAINED, "--network", "lstm", "--folder", str(tmp_path)]
    __main__.main([*arguments, "--out", str(out)])
    names = {name for name in DRAWN if name not in ("pretraining-loss", "hard-prefixes")}
    assert files_in(out) == {f"{UNTRAINED}/lstm/{name}.svg" for name in names}


def test_nothing_is_drawn_if_a_setting_is_wrong(two_figures, folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        __main__.main(
            ["figures", SETTING, "coins", "--folder", str(folder), "--out", str(tmp_path)]
        )
    assert stopped.value.code == 2
    assert "`setting` must be one of single-coin" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_damaged_results_and_a_file_in_the_way_are_named(two_figures, folder, tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / SETTING / NETWORK).mkdir(parents=True)
    (tmp_path / SETTING / NETWORK / "SoftPT.nc").write_bytes(b"not a net")
    for where, out, message in (
        (folder, tmp_path / "file", "`--out` must be a folder, got "),
        (tmp_path, tmp_path / "out", "SoftPT.nc is damaged or no netCDF file"),
    ):
        with pytest.raises(SystemExit) as stopped:
            __main__.main(["figures", SETTING, "--folder", str(where), "--out", str(out)])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_numbers_are_those_of_the_cells(tmp_path):
    for method, repetitions in REPETITIONS.items():
        path = results.cell_path(SETTING, NETWORK, method, folder=tmp_path)
        results.write(path, cell(SETTING, method, repetitions))
    found = report.numbers(SETTING, NETWORK, "cumulative_regret", folder=tmp_path)
    assert set(found.predictor.values) == set(REPETITIONS)
    for method, repetitions in REPETITIONS.items():
        stored = results.load_cell(SETTING, NETWORK, method, folder=tmp_path).cumulative_regret
        rows = found.sel(predictor=method).dropna("repetition")
        assert rows.sizes["repetition"] == repetitions
        np.testing.assert_array_equal(rows.sel(evaluation=stored.evaluation), stored)
    with pytest.raises(ValueError, match=r"`variable` must be one of .*regret, .*got 'regrets'"):
        report.numbers(SETTING, NETWORK, "regrets", folder=tmp_path)
