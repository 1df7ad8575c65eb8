"""Classes that are split over the shards of a mapped axis: what belongs to whole rows, of the part that is here.

Without an axis's name the part is the whole, and everything here gives back what it was given.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

AxisName = str | tuple[str, ...]


def over(collective: Callable[..., Any], value: ArrayLike, axis_name: AxisName | None) -> Any:
    """A collective over the axis, if there is one."""
    try:
        return value if axis_name is None else collective(value, axis_name)
    except NameError:
        raise ValueError(
            f"axis_name must name an axis that is mapped here, by shard_map or by vmap(..., axis_name=...), "
            f"got {axis_name!r}; outside of one, leave it out"
        ) from None


def total(value: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """The sum over shards."""
    summed: jax.Array = over(lax.psum, value, axis_name)
    return summed


def largest(value: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """The largest over shards; without a derivative, since pmax has none."""
    found: jax.Array = over(lax.pmax, value if axis_name is None else lax.stop_gradient(value), axis_name)
    return found


def count(axis_name: AxisName | None) -> int:
    """How many shards there are."""
    return int(over(lax.psum, 1, axis_name))


def first(classes: int, axis_name: AxisName | None) -> ArrayLike:
    """The index of the first of the `classes` that are here, among all."""
    return 0 if axis_name is None else lax.axis_index(axis_name) * classes


def here(y: jax.Array, classes: int, axis_name: AxisName | None) -> jax.Array:
    """Labels, counted from the first of the `classes` that are here: elsewhere they are negative or too large."""
    return y if axis_name is None else y - first(classes, axis_name)


def entry(x: jax.Array, y: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """Of rows [..., V], the entry at the label [...]; where there is none, any number."""
    place = here(y, x.shape[-1], axis_name)
    return _of_owner(jnp.take_along_axis(x, place[..., None], -1, mode="clip")[..., 0], place, x.shape[-1], axis_name)


def pick(values: jax.Array, y: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """Of one row [V], the entries at labels [...]; where there is none, any number."""
    place = here(y, len(values), axis_name)
    return _of_owner(jnp.take(values, place, mode="clip"), place, len(values), axis_name)


def _of_owner(value: jax.Array, place: jax.Array, classes: int, axis_name: AxisName | None) -> jax.Array:
    """The value of the shard where the label is."""
    if axis_name is None:
        return value
    return total(jnp.where((place >= 0) & (place < classes), value, 0), axis_name)


def varying(value: Any) -> frozenset[str]:
    """The axes of `shard_map` over which the value is known to vary: none without its check of them."""
    axes: frozenset[str] = jax.typeof(value).manual_axis_type.varying
    return axes


def uncounted(axis_name: AxisName | None) -> int:
    """By how much the derivative of what all shards share is too large: 1, or where axes are not checked, their size.

    With the check, a psum's derivative knows that its cotangent is one, which all shards hold. Without it, as under
    `vmap`, it adds up what the shards hold, as if each had one of its own.
    """
    if axis_name is None or varying(lax.axis_index(axis_name)):
        return 1
    return count(axis_name)


def whole(part: jax.Array, like: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """The sum of the shards' parts of what all of them share, if they share what it is to be like."""
    axes: Any = tuple(sorted(varying(part) - varying(like)))
    if uncounted(axis_name) > 1:
        axes = axis_name
    summed: jax.Array = lax.psum(part, axes) if axes else part
    return summed


def axes_of_tokens(values: Any, axis_name: AxisName | None) -> frozenset[str]:
    """The axes over which something in `values` varies, but for those that the classes are split over."""
    axes: frozenset[str] = frozenset().union(*map(varying, jax.tree.leaves(values)))
    return axes - ({axis_name} if isinstance(axis_name, str) else set(axis_name or ()))


def vary(value: ArrayLike, axes: frozenset[str]) -> jax.Array:
    """`value`, varying over these axes too: its gradient, until then a shard's, is summed over them here."""
    array = jnp.asarray(value)
    return lax.pcast(array, tuple(sorted(axes - varying(array))), to="varying")


def zeros(like: Any) -> jax.Array:
    """Zeros of the shape and dtype, which vary over the same axes: what a scan can start from."""
    return lax.pcast(jnp.zeros(like.shape, like.dtype), tuple(sorted(varying(like))), to="varying")
