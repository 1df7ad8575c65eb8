"""Streamed batches show every example once an epoch, in another order each, the same after a new start."""

import jax
import jax.numpy as jnp
import numpy as np

from xent.train.stream import stream_source

EXAMPLES, BATCH = 11, 4


def source(seed=0):
    return stream_source(lambda row: {"x": np.full(2, row)}, EXAMPLES, BATCH, jax.random.key(seed))


def shown(source, steps):
    batches = [source.batch(source.feed(step), jnp.int32(step)) for step in steps]
    return [np.asarray(batch["x"][batch["where"]][:, 0]).tolist() for batch in batches]


def test_every_epoch_shows_every_example_once_in_an_order_of_its_own():
    found = source()
    assert found.steps_per_epoch == 3
    epochs = [[x for batch in shown(found, range(start, start + 3)) for x in batch] for start in (0, 3, 6)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(EXAMPLES))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_run_that_starts_again_anywhere_sees_the_same_batches():
    whole = shown(source(), range(9))
    for start in (1, 3, 8):
        assert shown(source(), range(start, 9)) == whole[start:]
    again = source()
    shown(again, range(5))
    assert shown(again, range(9)) == whole  # the same source, from its start
    assert shown(source(seed=1), range(9)) != whole


def test_batches_have_one_shape():
    found = source()
    assert {found.feed(step)["x"].shape for step in range(4)} == {(BATCH, 2)}
