"""The sequential predictors pi_theta: embedding -> torso -> unembedding (Section 4.1).

This is the only file that knows flax. A torso reads vectors and carries a *memory* of what it has
read: the LSTM's cells and hidden states, the Transformer's KV cache. The empty context and the
prefix are read once, without a batch axis, for they are the same for every sequence (the prefill of
language models, shared by the batch); the memory they leave is where the content starts. A prompt
conditions the network through this memory and nothing else.

Shapes in names: B batch, T time, P positions already in memory, A tokens, D embedding width,
H heads, K head width, F features of a state.
"""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from .tasks import check_int

Params = dict[str, Any]
Memory = list[Any]


class Reading(NamedTuple):
    """What a torso returns for the vectors it has read."""

    outputs: jax.Array  #: [batch, time, width]: what the unembedding sees
    memory: Memory  #: what later vectors depend on, one entry per layer
    states: jax.Array  #: [batch, time, feature]: the internal state of the PCA figures


class Carried(NamedTuple):
    """What a network goes on from: all that the content can see of what was read before it."""

    output: jax.Array  #: [width]: the torso's last, from which the first token is predicted
    layers: Memory  #: as the torso has it; leading axes of 1, for all sequences have the same


class Shared(NamedTuple):
    """What is the same for all sequences, computed once for however many batches of them."""

    carried: Carried  #: what the prefill, empty context and prefix, leaves
    vocabulary: Any  #: [token, time, ...]: what each token would be to the torso at each step


class Network(nnx.Module):
    """Linear embedding, torso, linear unembedding; both linear maps have a bias."""

    def __init__(self, architecture: "Architecture", rngs: nnx.Rngs):
        width = architecture.embedding_width
        self.embedding = linear(architecture.num_tokens, width, rngs=rngs)
        self.torso = architecture.torso(rngs)
        self.unembedding = linear(self.torso.width, architecture.num_tokens, rngs=rngs)

    def read_prefix(self, prefix_LxD: jax.Array, memory: Carried | None = None) -> Reading:
        """The empty context (a zero vector through the embedding), then the prefix [prefix, width].

        A memory stands for the empty context and what else it has read: its output comes first.
        """
        if memory is None:
            empty_1xD = self.embedding(jnp.zeros((1, self.embedding.in_features)))
            return self.torso(jnp.concatenate([empty_1xD, prefix_LxD])[None], self.torso.start())
        reading = self.torso(prefix_LxD[None], memory.layers)
        outputs_1xTxW = jnp.concatenate([memory.output[None, None], reading.outputs], axis=1)
        return reading._replace(outputs=outputs_1xTxW)

    def share(self, prefix_LxD: jax.Array, length: int, memory: Carried | None = None) -> Shared:
        """Read the prefix, and prepare every token for every step of sequences of this length."""
        first = self.read_prefix(prefix_LxD, memory)
        embedded_AxD = self.embedding(jnp.eye(self.embedding.in_features))
        embedded_AxTxD = jnp.repeat(embedded_AxD[:, None], length - 1, axis=1)  # all but the last
        vocabulary = self.torso.prepare(embedded_AxTxD, first.memory)
        return Shared(Carried(first.outputs[0, -1], first.memory), vocabulary)

    def read(self, tokens_BxT: jax.Array, shared: Shared) -> Reading:
        """What the torso makes of tokens after the prefix."""

        def choose(table_AxTxF):  # a gather would do, but its gradient is slow
            one_hot_BxTxA = jax.nn.one_hot(tokens_BxT, len(table_AxTxF))
            return jnp.einsum("bta,at...->bt...", one_hot_BxTxA, table_AxTxF)

        return self.torso.read(jax.tree.map(choose, shared.vocabulary), shared.carried.layers)

    def log_probs(self, tokens_BxT: jax.Array, shared: Shared) -> jax.Array:
        """Log pi(x_t | prefix, x_<t) in nats, [batch, time, token], for tokens [batch, time]."""
        rest_BxTxW = self.read(tokens_BxT[:, :-1], shared).outputs
        first_BxW = jnp.broadcast_to(shared.carried.output, (len(tokens_BxT), self.torso.width))
        outputs_BxTxW = jnp.concatenate([first_BxW[:, None], rest_BxTxW], axis=1)
        return jax.nn.log_softmax(self.unembedding(outputs_BxTxW))


class Torso(nnx.Module):
    """Reads vectors, after what its memory holds, in two parts.

    What a vector undergoes by itself (`prepare`) is the same wherever the same token stands at the
    same step, and is computed once for a whole batch; where vectors meet (`read`) it is not.

    A torso of one's own sets `width` in `__init__(..., rngs)`, keeps lists of modules in
    `nnx.data([...])`, and defines `start` and `read` (`prepare` if that saves work), so that

    - the memory is a list of pytrees of arrays, from `start` with a leading axis of 1: what the
      empty context and the prefix leave, a batch of 1, `read` broadcasts to content of any batch.
    - outputs and states at a step depend on the memory and on vectors up to that step alone.
    - `read` takes no vectors at all, time 0, for of a sequence of one token nothing is read.
    - `prepare` is given every token at every step of the content, [token, time, width], and what it
      returns, leaves [token, time, ...], reaches `read` as [batch, time, ...]. So it mixes neither
      tokens nor steps. It may use the step, and from the memory how much was read before.

    Example:
        >>> class Sum(Torso):  # remembers the sum of what it has read
        ...     def __init__(self, width, rngs):
        ...         self.width = width
        ...         self.mix = nnx.Linear(width, width, rngs=rngs)
        ...     def start(self):
        ...         return [jnp.zeros((1, self.width))]
        ...     def read(self, prepared, memory):
        ...         sums = memory[0][:, None] + jnp.cumsum(self.mix(prepared), axis=1)
        ...         last = jnp.broadcast_to(memory[0], (len(sums), self.width))
        ...         after = jnp.concatenate([last[:, None], sums], axis=1)[:, -1]
        ...         return Reading(jnp.tanh(sums), [after], sums)
        >>> torso = Sum(4, nnx.Rngs(0))
        >>> torso(jnp.ones((3, 0, 4)), torso.start()).outputs.shape
        (3, 0, 4)
    """

    width: int  #: of the outputs

    def start(self) -> Memory:
        """What the memory holds before anything is read; leading axes of 1."""
        raise NotImplementedError(f"{type(self).__name__} must define start().")

    def prepare(self, x_BxTxD: jax.Array, memory: Memory) -> Any:
        """What each vector undergoes by itself; here nothing."""
        return x_BxTxD

    def read(self, prepared: Any, memory: Memory) -> Reading:
        """What prepared vectors make of each other and of the memory."""
        raise NotImplementedError(f"{type(self).__name__} must define read(prepared, memory).")

    def free(self, carried: Carried, length: int) -> Any:
        """The floats in it that `length` vectors, read last, have left: theta; here all of them."""
        return carried

    def carry(self, theta: Any, before: Carried) -> Carried:
        """The reverse of `free`; what was read before the prefix stays as it is."""
        return theta

    def __call__(self, x_BxTxD: jax.Array, memory: Memory) -> Reading:
        """Read vectors after what the memory holds."""
        return self.read(self.prepare(x_BxTxD, memory), memory)


@jax.custom_vjp
def product(x_BxTxD: jax.Array, kernel_DxF: jax.Array) -> jax.Array:
    """Vectors times a kernel, for any leading axes.

    Differentiated by hand: what jax writes for the kernel's gradient makes XLA, on a CPU, copy one
    factor transposed and multiply more slowly (`benchmarks/`).
    """
    return x_BxTxD @ kernel_DxF


def _product_backward(kept, d_y_BxTxF):
    x_BxTxD, kernel_DxF = kept
    x_NxD, d_y_NxF = (z.reshape(-1, z.shape[-1]) for z in (x_BxTxD, d_y_BxTxF))
    d_kernel_DxF = lax.dot_general(x_NxD, d_y_NxF, (((0,), (0,)), ((), ())))
    return d_y_BxTxF @ kernel_DxF.T, d_kernel_DxF


product.defvjp(lambda x, kernel: (product(x, kernel), (x, kernel)), _product_backward)


def _as_flax_calls_it(x, kernel, dimension_numbers, **precision):
    return product(x, kernel)


linear = functools.partial(nnx.Linear, dot_general=_as_flax_calls_it)


class LSTMTorso(Torso):
    """Layers of Hochreiter & Schmidhuber's cell with forget gate; the state is the cells."""

    def __init__(self, input_width: int, width: int, num_layers: int, rngs: nnx.Rngs):
        self.width = width
        widths = [input_width] + [width] * num_layers
        self.layers = nnx.data([LSTMLayer(widths[i], width, rngs) for i in range(num_layers)])

    def start(self) -> Memory:
        """Zero cells and hidden states."""
        return [(jnp.zeros((1, self.width)), jnp.zeros((1, self.width))) for _ in self.layers]

    def prepare(self, x_BxTxD: jax.Array, memory: Memory) -> jax.Array:
        """The first layer's input projection."""
        return self.layers[0].input(x_BxTxD)

    def read(self, prepared: jax.Array, memory: Memory) -> Reading:
        """The recurrences, one layer after the other."""
        after, states, gates_BxTx4W, h_BxTxW = [], [], prepared, prepared
        for i, (layer, before) in enumerate(zip(self.layers, memory, strict=True)):
            if i > 0:
                gates_BxTx4W = layer.input(h_BxTxW)  # one product for all steps
            h_BxTxW, c_BxTxW, last = layer(gates_BxTx4W, before)
            after.append(last)
            states.append(c_BxTxW)
        return Reading(h_BxTxW, after, jnp.concatenate(states, axis=-1))

    def free(self, carried: Carried, length: int) -> Memory:
        """Cells and hidden states of all layers, whatever the length; the output is one of them."""
        return carried.layers

    def carry(self, theta: Memory, before: Carried) -> Carried:
        """The output is the last layer's hidden state."""
        return Carried(theta[-1][1][0], theta)


class LSTMLayer(nnx.Module):
    """Gates input, forget, candidate, output; no extra forget bias."""

    def __init__(self, input_width: int, width: int, rngs: nnx.Rngs):
        self.input = linear(input_width, 4 * width, rngs=rngs)
        # One orthogonal matrix over all four gates would have half the scale.
        orthogonal = nnx.initializers.orthogonal()
        gates = [orthogonal(rngs.params(), (width, width)) for _ in range(4)]
        self.recurrent = nnx.Param(jnp.concatenate(gates, axis=1))

    def __call__(self, gates_BxTx4W, before):
        """Hidden states and cells [batch, time, width], and the last of both [batch, width]."""
        gates_TxBx4W = jnp.swapaxes(gates_BxTx4W, 0, 1)
        batch, width = gates_TxBx4W.shape[1], self.recurrent.shape[0]
        c_BxW, h_BxW = (jnp.broadcast_to(s, (batch, width)) for s in before)
        h_TxBxW, c_TxBxW = recur(gates_TxBx4W, self.recurrent[...], c_BxW, h_BxW)
        time_last = jnp.swapaxes(h_TxBxW, 0, 1), jnp.swapaxes(c_TxBxW, 0, 1)
        if not len(h_TxBxW):  # nothing read, nothing changed
            return *time_last, (c_BxW, h_BxW)
        return *time_last, (c_TxBxW[-1], h_TxBxW[-1])


@jax.custom_vjp
def recur(gates_TxBx4W, kernel_Wx4W, c_BxW, h_BxW):
    """Hidden states and cells [time, batch, width]; the gates given are the input's part of them.

    Differentiated by hand: half as much is kept of every step as autodiff would keep, and the
    kernel's gradient is one product over all steps, not one a step (`benchmarks/`).
    """
    return _recur_forward(gates_TxBx4W, kernel_Wx4W, c_BxW, h_BxW)[0]


def _recur_forward(gates_TxBx4W, kernel_Wx4W, c_BxW, h_BxW):
    def cell(carry, gates_Bx4W):
        c_BxW, h_BxW = carry
        i, f, g, o = jnp.split(gates_Bx4W + h_BxW @ kernel_Wx4W, 4, axis=-1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        c_BxW = f * c_BxW + i * g
        h_BxW = o * jnp.tanh(c_BxW)
        return (c_BxW, h_BxW), (h_BxW, c_BxW, (i, f, g, o))

    h_TxBxW, c_TxBxW, open_TxBxW = lax.scan(cell, (c_BxW, h_BxW), gates_TxBx4W)[1]
    c_before_TxBxW = jnp.concatenate([c_BxW[None], c_TxBxW])[:-1]
    h_before_TxBxW = jnp.concatenate([h_BxW[None], h_TxBxW])[:-1]
    kept = kernel_Wx4W, open_TxBxW, c_TxBxW, c_before_TxBxW, h_before_TxBxW
    return (h_TxBxW, c_TxBxW), kept


def _recur_backward(kept, cotangents):
    kernel_Wx4W, open_TxBxW, c_TxBxW, c_before_TxBxW, h_before_TxBxW = kept

    def cell(carry, step):  # d_x: the gradient with respect to x
        d_c, d_h = carry
        (i, f, g, o), c_BxW, c_before_BxW, (d_h_here, d_c_here) = step
        tanh_c, d_h = jnp.tanh(c_BxW), d_h + d_h_here
        d_c = d_c + d_c_here + d_h * o * (1 - tanh_c**2)
        d_i, d_f, d_g, d_o = d_c * g, d_c * c_before_BxW, d_c * i, d_h * tanh_c
        d_gates_Bx4W = jnp.concatenate(
            [d_i * i * (1 - i), d_f * f * (1 - f), d_g * (1 - g**2), d_o * o * (1 - o)], axis=-1
        )
        return (d_c * f, d_gates_Bx4W @ kernel_Wx4W.T), d_gates_Bx4W

    nothing = jnp.zeros_like(c_TxBxW, shape=c_TxBxW.shape[1:])
    steps = open_TxBxW, c_TxBxW, c_before_TxBxW, cotangents
    (d_c, d_h), d_gates_TxBx4W = lax.scan(cell, (nothing, nothing), steps, reverse=True)
    d_kernel_Wx4W = jnp.einsum("tbw,tbg->wg", h_before_TxBxW, d_gates_TxBx4W)
    return d_gates_TxBx4W, d_kernel_Wx4W, d_c, d_h


recur.defvjp(_recur_forward, _recur_backward)


class TransformerTorso(Torso):
    """Decoder-only blocks over absolute sinusoidal positions; memory is keys and values."""

    def __init__(self, width: int, num_layers: int, num_heads: int, mlp_width: int, rngs: nnx.Rngs):
        self.width = width
        self.num_heads = num_heads
        self.blocks = nnx.data(
            [Block(width, num_heads, mlp_width, rngs) for _ in range(num_layers)]
        )

    def start(self) -> Memory:
        """No keys and no values."""
        nothing_1x0xHxK = jnp.zeros((1, 0, self.num_heads, self.width // self.num_heads))
        return [(nothing_1x0xHxK, nothing_1x0xHxK) for _ in self.blocks]

    def prepare(self, x_BxTxD: jax.Array, memory: Memory) -> Any:
        """Positions, and the first block's queries, keys and values."""
        start = memory[0][0].shape[1]  # a prefix shifts the positions of the content
        x_BxTxD = x_BxTxD + sinusoids(start + x_BxTxD.shape[1], self.width)[None, start:]
        return x_BxTxD, self.blocks[0].prepare(x_BxTxD)

    def read(self, prepared: Any, memory: Memory) -> Reading:
        """Attention and MLP, one block after the other."""
        (x_BxTxD, qkv), after, states = prepared, [], []
        for i, (block, before) in enumerate(zip(self.blocks, memory, strict=True)):
            if i > 0:
                qkv = block.prepare(x_BxTxD)
            x_BxTxD, attended_BxTxD, keys_and_values = block.read(x_BxTxD, qkv, before)
            after.append(keys_and_values)
            states.append(attended_BxTxD)
        return Reading(x_BxTxD, after, jnp.concatenate(states, axis=-1))

    def free(self, carried: Carried, length: int) -> Carried:
        """Keys and values of the last `length` positions in every block, and the output."""
        own = jax.tree.map(lambda kv: kv[:, kv.shape[1] - length :], carried.layers)
        return carried._replace(layers=own)

    def carry(self, theta: Carried, before: Carried) -> Carried:
        """These keys and values stand behind those of what was read before."""
        pairs = before.layers, theta.layers
        return theta._replace(layers=jax.tree.map(lambda *kv: jnp.concatenate(kv, 1), *pairs))


class Block(nnx.Module):
    """LayerNorm, attention, residual; LayerNorm, MLP, residual; LayerNorm, as in the reference."""

    def __init__(self, width: int, num_heads: int, mlp_width: int, rngs: nnx.Rngs):
        self.attention_norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.attention = Attention(width, num_heads, rngs)
        self.mlp_norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.up = linear(width, mlp_width, use_bias=False, rngs=rngs)
        self.down = linear(mlp_width, width, use_bias=False, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)

    def prepare(self, x_BxTxD):
        """Queries, keys and values."""
        return self.attention.prepare(self.attention_norm(x_BxTxD))

    def read(self, x_BxTxD, qkv, before):
        """The block's output, what attention added to its input, and the memory afterwards."""
        attended_BxTxD, after = self.attention.read(qkv, before)
        x_BxTxD = x_BxTxD + attended_BxTxD
        hidden_BxTxM = jax.nn.gelu(self.up(self.mlp_norm(x_BxTxD)), approximate=True)
        return self.norm(x_BxTxD + self.down(hidden_BxTxM)), attended_BxTxD, after


class Attention(nnx.Module):
    """Causal attention; queries and keys are normalised over the full width, before the heads."""

    def __init__(self, width: int, num_heads: int, rngs: nnx.Rngs):
        self.num_heads = num_heads
        square = functools.partial(linear, width, width, use_bias=False, rngs=rngs)
        self.query, self.key, self.value, self.out = square(), square(), square(), square()
        norm = functools.partial(nnx.LayerNorm, width, epsilon=1e-6, use_bias=False, rngs=rngs)
        self.query_norm, self.key_norm = norm(), norm()

    def prepare(self, x_BxTxD):
        """Queries, keys and values, [batch, time, head, width of a head] each."""

        def heads(y_BxTxD):
            width = y_BxTxD.shape[2] // self.num_heads
            return y_BxTxD.reshape(*y_BxTxD.shape[:2], self.num_heads, width)

        q_BxTxHxK = heads(self.query_norm(self.query(x_BxTxD)))
        k_BxTxHxK = heads(self.key_norm(self.key(x_BxTxD)))
        return q_BxTxHxK, k_BxTxHxK, heads(self.value(x_BxTxD))

    def read(self, qkv, before):
        """What the heads gather for every vector, and the keys and values afterwards."""
        q_BxTxHxK, k_BxTxHxK, v_BxTxHxK = qkv
        weights_BxHxTxPT = attention_weights(q_BxTxHxK, k_BxTxHxK, before[0])
        past = before[0].shape[1]
        mixed_BxTxHxK = jnp.einsum("bhts,bshk->bthk", weights_BxHxTxPT[..., past:], v_BxTxHxK)
        mixed_BxTxHxK += jnp.einsum("bhtp,phk->bthk", weights_BxHxTxPT[..., :past], before[1][0])
        attended_BxTxD = self.out(lax.collapse(mixed_BxTxHxK, 2))
        after = tuple(
            jnp.concatenate([jnp.broadcast_to(old, (len(new), *old.shape[1:])), new], axis=1)
            for old, new in zip(before, (k_BxTxHxK, v_BxTxHxK), strict=True)
        )
        return attended_BxTxD, after


def attention_weights(q_BxTxHxK, k_BxTxHxK, k_1xPxHxK):
    """Softmax over what is in memory and the content up to now, [batch, head, time, P + time]."""
    own_BxHxTxT = jnp.einsum("bthk,bshk->bhts", q_BxTxHxK, k_BxTxHxK)
    past_BxHxTxP = jnp.einsum("bthk,phk->bhtp", q_BxTxHxK, k_1xPxHxK[0])
    time = q_BxTxHxK.shape[1]
    causal_TxT = jnp.arange(time)[:, None] >= jnp.arange(time)[None, :]
    own_BxHxTxT = jnp.where(causal_TxT[None, None], own_BxHxTxT, -jnp.inf)
    scores = jnp.concatenate([past_BxHxTxP, own_BxHxTxT], axis=-1)
    return jax.nn.softmax(scores / jnp.sqrt(q_BxTxHxK.shape[-1]), axis=-1)


def sinusoids(length: int, width: int) -> jax.Array:
    """Sines of the frequencies 1e4^(-i/width), i = 0, 2, ..., width, then cosines, cut to width."""
    frequencies = 1e4 ** (-jnp.arange(0, width + 1, 2) / width)
    angles_TxD = jnp.arange(length)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles_TxD), jnp.cos(angles_TxD)], axis=-1)[:, :width]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What a network is made of, without its numbers: hashable, compared by value.

    A network of one's own is a subclass, a frozen and keyword-only dataclass with a `torso` (see
    `Torso`) and, to be tuned, `floats_per_token`. Its fields are ints, floats, bools, strings, None
    or tuples of these, so that `save` can write them and `load(path, architectures=[...])` read
    them; what values they may have is for its own `__post_init__` to say. What computes one step
    after the other sets `recurrent = True`; this changes speed alone (`hardware`).

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Short(LSTM):  # an LSTM whose outputs are scaled
        ...     scale: float = 0.5
        >>> Short(width=8, scale=2.0).scale
        2.0
    """

    num_tokens: int = 2  #: size of the alphabet
    embedding_width: int = 128  #: of the vectors that the torso reads

    recurrent: ClassVar[bool] = False  #: whether a step waits for the one before it

    def __init_subclass__(cls):
        jax.tree_util.register_static(cls)  # to jit and vmap it is structure, not numbers

    def __post_init__(self):
        self.check_sizes("num_tokens", "embedding_width")

    def check_sizes(self, *names: str) -> None:
        """Raise unless these fields are integers of at least 1, `num_tokens` of at least 2."""
        for name in names:
            size = check_int(name, getattr(self, name), 2 if name == "num_tokens" else 1)
            object.__setattr__(self, name, size)

    def torso(self, rngs: nnx.Rngs) -> Torso:
        """The part between embedding and unembedding."""
        raise NotImplementedError(f"{type(self).__name__} must define torso(rngs).")

    @property
    def floats_per_token(self) -> int:
        """About how many activations a gradient step keeps for one token."""
        raise NotImplementedError(f"{type(self).__name__} must define floats_per_token.")


@dataclass(frozen=True, kw_only=True)
class LSTM(Architecture):
    """The paper's LSTM (Section 4.1).

    Example:
        >>> LSTM(width=32).num_layers
        1
    """

    width: int = 128  #: of cells and hidden states
    num_layers: int = 1  #: cells, one on the other

    recurrent = True

    def __post_init__(self):
        super().__post_init__()
        self.check_sizes("width", "num_layers")

    def torso(self, rngs: nnx.Rngs) -> LSTMTorso:
        """Cells over `num_layers` layers."""
        return LSTMTorso(self.embedding_width, self.width, self.num_layers, rngs)

    @property
    def floats_per_token(self) -> int:
        """Gates, cells and hidden states of every layer."""
        return self.embedding_width + 10 * self.width * self.num_layers


@dataclass(frozen=True, kw_only=True)
class Transformer(Architecture):
    """The paper's decoder-only Transformer; the residual width is the embedding width.

    Example:
        >>> Transformer(embedding_width=4).mlp_width
        512
    """

    num_layers: int = 1  #: blocks, one on the other
    num_heads: int = 4  #: of attention; a divisor of `embedding_width`
    mlp_width: int = 512  #: of a block's hidden layer

    def __post_init__(self):
        super().__post_init__()
        self.check_sizes("num_layers", "num_heads", "mlp_width")
        if self.embedding_width % self.num_heads:
            raise ValueError(
                f"`num_heads` must divide `embedding_width`, got {self.num_heads} heads "
                f"for a width of {self.embedding_width}."
            )

    def torso(self, rngs: nnx.Rngs) -> TransformerTorso:
        """Blocks over `num_layers` layers."""
        return TransformerTorso(
            self.embedding_width, self.num_layers, self.num_heads, self.mlp_width, rngs
        )

    @property
    def floats_per_token(self) -> int:
        """Residuals, queries, keys, values and five forms of the hidden layer, of every block."""
        return self.num_layers * (12 * self.embedding_width + 5 * self.mlp_width)


@functools.partial(jax.jit, static_argnums=0)
def initial_params(architecture: Architecture, key: jax.Array) -> Params:
    """Random weights: kernels LeCun-normal, recurrent kernels orthogonal, biases zero."""
    return nnx.to_pure_dict(nnx.split(Network(architecture, nnx.Rngs(key)))[1])


@functools.cache
def _graph(architecture: Architecture):
    with jax.ensure_compile_time_eval():
        return nnx.split(Network(architecture, nnx.Rngs(0)))[0]


def bind(architecture: Architecture, params: Params) -> Network:
    """The network with these numbers in it; works on traced numbers too."""
    return nnx.merge(_graph(architecture), params)
