"""A row of logits, taken apart so that nothing cancels: what every softmax loss and its derivatives are made of."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from xent.losses import _shards
from xent.losses._shards import AxisName


class Row(NamedTuple):
    """What a row of logits gives to the loss and to all its derivatives: one class, the label, apart from the others.

    Every exponential counts from the same shift of the row's, of which nothing that is made of them depends. Nor do
    derivatives of a row's loss depend on which logit is the largest: those parts have none. (That counts where jax 0.10
    forgets the rule of a loss: in the second derivative inside of `shard_map`, if it was no part of the first.)
    """

    top: jax.Array  # the largest logit, [...]
    label: jax.Array  # the label's logit, [...]
    exp: jax.Array  # of the logits, [..., V]
    exp_top: jax.Array  # of the largest, [...]
    exp_label: jax.Array  # of the label's, [...]
    others: jax.Array  # the sum of `exp` over all classes but the label, [...]
    defined: jax.Array  # whether there is a loss, [...]

    @property
    def total(self) -> jax.Array:
        """The sum of `exp` over all classes, [...]."""
        return self.others + self.exp_label

    @property
    def log_total(self) -> jax.Array:
        """The logarithm of `total`, less the largest logit's share in it: at least 0, and exact where nearly 0."""
        is_top = self.label == self.top
        beyond = self.exp_label - jnp.where(is_top, lax.stop_gradient(self.exp_label), self.exp_top)
        return jnp.log1p((self.others + beyond) / self.exp_top)


def row(x: jax.Array, y: jax.Array, axis_name: AxisName | None = None) -> Row:
    """Of logits [..., V] and integer labels [...]. With an axis, V is of this shard, as `exp` is; all else is whole."""
    classes = x.shape[-1] * _shards.count(axis_name)
    top = lax.stop_gradient(_shards.largest(x.max(-1), axis_name))
    shift = shift_of(top, classes)
    row_blocks = blocks(x)
    of_blocks = jnp.exp(row_blocks - beside(shift, row_blocks))
    # A power of two times the distance from the label: 0 there, and elsewhere more than exp can be. Its minimum with
    # exp leaves the label out, and is no select: XLA:CPU does not vectorise a sum with a comparison in it. In this
    # order: what it calls for a minimum may pass over a NaN in the first place, but not in the second.
    step = 2.0 ** (jnp.finfo(x.dtype).maxexp - 2 - math.ceil(math.log2(classes)))
    place = _shards.here(y, x.shape[-1], axis_name).astype(x.dtype) * step
    distance = jnp.abs(blocks(index_of(x)) * step - beside(place, row_blocks))
    others = _shards.total(sum_rows(jnp.minimum(distance, of_blocks), top.ndim), axis_name)
    label = _shards.entry(x, y, axis_name)
    exp_label = jnp.exp(label - shift)
    whole = jnp.where(jnp.isnan(others + exp_label), jnp.nan, top)
    defined = is_defined(whole, y, classes)
    exp = jnp.exp(x - shift[..., None])  # of long rows anew: cheaper than to write it down for two readers
    return Row(top, label, exp, jnp.exp(top - shift), exp_label, others, defined)


def shift_of(top: jax.Array, classes: int) -> jax.Array:
    """What to take from the logits before `exp`: nothing that rounds them, where they count.

    x - top would be off by up to half an ulp of itself, and its exponential by as much relatively: 64 ulp. A shift of 0
    rounds nothing, and serves wherever no exponential that counts is lost and their sum does not overflow: for a top
    from 0 to `room`. Beyond, the shift is a whole number, of the sign of the top. Below 0 it is no larger than any
    logit, and so every difference is a float. Above `room` those that are not are of logits some 80 below the top.
    """
    room = (jnp.finfo(top.dtype).maxexp - 3) * math.log(2) - math.log(classes) - 1
    return jnp.floor(jnp.minimum(top, 0) + jnp.maximum(top - room, 0))


def index_of(x: jax.Array) -> jax.Array:
    """0, 1, 2, ... along the last axis of x, in its dtype."""
    return lax.broadcasted_iota(x.dtype, (1,) * (x.ndim - 1) + x.shape[-1:], x.ndim - 1)


def blocks(x: jax.Array) -> jax.Array:
    """[..., V], of rows of 65536 and more as [..., B, V / B], where B is 64 or what V has of it.

    XLA:CPU makes one kernel of all that is done to a row and of its sum, but of rows as long as these it writes each
    array to memory on the way: ten times the time. So few blocks cut across no shard, where classes are split.
    """
    classes = x.shape[-1]
    count = math.gcd(classes, 64) if classes >= 2**16 else 1
    return x if count == 1 else x.reshape(*x.shape[:-1], count, classes // count)


def beside(of_rows: jax.Array, x: jax.Array) -> jax.Array:
    """What there is of each row [...], with as many axes as x has, [..., V] or in blocks: to be broadcast."""
    return lax.expand_dims(of_rows, range(of_rows.ndim, x.ndim))


def sum_rows(terms: jax.Array, ndim: int) -> jax.Array:
    """Rows [..., V], in blocks or not, summed to `ndim` axes; within 5 ulp for terms that are not negative."""
    single = math.prod(terms.shape[:ndim]) == 1
    sums = terms.sum(-1) if adds_in_blocks(terms) and not single else _by_halves(terms)
    if sums.ndim == ndim:
        return sums
    # The sums of 64 blocks in two steps: of few rows XLA:CPU adds up one term after the other.
    count = sums.shape[-1]
    inner = math.gcd(count, 8)
    sums = _apart(_apart(sums).reshape(*sums.shape[:-1], count // inner, inner).sum(-1))
    return sums.sum(-1)


def largest_of_rows(x: jax.Array, ndim: int) -> jax.Array:
    """The largest of rows [..., V], in blocks or not, of `ndim` axes."""
    found = x.max(-1)
    return found if found.ndim == ndim else _apart(found).max(-1)


def _apart(of_blocks: jax.Array) -> jax.Array:
    """What blocks give, kept apart from what rows give: XLA would make one sum of both, over rows as long as before."""
    return lax.optimization_barrier(of_blocks)


def sum_last(terms: jax.Array) -> jax.Array:
    """Over the last axis; within 5 ulp for terms that are not negative. Not for what is long and made on the spot."""
    return sum_rows(blocks(terms), terms.ndim - 1)


def _by_halves(terms: jax.Array) -> jax.Array:
    while (length := terms.shape[-1]) > 1:
        half = length // 2
        folded = terms[..., :half] + terms[..., half : 2 * half]
        terms = folded if length % 2 == 0 else jnp.concatenate([folded, terms[..., 2 * half :]], -1)
    return terms[..., 0]


def adds_in_blocks(terms: jax.Array) -> bool:
    """Whether XLA:CPU's own sum over the last axis is one of blocks: fast, and no worse than half onto half.

    Small arrays it adds up one term after the other, and single rows too: 500 terms may come out 12 ulp off, and 20000
    may 190.
    """
    return terms.size >= 2**14 and terms.size > terms.shape[-1]


def has_softmax(x: jax.Array) -> jax.Array:
    """Of rows [..., V]: some logit is finite, none is NaN or +inf. XLA:CPU's maximum may pass over a NaN."""
    return jnp.isfinite(x.max(-1)) & ~jnp.isnan(x).any(-1)


def is_defined(top: jax.Array, y: jax.Array, classes: int) -> jax.Array:
    """Some logit is finite, none is NaN or +inf, and the label is one of the classes."""
    return jnp.isfinite(top) & (y >= 0) & (y < classes)


def with_label(others: jax.Array, y: jax.Array, label: jax.Array, axis_name: AxisName | None = None) -> jax.Array:
    """`others` [..., V], with `label` [...] in the place of y."""
    index = lax.broadcasted_iota(y.dtype, others.shape, others.ndim - 1)
    place = _shards.here(y, others.shape[-1], axis_name)
    return jnp.where(index == place[..., None], label[..., None], others)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def probabilities(x: jax.Array, y: jax.Array, axis_name: AxisName | None = None) -> jax.Array:
    """The softmax [..., V]; no digit of p_y is lost, whatever the label y is."""
    parts = row(x, y, axis_name)
    p = parts.exp * (1 / parts.total)[..., None]
    return jnp.where(parts.defined[..., None], p, 1)


def probabilities_tangent(x: jax.Array, y: jax.Array, dx: jax.Array, axis_name: AxisName | None = None) -> jax.Array:
    """p * (dx - <p, dx>), with dx counted from the label's: no shift of x is felt, and no 1 - p_y is formed."""
    p: jax.Array = probabilities(x, y, axis_name)
    dx = dx - _shards.entry(dx, y, axis_name)[..., None]
    return p * (dx - _shards.total(jnp.sum(p * dx, -1, keepdims=True), axis_name))


@probabilities.defjvp
def _(
    axis_name: AxisName | None, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    x, y = primals
    return probabilities(x, y, axis_name), probabilities_tangent(x, y, tangents[0], axis_name)


def classes_last(array: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """[..., V]: the axes of the classes behind all others and flattened into one."""
    array = jnp.moveaxis(array, axes, range(-len(axes), 0))
    batch, classes = array.shape[: -len(axes)], array.shape[-len(axes) :]
    return array.reshape(*batch, math.prod(classes))  # not -1, which an empty batch leaves open
