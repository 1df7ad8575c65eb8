"""Convolutions over time and gated recurrent layers in both directions, after Deep Speech 2."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from xent.models.dense import dropout as drop
from xent.models.frames import output_lengths, silent
from xent.models.functional import Model, functional
from xent.models.recurrent import BidirectionalGRU, clipped_relu


class _Convolution(nnx.Module):
    """Over time; then each frame's own norm, and clipped rectified units."""

    def __init__(self, inputs: int, maps: int, width: int, stride: int, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.stride = stride
        padding = ((width // 2, width // 2),)
        self.convolution = nnx.Conv(
            inputs, maps, width, strides=stride, padding=padding, use_bias=False, dtype=dtype, rngs=rngs
        )
        self.norm = nnx.LayerNorm(maps, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        return clipped_relu(self.norm(self.convolution(silent(x, lengths))))


class _ConvGRU(nnx.Module):
    def __init__(
        self, features: int, outputs: int, maps: int, width: int, strides: Sequence[int], units: int, layers: int,
        rate: float, dtype: DTypeLike, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        self.rate, self.dtype = rate, dtype
        befores = [features, *[maps] * (len(strides) - 1)]
        self.convolutions = nnx.Dict({
            str(i): _Convolution(before, maps, width, stride, dtype, rngs)
            for i, (before, stride) in enumerate(zip(befores, strides, strict=True))
        })  # fmt: skip
        befores = [maps, *[units] * (layers - 1)]
        self.recurrent = nnx.Dict({
            str(i): BidirectionalGRU(before, units, dtype=dtype, rngs=rngs) for i, before in enumerate(befores)
        })  # fmt: skip
        self.output = nnx.Linear(units, outputs, dtype=dtype, rngs=rngs)

    def __call__(self, features: jax.Array, feature_lengths: jax.Array, key: jax.Array | None = None) -> jax.Array:
        keys = [None] * len(self.recurrent) if key is None else list(jax.random.split(key, len(self.recurrent)))
        x, lengths = features.astype(self.dtype), feature_lengths
        for convolution in self.convolutions.values():
            x = convolution(x, lengths)
            lengths = output_lengths(lengths, convolution.stride)
        for layer, its in zip(self.recurrent.values(), keys, strict=True):
            x = drop(layer(x, lengths), self.rate, its)
        return self.output(x)


def conv_gru(
    key: jax.Array,
    *,
    features: int,
    outputs: int,
    maps: int = 128,
    width: int = 5,
    strides: Sequence[int] = (2, 1),
    units: int = 128,
    layers: int = 1,
    dropout: float = 0.0,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Build convolutions over time, gated recurrent layers in both directions and a linear map to logits.

    Where the paper normalises by what a minibatch holds, a norm of each frame's own does here: so no clip depends on
    those beside it.

    Args:
      key: PRNG key of the initial weights (LeCun normal; those of the recurrence orthogonal; biases zero).
      features: M, numbers a frame.
      outputs: V, logits a frame; the loss's blank is one of them.
      maps: channels of each convolution.
      width: frames that a convolution sees, an odd number.
      strides: of each convolution, so many as there are: every so-many-th frame goes on.
      units: of each recurrent layer and direction; the directions are added.
      layers: that are recurrent.
      dropout: share of the recurrent layers' outputs that is dropped where there is a key.
      dtype: what products are computed in; parameters are float32 whatever it is.

    Returns:
      `(apply, params)`; `apply(params, features, feature_lengths, *, key=None)` takes float `[batch, T, M]` and integer
      `[batch]` and gives logits `[batch, T', V]` in `dtype`, where T' is T over the strides, each time rounded up;
      `output_lengths(feature_lengths, *strides)` of `xent.models.frames` says how many are a clip's own. What padding
      holds, even NaN, has no influence on these.

    Raises:
      ValueError: for an even width, a stride below 1, no convolution or no recurrent layer.

    Example:
      >>> apply, params = conv_gru(jax.random.key(0), features=40, outputs=11, maps=16, units=16)
      >>> jax.jit(apply)(params, jnp.zeros((2, 99, 40)), jnp.array([99, 70])).shape
      (2, 50, 11)

    Source: Amodei et al., Deep Speech 2, 2015, section 3, https://arxiv.org/abs/1512.02595; the norm, Ba et al. 2016,
      https://arxiv.org/abs/1607.06450
    """
    if width < 1 or width % 2 == 0:
        raise ValueError(f"width must be an odd number, so that a window has a middle, got {width}")
    if not strides or any(stride < 1 for stride in strides):
        raise ValueError(f"strides must be one or more numbers of 1 or more, one a convolution, got {tuple(strides)}")
    if layers < 1:
        raise ValueError(f"layers must be 1 or more, got {layers}")
    rngs = nnx.Rngs(key)
    return functional(_ConvGRU(features, outputs, maps, width, strides, units, layers, dropout, dtype, rngs))
