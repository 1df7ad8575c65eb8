"""A model on held-out data, every example once: its metrics, or its outputs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from xent.train.metrics import Metrics, add
from xent.train.sharding import one_device, place, replicated, split
from xent.train.source import gather, padded
from xent.train.step import Batch, Loss

BATCH_SIZE = 1024
"""Examples a call and a device: enough small ones to keep it busy; it changes results by rounding only."""


def make_evaluate(
    loss: Loss, arrays: Any, mesh: Mesh | None = None, *, batch_size: int = BATCH_SIZE
) -> Callable[[Any], Metrics]:
    """Make `evaluate(params) -> metrics` over all of `arrays`.

    Args:
      loss: as in `make_train_step`; called with no key.
      arrays: a dict of arrays `[examples, ...]`; they are moved to the devices once.
      mesh: whose devices share the work; by default the first device does it.
      batch_size: examples a call and a device; fewer where an example is large, as a sequence is.

    Returns:
      A function of the parameters. It does not wait for the device: `divide` does. Over no examples it gives no
      metrics.
    """

    def metrics(params: Any, batch: Batch) -> Metrics:
        return loss(params, batch, None)[1]

    over_batches = _over_batches(metrics, arrays, mesh, batch_size)

    def evaluate(params: Any) -> Metrics:
        total: Metrics = {}
        for part, _ in over_batches(params):
            total = add(total, part) if total else part
        return total

    return evaluate


def make_predict(
    function: Callable[[Any, Batch], Any],
    arrays: Any,
    mesh: Mesh | None = None,
    *,
    batch_size: int = BATCH_SIZE,
) -> Callable[[Any], Any]:
    """Make `predict(params) -> [examples, ...]`, an array or a pytree, of `function(params, batch)` on all `arrays`."""
    over_batches = _over_batches(function, arrays, mesh, batch_size)

    def predict(params: Any) -> Any:
        parts = [jax.tree.map(lambda output: np.asarray(output)[rows >= 0], outputs)  # noqa: B023  # at once
                 for outputs, rows in over_batches(params)]  # fmt: skip
        return jax.tree.map(lambda *pieces: np.concatenate(pieces), *parts)

    return predict


def _over_batches(
    function: Callable[[Any, Batch], Any], arrays: Any, mesh: Mesh | None, batch_size: int
) -> Callable[[Any], list[tuple[Any, np.ndarray]]]:
    mesh = mesh or one_device()
    whole, shares = replicated(mesh), mesh.shape["data"]
    arrays = place(arrays, whole)
    examples = len(jax.tree.leaves(arrays)[0])
    size = shares * min(batch_size, -(-examples // shares))
    batches = list(np.asarray(padded(jnp.arange(examples, dtype=jnp.int32), size))) if examples else []

    @partial(jax.jit, out_shardings=whole)  # every process reads all of it
    def one(params: Any, arrays: Any, rows: jax.Array) -> Any:
        return function(params, split(gather(arrays, rows), mesh))

    return lambda params: [(one(params, arrays, rows), rows) for rows in batches]
