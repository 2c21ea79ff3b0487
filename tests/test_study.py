"""What the pages on methods share: counts, comparisons, tables and states are what they say."""

import jax
import numpy as np
import pytest
from conftest import small_predictor
from promptbayes import (
    METHODS,
    Training,
    coin,
    cumulative_regret,
    evaluate,
    experiments,
    figures,
    random_coins,
    results,
    study,
)

SHORT = Training(num_steps=2, batch_size=4, length=6)


def test_parameters_are_counted_from_what_a_method_frees():
    base = study.load_pretrained("transformer")
    sizes = {name: study.num_parameters(method, base) for name, method in METHODS.items()}
    # By hand: rows times width; kernel and bias of one 2 x 128 and one 128 x 2 layer; four kernels
    # of rank 4; keys and values of six positions in one block, and one output.
    assert sizes["HardPT"] == 6
    assert sizes["SimplexPT"] == sizes["RealPT"] == 6 * 2
    assert sizes["SoftPT"] == 6 * 128
    assert sizes["EmbedWT"] == 2 * 128 + 128
    assert sizes["UnembedWT"] == 128 * 2 + 2
    assert sizes["Un+EmbedWT"] == sizes["EmbedWT"] + sizes["UnembedWT"]
    assert sizes["LoRAWT"] == 4 * 2 * 128 * 4
    assert sizes["Memory"] == 2 * 6 * 128 + 128


def test_what_moved_is_found_by_comparing():
    base = small_predictor("Transformer")
    params = jax.tree.map(lambda x: x, base.params)
    params["unembedding"]["bias"] = params["unembedding"]["bias"] + 1
    assert study.moved(base, base) == {}
    assert study.moved(base, base._replace(params=params)) == {"unembedding": 2}
    prompted = base.with_tokens([0, 1, 1])
    assert study.moved(base, prompted) == {"prefix": prompted.prefix.size}
    assert study.moved(prompted, prompted.with_tokens([0] * 5)) == {
        "prefix": base.prefix.shape[1] * 2
    }
    remembering = base._replace(memory=prompted.read())
    assert set(study.moved(base, remembering)) == {"memory"}


@pytest.mark.parametrize("name", ["HardPT", "SoftPT", "LoRAWT"])
def test_a_run_scores_what_it_tuned_on_the_networks_that_can_be_tuned(name):
    bases = {"small": small_predictor("Transformer")}
    method = {"HardPT": type(METHODS["HardPT"])(2)}.get(name, METHODS[name])
    live = study.run(name, method=method, bases=bases, training=SHORT, repetitions=2)
    fresh = study._STUDIED.sample(jax.random.key(77), study.NUM_SEQUENCES, SHORT.length)
    again = study.regret_on(live.predictors["small"][1], fresh)
    assert live.regret["small"].mean.shape == (2,)
    assert live.regret["small"].mean[1] == again.mean
    assert live.untuned["small"].mean == study.regret_on(bases["small"], fresh).mean


def test_a_method_runs_on_those_networks_only_that_it_can_tune():
    live = study.run("LoRAWT", training=SHORT, repetitions=1)
    assert list(live.bases) == ["transformer"]


def test_every_method_sees_the_same_data():
    """Two methods that start from the base itself have the same first loss, to rounding."""
    bases = {"small": small_predictor("LSTM")}
    first = [
        study.run(name, bases=bases, training=SHORT, repetitions=2).runs["small"].losses[:, 0]
        for name in ("EmbedWT", "UnembedWT")
    ]
    np.testing.assert_allclose(first[0], first[1], rtol=1e-5)
    assert first[0][0] != first[0][1]


def test_the_table_says_what_the_files_say():
    table = study.stored_table("SoftPT")
    row = {r.predictor: r for r in results.summary("two-coin-mixture", "lstm")}["SoftPT"]
    line = next(line for line in table.splitlines() if line.startswith("two coins, LSTM"))
    assert f"{row.median:.3f}" in line
    assert f"{row.low:.3f}-{row.high:.3f}" in line
    with pytest.raises(ValueError, match="nothing is stored of 'Prefix'"):
        study.stored_table("Prefix")


def test_bars_name_what_is_live_and_what_is_stored():
    live = study.run("UnembedWT", training=SHORT, repetitions=1)
    labels = [text.get_text() for text in study.bars(live).axes[0].get_yticklabels()]
    assert labels == ["untuned", "UnembedWT, live", "UnembedWT, stored", "TargetBayes"]


def test_bars_have_the_quartiles_of_what_is_stored():
    rows = {row.predictor: row for row in results.summary("two-coin-mixture", "transformer")}
    drawn = np.quantile(study._with_quartiles(rows["SoftPT"]), [0.25, 0.5, 0.75])
    assert rows["SoftPT"].low < rows["SoftPT"].high
    np.testing.assert_array_equal(
        drawn, [rows["SoftPT"].low, rows["SoftPT"].median, rows["SoftPT"].high]
    )


def test_paths_begin_where_the_prefix_ends():
    base = small_predictor("LSTM")
    three = coin(0.2).sample(jax.random.key(3), 3, 5)
    seen = study.paths(base, {"none": base, "two": base.with_tokens([0, 1])}, three)
    assert seen.prefix["none"].shape == (1, 1, 2)
    assert seen.prefix["two"].shape == (1, 3, 2)
    # The basis is fitted to the background: mean zero, variance one.
    flat = seen.background.reshape(-1, 2)
    np.testing.assert_allclose([*flat.mean(0), *flat.std(0)], [0, 0, 1, 1], atol=1e-4)
    assert len(seen.figure().axes) == 2


def test_the_prediction_map_of_an_exchangeable_predictor_is_its_prediction_without_spread():
    mean, spread = study.prediction_map(random_coins().predict, 12)
    n, k = np.nonzero(~np.isnan(mean))
    assert set(zip(n.tolist(), k.tolist(), strict=True)) >= {(12, j) for j in range(13)}
    # float32: logarithms and exponentials of numbers near one, a few roundings of 6e-8.
    np.testing.assert_allclose(mean[n, k], (1 + k) / (2 + n), atol=1e-6)
    assert np.nanmax(spread) < 1e-6


def test_a_study_is_kept_with_its_provenance_and_not_computed_again(tmp_path, monkeypatch):
    xr = pytest.importorskip("xarray")
    monkeypatch.setattr(study, "_study_path", lambda name: tmp_path / "studies" / f"{name}.nc")
    with pytest.raises(FileNotFoundError, match="book/studies/ranks.py"):
        study.kept("ranks")
    first = study.keep("ranks", lambda: xr.Dataset({"regret": ("rank", [1.0, 2.0])}))
    assert first.attrs["script"] == "book/studies/ranks.py"
    assert first.attrs["device"]
    second = study.keep("ranks", lambda: pytest.fail("computed again"))
    np.testing.assert_array_equal(first.regret, second.regret)


def test_the_picture_of_what_moves_marks_the_tuned_parts_and_knows_its_places():
    axes = figures.what_moves("Un+EmbedWT", {"embedding": "384", "unembedding": "258"}).axes[0]
    framed = {t.get_text() for t in axes.texts if (box := t.get_bbox_patch()) and box.get_lw() > 2}
    assert framed == {"embedding", "unembedding"}
    with pytest.raises(ValueError, match=r"`tuned` must have places of .*weights"):
        figures.what_moves("FullWT", {"weights": "all"})


@pytest.mark.parametrize("name", ["HardPT", "SoftPT", "Memory", "UnembedWT"])
def test_a_stored_predictor_has_the_regret_that_is_stored(name):
    """On the same sequences; elsewhere it differs by rounding, below 1e-4 (see `results`)."""
    tuned = study.stored_predictor(name, "lstm", repetition=1)
    setting = experiments.setting_of("two-coin-mixture")
    sequences = experiments.evaluation_sequences(setting, setting.target)
    total = cumulative_regret(evaluate(tuned, sequences), sequences).mean
    stored = results.load_cell("two-coin-mixture", "lstm", name).sel(repetition=1)
    stored = stored.cumulative_regret.sel(evaluation="two-coin-mixture", mark=[50, 100])
    np.testing.assert_allclose(total[[49, 99]], stored, atol=1e-3)


def test_weights_that_are_not_stored_are_named():
    with pytest.raises(ValueError, match="`name`: what FullWT tuned on the lstm is not stored"):
        study.stored_predictor("FullWT", "lstm")
