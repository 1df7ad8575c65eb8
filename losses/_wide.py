"""Numbers that neither overflow nor underflow: a fraction times a power of two, whose exponent is kept apart.

Sums and products of them are as exact as those of floats, and JAX can differentiate them in the fraction.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from xent.losses._floats import largest


class Wide(NamedTuple):
    """fraction * 2**exponent. The exponent is a float that holds an integer: the same type, and it never overflows."""

    fraction: jax.Array
    exponent: jax.Array


def zeros(shape: tuple[int, ...], dtype: jnp.dtype) -> Wide:
    """The one 0: of the least exponent, so that it never decides the exponent of a sum."""
    return Wide(jnp.zeros(shape, dtype), jnp.full(shape, -largest(dtype), dtype))


def part(a: Wide, where: slice) -> Wide:
    """Of the last axis."""
    return Wide(a.fraction[..., where], a.exponent[..., where])


def join(a: Wide, b: Wide) -> Wide:
    """Along the last axis."""
    return Wide(*(jnp.concatenate(pair, -1) for pair in zip(a, b, strict=True)))


def select(which: jax.Array, a: Wide, b: Wide) -> Wide:
    """a where `which`, else b."""
    return Wide(*(jnp.where(which, *pair) for pair in zip(a, b, strict=True)))


def add(*terms: Wide) -> Wide:
    """The sum; its fraction may be as large as those of all terms together."""
    exponent = terms[0].exponent
    for term in terms[1:]:
        exponent = jnp.maximum(exponent, term.exponent)
    first, *others = (term.fraction * power_of_two(term.exponent - exponent) for term in terms)
    return Wide(sum(others, first), exponent)


def product(a: Wide, b: Wide) -> Wide:
    """The product, normal."""
    return normal(a.fraction * b.fraction, a.exponent + b.exponent)


def normal(fraction: jax.Array, exponent: jax.Array) -> Wide:
    """With a fraction in [1, 2), or 0 and the least exponent."""
    least = -largest(fraction.dtype)
    shift = exponent_of(fraction)
    exponent = jnp.where(fraction > 0, jnp.maximum(exponent + shift, least), least)
    return Wide(fraction * power_of_two(-shift), exponent)


def exponent_of(fraction: jax.Array) -> jax.Array:
    """floor(log2), of a positive normal float: read from its bits. Of 0, one less than of the smallest of them."""
    info = jnp.finfo(fraction.dtype)
    bits = lax.bitcast_convert_type(lax.stop_gradient(fraction), jnp.dtype(f"int{info.bits}"))
    return ((bits >> info.nmant) + (info.minexp - 1)).astype(fraction.dtype)


def power_of_two(exponent: jax.Array) -> jax.Array:
    """2**exponent, written into the bits; 0 if that is less than the smallest normal float."""
    info = jnp.finfo(exponent.dtype)
    bias = 1 - info.minexp
    biased = jnp.clip(lax.stop_gradient(exponent) + bias, 0, 2 * bias).astype(jnp.dtype(f"int{info.bits}"))
    return lax.bitcast_convert_type(biased << info.nmant, exponent.dtype)


# log 2 in two parts, of which the first has 9 bits: its product with an exponent up to 2**15 is exact in float32.
LOG_2_HIGH = 355 / 512
LOG_2_LOW = math.log(2) - LOG_2_HIGH


def log(a: Wide) -> jax.Array:
    """Where a is 0, any number with derivative 0. A fraction in [0.7, 1.4) keeps the digits of a near 1."""
    fraction, exponent = normal(*a)
    above = fraction > math.sqrt(2)
    fraction, exponent = jnp.where(above, fraction / 2, fraction), exponent + above
    log = jnp.log(jnp.where(fraction > 0, fraction, 1))
    return exponent * LOG_2_HIGH + (exponent * LOG_2_LOW + log)
