"""LeNet-5: two convolutions, two subsamplings with weights of their own, a table of connections, two dense layers."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from xent.models.functional import Model, functional

FEATURES = 84
"""Units of the last hidden layer, F6: in the paper the pixels of a 7 x 12 picture of each character."""
SMALLEST = 16
"""Pixels a side that leave one pixel after two convolutions of 5 x 5 and two halvings."""

_CONNECTIONS = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5), (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5),
    (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5), (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5),
)  # fmt: skip
"""Table I of the paper: for each of the 16 maps of C3, those of the 6 maps of S2 that it sees."""
_FROM = np.concatenate(_CONNECTIONS)
_TO = np.repeat(np.arange(len(_CONNECTIONS)), [len(seen) for seen in _CONNECTIONS])


def _squash(x: jax.Array) -> jax.Array:
    """The paper's sigmoid: its gain makes f(1) = 1 and f(-1) = -1, where its curvature is largest."""
    return 1.7159 * jnp.tanh(x * (2 / 3))


def _per_map(values: nnx.Param[jax.Array], dtype: DTypeLike) -> jax.Array:
    return values[...].astype(dtype)[None, None, None]


class _Subsampling(nnx.Module):
    """Four neighbours added, times one coefficient a map, plus one bias a map."""

    def __init__(self, maps: int, dtype: DTypeLike) -> None:
        self.dtype = dtype
        self.coefficient = nnx.Param(jnp.full(maps, 0.25))  # the mean, to begin with
        self.bias = nnx.Param(jnp.zeros(maps))

    def __call__(self, x: jax.Array) -> jax.Array:
        total = 4 * nnx.avg_pool(x, (2, 2), strides=(2, 2))
        return total * _per_map(self.coefficient, self.dtype) + _per_map(self.bias, self.dtype)


class _TableConvolution(nnx.Module):
    """A 5 x 5 convolution from 6 maps to 16 that holds weights for the 60 pairs of the table alone."""

    def __init__(self, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.dtype = dtype
        fan_in = 25 * np.bincount(_TO)[_TO]
        scale = jnp.asarray(fan_in**-0.5, jnp.float32)[None, None]
        self.weights = nnx.Param(jax.random.normal(rngs.params(), (5, 5, len(_TO))) * scale)
        self.bias = nnx.Param(jnp.zeros(len(_CONNECTIONS)))

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = jnp.zeros((5, 5, 6, len(_CONNECTIONS))).at[:, :, _FROM, _TO].set(self.weights[...])
        layout = ("NHWC", "HWIO", "NHWC")
        maps = jax.lax.conv_general_dilated(x, kernel.astype(self.dtype), (1, 1), "VALID", dimension_numbers=layout)
        return maps + _per_map(self.bias, self.dtype)


class _Features(nnx.Module):
    def __init__(self, inputs: Sequence[int], dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        height, width = (((side - 4) // 2 - 4) // 2 for side in inputs[:2])
        self.dtype = dtype
        self.c1 = nnx.Conv(inputs[2], 6, (5, 5), padding="VALID", dtype=dtype, rngs=rngs)
        self.s2 = _Subsampling(6, dtype)
        self.c3 = _TableConvolution(dtype, rngs)
        self.s4 = _Subsampling(16, dtype)
        self.c5 = nnx.Linear(height * width * 16, 120, dtype=dtype, rngs=rngs)  # 5 x 5 on the 5 x 5 that are left
        self.f6 = nnx.Linear(120, FEATURES, dtype=dtype, rngs=rngs)

    def __call__(self, inputs: jax.Array, key: jax.Array | None = None) -> jax.Array:
        del key  # nothing here is random
        x = inputs.astype(self.dtype)
        for layer in (self.c1, self.s2, self.c3, self.s4):
            x = _squash(layer(x))
        x = x.reshape(x.shape[0], -1)
        return _squash(self.f6(_squash(self.c5(x))))


class _LeNet(nnx.Module):
    def __init__(self, inputs: Sequence[int], outputs: int, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.features = _Features(inputs, dtype, rngs)
        self.output = nnx.Linear(FEATURES, outputs, dtype=dtype, rngs=rngs)

    def __call__(self, inputs: jax.Array, key: jax.Array | None = None) -> jax.Array:
        return self.output(self.features(inputs, key))


def lenet_features(key: jax.Array, *, inputs: Sequence[int], dtype: DTypeLike = jnp.float32) -> Model:
    """Build LeNet-5 up to its last hidden layer: 60,000 weights for one channel of 32 x 32 pixels, as in the paper.

    Args:
      key: PRNG key of the initial weights (LeCun normal; biases zero; subsampling begins as the mean).
      inputs: height, width and channels of an image; the paper's are 32, 32, 1.
      dtype: what products are computed in; parameters are float32 whatever it is.

    Returns:
      `(apply, params)`; `apply(params, images)` takes `[batch, height, width, channels]` and gives `[batch, 84]`
      features in `dtype`, between -1.7159 and 1.7159.

    Raises:
      ValueError: if an image is too small for two convolutions and two subsamplings.

    Example:
      >>> from functools import partial
      >>> from xent.models.functional import outline
      >>> apply, shapes = outline(partial(lenet_features, inputs=(32, 32, 1)))  # without computing the weights
      >>> jax.eval_shape(apply, shapes, jnp.zeros((2, 32, 32, 1))).shape
      (2, 84)
      >>> sum(leaf.size for leaf in jax.tree.leaves(shapes))
      60000

    Source: LeCun, Bottou, Bengio and Haffner 1998, section II.B, https://doi.org/10.1109/5.726791
    """
    _check(inputs)
    return functional(_Features(inputs, dtype, nnx.Rngs(key)))


def lenet(key: jax.Array, *, inputs: Sequence[int], outputs: int, dtype: DTypeLike = jnp.float32) -> Model:
    """Build LeNet-5 with a linear map to logits, as a softmax needs, where the paper has distances to fixed codes.

    Args:
      key: PRNG key of the initial weights.
      inputs: height, width and channels of an image; the paper's are 32, 32, 1.
      outputs: logits an example.
      dtype: what products are computed in; parameters are float32 whatever it is.

    Returns:
      `(apply, params)`; `apply(params, images)` takes `[batch, height, width, channels]` and gives
      `[batch, outputs]` logits in `dtype`. `params["features"]` are the parameters of `lenet_features`, whose `apply`
      gives the features that these logits are made of.

    Raises:
      ValueError: if an image is too small for two convolutions and two subsamplings.

    Example:
      >>> from xent.models.functional import outline
      >>> apply, shapes = outline(lambda key: lenet(key, inputs=(28, 28, 1), outputs=10))
      >>> jax.eval_shape(apply, shapes, jnp.zeros((2, 28, 28, 1))).shape
      (2, 10)
      >>> features = outline(lambda key: lenet_features(key, inputs=(28, 28, 1))).apply
      >>> jax.eval_shape(features, shapes["features"], jnp.zeros((2, 28, 28, 1))).shape
      (2, 84)

    Source: LeCun, Bottou, Bengio and Haffner 1998, section II.B, https://doi.org/10.1109/5.726791
    """
    _check(inputs)
    return functional(_LeNet(inputs, outputs, dtype, nnx.Rngs(key)))


def _check(inputs: Sequence[int]) -> None:
    if len(inputs) != 3 or min(inputs[:2]) < SMALLEST:
        raise ValueError(f"inputs must be height, width (both {SMALLEST} or more) and channels, got {tuple(inputs)}")
