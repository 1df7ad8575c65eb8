"""The multilayer perceptron: one hidden layer of rectified units."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from xent.models.functional import Model, functional


class _MLP(nnx.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(inputs, hidden, dtype=dtype, rngs=rngs)
        self.output = nnx.Linear(hidden, outputs, dtype=dtype, rngs=rngs)

    def __call__(self, inputs: jax.Array, key: jax.Array | None = None) -> jax.Array:
        del key  # nothing here is random
        flat = inputs.reshape(inputs.shape[0], -1)
        return self.output(nnx.relu(self.hidden(flat)))


def mlp(key: jax.Array, *, inputs: int, hidden: int, outputs: int, dtype: DTypeLike = jnp.float32) -> Model:
    """Build the network `W2 relu(W1 x + b1) + b2`.

    Args:
      key: PRNG key of the initial weights (LeCun normal; biases zero).
      inputs: values an example, after flattening.
      hidden: rectified units.
      outputs: logits an example.
      dtype: what products are computed in; parameters are float32 whatever it is.

    Returns:
      `(apply, params)`; `apply(params, inputs)` takes `[batch, ...]` with `inputs` values an example, in any
      float dtype, and gives `[batch, outputs]` logits in `dtype`.

    Example:
      >>> apply, params = mlp(jax.random.key(0), inputs=784, hidden=256, outputs=10)
      >>> apply(params, jnp.zeros((2, 28, 28, 1))).shape
      (2, 10)

    Source: Rumelhart, Hinton and Williams 1986; the sizes of the default job are the article's (784-256-10).
    """
    return functional(_MLP(inputs, hidden, outputs, dtype, nnx.Rngs(key)))
