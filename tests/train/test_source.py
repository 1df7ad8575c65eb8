"""Batches are a pure function of key and step; every epoch shows every example once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xent.train.evaluate import make_evaluate, make_predict
from xent.train.metrics import divide, weighted
from xent.train.source import array_source


def epoch(source, number):
    steps, batch = range(number * source.steps_per_epoch, (number + 1) * source.steps_per_epoch), jax.jit(source.batch)
    return [jax.device_get(batch(source.feed(step), np.int32(step))) for step in steps]


@settings(max_examples=8, deadline=None)  # each compiles its own shapes
@given(examples=st.integers(1, 30), batch_size=st.integers(1, 40))
def test_an_epoch_shows_every_example_once(examples, batch_size):
    source = array_source({"x": np.arange(examples)}, batch_size, jax.random.key(0))
    batches = epoch(source, 1)
    assert {batch["x"].shape for batch in batches} == {(batch_size,)}
    seen = np.concatenate([batch["x"][batch["where"]] for batch in batches])
    assert sorted(seen.tolist()) == list(range(examples))


def test_order_depends_on_key_and_epoch_alone():
    def orders(seed):
        source = array_source({"x": np.arange(20)}, 4, jax.random.key(seed))
        return [np.concatenate([batch["x"] for batch in epoch(source, number)]).tolist() for number in (0, 1)]

    assert orders(0) == orders(0)
    assert orders(0)[0] != orders(0)[1]
    assert orders(0) != orders(1)


@pytest.mark.parametrize("examples", [1, 1023, 1024, 1025])
def test_evaluation_counts_each_example_once(examples):
    random = np.random.default_rng(0)
    arrays = {"value": random.normal(size=examples).astype(np.float32)}

    def loss(params, batch, key):
        assert key is None
        return jnp.float32(0), {"value": weighted(batch["value"] * params, batch["where"])}

    found = divide(make_evaluate(loss, arrays)(jnp.float32(2)))["value"]
    assert found == pytest.approx(2 * arrays["value"].astype(float).mean(), rel=1e-5, abs=1e-6)
    predictions = make_predict(lambda params, batch: batch["value"] * params, arrays)(jnp.float32(2))
    assert np.array_equal(predictions, 2 * arrays["value"])


def test_evaluation_of_nothing_gives_no_metrics():
    assert make_evaluate(lambda *_: None, {"value": np.zeros(0)})(None) == {}
