"""The sequential predictors pi_theta: embedding -> torso -> unembedding (Section 4.1).

This is the only file that knows flax. A torso reads vectors and carries a *memory* of what it has
read: the LSTM's cells, the Transformer's keys and values. The empty context and the prefix are
read once, without a batch axis, for they are the same for every sequence; the memory they leave
is where the content starts. A prompt conditions the network through this memory and nothing else.

Shapes in names: B batch, T time, P positions already in memory, A tokens, D embedding width,
H heads, K head width, F features of a state.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

Params = dict[str, Any]
Memory = list[Any]


class Reading(NamedTuple):
    """What a torso returns for the vectors it has read."""

    outputs: jax.Array  # [batch, time, width]: what the unembedding sees
    memory: Memory  # one entry per layer: what later vectors depend on
    states: jax.Array  # [batch, time, feature]: the internal state of the PCA figures


class Network(nnx.Module):
    """Linear embedding, torso, linear unembedding; both linear maps have a bias."""

    def __init__(self, architecture: "Architecture", rngs: nnx.Rngs):
        width = architecture.embedding_width
        self.embedding = nnx.Linear(architecture.num_tokens, width, rngs=rngs)
        self.torso = architecture.torso(rngs)
        self.unembedding = nnx.Linear(self.torso.width, architecture.num_tokens, rngs=rngs)

    def read_prefix(self, prefix_LxD: jax.Array) -> Reading:
        """The empty context (a zero vector through the embedding), then the prefix; batch of 1."""
        empty_1xD = self.embedding(jnp.zeros((1, self.embedding.in_features)))
        return self.torso(jnp.concatenate([empty_1xD, prefix_LxD])[None], self.torso.start())

    def read_content(self, tokens_BxT: jax.Array, memory: Memory) -> Reading:
        """Tokens after what the memory holds."""
        one_hot_BxTxA = jax.nn.one_hot(tokens_BxT, self.embedding.in_features)
        return self.torso(self.embedding(one_hot_BxTxA), memory)

    def log_probs(self, tokens_BxT: jax.Array, prefix_LxD: jax.Array) -> jax.Array:
        """Log pi(x_t | prefix, x_<t), shape [batch, time, token]."""
        first = self.read_prefix(prefix_LxD)
        rest = self.read_content(tokens_BxT[:, :-1], first.memory)
        first_BxW = jnp.broadcast_to(first.outputs[:, -1], (tokens_BxT.shape[0], self.torso.width))
        outputs_BxTxW = jnp.concatenate([first_BxW[:, None], rest.outputs], axis=1)
        outputs_BxTxW = outputs_BxTxW[:, : tokens_BxT.shape[1]]  # matters for no tokens at all
        return jax.nn.log_softmax(self.unembedding(outputs_BxTxW))


class LSTMTorso(nnx.Module):
    """Layers of Hochreiter & Schmidhuber's cell with forget gate; the state is the cells."""

    def __init__(self, input_width: int, width: int, num_layers: int, rngs: nnx.Rngs):
        self.width = width
        widths = [input_width] + [width] * num_layers
        self.layers = nnx.data([LSTMLayer(widths[i], width, rngs) for i in range(num_layers)])

    def start(self) -> Memory:
        """Zero cells and hidden states."""
        return [(jnp.zeros((1, self.width)), jnp.zeros((1, self.width))) for _ in self.layers]

    def __call__(self, x_BxTxD: jax.Array, memory: Memory) -> Reading:
        """Read vectors after what the memory holds."""
        after, states = [], []
        for layer, before in zip(self.layers, memory, strict=True):
            x_BxTxD, c_BxTxW, last = layer(x_BxTxD, before)
            after.append(last)
            states.append(c_BxTxW)
        return Reading(x_BxTxD, after, jnp.concatenate(states, axis=-1))


class LSTMLayer(nnx.Module):
    """Gates input, forget, candidate, output; no extra forget bias.

    The recurrent kernel is orthogonal gate by gate: one orthogonal matrix over all four gates
    would have half the scale, and the untrained network would be another one.
    """

    def __init__(self, input_width: int, width: int, rngs: nnx.Rngs):
        self.input = nnx.Linear(input_width, 4 * width, rngs=rngs)
        orthogonal = nnx.initializers.orthogonal()
        gates = [orthogonal(rngs.params(), (width, width)) for _ in range(4)]
        self.recurrent = nnx.Param(jnp.concatenate(gates, axis=1))

    def __call__(self, x_BxTxD, before):
        """Hidden states, cells, and the last of both."""
        gates_TxBx4W = jnp.swapaxes(self.input(x_BxTxD), 0, 1)  # one product for all steps
        batch, width = gates_TxBx4W.shape[1], self.recurrent.shape[0]
        c_BxW, h_BxW = (jnp.broadcast_to(s, (batch, width)) for s in before)
        h_TxBxW, c_TxBxW = recur(gates_TxBx4W, self.recurrent[...], c_BxW, h_BxW)
        time_last = jnp.swapaxes(h_TxBxW, 0, 1), jnp.swapaxes(c_TxBxW, 0, 1)
        if not len(h_TxBxW):  # nothing read, nothing changed
            return *time_last, (c_BxW, h_BxW)
        return *time_last, (c_TxBxW[-1], h_TxBxW[-1])


def _recur(gates_TxBx4W, kernel_Wx4W, c_BxW, h_BxW):
    def cell(carry, gates_Bx4W):
        c_BxW, h_BxW = carry
        i, f, g, o = jnp.split(gates_Bx4W + h_BxW @ kernel_Wx4W, 4, axis=-1)
        c_BxW = jax.nn.sigmoid(f) * c_BxW + jax.nn.sigmoid(i) * jnp.tanh(g)
        h_BxW = jax.nn.sigmoid(o) * jnp.tanh(c_BxW)
        return (c_BxW, h_BxW), (h_BxW, c_BxW)

    return lax.scan(cell, (c_BxW, h_BxW), gates_TxBx4W)[1]


@jax.custom_vjp
def recur(gates_TxBx4W, kernel_Wx4W, c_BxW, h_BxW):
    """The recurrence; its kernel's gradient is one product over all steps, not one a step."""
    return _recur(gates_TxBx4W, kernel_Wx4W, c_BxW, h_BxW)


def _recur_forward(gates_TxBx4W, kernel_Wx4W, c_BxW, h_BxW):
    run = functools.partial(_recur, kernel_Wx4W=kernel_Wx4W)
    out, pullback = jax.vjp(
        lambda gates, c, h: run(gates, c_BxW=c, h_BxW=h), gates_TxBx4W, c_BxW, h_BxW
    )
    h_before_TxBxW = jnp.concatenate([h_BxW[None], out[0][:-1]])
    return out, (pullback, h_before_TxBxW)


def _recur_backward(residuals, cotangents):
    pullback, h_before_TxBxW = residuals
    # Gates enter as gates + h @ kernel, so the gradient of the former serves the latter too.
    gates_TxBx4W, c_BxW, h_BxW = pullback(cotangents)
    kernel_Wx4W = jnp.einsum("tbw,tbg->wg", h_before_TxBxW, gates_TxBx4W)
    return gates_TxBx4W, kernel_Wx4W, c_BxW, h_BxW


recur.defvjp(_recur_forward, _recur_backward)


class TransformerTorso(nnx.Module):
    """Decoder-only blocks over absolute sinusoidal positions; memory is keys and values."""

    def __init__(self, width: int, num_layers: int, num_heads: int, mlp_width: int, rngs: nnx.Rngs):
        self.width = width
        self.num_heads = num_heads
        self.blocks = nnx.data(
            [Block(width, num_heads, mlp_width, rngs) for _ in range(num_layers)]
        )
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)

    def start(self) -> Memory:
        """No keys and no values."""
        nothing_1x0xHxK = jnp.zeros((1, 0, self.num_heads, self.width // self.num_heads))
        return [(nothing_1x0xHxK, nothing_1x0xHxK) for _ in self.blocks]

    def __call__(self, x_BxTxD: jax.Array, memory: Memory) -> Reading:
        """Read vectors after what the memory holds."""
        start = memory[0][0].shape[1]  # a prefix shifts the positions of the content
        x_BxTxD = x_BxTxD + sinusoids(start + x_BxTxD.shape[1], self.width)[None, start:]
        after, states = [], []
        for block, before in zip(self.blocks, memory, strict=True):
            x_BxTxD, attended_BxTxD, keys_and_values = block(x_BxTxD, before)
            after.append(keys_and_values)
            states.append(attended_BxTxD)
        return Reading(self.norm(x_BxTxD), after, jnp.concatenate(states, axis=-1))


class Block(nnx.Module):
    """LayerNorm -> attention -> residual, LayerNorm -> MLP -> residual."""

    def __init__(self, width: int, num_heads: int, mlp_width: int, rngs: nnx.Rngs):
        self.attention_norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.attention = Attention(width, num_heads, rngs)
        self.mlp_norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.up = nnx.Linear(width, mlp_width, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(mlp_width, width, use_bias=False, rngs=rngs)

    def __call__(self, x_BxTxD, before):
        """The residual stream, what attention added to it, and the memory afterwards."""
        attended_BxTxD, after = self.attention(self.attention_norm(x_BxTxD), before)
        x_BxTxD = x_BxTxD + attended_BxTxD
        hidden_BxTxM = jax.nn.gelu(self.up(self.mlp_norm(x_BxTxD)), approximate=True)
        return x_BxTxD + self.down(hidden_BxTxM), attended_BxTxD, after


class Attention(nnx.Module):
    """Causal attention; queries and keys are normalised over the full width, before the heads."""

    def __init__(self, width: int, num_heads: int, rngs: nnx.Rngs):
        self.num_heads = num_heads
        linear = functools.partial(nnx.Linear, width, width, use_bias=False, rngs=rngs)
        self.query, self.key, self.value, self.out = linear(), linear(), linear(), linear()
        norm = functools.partial(nnx.LayerNorm, width, epsilon=1e-6, use_bias=False, rngs=rngs)
        self.query_norm, self.key_norm = norm(), norm()

    def __call__(self, x_BxTxD, before):
        """What the heads gather for every vector, and the keys and values afterwards."""

        def heads(y_BxTxD):
            width = y_BxTxD.shape[2] // self.num_heads
            return y_BxTxD.reshape(*y_BxTxD.shape[:2], self.num_heads, width)

        q_BxTxHxK = heads(self.query_norm(self.query(x_BxTxD)))
        k_BxTxHxK = heads(self.key_norm(self.key(x_BxTxD)))
        v_BxTxHxK = heads(self.value(x_BxTxD))
        weights_BxHxTxPT = attention_weights(q_BxTxHxK, k_BxTxHxK, before[0])
        past = before[0].shape[1]
        mixed_BxTxHxK = jnp.einsum("bhts,bshk->bthk", weights_BxHxTxPT[..., past:], v_BxTxHxK)
        mixed_BxTxHxK += jnp.einsum("bhtp,phk->bthk", weights_BxHxTxPT[..., :past], before[1][0])
        attended_BxTxD = self.out(mixed_BxTxHxK.reshape(x_BxTxD.shape))
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

    A network of your own is a subclass with a `torso`: an `nnx.Module` with a `width`, a `start()`
    and a `__call__(vectors, memory) -> Reading`. To be tuned it needs `floats_per_token` as well.
    """

    num_tokens: int = 2
    embedding_width: int = 128

    def __init_subclass__(cls):
        jax.tree_util.register_static(cls)  # to jit and vmap it is structure, not numbers

    def __post_init__(self):
        for name, value in vars(self).items():
            least = 2 if name == "num_tokens" else 1
            if type(value) is not int:  # True is an int to isinstance
                raise TypeError(f"`{name}` must be an int, got {value!r}.")
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")

    def torso(self, rngs: nnx.Rngs) -> Any:
        """The part between embedding and unembedding."""
        raise NotImplementedError(f"{type(self).__name__} must define torso(rngs).")

    @property
    def floats_per_token(self) -> int:
        """About how many activations a gradient step keeps for one token."""
        raise NotImplementedError(f"{type(self).__name__} must define floats_per_token.")


@dataclass(frozen=True, kw_only=True)
class LSTM(Architecture):
    """The paper's LSTM.

    Example:
        >>> LSTM(width=32).num_layers
        1
    """

    width: int = 128
    num_layers: int = 1

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

    num_layers: int = 1
    num_heads: int = 4
    mlp_width: int = 512

    def __post_init__(self):
        super().__post_init__()
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
        """Residuals, queries, keys, values and the MLP of every block."""
        return self.num_layers * (12 * self.embedding_width + 3 * self.mlp_width)


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
