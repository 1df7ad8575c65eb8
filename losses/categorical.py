"""Cross-entropy of one class among many, from logits and integer labels.

Every loss is a sum of terms that are not negative, and every probability a quotient of sums of positive terms, so
nothing cancels: neither the loss nor its gradient loses digits when the model is confident, right or wrong.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from xent.losses import _checks
from xent.losses._floats import largest, nan_if_used


def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    *,
    label_smoothing: float = 0.0,
) -> jax.Array:
    r"""Cross-entropy between the softmax of the logits and a class given by its index.

    .. math:: (1 - s)(-\log p_y) + \frac{s}{V} \sum_j -\log p_j, \qquad p_j = \frac{e^{x_j}}{\sum_k e^{x_k}}

    Args:
      logits: `x`, unnormalised log-probabilities, float [..., V]. bfloat16 and float16 are computed in float32.
        -inf is a class of probability 0.
      labels: `y`, the class of each example, integer, of the shape of `logits` without `axis`.
      axis: the axis of the classes, or a tuple of axes; a label then is the flat index in row-major order of them.
      where: what takes part, bool. Of the shape of `labels` it selects examples; of the shape of `logits`, classes.
      label_smoothing: `s`, the share of the target that is spread over the `V` classes (the selected ones).

    Returns:
      The loss of each example in nats, float32 (float64 for float64 logits), of the shape of `labels`.
      Where nothing is selected it is 0 and its gradient is 0. A label that is masked out, or whose logit is -inf,
      costs inf. A label outside of [0, V), and a row that holds NaN, +inf or nothing above -inf, gives NaN in the loss
      and in its gradient; but the gradient is exactly 0, whatever the row holds, where the cotangent is 0.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import softmax_cross_entropy_with_integer_labels
      >>> jnp.set_printoptions(precision=4)
      >>> logits = jnp.log(jnp.array([[0.8, 0.2], [0.1, 0.9]]))
      >>> print(softmax_cross_entropy_with_integer_labels(logits, jnp.array([0, 1])))
      [0.2231 0.1054]

    Source:
      Bishop, Pattern Recognition and Machine Learning, 2006, equation 4.108; smoothing: Szegedy et al., Rethinking
      the Inception Architecture for Computer Vision, 2016, section 7, https://arxiv.org/abs/1512.00567
    """
    x = _checks.array_of("logits", logits, jnp.floating)
    y = _checks.array_of("labels", labels, jnp.integer)
    axes = _checks.axes_of("axis", axis, x.shape)
    batch = tuple(size for a, size in enumerate(x.shape) if a not in axes)
    _checks.class_count("logits", x.shape, axes)
    _checks.same_shape("labels", y, batch, f"the shape of logits {x.shape} without axis {axis}")
    smoothing = _checks.fraction("label_smoothing", label_smoothing)

    x = _classes_last(x, axes).astype(jnp.promote_types(x.dtype, jnp.float32))
    # Signed and wide enough for the number of classes; an unsigned label too large for it turns negative: undefined.
    y = y.astype(jnp.int32 if y.dtype.itemsize <= 4 else jnp.int64)
    losses: jax.Array
    if where is None:
        losses = _cross_entropy(x, y, None, smoothing)
        return losses

    selected = _checks.array_of("where", where, jnp.bool_)
    if selected.shape == batch:
        return jnp.where(selected, _cross_entropy(x, y, None, smoothing), 0)
    shape = jnp.shape(logits)
    _checks.same_shape("where", selected, shape, f"the shape of logits (or that without axis {axis})")
    selected = _classes_last(selected, axes)
    losses = _cross_entropy(jnp.where(selected, x, -jnp.inf), y, selected, smoothing)
    return jnp.where(selected.any(-1), losses, 0)


def _classes_last(array: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """[..., V]: the axes of the classes behind all others and flattened into one."""
    array = jnp.moveaxis(array, axes, range(-len(axes), 0))
    return array.reshape(*array.shape[: -len(axes)], -1)


# The loss, its gradient and the probabilities carry each other's derivatives: forward and reverse mode, of any order,
# follow. Each calls `_row` for itself, and under `jit` the compiler makes one of them. Their own `jit` is for calls
# from outside of one: their many operations are then compiled together, not one by one.


@partial(jax.custom_jvp, nondiff_argnums=(3,))
@partial(jax.jit, static_argnums=3)
def _cross_entropy(x: jax.Array, y: jax.Array, selected: jax.Array | None, smoothing: float) -> jax.Array:
    row = _row(x, y)
    loss = jnp.log1p(row.sum_others + (row.exp_label - 1))
    if smoothing < 1:  # else the label has no weight, and its distance may be inf
        loss += (1 - smoothing) * (row.top - row.label)
    if smoothing > 0:
        distances = row.top[..., None] - x
        if selected is None:
            loss += smoothing * _sum(distances) / x.shape[-1]
        else:
            loss += smoothing * _sum(jnp.where(selected, distances, 0)) / selected.sum(-1)
    return jnp.where(row.defined, loss, jnp.nan)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
@partial(jax.jit, static_argnums=3)
def _gradient(x: jax.Array, y: jax.Array, selected: jax.Array | None, smoothing: float) -> jax.Array:
    """Of the loss with respect to x: p minus the target. At the label, p_y - 1 is the others' share, negated."""
    row = _row(x, y)
    total = row.sum_others + row.exp_label
    hard = _with_label(row.exp_others * (1 / total)[..., None], y, -row.sum_others / total)
    if smoothing == 0:
        gradient = hard
    else:
        uniform = 1 / x.shape[-1] if selected is None else selected / selected.sum(-1, keepdims=True, dtype=x.dtype)
        gradient = (1 - smoothing) * hard + smoothing * (_probabilities(x, y) - uniform)
    # Any finite number but 0: the loss's rule makes NaN of it.
    return jnp.where(row.defined[..., None], gradient, 1)


@jax.custom_jvp
@jax.jit
def _probabilities(x: jax.Array, y: jax.Array) -> jax.Array:
    row = _row(x, y)
    scale = 1 / (row.sum_others + row.exp_label)
    p = _with_label(row.exp_others * scale[..., None], y, row.exp_label * scale)
    return jnp.where(row.defined[..., None], p, 1)


def _probabilities_tangent(x: jax.Array, y: jax.Array, dx: jax.Array) -> jax.Array:
    """p * (dx - <p, dx>), with dx counted from the label's: no shift of x is felt, and no 1 - p_y is formed."""
    p: jax.Array = _probabilities(x, y)
    dx = dx - jnp.take_along_axis(dx, y[..., None], -1, mode="clip")
    return p * (dx - jnp.sum(p * dx, -1, keepdims=True))


_Primals = tuple[jax.Array, jax.Array, jax.Array | None]


@_cross_entropy.defjvp
def _(smoothing: float, primals: _Primals, tangents: _Primals) -> tuple[jax.Array, jax.Array]:
    x, y, _ = primals
    tangent = jnp.sum(_gradient(*primals, smoothing) * tangents[0], -1)
    return _cross_entropy(*primals, smoothing), nan_if_used(tangent, _defined(x.max(-1), y, x.shape[-1]))


@_gradient.defjvp
def _(smoothing: float, primals: _Primals, tangents: _Primals) -> tuple[jax.Array, jax.Array]:
    return _gradient(*primals, smoothing), _probabilities_tangent(*primals[:2], tangents[0])


@_probabilities.defjvp
def _(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    x, y = primals
    return _probabilities(x, y), _probabilities_tangent(x, y, tangents[0])


class _Row(NamedTuple):
    """What a row of logits gives to the loss and to all its derivatives: the label apart from the others."""

    top: jax.Array  # the largest logit, [...]
    label: jax.Array  # the label's logit, [...]
    exp_label: jax.Array  # exp(label - top), [...]
    exp_others: jax.Array  # exp(x - top), but 0 at the label, [..., V]
    sum_others: jax.Array  # [...]
    defined: jax.Array  # whether there is a loss, [...]


def _row(x: jax.Array, y: jax.Array) -> _Row:
    top = x.max(-1)
    label = jnp.take_along_axis(x, y[..., None], -1, mode="clip")[..., 0]
    # The distance from the label is 0 there and at least 1 elsewhere, where exp is at most 1. A minimum, and not a
    # select: XLA:CPU does not vectorise a sum with a comparison in it.
    distance = jnp.abs(lax.broadcasted_iota(x.dtype, x.shape, x.ndim - 1) - y[..., None].astype(x.dtype))
    exp_others = jnp.minimum(_exp_difference(x, top[..., None]), distance)
    sum_others = _sum(exp_others)
    return _Row(top, label, _exp_difference(label, top), exp_others, sum_others, _defined(top, y, x.shape[-1]))


def _sum(terms: jax.Array) -> jax.Array:
    """Over the last axis, half onto half: one after the other, 1000 terms may come out 28 ulp off, and so at most 5."""
    while (length := terms.shape[-1]) > 1:
        half = length // 2
        folded = terms[..., :half] + terms[..., half : 2 * half]
        terms = folded if length % 2 == 0 else jnp.concatenate([folded, terms[..., 2 * half :]], -1)
    return terms[..., 0]


def _defined(top: jax.Array, y: jax.Array, classes: int) -> jax.Array:
    """Some logit is finite, none is NaN or +inf, and the label is one of the classes."""
    return jnp.isfinite(top) & (y >= 0) & (y < classes)


def _with_label(others: jax.Array, y: jax.Array, label: jax.Array) -> jax.Array:
    """`others` [..., V], with `label` [...] in the place of y."""
    index = lax.broadcasted_iota(y.dtype, others.shape, others.ndim - 1)
    return jnp.where(index == y[..., None], label[..., None], others)


def _exp_difference(x: jax.Array, top: jax.Array) -> jax.Array:
    """exp(x - top) for x <= top, with what the subtraction rounds off: alone, that is worth up to 64 ulp.

    Knuth's error-free difference: `difference + error` is x - top exactly, and exp(error) is 1 + error.
    """
    # -inf would make the error NaN. So far below the top (1024 and more), a finite logit is as good.
    lowest = jnp.maximum(top - (1024 + jnp.abs(top) / 1024), -largest(x.dtype))
    x = jnp.maximum(x, lowest)
    difference = x - top
    moved = difference - x
    error = (x - (difference - moved)) - (top + moved)
    exp = jnp.exp(difference)
    return exp + exp * error
