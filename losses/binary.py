"""Cross-entropy of two classes, from one logit: each element is a question of its own, with yes or no for an answer."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from xent.losses import _checks, _elementwise
from xent.losses._elementwise import sigmoid, softplus
from xent.losses._floats import largest, nan_if_used


def sigmoid_binary_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
) -> jax.Array:
    r"""Cross-entropy between the sigmoid of each logit and the probability of yes.

    .. math:: -w t \log \sigma(z) - (1 - t) \log \sigma(-z), \qquad t = (1 - s) y + s / 2

    The loss is within 8 ulp, and so is its gradient by the logits for labels 0 and 1, plus twice the smallest normal
    float (or `w` times that, if more). For other labels, and smoothed ones, the gradient is the difference of
    `(1 - t) sigmoid(z)` and `w t sigmoid(-z)`, and within 8 ulp of the larger of the two.

    Args:
      logits: `z`, the log-odds of yes, float [...]. bfloat16 and float16 are computed in float32.
      labels: `y`, the probability of yes in [0, 1], float, integer or bool, of the shape of `logits`. The loss is
        differentiable in it too.
      pos_weight: `w`, how much more a yes counts than a no, not negative: a number or, float or integer [C], one for
        each entry of the last axis of `logits`; 1 if not given. The loss is differentiable in it too.
      label_smoothing: `s`, the share of the target that is spread evenly over yes and no.

    Returns:
      The loss of each element in nats, float32 (float64 for float64 logits), of the shape of `logits`.
      An infinite logit costs 0 if it is right for certain (labels 0 and 1, unsmoothed), or if what would cost inf has
      the weight `pos_weight` 0; and inf otherwise. NaN gives NaN in the loss and in its gradient; but the gradient is
      exactly 0, whatever the element holds, where the cotangent is 0.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import sigmoid_binary_cross_entropy
      >>> jnp.set_printoptions(precision=4)
      >>> print(sigmoid_binary_cross_entropy(jnp.array([0.0, 2.0, -1.0]), jnp.array([0, 1, 1])))
      [0.6931 0.1269 1.3133]

    Source:
      Bishop, Pattern Recognition and Machine Learning, 2006, equation 4.90; pos_weight: King and Zeng, Logistic
      Regression in Rare Events Data, 2001, section 4.2
    """
    z = _checks.computed(_checks.array_of("logits", logits, jnp.floating))
    y = _labels(labels, z, "logits")
    w = None if pos_weight is None else _elementwise.factor("pos_weight", pos_weight, z)
    return _cross_entropy(z, y, w, _checks.fraction("label_smoothing", label_smoothing))


def binary_cross_entropy(probabilities: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""Cross-entropy between a probability of yes that the model gives and the true one, for those who have no logits.

    .. math:: -y \log p - (1 - y) \log(1 - p)

    Given `p`, the loss is within 4 ulp. But a `p` that came from a sigmoid has lost what the logit held: near 1 its
    step is 6e-8, so that a loss of 4.5e-5 (a logit of 10) is off by 0.0005 of itself, one of 3e-7 (a logit of 15) by
    0.17, and from a logit of 17 on it is 0, with no gradient, or inf where the answer is no. Near 0 a `p` keeps its
    digits, down to a logit of -87. `sigmoid_binary_cross_entropy` loses nothing: wherever there are logits, use that.

    Args:
      probabilities: `p` in [0, 1], float [...]. bfloat16 and float16 are computed in float32.
      labels: `y`, the true probability of yes in [0, 1], float, integer or bool, of the shape of `probabilities`. The
        loss is differentiable in it too.

    Returns:
      The loss of each element in nats, float32 (float64 for float64 probabilities), of the shape of `probabilities`.
      0 log 0 is 0. An answer that was held impossible costs inf, and the gradient, whose limit is infinite, is the
      largest float. NaN and a `p` outside of [0, 1] give NaN in the loss and in its gradient; but the gradient is
      exactly 0, whatever the element holds, where the cotangent is 0.

    Raises:
      ValueError: for an argument of the wrong dtype or shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from xent.losses import binary_cross_entropy, sigmoid_binary_cross_entropy
      >>> jnp.set_printoptions(precision=4)
      >>> print(binary_cross_entropy(jnp.array([0.8, 0.9, 1.0]), jnp.array([1, 0, 1])))
      [0.2231 2.3026 0.    ]
      >>> z, yes = jnp.array([10.0, 15.0, 18.0]), jnp.ones(3)
      >>> print(binary_cross_entropy(jax.nn.sigmoid(z), yes))
      [4.5420e-05 3.5763e-07 0.0000e+00]
      >>> print(sigmoid_binary_cross_entropy(z, yes))
      [4.5399e-05 3.0590e-07 1.5230e-08]

    Source:
      Bishop, Pattern Recognition and Machine Learning, 2006, equation 4.90
    """
    p = _checks.computed(_checks.array_of("probabilities", probabilities, jnp.floating))
    return _of_probabilities(p, _labels(labels, p, "probabilities"))


def _labels(labels: ArrayLike, like: jax.Array, name: str) -> jax.Array:
    y = _checks.array_of("labels", labels, jnp.floating, jnp.integer, jnp.bool_)
    _checks.same_shape("labels", y, like.shape, f"the shape of {name}")
    return y.astype(like.dtype)


def _finite(x: jax.Array) -> jax.Array:
    """So that a cotangent of 0 gives 0."""
    return jnp.clip(x, -largest(x.dtype), largest(x.dtype))


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _cross_entropy(z: jax.Array, y: jax.Array, w: jax.Array | None, smoothing: float) -> jax.Array:
    """What yes costs and what no costs, each with its weight: no term is negative."""
    yes, no = softplus(-z), softplus(z)
    if w is not None:
        yes = jnp.where((w == 0) & (yes == jnp.inf), 0, w * yes)
    loss = jnp.zeros_like(z)
    # A label of 0 or 1 leaves no weight on the other answer, whose cost may be inf; likewise at the ends of smoothing.
    if smoothing < 1:
        loss += (1 - smoothing) * (jnp.where(y == 0, 0, y * yes) + jnp.where(y == 1, 0, (1 - y) * no))
    if smoothing > 0:
        # Apart from the label: XLA turns (1 - y) + s/2 into (1 + s/2) - y, and a small s is gone.
        loss += smoothing / 2 * (yes + no)
    return loss


_Primals = tuple[jax.Array, jax.Array, jax.Array | None]


@_cross_entropy.defjvp
def _(smoothing: float, primals: _Primals, tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    given_z, given_y, given_w = primals
    defined = ~jnp.isnan(given_z) & jnp.isfinite(given_y)
    if given_w is not None:
        defined &= jnp.isfinite(given_w)
    z, y = jnp.where(defined, given_z, 0), jnp.where(defined, given_y, 0)
    w = 1 if given_w is None else jnp.where(defined, given_w, 0)
    yes, no = sigmoid(z), w * sigmoid(-z)
    # sigmoid(z) - t, except that no digit is lost to a label of 0 or 1.
    by_z = (1 - smoothing) * ((1 - y) * yes - y * no) + smoothing / 2 * (yes - no)
    by_y = -z
    if given_w is not None:
        by_y = jnp.where(w == 0, 0, w * jnp.maximum(-z, 0)) - jnp.maximum(z, 0)
        by_y += (w - 1) * jnp.log1p(jnp.exp(-jnp.abs(z)))
    tangent = jnp.where(defined, by_z, 1) * tangents[0]
    tangent += jnp.where(defined, (1 - smoothing) * _finite(by_y), 1) * tangents[1]
    if given_w is not None:
        by_w = ((1 - smoothing) * y + smoothing / 2) * _finite(softplus(-z))
        tangent += jnp.where(defined, by_w, 1) * tangents[2]
    return _cross_entropy(*primals, smoothing), nan_if_used(tangent, defined)


@jax.custom_jvp
def _of_probabilities(p: jax.Array, y: jax.Array) -> jax.Array:
    yes, no = -jnp.log(p), -jnp.log1p(-p)  # NaN outside of [0, 1]
    loss = jnp.where(y == 0, 0, y * yes) + jnp.where(y == 1, 0, (1 - y) * no)
    return jnp.where((p >= 0) & (p <= 1), loss, jnp.nan)


@_of_probabilities.defjvp
def _(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    given_p, given_y = primals
    defined = (given_p >= 0) & (given_p <= 1) & jnp.isfinite(given_y)
    p, y = jnp.where(defined, given_p, 0.5), jnp.where(defined, given_y, 0)
    by_p = (1 - y) * _inverse(1 - p) - y * _inverse(p)
    by_y = _finite(jnp.log1p(-p)) - _finite(jnp.log(p))
    tangent = jnp.where(defined, by_p, 1) * tangents[0] + jnp.where(defined, by_y, 1) * tangents[1]
    return _of_probabilities(*primals), nan_if_used(tangent, defined)


@jax.custom_jvp
def _inverse(p: jax.Array) -> jax.Array:
    return _finite(1 / p)


@_inverse.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    inverse: jax.Array = _inverse(*primals)
    return inverse, -_finite(inverse * inverse) * tangents[0]
