"""What the losses of one logit share: the sigmoid, its logarithm, and the arguments that weigh each element."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from xent.losses import _checks


def factor(name: str, value: ArrayLike, elements: jax.Array, highest: float = math.inf) -> jax.Array:
    """One number, or one for each entry of the last axis, spread over `elements`. Not negative, if a Python number."""
    if isinstance(value, (int, float)):
        if isinstance(value, bool) or not 0 <= value <= highest or math.isinf(value):
            raise ValueError(f"{name} must be a finite number from 0 to {highest:g}, got {value!r}")
        return jnp.full(elements.shape, value, elements.dtype)
    array = _checks.array_of(name, value, jnp.floating, jnp.integer)
    allowed = ((), elements.shape[-1:])
    if array.shape not in allowed:
        raise ValueError(
            f"{name} must be a number or have the length of the last axis of logits, {elements.shape[-1:]}, "
            f"got {array.shape}; it is not broadcast"
        )
    return jnp.broadcast_to(array.astype(elements.dtype), elements.shape)


@jax.custom_jvp
def softplus(z: jax.Array) -> jax.Array:
    """log(1 + exp(z)), the cost of answering yes with log-odds -z: no digit is lost on either side."""
    return jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z)))


@softplus.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return softplus(*primals), sigmoid(*primals) * tangents[0]


@jax.custom_jvp
def sigmoid(z: jax.Array) -> jax.Array:
    """1 / (1 + exp(-z)), and sigmoid(-z) is exact where 1 - sigmoid(z) has no digit left."""
    exp = jnp.exp(-jnp.abs(z))
    return jnp.where(z >= 0, 1, exp) / (1 + exp)


@sigmoid.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    return sigmoid(z), sigmoid(z) * sigmoid(-z) * dz
