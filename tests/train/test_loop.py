"""The loop: however the steps are cut into calls, saved, stopped and started again, it is the same training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xent.train.evaluate import make_evaluate
from xent.train.loop import Diverged, fit, make_call
from xent.train.source import array_source
from xent.train.step import init_state, make_train_step


def run(loss, params, arrays, *, steps=35, steps_per_call=4, patience=5, state=None, pause=lambda step: False):
    optimizer = optax.adam(0.05)
    source = array_source(arrays, 8, jax.random.key(1))  # 7 steps an epoch, the last one padded
    call = make_call(make_train_step(loss, optimizer), source, patience, single=steps_per_call == 1)
    state = init_state(params, optimizer, jax.random.key(2)) if state is None else state
    records, saved = [], []
    end = fit(
        call, state, source, steps=steps, steps_per_call=steps_per_call, patience=patience,
        evaluate=make_evaluate(loss, arrays), record=records.append, pause=pause,
        save=lambda state: saved.append(jax.tree.map(jnp.copy, state)),
    )  # fmt: skip
    return end, records, saved


def same(left, right):
    data = jax.tree.map(np.asarray, (left._replace(key=0), right._replace(key=0)))
    assert (left.key == right.key).all()
    return jax.tree.all(jax.tree.map(np.array_equal, *data))


def test_it_learns(loss, params, arrays):
    _, records, _ = run(loss, params, arrays)
    assert records[-1].held_out["loss"] < 0.8 < records[0].metrics["loss"]


def test_calls_of_any_size_train_alike(loss, params, arrays):
    ends = {size: run(loss, params, arrays, steps_per_call=size)[0] for size in (1, 4, 100)}
    assert same(ends[4], ends[100])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ends[1].params, ends[4].params)


def test_records_come_in_order_and_end_where_epochs_end(loss, params, arrays):
    _, records, saved = run(loss, params, arrays, steps=16)
    assert [record.step for record in records] == [4, 7, 11, 14, 16]
    assert [record.held_out is not None for record in records] == [False, True, False, True, True]
    assert [record.epoch for record in records] == [step / 7 for step in (4, 7, 11, 14, 16)]
    assert [int(state.step) for state in saved] == [16]


def test_metrics_are_averages_over_the_examples_of_a_call(loss, params, arrays):
    _, records, _ = run(loss, params, arrays, steps=7, steps_per_call=100)
    source = array_source(arrays, 8, jax.random.key(1))
    optimizer = optax.adam(0.05)
    one, batch = jax.jit(make_train_step(loss, optimizer)), jax.jit(source.batch)
    state, total, weight = init_state(params, optimizer, jax.random.key(2)), 0.0, 0.0
    for step in range(7):
        state, metrics = one(state, batch(source.feed(step), jnp.int32(step)))
        total, weight = total + float(metrics["loss"][0]), weight + float(metrics["loss"][1])
    assert weight == 50
    assert records[0].metrics["loss"] == pytest.approx(total / weight, rel=1e-5)


def test_everything_up_to_a_save_is_recorded_before_it(loss, params, arrays):
    order = []
    optimizer = optax.adam(0.05)
    source = array_source(arrays, 8, jax.random.key(1))
    state = init_state(params, optimizer, jax.random.key(2))
    fit(
        make_call(make_train_step(loss, optimizer), source, 5), state, source, steps=14,
        steps_per_call=4, patience=5, evaluate=make_evaluate(loss, arrays),
        record=lambda record: order.append(("record", record.step)), pause=lambda step: step == 7,
        save=lambda state: order.append(("save", int(state.step))),
    )  # fmt: skip
    steps = [("record", 4), ("record", 7), ("save", 7), ("record", 11), ("record", 14), ("save", 14)]
    assert order == steps


@pytest.mark.parametrize("stop", [4, 7, 11, 32])
def test_starting_again_from_any_save_ends_the_same(loss, params, arrays, stop):
    whole, records, _ = run(loss, params, arrays)
    _, _, saved = run(loss, params, arrays, pause=lambda step: step == stop)
    assert int(saved[0].step) == stop
    end, rest, _ = run(loss, params, arrays, state=saved[0])
    assert same(end, whole)
    assert rest == [record for record in records if record.step > stop]


def test_bad_steps_in_a_row_end_the_run_at_the_stated_number(loss, params, arrays):
    poisoned = {**arrays, "x": np.full_like(arrays["x"], np.nan)}
    with pytest.raises(Diverged, match=r"^5 steps in a row up to step 5 were not finite \(loss nan\)"):
        run(loss, params, poisoned)


@pytest.mark.parametrize("steps_per_call", [1, 4, 100])
def test_a_few_bad_steps_are_skipped_and_counted(loss, params, arrays, steps_per_call):
    poisoned = {**arrays, "x": arrays["x"].copy()}
    poisoned["x"][13] = np.nan  # one batch an epoch
    end, records, _ = run(loss, params, poisoned, steps_per_call=steps_per_call, patience=2)
    assert records[-1].skipped == 5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(end.params))
    assert int(end.step) == 35
