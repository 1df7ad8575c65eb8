"""Losses of generative adversarial networks: two networks, one cross-entropy, opposite interests.

The discriminator's logit is the log-odds that a sample is real. Both games have the same discriminator; in the
minimax game the generator loses what it gains, in the non-saturating one it has a loss of its own.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from xent.losses import _checks
from xent.losses.binary import sigmoid_binary_cross_entropy


def discriminator_loss(
    real_logits: ArrayLike, fake_logits: ArrayLike, *, one_sided_label_smoothing: float = 0.0
) -> jax.Array:
    r"""The discriminator's loss, in either game: the cross-entropy of telling real samples from generated ones.

    .. math:: -(1 - s) \log \sigma(z_r) - s \log \sigma(-z_r) - \log \sigma(-z_f)

    Args:
      real_logits: `z_r`, the discriminator's logits of real samples, float [...]. bfloat16 and float16 are computed in
        float32.
      fake_logits: `z_f`, those of generated samples, of the shape of `real_logits`. Of numbers that differ, take the
        means of `non_saturating_generator_loss(real_logits)` and of `-minimax_generator_loss(fake_logits)`.
      one_sided_label_smoothing: `s`, by how much the target of a real sample falls short of 1. That of a generated
        one stays 0: smoothed, it would hold the generator to its own mistakes.

    Returns:
      The loss of each pair in nats, float32 (float64 if one of the logits is), of the shape of `real_logits`, within
      8 ulp. It is log 4 for a discriminator that cannot tell. An infinite logit costs 0 if it is right for certain and
      inf otherwise. NaN gives NaN in the loss and in its gradient; but the gradient is exactly 0, whatever the element
      holds, where the cotangent is 0.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import discriminator_loss
      >>> jnp.set_printoptions(precision=4)
      >>> print(discriminator_loss(jnp.array([0.0, 2.0]), jnp.array([0.0, -1.0])))
      [1.3863 0.4402]

    Source:
      Goodfellow et al., Generative Adversarial Nets, 2014, equation 1 and algorithm 1, https://arxiv.org/abs/1406.2661;
      smoothing: Salimans et al., Improved Techniques for Training GANs, 2016, section 3.4,
      https://arxiv.org/abs/1606.03498
    """
    real = _checks.computed(_checks.array_of("real_logits", real_logits, jnp.floating))
    fake = _checks.computed(_checks.array_of("fake_logits", fake_logits, jnp.floating))
    _checks.same_shape("fake_logits", fake, real.shape, "the shape of real_logits")
    smoothing = _checks.fraction("one_sided_label_smoothing", one_sided_label_smoothing)
    # Two hard losses, and not one of the label 1 - s, which a small s would be lost from.
    loss = _cost(fake, real=False)
    if smoothing < 1:
        loss += (1 - smoothing) * _cost(real, real=True)
    if smoothing > 0:
        loss += smoothing * _cost(real, real=False)
    return loss


def minimax_generator_loss(fake_logits: ArrayLike) -> jax.Array:
    r"""The generator's loss in the minimax game: the discriminator's on generated samples, negated.

    .. math:: \log \sigma(-z_f)

    Its gradient, -sigmoid(z_f), vanishes where the discriminator is sure of itself, as it is early in training.

    Args:
      fake_logits: `z_f`, the discriminator's logits of generated samples, float [...]. bfloat16 and float16 are
        computed in float32.

    Returns:
      The loss of each element in nats, never above 0, float32 (float64 for float64), of the shape of `fake_logits`,
      within 8 ulp; infinite logits, NaN and zero cotangents as for `discriminator_loss`.

    Raises:
      ValueError: for an argument of the wrong dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import minimax_generator_loss
      >>> jnp.set_printoptions(precision=4)
      >>> print(minimax_generator_loss(jnp.array([0.0, -1.0])))
      [-0.6931 -0.3133]

    Source:
      Goodfellow et al., Generative Adversarial Nets, 2014, equation 1, https://arxiv.org/abs/1406.2661
    """
    return -_cost(_checks.array_of("fake_logits", fake_logits, jnp.floating), real=False)


def non_saturating_generator_loss(fake_logits: ArrayLike) -> jax.Array:
    r"""The generator's loss in the non-saturating game: the cross-entropy of passing for real.

    .. math:: -\log \sigma(z_f)

    It has the minimax game's fixed point, and its gradient, -sigmoid(-z_f), is largest where that one vanishes.

    Args:
      fake_logits: `z_f`, the discriminator's logits of generated samples, float [...]. bfloat16 and float16 are
        computed in float32.

    Returns:
      The loss of each element in nats, float32 (float64 for float64), of the shape of `fake_logits`, within 8 ulp;
      infinite logits, NaN and zero cotangents as for `discriminator_loss`.

    Raises:
      ValueError: for an argument of the wrong dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import non_saturating_generator_loss
      >>> jnp.set_printoptions(precision=4)
      >>> print(non_saturating_generator_loss(jnp.array([0.0, -1.0])))
      [0.6931 1.3133]

    Source:
      Goodfellow et al., Generative Adversarial Nets, 2014, section 3, https://arxiv.org/abs/1406.2661
    """
    return _cost(_checks.array_of("fake_logits", fake_logits, jnp.floating), real=True)


def _cost(logits: jax.Array, *, real: bool) -> jax.Array:
    return sigmoid_binary_cross_entropy(logits, jnp.full(logits.shape, real))
