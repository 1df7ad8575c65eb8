"""From one loss per example to one number: the sum of w * l, or that over the sum of w."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from xent.losses import _checks


def mean(
    loss: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    r"""The weighted mean of the losses.

    .. math:: \frac{\sum_i w_i l_i}{\sum_i w_i}

    Args:
      loss: `l`, float [...], in any unit; the mean is over all axes.
      where: the entries that count, bool, of the shape of `loss`. The others count for nothing, even if NaN or inf.
      weights: `w`, float or integer, of the shape of `loss`; 1 if not given.
      axis_name: the mapped axis (of `shard_map` or `vmap`), or several, over which both sums run too: the mean is that
        of all shards' entries together, however many each holds.

    Returns:
      A scalar in the unit of `loss`, float32 (float64 for a float64 loss). Over nothing it is 0, with zero gradients.

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
    numerator, denominator = _sums(loss, where, weights)
    if axis_name is not None:
        numerator, denominator = _over_shards(numerator, axis_name), _over_shards(denominator, axis_name)
    empty = denominator == 0
    return jnp.where(empty, 0, numerator / jnp.where(empty, 1, denominator))


def sum(
    loss: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    r"""The weighted sum of the losses.

    .. math:: \sum_i w_i l_i

    Args:
      loss: `l`, float [...], in any unit; the sum is over all axes.
      where: the entries that count, bool, of the shape of `loss`. The others count for nothing, even if NaN or inf.
      weights: `w`, float or integer, of the shape of `loss`; 1 if not given.
      axis_name: the mapped axis (of `shard_map` or `vmap`), or several, over which the sum runs too.

    Returns:
      A scalar in the unit of `loss`, float32 (float64 for a float64 loss). Over nothing it is 0, with zero gradients.

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
    numerator, _ = _sums(loss, where, weights)
    return numerator if axis_name is None else _over_shards(numerator, axis_name)


def _over_shards(total: jax.Array, axis_name: str | tuple[str, ...]) -> jax.Array:
    summed: jax.Array = lax.psum(total, axis_name)
    return summed


def _sums(loss: ArrayLike, where: ArrayLike | None, weights: ArrayLike | None) -> tuple[jax.Array, jax.Array]:
    """Of w * l and of w, over the entries that count."""
    terms = _checks.array_of("loss", loss, jnp.floating)
    terms = terms.astype(jnp.promote_types(terms.dtype, jnp.float32))
    selected = jnp.ones(terms.shape, bool)
    if where is not None:
        selected = _checks.array_of("where", where, jnp.bool_)
        _checks.same_shape("where", selected, terms.shape, "the shape of loss")
    if weights is None:
        # Counted as integers: float32 stops counting at 2**24.
        return jnp.sum(jnp.where(selected, terms, 0)), jnp.sum(selected).astype(terms.dtype)
    factors = _checks.array_of("weights", weights, jnp.floating, jnp.integer)
    _checks.same_shape("weights", factors, terms.shape, "the shape of loss")
    factors = jnp.where(selected, factors.astype(terms.dtype), 0)
    # A weight of 0 takes out a NaN or an inf too. A finite loss stays, for the derivative with respect to its weight.
    counted = selected & ((factors != 0) | jnp.isfinite(terms))
    return jnp.sum(factors * jnp.where(counted, terms, 0)), jnp.sum(factors)
