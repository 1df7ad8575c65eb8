"""The step: pure, guarded against NaN, and the same whether a batch comes whole or in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xent.train.guard import all_finite
from xent.train.metrics import divide
from xent.train.optimizers import OptimizerConfig, make_optimizer
from xent.train.step import init_state, make_train_step


def whole(arrays, rows=slice(None)):
    part = {name: array[rows] for name, array in arrays.items()}
    return {**part, "where": np.ones(len(part["label"]), bool)}


def equal(left, right):
    def same(a, b):
        (a, b) = (jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (a, b))
        return np.array_equal(a, b, equal_nan=True)

    return jax.tree.all(jax.tree.map(same, left, right))


def test_one_step_is_optax_by_hand(loss, params, arrays):
    optimizer = optax.adam(0.1)
    step = jax.jit(make_train_step(loss, optimizer))
    state, metrics = step(init_state(params, optimizer, jax.random.key(0)), whole(arrays))

    @jax.jit
    def by_hand(params):
        gradients = jax.grad(lambda params: loss(params, whole(arrays), None)[0])(params)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    expected = by_hand(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.params, expected)
    assert state.step == 1
    assert divide(metrics)["loss"] == pytest.approx(np.log(3))


def test_each_step_has_a_key_of_its_own(params):
    def loss(params, batch, key):
        return params["w"].sum() * 0, {"draw": (jax.random.uniform(key), jnp.float32(1))}

    step = jax.jit(make_train_step(loss, optax.sgd(0.1)))
    state = init_state(params, optax.sgd(0.1), jax.random.key(7))
    state, first = step(state, None)
    _, second = step(state, None)
    expected = jax.random.uniform(jax.random.fold_in(jax.random.key(7), 0))
    assert first["draw"][0] == expected
    assert second["draw"][0] != expected


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_bad_batch_changes_nothing_but_the_count(loss, params, arrays, poison):
    optimizer = optax.adam(0.1)
    step = jax.jit(make_train_step(loss, optimizer))
    before, _ = step(init_state(params, optimizer, jax.random.key(0)), whole(arrays))
    bad = whole({**arrays, "x": np.where(np.arange(50)[:, None] == 3, np.float32(poison), arrays["x"])})
    after, metrics = step(before, bad)
    assert equal(after.params, before.params)
    assert equal(after.opt_state, before.opt_state)
    assert (int(after.step), int(after.bad_steps), int(after.skipped_steps)) == (2, 1, 1)
    assert np.isnan(divide(metrics)["loss"])  # the step says what it saw; the loop leaves it out
    good, _ = step(after, whole(arrays))
    assert (int(good.bad_steps), int(good.skipped_steps)) == (0, 1)
    assert not equal(good.params, before.params)


def test_padding_has_no_influence(loss, params, arrays):
    optimizer = optax.sgd(0.1)
    step = jax.jit(make_train_step(loss, optimizer))
    where = np.arange(50) < 40
    results = []
    for filling in (0.0, 1e30):
        batch = {**arrays, "x": np.where(where[:, None], arrays["x"], np.float32(filling)), "where": where}
        results.append(step(init_state(params, optimizer, jax.random.key(0)), batch))
    assert equal(results[0], results[1])


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_accumulated_microbatches_equal_one_batch(loss, params, arrays, name):
    def train(parts, accumulate):
        optimizer = make_optimizer(OptimizerConfig(optimizer=name, accumulate=accumulate, learning_rate=0.1), 40)
        step = jax.jit(make_train_step(loss, optimizer))
        state = init_state(params, optimizer, jax.random.key(0))
        for rows in parts:
            state, _ = step(state, whole(arrays, rows))
        return state.params

    once = train([slice(0, 40)] * 3, 1)
    parts = train([slice(start, start + 10) for start in (0, 10, 20, 30)] * 3, 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), once, parts)


def test_the_state_can_be_donated(loss, params, arrays):
    optimizer = optax.adam(0.1)
    step = jax.jit(make_train_step(loss, optimizer), donate_argnums=0)
    key = jax.random.key(0)
    step(init_state(params, optimizer, key), whole(arrays))
    assert not params["w"].is_deleted()  # what the caller gave stays the caller's
    jax.random.uniform(key)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(), (3,), (0,), (4, 3), (0, 3), (2, 3, 4), (2, 2, 3, 4)])
def test_all_finite_sees_every_entry(shape, dtype):
    largest, finite = np.full(shape, jnp.finfo(dtype).max, dtype), jax.jit(all_finite)
    assert finite({"a": largest, "b": -largest})
    for index in np.ndindex(shape):
        for poison in (np.nan, np.inf, -np.inf):
            bad = largest.copy()
            bad[index] = poison
            assert not finite({"a": largest, "b": bad})


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_guard_is_optax_apply_if_finite(loss, params, arrays, accumulate):
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, clip=1.0, accumulate=accumulate), 12)
    theirs = optax.apply_if_finite(optimizer, 100)
    step, state = jax.jit(make_train_step(loss, optimizer)), init_state(params, optimizer, jax.random.key(0))
    gradient = jax.jit(jax.grad(lambda params, batch: loss(params, batch, None)[0]))
    update, expected, opt_state = jax.jit(theirs.update), params, theirs.init(params)
    for number in range(12):
        x = arrays["x"] * (np.float32(np.nan) if number in (2, 6, 7) else 1)
        batch = whole({**arrays, "x": x})
        state, _ = step(state, batch)
        updates, opt_state = update(gradient(expected, batch), opt_state, expected)
        expected = optax.apply_updates(expected, updates)
        assert int(state.bad_steps) == int(opt_state.notfinite_count)
        assert int(state.skipped_steps) == int(opt_state.total_notfinite)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.params, expected)
