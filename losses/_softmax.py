"""A row of logits, taken apart so that nothing cancels: what every softmax loss and its derivatives are made of."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from xent.losses._floats import largest


class Row(NamedTuple):
    """What a row of logits gives to the loss and to all its derivatives: the label apart from the others."""

    top: jax.Array  # the largest logit, [...]
    label: jax.Array  # the label's logit, [...]
    exp_label: jax.Array  # exp(label - top), [...]
    exp_others: jax.Array  # exp(x - top), but 0 at the label, [..., V]
    sum_others: jax.Array  # [...]
    defined: jax.Array  # whether there is a loss, [...]


def row(x: jax.Array, y: jax.Array) -> Row:
    """Of logits [..., V] and integer labels [...]."""
    top = x.max(-1)
    label = jnp.take_along_axis(x, y[..., None], -1, mode="clip")[..., 0]
    # The distance from the label is 0 there and at least 1 elsewhere, where exp is at most 1. A minimum, and not a
    # select: XLA:CPU does not vectorise a sum with a comparison in it.
    distance = jnp.abs(lax.broadcasted_iota(x.dtype, x.shape, x.ndim - 1) - y[..., None].astype(x.dtype))
    exp_others = jnp.minimum(exp_difference(x, top[..., None]), distance)
    sum_others = pairwise_sum(exp_others)
    exp_label = exp_difference(label, top)
    # XLA:CPU's maximum may pass over a NaN, but no sum does.
    whole = jnp.where(jnp.isnan(sum_others + exp_label), jnp.nan, top)
    return Row(top, label, exp_label, exp_others, sum_others, is_defined(whole, y, x.shape[-1]))


class Tail(NamedTuple):
    """What a row of logits gives where no class stands apart from the others."""

    top: jax.Array  # the largest logit, [...]
    exp: jax.Array  # exp(x - top), [..., V]
    rest: jax.Array  # their sum less 1, [...]
    defined: jax.Array  # whether there is a softmax, [...]


def tail(x: jax.Array) -> Tail:
    """Of logits [..., V]. Nothing is taken from the sum: of the ones in it, all but one are counted."""
    top = x.max(-1)
    exp = exp_difference(x, top[..., None])
    ones = jnp.floor(exp)  # not a comparison: XLA:CPU does not vectorise a sum with one in it
    rest = pairwise_sum(exp - ones) + (ones.sum(-1) - 1)
    return Tail(top, exp, rest, jnp.isfinite(top) & ~jnp.isnan(rest))


@jax.custom_jvp
@jax.jit
def softmax(x: jax.Array) -> jax.Array:
    """The probabilities [..., V]; 1 where there are none."""
    row = tail(x)
    return jnp.where(row.defined[..., None], row.exp / (1 + row.rest)[..., None], 1)


@softmax.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return softmax(*primals), probabilities_tangent(*primals, top_index(*primals), *tangents)


def top_index(x: jax.Array) -> jax.Array:
    """The last index of the largest logit of each row [..., V], int32.

    A maximum of index minus gap, with the gap so magnified that only a tie (to V times the smallest normal float) has
    none: XLA:CPU does not vectorise argmax.
    """
    tiny = float(jnp.finfo(x.dtype).tiny)
    index = lax.broadcasted_iota(x.dtype, x.shape, x.ndim - 1)
    gap = jnp.minimum((x.max(-1, keepdims=True) - x) / tiny, 1) * x.shape[-1]
    return jnp.max(index - gap, -1).astype(jnp.int32)


def pairwise_sum(terms: jax.Array) -> jax.Array:
    """Over the last axis, half onto half: one after the other, 1000 terms may come out 28 ulp off, and so at most 5."""
    while (length := terms.shape[-1]) > 1:
        half = length // 2
        folded = terms[..., :half] + terms[..., half : 2 * half]
        terms = folded if length % 2 == 0 else jnp.concatenate([folded, terms[..., 2 * half :]], -1)
    return terms[..., 0]


def has_softmax(x: jax.Array) -> jax.Array:
    """Of rows [..., V]: some logit is finite, none is NaN or +inf. XLA:CPU's maximum may pass over a NaN."""
    return jnp.isfinite(x.max(-1)) & ~jnp.isnan(x).any(-1)


def is_defined(top: jax.Array, y: jax.Array, classes: int) -> jax.Array:
    """Some logit is finite, none is NaN or +inf, and the label is one of the classes."""
    return jnp.isfinite(top) & (y >= 0) & (y < classes)


def with_label(others: jax.Array, y: jax.Array, label: jax.Array) -> jax.Array:
    """`others` [..., V], with `label` [...] in the place of y."""
    index = lax.broadcasted_iota(y.dtype, others.shape, others.ndim - 1)
    return jnp.where(index == y[..., None], label[..., None], others)


def exp_difference(x: jax.Array, top: jax.Array) -> jax.Array:
    """exp(x - top) for x <= top, with what the subtraction rounds off: alone, that is worth up to 64 ulp.

    Knuth's error-free difference: `difference + error` is x - top exactly, and exp(error) is 1 + error.
    """
    # -inf would make the error NaN. So far below the top (1024 and more), a finite logit is as good.
    lowest = jnp.maximum(top - (1024 + jnp.abs(top) / 1024), -largest(x.dtype))
    x = jnp.maximum(x, lowest)
    difference = x - top
    moved = difference - x
    error = (x - (difference - moved)) - (top + moved)
    exp = jnp.exp(difference)
    return exp + exp * error


@jax.custom_jvp
@jax.jit
def probabilities(x: jax.Array, y: jax.Array) -> jax.Array:
    """The softmax [..., V]; no digit of p_y is lost, whatever the label y is."""
    parts = row(x, y)
    scale = 1 / (parts.sum_others + parts.exp_label)
    p = with_label(parts.exp_others * scale[..., None], y, parts.exp_label * scale)
    return jnp.where(parts.defined[..., None], p, 1)


def probabilities_tangent(x: jax.Array, y: jax.Array, dx: jax.Array) -> jax.Array:
    """p * (dx - <p, dx>), with dx counted from the label's: no shift of x is felt, and no 1 - p_y is formed."""
    p: jax.Array = probabilities(x, y)
    dx = dx - jnp.take_along_axis(dx, y[..., None], -1, mode="clip")
    return p * (dx - jnp.sum(p * dx, -1, keepdims=True))


@probabilities.defjvp
def _(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    x, y = primals
    return probabilities(x, y), probabilities_tangent(x, y, tangents[0])


def classes_last(array: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """[..., V]: the axes of the classes behind all others and flattened into one."""
    array = jnp.moveaxis(array, axes, range(-len(axes), 0))
    batch, classes = array.shape[: -len(axes)], array.shape[-len(axes) :]
    return array.reshape(*batch, math.prod(classes))  # not -1, which an empty batch leaves open
