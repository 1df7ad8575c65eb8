"""Cross-entropy of two classes, from one logit: each element is a question of its own, with yes or no for an answer."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from xent.losses import _checks
from xent.losses._floats import largest, nan_if_used


def sigmoid_binary_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    label_smoothing: float = 0.0,
) -> jax.Array:
    r"""Cross-entropy between the sigmoid of each logit and the probability of yes.

    .. math:: -t \log \sigma(z) - (1 - t) \log \sigma(-z), \qquad t = (1 - s) y + s / 2

    Args:
      logits: `z`, the log-odds of yes, float [...]. bfloat16 and float16 are computed in float32.
      labels: `y`, the probability of yes in [0, 1], float, integer or bool, of the shape of `logits`. The loss is
        differentiable in it too.
      label_smoothing: `s`, the share of the target that is spread evenly over yes and no.

    Returns:
      The loss of each element in nats, float32 (float64 for float64 logits), of the shape of `logits`.
      An infinite logit costs 0 if it is right for certain (labels 0 and 1, unsmoothed) and inf otherwise. NaN gives NaN
      in the loss and in its gradient; but the gradient is exactly 0, whatever the element holds, where the cotangent
      is 0.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import sigmoid_binary_cross_entropy
      >>> jnp.set_printoptions(precision=4)
      >>> print(sigmoid_binary_cross_entropy(jnp.array([0.0, 2.0, -1.0]), jnp.array([0, 1, 1])))
      [0.6931 0.1269 1.3133]

    Source:
      Bishop, Pattern Recognition and Machine Learning, 2006, equation 4.90
    """
    z = _checks.array_of("logits", logits, jnp.floating)
    y = _checks.array_of("labels", labels, jnp.floating, jnp.integer, jnp.bool_)
    _checks.same_shape("labels", y, z.shape, "the shape of logits")
    smoothing = _checks.fraction("label_smoothing", label_smoothing)
    dtype = jnp.promote_types(z.dtype, jnp.float32)
    return _cross_entropy(z.astype(dtype), y.astype(dtype), smoothing)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _cross_entropy(z: jax.Array, y: jax.Array, smoothing: float) -> jax.Array:
    """log(1 + exp(-|z|)), and |z| times what the target holds against z's sign: no term is negative."""
    loss = jnp.log1p(jnp.exp(-jnp.abs(z)))
    # A label of 0 or 1 leaves no weight on the other answer, whose cost may be inf; likewise at the ends of smoothing.
    if smoothing < 1:
        against_yes = jnp.where(y == 0, 0, y * jnp.maximum(-z, 0))
        against_no = jnp.where(y == 1, 0, (1 - y) * jnp.maximum(z, 0))
        loss += (1 - smoothing) * (against_yes + against_no)
    if smoothing > 0:
        # Apart from the label: XLA turns (1 - y) + s/2 into (1 + s/2) - y, and a small s is gone.
        loss += smoothing / 2 * jnp.abs(z)
    return loss


@_cross_entropy.defjvp
def _(
    smoothing: float, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    defined = ~jnp.isnan(primals[0]) & jnp.isfinite(primals[1])
    z, y = (jnp.where(defined, primal, 0) for primal in primals)
    yes, no = _sigmoid(z), _sigmoid(-z)
    # sigmoid(z) - t, except that no digit is lost to a label of 0 or 1.
    by_z = (1 - smoothing) * ((1 - y) * yes - y * no) + smoothing / 2 * (yes - no)
    # Finite at an infinite logit too, so that a cotangent of 0 gives 0.
    by_y = (smoothing - 1) * jnp.clip(z, -largest(z.dtype), largest(z.dtype))
    tangent = jnp.where(defined, by_z, 1) * tangents[0] + jnp.where(defined, by_y, 1) * tangents[1]
    return _cross_entropy(*primals, smoothing), nan_if_used(tangent, defined)


@jax.custom_jvp
def _sigmoid(z: jax.Array) -> jax.Array:
    exp = jnp.exp(-jnp.abs(z))
    return jnp.where(z >= 0, 1, exp) / (1 + exp)


@_sigmoid.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    return _sigmoid(z), _sigmoid(z) * _sigmoid(-z) * dz
