"""AlexNet: five convolutions, some in two groups, local response normalisation, three dense layers with dropout."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from xent.models.dense import DenseLayers
from xent.models.functional import Model, functional

SMALLEST = 17
"""Pixels a side that leave one pixel after the first convolution and three poolings."""


NEIGHBOURS, BIAS, ALPHA = 5, 2.0, 1e-4
"""n, k and α of the paper's local response normalisation; its β is 3/4."""


def local_response_normalisation(x: jax.Array) -> jax.Array:
    r"""Divide each map by a power of the energy of the maps beside it.

    .. math:: b_i = a_i \left(2 + 10^{-4} \sum_{|j - i| \le 2} a_j^2 \right)^{-3/4}

    Args:
      x: `a`, float `[..., maps]`.

    Returns:
      As `x`; the energy is computed in float32.

    Example:
      >>> round(float(local_response_normalisation(jnp.full((1, 1, 1, 3), 100.0))[0, 0, 0, 1]), 2)
      29.91

    Source: Krizhevsky, Sutskever and Hinton 2012, section 3.3.
    """
    maps = jnp.arange(x.shape[-1])
    beside = jnp.abs(maps[:, None] - maps[None]) <= NEIGHBOURS // 2
    # A product, since on a CPU sums of shifted slices take three times as long with their gradient.
    squares = jnp.square(x.astype(jnp.float32))
    energy = jnp.matmul(squares, beside.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    root = jax.lax.rsqrt(BIAS + ALPHA * energy)
    return (x * root * jnp.sqrt(root)).astype(x.dtype)  # three times as fast as a power, on a CPU


def _pool(x: jax.Array) -> jax.Array:
    """The largest of 3 x 3 pixels, every second pixel: the paper's overlapping pooling.

    Along one side and then along the other: on a CPU three times as fast as a window, with its gradient.
    """
    for axis in (1, 2):
        end = x.shape[axis] - 2  # of where windows begin
        one, two, three = (jax.lax.slice_in_dim(x, i, end + i, 2, axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(one, two), three)
    return x


class _TwoGroups(nnx.Module):
    """A convolution of which each half of the maps sees half of the maps before, as on the paper's two GPUs.

    Two convolutions and not one with groups, whose gradient XLA:CPU computes several times slower.
    """

    def __init__(self, before: int, after: int, size: int, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        he = nnx.initializers.he_normal()
        self.halves = nnx.Dict(
            {
                str(i): nnx.Conv(before // 2, after // 2, (size, size), dtype=dtype, kernel_init=he, rngs=rngs)
                for i in range(2)
            }
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        parts = zip(self.halves.values(), jnp.split(x, 2, axis=-1), strict=True)
        return jnp.concatenate([half(part) for half, part in parts], axis=-1)


def stem(side: int) -> tuple[int, int]:
    """Size and stride of the first convolution: the paper's 11 and 4, less on images that would not bear it.

    Example:
      >>> stem(227), stem(96), stem(32)
      ((11, 4), (7, 2), (3, 1))
    """
    return (11, 4) if side >= 128 else (7, 2) if side >= 64 else (3, 1)


class _AlexNet(nnx.Module):
    def __init__(
        self, inputs: Sequence[int], outputs: int, width: float, rate: float, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        he = nnx.initializers.he_normal()
        self.dtype = dtype
        a, b, c, d, e = (2 * max(1, round(maps * width / 2)) for maps in (96, 256, 384, 384, 256))
        size, stride = stem(min(inputs[:2]))

        self.conv1 = nnx.Conv(
            inputs[2], a, (size, size), strides=stride, padding="VALID", dtype=dtype, kernel_init=he, rngs=rngs
        )
        self.conv2 = _TwoGroups(a, b, 5, dtype, rngs)
        self.conv3 = nnx.Conv(b, c, (3, 3), dtype=dtype, kernel_init=he, rngs=rngs)
        self.conv4 = _TwoGroups(c, d, 3, dtype, rngs)
        self.conv5 = _TwoGroups(d, e, 3, dtype, rngs)
        left = 1
        for side in inputs[:2]:
            side = (side - size) // stride + 1
            for _ in range(3):
                side = (side - 3) // 2 + 1
            left *= side
        self.dense = DenseLayers(left * e, max(1, round(4096 * width)), outputs, rate, dtype, rngs)

    def __call__(self, inputs: jax.Array, key: jax.Array | None = None) -> jax.Array:
        x = inputs.astype(self.dtype)
        for convolution in (self.conv1, self.conv2):
            x = _pool(local_response_normalisation(nnx.relu(convolution(x))))
        for convolution in (self.conv3, self.conv4, self.conv5):
            x = nnx.relu(convolution(x))
        return self.dense(_pool(x), key)


def alexnet(
    key: jax.Array,
    *,
    inputs: Sequence[int],
    outputs: int,
    width: float = 1.0,
    dropout: float = 0.5,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Build AlexNet: at full width, on 227 x 227 pixels and 1000 classes, the paper's 60,965,224 parameters.

    (The paper says 224 x 224, on which its first convolution does not come out even.)

    Args:
      key: PRNG key of the initial weights, He's, where the paper has one size for all; biases zero.
      inputs: height, width and channels of an image; on smaller ones than the paper's the first convolution shrinks,
        see `stem`.
      outputs: logits an example.
      width: of the paper's maps and units, the share that each layer has.
      dropout: share of the dense layers' units that is dropped where there is a key.
      dtype: what products are computed in; parameters are float32 whatever it is.

    Returns:
      `(apply, params)`; `apply(params, images, *, key=None)` takes `[batch, height, width, channels]` and gives
      `[batch, outputs]` logits in `dtype`.

    Raises:
      ValueError: if an image is too small, or for a width that is not above 0.

    Example:
      >>> from functools import partial
      >>> from xent.models.functional import outline
      >>> apply, shapes = outline(partial(alexnet, inputs=(227, 227, 3), outputs=1000))  # without computing the weights
      >>> jax.eval_shape(apply, shapes, jnp.zeros((2, 227, 227, 3))).shape
      (2, 1000)

    Source: Krizhevsky, Sutskever and Hinton 2012,
      https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks
    """
    if len(inputs) != 3 or min(inputs[:2]) < SMALLEST:
        raise ValueError(f"inputs must be height, width (both {SMALLEST} or more) and channels, got {tuple(inputs)}")
    if not 0 < width < float("inf"):
        raise ValueError(f"width must be above 0, got {width}")
    return functional(_AlexNet(inputs, outputs, width, dropout, dtype, nnx.Rngs(key)))
