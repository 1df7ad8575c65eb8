"""Where batches come from: a pure function of the step number, so that a run can start again anywhere.

Data that fits stays on the device, and each step gathers its batch inside the jitted program: the host sends nothing.
On a mesh each device holds all of it, and gathers its own share of the batch.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from xent.train.sharding import one_device, place, replicated, require_shares, split
from xent.train.step import Batch

Feed = Any
"""A pytree of arrays: what one call of several steps needs."""


class Source(NamedTuple):
    """An endless supply of batches, epoch after epoch."""

    steps_per_epoch: int
    feed: Callable[[int], Feed]
    """Host side: what the call that starts at this step needs."""
    batch: Callable[[Feed, jax.Array], Batch]
    """Device side, pure, traced into the call: (feed, step) -> batch."""


def gather(arrays: Any, rows: jax.Array) -> Batch:
    """Take the rows of every array; a row of -1 is padding, and `where` says so.

    Args:
      arrays: a dict of arrays `[examples, ...]`.
      rows: `[batch]` int32.

    Returns:
      A dict of arrays `[batch, ...]`, with `where` `[batch]`: True for an example, False for padding.
    """
    where = rows >= 0
    batch = {name: array[jnp.where(where, rows, 0)] for name, array in arrays.items()}
    return {**batch, "where": where}


def padded(rows: jax.Array, batch_size: int) -> jax.Array:
    """Cut `[n]` row numbers into `[ceil(n / batch_size), batch_size]`, the last batch filled up with -1."""
    missing = -len(rows) % batch_size
    return jnp.pad(rows, (0, missing), constant_values=-1).reshape(-1, batch_size)


@partial(jax.jit, static_argnames=("examples", "batch_size"))
def _order(key: jax.Array, epoch: int, examples: int, batch_size: int) -> jax.Array:
    rows = jax.random.permutation(jax.random.fold_in(key, epoch), examples)
    return padded(rows.astype(jnp.int32), batch_size)


def array_source(arrays: Any, batch_size: int, key: jax.Array, mesh: Mesh | None = None) -> Source:
    """Shuffle arrays anew each epoch; each epoch shows every example once, in batches of `batch_size`.

    The last batch of an epoch may be padded: see `gather`. Epoch e is ordered by `fold_in(key, e)` alone.

    Args:
      arrays: a dict of arrays `[examples, ...]`; they are moved to the devices once.
      batch_size: examples a batch.
      key: PRNG key of the order.
      mesh: whose devices share each batch; by default the first device has it all.

    Raises:
      UsageError: if the mesh's `data` axis does not divide `batch_size`.

    Example:
      >>> source = array_source({"x": jnp.arange(5)}, batch_size=2, key=jax.random.key(0))
      >>> source.steps_per_epoch
      3
      >>> batches = [source.batch(source.feed(step), jnp.int32(step)) for step in range(3)]
      >>> sorted(int(x) for batch in batches for x in batch["x"][batch["where"]])
      [0, 1, 2, 3, 4]
    """
    mesh = mesh or one_device()
    require_shares(mesh, batch_size)
    arrays, key = place((arrays, key), replicated(mesh))
    examples = len(jax.tree.leaves(arrays)[0])
    steps_per_epoch = -(-examples // batch_size)

    @lru_cache(maxsize=1)  # every call of an epoch asks for it, and sorting 60000 rows takes as long as many steps
    def order(epoch: int) -> jax.Array:
        return _order(key, epoch, examples, batch_size)

    def feed(step: int) -> Feed:
        return {"arrays": arrays, "order": order(step // steps_per_epoch)}

    def batch(feed: Feed, step: jax.Array) -> Batch:
        return split(gather(feed["arrays"], feed["order"][step % steps_per_epoch]), mesh)

    return Source(steps_per_epoch, feed, batch)
