"""Batches of examples that do not fit in memory: read by grain, ahead of the steps, in an order that a key decides.

grain's order is a function of the place in it, so the batch of a step is the same whether a run came there from its
start or was started again.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from xent.train.sharding import one_device, over_data, place, require_shares
from xent.train.source import Feed, Source
from xent.train.step import Batch

THREADS = 16
"""That read, a batch each; reading waits for disks and decoders that let go of the interpreter's lock."""
AHEAD = 16
"""Batches that may be read before they are asked for."""

Example = dict[str, Any]
"""Name -> array, of one shape for all examples."""


class _Records:
    """The random access that grain asks for."""

    def __init__(self, read: Callable[[int], Example], examples: int) -> None:
        self.read, self.examples = read, examples

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, row: int) -> Example:
        return self.read(row)


def stream_source(
    read: Callable[[int], Example], examples: int, batch_size: int, key: jax.Array, mesh: Mesh | None = None
) -> Source:
    """Read examples as they are needed, shuffled anew each epoch; each epoch shows every example once.

    A call takes one step. The last batch of an epoch may be filled up: `where` says which examples count. On a mesh of
    several processes each reads the whole batch and keeps what its devices need.

    Args:
      read: gives the example of a row, from 0 to `examples - 1`; it is called from several threads.
      examples: rows that there are.
      batch_size: examples a batch.
      key: PRNG key of the order.
      mesh: whose devices share each batch; by default the first device has it all.

    Raises:
      UsageError: if the mesh's `data` axis does not divide `batch_size`.

    Example:
      >>> source = stream_source(lambda row: {"x": np.int32(row)}, 5, batch_size=2, key=jax.random.key(0))
      >>> batches = [source.batch(source.feed(step), np.int32(step)) for step in range(source.steps_per_epoch)]
      >>> sorted(int(x) for batch in batches for x in batch["x"][batch["where"]])
      [0, 1, 2, 3, 4]

    Source: https://google-grain.readthedocs.io
    """
    import grain

    mesh = mesh or one_device()
    require_shares(mesh, batch_size)
    seed = int(jax.random.randint(key, (), 0, np.iinfo(np.int32).max))

    def fill(batch: Example) -> Example:
        count = len(next(iter(batch.values())))
        rows = np.arange(batch_size)
        return {**{name: array[rows % count] for name, array in batch.items()}, "where": rows < count}

    epoch = grain.MapDataset.source(_Records(read, examples)).seed(seed).shuffle().batch(batch_size).map(fill)
    batches = iter(epoch.repeat().to_iter_dataset(grain.ReadOptions(THREADS, AHEAD)))
    following = 0

    def feed(step: int) -> Feed:
        nonlocal following
        if step != following:  # a run that is started again, or a second one from the same source
            batches.set_state({"next_index": step})
        following = step + 1
        return place(next(batches), over_data(mesh))

    def batch(feed: Feed, step: jax.Array) -> Batch:
        del step  # the host has counted
        return feed

    return Source(-(-examples // batch_size), feed, batch)
