"""The end of AlexNet and of VGG: two dense layers whose units are dropped in training, and the logits."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero each value with probability `rate` and scale the others up; without a key, nothing.

    Source: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


class DenseLayers(nnx.Module):
    """`[batch, ...]` to `[batch, outputs]`: rectified and dropped twice, then linear; weights are He's.

    Source: Krizhevsky, Sutskever and Hinton 2012, section 4.2, whom Simonyan and Zisserman 2014 follow.
    """

    def __init__(self, inputs: int, units: int, outputs: int, rate: float, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        he = nnx.initializers.he_normal()
        self.rate = rate
        self.first = nnx.Linear(inputs, units, dtype=dtype, kernel_init=he, rngs=rngs)
        self.second = nnx.Linear(units, units, dtype=dtype, kernel_init=he, rngs=rngs)
        self.output = nnx.Linear(units, outputs, dtype=dtype, rngs=rngs)

    def __call__(self, inputs: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Return the logits; units are dropped where there is a key."""
        keys = (None, None) if key is None else jax.random.split(key)
        x = inputs.reshape(len(inputs), -1)
        for layer, its in zip((self.first, self.second), keys, strict=True):
            x = dropout(nnx.relu(layer(x)), self.rate, its)
        return self.output(x)
