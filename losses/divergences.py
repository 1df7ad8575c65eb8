"""Kullback-Leibler divergence of log-probabilities from probabilities, or from log-probabilities."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from xent.losses import _elementwise, _rows
from xent.losses._softmax import pairwise_sum


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
    predicted = _elementwise.float_array("log_predictions", log_predictions)
    target = _elementwise.float_array("targets", targets)
    (log_q, t), selection = _rows.of({"log_predictions": predicted, "targets": target}, axis, where)
    log_q, t = selection.fill(log_q, 0), selection.fill(t, 0)

    defined = ((log_q < jnp.inf) & (t >= 0) & (t < jnp.inf)).all(-1)
    poison = _rows.poison(defined, log_q, t)
    log_q, t = _rows.harmless(defined, log_q, t)
    there = t > 0
    impossible = there & (log_q == -jnp.inf)
    safe = jnp.where(there, t, 1)
    terms = jnp.where(there, safe * (jnp.log(safe) - _rows.finite(jnp.where(there, log_q, 0))), 0)
    return selection.losses(pairwise_sum(terms) + _rows.infinite_where(impossible, t.dtype) + poison)


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
      without `axis`, within 8 ulp of the sum of `t_j |log t_j - log q_j|`; so of equal arguments it is exactly 0. Where
      nothing is selected it is 0 and its gradient is 0. A prediction of -inf costs inf where the target is above -inf.
      NaN or +inf anywhere gives NaN in the loss and in its gradient; but the gradient is exactly 0, whatever the row
      holds, where the cotangent is 0.

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
    predicted = _elementwise.float_array("log_predictions", log_predictions)
    target = _elementwise.float_array("log_targets", log_targets)
    (log_q, log_t), selection = _rows.of({"log_predictions": predicted, "log_targets": target}, axis, where)
    log_q, log_t = selection.fill(log_q, 0), selection.fill(log_t, -jnp.inf)

    defined = ((log_q < jnp.inf) & (log_t < jnp.inf)).all(-1)
    poison = _rows.poison(defined, log_q, log_t)
    log_q, log_t = _rows.harmless(defined, log_q, log_t)
    there = log_t > -jnp.inf
    impossible = there & (log_q == -jnp.inf)
    # So far down, exp is 0 in float64 too; and no difference from here overflows.
    safe = jnp.where(log_t > -1e4, log_t, -1e4)
    terms = jnp.where(there, jnp.exp(safe) * (safe - _rows.finite(jnp.where(there, log_q, 0))), 0)
    return selection.losses(pairwise_sum(terms) + _rows.infinite_where(impossible, log_t.dtype) + poison)
