"""From one loss per example to one number: the sum of w * l, or that over the sum of w."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from xent.losses import _checks, _shards, _wide
from xent.losses._floats import nan_if_used
from xent.losses._shards import AxisName


def mean(
    loss: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""The weighted mean of the losses.

    .. math:: \frac{\sum_i w_i l_i}{\sum_i w_i}

    Args:
      loss: `l`, float [...], in any unit; the mean is over all axes.
      where: the entries that count, bool, of the shape of `loss`. The others count for nothing, even if NaN or inf.
      weights: `w`, float or integer, of the shape of `loss`; 1 if not given. Only their ratios matter. The mean is
        differentiable in them too. An entry of weight 0 counts for nothing, even if it is NaN or inf.
      axis_name: the mapped axis (of `shard_map` or `vmap`), or several, over which both sums run too: the mean is that
        of all shards' entries together, however many each holds.

    Returns:
      A scalar in the unit of `loss`, float32 (float64 for a float64 loss), within 8 ulp of the mean of `|l|` weighed
      by `|w|`, if no weight is negative; so too where the sums themselves would overflow. Over nothing (nothing
      selected, or all weights 0) it is 0, with zero gradients. Weights of both signs that add up to 0 divide by it:
      infinite or NaN, and NaN in the gradient.

    Raises:
      ValueError: for an argument of the wrong dtype or shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import mean
      >>> print(mean(jnp.array([1.0, 2.0, jnp.nan]), where=jnp.array([True, True, False])))
      1.5

    Source:
      Cochran, Sampling Techniques, 1977, section 6.2: a ratio of sums, not a mean of ratios.
    """
    entries = _entries(loss, where, weights)
    small, exponent = _in_range(entries, axis_name)
    numerator, denominator = _total(_terms(*small), axis_name), _total(small.weights, axis_name)
    counted = _total(entries.weights != 0, axis_name)
    return _shrunk(_ratio(numerator, denominator, counted == 0), -exponent)


def sum(
    loss: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""The weighted sum of the losses.

    .. math:: \sum_i w_i l_i

    Args:
      loss: `l`, float [...], in any unit; the sum is over all axes.
      where: the entries that count, as for `mean`.
      weights: `w`, as for `mean`.
      axis_name: the mapped axis, or several, over which the sum runs too.

    Returns:
      A scalar in the unit of `loss`, float32 (float64 for a float64 loss), within 8 ulp of the sum of `|w l|`.
      Over nothing it is 0, with zero gradients.

    Raises:
      ValueError: for an argument of the wrong dtype or shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import sum
      >>> print(sum(jnp.array([1.0, 2.0]), weights=jnp.array([3.0, 0.5])))
      4.0

    Source:
      The numerator of `mean`.
    """
    return _total(_terms(*_entries(loss, where, weights)), axis_name)


class _Entries(NamedTuple):
    """What is added up, with 0 for what is not selected; the weights are bool if each is 1."""

    losses: jax.Array
    weights: jax.Array


def _entries(loss: ArrayLike, where: ArrayLike | None, weights: ArrayLike | None) -> _Entries:
    terms = _checks.computed(_checks.array_of("loss", loss, jnp.floating))
    selected = jnp.ones(terms.shape, bool)
    if where is not None:
        selected = _checks.array_of("where", where, jnp.bool_)
        _checks.same_shape("where", selected, terms.shape, "the shape of loss")
    terms = jnp.where(selected, terms, 0)
    if weights is None:
        return _Entries(terms, selected)
    factors = _checks.array_of("weights", weights, jnp.floating, jnp.integer)
    _checks.same_shape("weights", factors, terms.shape, "the shape of loss")
    factors = jnp.where(selected, factors.astype(terms.dtype), 0)
    return _Entries(terms, factors)


def _terms(losses: jax.Array, weights: jax.Array) -> jax.Array:
    return losses if weights.dtype == bool else weighted_or_dropped(weights, losses)


def _in_range(entries: _Entries, axis_name: AxisName | None) -> tuple[_Entries, jax.Array]:
    """Entries whose sums do not overflow, and the exponent of 2 that their mean is to be multiplied by.

    Only where a sum might overflow, all weights are made smaller by one power of two, to where the largest is
    about 1 if need be, and then all losses by another.
    """
    losses, weights = entries
    room = (losses.size * int(_shards.over(lax.psum, 1, axis_name))).bit_length() + 2
    highest = jnp.finfo(losses.dtype).maxexp - room
    of_loss = _exponents(losses)
    if weights.dtype == bool:
        excess = _top(of_loss, axis_name) - highest
    else:
        of_weight = _exponents(weights)
        top = _top(of_weight, axis_name)
        excess = jnp.maximum(top, _top(of_weight + of_loss + 1, axis_name)) - highest
        by = jnp.clip(excess, 0, jnp.maximum(top, 0))
        weights, excess = _shrunk(weights, by), excess - by
    excess = jnp.maximum(excess, 0)
    return _Entries(_shrunk(losses, excess), weights), excess


def _top(exponents: jax.Array, axis_name: AxisName | None) -> jax.Array:
    return _shards.over(lax.pmax, exponents.max(initial=-math.inf), axis_name)


def _exponents(x: jax.Array) -> jax.Array:
    """floor(log2 |x|), of what is finite; what is not has sums that nothing helps."""
    size = jnp.abs(lax.stop_gradient(x))
    return _wide.exponent_of(jnp.where(size < jnp.inf, size, 0))


def _shrunk(x: jax.Array, exponent: jax.Array) -> jax.Array:
    """x / 2**exponent. In two halves: the power itself may be too small for a float."""
    half = jnp.floor(exponent / 2)
    return x * _wide.power_of_two(-half) * _wide.power_of_two(half - exponent)


def _total(entries: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """Over all axes and shards. Bools are counted as integers: float32 stops counting at 2**24."""
    return _shards.over(lax.psum, jnp.sum(entries), axis_name)


@jax.custom_jvp
def weighted_or_dropped(weights: jax.Array, terms: jax.Array) -> jax.Array:
    """`weights * terms`, but 0 where the weight is 0 and the term is NaN or infinite: that entry is taken out.

    A finite term stays under a weight of 0, for the derivative with respect to its weight.
    """
    return jnp.where((weights == 0) & ~jnp.isfinite(terms), 0, weights * terms)


@weighted_or_dropped.defjvp
def _(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    weights, terms = primals
    counted = (weights != 0) | jnp.isfinite(terms)
    # Neither factor may be NaN or infinite: a zero cotangent gives zero.
    by_terms = nan_if_used(tangents[1] * jnp.where(jnp.isfinite(weights), weights, 1), jnp.isfinite(weights))
    by_weights = nan_if_used(tangents[0] * jnp.where(jnp.isfinite(terms), terms, 1), jnp.isfinite(terms))
    return weighted_or_dropped(weights, terms), jnp.where(counted, by_terms + by_weights, 0)


@jax.custom_jvp
def _ratio(numerator: jax.Array, denominator: jax.Array, empty: jax.Array) -> jax.Array:
    denominator = jnp.where(empty, 1, denominator).astype(numerator.dtype)
    return jnp.where(empty, 0, numerator / denominator)


@_ratio.defjvp
def _(
    primals: tuple[jax.Array, jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """(dn - ratio * dd) / d: unlike the square of d, that neither overflows nor vanishes."""
    _, denominator, empty = primals
    ratio = _ratio(*primals)
    tangent = tangents[0]
    if jnp.issubdtype(denominator.dtype, jnp.floating):
        # An infinite loss is no fault of the other losses' derivatives, but of those of the weights.
        known = jnp.isfinite(ratio)
        tangent -= nan_if_used(jnp.where(known, ratio, 1) * tangents[1], known)
        divisible = (denominator != 0) & jnp.isfinite(denominator)
        denominator = jnp.where(divisible, denominator, 1)
        tangent = nan_if_used(tangent, divisible | empty)
    return ratio, _ratio(tangent, denominator, empty)
