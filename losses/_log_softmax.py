"""Softmax, its logarithm and its complement, exact to a few ulp whatever the class; and two softmaxes compared.

Everything is made of exponents (x - max) / T, each known to twice the digits of its dtype as `high + low`, and of sums
of terms of one sign. Each function carries its own derivatives: those of any order follow, in both modes.
"""

import math
import struct
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from xent.losses._floats import difference, largest
from xent.losses._softmax import sum_last


class Parts(NamedTuple):
    """What a row of logits [..., V] gives: exponents below the top, and their exponentials."""

    high: jax.Array  # (x - max) / T, [..., V]
    low: jax.Array  # what rounding took from it
    exp: jax.Array  # exp(high + low)
    top: jax.Array  # 1 at each largest logit, else 0
    tail: jax.Array  # the sum of exp, less 1, [..., 1]


def parts(x: jax.Array, temperature: float) -> Parts:
    """Of rows whose largest logit is finite."""
    high, low = over(*_from_top(x, temperature), temperature)
    exp = jnp.exp(high)
    exp = exp + exp * low
    # By floor, not by comparison: XLA:CPU does not vectorise a sum with a comparison in it.
    tops = jnp.floor(exp)
    tail = sum_last(exp - tops) + (tops.sum(-1) - 1)
    return Parts(high, low, exp, tops, tail[..., None])


def _from_top(x: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """x - max, exactly."""
    top = x.max(-1, keepdims=True)
    # -inf would make NaN; so far down, a finite logit is as good.
    lowest = jnp.maximum(top - largest(x.dtype) / 8 * min(temperature, 1.0), -largest(x.dtype))
    return difference(jnp.maximum(x, lowest), top)


def others_of(t: jax.Array) -> jax.Array:
    """sum(t) - t [..., V], of numbers that are not negative, without the subtraction."""
    top = t.max(-1, keepdims=True)
    # 1 at the largest. By arithmetic, not by comparison, as in `parts`; XLA may round a quotient by itself to below 1.
    tops = 1 - jnp.minimum(lax.stop_gradient(top - t) * 2.0 ** -float(jnp.finfo(t.dtype).minexp), 1)
    rest = sum_last(t - tops * top)[..., None] + (tops.sum(-1, keepdims=True) - 1) * top
    return rest + (top - t)


def _minus(x: tuple[jax.Array, jax.Array], y: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """x - y of numbers of twice the digits, to as many of the result's (the accurate one of Li et al.)."""
    high, error = difference(x[0], y[0])
    low, rest = difference(x[1], y[1])
    high, error = _renormalised(high, error + low)
    return _renormalised(high, error + rest)


def _renormalised(high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """high + low, as a number and its rounding error; for a low that is no larger (Dekker)."""
    total = high + low
    return total, low - (total - high)


def over(high: jax.Array, low: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """(high + low) / T, as a number and its rounding error (Dekker's product with 1 / T)."""
    if temperature == 1:
        return high, low
    exponent_bits, bits = (8, 24) if high.dtype == jnp.float32 else (11, 53)
    factor = 1 / temperature
    if bits == 24:
        (factor,) = struct.unpack("f", struct.pack("f", factor))
    rest = float(1 / Fraction(temperature) - Fraction(factor))
    # Halves of so few digits that their products are exact, whether or not the compiler fuses them with the sums.
    mantissa, exponent = math.frexp(factor)
    half = bits // 2
    factor_top = math.ldexp(round(math.ldexp(mantissa, half)), exponent - half)
    factor_bottom = factor - factor_top
    high_top = lax.reduce_precision(high, exponent_bits, half - 1)
    high_bottom = high - high_top
    # One bit less than there is room for; else the compiler fuses the product, unrounded, with what is taken from it.
    product = lax.reduce_precision(high * factor, exponent_bits, bits - 2)
    error = high_top * factor_top - product
    error = error + high_top * factor_bottom + high_bottom * factor_top + high_bottom * factor_bottom
    return product, error + (low * factor + high * rest)


class Softmax(NamedTuple):
    """Of each class, [..., V]."""

    log_p: jax.Array
    p: jax.Array
    not_p: jax.Array  # 1 - p, without the subtraction


@partial(jax.custom_jvp, nondiff_argnums=(1,))
@partial(jax.jit, static_argnums=1)
def softmax(x: jax.Array, temperature: float) -> Softmax:
    """Of rows x / T whose largest logit is finite. For a logit of -inf, log_p is finite and very low."""
    row = parts(x, temperature)
    total = 1 + row.tail
    # Neither term is negative: 1 - exp is that of the class to the top, and tail holds all but one top.
    not_p = (row.tail + (1 - row.exp)) / total
    return Softmax(row.high - jnp.log1p(row.tail) + row.low, row.exp / total, not_p)


@softmax.defjvp
def _(temperature: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[Softmax, Softmax]:
    (x,), (dx,) = primals, tangents
    result = softmax(x, temperature)
    change = centred(x, dx, temperature) / temperature
    return result, Softmax(change, result.p * change, -result.p * change)


def centred(x: jax.Array, dx: jax.Array, temperature: float) -> jax.Array:
    """dx - <p, dx>, counted from the top's: no shift of dx is felt, and no 1 - p is formed for a confident row."""
    top = parts(lax.stop_gradient(x), temperature).top
    dx = dx - jnp.sum(top * dx, -1, keepdims=True) / top.sum(-1, keepdims=True)
    return dx - jnp.sum(softmax(x, temperature).p * dx, -1, keepdims=True)


@jax.jit
def hessian_product(x: jax.Array, v: jax.Array) -> jax.Array:
    """(diag(p) - p p^T) v, class by class within a few ulp of p_j sum_k(p_k |v_j - v_k|).

    At the top, v is counted from the top's, so that p_j = 1 drops out. Elsewhere it is counted from its mean, and the
    mean of that from itself: what the first mean was rounded by.
    """
    top = parts(lax.stop_gradient(x), 1.0).top
    p = softmax(x, 1.0).p
    of_top = jnp.sum(top * v, -1, keepdims=True) / top.sum(-1, keepdims=True)
    above = sum_last(p * (v - of_top))[..., None]
    rest = v - lax.stop_gradient(of_top + above)
    product = p * (rest - sum_last(p * rest)[..., None])
    # Only a single top can have p near 1.
    return jnp.where((top == 1) & (top.sum(-1, keepdims=True) == 1), -p * above, product)


class Pair(NamedTuple):
    """Two softmaxes, t and p, of each class, [..., V]."""

    t: jax.Array
    p: jax.Array
    log_ratio: jax.Array  # log(t / p), finite
    gap: jax.Array  # p - t, without the subtraction


@partial(jax.custom_jvp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def pair(u: jax.Array, z: jax.Array, temperature: float) -> Pair:
    """Of rows u / T and z / T. The ratio is exact where t and p are nearly equal, too, and 1 where u and z are equal.

    The logarithm of t / p is (u - z) / T, counted from the tops, less the logarithm of the ratio of the two sums of
    exponentials. That comes from their difference, class by class: nothing cancels but what the rows themselves cancel.
    """
    of_t, of_p = parts(u, temperature), parts(z, temperature)
    # Before T divides: where t is nearly p, what it rounds off is no small part of the difference.
    high, low = over(*_minus(_from_top(u, temperature), _from_top(z, temperature)), temperature)
    # exp_t - exp_p, from the larger of the two.
    sign = high + low
    excess = jnp.where(sign > 0, -of_t.exp * jnp.expm1(-jnp.abs(sign)), of_p.exp * jnp.expm1(-jnp.abs(sign)))
    excess = sum_last(excess)[..., None]
    # Counted from the smaller sum, which log1p asks for.
    smaller = 1 + jnp.where(excess > 0, of_p.tail, of_t.tail)
    normaliser = jnp.sign(excess) * jnp.log1p(jnp.abs(excess) / smaller)
    high, error = difference(high, normaliser)
    low = error + low
    t, p = of_t.exp / (1 + of_t.tail), of_p.exp / (1 + of_p.tail)
    # Tops that differ by more than the rest do make the normaliser, and what it is off by, larger than any gap. The
    # gaps sum to 0, but for that.
    low = low + sum_last(_gap(t, p, high + low))[..., None]
    log_ratio = high + low
    return Pair(t, p, log_ratio, _gap(t, p, log_ratio))


def _gap(t: jax.Array, p: jax.Array, log_ratio: jax.Array) -> jax.Array:
    """p - t, from the larger of the two."""
    return jnp.where(log_ratio > 0, t, -p) * jnp.expm1(-jnp.abs(log_ratio))


@pair.defjvp
def _(
    temperature: float, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[Pair, Pair]:
    result = pair(*primals, temperature)
    of_t, of_p = (centred(x, dx, temperature) / temperature for x, dx in zip(primals, tangents, strict=True))
    dt, dp = result.t * of_t, result.p * of_p
    return result, Pair(dt, dp, of_t - of_p, dp - dt)
