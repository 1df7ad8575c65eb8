"""The focal loss of two classes, from one logit: cross-entropy that counts less the surer the answer is right."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from xent.losses import _checks, _elementwise
from xent.losses._elementwise import sigmoid, softplus
from xent.losses._floats import largest, nan_if_used


def sigmoid_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike | None = None,
    gamma: ArrayLike = 2.0,
) -> jax.Array:
    r"""Cross-entropy of the sigmoid of each logit, times a power of the probability that the answer is wrong.

    .. math::
        \alpha_t (1 - p_t)^\gamma \left(-y \log \sigma(z) - (1 - y) \log \sigma(-z)\right), \qquad
        1 - p_t = y \sigma(-z) + (1 - y) \sigma(z), \quad \alpha_t = \alpha y + (1 - \alpha)(1 - y)

    The loss is within `12 + 2 gamma` ulp, and so is its gradient by the logits for labels 0 and 1, plus twice the
    smallest normal float. For other labels the gradient is the sum of three terms of both signs, the slopes of `-log
    sigma(z)`, of `-log sigma(-z)` and of the power: it is within `12 + 2 gamma` ulp of the largest.

    Args:
      logits: `z`, the log-odds of yes, float [...]. bfloat16 and float16 are computed in float32.
      labels: `y`, the probability of yes in [0, 1], float, integer or bool, of the shape of `logits`. The loss is
        differentiable in it too.
      alpha: the weight of yes in [0, 1], that of no being the rest: a number or, float or integer [C], one for each
        entry of the last axis of `logits`. Without it both weigh 1. The loss is differentiable in it too.
      gamma: the power, not negative, likewise; 0 gives the cross-entropy itself. The loss is differentiable in it too.

    Returns:
      The loss of each element in nats, float32 (float64 for float64 logits), of the shape of `logits`.
      An infinite logit costs 0 if it is right for certain (label 0 or 1) and inf otherwise. NaN gives NaN in the loss
      and in its gradient; but the gradient is exactly 0, whatever the element holds, where the cotangent is 0.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import sigmoid_focal_loss
      >>> jnp.set_printoptions(precision=4)
      >>> print(sigmoid_focal_loss(jnp.array([0.0, 2.0, -1.0]), jnp.array([0, 1, 1])))
      [0.1733 0.0018 0.7019]

    Source:
      Lin et al., Focal Loss for Dense Object Detection, 2017, equation 5, https://arxiv.org/abs/1708.02002
    """
    z = _checks.computed(_checks.array_of("logits", logits, jnp.floating))
    y = _checks.array_of("labels", labels, jnp.floating, jnp.integer, jnp.bool_)
    _checks.same_shape("labels", y, z.shape, "the shape of logits")
    a = None if alpha is None else _elementwise.factor("alpha", alpha, z, 1)
    return _focal(z, y.astype(z.dtype), a, _elementwise.factor("gamma", gamma, z))


_Primals = tuple[jax.Array, jax.Array, jax.Array | None, jax.Array]


@jax.custom_jvp
def _focal(z: jax.Array, y: jax.Array, alpha: jax.Array | None, gamma: jax.Array) -> jax.Array:
    cost = jnp.where(y == 0, 0, y * softplus(-z)) + jnp.where(y == 1, 0, (1 - y) * softplus(z))
    return _balance(y, alpha) * _power(_bounded(z), y, gamma) * cost


@_focal.defjvp
def _(primals: _Primals, tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    z, y, alpha, gamma = primals
    defined = ~jnp.isnan(z) & jnp.isfinite(y) & jnp.isfinite(gamma)
    if alpha is not None:
        defined &= jnp.isfinite(alpha)
        alpha = jnp.where(defined, alpha, 0)
    z, y, gamma = (jnp.where(defined, a, 0) for a in (_bounded(z), y, gamma))
    balance, power = _balance(y, alpha), _power(z, y, gamma)
    cost = y * softplus(-z) + (1 - y) * softplus(z)
    # Where the slope of the power's logarithm is 0 to working precision, the cost may be huge: cut it off.
    near = _edge(z.dtype)
    cut = y * softplus(-jnp.maximum(z, -near)) + (1 - y) * softplus(jnp.minimum(z, near))
    slope = (1 - y) * sigmoid(z) - y * sigmoid(-z)
    by_z = balance * power * (slope + gamma * _log_wrong_slope(z, y) * cut)
    wrong_by_y = sigmoid(-z) - sigmoid(z)
    by_y = balance * (gamma * _power(z, y, gamma - 1) * wrong_by_y * cost - power * z)
    if alpha is not None:
        by_y += (2 * alpha - 1) * power * cost
    tangent = jnp.zeros_like(z)
    by_gamma = balance * power * cost * _log_wrong(z, y)
    for by, d in ((by_z, tangents[0]), (by_y, tangents[1]), (by_gamma, tangents[3])):
        tangent += jnp.where(defined, jnp.clip(by, -largest(z.dtype), largest(z.dtype)), 1) * d
    if alpha is not None:
        tangent += jnp.where(defined, (2 * y - 1) * power * cost, 1) * tangents[2]
    return _focal(*primals), nan_if_used(tangent, defined)


def _balance(y: jax.Array, alpha: jax.Array | None) -> jax.Array:
    return jnp.ones_like(y) if alpha is None else alpha * y + (1 - alpha) * (1 - y)


def _edge(dtype: jnp.dtype) -> float:
    """A logit from which on exp(-|z|) is nothing beside any number that counts, but not yet subnormal."""
    return -0.9 * math.log(float(jnp.finfo(dtype).tiny))


def _bounded(z: jax.Array) -> jax.Array:
    """Finite, so that the power of gamma = 0 is 1; so far out, the answer is as sure as it can be."""
    return jnp.clip(z, -1e30, 1e30)


@jax.custom_jvp
def _power(z: jax.Array, y: jax.Array, gamma: jax.Array) -> jax.Array:
    """(1 - p_t)**gamma, also where 1 - p_t underflows: of exp(-|z|) the power is taken in the exponent.

    With e = exp(-|z|), 1 - p_t is (c + (1 - c) e) / (1 + e), where c is the label's weight on the less likely answer.
    """
    e = jnp.exp(-jnp.abs(z))
    c = jnp.where(z >= 0, 1 - y, y)
    numerator = jnp.where(c == 0, _exp_product(-gamma, jnp.abs(z)), jnp.power(c + (1 - c) * e, gamma))
    return jnp.minimum(numerator * jnp.exp(-gamma * jnp.log1p(e)), largest(z.dtype))


@_power.defjvp
def _(
    primals: tuple[jax.Array, jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    z, y, gamma = primals
    power: jax.Array = _power(z, y, gamma)
    by_y = gamma * _power(z, y, gamma - 1) * (sigmoid(-z) - sigmoid(z))
    tangent = gamma * _log_wrong_slope(z, y) * tangents[0] + _log_wrong(z, y) * tangents[2]
    return power, power * tangent + by_y * tangents[1]


def _exp_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """exp(a b), with what the product rounds off: alone, that is worth up to 64 ulp. Dekker's error-free product."""
    product = a * b
    split = 2 ** ((jnp.finfo(a.dtype).nmant + 2) // 2) + 1
    a_high, b_high = a * split - (a * split - a), b * split - (b * split - b)
    a_low, b_low = a - a_high, b - b_high
    error = a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)
    # Beyond, exp is 0 or inf, and the error may be NaN.
    error = jnp.where(jnp.abs(product) < 1e4, error, 0)
    return jnp.exp(product) * (1 + error)


def _log_wrong(z: jax.Array, y: jax.Array) -> jax.Array:
    """log(1 - p_t)."""
    e = jnp.exp(-jnp.abs(z))
    c = jnp.where(z >= 0, 1 - y, y)
    rest = c + (1 - c) * e
    return jnp.where(c == 0, -jnp.abs(z), jnp.log(jnp.where(c == 0, 1, rest))) - jnp.log1p(e)


def _log_wrong_slope(z: jax.Array, y: jax.Array) -> jax.Array:
    """The derivative of log(1 - p_t) by the logit: -sigmoid(z) for yes and sigmoid(-z) for no."""
    near = jnp.clip(z, -_edge(z.dtype), _edge(z.dtype))
    return (1 - 2 * y) / (1 + y * jnp.exp(-near) + (1 - y) * jnp.exp(near))
