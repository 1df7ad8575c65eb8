"""Clips of different lengths side by side in one array: which frames are there, and how many a stride leaves."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def there(lengths: jax.Array, frames: int) -> jax.Array:
    """Which frames a clip has, those before its length; the others are padding.

    Args:
      lengths: frames of each clip, integer `[batch]`.
      frames: T, of the array that holds the clips.

    Returns:
      bool `[batch, T]`.

    Example:
      >>> print(there(jnp.array([1, 3]), 3))
      [[ True False False]
       [ True  True  True]]
    """
    return jnp.arange(frames)[None] < lengths[:, None]


def silent(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Zero the padding of `x`, `[batch, T, ...]`, whatever it holds: it is selected, since NaN times 0 is NaN.

    Example:
      >>> print(silent(jnp.array([[1.0, 2.0, jnp.nan]]), jnp.array([2])))
      [[1. 2. 0.]]
    """
    kept = there(lengths, x.shape[1])
    return jnp.where(kept.reshape(kept.shape + (1,) * (x.ndim - 2)), x, 0)


def output_lengths(feature_lengths: ArrayLike, *strides: int) -> jax.Array:
    r"""How many of a model's output frames are a clip's own: each stride keeps every so-many-th frame, from the first.

    .. math:: \lceil T / \prod_i s_i \rceil

    Args:
      feature_lengths: frames of each clip, integer `[batch]`.
      strides: `s`, of the layers, as the model was built with.

    Returns:
      Integer `[batch]`.

    Raises:
      ValueError: for a stride below 1.

    Example:
      >>> print(output_lengths(jnp.array([5, 8]), 2, 2))
      [2 2]
    """
    if any(stride < 1 for stride in strides):
        raise ValueError(f"strides must be 1 or more, got {strides}")
    return -(-jnp.asarray(feature_lengths) // math.prod(strides))
