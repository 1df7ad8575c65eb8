"""Generator and discriminator of a generative adversarial network: two multilayer perceptrons that face each other."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from xent.models.functional import Model, functional

SLOPE = 0.2
"""Of the discriminator's units below zero, so that the generator gets a gradient through every one of them."""


class _Generator(nnx.Module):
    def __init__(self, latent: int, hidden: int, shape: tuple[int, ...], dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(latent, hidden, dtype=dtype, rngs=rngs)
        self.second = nnx.Linear(hidden, hidden, dtype=dtype, rngs=rngs)
        self.output = nnx.Linear(hidden, math.prod(shape), dtype=dtype, rngs=rngs)
        self.shape = shape

    def __call__(self, noise: jax.Array, key: jax.Array | None = None) -> jax.Array:
        del key  # what is random is the noise
        hidden = nnx.relu(self.second(nnx.relu(self.first(noise))))
        return jnp.tanh(self.output(hidden)).reshape(-1, *self.shape)


class _Discriminator(nnx.Module):
    def __init__(self, inputs: int, hidden: int, dropout: float, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.dropout = nnx.Dropout(dropout)
        self.first = nnx.Linear(inputs, hidden, dtype=dtype, rngs=rngs)
        self.second = nnx.Linear(hidden, hidden, dtype=dtype, rngs=rngs)
        self.output = nnx.Linear(hidden, 1, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
        hidden = images.reshape(images.shape[0], -1)
        keys = (None, None) if key is None else jax.random.split(key)
        for layer, its in zip((self.first, self.second), keys, strict=True):
            hidden = nnx.leaky_relu(layer(hidden), SLOPE)
            hidden = self.dropout(hidden, deterministic=key is None, rngs=its)
        return self.output(hidden)[:, 0]


def generator(
    key: jax.Array, *, latent: int, hidden: int, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> Model:
    """Build the network `tanh(W3 relu(W2 relu(W1 z + b1) + b2) + b3)`, which makes an image of noise.

    Args:
      key: PRNG key of the initial weights (LeCun normal; biases zero).
      latent: numbers of noise an image.
      hidden: units of each of the two hidden layers.
      shape: of an image, `(height, width, channels)`.
      dtype: what products are computed in; parameters are float32 whatever it is.

    Returns:
      `(apply, params)`; `apply(params, noise)` takes `[batch, latent]`, standard normal, and gives images
      `[batch, *shape]` from -1 to 1 in `dtype`.

    Example:
      >>> apply, params = generator(jax.random.key(0), latent=4, hidden=16, shape=(8, 8, 1))
      >>> jax.jit(apply)(params, jnp.zeros((3, 4))).shape
      (3, 8, 8, 1)

    Source: Goodfellow et al., Generative Adversarial Nets, 2014, https://arxiv.org/abs/1406.2661; tanh from Radford,
    Metz and Chintala 2015, https://arxiv.org/abs/1511.06434.
    """
    return functional(_Generator(latent, hidden, shape, dtype, nnx.Rngs(key)))


def discriminator(
    key: jax.Array, *, inputs: int, hidden: int, dropout: float = 0.0, dtype: DTypeLike = jnp.float32
) -> Model:
    """Build the network `w3 r(W2 r(W1 x + b1) + b2) + b3`, r(x) = max(x, 0.2 x): the log-odds that an image is real.

    Args:
      key: PRNG key of the initial weights (LeCun normal; biases zero).
      inputs: values an image, after flattening.
      hidden: units of each of the two hidden layers.
      dropout: share of them that is 0 where `apply` is given a key: with few examples it would know each by heart.
      dtype: what products are computed in; parameters are float32 whatever it is.

    Returns:
      `(apply, params)`; `apply(params, images, key=key)` takes `[batch, ...]` with `inputs` values an image, and gives
      logits `[batch]` in `dtype`.

    Example:
      >>> apply, params = discriminator(jax.random.key(0), inputs=64, hidden=16)
      >>> jax.jit(apply)(params, jnp.zeros((3, 8, 8, 1))).shape
      (3,)

    Source: Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661; leaky units from Radford, Metz and Chintala 2015,
    https://arxiv.org/abs/1511.06434.
    """
    return functional(_Discriminator(inputs, hidden, dropout, dtype, nnx.Rngs(key)))
