"""What an ordinary user would write: the same networks and the same step, without any lever.

The whole sequence [zero vector, prefix, tokens] goes through the network for every sequence of the
batch, the LSTM projects its input inside the scan, and the whole batch is differentiated at once.
The parameters are those of `promptbayes`, so that both can be compared number by number.
"""

import jax
import jax.numpy as jnp
import optax
from promptbayes.networks import sinusoids


def log_probs(predictor, tokens):
    """Log pi(x_t | prefix, x_<t), [batch, time, token]."""
    params = predictor.params
    kernel, bias = params["embedding"]["kernel"], params["embedding"]["bias"]
    embedded = jax.nn.one_hot(tokens[:, :-1], kernel.shape[0]) @ kernel + bias
    start = jnp.concatenate([bias[None], predictor.prefix])
    start = jnp.broadcast_to(start, (len(tokens), *start.shape))
    x = jnp.concatenate([start, embedded], axis=1)
    torso = params["torso"]
    x = lstm(torso, x) if "layers" in torso else transformer(torso, x)
    x = x[:, len(predictor.prefix) :]
    return jax.nn.log_softmax(x @ params["unembedding"]["kernel"] + params["unembedding"]["bias"])


def lstm(torso, x):
    for layer in torso["layers"].values():
        width = layer["recurrent"].shape[0]

        def cell(carry, x_t, layer=layer):
            c, h = carry
            gates = x_t @ layer["input"]["kernel"] + layer["input"]["bias"]
            i, f, g, o = jnp.split(gates + h @ layer["recurrent"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (c, h), h

        zero = jnp.zeros((len(x), width))
        x = jnp.swapaxes(jax.lax.scan(cell, (zero, zero), jnp.swapaxes(x, 0, 1))[1], 0, 1)
    return x


def transformer(torso, x, num_heads=4):
    length, width = x.shape[1:]
    x = x + sinusoids(length, width)
    mask = jnp.tril(jnp.ones((length, length), bool))
    for block in torso["blocks"].values():
        attention = block["attention"]
        y = norm(x, **block["attention_norm"])
        q = norm(y @ attention["query"]["kernel"], **attention["query_norm"])
        k = norm(y @ attention["key"]["kernel"], **attention["key_norm"])
        v = y @ attention["value"]["kernel"]
        q, k, v = (z.reshape(*z.shape[:2], num_heads, -1) for z in (q, k, v))
        scores = jnp.einsum("bthk,bshk->bhts", q, k) / jnp.sqrt(width // num_heads)
        weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))
        mixed = jnp.einsum("bhts,bshk->bthk", weights, v).reshape(x.shape)
        x = x + mixed @ attention["out"]["kernel"]
        y = norm(x, **block["mlp_norm"])
        x = x + jax.nn.gelu(y @ block["up"]["kernel"]) @ block["down"]["kernel"]
        x = norm(x, **block["norm"])
    return x


def norm(x, scale, bias=0.0):
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale + bias


def loss(theta, base, method, tokens):
    """Summed log loss, averaged over the batch."""
    predictions = log_probs(method.apply(base, theta), tokens)
    chosen = jnp.take_along_axis(predictions, tokens[..., None], axis=-1)
    return -chosen.sum() / len(tokens)


def make_step(base, method, task, training):
    """One jitted step; a fresh function each time, hence compiled for each repetition."""
    optimizer = optax.chain(
        optax.clip_by_global_norm(training.max_grad_norm), optax.adam(training.learning_rate)
    )

    @jax.jit
    def step(theta, moments, key, index):
        key = jax.random.fold_in(key, index)
        tokens = task.sample(key, training.batch_size, training.length).tokens
        value, gradient = jax.value_and_grad(loss)(theta, base, method, tokens)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(theta, updates), moments, value

    return step, optimizer
