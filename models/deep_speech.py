"""Deep Speech: three layers on windows of frames, one recurrence in both directions, and one layer more."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from xent.models.dense import dropout as drop
from xent.models.frames import output_lengths, silent
from xent.models.functional import Model, functional
from xent.models.recurrent import BidirectionalReLU, clipped_relu


class _DeepSpeech(nnx.Module):
    def __init__(
        self, features: int, outputs: int, units: int, context: int, stride: int, rate: float, dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        he = nnx.initializers.he_normal()
        self.stride, self.rate, self.dtype = stride, rate, dtype
        # A dense layer on each window of frames is a convolution; frames before the first and behind the last are 0.
        self.layer1 = nnx.Conv(
            features, units, 2 * context + 1, strides=stride, padding=((context, context),), dtype=dtype,
            kernel_init=he, rngs=rngs,
        )  # fmt: skip
        self.layer2, self.layer3 = (nnx.Linear(units, units, dtype=dtype, kernel_init=he, rngs=rngs) for _ in range(2))
        self.layer4 = BidirectionalReLU(units, units, dtype=dtype, rngs=rngs)
        self.layer5 = nnx.Linear(units, units, dtype=dtype, kernel_init=he, rngs=rngs)
        self.output = nnx.Linear(units, outputs, dtype=dtype, rngs=rngs)

    def __call__(self, features: jax.Array, feature_lengths: jax.Array, key: jax.Array | None = None) -> jax.Array:
        keys = [None] * 4 if key is None else list(jax.random.split(key, 4))
        x = silent(features, feature_lengths).astype(self.dtype)
        for layer, its in zip((self.layer1, self.layer2, self.layer3), keys, strict=False):
            x = drop(clipped_relu(layer(x)), self.rate, its)
        x = self.layer4(x, output_lengths(feature_lengths, self.stride))
        return self.output(drop(clipped_relu(self.layer5(x)), self.rate, keys[3]))


def deep_speech(
    key: jax.Array,
    *,
    features: int,
    outputs: int,
    units: int = 128,
    context: int = 5,
    stride: int = 2,
    dropout: float = 0.0,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Build Deep Speech: of each clip, logits of symbols along time, for the CTC loss.

    Layers 1, 2, 3 and 5 are dense, of clipped rectified units, and look at one frame each, the first at `context`
    frames more on each side; the fourth runs through the clip in both directions.

    Args:
      key: PRNG key of the initial weights (He's normal; those of the recurrence orthogonal; biases zero).
      features: M, numbers a frame.
      outputs: V, logits a frame; the loss's blank is one of them.
      units: of each hidden layer; the paper's networks have 2048 and more.
      context: frames that the first layer sees on each side of its own; in the paper 5, 7 or 9.
      stride: every so-many-th frame is one of the outputs; in the paper 2.
      dropout: share of the dense layers' units that is dropped where there is a key; in the paper 5 to 10 %.
      dtype: what products are computed in; parameters are float32 whatever it is.

    Returns:
      `(apply, params)`; `apply(params, features, feature_lengths, *, key=None)` takes float `[batch, T, M]` and integer
      `[batch]` and gives logits `[batch, ceil(T / stride), V]` in `dtype`; `output_lengths(feature_lengths, stride)` of
      `xent.models.frames` says how many are a clip's own. What padding holds, even NaN, has no influence on these.

    Raises:
      ValueError: for a context below 0 or a stride below 1.

    Example:
      >>> apply, params = deep_speech(jax.random.key(0), features=40, outputs=11, units=32)
      >>> jax.jit(apply)(params, jnp.zeros((2, 99, 40)), jnp.array([99, 70])).shape
      (2, 50, 11)

    Source: Hannun et al., Deep Speech, 2014, sections 2, 3.1 and 3.3, https://arxiv.org/abs/1412.5567
    """
    if context < 0 or stride < 1:
        raise ValueError(f"context must be 0 or more and stride 1 or more, got {context} and {stride}")
    rngs = nnx.Rngs(key)
    return functional(_DeepSpeech(features, outputs, units, context, stride, dropout, dtype, rngs))
