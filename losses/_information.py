"""Sums over classes of -p log q and its kin. Each term is within a few ulp; where it is finite, so are its derivatives.

0 log 0 is 0. The slope of log at 0 is infinite: the one at the smallest normal float (87 for float32) stands for it,
and for its own derivatives 0. So what a probability of 0 gets from there is lost again in the softmax that made it.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from xent.losses._floats import largest, nan_if_used
from xent.losses._softmax import sum_last

Arrays = tuple[jax.Array, jax.Array]


class Term(NamedTuple):
    """What one class adds, as a function of its p and q, and the derivatives by each of them."""

    value: Callable[[jax.Array, jax.Array], jax.Array]
    slopes: Callable[[jax.Array, jax.Array], Arrays]
    unbounded: bool = True  # infinite where q = 0 < p


@partial(jax.custom_jvp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def total(p: jax.Array, q: jax.Array, term: Term) -> jax.Array:
    """Over the last axis. NaN if p or q is negative, infinite or NaN; inf if q = 0 < p and `term` is unbounded."""
    value = jnp.where(_infinite(p, q, term), jnp.inf, term.value(p, q))
    return sum_last(jnp.where(_defined(p, q), value, jnp.nan))


@total.defjvp
def _(term: Term, primals: Arrays, tangents: Arrays) -> Arrays:
    defined = _defined(*primals)
    p, q = (jnp.where(defined, primal, 1) for primal in primals)
    # The slopes of what is infinite: a zero cotangent times inf would be NaN, times the largest float twice it is 0.
    large = jnp.where(_infinite(p, q, term), largest(p.dtype), 1).astype(p.dtype)
    by_p, by_q = (jnp.where(defined, slope, 1) for slope in term.slopes(p, q))
    tangent = nan_if_used((by_p * tangents[0] + by_q * tangents[1]) * large * large, defined)
    return total(*primals, term), jnp.sum(tangent, -1)


def _defined(p: jax.Array, q: jax.Array) -> jax.Array:
    return (p >= 0) & (q >= 0) & jnp.isfinite(p) & jnp.isfinite(q)


def _infinite(p: jax.Array, q: jax.Array, term: Term) -> jax.Array:
    return (q == 0) & (p > 0) & term.unbounded


def _positive(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, x, jnp.finfo(x.dtype).tiny)


def _or_one(x: jax.Array, good: jax.Array) -> jax.Array:
    """For what a select drops: of a tiny number, derivatives overflow, and 0 times them is NaN."""
    return jnp.where(good, x, 1)


# -p log q


def _cross(p: jax.Array, q: jax.Array) -> jax.Array:
    return p * -jnp.log(_positive(q))


def _cross_slopes(p: jax.Array, q: jax.Array) -> Arrays:
    by_p = jnp.where(q > 0, log(_or_one(q, q > 0)), math.log(jnp.finfo(q.dtype).tiny))
    by_q = jnp.where(q > 0, _quotient(p, _or_one(q, q > 0)), jnp.where(p > 0, 1, 0))
    return -by_p, -by_q


# p log(p / q) - p + q, which is never negative: nothing cancels in the sum. Within a term it would, where p and q are
# close; there it is taken from a series in r = (q - p) / (q + p).


def _relative(p: jax.Array, q: jax.Array) -> jax.Array:
    difference, r, near = _contrast(p, q)
    close = difference * r * (1 - r * (1 - r) * _atanh_tail(r))
    return jnp.where(near, close, p * _log_ratio(_positive(p), _positive(q)) + difference)


def _relative_slopes(p: jax.Array, q: jax.Array) -> Arrays:
    by_q = jnp.where(q > 0, _excess(p, _or_one(q, q > 0)), jnp.where(p > 0, -1, 1))
    return _log_ratio(_positive(p), _positive(q)), by_q


# Half of p log(p / m) + q log(q / m), with m = (p + q) / 2.


def _jensen_shannon(p: jax.Array, q: jax.Array) -> jax.Array:
    difference, r, near = _contrast(p, q)
    middle = (p + q) / 2
    far = (_relative(p, middle) + _relative(q, middle)) / 2  # whatever middle lost to rounding does not count in it
    return jnp.where(near, difference / 4 * r * _even_tail(r), far)


def _jensen_shannon_slopes(p: jax.Array, q: jax.Array) -> Arrays:
    return _half_log_share(p, q), _half_log_share(q, p)


def _half_log_share(p: jax.Array, q: jax.Array) -> jax.Array:
    some = (p > 0) | (q > 0)
    return jnp.where(some, _log_share(_positive(p), _or_one(q, some)), math.log(2)) / 2


CROSS = Term(_cross, _cross_slopes)
RELATIVE = Term(_relative, _relative_slopes)
JENSEN_SHANNON = Term(_jensen_shannon, _jensen_shannon_slopes, unbounded=False)


# What they are made of. Each is given positive numbers, and has a derivative of the same kind: powers of q, which
# automatic differentiation would form, vanish or overflow long before their quotient does.


@jax.custom_jvp
def _quotient(p: jax.Array, q: jax.Array) -> jax.Array:
    return p / q


@_quotient.defjvp
def _(primals: Arrays, tangents: Arrays) -> Arrays:
    quotient = _quotient(*primals)
    return quotient, _quotient(tangents[0] - quotient * tangents[1], primals[1])


@jax.custom_jvp
def log(q: jax.Array) -> jax.Array:
    """Of positive numbers."""
    return jnp.log(q)


@log.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> Arrays:
    return log(*primals), _quotient(tangents[0], primals[0])


@jax.custom_jvp
def _excess(p: jax.Array, q: jax.Array) -> jax.Array:
    """1 - p / q."""
    p, q = _raised(p, q)
    return (q - p) / q


@_excess.defjvp
def _(primals: Arrays, tangents: Arrays) -> Arrays:
    return _excess(*primals), _quotient(_quotient(*primals) * tangents[1] - tangents[0], primals[1])


@jax.custom_jvp
def _log_ratio(p: jax.Array, q: jax.Array) -> jax.Array:
    """log(p / q)."""
    _, r, near = _contrast(p, q)
    ratio = p / q
    fits = (ratio >= jnp.finfo(p.dtype).tiny) & (ratio <= largest(p.dtype))
    far = jnp.where(fits, jnp.log(ratio), jnp.log(p) - jnp.log(q))
    return jnp.where(near, -2 * (r + r * r * r * _atanh_tail(r)), far)


@_log_ratio.defjvp
def _(primals: Arrays, tangents: Arrays) -> Arrays:
    by_p, by_q = (_quotient(t, x) for t, x in zip(tangents, primals, strict=True))
    return _log_ratio(*primals), by_p - by_q


@jax.custom_jvp
def _log_share(p: jax.Array, q: jax.Array) -> jax.Array:
    """log(2 p / (p + q)), where q may be 0."""
    _, r, near = _contrast(p, q)
    return jnp.where(near, jnp.log1p(jnp.where(near, -r, 0)), _log_ratio(2 * p, p + q))


@_log_share.defjvp
def _(primals: Arrays, tangents: Arrays) -> Arrays:
    p, q = primals
    return _log_share(p, q), _quotient(_quotient(q, p) * tangents[0] - tangents[1], p + q)


def _contrast(p: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """q - p, that over q + p, and whether it is small: neither is more than four times the other."""
    high, low = _raised(q, p)
    r = (high - low) / _positive(high + low)
    return q - p, r, jnp.abs(r) <= 0.6


def _raised(p: jax.Array, q: jax.Array) -> Arrays:
    """Both times a power of 2, if so small that their difference may vanish: for what depends on p / q alone."""
    factor = jnp.where(jnp.maximum(p, q) < 2.0**-60, 2.0**60, 1).astype(p.dtype)
    return p * factor, q * factor


def _atanh_tail(r: jax.Array) -> jax.Array:
    """(atanh(r) - r) / r**3 for |r| <= 0.6."""
    return _series(r, lambda k: 1 / (2 * k + 3))


def _even_tail(r: jax.Array) -> jax.Array:
    """((1 - r) log(1 - r) + (1 + r) log(1 + r)) / r**2 for |r| <= 0.6."""
    return _series(r, lambda k: 1 / ((k + 1) * (2 * k + 1)))


def _series(r: jax.Array, coefficient: Callable[[int], float]) -> jax.Array:
    """Of the powers of r**2, as many as count."""
    count = 18 if r.dtype == jnp.float32 else 36
    value = jnp.zeros_like(r)
    for k in reversed(range(count)):
        value = value * (r * r) + coefficient(k)
    return value


@jax.custom_jvp
def exp(x: jax.Array) -> jax.Array:
    """As it is, but with a zero cotangent it gives zero also where it is infinite or NaN."""
    return jnp.exp(x)


@exp.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> Arrays:
    value = exp(*primals)
    large = jnp.where(jnp.isinf(value), largest(value.dtype), 1).astype(value.dtype)
    tangent = tangents[0] * jnp.where(jnp.isfinite(value), value, 1) * large * large
    return value, nan_if_used(tangent, ~jnp.isnan(value))
