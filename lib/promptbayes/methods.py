"""What is tuned: the paper's nine methods and `Memory`, each an `init` and an `apply` over theta.

`init(key, base)` gives theta: the tuned numbers, nothing else. `apply(base, theta)` gives the tuned
predictor. The loop in `tuning` differentiates, clips and carries theta alone. A method of one's own
has the three functions of `Method`.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from . import networks
from .predictor import Predictor, no_prefix
from .tasks import check_contract, check_hashable, check_int

KINDS = ("simplex", "real", "soft")  #: of a `Prefix`
PARTS = ("embedding", "torso", "unembedding")  #: of a network
_LORA_KERNELS = ("query", "key", "value", "out")


class Method(Protocol):
    """What `tune` tunes. It holds settings, no numbers; theta holds the numbers.

    It must be hashable, for jit takes it as static: a frozen dataclass of plain values is, and as
    two equal ones are the same to jit, building it anew does not compile anew.

    Example:
        >>> @dataclass(frozen=True)
        ... class Bias:  # tunes the bias of the unembedding
        ...     def check(self, base):
        ...         pass
        ...     def init(self, key, base):
        ...         return base.params["unembedding"]["bias"]
        ...     def apply(self, base, theta):
        ...         unembedding = base.params["unembedding"] | {"bias": theta}
        ...         return base._replace(params=base.params | {"unembedding": unembedding})
        >>> method: Method = Bias()
        >>> hash(method) == hash(Bias())
        True
    """

    def check(self, base: Predictor, /) -> None:
        """Raise ValueError or TypeError if this predictor cannot be tuned so; called first."""
        ...

    def init(self, key: jax.Array, base: Predictor, /) -> Any:
        """Where tuning starts: theta of one repetition, a pytree of float arrays.

        `key` is one jax random key and is traced: all repetitions start in one `jax.vmap`.
        """
        ...

    def apply(self, base: Predictor, theta: Any, /) -> Predictor:
        """The tuned predictor for one theta: pure, traced, differentiated with respect to theta.

        The result has the base's network. What it takes from the base stays frozen.
        """
        ...


@dataclass(frozen=True)
class HardPrefix:
    """HardPT: the best of all |A|^length prompts; searched by `search_hard_prefix`, not tuned."""

    length: int  #: tokens


@dataclass(frozen=True)
class Prefix:
    """SimplexPT, RealPT, SoftPT: a prefix of vectors; weights stay as they are (Section 3).

    `simplex` and `real` prefixes live in token space and go through the base's own embedding,
    simplex rows through a softmax first; `soft` prefixes live in embedding space. All start from
    random one-hot vectors (for `simplex`: logits). On a base that has a prefix, a prompt say, they
    stand behind it, and that prefix stays as it is. `soft` is that of Lester et al. (2021).

    Example:
        >>> Prefix("soft", 6).kind
        'soft'
    """

    kind: str  #: one of `KINDS`
    length: int  #: rows

    def check(self, base: Predictor) -> None:
        """Raise if this cannot be tuned."""
        if self.kind not in KINDS:
            raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, got {self.kind!r}.")
        check_int("length", self.length)

    def init(self, key: jax.Array, base: Predictor) -> jax.Array:
        """Random one-hot rows, [prefix, token] or [prefix, width]."""
        width = base.network.embedding_width if self.kind == "soft" else base.num_tokens
        return jax.nn.one_hot(jax.random.randint(key, (self.length,), 0, width), width)

    def apply(self, base: Predictor, theta: jax.Array) -> Predictor:
        """The base with theta [prefix, token or width] as its prefix, or behind the one it has."""
        if self.kind == "simplex":
            theta = jax.nn.softmax(theta)
        prefix = theta if self.kind == "soft" else base.embed(theta)
        if len(base.prefix):
            prefix = jnp.concatenate([base.prefix, prefix])
        return base._replace(prefix=prefix)


@dataclass(frozen=True)
class Weights:
    """EmbedWT, UnembedWT, Un+EmbedWT, FullWT: parts of the network, from their present values.

    Example:
        >>> Weights(("embedding", "unembedding")).parts
        ('embedding', 'unembedding')
    """

    parts: tuple[str, ...]  #: of `PARTS`

    def check(self, base: Predictor) -> None:
        """Raise if this cannot be tuned."""
        parts = self.parts if isinstance(self.parts, tuple) else ()  # a list has no hash
        if not parts or not all(part in PARTS for part in parts):
            raise ValueError(f"`parts` must be a tuple of {', '.join(PARTS)}, got {self.parts!r}.")

    def init(self, key: jax.Array, base: Predictor) -> dict[str, Any]:
        """The base's own weights of these parts."""
        return {part: base.params[part] for part in self.parts}

    def apply(self, base: Predictor, theta: dict[str, Any]) -> Predictor:
        """The base with these parts replaced."""
        return base._replace(params=base.params | theta)


@dataclass(frozen=True)
class LoRA:
    """LoRAWT: W + A B on query, key, value and attention output of every block (Section 4.1).

    A starts LeCun-normal, B zero: at the start nothing has changed. No scaling factor. From Hu et
    al. (2021).

    Example:
        >>> LoRA(4).rank
        4
    """

    rank: int  #: columns of A, rows of B

    def check(self, base: Predictor) -> None:
        """Raise if this cannot be tuned."""
        if "blocks" not in base.params["torso"]:
            raise ValueError(
                f"LoRA is defined on a Transformer's attention, got `base` with a network of kind "
                f"{type(base.network).__name__}; tune it with Weights(...) instead."
            )
        check_int("rank", self.rank)

    def init(self, key: jax.Array, base: Predictor) -> dict[str, Any]:
        """A and B of every kernel, in the torso's own tree."""
        blocks = base.params["torso"]["blocks"]
        keys = jax.random.split(key, (len(blocks), len(_LORA_KERNELS)))
        return {
            block: {
                name: self._init_kernel(keys[i, j], blocks[block]["attention"][name]["kernel"])
                for j, name in enumerate(_LORA_KERNELS)
            }
            for i, block in enumerate(blocks)
        }

    def _init_kernel(self, key, kernel):
        a = jax.nn.initializers.lecun_normal()(key, (kernel.shape[0], self.rank))
        return {"a": a, "b": jnp.zeros((self.rank, kernel.shape[1]))}

    def apply(self, base: Predictor, theta: dict[str, Any]) -> Predictor:
        """The base with A B added to each kernel."""
        blocks = dict(base.params["torso"]["blocks"])
        for block, tuned in theta.items():
            attention = dict(blocks[block]["attention"])
            for name, ab in tuned.items():
                attention[name] = {"kernel": attention[name]["kernel"] + ab["a"] @ ab["b"]}
            blocks[block] = blocks[block] | {"attention": attention}
        torso = base.params["torso"] | {"blocks": blocks}
        return base._replace(params=base.params | {"torso": torso})


@dataclass(frozen=True)
class Memory:
    """Prefix tuning at the root: all that the content can see of a prefix is free.

    On the LSTM these are cells and hidden states of all layers, whatever the length. On the
    Transformer they are keys and values of `length` positions in every block (Li & Liang, 2021),
    and, our addition, the torso's output from which the first token is predicted. What the base has
    read already, at least the empty context, is read first and stays frozen; the content starts
    `length` positions later. The tuned predictor carries all of it and has no prefix.

    Every prefix of this length is a special case (on the LSTM of any length), so the best memory is
    at least as good as the best prefix. What tuning finds is the best memory *found*: its loss is
    an upper bound on that of the best memory, and no proof that no prefix is better. The start is
    the memory that a random hard prompt leaves; `from_prefix` gives another one to `tune`.

    Example:
        >>> from promptbayes import Transformer, initialise
        >>> base = initialise(Transformer(embedding_width=8), jax.random.key(0))
        >>> prompted, method = base.with_tokens([0, 0, 1]), Memory(3)
        >>> same = method.apply(base, method.from_prefix(prompted))
        >>> bool(abs(same([[0, 1]]) - prompted([[0, 1]])).max() < 1e-6)
        True
    """

    length: int  #: positions

    def check(self, base: Predictor) -> None:
        """Raise if this cannot be tuned."""
        check_int("length", self.length)
        theta = jax.eval_shape(lambda: self.init(jax.random.key(0), base))
        for leaf in jax.tree.leaves(theta):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(
                    f"`base`: the memory of its {type(base.network).__name__} holds {leaf.dtype}, "
                    "which has no gradient; let `free` and `carry` of its torso leave that out."
                )

    def init(self, key: jax.Array, base: Predictor) -> Any:
        """What a random hard prompt of this length leaves: a tree, as the torso's `free` has it."""
        tokens = jax.random.randint(key, (self.length,), 0, base.num_tokens)
        prompt = base.embed(jax.nn.one_hot(tokens, base.num_tokens))
        return self._free(base._replace(prefix=jnp.concatenate([base.prefix, prompt])))

    def from_prefix(self, predictor: Predictor) -> Any:
        """A theta to start from: what the prefix of `predictor`, the base with a prefix, leaves.

        With it `apply(base, theta)` predicts as `predictor` does. For `start` of `tune` stack one
        for each repetition.

        Raises:
            TypeError, ValueError: no `Predictor`; a prefix that has not `length` rows.
        """
        if not isinstance(predictor, Predictor):
            raise TypeError(f"`predictor` must be a Predictor with a prefix, got {predictor!r}.")
        rows = len(predictor.prefix)
        if rows != self.length:
            raise ValueError(
                f"`predictor` must have a prefix of {self.length} rows, got {rows}; what a prefix "
                f"of {rows} rows leaves is tuned by Memory({rows})."
            )
        return self._free(predictor)

    def apply(self, base: Predictor, theta: Any) -> Predictor:
        """The base with theta for its memory, behind what it has read already."""
        memory = _torso(base).carry(theta, base.read())
        return base._replace(prefix=no_prefix(base.network), memory=memory)

    def _free(self, predictor: Predictor) -> Any:
        return _torso(predictor).free(predictor.read(), self.length)


def _torso(predictor: Predictor) -> networks.Torso:
    return networks.bind(predictor.network, predictor.params).torso


#: The methods by their names in tables and figures.
METHODS = {
    "HardPT": HardPrefix(6),
    "SimplexPT": Prefix("simplex", 6),
    "RealPT": Prefix("real", 6),
    "SoftPT": Prefix("soft", 6),
    "EmbedWT": Weights(("embedding",)),
    "UnembedWT": Weights(("unembedding",)),
    "Un+EmbedWT": Weights(("embedding", "unembedding")),
    "FullWT": Weights(PARTS),
    "LoRAWT": LoRA(4),
    "Memory": Memory(6),  # not the paper's
}


def check_method(method, base: Predictor) -> None:
    """Raise unless this is a `Method` that can tune the base."""
    if isinstance(method, HardPrefix):
        raise TypeError("`method`: hard prompts have no gradient; use search_hard_prefix.")
    check_contract("method", method, Method)
    method.check(base)
    check_hashable("method", method, ", such as a frozen dataclass of plain values")


def check_theta(method: Method, base: Predictor, theta) -> None:
    """Raise unless theta, [seed, ...], can be tuned and the method makes a predictor of it."""
    kinds = {str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(theta)}
    if not kinds or not all(kind.startswith("float") for kind in kinds):
        raise TypeError(
            f"`method` must give theta as float arrays: {method!r}.init gave {kinds or 'none'}."
        )
    tuned = jax.eval_shape(method.apply, base, jax.tree.map(lambda x: x[0], theta))
    if not isinstance(tuned, Predictor) or tuned.network != base.network:
        raise TypeError(
            f"`method` must make a Predictor with the base's network, but {method!r}.apply gave "
            f"{tuned!r}."
        )
