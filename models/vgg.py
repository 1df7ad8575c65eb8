"""VGG: 3 x 3 convolutions in five groups with a halving after each, then three dense layers."""

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from xent.models.dense import DenseLayers
from xent.models.functional import Model, functional

Depth = Literal[11, 13, 16, 19]
"""Layers with weights: the paper's configurations A, B, D and E."""
_CONVOLUTIONS: dict[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
_MAPS = (64, 128, 256, 512, 512)
_DENSE = 4096


def _halve(x: jax.Array) -> jax.Array:
    """The largest of each 2 x 2 pixels; where a side is odd, the last ones have fewer neighbours.

    By a reshape: on a CPU three times as fast as a window, with its gradient.
    """
    batch, height, width, maps = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))  # zeros: no rectified value is less
    return x.reshape(batch, -(-height // 2), 2, -(-width // 2), 2, maps).max((2, 4))


class _VGG(nnx.Module):
    def __init__(
        self, inputs: Sequence[int], outputs: int, depth: int, width: float, rate: float, dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        he = nnx.initializers.he_normal()
        self.dtype = dtype
        groups: dict[str, nnx.Dict[nnx.Conv]] = {}
        before, (height, across, _) = inputs[2], inputs
        for i, (count, maps) in enumerate(zip(_CONVOLUTIONS[depth], _MAPS, strict=True)):
            group: dict[str, nnx.Conv] = {}
            for j in range(count):
                after = max(1, round(maps * width))
                group[str(j)] = nnx.Conv(before, after, (3, 3), dtype=dtype, kernel_init=he, rngs=rngs)
                before = after
            groups[str(i)] = nnx.Dict(group)
            height, across = -(-height // 2), -(-across // 2)
        self.groups = nnx.Dict(groups)
        units = max(1, round(_DENSE * width))
        self.dense = DenseLayers(height * across * before, units, outputs, rate, dtype, rngs)

    def __call__(self, inputs: jax.Array, key: jax.Array | None = None) -> jax.Array:
        x = inputs.astype(self.dtype)
        for group in self.groups.values():
            for convolution in group.values():
                x = nnx.relu(convolution(x))
            x = _halve(x)
        return self.dense(x, key)


def vgg(
    key: jax.Array,
    *,
    inputs: Sequence[int],
    outputs: int,
    depth: Depth = 16,
    width: float = 1.0,
    dropout: float = 0.5,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Build VGG: at full width, on 224 x 224 pixels and 1000 classes, the paper's networks to the last parameter.

    Args:
      key: PRNG key of the initial weights, He's, which train without the paper's pretraining; biases zero.
      inputs: height, width and channels of an image; the paper's are 224, 224, 3. On smaller ones fewer pixels are
        left for the dense layers.
      outputs: logits an example.
      depth: layers with weights.
      width: of the paper's maps and units, the share that each layer has.
      dropout: share of the dense layers' units that is dropped where there is a key.
      dtype: what products are computed in; parameters are float32 whatever it is.

    Returns:
      `(apply, params)`; `apply(params, images, *, key=None)` takes `[batch, height, width, channels]` and gives
      `[batch, outputs]` logits in `dtype`.

    Raises:
      ValueError: for another depth, or a width that is not above 0.

    Example:
      >>> from functools import partial
      >>> from xent.models.functional import outline
      >>> apply, shapes = outline(partial(vgg, inputs=(224, 224, 3), outputs=1000))  # without computing the weights
      >>> jax.eval_shape(apply, shapes, jnp.zeros((2, 224, 224, 3))).shape
      (2, 1000)

    Source: Simonyan and Zisserman 2014, table 1, https://arxiv.org/abs/1409.1556; He et al. 2015,
      https://arxiv.org/abs/1502.01852
    """
    if depth not in get_args(Depth):
        raise ValueError(f"depth must be one of {', '.join(map(str, get_args(Depth)))}, got {depth}")
    if not 0 < width < float("inf"):
        raise ValueError(f"width must be above 0, got {width}")
    return functional(_VGG(inputs, outputs, depth, width, dropout, dtype, nnx.Rngs(key)))
