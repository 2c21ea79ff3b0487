"""What is about the machine and not about the paper: cores, caches, devices.

Everything here changes speed and memory only, never a number beyond rounding. What each lever gains
is measured in `benchmarks/results/`. Three more are in `networks`: what all sequences share is
computed once (the prefill, and the projections of every token), and two gradients are written by
hand: the LSTM's, and that of a product with a kernel.
"""

import contextlib
import functools
import os
import platform
import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec

#: Bytes of activations that one micro-batch should have, where a core's caches, L2 and its share of
#: L3, hold as much.
CACHE_BYTES = 8 * 2**20
#: Sequences that a recurrent network reads at once at least, by whether the CPU has AVX-512: its
#: products have one row a sequence, and every step reads the recurrent kernel again. With AVX-512,
#: 32 was the best or next to it; on a CPU without it the whole batch was faster than 16, and with
#: XLA kept from using it 64 is within a tenth of the best (`benchmarks/`).
MIN_ROWS = {True: 32, False: 64}


class CPU(NamedTuple):
    """What micro-batches depend on."""

    name: str  #: such as x86_64
    avx512: bool  #: whether it has AVX-512 and XLA may use it
    cache_bytes: int | None  #: a core's L2 and its share of L3; None where the system does not say

    @property
    def kind(self) -> str:
        """In words."""
        return f"{self.name} {'with' if self.avx512 else 'without'} AVX-512"


@functools.cache
def cpu() -> CPU:
    """The CPU as Linux describes it, less what `XLA_FLAGS` forbids; elsewhere without AVX-512.

    Example:
        >>> cpu().name in cpu().kind
        True
    """
    flags, info = os.environ.get("XLA_FLAGS", ""), Path("/proc/cpuinfo")
    narrow = re.search(r"xla_cpu_max_isa=(?!AVX512|AMX)", flags, re.IGNORECASE)
    wide = not narrow and info.is_file() and re.search(r"\bavx512f\b", info.read_text())
    return CPU(platform.machine(), bool(wide), _cache_bytes())


def _cache_bytes(caches=Path("/sys/devices/system/cpu/cpu0/cache")) -> int | None:
    """A core's L2 and its share of L3, from Linux's description of the first."""
    found = 0
    with contextlib.suppress(OSError, ValueError):
        for cache in caches.glob("index*"):
            level, size, cores = (
                (cache / name).read_text().strip() for name in ("level", "size", "shared_cpu_map")
            )
            if level in ("2", "3"):
                sharing = int(cores.replace(",", ""), 16).bit_count()
                found += int(size.removesuffix("K")) * 1024 // sharing
    return found or None


def use_all_cores() -> None:
    """Make each CPU core a jax device, so that repetitions run side by side, one a core.

    XLA splits one small matrix product badly over cores; whole repetitions split well. Set
    `PROMPTBAYES_CPU_DEVICES` to choose the number, 1, 2, ... (else ValueError). Without effect once
    jax has been used.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = os.environ.get("PROMPTBAYES_CPU_DEVICES", str(cores or 1))
    if not devices.isdecimal() or int(devices) < 1:
        raise ValueError(f"`PROMPTBAYES_CPU_DEVICES` must be 1, 2, ..., got {devices!r}.")
    with contextlib.suppress(RuntimeError):  # the backend is already up: it keeps its devices
        jax.config.update("jax_num_cpu_devices", int(devices))


def micro_batch_size(architecture, batch_size: int, length: int, num_weights: int) -> int:
    """How many sequences to process at once: all on an accelerator, by the CPU's kind on a CPU.

    The largest divisor of `batch_size`, in sequences of `length` tokens, whose activations fit
    the caches (`CACHE_BYTES`) or, in a larger network, what a micro-batch moves anyway: the weights
    five times (read forwards and backwards, their gradient written, the sum of gradients read and
    written). A recurrent network gets at least `MIN_ROWS`. Timing plays no part, so
    equal machines choose alike; `benchmarks/` is where the constants come from.

    Args:
        architecture: an `Architecture`, for its `floats_per_token` and `recurrent`.
        batch_size: sequences in a gradient step.
        length: tokens in each.
        num_weights: of the network.

    Example:
        >>> from promptbayes import LSTM
        >>> 256 % micro_batch_size(LSTM(), 256, 50, num_weights=132_738)
        0
    """
    if jax.default_backend() != "cpu":
        return batch_size
    here = cpu()
    size = max(min(CACHE_BYTES, here.cache_bytes or CACHE_BYTES), 5 * 4 * num_weights)
    fitting = max(1, size // (4 * length * architecture.floats_per_token))
    divisors = [d for d in range(1, batch_size + 1) if batch_size % d == 0]
    chosen = max(d for d in divisors if d <= fitting)
    if not architecture.recurrent:
        return chosen
    least = min(MIN_ROWS[here.avx512], batch_size)
    return max(chosen, min(d for d in divisors if d >= least))


def spread(function, *arrays):
    """`function` over the leading axis of pytrees: vmapped on accelerators, one a core on a CPU.

    Takes arrays [entry, ...] and gives arrays [entry, ...]. Cores wait for nothing while they run:
    there are no collectives. Where the number of entries does not divide by the number of
    devices, the first entry is computed again.

    Example:
        >>> spread(lambda x, y: x - 2 * y, jnp.arange(3), jnp.arange(3)).tolist()
        [0, -1, -2]
    """
    size = jax.tree.leaves(arrays)[0].shape[0]
    num_devices = min(size, len(jax.devices()))
    if jax.default_backend() == "cpu":
        mapped = functools.partial(lax.map, lambda entry: function(*entry))
    else:
        mapped = jax.vmap(lambda entry: function(*entry))
    if num_devices == 1:
        return mapped(arrays)
    missing = -size % num_devices
    padded = jax.tree.map(lambda x: jnp.concatenate([x, x[:1].repeat(missing, 0)]), arrays)
    mesh = jax.make_mesh(
        (num_devices,), ("device",), (AxisType.Auto,), devices=jax.devices()[:num_devices]
    )
    over_devices = PartitionSpec("device")
    sharded = jax.shard_map(
        mapped, mesh=mesh, in_specs=over_devices, out_specs=over_devices, check_vma=False
    )
    return jax.tree.map(lambda x: x[:size], sharded(padded))


def sum_over_micro_batches(function, shared, batch, size):
    """`function(shared, micro_batch)`, summed over micro-batches of `size`; differentiable.

    `batch` is a pytree of arrays [batch, ...], the sum a scalar. Each micro-batch is differentiated
    right after it was computed, and only by numbers in `shared` that the caller needs.

    Example:
        >>> float(sum_over_micro_batches(lambda a, x: a * x.sum(), 2.0, jnp.arange(4.0), size=2))
        12.0
    """
    micro_batches = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), batch)
    return _sum_over(function, shared, micro_batches)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_over(function, shared, micro_batches):
    return lax.map(functools.partial(function, shared), micro_batches).sum()


def _sum_over_forward(function, shared, micro_batches):
    leaves, tree = jax.tree.flatten(shared, is_leaf=_is_argument)
    free = {i: leaf.value for i, leaf in enumerate(leaves) if leaf.perturbed}

    def of_free(free, micro_batch):
        values = [free.get(i, leaf.value) for i, leaf in enumerate(leaves)]
        return function(jax.tree.unflatten(tree, values), micro_batch)

    def add(total, micro_batch):
        one = jax.value_and_grad(of_free)(free, micro_batch)
        return jax.tree.map(jnp.add, total, one), None

    values = jax.tree.map(lambda leaf: leaf.value, micro_batches, is_leaf=_is_argument)
    zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, free)
    total, gradient = lax.scan(add, zero, values)[0]
    gradients = [gradient.get(i) for i in range(len(leaves))]
    return total, jax.tree.unflatten(tree, gradients)


def _is_argument(x) -> bool:
    return hasattr(x, "perturbed")  # how jax hands a leaf to the forward rule: value, perturbed


def _sum_over_backward(function, gradient, cotangent):
    return jax.tree.map(lambda x: cotangent * x, gradient), None


_sum_over.defvjp(_sum_over_forward, _sum_over_backward, symbolic_zeros=True)
