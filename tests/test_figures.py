"""Figures draw what they were given, refuse what they cannot draw, and can be told apart."""

import functools
import inspect
import itertools
import re
from xml.etree import ElementTree

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from promptbayes import figures
from promptbayes.figures import picture, style

mpl.use("Agg")
RNG = np.random.default_rng(0)
GRID = np.linspace(0.0, 1.0, 11)
STATES = RNG.normal(size=(5, 7, 2))
TRIANGLE = np.where(np.tri(4, dtype=bool), RNG.uniform(size=(4, 4)), np.nan)
BARS = {"SoftPT": [0.1, 0.2, 0.6, 0.3], "TargetBayes": 0.05, "FullWT": [0.4], "HardPT": 1.25}
CURVES = {"SoftPT": RNG.uniform(size=(4, 60)), "TargetBayes": RNG.uniform(size=60)}
PREFIXES = np.array(list(itertools.product([0, 1], repeat=3)))
LOSSES = np.array([3.0, 1.0, 2.5, 4.0, 5.0, 6.0, 7.0, 2.0])  # best 001, worst 110
PLANE = RNG.uniform(size=(3, 4))
ATTENTION = np.tril(RNG.uniform(0.1, 1.0, size=(2, 5, 5)))


def many_bars():
    return {name: RNG.uniform(size=10) for names in figures.GROUPS.values() for name in names}


# Every public function at least once, also as full as the book makes it.
CASES = {
    "loss_curves": lambda: figures.loss_curves(
        {"SoftPT": RNG.uniform(size=(3, 40))}, optimum=0.5, title="Tuning"
    ),
    "regret_curves": lambda: figures.regret_curves(
        {name: RNG.uniform(size=(3, 200)) for name in many_bars()},
        standard_error={"SoftPT": np.full(200, 0.1)},
        title="Single coin",
    ),
    "regret_bar_panels": lambda: figures.regret_bar_panels(
        {"n = 50": many_bars(), "n = 100": many_bars(), "n = 200": many_bars()}, top=0.5, title="T"
    ),
    "regret_bars": lambda: figures.regret_bars(
        many_bars(), title="A setting with a long name, Transformer: evaluated on two-coin-mixture"
    ),
    "headline_bars": lambda: figures.headline_bars({"Single coin": BARS, "Mixture": BARS}),
    "sorted_hard_prefixes": lambda: figures.sorted_hard_prefixes(
        PREFIXES, LOSSES, reference={"no prefix": 2.2}, title="All prefixes"
    ),
    "state_components": lambda: figures.state_components(
        STATES, np.arange(7), np.linspace(0, 1, 5), title="LSTM"
    ),
    "prefix_trajectories": lambda: figures.prefix_trajectories(
        STATES,
        dict.fromkeys((*figures.GROUPS["prefix methods"], "RandomPF"), (STATES[:, :3], STATES)),
        title="LSTM",
    ),
    "posterior_flips": lambda: figures.posterior_flips(
        GRID, RNG.uniform(size=(7, 11)), [0, 1, 1, 0, 1, 0], title="Flips"
    ),
    "posterior_densities": lambda: figures.posterior_densities(
        GRID, {"flat": np.ones(11)}, atoms={"two coins": ([0.2, 0.8], [0.5, 0.5])}, title="Shapes"
    ),
    "prompt_posteriors": lambda: figures.prompt_posteriors(
        GRID, RNG.uniform(size=(8, 11)), PREFIXES.sum(axis=1), title="Prompts"
    ),
    "prediction_maps": lambda: figures.prediction_maps(
        {"Bayes": TRIANGLE, "LSTM": TRIANGLE}, spread={"LSTM": TRIANGLE}, title="Maps"
    ),
    "prediction_scatter": lambda: figures.prediction_scatter(
        GRID, {"LSTM": GRID**2, "Transformer": GRID}, title="Predictions"
    ),
    "lines": lambda: figures.lines(
        [1, 10, 100],
        {"best": [3.0, 2.0, 1.0], "typical": [3.0, np.nan, 2.0]},
        xlabel="L",
        ylabel="regret (nats)",
        xscale="log",
        hlines={"no prompt": 1.4},
        vlines={"N_tune": 50},
        marks={"L = 10": (10, 2.0)},
        title="Longer prompts",
    ),
    "regret_split": lambda: figures.regret_split(["a", "b"], 0.5, [0.0, 1.0], title="Split"),
    "regret_heatmap": lambda: figures.regret_heatmap(
        [1, 2, 3, 4], [1, 2, 4], PLANE, xlabel="a", ylabel="b", marks={"best": (2, 2)}, title="P"
    ),
    "parameters_and_regret": lambda: figures.parameters_and_regret(
        ["HardPT", "SimplexPT", "SoftPT"], [6, 12, 768], RNG.uniform(size=(3, 4)), title="Cost"
    ),
    "what_moves": lambda: figures.what_moves(
        "Un+EmbedWT", {"vectors": "6 vectors", "embedding": "384", "unembedding": "258"}, title="T"
    ),
    "attention_maps": lambda: figures.attention_maps(
        {"before": ATTENTION, "after": ATTENTION}, title="Attention"
    ),
}


def lines_of(figure, panel=0):
    return {line.get_label(): line for line in figure.axes[panel].get_lines()}


def words(axes):
    return [text.get_text() for text in axes.texts]


def segments(collection):
    return [np.asarray(path.vertices) for path in collection.get_paths()]


# --- What holds for every figure -----------------------------------------------------------------


def test_cases_cover_every_public_function():
    public = {name for name in figures.__all__ if inspect.isfunction(getattr(figures, name))}
    assert public == set(CASES)


@pytest.fixture(scope="module")
def figure_of():
    """Each case is drawn once."""
    return functools.cache(lambda name: CASES[name]())


@pytest.mark.parametrize("name", CASES)
def test_drawing_leaves_pyplot_and_its_settings_alone(name, figure_of):
    settings, opened = dict(mpl.rcParams), plt.get_fignums()
    figure = figure_of(name)
    assert isinstance(figure, Figure)
    assert plt.get_fignums() == opened
    assert dict(mpl.rcParams) == settings


def small_text(figure):
    """Text that is less than 9 CSS pixels high where the column is as wide as on a phone."""
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    shrunk = style.PHONE / (96 * figure.get_figwidth())
    return [text for text in texts if text.get_fontsize() * 96 / 72 * shrunk < style.SMALLEST]


@pytest.mark.parametrize("name", CASES)
def test_page_format(name, figure_of):
    """Readable on a phone, opaque white, nothing outside the picture."""
    figure = figure_of(name)
    assert figure.get_figwidth() == style.WIDTH
    assert small_text(figure) == []
    assert to_rgb(figure.get_facecolor()) == (1.0, 1.0, 1.0)
    assert figure.get_facecolor()[3] == 1.0
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    pixel = 1 / figure.dpi  # glyphs are laid out to the pixel
    assert box.x0 > -pixel
    assert box.y0 > -pixel
    assert box.x1 < width + pixel
    assert box.y1 < height + pixel


def test_text_that_is_too_small_is_found():
    figure = figures.regret_bars(BARS)
    figure.axes[0].set_xlabel("small", fontsize=9)
    assert [text.get_text() for text in small_text(figure)] == ["small"]


@pytest.mark.parametrize("name", CASES)
def test_a_notebook_shows_an_svg_or_where_colours_are_numbers_a_png(name, figure_of, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **_: shown.append(data))
    figure_of(name)._ipython_display_()
    (data,) = shown
    numbers = {"state_components", "prediction_maps", "regret_heatmap", "attention_maps"}
    assert list(data) == ["image/png" if name in numbers else "image/svg+xml"]
    if "image/svg+xml" in data:
        ElementTree.fromstring(data["image/svg+xml"])
        assert len(data["image/svg+xml"]) < 160_000  # seventeen curves of noise are the worst case
    else:
        width = int.from_bytes(data["image/png"][16:20], "big")
        assert width == 2 * 96 * style.WIDTH  # two device pixels to a CSS pixel


@pytest.mark.parametrize("name", ["regret_bars", "loss_curves", "prediction_scatter"])
def test_equal_figures_are_equal_files(name):
    """With hatches, curves, and a picture inside: clip paths and patterns have names."""
    state = RNG.bit_generator.state
    first = CASES[name]()
    RNG.bit_generator.state = state
    assert CASES[name]().svg() == first.svg()


def test_what_numbers_the_svg_leaves_out_no_eye_can_see():
    path = "M 100.14159 7.654321 \nL 1 -12.26 \nQ 0 .5 3 3 \nz \n"
    assert picture._shorter(path) == "M100.1 7.654321L1 -12.3Q0 .5 3 3z"


@pytest.mark.parametrize("name", CASES)
def test_docstring_is_complete(name):
    documentation = inspect.getdoc(getattr(figures, name)) or ""
    for part in ("Args:", "Example:", "Returns:", "Raises:"):
        assert documentation.count(part) == 1, part
    arguments = inspect.signature(getattr(figures, name)).parameters
    for argument in arguments:
        assert re.search(rf"^    {argument}: ", documentation, re.MULTILINE), argument


# --- What each figure draws ----------------------------------------------------------------------


def test_loss_curves_draw_median_band_and_every_repetition():
    losses = RNG.uniform(size=(5, 30))
    figure = figures.loss_curves({"SoftPT": losses, "FullWT": losses[0]}, optimum=0.25)
    drawn = lines_of(figure)
    assert list(drawn) == ["SoftPT", "FullWT", "optimum"]
    np.testing.assert_array_equal(drawn["SoftPT"].get_xdata(), np.arange(1, 31))
    np.testing.assert_array_equal(drawn["SoftPT"].get_ydata(), np.median(losses, axis=0))
    np.testing.assert_array_equal(drawn["FullWT"].get_ydata(), losses[0])
    assert set(drawn["optimum"].get_ydata()) == {0.25}
    band, thin = figure.axes[0].collections  # a single repetition has neither
    np.testing.assert_array_equal([path[:, 1] for path in segments(thin)], losses)
    low, high = np.quantile(losses, [0.25, 0.75], axis=0)
    heights = segments(band)[0][:, 1]
    assert set(low) | set(high) == set(heights)
    assert figure.axes[0].get_ylabel() == "log loss (nats per sequence)"


def test_losses_that_are_means_lie_in_the_middle_of_their_steps_and_may_be_cut():
    losses = RNG.uniform(size=30)
    axes = figures.loss_curves({"SoftPT": losses}, window=10, top=0.5).axes[0]
    # The first is the mean over steps 1 to 10.
    np.testing.assert_array_equal(axes.get_lines()[0].get_xdata(), np.arange(5.5, 300, 10))
    np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), losses)
    assert axes.get_ylim()[1] == 0.5


def test_no_two_curves_of_a_figure_look_alike():
    names = ["SoftPT", "LSTM, seed 0", "LSTM, seed 1", "LSTM, seed 2", "floor", "best prompt"]
    drawn = lines_of(figures.lines([1, 2], {name: [1, 2] for name in names}, xlabel="", ylabel=""))
    looks = {(line.get_color(), str(line.get_linestyle())) for line in drawn.values()}
    assert len(looks) == len(names)
    assert drawn["LSTM, seed 0"].get_color() == drawn["LSTM, seed 2"].get_color()
    taken = {drawn[name].get_color() for name in names[:2]}
    assert not taken & {drawn["floor"].get_color(), drawn["best prompt"].get_color()}


def test_many_repetitions_are_drawn_as_bands_alone():
    losses = RNG.uniform(size=(50, 100))
    band, thin = figures.loss_curves({"SoftPT": losses}).axes[0].collections
    assert segments(thin) == []
    assert len(segments(band)) == 1


def test_curves_have_the_style_of_their_method():
    drawn = lines_of(figures.regret_curves(CURVES, marks={}))
    for name, line in drawn.items():
        assert line.get_color() == figures.METHOD_STYLE[name].colour
        assert line.get_marker() == figures.METHOD_STYLE[name].marker
    legend = figures.regret_curves(CURVES, marks={}).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["SoftPT", "TargetBayes"]


def test_regret_curves_marks_and_standard_error():
    error = np.linspace(0.0, 1.0, 60)
    figure = figures.regret_curves(CURVES, standard_error={"TargetBayes": error}, top=0.75)
    axes = figure.axes[0]
    # N_train and N_eval lie beyond the 60 predictions and must not stretch the axis.
    assert words(axes) == ["tune"]
    assert 50 in [line.get_xdata()[0] for line in axes.get_lines() if len(line.get_xdata()) == 2]
    assert axes.get_xlim() == (0, 60)
    assert axes.get_ylim()[1] == 0.75
    edges = [line.get_ydata() for line in axes.get_lines() if line.get_linewidth() == 0.9][:2]
    np.testing.assert_allclose(edges[1] - edges[0], 4 * error, atol=1e-15)  # rounding of the sums
    assert axes.get_ylabel() == "cumulative regret (nats)"
    other = figures.regret_curves(CURVES, cumulative=False)
    assert other.axes[0].get_ylabel() == "instantaneous regret (nats)"


def test_regret_bars_draw_medians_whiskers_values_and_the_optimum():
    figure = figures.regret_bars(BARS)
    axes = figure.axes[0]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == [
        *("prefix methods", "HardPT", "SoftPT", "weight methods", "FullWT"),
        *("baselines", "TargetBayes"),
    ]
    bold = [label.get_text() for label in axes.get_yticklabels() if label.get_weight() == "bold"]
    assert bold == ["prefix methods", "weight methods", "baselines"]
    bars = {rows[round(bar.get_y() + bar.get_height() / 2)]: bar for bar in axes.patches}
    assert {name: bar.get_width() for name, bar in bars.items()} == {
        name: np.median(value) for name, value in BARS.items()
    }
    assert words(axes) == ["1.25", "0.25", "0.40", "0.05"]
    assert len(axes.containers) == 4 + 1  # one whisker: the only name with several repetitions
    whisker = segments(axes.containers[2].lines[2][0])[0]
    np.testing.assert_allclose(whisker[:, 0], np.quantile(BARS["SoftPT"], [0.25, 0.75]), rtol=1e-12)
    assert set(axes.get_lines()[-1].get_xdata()) == {0.05}
    for name, bar in bars.items():
        assert bar.get_facecolor()[:3] == to_rgb(figures.METHOD_STYLE[name].colour)
        assert (bar.get_hatch() or "") == figures.METHOD_STYLE[name].hatch


def test_the_optimum_is_the_bayes_predictor_of_the_evaluation():
    axes = figures.regret_bars({"TargetBayes": 0.5, "EvalBayes": 0.25}, values=False).axes[0]
    assert set(axes.get_lines()[-1].get_xdata()) == {0.25}
    assert words(axes) == []


def test_bars_that_are_cut_say_so():
    axes = figures.regret_bars(BARS, top=0.5).axes[0]
    assert max(bar.get_width() for bar in axes.patches) == 0.5
    assert words(axes)[0] == "1.25→"
    assert [text for text in words(axes) if "→" in text] == ["1.25→"]


def test_bar_panels_share_rows_and_scale():
    figure = figures.regret_bar_panels({"A": {"SoftPT": 1.0}, "B": {"HardPT": 3.0, "SoftPT": 2.0}})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["A", "B"]
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        *("prefix methods", "HardPT", "SoftPT")
    ]
    # SoftPT stands in the same row of both panels, where HardPT has no bar in the first.
    assert [bar.get_y() for bar in figure.axes[0].patches] == [figure.axes[1].patches[1].get_y()]


def test_bars_without_a_style_keep_their_order_and_given_groups_their_heading():
    bars = {"no prompt": 1.4, "SoftPT, LSTM": 0.1, "TargetBayes": 0.0}
    axes = figures.regret_bars(bars).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(bars)
    assert axes.patches[1].get_facecolor()[:3] == to_rgb(figures.METHOD_STYLE["SoftPT"].colour)
    axes = figures.regret_bars(bars, groups={"optimum": ["TargetBayes"]}).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        *("optimum", "TargetBayes", "others", "no prompt", "SoftPT, LSTM")
    ]


def test_sorted_hard_prefixes_sort_and_name_best_and_worst():
    figure = figures.sorted_hard_prefixes(PREFIXES, LOSSES, reference={"no prefix": 2.2})
    axes = figure.axes[0]
    drawn = lines_of(figure)
    np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), np.sort(LOSSES))
    assert words(axes) == ["best: 001", "worst: 110"]
    assert set(drawn["no prefix"].get_ydata()) == {2.2}
    dots = {dots.get_label(): np.asarray(dots.get_offsets()) for dots in axes.collections}
    assert list(dots) == ["0 ones", "1 one", "2 ones", "3 ones"]
    for ones, offsets in enumerate(dots.values()):
        expected = np.sort(LOSSES[PREFIXES.sum(axis=1) == ones])
        np.testing.assert_array_equal(offsets[:, 1], expected)


def test_state_components_are_coloured_by_step_and_by_bias():
    bias = np.linspace(0.0, 1.0, 5)
    figure = figures.state_components(STATES, np.arange(7), bias)
    by_step, by_bias = (axes.collections[0] for axes in figure.axes[:2])
    for dots in (by_step, by_bias):
        np.testing.assert_array_equal(dots.get_offsets(), STATES.reshape(-1, 2))
    np.testing.assert_array_equal(np.reshape(by_step.get_array(), (5, 7))[3], np.arange(7))
    np.testing.assert_array_equal(np.reshape(by_bias.get_array(), (5, 7))[:, 3], bias)


def test_prefix_trajectories_mark_the_state_after_the_prefix():
    prefix, content = STATES[:3, :4], STATES[3:] + 1.0
    figure = figures.prefix_trajectories(STATES, {"SoftPT": (prefix, content)})
    axes = figure.axes[0]
    ground, triangles, rings = (np.transpose(line.get_data()) for line in axes.get_lines())
    np.testing.assert_array_equal(ground, STATES.reshape(-1, 2))
    np.testing.assert_array_equal(triangles, prefix[:, :-1].reshape(-1, 2))
    np.testing.assert_array_equal(rings, prefix[:, -1])
    assert axes.get_lines()[2].get_markeredgecolor() == style.RED
    trajectories, paths = (segments(lines) for lines in axes.collections)
    np.testing.assert_array_equal(trajectories, content)
    np.testing.assert_array_equal(paths, prefix)


def test_trajectory_panels_share_their_axes():
    """A prefix that leaves the distribution looks far away only on a common scale."""
    far = (STATES[:, :2] + 10.0, STATES)
    figure = figures.prefix_trajectories(STATES, {"HardPT": (STATES, STATES), "SoftPT": far})
    one, other = figure.axes
    assert (one.get_xlim(), one.get_ylim()) == (other.get_xlim(), other.get_ylim())
    assert one.get_xlim()[1] > 10.0


@pytest.mark.parametrize(
    ("prior", "titles"), [(0, ["after 1", "after 10"]), (1, ["prior", "after 1"])]
)
def test_posterior_flips_show_each_posterior_beside_the_one_before(prior, titles):
    densities = RNG.uniform(size=(2, 11))
    figure = figures.posterior_flips(GRID, densities, [1, 0][: 2 - prior])
    assert [axes.get_title(loc="left") for axes in figure.axes] == titles
    before, now = figure.axes[1].get_lines()
    np.testing.assert_array_equal(before.get_ydata(), densities[0])
    np.testing.assert_array_equal(now.get_ydata(), densities[1])


def test_posterior_densities_draw_curves_and_atoms():
    density = RNG.uniform(size=11)
    atoms = {"coins": ([0.2, 0.8], [0.75, 0.25])}
    figure = figures.posterior_densities(GRID, {"smooth": density}, atoms=atoms)
    np.testing.assert_array_equal(lines_of(figure)["smooth"].get_ydata(), density)
    stems = segments(figure.axes[1].collections[0])
    np.testing.assert_array_equal(stems, [[[0.2, 0.0], [0.2, 0.75]], [[0.8, 0.0], [0.8, 0.25]]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["smooth", "coins"]
    alone = figures.posterior_densities(GRID, {}, atoms=atoms)
    assert [axes.get_ylabel() for axes in alone.axes] == ["probability"]


def test_prompt_posteriors_draw_every_prompt_and_count_the_shared_shapes():
    densities = RNG.uniform(size=(8, 11))
    ones = PREFIXES.sum(axis=1)
    axes = figures.prompt_posteriors(GRID, densities, ones).axes[0]
    assert [text.split("\n")[1] for text in words(axes)] == [
        *("1 prompt", "3 prompts", "3 prompts", "1 prompt")
    ]
    drawn = np.array([path[:, 1] for group in axes.collections for path in segments(group)])
    np.testing.assert_array_equal(drawn, densities[np.argsort(ones, kind="stable")])


def test_prediction_maps_put_flips_on_x_and_ones_on_y():
    figure = figures.prediction_maps({"Bayes": TRIANGLE, "LSTM": TRIANGLE / 2})
    for axes, expected in zip(figure.axes[:2], (TRIANGLE, TRIANGLE / 2), strict=True):
        mesh = axes.collections[0]
        np.testing.assert_array_equal(mesh.get_array().filled(np.nan), expected.T)
        np.testing.assert_array_equal(mesh.get_array().mask, np.isnan(expected.T))
        assert mesh.get_clim() == (0.0, 1.0)  # the same colour is the same probability
        assert (axes.get_xlabel(), axes.collections[0].get_coordinates()[0, 0, 0]) == (
            "flips $n$",
            -0.5,
        )
    assert figure.axes[0].get_ylabel() == "ones $k$"


def test_one_prediction_map_has_its_spread_beside_it():
    figure = figures.prediction_maps({"LSTM": TRIANGLE}, spread={"LSTM": TRIANGLE / 10})
    spread = figure.axes[1].collections[0]
    np.testing.assert_array_equal(spread.get_array().filled(np.nan), TRIANGLE.T / 10)
    assert spread.get_clim() == (0.0, np.nanmax(TRIANGLE) / 10)


def test_prediction_scatter_draws_pairs_diagonal_and_the_largest_difference():
    axes = figures.prediction_scatter([[0.1, 0.9]], [[0.3, 0.8]]).axes[0]
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), [[0.1, 0.3], [0.9, 0.8]])
    np.testing.assert_array_equal(axes.get_lines()[0].get_data(), [[0, 1], [0, 1]])
    assert words(axes) == ["largest difference 0.200"]


def test_lines_draw_curves_rules_and_marks():
    figure = CASES["lines"]()
    axes, drawn = figure.axes[0], lines_of(figure)
    np.testing.assert_array_equal(drawn["typical"].get_ydata(), [3.0, np.nan, 2.0])
    np.testing.assert_array_equal(drawn["best"].get_xdata(), [1, 10, 100])
    assert set(drawn["no prompt"].get_ydata()) == {1.4}
    assert words(axes) == ["tune", "L = 10"]
    assert ([10], [2.0]) in [tuple(map(list, line.get_data())) for line in axes.get_lines()]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert drawn["best"].get_linestyle() != drawn["typical"].get_linestyle()


def test_regret_split_stacks_and_sums():
    axes = figures.regret_split(["a", "b"], [0.5, 0.25], [0.0, 1.0]).axes[0]
    corners = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert corners == [(0.0, 0.5), (0.0, 0.25), (0.5, 0.0), (0.25, 1.0)]
    assert words(axes) == ["0.50", "1.25"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.yaxis_inverted()  # the first name stands on top


def test_regret_heatmap_draws_values_contours_and_marks():
    figure = figures.regret_heatmap(
        [1, 2, 3, 4],
        [1, 2, 4],
        PLANE,
        xlabel="a",
        ylabel="b",
        levels=[0.5],
        marks={"best": (2, 1)},
        yscale="log",
    )
    axes = figure.axes[0]
    mesh, contours = axes.collections[:2]
    np.testing.assert_array_equal(mesh.get_array(), PLANE)
    np.testing.assert_array_equal(contours.levels, [0.5])
    assert words(axes)[-1] == "best"
    assert [tuple(line.get_data()) for line in axes.get_lines()] == [([2], [1])]
    assert axes.get_yscale() == "log"


def test_parameters_and_regret_draw_medians_and_quartiles():
    regret = RNG.uniform(size=(2, 5))
    figure = figures.parameters_and_regret(
        ["SoftPT", "LoRAWT"], [768, 4096], regret, reference={"TargetBayes": 0.69}
    )
    axes = figure.axes[0]
    for row, container in enumerate(axes.containers):
        point, _, (whisker,) = container.lines
        x, y = (float(value[0]) for value in point.get_data())
        assert (x, y) == ([768, 4096][row], np.median(regret[row]))
        # matplotlib adds the differences back on: one rounding
        np.testing.assert_allclose(
            segments(whisker)[0][:, 1], np.quantile(regret[row], [0.25, 0.75]), rtol=1e-12
        )
    assert words(axes) == ["SoftPT", "LoRAWT"]
    assert axes.get_xscale() == "log"
    assert "TargetBayes" in lines_of(figure)


def test_labels_of_close_points_do_not_cover_each_other():
    names = ["HardPT", "SimplexPT", "RealPT", "SoftPT"]
    figure = figures.parameters_and_regret(names, [6, 12, 12, 768], [1.0, 0.98, 0.97, 0.1])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 4
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


def test_attention_maps_draw_every_head_and_leave_zeros_white():
    figure = figures.attention_maps({"before": ATTENTION, "after": ATTENTION[:, ::-1]})
    panels = [axes for axes in figure.axes if axes.images]
    expected = [*ATTENTION, *ATTENTION[:, ::-1]]
    assert len(panels) == 4
    for axes, weights in zip(panels, expected, strict=True):
        image = axes.images[0].get_array()
        np.testing.assert_array_equal(image.filled(0.0), weights)
        np.testing.assert_array_equal(image.mask, weights == 0.0)
    limits = {axes.images[0].get_clim() for axes in panels}
    assert limits == {(0.0, ATTENTION.max())}
    assert [axes.get_title(loc="left") for axes in panels] == ["head 1", "head 2", "", ""]
    assert [axes.get_ylabel() for axes in panels] == ["before\nquery", "", "after\nquery", ""]


# --- What is refused -----------------------------------------------------------------------------

WRONG = [
    (
        lambda: figures.loss_curves({"A": np.ones((2, 3, 4))}),
        r"`losses\['A'\]`.*\[seed, step\].*\(2, 3, 4\)",
    ),
    (lambda: figures.loss_curves({"A": [1.0, np.nan]}), r"`losses\['A'\]` must be finite, got 1 "),
    (lambda: figures.loss_curves({"A": [1.0]}, window=0), "`window` must be at least 1, got 0"),
    (lambda: figures.loss_curves({}), "`losses` must map at least one label"),
    (lambda: figures.loss_curves({"A": np.ones((0, 3))}), r"`losses\['A'\]`.*\(0, 3\)"),
    (lambda: figures.loss_curves({"A": ["x"]}), r"`losses\['A'\]` must be numbers"),
    (lambda: figures.regret_curves([1.0, 2.0]), "`regret` must map"),
    (
        lambda: figures.regret_curves(CURVES, standard_error={"SoftPT": [1.0]}),
        r"`standard_error\['SoftPT'\]`.*\[time=60\].*\(1,\)",
    ),
    (lambda: figures.regret_curves(CURVES, standard_error={"B": [1.0]}), "`standard_error`.*'B'"),
    (lambda: figures.regret_bars({"A": np.ones((2, 2))}), r"`panels\[''\]\['A'\]`.*\(2, 2\)"),
    (lambda: figures.regret_bar_panels({}), "`panels` must map"),
    (lambda: figures.headline_bars({"A": {}}), r"`panels\['A'\]` must map"),
    (lambda: figures.sorted_hard_prefixes([0, 1], [1.0]), r"`tokens`.*\[prompt, length\].*\(2,\)"),
    (lambda: figures.sorted_hard_prefixes([[0]], [1.0, 2.0]), r"`loss`.*\[prompt=1\].*\(2,\)"),
    (lambda: figures.state_components(STATES[..., :1], [0], [0]), r"`points`.*component=2"),
    (lambda: figures.state_components(STATES, [0], np.ones(5)), r"`steps`.*\[time=7\]"),
    (lambda: figures.state_components(STATES, np.ones(7), [0]), r"`tau`.*\[sequence=5\]"),
    (lambda: figures.prefix_trajectories(STATES[0], {"A": (STATES, STATES)}), "`background`"),
    (
        lambda: figures.prefix_trajectories(STATES, {"A": (STATES[0], STATES)}),
        r"`panels\['A'\]\[0\]`",
    ),
    (
        lambda: figures.prefix_trajectories(STATES, {"A": (STATES, STATES[0])}),
        r"`panels\['A'\]\[1\]`",
    ),
    (lambda: figures.prefix_trajectories(STATES, {"A": STATES}), r"`panels\['A'\]` must be a pair"),
    (lambda: figures.prefix_trajectories(STATES, {}), "`panels` must map"),
    (lambda: figures.posterior_flips(GRID, np.ones((2, 3)), [1]), r"`densities`.*\[step, tau=11\]"),
    (lambda: figures.posterior_flips(GRID, np.ones((3, 11)), [1]), r"`tokens`.*\[3\], or \[2\]"),
    (lambda: figures.posterior_densities(GRID, {"A": [1.0]}), r"`densities\['A'\]`.*\[tau=11\]"),
    (lambda: figures.posterior_densities(GRID, {}), "`densities` must map"),
    (
        lambda: figures.posterior_densities(GRID, {}, atoms={"A": ([0.1, 0.2], [1.0])}),
        r"`atoms\['A'\]\[1\]`.*\[atom=2\]",
    ),
    (lambda: figures.prompt_posteriors(GRID, np.ones((2, 11)), [1]), r"`heads`.*\[prompt=2\]"),
    (lambda: figures.prediction_maps({"A": [1.0]}), r"`maps\['A'\]`.*\[n, k\]"),
    (
        lambda: figures.prediction_maps({"A": TRIANGLE}, spread={"B": TRIANGLE}),
        r"`spread`.*\['B'\]",
    ),
    (
        lambda: figures.prediction_scatter([0.5], {"A": [0.5, 0.5]}),
        r"`network\['A'\]`.*\(1,\).*\(2,\)",
    ),
    (lambda: figures.lines([1, 2], {"A": [1.0]}, xlabel="", ylabel=""), r"`ys\['A'\]`.*\[x=2\]"),
    (
        lambda: figures.lines([1], {"A": [1.0]}, xlabel="", ylabel="", yscale="logit"),
        "`yscale` must be.*'logit'",
    ),
    (lambda: figures.regret_split(["a", "b"], 1.0, [1.0]), r"`fault`.*\[predictor=2\]"),
    (
        lambda: figures.regret_split(["a", "b"], [1.0], [1.0, 2.0]),
        r"`information`.*\[predictor=2\]",
    ),
    (
        lambda: figures.regret_heatmap([1, 2, 3], [1, 2, 3, 4], PLANE, xlabel="", ylabel=""),
        r"`values`.*\[y=4, x=3\].*\(3, 4\)",
    ),
    (lambda: figures.parameters_and_regret(["a"], [0], [1.0]), "`num_parameters` must be positive"),
    (
        lambda: figures.parameters_and_regret(["a"], [1, 2], [1.0]),
        r"`num_parameters`.*\[method=1\]",
    ),
    (
        lambda: figures.parameters_and_regret(["a"], [1], [1.0, 2.0]),
        r"`regret`.*\[method=1, seed\]",
    ),
    (lambda: figures.attention_maps({"A": [1.0]}), r"`maps\['A'\]`.*\[head, query, key\]"),
    (lambda: figures.attention_maps({"A": -ATTENTION}), "`maps` must agree.*not be negative"),
    (lambda: figures.attention_maps({"A": ATTENTION, "B": ATTENTION[0]}), "`maps` must agree"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_refusal_names_the_argument_and_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- What can be told apart ----------------------------------------------------------------------

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
SIGHT = {
    "full": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
# Stone, Szafir and Setlur (2014): half of the observers notice a difference of
# A + B / s in L*, a* and b* between marks of s degrees, for s from 1/3 to 6. A third of a degree,
# 3.5 mm at 60 cm, is a bar of these figures or a piece of line in a legend.
NOTICEABLE = np.array([5.079, 5.339, 5.349]) + np.array([0.751, 1.541, 2.871]) / (1 / 3)
THEMES = {
    "light": lambda rgb: rgb,
    # css: invert(1) hue-rotate(180deg), the matrix of the Filter Effects specification
    "dark": lambda rgb: np.clip(
        np.array([[-0.574, 1.430, 0.144], [0.426, 0.430, 0.144], [0.426, 1.430, -0.856]])
        @ (1 - rgb),
        0,
        1,
    ),
}


def linear(rgb):
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(linear_rgb):
    """CIELAB under D65 of linear sRGB."""
    xyz = (
        np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        @ np.clip(linear_rgb, 0, 1)
        / np.array([0.9505, 1.0, 1.089])
    )
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def difference(one, other, sight, theme):
    """Return how many noticeable differences lie between two colours."""
    seen = [
        lab(SIGHT[sight] @ linear(THEMES[theme](np.array(to_rgb(colour)))))
        for colour in (one, other)
    ]
    return np.linalg.norm((seen[0] - seen[1]) / NOTICEABLE)


def contrast(colour, theme):
    """Return the contrast ratio (WCAG) with the theme's ground, white or black."""
    luminance = LUMINANCE @ linear(THEMES[theme](np.array(to_rgb(colour))))
    return 1.05 / (luminance + 0.05) if theme == "light" else (luminance + 0.05) / 0.05


def test_the_measure_of_difference_finds_confusable_colours():
    """A red and a green of equal luminance: far apart in full sight, not in deuteranopia."""
    red, green = "#b05050", "#6e7240"
    assert difference(red, green, "full", "light") > 2
    assert difference(red, green, "deuteranopia", "light") < 1
    assert contrast("#ffffff", "light") == pytest.approx(1)
    assert contrast("#ffffff", "dark") == pytest.approx(1)
    assert contrast("#000000", "dark") == pytest.approx(21)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("group", [*figures.GROUPS, "networks"])
def test_colours_of_a_group_differ(group, sight, theme):
    names = figures.GROUPS.get(group, figures.NETWORKS)
    colours = [figures.METHOD_STYLE[name].colour for name in names]
    for one, other in itertools.combinations(colours, 2):
        # two differences: one is noticed by half of the observers
        assert difference(one, other, sight, theme) > 2, (one, other)


@pytest.mark.parametrize("theme", THEMES)
def test_colours_stand_out_from_the_ground(theme):
    """WCAG 2.2 asks for a contrast of 3 to 1 for what is drawn."""
    ramp = [style.shade(place, 6) for place in range(7)]
    for colour in [*(own.colour for own in figures.METHOD_STYLE.values()), *ramp]:
        assert contrast(colour, theme) >= 3, colour


def test_the_ramp_is_ordered_in_black_and_white():
    shades = [LUMINANCE @ linear(np.array(style.RAMP(place)[:3])) for place in np.linspace(0, 1, 9)]
    assert (np.diff(shades) > 0).all()


def test_without_colour_line_style_and_marker_differ():
    looks = {name: (own.linestyle, own.marker) for name, own in figures.METHOD_STYLE.items()}
    methods = [look for name, look in looks.items() if name not in figures.NETWORKS]
    assert len(set(methods)) == len(methods)
    assert len({marker for _, marker in methods}) == len(methods)
    assert looks["LSTM"] != looks["Transformer"]


def test_every_method_and_baseline_has_a_style_and_a_group():
    grouped = [name for names in figures.GROUPS.values() for name in names]
    assert len(set(grouped)) == len(grouped)
    assert {*grouped, *figures.NETWORKS} == set(figures.METHOD_STYLE)
    for names in figures.GROUPS.values():
        assert len({figures.METHOD_STYLE[name].hatch for name in names}) == 1


def test_a_method_on_a_network_keeps_the_colour_and_takes_the_line_style():
    both = style.style_of("SoftPT, LSTM")
    assert both is not None
    assert both.colour == figures.METHOD_STYLE["SoftPT"].colour
    assert both.linestyle == figures.METHOD_STYLE["LSTM"].linestyle
    assert style.style_of("best prompt") is None
