"""A matrix between a model's Jacobians, without forming any of them."""

from collections.abc import Callable
from typing import TypeVar

import jax

Params = TypeVar("Params")


def between_jacobians(
    product: Callable[[jax.Array, jax.Array], jax.Array],
    apply: Callable[[Params], jax.Array],
    params: Params,
    vector: Params,
) -> Params:
    """J^T product(x, J v), at the logits x: J in forward mode on the right, in reverse mode on the left."""
    logits, pull = jax.vjp(apply, params)
    _, pushed = jax.jvp(apply, (params,), (vector,))
    (pulled,) = pull(product(logits, pushed))
    return pulled
