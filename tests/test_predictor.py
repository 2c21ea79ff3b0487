"""A predictor: what its prefix does, what jit sees of it, and its way to a file and back."""

import dataclasses
import json
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import promptbayes
import pytest
import safetensors
import safetensors.numpy
from conftest import random_predictor, roundings, small_predictor
from promptbayes import (
    LSTM,
    PRETRAINING,
    Predictor,
    dirichlet,
    evaluate,
    exact,
    initialise,
    load,
    load_pretrained,
    networks,
    predictor,
    random_coins,
    save,
)

TOKENS = np.array([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]])


def test_predictions_are_probabilities(small):
    log_probs = small(TOKENS)
    assert log_probs.shape == (2, 5, 2)
    # One softmax: a sum and a division.
    np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, atol=roundings(10), rtol=0)


def test_plain_lists_are_tokens_too(small):
    np.testing.assert_array_equal(small(TOKENS.tolist()), small(TOKENS))
    np.testing.assert_array_equal(small(jnp.asarray(TOKENS)), small(TOKENS))
    np.testing.assert_array_equal(
        small.with_tokens([0, 1]).prefix, small.with_tokens((0, 1)).prefix
    )


def test_a_prefix_of_embedded_tokens_is_these_tokens_in_front(small):
    prompt = np.array([1, 0, 0])
    prompted = small.with_tokens(prompt)
    in_front = np.concatenate([np.tile(prompt, (2, 1)), TOKENS], axis=1)
    # The same numbers through the same operations, summed in another order: 8 steps of sums of at
    # most 16 terms, which LayerNorm may enlarge.
    tolerance = {"atol": roundings(300), "rtol": 0}
    np.testing.assert_allclose(prompted(TOKENS), small(in_front)[:, 3:], **tolerance)
    states, whole = prompted.states(TOKENS), small.states(in_front)
    np.testing.assert_allclose(states.content, whole.content[:, 3:], **tolerance)
    np.testing.assert_allclose(states.prefix, whole.content[0, :3], **tolerance)
    np.testing.assert_allclose(states.start, whole.start, **tolerance)


def test_a_hard_prompt_replaces_the_prefix(small):
    once = small.with_tokens([0, 1])
    np.testing.assert_array_equal(once.with_tokens([1]).prefix, small.with_tokens([1]).prefix)
    np.testing.assert_array_equal(once.with_tokens([])(TOKENS), small(TOKENS))


def test_embed_is_linear_with_a_bias(small):
    vectors = np.array([[0.0, 0.0], [1.0, 0.0], [0.3, -2.0]])
    embedding = small.params["embedding"]
    expected = vectors @ np.asarray(embedding["kernel"]) + np.asarray(embedding["bias"])
    np.testing.assert_allclose(small.embed(vectors.tolist()), expected, atol=roundings(10), rtol=0)


@pytest.mark.parametrize("carrying", [False, True], ids=["", "with a memory"])
def test_jit_traces_once_whatever_the_numbers_are(small, carrying):
    if carrying:
        small = small._replace(memory=small.with_tokens([0, 1]).read())
    traces = []

    @jax.jit
    def first(predictor, tokens):
        traces.append(tokens.shape)
        return predictor(tokens)[:, 0]

    first(small, TOKENS)
    other = jax.tree.map(lambda x: x + 1, small)
    architecture = type(small.network)(**vars(small.network))  # equal, but another object
    first(other._replace(network=architecture), 1 - TOKENS)
    assert traces == [(2, 5)]
    first(small, TOKENS[:, :3])
    assert traces == [(2, 5), (2, 3)]


def test_vmap_over_predictors_is_one_at_a_time(small):
    many = [random_predictor(small.network, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    together = jax.jit(jax.vmap(lambda predictor: predictor(jnp.asarray(TOKENS))))(stacked)
    for one, of_many in zip(many, together):
        # As in the test of prefixes: the same sums in another order.
        np.testing.assert_allclose(of_many, one(TOKENS), atol=roundings(300), rtol=0)


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        ([[0, 2]], ValueError, "`tokens` must be between 0 and 1, got values from 0 to 2"),
        ([[-1, 0]], ValueError, "`tokens` must be between 0 and 1, got values from -1 to 0"),
        ([0, 1], ValueError, r"`tokens` must be \[batch, time\], got shape \(2,\)"),
        ([[[0]]], ValueError, r"`tokens` must be \[batch, time\], got shape \(1, 1, 1\)"),
        ([[0.5]], TypeError, "`tokens` must be integers, got dtype float64"),
        ([[True]], TypeError, "`tokens` must be integers, got dtype bool"),
        ("heads", TypeError, "`tokens` must be integers, got dtype <U5"),
        (None, TypeError, "`tokens` must be integers, got dtype object"),
    ],
)
def test_what_is_no_sequence_is_refused(tokens, error, message):
    lstm = small_predictor("LSTM")
    for read in (lstm, lstm.states):
        with pytest.raises(error, match=message):
            read(tokens)


def test_a_hard_prompt_must_be_one_sequence_of_the_alphabet():
    lstm = small_predictor("LSTM")
    with pytest.raises(ValueError, match=r"`tokens` must be \[time\], got shape \(1, 2\)"):
        lstm.with_tokens([[0, 1]])
    with pytest.raises(ValueError, match="`tokens` must be between 0 and 1"):
        lstm.with_tokens([0, 2])


@pytest.mark.parametrize("architecture", [None, LSTM, "lstm", {}])
def test_initialise_takes_architectures_only(architecture):
    with pytest.raises(TypeError, match="`architecture` must be an Architecture such as LSTM()"):
        initialise(architecture, jax.random.key(0))


@pytest.mark.parametrize(
    "key", [0, None, np.zeros(2, np.uint32), jax.random.split(jax.random.key(0))]
)
def test_initialise_takes_one_key_only(key):
    with pytest.raises(TypeError, match="`key` must be one jax random key such as"):
        initialise(LSTM(), key)


# Files.


@pytest.fixture
def saved(tmp_path):
    """A file that `save` wrote, and what is in it."""
    content = small_predictor("LSTM")
    content = content._replace(
        prefix=jnp.asarray(np.random.default_rng(1).normal(size=(2, 6)), "f")
    )
    path = tmp_path / "weights.safetensors"
    save(path, content, {"task": "coins", "steps": [1, 2]})
    return path, content


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_save_and_load_give_the_same_bits(small, tmp_path):
    path = tmp_path / "x"
    save(path, small)
    assert_equal(load(path), small)
    assert_equal(load(str(path)), small)
    assert predictor.settings(path) == {}
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_prefix_and_settings_are_saved_too(saved):
    path, content = saved
    assert_equal(load(path), content)
    assert predictor.settings(path) == {"task": "coins", "steps": [1, 2]}


def test_a_memory_is_saved_in_half_precision_where_that_holds_it(small, tmp_path):
    path, carrying = tmp_path / "x", small._replace(memory=small.with_tokens([0, 1]).read())
    save(path, carrying)
    whole = path.stat().st_size
    assert_equal(load(path), carrying)
    halved = jax.tree.map(lambda x: x.astype(jnp.float16).astype(x.dtype), carrying)
    save(path, halved)
    assert path.stat().st_size < whole / 2 + 8192  # the header stays
    assert_equal(load(path), halved)
    # The weights alone: the memory keeps its numbers, and so the file stays whole.
    save(path, predictor.rounded(carrying))
    assert_equal(load(path), predictor.rounded(carrying))
    assert_equal(load(path).memory, carrying.memory)


def test_a_memory_of_another_form_is_refused(small, tmp_path):
    path = tmp_path / "x"
    read = small.with_tokens([0, 1]).read()
    for broken in (read._replace(layers=read.layers[:0]), read._replace(output=read.output[None])):
        save(path, small._replace(memory=broken))
        name = type(small.network).__name__
        with pytest.raises(ValueError, match=f"has a memory of another form than its {name} needs"):
            load(path)


def test_half_precision_takes_half_the_space_and_changes_nothing_more(small, tmp_path):
    path = tmp_path / "x"
    save(path, small)
    whole = path.stat().st_size
    halved = predictor.rounded(small)
    save(path, halved)
    saved_bytes = 2 * sum(leaf.size for leaf in jax.tree.leaves(small.params))
    assert abs(whole - path.stat().st_size - saved_bytes) < 64  # the header has shorter numbers
    assert_equal(load(path), halved)
    for mine, other in zip(jax.tree.leaves(halved.params), jax.tree.leaves(small.params)):
        # Ten bits behind the leading one, or steps of 2^-24 near zero.
        np.testing.assert_allclose(mine, other, rtol=2.0**-11, atol=2.0**-25)
    far = small._replace(params=jax.tree.map(lambda x: jnp.full_like(x, 2.0**20), small.params))
    save(path, far)  # beyond float16
    assert_equal(load(path), far)


@pytest.mark.parametrize(
    ("name", "seed", "expected"),
    [
        ("transformer", 0, [-0.73487175, -0.42663744, -0.42403421, -0.34994569, -0.36002675]),
        ("transformer", 1, [-0.62350917, -0.33090648, -0.38489956, -0.28655952, -0.30784228]),
        (
            "transformer-embedding-4",
            0,
            [-0.69130754, -0.2597813, -0.30823556, -0.2993913, -0.31728801],
        ),
    ],
)
def test_shipped_transformers_predict_as_before_the_norm_moved(name, seed, expected):
    """Log-probabilities of a 1 after 0 to 59 tokens, from the code with one last LayerNorm."""
    tokens = [[int(i * i % 7 < 3) for i in range(60)]]
    found = load_pretrained(name, seed)(tokens)[0, np.array([0, 1, 10, 30, 59]), 1]
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


def test_every_damaged_number_is_found(saved):
    path, _ = saved
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    rng = np.random.default_rng(2)
    for position in rng.integers(header, len(whole), size=20):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged: its numbers do not match their checksum"):
            load(path)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(saved, keep):
    path, _ = saved
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load(path)


def test_a_text_file_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not weights at all")
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"is a safetensors file, but not one that save\(\) wrote"):
        load(path)


def rewrite(path, **changes):
    """The same numbers with another header."""
    whole = path.read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    for name, value in changes.items():
        header["__metadata__"][name] = value
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + whole[8 + size :])


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (
            '{"name": "GRU"}',
            "holds no known architecture: a GRU, expected one of LSTM, Transformer",
        ),
        ('{"name": "LSTM", "gates": 4}', "holds no known architecture"),
        ('{"name": "LSTM", "width": 0}', "holds no known architecture"),
        ('{"width": 8}', "holds no known architecture"),
        ("[1]", "holds no known architecture"),
        ("{", "holds no known architecture"),
        ('{"name": "LSTM", "width": 9}', "has weights of other shapes than its LSTM needs"),
        ('{"name": "Transformer"}', "has weights of other shapes than its Transformer needs"),
    ],
)
def test_a_file_of_another_network_is_refused(saved, architecture, message):
    path, content = saved
    rewrite(path, architecture=json.dumps({"name": "LSTM", **vars(content.network)}))
    assert_equal(load(path), content)  # rewriting as such does no harm
    rewrite(path, architecture=architecture)
    with pytest.raises(ValueError, match=message):
        load(path)


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(FileNotFoundError, match="`path` must name a weights file"):
            load(path)


@pytest.mark.parametrize("reason", [KeyboardInterrupt, OSError("disk full")])
def test_what_stops_half_way_leaves_the_old_file(saved, monkeypatch, reason):
    path, content = saved

    def half(tensors, unfinished, metadata):
        Path(unfinished).write_bytes(b"half of it")
        raise reason

    monkeypatch.setattr(safetensors.numpy, "save_file", half)
    with pytest.raises((KeyboardInterrupt, OSError)):
        save(path, small_predictor("Transformer"))
    assert_equal(load(path), content)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(LSTM):
    """An architecture of one's own, with a field of each kind that a file can hold."""

    scale: float = 0.5
    start: int = 0
    bias: bool = True
    kind: str = "plain"
    nothing: None = None
    steps: tuple = (1, (2.5, "x"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forgetful(Own):
    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "scale", self.scale + 1)  # made again, it is another


def test_an_architecture_of_ones_own_is_saved_and_loaded(tmp_path):
    path, own = tmp_path / "x", Own(embedding_width=4, width=3, scale=-2.5, start=-1, bias=False)
    content = initialise(own, jax.random.key(0)).with_tokens([0, 1])
    save(path, content)
    again = load(path, architectures=[Own])
    assert_equal(again, content)
    assert again.network.steps == (1, (2.5, "x"))
    np.testing.assert_array_equal(again(TOKENS), content(TOKENS))
    with pytest.raises(ValueError, match=r"holds no known .* a Own, .* architectures=\[Own\]"):
        load(path)
    with pytest.raises(TypeError, match="`architectures` must be subclasses .*, got 'Own'"):
        load(path, architectures=["Own"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": Own(steps=(np.zeros(2),))}, "could not be loaded: .*ndarray is not JSON"),
        ({"network": Own(scale=float("nan"))}, "would be loaded as Own"),
        ({"network": Forgetful(width=8, embedding_width=6)}, "would be loaded as Forgetful"),
        ({"network": LSTM(width=9)}, "`predictor` has weights of other shapes than LSTM"),
        ({"prefix": np.zeros((2, 7), "f")}, "`predictor` has weights of other shapes than LSTM"),
    ],
)
def test_save_refuses_what_load_could_not_read(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "x", small_predictor("LSTM")._replace(**changes))
    assert not list(tmp_path.iterdir())


class OneSequence(networks.Torso):
    """A torso that was tried with one sequence only."""

    def __init__(self, width, rngs):
        self.width = width

    def start(self):
        return [jnp.zeros((1, self.width))]

    def read(self, prepared, memory):
        joined = jnp.concatenate([memory[0][:, None], prepared], axis=1)  # broadcasts nothing
        sums = jnp.cumsum(joined, axis=1)
        return networks.Reading(sums[:, 1:], [sums[:, -1]], sums[:, 1:])


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneOnly(networks.Architecture):
    layers: object = None

    def torso(self, rngs):
        return OneSequence(self.embedding_width, rngs)


def test_a_torso_that_breaks_its_contract_is_refused_at_once():
    with pytest.raises(
        ValueError, match="`architecture`: OneOnly cannot read tokens .*see `Torso`"
    ):
        initialise(OneOnly(embedding_width=4), jax.random.key(0))
    with pytest.raises(TypeError, match="`architecture` must be hashable, .* unhashable type"):
        initialise(OneOnly(layers=[1]), jax.random.key(0))


def test_save_refuses_what_it_cannot_write(tmp_path):
    with pytest.raises(TypeError, match="`predictor` must be a Predictor, got LSTM"):
        save(tmp_path / "x", LSTM())
    with pytest.raises(ValueError, match="`path` must lie in an existing folder"):
        save(tmp_path / "no" / "x", small_predictor("LSTM"))
    assert not list(tmp_path.iterdir())


# The networks that come with the package.


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_pretrained_networks_are_near_the_exact_predictor(name):
    """Nearer to Laplace's rule, which is exact for random coins, than the KT estimator is."""
    pretrained = load_pretrained(name)
    sequences = random_coins().sample(jax.random.key(9), 1024, PRETRAINING.length)
    excess = evaluate(pretrained, sequences) - evaluate(random_coins().predict, sequences)
    total = excess.sum(axis=1, dtype=np.float64)
    standard_error = total.std(ddof=1) / np.sqrt(len(total))
    yardstick = exact.kl_divergence(random_coins(), dirichlet([0.5, 0.5]), PRETRAINING.length)
    assert abs(yardstick - 0.132) < 0.0005  # as it is quoted: three decimals
    assert total.mean() + 4 * standard_error < yardstick
    # A divergence is not negative; below, the sequences or the yardstick would be wrong.
    assert total.mean() > -4 * standard_error


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_pretrained_networks_say_where_they_come_from(name):
    path = predictor.pretrained_path(name)
    settings = predictor.settings(path)
    assert settings["training"] == vars(PRETRAINING)
    assert len(settings["losses"]) == PRETRAINING.num_steps
    assert path.parent == Path(promptbayes.__file__).parent / "weights"
    assert load_pretrained(name).prefix.shape == (0, 128)
    assert load_pretrained(name).memory is None


def test_an_unknown_pretrained_network_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="`name` must be one of lstm, transformer.*, got 'gru'"):
        load_pretrained("gru")
    with pytest.raises(ValueError, match=r"there is no lstm-99.safetensors, only lstm-0.saf"):
        load_pretrained("lstm", 99)


def test_a_network_that_has_to_be_made_first_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(predictor, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=r"no lstm-large-0.* `.* pretrain lstm-large` makes it"):
        load_pretrained("lstm-large")


def test_predictors_are_plain_tuples():
    """What crosses jit is a NamedTuple: network, params, prefix, memory."""
    assert Predictor._fields == ("network", "params", "prefix", "memory")
