"""The decoder-only Transformer: RMSNorm before each branch, rotary positions, causal attention, SwiGLU."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from xent.models.functional import Model, Params, functional

ROTARY_BASE = 10000.0


class Head(NamedTuple):
    """The linear map from hidden states to logits."""

    kernel: jax.Array
    """`[units, vocabulary]`, or the embedding `[vocabulary, units]` if `transposed`."""
    transposed: bool


def head_of(params: Params) -> Head:
    """Name the head among the parameters of `transformer`: a matrix of its own, or the embedding, if that is tied.

    The logits are `hidden @ kernel`, `hidden @ kernel.T` if `transposed`; the losses of `xent.losses` over linear heads
    take both as they are, `linear_softmax_cross_entropy(hidden, kernel, labels, transpose_kernel=transposed)`.
    """
    return Head(params["head"], False) if "head" in params else Head(params["embedding"], True)


def partitions(fully_sharded: bool) -> tuple[tuple[str, P], ...]:
    """How the parameters of `transformer` lie on a mesh with the axes `data` and `model`.

    The vocabulary of embedding and head is split over `model`; so are the heads of attention and the hidden units of
    the MLPs. What is left, and the norms, each device of `data` holds whole, or its share if `fully_sharded`.

    Args:
      fully_sharded: whether every matrix is split over `data`, too, and gathered where it is computed with.

    Returns:
      Pairs of a regular expression, found in a parameter's path, and its partition.

    Source: Rajbhandari et al., ZeRO, 2020, https://arxiv.org/abs/1910.02054; Shoeybi et al., Megatron-LM, 2019,
      https://arxiv.org/abs/1909.08053
    """
    data = "data" if fully_sharded else None
    return (
        ("^embedding$", P("model", data)),
        ("^head$", P(data, "model")),
        ("(query|key|value|gate|up)/kernel$", P(data, "model")),
        ("(output|down)/kernel$", P("model", data)),
    )


def rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
    r"""Turn each pair of coordinates of a query or key by an angle that grows with its position.

    .. math:: (x_i, x_{i + d/2}) \mapsto R(p \, b^{-2i/d}) (x_i, x_{i + d/2})

    The product of a query and a key turned so depends on their positions by the difference alone.

    Args:
      x: float `[..., length, heads, d]`, with an even d.
      positions: `p`, integer `[length]`.

    Returns:
      As `x`; the angles are computed in float32.

    Example:
      >>> x = jnp.ones((1, 1, 2))
      >>> print(rotate(x, jnp.array([0]))[0, 0])
      [1. 1.]

    Source: Su et al., RoFormer, 2021, section 3.2.2, https://arxiv.org/abs/2104.09864
    """
    half = x.shape[-1] // 2
    rates = ROTARY_BASE ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = (positions.astype(jnp.float32)[:, None] * rates[None])[:, None, :]  # [length, 1, half]
    angles = angles.reshape((1,) * (x.ndim - 3) + angles.shape)
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([left * cosine - right * sine, right * cosine + left * sine], axis=-1)
    return turned.astype(x.dtype)


def _dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


class _Attention(nnx.Module):
    def __init__(self, units: int, heads: int, depth: float, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.query, self.key, self.value = (
            nnx.Linear(units, units, use_bias=False, dtype=dtype, rngs=rngs) for _ in range(3)
        )
        self.output = nnx.Linear(units, units, use_bias=False, dtype=dtype, kernel_init=_towards_sum(depth), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        query, key, value = (f(x).reshape(*x.shape[:2], self.heads, -1) for f in (self.query, self.key, self.value))
        positions = jnp.arange(x.shape[1])
        query, key = rotate(query, positions), rotate(key, positions)
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)  # its softmax is in float32
        return self.output(mixed.reshape(x.shape))


class _MLP(nnx.Module):
    def __init__(self, units: int, depth: float, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        hidden = -(-8 * units // 24) * 8  # 8/3 of the units, so that three matrices weigh what two of four times would
        self.gate, self.up = (nnx.Linear(units, hidden, use_bias=False, dtype=dtype, rngs=rngs) for _ in range(2))
        self.down = nnx.Linear(hidden, units, use_bias=False, dtype=dtype, kernel_init=_towards_sum(depth), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


def _towards_sum(depth: float) -> nnx.Initializer:
    """Weights of a branch whose output is added to the stream: so small that all `depth` of them add up to about 1."""
    return nnx.initializers.variance_scaling(1 / depth, "fan_in", "truncated_normal")


class _Block(nnx.Module):
    def __init__(self, units: int, heads: int, depth: float, dropout: float, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.dropout = dropout
        self.attention_norm = nnx.RMSNorm(units, dtype=dtype, rngs=rngs)
        self.attention = _Attention(units, heads, depth, dtype, rngs)
        self.mlp_norm = nnx.RMSNorm(units, dtype=dtype, rngs=rngs)
        self.mlp = _MLP(units, depth, dtype, rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        first, second = (None, None) if key is None else jax.random.split(key)
        x = x + _dropout(self.attention(self.attention_norm(x)), self.dropout, first)
        return x + _dropout(self.mlp(self.mlp_norm(x)), self.dropout, second)


class _Transformer(nnx.Module):
    def __init__(
        self, vocabulary: int, units: int, layers: int, heads: int, dropout: float, tied: bool, dtype: DTypeLike,
        between: Callable[[jax.Array], jax.Array], recompute: bool, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        normal = nnx.initializers.normal(0.02)  # GPT-2's: small logits, so that an untrained model prefers nothing
        self.dropout, self.dtype, self.between, self.recompute = dropout, dtype, between, recompute
        self.embedding = nnx.Param(normal(rngs.params(), (vocabulary, units)))
        self.blocks = nnx.Dict({str(i): _Block(units, heads, 2 * layers, dropout, dtype, rngs) for i in range(layers)})
        self.norm = nnx.RMSNorm(units, dtype=dtype, rngs=rngs)
        if not tied:
            self.head = nnx.Param(normal(rngs.params(), (units, vocabulary)))

    def __call__(self, tokens: jax.Array, key: jax.Array | None = None) -> jax.Array:
        keys = [None] * (len(self.blocks) + 1) if key is None else list(jax.random.split(key, len(self.blocks) + 1))
        x = self.embedding[...][tokens].astype(self.dtype) * self.embedding.shape[1] ** 0.5
        x = self.between(_dropout(x, self.dropout, keys[0]))
        for block, inner in zip(self.blocks.values(), keys[1:], strict=True):
            forward = partial(_forward, block, inner)
            x = self.between((jax.checkpoint(forward) if self.recompute else forward)(x))
        return self.norm(x)


def _forward(block: _Block, key: jax.Array | None, x: jax.Array) -> jax.Array:
    return block(x, key)


def transformer(
    key: jax.Array,
    *,
    vocabulary: int,
    units: int,
    layers: int,
    heads: int,
    dropout: float = 0.0,
    tied: bool = True,
    dtype: DTypeLike = jnp.float32,
    between: Callable[[jax.Array], jax.Array] = lambda hidden: hidden,
    recompute: bool = False,
) -> Model:
    """Build a decoder-only Transformer up to its head, which `head_of` names.

    It stops before the head because the logits of a large vocabulary need never be held: a loss takes the hidden states
    and the head.

    Args:
      key: PRNG key of the initial weights.
      vocabulary: tokens that there are.
      units: of the hidden states.
      layers: blocks of attention and MLP.
      heads: of attention, each of `units / heads` units, an even number.
      dropout: share of the embedding's and of each branch's outputs that is dropped where there is a key.
      tied: whether the embedding is the head, too.
      dtype: what products are computed in; parameters and the softmax of attention are float32 whatever it is.
      between: called on the hidden states `[batch, length, units]` before and after each block; on a mesh it says how
        they lie there, since a compiler may prefer to split them as the parameters are.
      recompute: whether a gradient keeps only what goes into each block, and computes the rest again.

    Returns:
      `(apply, params)`; `apply(params, tokens, *, key=None)` takes integers `[batch, length]` and gives hidden states
      `[batch, length, units]` in `dtype`. Those at a position depend on the tokens up to it alone.

    Raises:
      ValueError: if the units cannot be dealt to the heads in pairs.

    Example:
      >>> apply, params = transformer(jax.random.key(0), vocabulary=100, units=16, layers=1, heads=2)
      >>> jax.jit(apply)(params, jnp.zeros((3, 5), jnp.int32)).shape
      (3, 5, 16)
      >>> head_of(params).kernel.shape
      (100, 16)

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; norm, positions and SwiGLU as in Touvron et al.
      2023, https://arxiv.org/abs/2302.13971; the tied head, Press and Wolf 2017, https://arxiv.org/abs/1608.05859
    """
    if units % (2 * heads):
        raise ValueError(f"units must be a multiple of twice the heads, {2 * heads}, got {units}")
    rngs = nnx.Rngs(key)
    return functional(_Transformer(vocabulary, units, layers, heads, dropout, tied, dtype, between, recompute, rngs))
