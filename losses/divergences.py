"""Kullback-Leibler divergence of log-probabilities from probabilities, or from log-probabilities."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from xent.losses import _checks, _information, _rows
from xent.losses._floats import huge, largest, nan_if_used
from xent.losses._softmax import sum_last

Tangent = jax.Array | SymbolicZero


def kl_divergence(
    log_predictions: ArrayLike,
    targets: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Kullback-Leibler divergence of the predictions from the targets, or relative entropy.

    .. math:: \mathrm{KL}(t \,\|\, q) = \sum_j t_j (\log t_j - \log q_j), \qquad 0 \log 0 = 0

    Args:
      log_predictions: `log q`, float [..., V]. -inf is a class of probability 0. They are taken as they are: nothing
        normalises them. bfloat16 and float16 are computed in float32.
      targets: `t`, probabilities, float, of the shape of `log_predictions`. A class of target 0 is not there: all
        derivatives there are 0 (by `t` itself, where the limit is -inf, too).
      axis: the axis of the classes, a tuple of axes, or None for all.
      where: what takes part, bool. Of the shape of `log_predictions` it selects classes; without `axis`, examples.

    Returns:
      The divergence of each example in nats, float32 (float64 if an argument is), of the shape of `log_predictions`
      without `axis`, within 8 ulp of the sum of `t_j (|log t_j| + |log q_j|)`: where `t` is nearly `q` the terms
      cancel (`distillation_kl_divergence`, from logits, loses nothing there). Where nothing is selected it is 0 and
      its gradient is 0. A prediction of -inf costs inf where the target is not 0. A negative or infinite target, and
      NaN or +inf anywhere, gives NaN in the loss and in its gradient; but the gradient is exactly 0, whatever the row
      holds, where the cotangent is 0.

    Raises:
      ValueError: for an argument of the wrong dtype or shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import kl_divergence
      >>> jnp.set_printoptions(precision=4)
      >>> log_predictions = jnp.log(jnp.array([[0.8, 0.2], [0.5, 0.5]]))
      >>> print(kl_divergence(log_predictions, jnp.array([[1.0, 0.0], [0.5, 0.5]])))
      [0.2231 0.    ]

    Source:
      Kullback and Leibler, On Information and Sufficiency, 1951, section 2, https://www.jstor.org/stable/2236703
    """
    predicted = _checks.array_of("log_predictions", log_predictions, jnp.floating)
    target = _checks.array_of("targets", targets, jnp.floating)
    (log_q, t), selection = _rows.of({"log_predictions": predicted, "targets": target}, axis, where)
    log_q, t = selection.fill(log_q, 0), selection.fill(t, 0)

    return selection.losses(_of_targets(log_q, t))


def kl_divergence_with_log_targets(
    log_predictions: ArrayLike,
    log_targets: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Kullback-Leibler divergence of the predictions from targets that are given as logarithms.

    .. math:: \mathrm{KL}(t \,\|\, q) = \sum_j e^{\log t_j} (\log t_j - \log q_j), \qquad 0 \log 0 = 0

    Args:
      log_predictions: `log q`, float [..., V]. -inf is a class of probability 0. They are taken as they are: nothing
        normalises them. bfloat16 and float16 are computed in float32.
      log_targets: `log t`, float, of the shape of `log_predictions`. A class of -inf is not there: all derivatives
        there are 0.
      axis: the axis of the classes, a tuple of axes, or None for all.
      where: what takes part, bool. Of the shape of `log_predictions` it selects classes; without `axis`, examples.

    Returns:
      The divergence of each example in nats, float32 (float64 if an argument is), of the shape of `log_predictions`
      without `axis`, within 8 ulp of the sum of `t_j |log t_j - log q_j|`; so of equal arguments it is exactly 0; plus
      V times the smallest normal float times the largest `1 + |log t_j - log q_j|`, since what is flushed is multiplied
      by that. Where nothing is selected it is 0 and its gradient is 0. A prediction of -inf costs inf where the target
      is above -inf. NaN or +inf anywhere, and a log target whose exponential is above the largest float (88.7 and more
      in float32), gives NaN in the loss and in its gradient; but the gradient is exactly 0, whatever the row holds,
      where the cotangent is 0.

    Raises:
      ValueError: for an argument of the wrong dtype or shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import kl_divergence_with_log_targets
      >>> jnp.set_printoptions(precision=4)
      >>> log_predictions = jnp.log(jnp.array([[0.8, 0.2], [0.5, 0.5]]))
      >>> print(kl_divergence_with_log_targets(log_predictions, jnp.log(jnp.array([[1.0, 0.0], [0.5, 0.5]]))))
      [0.2231 0.    ]

    Source:
      Kullback and Leibler, On Information and Sufficiency, 1951, section 2, https://www.jstor.org/stable/2236703
    """
    predicted = _checks.array_of("log_predictions", log_predictions, jnp.floating)
    target = _checks.array_of("log_targets", log_targets, jnp.floating)
    (log_q, log_t), selection = _rows.of({"log_predictions": predicted, "log_targets": target}, axis, where)
    log_q, log_t = selection.fill(log_q, 0), selection.fill(log_t, -jnp.inf)

    return selection.losses(_of_log_targets(log_q, log_t))


Pair = tuple[jax.Array, jax.Array]

# Sums and their checks are arithmetic, without a comparison: XLA:CPU does not vectorise a sum with one in it.


@jax.custom_jvp
@jax.jit
def _of_targets(log_q: jax.Array, t: jax.Array) -> jax.Array:
    log_t = jnp.log(jnp.maximum(t, float(jnp.finfo(t.dtype).tiny)))
    terms = t * (log_t - _above(log_q)) + t * _infinite(log_q) * largest(t.dtype)
    return jnp.where(_rows.are_weighed(log_q, t), sum_last(terms), jnp.nan)


@partial(_of_targets.defjvp, symbolic_zeros=True)
def _(primals: Pair, tangents: tuple[Tangent, Tangent]) -> Pair:
    log_q, t = primals
    there = t > 0
    # The derivative of log t is that of a quotient: squares of a tiny target, which have none, are never formed.
    log_t = _information.log(jnp.where(there, t, 1))
    by_t = jnp.where(there, log_t - jnp.maximum(log_q, -huge(t.dtype)) + 1, 0)
    return _of_targets(log_q, t), _tangent(_rows.are_weighed(log_q, t), (-t, by_t), tangents)


@jax.custom_jvp
@jax.jit
def _of_log_targets(log_q: jax.Array, log_t: jax.Array) -> jax.Array:
    t = jnp.exp(log_t)
    # So far down, exp is 0 in float64 too; and no difference from here overflows.
    difference = jnp.maximum(log_t, -1e4) - _above(log_q)
    # A target that underflows is not 0 for that.
    there = 1 - jnp.minimum(_infinite(log_t), 1)
    terms = t * difference + there * _infinite(log_q) * largest(t.dtype)
    return jnp.where(_log_targets_are_defined(log_q, log_t), sum_last(terms), jnp.nan)


def _log_targets_are_defined(log_q: jax.Array, log_t: jax.Array) -> jax.Array:
    """Of rows [..., V]: nothing is NaN or +inf, and no target's exponential is."""
    no_nan = jnp.sum(log_q * _rows.SCALE + log_t * _rows.SCALE, -1) < jnp.inf
    return no_nan & (log_t.max(-1) < math.log(largest(log_t.dtype)))


@partial(_of_log_targets.defjvp, symbolic_zeros=True)
def _(primals: Pair, tangents: tuple[Tangent, Tangent]) -> Pair:
    log_q, log_t = primals
    t, most = jnp.exp(log_t), huge(log_t.dtype)
    difference = jnp.maximum(log_t, -1e4) - jnp.maximum(log_q, -most)
    by_log_t = jnp.minimum(t * (difference + 1), most)
    return _of_log_targets(log_q, log_t), _tangent(_log_targets_are_defined(*primals), (-t, by_log_t), tangents)


def _above(x: jax.Array) -> jax.Array:
    """`x`, with the lowest float for -inf."""
    return jnp.maximum(x, -largest(x.dtype))


def _infinite(x: jax.Array) -> jax.Array:
    """The largest float for -inf, 0 for what is finite."""
    return jnp.minimum(_above(x) - x, largest(x.dtype))


def _tangent(defined: jax.Array, slopes: Pair, tangents: tuple[Tangent, Tangent]) -> jax.Array:
    """The sum of slope times tangent over the row; NaN for whoever uses an undefined one."""
    total = jnp.zeros(defined.shape, slopes[0].dtype)
    for slope, tangent in zip(slopes, tangents, strict=True):
        if not isinstance(tangent, SymbolicZero):
            total += jnp.sum(jnp.where(defined[..., None], slope, 1) * tangent, -1)
    return nan_if_used(total, defined)
