"""What an argument must be before any arithmetic: kind, dtype and shape. Values in arrays are never looked at."""

import math
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def array_of(name: str, value: ArrayLike, *kinds: type[Any]) -> jax.Array:
    """`value` as a jax array, if its dtype is of one of `kinds` (`jnp.floating`, `jnp.integer`, `jnp.bool_`).

    Floats of 8 bits and less are refused: they hold a scale of their own apart, and JAX promotes them to nothing.
    """
    expected = " or ".join(kind.__name__.rstrip("_") for kind in kinds)
    # One by one: a typing.Union asks for the type only, and a tracer is a jax.Array by instance, not by type.
    if not isinstance(value, get_args(ArrayLike)):
        raise ValueError(f"{name} must be an array of {expected} dtype, got {type(value).__name__}")
    array = jnp.asarray(value)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        raise ValueError(f"{name} must be an array of {expected} dtype, got {array.dtype} of shape {array.shape}")
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 2:
        raise ValueError(f"{name} must be bfloat16, float16, float32 or float64, got {array.dtype}; convert it first")
    return array


def computed(array: jax.Array) -> jax.Array:
    """A float array in the dtype that it is computed in: float64 for float64, else float32."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def signed(labels: jax.Array) -> jax.Array:
    """Integer labels, signed and wide enough for any number of classes.

    An unsigned label too large for that turns negative: undefined, as it should be.
    """
    return labels.astype(jnp.int32 if labels.dtype.itemsize <= 4 else jnp.int64)


def same_shape(name: str, array: jax.Array, shape: tuple[int, ...], meaning: str) -> None:
    """Nothing broadcasts: labels of shape (B, 1) against (B,) would make B * B losses out of B, in silence."""
    if array.shape != shape:
        raise ValueError(f"{name} must have {meaning}, {shape}, got {array.shape}; it is not broadcast")


def fraction(name: str, value: float) -> float:
    """A number in [0, 1], as for whatever a number is asked for: at 0 the work it asks for is not done at all."""
    return _number(name, value, "Python float in [0, 1]", lambda v: 0 <= v <= 1)


def share(name: str, value: float) -> float:
    """A part of a mixture of two."""
    return _number(name, value, "Python float above 0 and below 1", lambda v: 0 < v < 1)


def non_negative(name: str, value: float) -> float:
    """A weight or an exponent."""
    return _number(name, value, "finite Python float of at least 0", lambda v: 0 <= v < math.inf)


def positive(name: str, value: float) -> float:
    """A scale."""
    return _number(name, value, "finite Python float above 0", lambda v: 0 < v < math.inf)


def exact_temperature(name: str, value: float) -> float:
    """A scale whose inverse can be split in two floats without overflow."""
    return _number(name, value, "Python float from 1e-9 to 1e9", lambda v: 1e-9 <= v <= 1e9)


def _number(name: str, value: float, rule: str, holds: Callable[[float], bool]) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not holds(value):
        raise ValueError(f"{name} must be a {rule}, got {shown(value)}")
    return float(value)


def axes_of(name: str, axis: int | tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The distinct axes that `axis` names in an array of `shape`, counted from 0, in the order given."""
    given = axis if isinstance(axis, tuple) else (axis,)
    rank = len(shape)
    if not given or any(isinstance(a, bool) or not isinstance(a, int) or not -rank <= a < rank for a in given):
        raise ValueError(
            f"{name} must be an int or a tuple of ints in [{-rank}, {rank}), got {axis!r} for shape {shape}"
        )
    axes = tuple(a % rank for a in given)
    if len(set(axes)) < len(axes):
        raise ValueError(f"{name} must name each axis once, got {axis!r} for shape {shape}")
    return axes


def class_count(name: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """At least one class, and no more than float32 can number."""
    classes = math.prod(shape[a] for a in axes)
    if not 1 <= classes <= 2**24:
        raise ValueError(f"{name} must hold between 1 and 2**24 classes, got {classes} along axes {axes} of {shape}")


def shown(value: object) -> str:
    """A value in one short line; an array or a tracer by its kind, its dtype and its shape."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return repr(value)
    return " ".join([type(value).__name__, *(str(getattr(value, a)) for a in ("dtype", "shape") if hasattr(value, a))])
