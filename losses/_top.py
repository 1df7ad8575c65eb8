"""A row of logits, its largest apart from the others: what the losses of soft labels and the normaliser are made of.

XLA:CPU makes one kernel of each of them, if nothing in the chain is a comparison, a select or a gather, and if no
array of the size of the logits has two readers: then it is written to memory, which takes longer than all the rest.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from xent.losses import _softmax
from xent.losses._floats import largest


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


def top_of(x: jax.Array) -> Top:
    """Of logits [..., V]."""
    top, last = x.max(-1), _last_of_largest(x)
    shift = _softmax.shift_of(top, x.shape[-1])
    # A power of two times the distance from that class: 0 there, and elsewhere more than exp can be. Its minimum with
    # exp leaves the class out. In this order: what XLA:CPU calls for a minimum may pass over a NaN in the first place.
    step = 2.0 ** (jnp.finfo(x.dtype).maxexp - 2 - math.ceil(math.log2(x.shape[-1])))
    distance = jnp.abs(_softmax.index_of(x) * step - (last * step)[..., None])
    others = sum_of(jnp.minimum(distance, jnp.exp(x - shift[..., None])))
    return Top(top, shift, jnp.exp(top - shift), others)


def _last_of_largest(x: jax.Array) -> jax.Array:
    """The last index of the largest logit of each row [..., V], a whole number in the dtype of x.

    By a maximum of index minus gap, where the index is too small to count but among ties: XLA:CPU does not vectorise
    argmax. Of logits that are so near 0 that their gaps are no larger than that, any may be found: they are as good as
    ties.
    """
    small = float(jnp.finfo(x.dtype).eps) ** 3
    largest_of_ties = jnp.max(x - x.max(-1, keepdims=True) + _softmax.index_of(x) * small, -1)
    return jnp.round(largest_of_ties / small)


def top_index(x: jax.Array) -> jax.Array:
    """The last index of the largest logit of each row [..., V], int32."""
    return _last_of_largest(x).astype(jnp.int32)


def gap_of(x: jax.Array, of: Top) -> jax.Array:
    """How far each logit [..., V] is below the largest."""
    # A bound that nothing reaches: with a reference of its own, this difference is not the one from `top`, so that XLA
    # does not keep one array for both.
    return jnp.maximum(of.top, -largest(x.dtype))[..., None] - x


def sum_of(terms: jax.Array) -> jax.Array:
    """Over the last axis [..., V], of terms that are not negative; also of long rows, of which nothing is kept here."""
    return terms.sum(-1) if _softmax.adds_in_blocks(terms) else _softmax.sum_last(terms)


@jax.custom_jvp
@jax.jit
def softmax(x: jax.Array) -> jax.Array:
    """The probabilities [..., V]; 1 where there are none."""
    of = top_of(x)
    p = jnp.exp(x - of.shift[..., None]) * (1 / of.total)[..., None]
    return jnp.where(of.defined[..., None], p, 1)


@softmax.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return softmax(*primals), _softmax.probabilities_tangent(*primals, top_index(*primals), *tangents)
