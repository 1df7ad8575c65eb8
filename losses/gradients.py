"""The derivatives of the two cross-entropies, in closed form: cheaper than differentiating, and as exact as the losses.

With respect to the logits x, of one example. A loss that is a mean over N examples has 1 / N of them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from xent.losses import _checks, _rows, _softmax
from xent.losses._gauss_newton import Params, between_jacobians
from xent.losses._log_softmax import hessian_product, others_of, softmax


def softmax_cross_entropy_gradient(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Gradient of the softmax cross-entropy by the logits.

    .. math:: \frac{\partial}{\partial x_j} \Big(-\sum_k t_k \log p_k\Big) = p_j \sum_k t_k - t_j

    Args:
      logits: `x`, unnormalised log-probabilities, float [..., V]. bfloat16 and float16 are computed in float32.
        -inf is a class of probability 0.
      labels: the class of each example, integer, of the shape of `logits` without `axis` (`t` is 1 there, else 0); or
        `t`, the probability of each class, float, of the shape of `logits`.
      axis: the axis of the classes, or a tuple of axes; a class then is the flat index in row-major order of them.
      where: what takes part, bool. Of the shape of `logits` it selects classes; without `axis`, examples.

    Returns:
      The gradient, of the shape and dtype of `logits`, within 8 ulp (32 beyond 1000 classes) of
      `p_j (sum(t) - t_j) + t_j (1 - p_j)`, that is, of itself for a single class; plus V times the smallest normal
      float. It is 0 where nothing is selected, and NaN in a row that has no loss: one with a label outside of [0, V),
      a probability that is negative or not finite, or logits with NaN, with +inf or without any above -inf.

    Raises:
      ValueError: for an argument of the wrong dtype or shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import softmax_cross_entropy_gradient
      >>> jnp.set_printoptions(precision=4)
      >>> print(softmax_cross_entropy_gradient(jnp.log(jnp.array([0.8, 0.2])), jnp.array([1.0, 0.0])))
      [-0.2  0.2]

    Source:
      Bishop, Pattern Recognition and Machine Learning, 2006, equation 4.109
    """
    x, t, selection, poison = _softmax_rows(logits, labels, axis, where)
    of = softmax(x, 1.0)
    gradient = of.p * others_of(t) - t * of.not_p
    return _as_given(gradient + poison, selection, logits)


def softmax_cross_entropy_hessian_vector_product(
    logits: ArrayLike,
    labels: ArrayLike,
    vector: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""The Hessian of the softmax cross-entropy by the logits, times a vector.

    .. math:: H v = \Big(\sum_k t_k\Big) \left(\mathrm{diag}(p) - p p^\top\right) v

    H is symmetric and positive semi-definite, and 0 along (1, ..., 1). It is also the Fisher information of the logits.

    Args:
      logits: `x`, as in `softmax_cross_entropy_gradient`, float [..., V].
      labels: integer or float, likewise; of them H feels only the sum.
      vector: `v`, float, of the shape of `logits`; what it holds for classes that take no part does not matter.
      axis: the axis of the classes, or a tuple of axes.
      where: what takes part, bool. Of the shape of `logits` it selects classes; without `axis`, examples.

    Returns:
      The product, of the shape and dtype of `logits`, within 16 ulp (64 beyond 1000 classes) of
      `p_j sum_k(p_k |v_j - v_k|)`, plus V times the smallest normal float times `1 + max |v_j - v_k|`; 0 and NaN as
      the gradient.

    Raises:
      ValueError: for an argument of the wrong dtype or shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import softmax_cross_entropy_hessian_vector_product
      >>> jnp.set_printoptions(precision=4)
      >>> logits, vector = jnp.log(jnp.array([0.8, 0.2])), jnp.array([1.0, 0.0])
      >>> print(softmax_cross_entropy_hessian_vector_product(logits, jnp.array(0), vector))
      [ 0.16 -0.16]

    Source:
      Bishop, Pattern Recognition and Machine Learning, 2006, equation 4.110
    """
    x, t, selection, poison = _softmax_rows(logits, labels, axis, where)
    v = _checks.array_of("vector", vector, jnp.floating)
    _checks.same_shape("vector", v, jnp.shape(logits), "the shape of logits")
    v = selection.fill(_softmax.classes_last(v, selection.axes).astype(x.dtype), 0)
    product = _softmax.sum_last(t)[..., None] * hessian_product(x, v)
    return _as_given(product + poison, selection, logits)


def softmax_cross_entropy_gauss_newton_vector_product(
    apply: Callable[[Params], jax.Array],
    params: Params,
    labels: ArrayLike,
    vector: Params,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
) -> Params:
    r"""The Gauss-Newton matrix of the summed softmax cross-entropy of a model, times a vector of parameters.

    .. math:: G v = \sum_i J_i^\top H_i J_i v, \qquad J_i = \frac{\partial x_i}{\partial \theta}

    G is positive semi-definite whatever the model, and the Hessian itself where the logits are linear in the
    parameters. Without smoothing it is the Fisher information, too.

    Args:
      apply: from the parameters `theta` to logits `x`, float [..., V]: the model on a fixed batch.
      params: `theta`, a tree of float arrays.
      labels: integer or float, as in `softmax_cross_entropy_gradient`.
      vector: `v`, a tree like `params`.
      axis: the axis of the classes, or a tuple of axes.
      where: what takes part, bool. Of the shape of the logits it selects classes; without `axis`, examples.

    Returns:
      The product, a tree like `params`: of the sum over the examples, so divide by their number for the mean's. As
      exact as the model's own derivatives, its errors being those of `softmax_cross_entropy_hessian_vector_product`
      between them.

    Raises:
      ValueError: for an argument of the wrong dtype or shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import softmax_cross_entropy_gauss_newton_vector_product
      >>> jnp.set_printoptions(precision=4)
      >>> inputs, kernel = jnp.array([[1.0, 2.0]]), jnp.zeros((2, 2))
      >>> print(softmax_cross_entropy_gauss_newton_vector_product(
      ...     lambda kernel: inputs @ kernel, kernel, jnp.array([0]), jnp.eye(2)))
      [[-0.25  0.25]
       [-0.5   0.5 ]]

    Source:
      Schraudolph, Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent, 2002
    """

    def product(logits: jax.Array, tangent: jax.Array) -> jax.Array:
        return softmax_cross_entropy_hessian_vector_product(logits, labels, tangent, axis, where)

    return between_jacobians(product, apply, params, vector)


def softmax_cross_entropy_fisher_diagonal(
    logits: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Diagonal of the Fisher information of the logits, under labels drawn from the softmax itself.

    .. math:: \mathrm{E}_{y \sim p} \left(\frac{\partial \log p_y}{\partial x_j}\right)^2 = p_j (1 - p_j)

    Args:
      logits: `x`, as in `softmax_cross_entropy_gradient`, float [..., V].
      axis: the axis of the classes, or a tuple of axes.
      where: what takes part, bool. Of the shape of `logits` it selects classes; without `axis`, examples.

    Returns:
      The diagonal, of the shape and dtype of `logits`, within 16 ulp (64 beyond 1000 classes), plus V times the
      smallest normal float; it is that of the Hessian for labels that sum to 1. 0 where nothing is selected; NaN in a
      row that holds NaN, +inf or nothing above -inf.

    Raises:
      ValueError: for an argument of the wrong dtype or shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import softmax_cross_entropy_fisher_diagonal
      >>> jnp.set_printoptions(precision=4)
      >>> print(softmax_cross_entropy_fisher_diagonal(jnp.log(jnp.array([0.8, 0.2]))))
      [0.16 0.16]

    Source:
      Amari, Natural Gradient Works Efficiently in Learning, 1998, section 3; for the softmax, Bishop, 2006,
      equation 4.110
    """
    x = _checks.array_of("logits", logits, jnp.floating)
    (x,), selection = _rows.of({"logits": x}, axis, where)
    x = selection.fill(x, -jnp.inf)
    defined = _softmax.has_softmax(x)
    poison = _rows.poison(defined, x)[..., None]
    of = softmax(*_rows.harmless(defined, x), 1.0)
    return _as_given(of.p * of.not_p + poison, selection, logits)


def _softmax_rows(
    logits: ArrayLike, labels: ArrayLike, axis: int | tuple[int, ...], where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, _rows.Selection, jax.Array]:
    """Harmless rows of logits and of probabilities [..., V]; what is selected; NaN to add for undefined rows [..., 1].

    An index outside of its range has no class, and makes its row undefined.
    """
    x = _checks.array_of("logits", logits, jnp.floating)
    y = _checks.array_of("labels", labels, jnp.floating, jnp.integer)
    if jnp.issubdtype(y.dtype, jnp.floating):
        (x, t), selection = _rows.of({"logits": x, "labels": y}, axis, where)
        t = selection.fill(t, 0)
        defined = ((t >= 0) & (t < jnp.inf)).all(-1)
    else:
        (x,), selection = _rows.of({"logits": x}, axis, where)
        _checks.same_shape("labels", y, selection.batch, f"the shape of logits {jnp.shape(logits)} without axis {axis}")
        y = _checks.signed(y)
        defined = (y >= 0) & (y < x.shape[-1])
        t = jax.nn.one_hot(y, x.shape[-1], dtype=x.dtype)
    x = selection.fill(x, -jnp.inf)
    defined &= _softmax.has_softmax(x)
    poison = _rows.poison(defined, x, t)[..., None]
    x, t = _rows.harmless(defined, x, t)
    return x, t, selection, poison


def _as_given(rows: jax.Array, selection: _rows.Selection, logits: ArrayLike) -> jax.Array:
    """In the shape and dtype of the logits, and 0 where nothing is selected."""
    if selection.examples is not None:
        rows = jnp.where(selection.examples[..., None], rows, 0)
    rows = selection.fill(rows, 0)
    return _rows.as_given(rows, selection.axes, jnp.shape(logits)).astype(jnp.asarray(logits).dtype)
