"""Cores, caches and devices change speed, never a number beyond rounding."""

import contextlib
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import NETWORKS, roundings
from promptbayes import LSTM, PRETRAINING, TUNING, Transformer, hardware
from promptbayes.experiments import ARCHITECTURES
from promptbayes.networks import initial_params

# Micro-batches.


WIDE, NARROW = (hardware.CPU("x86_64", avx512, None) for avx512 in (True, False))


def chosen(monkeypatch, here, *arguments, **options):
    monkeypatch.setattr(hardware, "cpu", lambda: here)
    return hardware.micro_batch_size(*arguments, **options)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 96, 256])
@pytest.mark.parametrize("length", [1, 50, 100])
@pytest.mark.parametrize("architecture", [Transformer(), Transformer(embedding_width=4)])
@pytest.mark.parametrize("cache_bytes", [None, 2**20, 2**40])
def test_a_micro_batch_is_the_largest_divisor_that_fits_the_cache(
    batch_size, length, architecture, cache_bytes, monkeypatch
):
    here = WIDE._replace(cache_bytes=cache_bytes)
    size = chosen(monkeypatch, here, architecture, batch_size, length, num_weights=0)
    limit = min(hardware.CACHE_BYTES, cache_bytes or hardware.CACHE_BYTES)

    def fits(sequences):
        return 4 * sequences * length * architecture.floats_per_token <= limit

    assert batch_size % size == 0
    assert fits(size) or size == 1
    larger = [d for d in range(size + 1, batch_size + 1) if batch_size % d == 0]
    assert not any(fits(d) for d in larger)


@pytest.mark.parametrize(
    ("name", "length", "wide", "narrow"),
    [
        ("transformer", PRETRAINING.length, 4, 4),
        ("transformer", TUNING.length, 8, 8),
        ("lstm", PRETRAINING.length, 32, 64),
        ("lstm", TUNING.length, 32, 64),
        ("transformer-large", TUNING.length, 8, 8),
        ("lstm-large", TUNING.length, 32, 64),
    ],
)
def test_the_papers_batches_are_cut_as_measured(name, length, wide, narrow, monkeypatch):
    """`make bench` tries sizes from 1 to 256: with AVX-512 and without, these are near the best.

    The large networks' weights count: by its activations alone the large Transformer would get 1,
    and take 1.4 times as long.
    """
    architecture = ARCHITECTURES[name]
    params = initial_params(architecture, jax.random.key(0))
    num_weights = sum(weights.size for weights in jax.tree.leaves(params))
    for here, size in ((WIDE, wide), (NARROW, narrow)):
        assert chosen(monkeypatch, here, architecture, 256, length, num_weights) == size


@pytest.mark.parametrize(("batch_size", "size"), [(1, 1), (7, 7), (48, 48), (96, 32), (100, 50)])
def test_a_recurrent_network_reads_rows_enough_or_the_whole_batch(batch_size, size, monkeypatch):
    few = LSTM(width=512)
    assert chosen(monkeypatch, WIDE, few, batch_size, 50, num_weights=0) == size
    assert chosen(monkeypatch, WIDE, LSTM(width=1, embedding_width=1), 256, 50, 0) == 256


def test_an_accelerator_takes_the_whole_batch(monkeypatch):
    monkeypatch.setattr(hardware.jax, "default_backend", lambda: "gpu")
    assert hardware.micro_batch_size(Transformer(), 257, 1000, 10_000) == 257


# What the CPU is.


@pytest.mark.parametrize(
    ("flags", "avx512"),
    [
        ("", True),
        ("--xla_cpu_max_isa=AVX2", False),
        ("--xla_other=1 --xla_cpu_max_isa=sse4_2", False),
        ("--xla_cpu_max_isa=AVX512", True),
        ("--xla_cpu_max_isa=AMX", True),
    ],
)
def test_vectors_are_as_wide_as_cpu_and_flags_allow(flags, avx512, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    for info, has in (("flags : avx2 avx512f avx512bw", True), ("flags : avx2", False)):
        monkeypatch.setattr(hardware.Path, "is_file", lambda path: True)
        monkeypatch.setattr(hardware.Path, "read_text", lambda path, info=info: info)
        assert hardware.cpu.__wrapped__().avx512 == (avx512 and has)
    monkeypatch.setattr(hardware.Path, "is_file", lambda path: False)  # no Linux
    assert not hardware.cpu.__wrapped__().avx512


def test_a_cores_caches_are_its_own_and_its_share(tmp_path):
    """Two L1, an L2 for two threads of a core, an L3 for eight; nothing where there is nothing."""
    caches = (1, "48K", "3"), (1, "32K", "3"), (2, "2048K", "3"), (3, "32768K", "00000000,000000ff")
    for index, (level, size, cores) in enumerate(caches):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("level", level), ("size", size), ("shared_cpu_map", cores)):
            (folder / name).write_text(f"{text}\n")
    assert hardware._cache_bytes(tmp_path) == (1 + 4) * 2**20
    assert hardware._cache_bytes(tmp_path / "nothing") is None


@jax.custom_vjp
def never_differentiated(x):
    return x


def _refuse(*arguments):
    raise AssertionError("a gradient was computed that nobody asked for")


never_differentiated.defvjp(_refuse, _refuse)


@pytest.mark.parametrize("size", [1, 2, 6])
def test_micro_batches_sum_to_the_whole(size):
    """Value and gradient; integers, so exactly. What is not tuned is not differentiated."""
    batch = jnp.arange(12).reshape(6, 2)
    shared = {"tuned": jnp.array([2.0, 3.0]), "frozen": jnp.array(5.0)}

    def function(shared, batch):
        scale = never_differentiated(shared["frozen"])
        return (scale * (batch.astype(float) * shared["tuned"][None]) ** 2).sum()

    def in_pieces(tuned):
        both = {"tuned": tuned, "frozen": shared["frozen"]}
        return 3 * hardware.sum_over_micro_batches(function, both, batch, size)

    value, gradient = jax.jit(jax.value_and_grad(in_pieces))(shared["tuned"])
    squares = (np.arange(12).reshape(6, 2) ** 2).sum(axis=0)  # [column]
    assert value == 3 * 5 * (squares @ [4, 9])
    np.testing.assert_array_equal(gradient, 3 * 5 * 2 * squares * [2, 3])
    assert jax.jit(in_pieces)(shared["tuned"]) == value  # and without a gradient


def test_micro_batches_under_vmap():
    """As on an accelerator, where repetitions are one program."""

    def total(x):
        function = lambda x, batch: (x * batch).sum()  # noqa: E731
        return hardware.sum_over_micro_batches(function, x, jnp.arange(4.0), 2)

    np.testing.assert_array_equal(jax.vmap(jax.grad(total))(jnp.arange(3.0)), [6, 6, 6])


# Spreading.


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_spread_is_a_loop_over_entries(size, backend, monkeypatch):
    """Also where the entries do not divide by the devices; on an accelerator it is a vmap."""
    monkeypatch.setattr(hardware.jax, "default_backend", lambda: backend)
    rng = np.random.default_rng(size)
    arrays = rng.integers(-9, 9, size=(size, 4)), {"x": rng.integers(-9, 9, size=(size, 2, 3))}

    def function(vector, tree):
        return {"sum": vector.sum() + tree["x"].sum(), "first": tree["x"][0]}

    together = jax.jit(lambda *arrays: hardware.spread(function, *arrays))(*arrays)
    for i in range(size):
        expected = function(arrays[0][i], {"x": arrays[1]["x"][i]})
        np.testing.assert_array_equal(together["sum"][i], expected["sum"])  # integers: exactly
        np.testing.assert_array_equal(together["first"][i], expected["first"])
    assert together["first"].shape == (size, 3)


def test_spread_takes_random_keys():
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(lambda keys: hardware.spread(jax.random.normal, keys))(keys)
    expected = jnp.stack([jax.random.normal(key) for key in keys])
    np.testing.assert_allclose(together, expected, atol=roundings(10), rtol=0)


# Devices.

GRADIENTS = """
import sys

import jax
import numpy as np
from conftest import NETWORKS, SMALL_METHODS, small_predictor
from promptbayes import hardware, tuning

tokens = np.random.default_rng(0).integers(0, 2, size=(4, 5)).astype(np.int32)
method = SMALL_METHODS["FullWT"]
arrays = {}
for network in NETWORKS:
    base = small_predictor(network)
    theta = jax.tree.map(lambda x: np.stack([x, 2 * x, 3 * x]), method.init(None, base))
    of_three = jax.jit(lambda theta: hardware.spread(
        lambda one: tuning.loss_and_gradient(base, method, one, tokens), theta))
    for path, leaf in jax.tree.leaves_with_path(of_three(theta)):
        arrays[network + jax.tree_util.keystr(path)] = leaf
hardware.use_all_cores()  # too late to have an effect, but no error
np.savez(sys.argv[1], devices=len(jax.devices()), **arrays)
"""


def start(devices, script, path):
    """Python with a number of simulated devices; warnings are errors there too."""
    environment = {
        "PROMPTBAYES_CPU_DEVICES": str(devices),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
    }
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, path],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_gradients_do_not_depend_on_the_number_of_devices(tmp_path):
    """Three repetitions on 1, 2 and 4 simulated devices: 4 have one too many, 2 too few."""
    with contextlib.ExitStack() as stack:
        processes = {
            n: stack.enter_context(start(n, GRADIENTS, tmp_path / f"{n}.npz")) for n in (1, 2, 4)
        }
        for process in processes.values():
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    results = {n: dict(np.load(tmp_path / f"{n}.npz")) for n in processes}
    assert [int(result.pop("devices")) for result in results.values()] == [1, 2, 4]
    one = results[1]
    for network in NETWORKS:
        assert sum(name.startswith(network) for name in one) > 5
    for result in (results[2], results[4]):
        assert result.keys() == one.keys()
        for name, expected in one.items():
            # Sums over 4 sequences of 5 steps; three times the weights make gradients below 100.
            scale = max(1, np.abs(expected).max())
            np.testing.assert_allclose(
                result[name], expected, atol=scale * roundings(200), rtol=0, err_msg=name
            )
            assert np.any(expected != 0), name


@pytest.mark.parametrize("devices", ["0", "-2", "two", "1.5", ""])
def test_an_impossible_number_of_devices_is_refused(devices, monkeypatch):
    monkeypatch.setenv("PROMPTBAYES_CPU_DEVICES", devices)
    with pytest.raises(ValueError, match="`PROMPTBAYES_CPU_DEVICES` must be 1, 2, ..., got"):
        hardware.use_all_cores()
