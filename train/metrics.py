"""Metrics as pairs `(sum, weight)`: added over batches, calls and devices, divided once, when somebody reads them."""

import jax
import jax.numpy as jnp

Metrics = dict[str, tuple[jax.Array, jax.Array]]
"""Name -> (sum of weighted values, sum of weights), both scalars."""


def weighted(values: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum the selected values and count them.

    Args:
      values: `[batch]`, any real or boolean dtype.
      where: `[batch]` booleans; what is not selected has no influence, NaN included.

    Returns:
      `(sum, weight)`, float32 scalars.

    Example:
      >>> pair = weighted(jnp.array([1.0, 2.0, jnp.nan]), jnp.array([True, True, False]))
      >>> [float(x) for x in pair]
      [3.0, 2.0]
    """
    return jnp.where(where, values, 0).sum(dtype=jnp.float32), where.sum(dtype=jnp.float32)


def add(left: Metrics, right: Metrics) -> Metrics:
    """Add two sets of metrics, sums to sums and weights to weights."""
    return jax.tree.map(jnp.add, left, right)


def divide(metrics: Metrics) -> dict[str, float]:
    """Read metrics to the host as plain averages; one over nothing is NaN. Waits for the device.

    Example:
      >>> divide({"loss": (jnp.float32(3.0), jnp.float32(2.0))})
      {'loss': 1.5}
    """
    host = jax.device_get(metrics)
    return {name: float(total / weight) if weight else float("nan") for name, (total, weight) in host.items()}
