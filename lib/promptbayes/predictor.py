"""A predictor is a network, its weights and a prefix: tokens in, log-probabilities out.

The untuned predictor has a prefix of no rows; prefix tuning frees the prefix, weight tuning frees
weights. A memory may stand for the empty context, with which reading begins otherwise. Here are
also the pretrained predictors that come with the package.
"""

import functools
import hashlib
import json
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from . import networks
from .networks import Architecture, Carried, Params
from .tasks import check_hashable, check_tokens

#: The seed that is meant where none is named, of three networks pretrained alike (0 to 2) the one
#: nearest to the exact Bayes predictor on the pretraining distribution (KL over 100 steps of 0.035,
#: 0.054, 0.030 nats for the LSTMs, 0.043, 0.151, 0.044 for the Transformers, each within 0.006).
PRETRAINED = {"lstm": 2, "transformer": 0} | {
    f"{network}-{variant}": 0
    for network in ("lstm", "transformer")
    for variant in ("embedding-4", "large")
}
#: Rounded to float16 before anything is computed with them, and so small enough for the package;
#: the same seed may give another network elsewhere, and the stored results belong to these.
HALF_PRECISION = ("transformer-large",)
_ARCHITECTURES = {"LSTM": networks.LSTM, "Transformer": networks.Transformer}


class States(NamedTuple):
    """Internal states of a predictor: the LSTM's cells, the Transformer's attention output."""

    start: jax.Array  #: [feature] after the empty context
    prefix: jax.Array  #: [prefix, feature] after each row of the prefix; a memory has none
    content: jax.Array  #: [batch, time, feature] after each token x_t


class Predictor(NamedTuple):
    """pi_theta( . | prefix, x_<t): a network, its weights, and a prefix in embedding space.

    It may carry a memory, which is read before the prefix and in place of the empty context. Under
    other weights a prefix is read again, and leaves another memory; a memory stays as it is.

    Example:
        >>> predictor = initialise(networks.LSTM(width=8), jax.random.key(0))
        >>> predictor([[0, 1, 1]]).shape
        (1, 3, 2)
    """

    network: Architecture  #: what it is made of
    params: Params  #: its weights, nested dicts of arrays
    prefix: jax.Array  #: [prefix, width]; no rows where nothing is prefixed
    memory: Carried | None = None  #: None for that of the empty context, which the network reads

    def __call__(self, tokens) -> jax.Array:
        """Log pi(x_t = a | prefix, x_<t) in nats for every token a, [batch, time, token].

        `tokens` are integers [batch, time] in 0..num_tokens-1, nested lists will do; all else is a
        TypeError or ValueError.
        """
        return _log_probs(self, check_tokens(tokens, self.num_tokens, ranks=(2,)))

    def prepare(self, length: int) -> "Prepared":
        """The same, with all done ahead that sequences of this length have in common."""
        network = networks.bind(self.network, self.params)
        shared = network.share(self.prefix, length, self.memory)
        return Prepared(self.network, self.params, shared)

    @jax.jit
    def read(self) -> Carried:
        """What all that stands before the content leaves; as a `memory` it predicts the same.

        Example:
            >>> initialise(networks.LSTM(width=8), jax.random.key(0)).read().output.shape
            (8,)
        """
        network = networks.bind(self.network, self.params)
        reading = network.read_prefix(self.prefix, self.memory)
        return Carried(reading.outputs[0, -1], reading.memory)

    @property
    def num_tokens(self) -> int:
        """Size of the alphabet."""
        return self.network.num_tokens

    def embed(self, vectors) -> jax.Array:
        """Vectors [..., token], one-hot or not, through the embedding: [..., width]."""
        embedding = self.params["embedding"]
        embedded = jnp.asarray(vectors) @ embedding["kernel"]
        return embedded + jnp.broadcast_to(embedding["bias"], embedded.shape)

    def with_tokens(self, tokens) -> "Predictor":
        """The same predictor with a hard prompt: the prefix becomes these tokens' embeddings.

        A memory stays, and the prompt is read behind it. For tokens [prefix]; errors as in a call.

        Example:
            >>> predictor = initialise(networks.LSTM(width=8), jax.random.key(0))
            >>> predictor.with_tokens([0, 0, 1]).prefix.shape
            (3, 128)
        """
        tokens = check_tokens(tokens, self.num_tokens, ranks=(1,))
        return self._replace(prefix=self.embed(jax.nn.one_hot(tokens, self.num_tokens)))

    def states(self, tokens) -> States:
        """Internal states while reading tokens [batch, time]; the prefix's own come apart."""
        return _states(self, check_tokens(tokens, self.num_tokens, ranks=(2,)))


class Prepared(NamedTuple):
    """A predictor for sequences of one length that has read its prefix already."""

    network: Architecture
    params: Params
    shared: networks.Shared

    def __call__(self, tokens) -> jax.Array:
        """Log-probabilities [batch, time, token] after tokens [batch, time]."""
        return networks.bind(self.network, self.params).log_probs(tokens, self.shared)


@jax.jit
def _log_probs(predictor: Predictor, tokens) -> jax.Array:
    if not tokens.shape[1]:
        return jnp.zeros((*tokens.shape, predictor.num_tokens))
    return predictor.prepare(tokens.shape[1])(tokens)


@jax.jit
def _states(predictor: Predictor, tokens) -> States:
    network = networks.bind(predictor.network, predictor.params)
    first = network.read_prefix(predictor.prefix, predictor.memory)
    states = first.states[0]
    if predictor.memory is None:
        start, states = states[0], states[1:]
    else:  # it has no states, for nothing was read
        start = network.read_prefix(predictor.prefix[:0]).states[0, 0]
    shared = network.share(predictor.prefix, tokens.shape[1] + 1, predictor.memory)
    return States(start, states, network.read(tokens, shared).states)


def initialise(architecture: Architecture, key: jax.Array) -> Predictor:
    """A predictor with random weights (see `networks.initial_params`) and no prefix (Section 4.1).

    `architecture` is `LSTM(...)`, `Transformer(...)` or your own, `key` one jax random key.

    Raises:
        TypeError, ValueError: none such, or a torso that does not read as `Torso` says.

    Example:
        >>> initialise(networks.Transformer(embedding_width=8), jax.random.key(1)).prefix.shape
        (0, 8)
    """
    check_architecture(architecture)
    check_key("key", key)
    params = networks.initial_params(architecture, key)
    return Predictor(architecture, params, no_prefix(architecture))


@functools.cache
def without_numbers(architecture: Architecture) -> Predictor:
    """A predictor that has shapes for arrays, to be handed to `jax.eval_shape`."""

    def blank() -> Predictor:
        params = networks.initial_params(architecture, jax.random.key(0))
        return Predictor(architecture, params, no_prefix(architecture))

    return jax.eval_shape(blank)


def check_architecture(architecture) -> None:
    """Raise unless this is an `Architecture` whose torso reads as `Torso` says."""
    if not isinstance(architecture, Architecture):
        raise TypeError(
            f"`architecture` must be an Architecture such as LSTM() or Transformer(), "
            f"got {architecture!r}."
        )
    check_hashable("architecture", architecture, ", a frozen dataclass with tuples for lists")
    _check_reading(architecture)


@functools.cache
def _check_reading(architecture: Architecture) -> None:
    """Batches of other sizes than 1, behind a prefix and not, and sequences of one token."""
    name = type(architecture).__name__
    for rows, batch, time in ((0, 3, 1), (2, 3, 4)):
        prefix = jnp.zeros((rows, architecture.embedding_width))
        predictor = without_numbers(architecture)._replace(prefix=prefix)
        tokens = jax.ShapeDtypeStruct((batch, time), jnp.int32)
        try:
            found = jax.eval_shape(_log_probs, predictor, tokens).shape
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"`architecture`: {name} cannot read tokens {(batch, time)} after a prefix of "
                f"{rows}; see `Torso` for the shapes: {error}"
            ) from error
        if found != (batch, time, architecture.num_tokens):
            raise ValueError(
                f"`architecture`: {name} must give log-probabilities [batch, time, token] = "
                f"{(batch, time, architecture.num_tokens)}, got shape {found}."
            )


def is_key(key) -> bool:
    """Whether this is one jax random key or an array of them."""
    return isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


def check_key(name: str, key) -> None:
    """Raise unless this is one jax random key."""
    if not is_key(key) or key.ndim:
        raise TypeError(
            f"`{name}` must be one jax random key such as jax.random.key(0), got {key!r}."
        )


def no_prefix(architecture: Architecture) -> jax.Array:
    """The empty prefix, [0, width]."""
    return jnp.zeros((0, architecture.embedding_width))


def save(path, predictor: Predictor, settings: dict[str, Any] | None = None) -> None:
    """Write a predictor to a safetensors file, prefix and memory included, with a checksum.

    Numbers that float16 holds exactly (see `rounded`) are written so, in half the space. The file
    is replaced in one step, so it is never half-written.

    Args:
        path: file to write, in a folder that exists.
        predictor: what to save; the architecture may be your own.
        settings: anything JSON can hold that says where the weights come from.

    Raises:
        TypeError, ValueError: no `Predictor`, no such folder, or an architecture or weights that
            `load` could not read.
    """
    path = Path(path)
    if not isinstance(predictor, Predictor):
        raise TypeError(f"`predictor` must be a Predictor, got {predictor!r}.")
    if not path.parent.is_dir():
        raise ValueError(f"`path` must lie in an existing folder, got {path}.")
    network, kind = predictor.network, type(predictor.network)
    try:
        architecture = json.dumps({"name": kind.__name__, **vars(network)})
        read = _architecture(architecture, {kind.__name__: kind})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"`predictor`: {network} could not be loaded: {error}") from error
    if read != network:
        raise ValueError(
            f"`predictor`: {network} would be loaded as {read}; its fields must be ints, "
            "floats, bools, strings, None or tuples of these, and all of what makes it."
        )
    tree: dict[str, Any] = {"params": predictor.params, "prefix": predictor.prefix}
    if _shapes(tree) != _expected_shapes(read, len(predictor.prefix)):
        raise ValueError(f"`predictor` has weights of other shapes than {read} needs.")
    tree["memory"] = dict(enumerate(jax.tree.leaves(predictor.memory)))
    tensors = {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}
    with np.errstate(over="ignore"):  # what float16 does not reach becomes infinite, so unequal
        halves = {
            name: tensor.astype(np.float16 if tensor.dtype == np.float32 else tensor.dtype)
            for name, tensor in tensors.items()
        }
    if all(np.array_equal(tensors[name], halves[name]) for name in tensors):
        tensors = halves
    metadata = {
        "format": "promptbayes-predictor-1",
        "architecture": architecture,
        "settings": json.dumps(settings or {}),
        "sha256": _checksum(tensors),
    }
    unfinished = path.with_name(path.name + ".part")
    try:
        safetensors.numpy.save_file(tensors, unfinished, metadata)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)  # Ctrl-C, or a full disk


def rounded(predictor: Predictor) -> Predictor:
    """The same network with every weight rounded to float16; computing goes on in float32.

    Example:
        >>> predictor = initialise(networks.LSTM(width=8), jax.random.key(0))
        >>> float(abs(rounded(predictor)([[0, 1]]) - predictor([[0, 1]])).max()) < 0.01
        True
    """
    halves = jax.tree.map(lambda x: x.astype(jnp.float16), predictor.params)
    return predictor._replace(params=jax.tree.map(lambda x: x.astype(jnp.float32), halves))


def load(path, architectures: Collection[type[Architecture]] = ()) -> Predictor:
    """Read a predictor that `save` wrote.

    Args:
        path: the file.
        architectures: classes of your own that it may be made of; a file knows its class by name.

    Raises:
        FileNotFoundError: no file at `path`.
        TypeError, ValueError: the file is damaged, not one of ours, or of an architecture that is
            not known; something else than subclasses of `Architecture`.
    """
    for kind in architectures:
        if not isinstance(kind, type) or not issubclass(kind, Architecture):
            raise TypeError(f"`architectures` must be subclasses of Architecture, got {kind!r}.")
    known = _ARCHITECTURES | {kind.__name__: kind for kind in architectures}
    if not (path := Path(path)).is_file():
        raise FileNotFoundError(f"`path` must name a weights file, got {path}: no such file.")
    metadata, tensors = _read(path)
    if _checksum(tensors) != metadata.get("sha256"):
        raise ValueError(f"`path`: {path} is damaged: its numbers do not match their checksum.")
    try:
        architecture = _architecture(metadata["architecture"], known)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"`path`: {path} holds no known architecture: {error}") from error
    tree = _unflatten(tensors)
    leaves = tree.pop("memory", {})
    if _shapes(tree) != _expected_shapes(architecture, len(tree["prefix"])):
        name = type(architecture).__name__
        raise ValueError(f"`path`: {path} has weights of other shapes than its {name} needs.")
    loaded = Predictor(architecture, **tree)
    return loaded._replace(memory=_memory_of(loaded, leaves, path)) if leaves else loaded


def _memory_of(predictor: Predictor, leaves: dict[int, jax.Array], path: Path) -> Carried:
    """The leaves of a saved memory in the order that this network has them in."""
    like = jax.eval_shape(Predictor.read, predictor)
    memory = [leaves.get(i, jnp.zeros(())) for i in range(len(leaves))]
    if [leaf.ndim for leaf in memory] != [leaf.ndim for leaf in jax.tree.leaves(like)]:
        name = type(predictor.network).__name__
        raise ValueError(f"`path`: {path} has a memory of another form than its {name} needs.")
    return jax.tree.unflatten(jax.tree.structure(like), memory)


def _as_written(value) -> Any:  # JSON makes lists of tuples
    return tuple(map(_as_written, value)) if isinstance(value, list) else value


def _architecture(text: str, known: dict[str, type[Architecture]]) -> Architecture:
    """What `save` wrote of an architecture, made again from one of the known classes."""
    fields = {name: _as_written(value) for name, value in dict(json.loads(text)).items()}
    name = fields.pop("name")
    if name not in known:
        raise ValueError(
            f"a {name}, expected one of {', '.join(known)}; pass a class of your own as "
            f"load(path, architectures=[{name}])"
        )
    return known[name](**fields)


def _expected_shapes(architecture: Architecture, prefix_length: int) -> Any:
    prefix = jnp.zeros((prefix_length, architecture.embedding_width))
    return _shapes({"params": without_numbers(architecture).params, "prefix": prefix})


def settings(path) -> dict[str, Any]:
    """The settings that `save` stored in a weights file."""
    return json.loads(_read(Path(path))[0]["settings"])


def load_pretrained(name: str, seed: int | None = None) -> Predictor:
    """A predictor of the package, pretrained on random coins at the paper's scale (Section 4.1).

    Args:
        name: `"lstm"` or `"transformer"`; with `"-embedding-4"` behind it the narrow ones, with
            `"-large"` the large ones; the large LSTM has to be made first.
        seed: which of the networks pretrained so, to see the spread over pretraining; if left out,
            that of `PRETRAINED`.

    Raises:
        ValueError: an unknown name or seed, or a damaged file.

    Example:
        >>> load_pretrained("lstm").network.width
        128
    """
    path = pretrained_path(name, seed)
    if not path.is_file():
        known = sorted(file.name for file in path.parent.glob(f"{name}-*.safetensors"))
        only = f", only {', '.join(known)}" if known else ""
        choice = "" if seed is None else f" --seed {seed}"
        raise ValueError(
            f"{f'`name` {name}' if seed is None else f'`seed` {seed}'}: there is no {path.name}"
            f"{only}; `python -m promptbayes pretrain {name}{choice}` makes it."
        )
    return load(path)


def pretrained_path(name: str, seed: int | None = None) -> Path:
    """Where the package keeps the weights of a pretrained predictor."""
    if name not in PRETRAINED:
        raise ValueError(f"`name` must be one of {', '.join(PRETRAINED)}, got {name!r}.")
    seed = PRETRAINED[name] if seed is None else seed
    return Path(str(files("promptbayes"))) / "weights" / f"{name}-{seed}.safetensors"


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"`path`: {path} is not a readable safetensors file: {error}") from error
    if metadata.get("format") != "promptbayes-predictor-1":
        raise ValueError(f"`path`: {path} is a safetensors file, but not one that save() wrote.")
    return metadata, tensors


def _checksum(tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].shape} {tensors[name].dtype}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def named_leaves(tree) -> dict[str, Any]:
    """Leaves of a pytree by their paths, such as `params.unembedding.bias`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _unflatten(flat: dict[str, np.ndarray]) -> dict[Any, Any]:
    tree: dict[Any, Any] = {}
    for name, array in flat.items():
        *path, leaf = [int(key) if key.isdigit() else key for key in name.split(".")]
        branch = tree
        for key in path:
            branch = branch.setdefault(key, {})
        full = array.astype(np.float32) if array.dtype == np.float16 else array
        branch[leaf] = jnp.asarray(full)
    return tree


def _shapes(tree) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)
