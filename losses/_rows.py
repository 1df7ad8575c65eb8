"""What `axis` and `where` ask for, done once for many losses: classes last, and NaN for rows that have no loss."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from xent.losses import _checks, _shards, _softmax
from xent.losses._floats import nan_if_used
from xent.losses._shards import AxisName

Axis = int | tuple[int, ...] | None


class Selection(NamedTuple):
    """The axes of the classes, the shape of the batch, and what `where` selects of both."""

    axes: tuple[int, ...]
    batch: tuple[int, ...]
    classes: jax.Array | None  # which classes take part, [..., V]; None for all
    examples: jax.Array | None  # which examples count, [...]; None for all

    def fill(self, array: jax.Array, value: float) -> jax.Array:
        """`array` [..., V], with `value` for the classes that take no part."""
        return array if self.classes is None else jnp.where(self.classes, array, value)

    def losses(self, losses: jax.Array) -> jax.Array:
        """0, with zero gradients, for the examples that do not count."""
        return losses if self.examples is None else jnp.where(self.examples, losses, 0)


def of(
    arrays: Mapping[str, jax.Array], axis: Axis, where: ArrayLike | None, axis_name: AxisName | None = None
) -> tuple[list[jax.Array], Selection]:
    """The arrays, of one shape, as rows [..., V] of one float dtype, at least float32; and what `where` selects."""
    (first, leader), *others = arrays.items()
    shape = leader.shape
    axes = tuple(range(len(shape))) if axis is None else _checks.axes_of("axis", axis, shape)
    batch = tuple(size for a, size in enumerate(shape) if a not in axes)
    _checks.class_count(first, shape, axes)
    for name, array in others:
        _checks.same_shape(name, array, shape, f"the shape of {first}")
    floats = [array.dtype for array in arrays.values() if jnp.issubdtype(array.dtype, jnp.floating)]
    dtype = jnp.result_type(*floats, jnp.float32)
    rows = [_softmax.classes_last(array, axes).astype(dtype) for array in arrays.values()]
    if where is None:
        return rows, Selection(axes, batch, None, None)
    selected = _checks.array_of("where", where, jnp.bool_)
    if selected.shape == batch:
        return rows, Selection(axes, batch, None, selected)
    if selected.shape != shape:
        raise ValueError(
            f"where must have the shape {shape}, to select classes, or {batch}, to select examples, "
            f"got {selected.shape}; it is not broadcast"
        )
    selected = _softmax.classes_last(selected, axes)
    return rows, Selection(axes, batch, selected, _shards.total(selected.sum(-1), axis_name) > 0)


def as_given(rows: jax.Array, axes: tuple[int, ...], shape: tuple[int, ...]) -> jax.Array:
    """Rows [..., V] in the shape that they came in, before `of` moved the axes of the classes behind."""
    classes = tuple(shape[a] for a in axes)
    array = rows.reshape(*rows.shape[:-1], *classes)
    return jnp.moveaxis(array, range(-len(axes), 0), axes)


@jax.custom_jvp
def poison(defined: jax.Array, *arrays: jax.Array) -> jax.Array:
    """0 where `defined` [...] and NaN elsewhere; so is its derivative with respect to each of the rows [..., V].

    Added to a loss of rows that were made harmless, it gives NaN to whoever uses an undefined one, and to nobody else.
    """
    return jnp.where(defined, 0, jnp.nan).astype(arrays[0].dtype)


@poison.defjvp
def _(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    defined, *arrays = primals
    undefined = jnp.where(defined, 0, 1).astype(arrays[0].dtype)[..., None]
    used = jnp.asarray(sum(jnp.sum(undefined * tangent, -1) for tangent in tangents[1:]))
    return poison(*primals), nan_if_used(used, defined)


def harmless(defined: jax.Array, *arrays: jax.Array) -> list[jax.Array]:
    """The rows, with zeros for those that are not `defined`."""
    return [jnp.where(defined[..., None], array, 0) for array in arrays]


# So scaled, finite numbers have a finite sum.
SCALE = 2.0**-26


def are_weighed(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Of rows [..., V]: nothing in x is NaN or +inf, and no weight is NaN, infinite or negative.

    By arithmetic: XLA:CPU does not vectorise a sum with a comparison in it.
    """
    return jnp.sum(x * SCALE + 0 * jnp.sqrt(weights), -1) < jnp.inf


def infinite_where(impossible: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """inf for a row where anything [..., V] is `impossible`, else 0: to be added to the finite part of a loss."""
    return jnp.where(impossible.any(-1), jnp.inf, 0).astype(dtype)
