"""A model on held-out data, every example once: its metrics, or its outputs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xent.train.metrics import Metrics, add
from xent.train.source import gather, padded
from xent.train.step import Batch, Loss

BATCH_SIZE = 1024
"""Examples a call: large enough to keep a device busy; it changes results by rounding only."""


def make_evaluate(loss: Loss, arrays: Any) -> Callable[[Any], Metrics]:
    """Make `evaluate(params) -> metrics` over all of `arrays`.

    Args:
      loss: as in `make_train_step`; called with no key.
      arrays: a dict of arrays `[examples, ...]`; they are moved to the device once.

    Returns:
      A function of the parameters. It does not wait for the device: `divide` does. Over no examples it gives no
      metrics.
    """

    def metrics(params: Any, batch: Batch) -> Metrics:
        return loss(params, batch, None)[1]

    over_batches = _over_batches(metrics, arrays)

    def evaluate(params: Any) -> Metrics:
        total: Metrics = {}
        for part, _ in over_batches(params):
            total = add(total, part) if total else part
        return total

    return evaluate


def make_predict(function: Callable[[Any, Batch], jax.Array], arrays: Any) -> Callable[[Any], np.ndarray]:
    """Make `predict(params) -> [examples, ...]`, the outputs of `function(params, batch)` on all of `arrays`."""
    over_batches = _over_batches(function, arrays)

    def predict(params: Any) -> np.ndarray:
        return np.concatenate([np.asarray(outputs)[np.asarray(rows) >= 0] for outputs, rows in over_batches(params)])

    return predict


def _over_batches(function: Callable[[Any, Batch], Any], arrays: Any) -> Callable[[Any], list[tuple[Any, jax.Array]]]:
    arrays = jax.device_put(arrays)
    examples = len(jax.tree.leaves(arrays)[0])
    batches = list(padded(jnp.arange(examples, dtype=jnp.int32), min(BATCH_SIZE, examples))) if examples else []

    @jax.jit
    def one(params: Any, arrays: Any, rows: jax.Array) -> Any:
        return function(params, gather(arrays, rows))

    return lambda params: [(one(params, arrays, rows), rows) for rows in batches]
