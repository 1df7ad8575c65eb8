"""The two losses over a linear head that are asked for by name: cross-entropy with integer labels, and distillation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from xent.losses import _checks, _modifiers, _shards
from xent.losses._shards import AxisName
from xent.losses.categorical import softmax_cross_entropy_with_integer_labels
from xent.losses.distillation import distillation_kl_divergence
from xent.losses.fused import Reduction, fused_linear


def linear_softmax_cross_entropy(
    hidden: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    transpose_kernel: bool = False,
    auxiliary: bool = False,
    label_smoothing: float = 0.0,
    class_weights: ArrayLike | None = None,
    ignore_index: int | None = None,
    z_loss: float = 0.0,
    logit_soft_cap: float | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: AxisName | None = None,
) -> Any:
    r"""Cross-entropy of a linear head's classes, without its logits.

    .. math:: \frac{\sum_n w_n \, \mathrm{CE}(h_n K + b, y_n)}{\sum_n w_n}

    Args:
      hidden: `h`, float [..., D].
      kernel: `K`, float [D, V]; [V, D] with `transpose_kernel`.
      labels: `y`, integer [...].
      bias: `b`, float [V].
      weights: `w`, float or integer [...]; 1 if not given.
      where: the tokens that count, bool [...].
      reduction: "mean", "sum", or None for one loss a token.
      chunk_size: tokens at a time; see `fused_linear`, as for all of the above.
      transpose_kernel: whether the kernel is an embedding, [V, D].
      auxiliary: whether to return `(loss, Auxiliary)`: losses, log-normaliser, arg-max, hits and entropy, a token each.
      label_smoothing: see `softmax_cross_entropy_with_integer_labels`, as for all that follow.
      class_weights: a weight for each class, float or integer [V].
      ignore_index: the label of tokens that have no loss; the mean does not count them.
      z_loss: the weight of the squared log-normaliser.
      logit_soft_cap: the bound of the logits, by `tanh`.
      temperature: what the logits are divided by.
      axis_name: the mapped axis of `shard_map`, or several, that the classes are split over: kernel, bias and class
        weights are then a shard's part, and all else is whole on every shard.

    Returns:
      The mean over the tokens that count, their sum, or [...], in nats, float32 (float64 for float64 arguments): of
      `softmax_cross_entropy_with_integer_labels(hidden @ kernel + bias, labels)`, to the rounding of the products,
      which are added up in float32 for bfloat16 and float16 too. Over no token it is 0 with zero gradients.
      A kernel whose classes do not divide among devices is to be padded: with any columns, and a bias of -inf for
      them. No probability and no gradient goes there. (Smoothing would spread over them: for that, `fused_linear` of a
      loss with `where`, which tells it of the classes that are.)

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import linear_softmax_cross_entropy
      >>> hidden, kernel = jnp.eye(2), jnp.log(jnp.array([[0.8, 0.2], [0.1, 0.9]]))
      >>> print(f"{linear_softmax_cross_entropy(hidden, kernel, jnp.array([0, 1])):.4f}")
      0.1643

      The same in `shard_map`, of tokens split over "data" and classes over "model"; a mean over all devices' tokens:

      >>> import jax
      >>> from jax.sharding import PartitionSpec as P
      >>> from xent.losses import mean
      >>> def loss(hidden, kernel, labels):
      ...     losses = linear_softmax_cross_entropy(hidden, kernel, labels, reduction=None, axis_name="model")
      ...     return mean(losses, axis_name="data")
      >>> mesh = jax.make_mesh((1, 1), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
      >>> specs = P("data", None), P(None, "model"), P("data")
      >>> sharded = jax.jit(jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=P()))
      >>> print(f"{sharded(hidden, kernel, jnp.array([0, 1])):.4f}")
      0.1643

      With `reduction="sum"`, and `jax.lax.psum` of that over "data", the gradient takes a product less.

    Source:
      Wijmans et al., Cut Your Losses in Large-Vocabulary Language Models, 2024, https://arxiv.org/abs/2411.09009, for
      the aim; the chunks are `fused_linear`'s.
    """
    y = _checks.array_of("labels", labels, jnp.integer)
    _checks.same_shape("labels", y, jnp.shape(hidden)[:-1], "one label for each token")
    ignored = _modifiers.index_or_none("ignore_index", ignore_index)
    if ignored is not None:
        kept = y != ignored
        where = kept if where is None else _checks.array_of("where", where, jnp.bool_) & kept
    axes = _shards.axes_of_tokens((hidden, y), axis_name)
    if class_weights is not None:
        class_weights = _checks.array_of("class_weights", class_weights, jnp.floating, jnp.integer)
        class_weights = _shards.vary(class_weights, axes)
    if not isinstance(temperature, (bool, int, float)):
        temperature = _checks.array_of("temperature", temperature, jnp.floating)
        temperature = _shards.vary(temperature, axes)
    loss = partial(
        softmax_cross_entropy_with_integer_labels,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        z_loss=z_loss,
        logit_soft_cap=logit_soft_cap,
        temperature=temperature,
    )
    return fused_linear(loss)(
        hidden, kernel, y, bias=bias, weights=weights, where=where, reduction=reduction,
        chunk_size=chunk_size, transpose_kernel=transpose_kernel, auxiliary=auxiliary, axis_name=axis_name,
    )  # fmt: skip


def linear_distillation(
    hidden: ArrayLike,
    kernel: ArrayLike,
    teacher_hidden: ArrayLike,
    teacher_kernel: ArrayLike,
    *,
    divergence: Callable[..., jax.Array] = distillation_kl_divergence,
    bias: ArrayLike | None = None,
    teacher_bias: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    transpose_kernel: bool = False,
    transpose_teacher_kernel: bool = False,
) -> jax.Array:
    r"""Divergence of a student's head from a teacher's, without the logits of either.

    .. math:: \frac{\sum_n w_n \, d(h_n K + b, h'_n K' + b')}{\sum_n w_n}

    Args:
      hidden: the student's `h`, float [..., D].
      kernel: the student's `K`, float [D, V]; [V, D] with `transpose_kernel`.
      teacher_hidden: the teacher's `h'`, float [..., D']; its own number of units. No gradient flows to the teacher.
      teacher_kernel: the teacher's `K'`, float [D', V]; [V, D'] with `transpose_teacher_kernel`.
      divergence: `d(student_logits, teacher_logits) -> [tokens]`: one of `distillation_*`, with its temperature bound
        by `functools.partial`, or one's own.
      bias: the student's `b`, float [V].
      teacher_bias: the teacher's `b'`, float [V].
      weights: `w`, float or integer [...]; 1 if not given.
      where: the tokens that count, bool [...].
      reduction: "mean", "sum", or None for one divergence a token.
      chunk_size: tokens at a time; see `fused_linear`.
      transpose_kernel: whether the student's kernel is an embedding, [V, D].
      transpose_teacher_kernel: whether the teacher's is, [V, D'].

    Returns:
      The mean over the tokens that count, their sum, or [...], in nats, float32 (float64 for float64 arguments).

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import linear_distillation
      >>> hidden, kernel = jnp.eye(2), jnp.log(jnp.array([[0.8, 0.2], [0.1, 0.9]]))
      >>> print(f"{linear_distillation(hidden, kernel, hidden, 2 * kernel):.4f}")
      0.0736

    Source:
      Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, section 2,
      https://arxiv.org/abs/1503.02531
    """
    teacher = _checks.array_of("teacher_hidden", teacher_hidden, jnp.floating)
    if not teacher.ndim:
        raise ValueError("teacher_hidden must be [..., D'], got a scalar")
    head = _checks.array_of("teacher_kernel", teacher_kernel, jnp.floating)
    batch = jnp.shape(hidden)[:-1]
    if teacher.shape[:-1] != batch:
        raise ValueError(f"teacher_hidden must have a row for each token, {batch}, got {teacher.shape[:-1]}")
    head = lax.stop_gradient(head.T if transpose_teacher_kernel else head)
    if head.ndim != 2 or head.shape[0] != teacher.shape[-1]:
        form = f"[D', V] for teacher_hidden [..., D'], {teacher.shape}"
        raise ValueError(f"teacher_kernel must be {form}, got {head.shape}")
    dtype = jnp.result_type(teacher, head, jnp.float32)
    offset = jnp.zeros(head.shape[1:], dtype)
    if teacher_bias is not None:
        offset = lax.stop_gradient(_checks.array_of("teacher_bias", teacher_bias, jnp.floating))
        _checks.same_shape("teacher_bias", offset, head.shape[1:], "one number for each class")

    # Bound, not closed over: where a mesh's axes are explicit, `fused_linear` sees no other arrays.
    loss = partial(_from_teacher, kernel=head, bias=offset.astype(dtype), divergence=divergence)
    result: jax.Array = fused_linear(loss)(
        hidden, kernel, lax.stop_gradient(teacher), bias=bias, weights=weights, where=where, reduction=reduction,
        chunk_size=chunk_size, transpose_kernel=transpose_kernel,
    )  # fmt: skip
    return result


def _from_teacher(
    logits: jax.Array, states: jax.Array, *, kernel: jax.Array, bias: jax.Array, divergence: Callable[..., jax.Array]
) -> jax.Array:
    """The divergence of logits [tokens, V] from those that the teacher's kernel makes of its states [tokens, D']."""
    return divergence(logits, jnp.dot(states, kernel, preferred_element_type=bias.dtype) + bias[None])
