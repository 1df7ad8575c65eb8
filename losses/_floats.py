"""Arithmetic at the edge of the floats: the largest of them, and NaN for whoever uses what is undefined."""

import jax
import jax.numpy as jnp
from jax import lax


def largest(dtype: jnp.dtype) -> float:
    """The largest finite number of a float dtype."""
    return float(jnp.finfo(dtype).max)


def huge(dtype: jnp.dtype) -> float:
    """What stands for infinity in a derivative: a cotangent and weights can multiply it, and 0 times it is 0."""
    return largest(dtype) * 2.0**-40


def nan_if_used(tangent: jax.Array, defined: jax.Array) -> jax.Array:
    """`tangent` where `defined`; elsewhere NaN, except that zero stays zero.

    The derivative of an undefined loss is NaN, and 0 * NaN is NaN: a row that a mask has dropped would still poison
    the gradient. A select on the cotangent would stop it, but is not linear, so JAX could not transpose it. This is
    linear: two products with the largest float send 0 to 0 and any other number to inf, and inf * 0 is NaN. The
    factors read the same from both ends, since transposition reverses them. The derivatives that `tangent` is made of
    must be finite in the undefined rows, and not 0: whatever they are, what comes out is NaN.
    """
    dtype = tangent.dtype
    # Behind a barrier: else XLA makes inf of its square, where it knows at compile time what is undefined.
    most = lax.optimization_barrier(jnp.asarray(largest(dtype), dtype))
    large = jnp.where(defined, 1, most).astype(dtype)
    # 1 or 0, but not by converting `defined`: of a product with a converted bool XLA makes a select, which has no NaN.
    zero = jnp.maximum(2 - large, 0)
    return tangent * large * large * zero * large * large


def difference(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x - y as rounded, and the rounding error, exactly (Knuth)."""
    high = x - y
    moved = high - x
    return high, (x - (high - moved)) - (y + moved)


def exp_difference(x: jax.Array, top: jax.Array) -> jax.Array:
    """exp(x - top) for x <= top, with what the subtraction rounds off: alone, that is worth up to 64 ulp.

    `rounded + error` is x - top exactly, and exp(error) is 1 + error.
    """
    # -inf would make the error NaN. So far below the top (1024 and more), a finite logit is as good.
    lowest = jnp.maximum(top - (1024 + jnp.abs(top) / 1024), -largest(x.dtype))
    x = jnp.maximum(x, lowest)
    rounded, error = difference(x, top)
    exp = jnp.exp(rounded)
    return exp + exp * error
