"""Cross-entropy of each next token of a sequence, without a shifted copy of the logits."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from xent.losses import _checks
from xent.losses.categorical import softmax_cross_entropy_with_integer_labels


def next_token_cross_entropy(
    logits: ArrayLike,
    tokens: ArrayLike,
    where: ArrayLike | None = None,
    *,
    segment_ids: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    class_weights: ArrayLike | None = None,
    ignore_index: int | None = None,
    z_loss: float = 0.0,
    logit_soft_cap: float | None = None,
    temperature: ArrayLike = 1.0,
) -> jax.Array:
    r"""Cross-entropy between the logits at each position and the token at the next.

    .. math:: l_t = -\log p_{t, x_{t+1}}, \quad t = 1, \dots, T - 1, \qquad l_T = 0

    The logits of the last position predict nothing. They are masked, not cut off: a slice copies the largest array of
    the whole model, and its gradient does so again, wherever the compiler does not fuse it away. So the losses keep all
    `T` positions; to average those that count, use the mask of `next_token_targets`.

    Args:
      logits: unnormalised log-probabilities of the next token, float [..., T, V].
      tokens: `x`, the sequence itself, not shifted, integer [..., T].
      where: the tokens that count as targets, bool [..., T]: the loss at position `t` counts if token `t + 1` does.
      segment_ids: the document of each token, integer [..., T], where several are packed into one sequence: no token
        predicts one of another document.
      label_smoothing: see `softmax_cross_entropy_with_integer_labels`, as for all that follow.
      class_weights: a weight for each token of the vocabulary, float [V].
      ignore_index: a token that is never a target; `where` says the same of a position.
      z_loss: the weight of the squared log-normaliser.
      logit_soft_cap: the bound of the logits, by `tanh`.
      temperature: what the logits are divided by.

    Returns:
      The loss of each position in nats, float32 (float64 for float64 logits), [..., T]; 0, with exactly zero gradients,
      where the next token does not count, and at the last position. Otherwise, and in its errors, it is
      `softmax_cross_entropy_with_integer_labels`.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import mean, next_token_cross_entropy, next_token_targets
      >>> jnp.set_printoptions(precision=4)
      >>> tokens = jnp.array([0, 1, 1])
      >>> logits = jnp.log(jnp.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]))
      >>> losses = next_token_cross_entropy(logits, tokens)
      >>> print(losses)
      [0.2231 0.6931 0.    ]
      >>> _, counted = next_token_targets(tokens)
      >>> print(round(float(mean(losses, where=counted)), 4))
      0.4581

    Source:
      Bengio et al., A Neural Probabilistic Language Model, 2003, section 2; packed documents: Raffel et al., Exploring
      the Limits of Transfer Learning, 2020, section 3.1.2, https://arxiv.org/abs/1910.10683
    """
    x = _checks.array_of("logits", logits, jnp.floating)
    if x.ndim < 2:
        raise ValueError(f"logits must have an axis of positions and one of classes, got shape {x.shape}")
    y = _checks.array_of("tokens", tokens, jnp.integer)
    _checks.same_shape("tokens", y, x.shape[:-1], "the shape of logits without classes")
    labels, counted = next_token_targets(y, where, segment_ids=segment_ids)
    return softmax_cross_entropy_with_integer_labels(
        x,
        labels,
        where=counted,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        ignore_index=ignore_index,
        z_loss=z_loss,
        logit_soft_cap=logit_soft_cap,
        temperature=temperature,
    )


def next_token_targets(
    tokens: ArrayLike, where: ArrayLike | None = None, *, segment_ids: ArrayLike | None = None
) -> tuple[jax.Array, jax.Array]:
    r"""The label of each position, which is the next token, and whether it counts: for any loss of logits and labels.

    .. math:: y_t = x_{t+1}, \qquad c_t = w_{t+1} \wedge (s_t = s_{t+1}), \qquad y_T = 0, \quad c_T = \text{false}

    Args:
      tokens: `x`, integer [..., T].
      where: `w`, the tokens that count as targets, bool [..., T]; all if not given.
      segment_ids: `s`, the document of each token, integer [..., T]; one if not given.

    Returns:
      `(labels, counted)`: `y`, of the dtype of `tokens`, and `c`, bool, both [..., T].

    Raises:
      ValueError: for an argument of the wrong dtype or shape.

    Example:
      Two documents in a sequence; the first token of the second is no target.

      >>> import jax.numpy as jnp
      >>> from xent.losses import next_token_targets
      >>> labels, counted = next_token_targets(jnp.array([5, 6, 7, 8]), segment_ids=jnp.array([1, 1, 2, 2]))
      >>> print(labels, counted)
      [6 7 8 0] [ True False  True False]

    Source:
      The shift of `next_token_cross_entropy`.
    """
    x = _checks.array_of("tokens", tokens, jnp.integer)
    if x.ndim < 1:
        raise ValueError(f"tokens must have an axis of positions, got shape {x.shape}")
    counted = jnp.ones(x.shape, bool)
    if where is not None:
        counted = _checks.array_of("where", where, jnp.bool_)
        _checks.same_shape("where", counted, x.shape, "the shape of tokens")
    counted = _next(counted)
    if segment_ids is not None:
        segments = _checks.array_of("segment_ids", segment_ids, jnp.integer)
        _checks.same_shape("segment_ids", segments, x.shape, "the shape of tokens")
        counted &= segments == _next(segments)
    return _next(x), counted


def _next(array: jax.Array) -> jax.Array:
    """Of each position, what the next one holds; of the last, 0."""
    return jnp.concatenate([array[..., 1:], jnp.zeros_like(array[..., :1])], -1)
