"""Losses that weigh the cross-entropy by how wrong the prediction is: focal loss and PolyLoss, of a softmax."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from xent.losses import _checks, _cross_entropy, _modifiers, _rows, _softmax
from xent.losses._floats import huge, largest, nan_if_used
from xent.losses._log_softmax import others_of, parts, softmax
from xent.losses._softmax import sum_last


def softmax_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    *,
    gamma: float = 2.0,
    class_weights: ArrayLike | None = None,
) -> jax.Array:
    r"""Focal loss of the softmax of the logits, for a class given by its index.

    .. math:: -w_y (1 - p_y)^\gamma \log p_y, \qquad p_j = \frac{e^{x_j}}{\sum_k e^{x_k}}

    Args:
      logits: `x`, unnormalised log-probabilities, float [..., V]. bfloat16 and float16 are computed in float32.
        -inf is a class of probability 0.
      labels: `y`, the class of each example, integer, of the shape of `logits` without `axis`.
      axis: the axis of the classes, or a tuple of axes; a label then is the flat index in row-major order of them.
      where: what takes part, bool. Of the shape of `labels` it selects examples; of the shape of `logits`, classes.
      gamma: the exponent, a Python float, at least 0. At 0 this is the cross-entropy.
      class_weights: `w` (the paper's alpha), float [V], one weight for each class; 1 if not given. The loss is
        differentiable in it.

    Returns:
      The loss of each example in nats, float32 (float64 for float64 logits), of the shape of `labels`, and its gradient
      within 16 + 4 gamma ulp, plus V times the smallest normal float, to 1000 classes. Where nothing is selected it is
      0 and its gradient is 0. A label that is masked out, or whose logit is -inf, costs inf. A label outside of [0, V),
      and a row that holds NaN, +inf or nothing above -inf, gives NaN in the loss and in its gradient; but the gradient
      is exactly 0, whatever the row holds, where the cotangent is 0.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import softmax_focal_loss
      >>> jnp.set_printoptions(precision=4)
      >>> logits = jnp.log(jnp.array([[0.8, 0.2], [0.1, 0.9]]))
      >>> print(softmax_focal_loss(logits, jnp.array([0, 1])))
      [0.0089 0.0011]

    Source:
      Lin et al., Focal Loss for Dense Object Detection, 2017, equations 4 and 5, https://arxiv.org/abs/1708.02002; its
      form for many classes is that of `1 - p_y` there, with the softmax for the sigmoid
    """
    x = _checks.array_of("logits", logits, jnp.floating)
    y = _checks.array_of("labels", labels, jnp.integer)
    exponent = _checks.non_negative("gamma", gamma)
    (x,), selection = _rows.of({"logits": x}, axis, where)
    _checks.same_shape("labels", y, selection.batch, f"the shape of logits {jnp.shape(logits)} without axis {axis}")
    y = _checks.signed(y)
    x = selection.fill(x, -jnp.inf)

    defined = _softmax.has_softmax(x) & (y >= 0) & (y < x.shape[-1])
    poison = _rows.poison(defined, x)
    (x,) = _rows.harmless(defined, x)
    parts = _label(x, jnp.clip(y, 0, x.shape[-1] - 1), exponent)
    losses = (_focused(parts.focus, parts.loss) if exponent else parts.loss) + poison
    weights = _modifiers.class_weights_of(class_weights, x)
    if weights is not None:
        losses = _cross_entropy.weighted(jnp.take(weights, y, mode="clip"), losses)
    return selection.losses(losses)


def poly_loss_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike = 2.0,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""PolyLoss: cross-entropy with another weight for the first term of its expansion in `1 - p`.

    .. math:: \sum_j t_j \left(-\log p_j + \epsilon (1 - p_j)\right), \qquad p_j = \frac{e^{x_j}}{\sum_k e^{x_k}}

    Args:
      logits: `x`, unnormalised log-probabilities, float [..., V]. bfloat16 and float16 are computed in float32.
        -inf is a class of probability 0.
      labels: `t`, the probability of each class, float, of the shape of `logits`. The loss is differentiable in it.
      epsilon: the weight, a scalar. The loss is differentiable in it, too.
      axis: the axis of the classes, a tuple of axes, or None for all.
      where: what takes part, bool. Of the shape of `logits` it selects classes; without `axis`, examples.

    Returns:
      The loss of each example in nats, float32 (float64 if an argument is), of the shape of `logits` without `axis`,
      within 8 ulp (32 beyond 1000 classes) of the sum of `t_j (-log p_j + |epsilon| (1 - p_j))`; its gradient within 16
      ulp of `(1 + |epsilon|) (p_j (sum(t) - t_j) + t_j (1 - p_j))`, so also for a confident prediction that is right;
      both plus V times the smallest normal float times `1 + |epsilon|`. Where nothing is selected it is 0 and its
      gradient is 0. A logit of -inf costs inf where its label is not 0. A label that is negative or infinite, and a row
      of logits that holds NaN, +inf or nothing above -inf, gives NaN in the loss and in its gradient; but the gradient
      is exactly 0, whatever the row holds, where the cotangent is 0.

    Raises:
      ValueError: for an argument of the wrong dtype or shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import poly_loss_cross_entropy
      >>> jnp.set_printoptions(precision=4)
      >>> logits = jnp.log(jnp.array([[0.8, 0.2], [0.1, 0.9]]))
      >>> print(poly_loss_cross_entropy(logits, jnp.array([[1.0, 0.0], [0.0, 1.0]])))
      [0.6231 0.3054]

    Source:
      Leng et al., PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions, 2022
      (Poly-1), https://arxiv.org/abs/2204.12511
    """
    x = _checks.array_of("logits", logits, jnp.floating)
    t = _checks.array_of("labels", labels, jnp.floating)
    weight = _checks.array_of("epsilon", epsilon, jnp.floating, jnp.integer)
    _checks.same_shape("epsilon", weight, (), "the shape of a scalar")
    (x, t), selection = _rows.of({"logits": x, "labels": t}, axis, where)
    x, t = selection.fill(x, -jnp.inf), selection.fill(t, 0)

    return selection.losses(_poly(x, t, weight.astype(x.dtype)))


class _Label(NamedTuple):
    """What a row says of its label, [...]; all of it is a function of one number, the log-odds of the others."""

    loss: jax.Array  # -log p
    not_p: jax.Array  # 1 - p
    p: jax.Array
    focus: jax.Array  # (1 - p)**gamma


@partial(jax.custom_jvp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def _label(x: jax.Array, y: jax.Array, gamma: float) -> _Label:
    row = _softmax.row(x, y)
    loss = (row.top - row.label) + row.log_total
    not_p = row.others / row.total
    # A whole exponent multiplies, which is more exact than the logarithm of a power.
    return _Label(loss, not_p, row.exp_label / row.total, not_p ** (int(gamma) if gamma.is_integer() else gamma))


@_label.defjvp
def _(
    gamma: float, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[_Label, _Label]:
    x, y = primals
    label = _label(x, y, gamma)
    change = jnp.sum(_others(x, y) * tangents[0], -1) - _at(tangents[0], y)
    # No term divides by 1 - p, which may be 0; and each is finite where p is, too.
    by_loss, by_p = label.not_p, label.not_p * label.p
    return label, _Label(by_loss * change, by_p * change, -by_p * change, gamma * label.focus * label.p * change)


@jax.custom_jvp
def _focused(focus: jax.Array, loss: jax.Array) -> jax.Array:
    """focus * loss; the loss may be inf, as the focus is 1 then."""
    return focus * loss


@_focused.defjvp
def _(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    focus, loss = primals
    # The focus changes by a multiple of p, which is 0 where the loss is more. A weight times inf there would make NaN.
    return _focused(focus, loss), focus * tangents[1] + jnp.minimum(loss, 1e4) * tangents[0]


@jax.custom_jvp
@jax.jit
def _others(x: jax.Array, y: jax.Array) -> jax.Array:
    """The softmax of all classes but the label; 0 at the label, and everywhere if the others' sum underflows."""
    row = _softmax.row(x, y)
    share = row.exp * (1 / jnp.where(row.others > 0, row.others, 1))[..., None]
    return _softmax.with_label(share, y, jnp.zeros_like(row.others))


@_others.defjvp
def _(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    share = _others(*primals)
    return share, share * (tangents[0] - jnp.sum(share * tangents[0], -1, keepdims=True))


def _at(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x, y[..., None], -1)[..., 0]


@jax.custom_jvp
@jax.jit
def _poly(x: jax.Array, t: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Of rows [..., V], and a scalar. By arithmetic: XLA:CPU does not vectorise a sum with a comparison in it."""
    defined = _has_poly(x, t)
    x, t = _rows.harmless(defined, x, t)
    row, limit = parts(x, 1.0), largest(x.dtype)
    rest = row.tail[..., 0]
    # A label's weight on a logit of -inf costs inf, and no weight there costs nothing.
    terms = t * -row.high + t * jnp.minimum(jnp.maximum(x, -limit) - x, limit) * limit
    total, wrong = sum_last(t), sum_last(t * (1 - row.exp))
    not_p = (total * rest + wrong) / (1 + rest)
    loss = sum_last(terms) + total * jnp.log1p(rest) + epsilon * not_p
    return jnp.where(defined, loss, jnp.nan)


def _has_poly(x: jax.Array, t: jax.Array) -> jax.Array:
    """Some logit is finite, none is NaN or +inf; no label is NaN, infinite or negative."""
    return jnp.isfinite(x.max(-1)) & _rows.are_weighed(x, t)


@partial(_poly.defjvp, symbolic_zeros=True)
def _(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array | SymbolicZero, ...]) -> tuple[jax.Array, jax.Array]:
    defined = _has_poly(*primals[:2])
    x, t = _rows.harmless(defined, *primals[:2])
    epsilon = primals[2]
    of = softmax(x, 1.0)
    # p_j sum(t) - t_j, and p_j (sum(t p) - t_j): each as a difference of what has no cancellation of its own where one
    # label is 1 and the others are 0.
    wrong = t * of.not_p
    hit = t * of.p
    by_x = of.p * others_of(t) - wrong + epsilon * of.p * (others_of(hit) - wrong)
    by_t = epsilon * of.not_p + jnp.minimum(-of.log_p, huge(x.dtype))
    tangent = jnp.zeros(defined.shape, x.dtype)
    for slope, change in zip((by_x, by_t), tangents[:2], strict=True):
        if not isinstance(change, SymbolicZero):
            tangent += jnp.sum(jnp.where(defined[..., None], slope, 1) * change, -1)
    if not isinstance(tangents[2], SymbolicZero):
        tangent += jnp.where(defined, sum_last(wrong), 1) * tangents[2]
    return _poly(*primals), nan_if_used(tangent, defined)
