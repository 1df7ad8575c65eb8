"""A row of logits, its largest apart from the others: what the losses of soft labels and the normaliser are made of.

XLA:CPU makes one kernel of each of them, if nothing in the chain is a comparison, a select or a gather, if no array of
the size of the logits has two readers, and if rows are not too long: else such arrays are written to memory, which
takes longer than all the rest.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from xent.losses import _shards, _softmax
from xent.losses._floats import largest
from xent.losses._shards import AxisName


class Top(NamedTuple):
    """What a row of logits gives. Exponentials count from a shift of the row's, of which nothing that is made depends.

    NaN in the log of the total is the sign of a row that has no softmax.
    """

    top: jax.Array  # the largest logit, [...]
    shift: jax.Array  # what exponentials count from, [...]
    exp: jax.Array  # of the largest logit, [...]
    others: jax.Array  # the sum of the exponentials of all classes but one of the largest, [...]

    @property
    def total(self) -> jax.Array:
        """The sum of all exponentials, [...]."""
        return self.others + self.exp

    @property
    def log_total(self) -> jax.Array:
        """The logarithm of `total`, less the largest logit's share in it: at least 0, and exact where nearly 0."""
        return jnp.log1p(self.others / self.exp)

    @property
    def defined(self) -> jax.Array:
        """Whether there is a softmax, [...]."""
        return jnp.isfinite(self.log_total)


def top_of(x: jax.Array, axis_name: AxisName | None = None) -> Top:
    """Of logits [..., V]. With an axis, V is of this shard; all that is found is of the whole rows."""
    classes = x.shape[-1] * _shards.count(axis_name)
    top, last = _shards.largest(x.max(-1), axis_name), _last_of_largest(x, axis_name)
    shift = _softmax.shift_of(top, classes)
    # A power of two times the distance from that class: 0 there, and elsewhere more than exp can be. Its minimum with
    # exp leaves the class out. In this order: what XLA:CPU calls for a minimum may pass over a NaN in the first place.
    step = 2.0 ** (jnp.finfo(x.dtype).maxexp - 2 - math.ceil(math.log2(classes)))
    place = _shards.here(last, x.shape[-1], axis_name) * step
    blocks = _softmax.blocks(x)
    distance = jnp.abs(_softmax.blocks(_softmax.index_of(x)) * step - _softmax.beside(place, blocks))
    exps = jnp.exp(blocks - _softmax.beside(shift, blocks))
    others = _shards.total(_softmax.sum_rows(jnp.minimum(distance, exps), top.ndim), axis_name)
    if axis_name is not None:
        # Of the class left out, the derivative. That counts where jax 0.10 forgets the rule of a loss: in the second
        # derivative inside of `shard_map`, if it was no part of the first.
        exp = jnp.exp(_shards.entry(x, last.astype(jnp.int32), axis_name) - shift)
        others += exp - lax.stop_gradient(exp)
    return Top(top, shift, jnp.exp(top - shift), others)


def _last_of_largest(x: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """The last index of the largest logit of each row [..., V], a whole number in the dtype of x.

    By a maximum of index minus gap, where the index is too small to count but among ties: XLA:CPU does not vectorise
    argmax. Of logits that are so near 0 that their gaps are no larger than that, any may be found: they are as good as
    ties.
    """
    small = float(jnp.finfo(x.dtype).eps) ** 3
    blocks = _softmax.blocks(x)
    top = _softmax.beside(_shards.largest(x.max(-1), axis_name), blocks)
    index = _softmax.blocks(_softmax.index_of(x))
    of_ties = jnp.round(_softmax.largest_of_rows(blocks - top + index * small, x.ndim - 1) / small)
    # Of a shard that has no largest it is far below 0.
    return _shards.largest(of_ties + _shards.first(x.shape[-1], axis_name), axis_name)


def top_index(x: jax.Array, axis_name: AxisName | None = None) -> jax.Array:
    """The last index of the largest logit of each row [..., V], int32."""
    return _last_of_largest(x, axis_name).astype(jnp.int32)


def gap_of(x: jax.Array, of: Top) -> jax.Array:
    """How far each logit, [..., V] or in blocks, is below the largest."""
    # A bound that nothing reaches: with a reference of its own, this difference is not the one from `top`, so that XLA
    # does not keep one array for both.
    return _softmax.beside(jnp.maximum(of.top, -largest(x.dtype)), x) - x


@partial(jax.custom_jvp, nondiff_argnums=(1,))
@partial(jax.jit, static_argnums=1)
def softmax(x: jax.Array, axis_name: AxisName | None = None) -> jax.Array:
    """The probabilities [..., V]; 1 where there are none."""
    of = top_of(x, axis_name)
    p = jnp.exp(x - of.shift[..., None]) * (1 / of.total)[..., None]
    return jnp.where(of.defined[..., None], p, 1)


@softmax.defjvp
def _(axis_name: AxisName | None, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return softmax(x, axis_name), _softmax.probabilities_tangent(x, top_index(x, axis_name), dx, axis_name)
