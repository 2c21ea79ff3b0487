"""What is about the machine and not about the paper: cores, caches, devices.

Everything here changes speed and memory only, never a number beyond rounding. What each lever gains
is measured in `benchmarks/results/cpu.md`. Two more are in `networks`: what all sequences share is
computed once (the prefill, and the projections of every token), and the LSTM's gradient is written
by hand.
"""

import contextlib
import functools
import os

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec

#: Bytes. Activations of one micro-batch should stay in a core's caches, L2 and its share of L3.
CACHE_BYTES = 6 * 2**20


def use_all_cores() -> None:
    """Make each CPU core a jax device, so that repetitions run side by side, one a core.

    XLA splits one small matrix product badly over cores; whole repetitions split perfectly. Set
    `PROMPTBAYES_CPU_DEVICES` to choose the number, 1, 2, ... (else ValueError). Without effect once
    jax has been used.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = os.environ.get("PROMPTBAYES_CPU_DEVICES", str(cores or 1))
    if not devices.isdecimal() or int(devices) < 1:
        raise ValueError(f"`PROMPTBAYES_CPU_DEVICES` must be 1, 2, ..., got {devices!r}.")
    with contextlib.suppress(RuntimeError):  # the backend is already up: it keeps its devices
        jax.config.update("jax_num_cpu_devices", int(devices))


def micro_batch_size(batch_size: int, length: int, floats_per_token: int, num_weights: int) -> int:
    """How many sequences to process at once: all on an accelerator, a cacheful on a CPU.

    The largest divisor of `batch_size`, in sequences of `length` tokens, whose activations fit
    `CACHE_BYTES` or, in a larger network, what a micro-batch moves anyway: the weights five times
    (read forwards and backwards, their gradient written, the sum of gradients read and written).

    Example:
        >>> 256 % micro_batch_size(256, 50, floats_per_token=1408, num_weights=132_738)
        0
    """
    if jax.default_backend() != "cpu":
        return batch_size
    size = max(CACHE_BYTES, 5 * 4 * num_weights)
    fitting = max(1, size // (4 * length * floats_per_token))
    return max(d for d in range(1, batch_size + 1) if batch_size % d == 0 and d <= fitting)


def spread(function, *arrays):
    """`function` over the leading axis of pytrees: vmapped on accelerators, one a core on a CPU.

    Takes arrays [entry, ...] and gives arrays [entry, ...]. Cores share nothing while they run: no
    collectives, hence no waiting. Where the number of entries does not divide by the number of
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
    while its activations are in the cache, and only by numbers in `shared` that the caller needs.

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
