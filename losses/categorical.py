"""Cross-entropy of one class among many, from logits and either integer labels or a weight for each class."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from xent.losses import _checks, _cross_entropy, _modifiers, _rows, _shards
from xent.losses._rules import with_rule
from xent.losses._shards import AxisName


def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    *,
    label_smoothing: float = 0.0,
    class_weights: ArrayLike | None = None,
    ignore_index: int | None = None,
    z_loss: float = 0.0,
    logit_soft_cap: float | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""Cross-entropy between the softmax of the logits and a class given by its index.

    .. math::
        -(1 - s) w_y \log p_y - \frac{s}{V} \sum_j w_j \log p_j + \zeta L^2, \qquad
        p_j = e^{x_j - L}, \quad L = \log \sum_k e^{x_k}, \quad x = \frac{c}{T} \tanh \frac{z}{c}

    Args:
      logits: `z`, unnormalised log-probabilities, float [..., V]. bfloat16 and float16 are computed in float32.
        -inf is a class of probability 0, and stays so under soft cap and temperature.
      labels: `y`, the class of each example, integer, of the shape of `logits` without `axis`.
      axis: the axis of the classes, or a tuple of axes; a label then is the flat index in row-major order of them.
      where: what takes part, bool. Of the shape of `labels` it selects examples; of the shape of `logits`, classes.
      label_smoothing: `s`, the share of the target that is spread over the `V` classes (the selected ones).
      class_weights: `w`, float or integer [V], the weight of each class's term; 1 if not given. The loss is
        differentiable in it. No weight is ever in a denominator.
      ignore_index: the label of the examples that have no loss. It need not be in [0, V).
      z_loss: `zeta`, the weight of the squared log-normaliser, a Python float of at least 0.
      logit_soft_cap: `c`, a Python float above 0: the logits are bent to stay within +-c. None bends nothing.
      temperature: `T` above 0, a Python float or a scalar array; the loss is differentiable in an array.
      axis_name: the mapped axis of `shard_map`, or several, that the classes are split over, evenly and in order. Of
        the classes, `logits`, `class_weights` and `where` are then a shard's part, and `V` counts those of all shards;
        `labels` are indices among all. Every shard returns the whole loss. None: all classes are here.

    Returns:
      The loss of each example in nats, float32 (float64 for float64 logits), of the shape of `labels`.
      Where nothing is selected, and for ignored labels, it is 0 and its gradient is 0. A label that is masked out, or
      whose logit is -inf, costs inf, unless its weight is 0. A label outside of [0, V), and a row that holds NaN, +inf
      or nothing above -inf, gives NaN in the loss and in its gradient; but the gradient is exactly 0, whatever the row
      holds, where the cotangent is 0.
      For up to 1000 classes the loss is within 8 ulp and its gradient within 8 ulp of `w_y (p_y - 1)` and `w_y p_j`
      (smoothed: of the larger of `p_j` times the target's sum and the target, and 2 ulp more with class weights, which
      round the target); 32 ulp to 262144 classes; beyond that, V times the smallest normal float. Hessian products
      `H v` are within as many ulp, and 8, of `w_y p_j (|v_j - v_y| + sum_k p_k |v_k - v_y|)`. `L` is within 4 ulp of
      the larger of its size, `log V` and the largest logit. Soft cap and temperature round each logit by up to 8 ulp of
      itself, and so move the loss by that; their slopes, which multiply the gradient, are within 4 ulp and 1.
      In a `scan` that is differentiated in reverse, the next derivative is right on jax 0.10 too; but with large logits
      that of a power of the loss, say, is so only if the loop's body is under `jax.checkpoint`.

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
      the Inception Architecture for Computer Vision, 2016, section 7, https://arxiv.org/abs/1512.00567; z-loss:
      Chowdhery et al., PaLM, 2022, section 5, https://arxiv.org/abs/2204.02311; soft cap: Gemma Team, Gemma 2, 2024,
      section 2, https://arxiv.org/abs/2408.00118
    """
    z = _checks.array_of("logits", logits, jnp.floating)
    y = _checks.array_of("labels", labels, jnp.integer)
    axes = _checks.axes_of("axis", axis, z.shape)
    (x,), selection = _rows.of({"logits": z}, axes, where, axis_name)
    _checks.same_shape("labels", y, selection.batch, f"the shape of logits {z.shape} without axis {axis}")
    smoothing = _checks.fraction("label_smoothing", label_smoothing)
    weights = _modifiers.class_weights_of(class_weights, x)
    ignored = _modifiers.index_or_none("ignore_index", ignore_index)
    z_weight = _checks.non_negative("z_loss", z_loss)

    kept = None if ignored is None else _differs(y, ignored)
    y = _checks.signed(y)
    x = selection.fill(_modifiers.scaled(x, logit_soft_cap, temperature), -jnp.inf)
    if smoothing > 0:
        index = lax.broadcasted_iota(x.dtype, x.shape, x.ndim - 1)
        place = _shards.here(y, x.shape[-1], axis_name).astype(x.dtype)
        one_hot = jnp.maximum(1 - jnp.abs(index - place[..., None]), 0)
        target = _modifiers.smoothed(one_hot, smoothing, 1, selection.classes, axis_name)
        target = target if weights is None else target * jnp.broadcast_to(weights, x.shape)
        valid = (y >= 0) & (y < x.shape[-1] * _shards.count(axis_name))
        losses = with_rule(_cross_entropy.of_target, 3)(x, target, valid, axis_name)
    else:
        losses = with_rule(_cross_entropy.of_class, 2)(x, y, axis_name)
        if weights is not None:
            losses = _cross_entropy.weighted(_shards.pick(weights, y, axis_name), losses)
    if z_weight > 0:
        losses += z_weight * with_rule(_squared_normaliser, 1)(x, axis_name)
    losses = selection.losses(losses)
    return losses if kept is None else jnp.where(kept, losses, 0)


def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
    *,
    label_smoothing: float = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: float = 0.0,
    logit_soft_cap: float | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""Cross-entropy between the softmax of the logits and a weight for each class, most often a distribution.

    .. math::
        -\sum_j w_j t_j' \log p_j + \zeta L^2, \qquad t_j' = (1 - s) t_j + \frac{s}{V} \sum_k t_k, \quad
        p_j = e^{x_j - L}, \quad L = \log \sum_k e^{x_k}, \quad x = \frac{c}{T} \tanh \frac{z}{c}

    Args:
      logits: `z`, unnormalised log-probabilities, float [..., V]. bfloat16 and float16 are computed in float32.
        -inf is a class of probability 0, and stays so under soft cap and temperature.
      labels: `t`, the weight of each class, not negative, float, integer or bool, of the shape of `logits`. They need
        not sum to 1. The loss is differentiable in them too.
      axis: the axis of the classes, or a tuple of axes, or None for all.
      where: what takes part, bool. Of the shape of `logits` it selects classes, and the labels of the others are left
        out; of that shape without `axis`, examples.
      label_smoothing: `s`, the share of each target's sum that is spread over the `V` classes (the selected ones).
      class_weights: `w`, float or integer [V], the weight of each class's term; 1 if not given. The loss is
        differentiable in it. No weight is ever in a denominator.
      z_loss: `zeta`, the weight of the squared log-normaliser, a Python float of at least 0.
      logit_soft_cap: `c`, a Python float above 0: the logits are bent to stay within +-c. None bends nothing.
      temperature: `T` above 0, a Python float or a scalar array; the loss is differentiable in an array.
      axis_name: the mapped axis of `shard_map`, or several, that the classes are split over, evenly and in order. Of
        the classes, `logits`, `labels`, `class_weights` and `where` are then a shard's part. None: all are here.

    Returns:
      The loss of each example in nats, float32 (float64 for float64 arguments), of `logits`' shape without `axis`.
      Where nothing is selected it is 0 and its gradient is 0. Any weight on a logit of -inf costs inf, and no weight
      there costs nothing. A row whose logits hold NaN, +inf or nothing above -inf, or whose labels hold NaN or inf,
      gives NaN in the loss and in its gradient; but the gradient is exactly 0, whatever the row holds, where the
      cotangent is 0.
      For up to 1000 classes the loss is within 8 ulp and its gradient within 8 ulp of the larger of `p_j sum(t)` and
      `t_j`, and 2 ulp more with class weights, which round the target; 32 ulp to 262144 classes; beyond that, V times
      the smallest normal float (and times `sum(t)`, if above 1), which is also the least target that counts. Hessian
      products `H v` are within as many ulp, and 8, of `p_j sum(t) (|v_j - v_k| + sum_i p_i |v_i - v_k|)`, k being the
      largest logit. `L` is within 4 ulp of the larger of its size, `log V` and the largest logit. Soft cap and
      temperature round each logit by up to 8 ulp of itself, and so move the loss by that; their slopes, which multiply
      the gradient, are within 4 ulp and 1.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import softmax_cross_entropy
      >>> jnp.set_printoptions(precision=4)
      >>> logits = jnp.log(jnp.array([[0.8, 0.2], [0.1, 0.9]]))
      >>> print(softmax_cross_entropy(logits, jnp.array([[1.0, 0.0], [0.5, 0.5]])))
      [0.2231 1.204 ]

    Source:
      Bishop, Pattern Recognition and Machine Learning, 2006, equation 4.108; the modifiers: as in
      `softmax_cross_entropy_with_integer_labels`.
    """
    z = _checks.array_of("logits", logits, jnp.floating)
    t = _checks.array_of("labels", labels, jnp.floating, jnp.integer, jnp.bool_)
    (x, target), selection = _rows.of({"logits": z, "labels": t}, axis, where, axis_name)
    smoothing = _checks.fraction("label_smoothing", label_smoothing)
    weights = _modifiers.class_weights_of(class_weights, x)
    z_weight = _checks.non_negative("z_loss", z_loss)

    x = selection.fill(_modifiers.scaled(x, logit_soft_cap, temperature), -jnp.inf)
    target = selection.fill(target, 0)
    if smoothing > 0:
        share = _shards.total(target.sum(-1, keepdims=True), axis_name)
        target = _modifiers.smoothed(target, smoothing, share, selection.classes, axis_name)
    if weights is not None:
        target = _cross_entropy.weighted(jnp.broadcast_to(weights, x.shape), target)
    losses = with_rule(_cross_entropy.of_target, 3)(x, target, jnp.ones(selection.batch, bool), axis_name)
    if z_weight > 0:
        losses += z_weight * with_rule(_squared_normaliser, 1)(x, axis_name)
    return selection.losses(losses)


def _squared_normaliser(x: jax.Array, axis_name: AxisName | None) -> jax.Array:
    return _cross_entropy.log_normaliser(x, axis_name) ** 2


def _differs(y: jax.Array, index: int) -> jax.Array:
    """Whether a label is another than `index`, which may be no value of its dtype."""
    info = jnp.iinfo(y.dtype)
    return y != index if info.min <= index <= info.max else jnp.ones(y.shape, bool)
