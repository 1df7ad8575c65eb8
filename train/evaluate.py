"""A model on held-out data: the same loss as in training, without a key, over every example once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from xent.train.metrics import Metrics, add
from xent.train.source import gather, padded
from xent.train.step import Loss


def make_evaluate(loss: Loss, arrays: Any, batch_size: int = 1024) -> Callable[[Any], Metrics]:
    """Make `evaluate(params) -> metrics` over all of `arrays`.

    Args:
      loss: as in `make_train_step`; called with no key.
      arrays: a dict of arrays `[examples, ...]`; they are moved to the device once.
      batch_size: examples a call; it changes the result by rounding only.

    Returns:
      A function of the parameters. It does not wait for the device: `divide` does.
    """
    arrays = jax.device_put(arrays)
    examples = len(jax.tree.leaves(arrays)[0])
    batches = padded(jnp.arange(examples, dtype=jnp.int32), min(batch_size, examples))

    @jax.jit
    def one(params: Any, arrays: Any, rows: jax.Array) -> Metrics:
        return loss(params, gather(arrays, rows), None)[1]

    def evaluate(params: Any) -> Metrics:
        total = one(params, arrays, batches[0])
        for rows in batches[1:]:
            total = add(total, one(params, arrays, rows))
        return total

    return evaluate
