"""The derivatives of the sigmoid cross-entropy by its logits, in closed form: each element is a loss of its own."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from xent.losses import _checks
from xent.losses._elementwise import sigmoid
from xent.losses._floats import nan_if_used
from xent.losses._gauss_newton import Params, between_jacobians


def sigmoid_binary_cross_entropy_gradient(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""Derivative of the sigmoid cross-entropy by each logit.

    .. math:: \frac{\partial}{\partial z} \left(-y \log \sigma(z) - (1 - y) \log \sigma(-z)\right) = \sigma(z) - y

    Args:
      logits: `z`, the log-odds of yes, float [...]. bfloat16 and float16 are computed in float32.
      labels: `y`, the probability of yes in [0, 1], float, integer or bool, of the shape of `logits`.

    Returns:
      The derivative at each element, of the shape and dtype of `logits`, within 8 ulp of `max(sigmoid(z), y)`, or of
      itself for a label of 0 or 1, plus twice the smallest normal float. NaN gives NaN.

    Raises:
      ValueError: for an argument of the wrong dtype or shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import sigmoid_binary_cross_entropy_gradient
      >>> jnp.set_printoptions(precision=4)
      >>> print(sigmoid_binary_cross_entropy_gradient(jnp.array([0.0, 30.0]), jnp.array([0, 1])))
      [ 5.0000e-01 -9.3576e-14]

    Source:
      Bishop, Pattern Recognition and Machine Learning, 2006, equation 4.91
    """
    z, y, defined = _elements(logits, labels)
    # sigmoid(z) - y, except that no digit is lost to a label of 0 or 1.
    return _as_given((1 - y) * sigmoid(z) - y * sigmoid(-z), defined, logits)


def sigmoid_binary_cross_entropy_hessian_vector_product(
    logits: ArrayLike, labels: ArrayLike, vector: ArrayLike
) -> jax.Array:
    r"""The Hessian of the sigmoid cross-entropy by the logits, which is diagonal, times a vector.

    .. math:: (H v)_i = \sigma(z_i) \sigma(-z_i) v_i

    Args:
      logits: `z`, the log-odds of yes, float [...].
      labels: `y`, the probability of yes, of the shape of `logits`. H does not feel it.
      vector: `v`, float, of the shape of `logits`.

    Returns:
      The product at each element, of the shape and dtype of `logits`, within 8 ulp, plus twice the smallest normal
      float times `1 + |v|`. NaN gives NaN.

    Raises:
      ValueError: for an argument of the wrong dtype or shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import sigmoid_binary_cross_entropy_hessian_vector_product
      >>> labels, vector = jnp.array([0, 1]), jnp.array([1.0, 2.0])
      >>> print(sigmoid_binary_cross_entropy_hessian_vector_product(jnp.zeros(2), labels, vector))
      [0.25 0.5 ]

    Source:
      Bishop, Pattern Recognition and Machine Learning, 2006, equations 4.97 and 4.98
    """
    z, _, defined = _elements(logits, labels)
    v = _checks.computed(_checks.array_of("vector", vector, jnp.floating)).astype(z.dtype)
    _checks.same_shape("vector", v, z.shape, "the shape of logits")
    return _as_given(sigmoid(z) * sigmoid(-z) * v, defined, logits)


def sigmoid_binary_cross_entropy_gauss_newton_vector_product(
    apply: Callable[[Params], jax.Array],
    params: Params,
    labels: ArrayLike,
    vector: Params,
) -> Params:
    r"""The Gauss-Newton matrix of the summed sigmoid cross-entropy of a model, times a vector of parameters.

    .. math:: G v = \sum_i J_i^\top \sigma(z_i) \sigma(-z_i) J_i v, \qquad J_i = \frac{\partial z_i}{\partial \theta}

    G is positive semi-definite whatever the model, and the Hessian itself where the logits are linear in the
    parameters.

    Args:
      apply: from the parameters `theta` to logits `z`, float [...]: the model on a fixed batch.
      params: `theta`, a tree of float arrays.
      labels: `y`, the probability of yes, of the shape of the logits.
      vector: `v`, a tree like `params`.

    Returns:
      The product, a tree like `params`: of the sum over the elements, so divide by their number for the mean's. As
      exact as the model's own derivatives, with 8 ulp for each element between them.

    Raises:
      ValueError: for an argument of the wrong dtype or shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import sigmoid_binary_cross_entropy_gauss_newton_vector_product
      >>> inputs, kernel = jnp.array([[1.0, 2.0]]), jnp.zeros(2)
      >>> print(sigmoid_binary_cross_entropy_gauss_newton_vector_product(
      ...     lambda kernel: inputs @ kernel, kernel, jnp.array([0]), jnp.ones(2)))
      [0.75 1.5 ]

    Source:
      Schraudolph, Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent, 2002
    """

    def product(logits: jax.Array, tangent: jax.Array) -> jax.Array:
        return sigmoid_binary_cross_entropy_hessian_vector_product(logits, labels, tangent)

    return between_jacobians(product, apply, params, vector)


def sigmoid_binary_cross_entropy_fisher_diagonal(logits: ArrayLike) -> jax.Array:
    r"""Fisher information of each logit, under labels drawn from the sigmoid itself.

    .. math:: \mathrm{E}_{y \sim \sigma(z)} \left(\sigma(z) - y\right)^2 = \sigma(z) \sigma(-z)

    Args:
      logits: `z`, the log-odds of yes, float [...].

    Returns:
      The information, of the shape and dtype of `logits`, within 8 ulp, plus twice the smallest normal float. NaN
      gives NaN.

    Raises:
      ValueError: for an argument of the wrong dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import sigmoid_binary_cross_entropy_fisher_diagonal
      >>> jnp.set_printoptions(precision=4)
      >>> print(sigmoid_binary_cross_entropy_fisher_diagonal(jnp.array([0.0, -30.0])))
      [2.5000e-01 9.3576e-14]

    Source:
      Amari, Natural Gradient Works Efficiently in Learning, 1998, section 3
    """
    z, _, defined = _elements(logits, jnp.zeros(jnp.shape(logits)))
    return _as_given(sigmoid(z) * sigmoid(-z), defined, logits)


def _elements(logits: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits and labels of one float dtype, harmless where they are not defined; and where they are."""
    z = _checks.computed(_checks.array_of("logits", logits, jnp.floating))
    y = _checks.array_of("labels", labels, jnp.floating, jnp.integer, jnp.bool_).astype(z.dtype)
    _checks.same_shape("labels", y, z.shape, "the shape of logits")
    defined = ~jnp.isnan(z) & jnp.isfinite(y)
    return jnp.where(defined, z, 0), jnp.where(defined, y, 0), defined


def _as_given(derivative: jax.Array, defined: jax.Array, logits: ArrayLike) -> jax.Array:
    """In the dtype of the logits, and NaN where it is not defined."""
    return nan_if_used(jnp.where(defined, derivative, 1), defined).astype(jnp.asarray(logits).dtype)
