"""mean and sum: one rule, with masks, weights and shards."""

import os
import subprocess
import sys

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from xent.losses import mean, sum

inf, nan = np.inf, np.nan

entry = st.tuples(
    st.floats(0, 100, width=32, allow_subnormal=False), st.booleans(), st.sampled_from([0.0, 0.01, 1.0, 9.5])
)
entries = st.sampled_from([0, 1, 7]).flatmap(lambda n: st.lists(entry, min_size=n, max_size=n))


@settings(deadline=None, max_examples=100, derandomize=True)
@given(entries=entries)
def test_sum_and_mean_are_what_they_say(entries):
    loss, where, weights = (np.array([e[i] for e in entries], t) for i, t in enumerate((np.float32, bool, np.float32)))
    for w in (None, weights):
        for s in (None, where):
            factor = (np.ones(len(loss)) if w is None else w.astype(float)) * (1 if s is None else s)
            total, count = (factor * loss).sum(), factor.sum()
            flushed = len(loss) * np.finfo(np.float32).tiny  # XLA makes 0 of what is smaller
            np.testing.assert_allclose(sum(loss, where=s, weights=w), total, 1e-5, flushed)
            average = total / count if count else 0
            np.testing.assert_allclose(mean(loss, where=s, weights=w), average, 1e-5, flushed / (count or 1))


def test_any_rank_and_half_precision():
    loss = jnp.full((2, 3, 4), 1.5, jnp.bfloat16)
    assert mean(loss).dtype == jnp.float32
    assert mean(loss) == 1.5
    assert sum(loss, weights=jnp.full(loss.shape, 2)) == 72
    assert mean(jnp.float32(3)) == 3


@pytest.mark.parametrize("reduction", [mean, sum])
@pytest.mark.parametrize("jit", [jax.jit, lambda f: f])
def test_over_nothing_it_is_zero_with_zero_gradients(reduction, jit):
    loss = jnp.array([1.0, nan, inf])
    for kwargs in (dict(where=jnp.zeros(3, bool)), dict(weights=jnp.zeros(3))):
        value, gradient = jit(jax.value_and_grad(lambda x, k=kwargs: reduction(x, **k)))(loss)
        assert value == 0
        assert (gradient == 0).all()
    assert reduction(jnp.zeros((0, 3))) == 0


@pytest.mark.parametrize(
    "kwargs", [dict(where=jnp.array([True, False, False])), dict(weights=jnp.array([2.0, 0.0, 0.0]))]
)
def test_what_does_not_count_poisons_nothing(kwargs):
    value, gradient = jax.value_and_grad(lambda x: mean(x, **kwargs))(jnp.array([3.0, nan, inf]))
    assert value == 3
    np.testing.assert_array_equal(gradient, [1, 0, 0])


def test_what_counts_does():
    assert np.isnan(mean(jnp.array([1.0, nan]), where=jnp.array([True, True])))
    assert mean(jnp.array([1.0, inf]), weights=jnp.array([1.0, 1e-9])) == inf


def test_the_derivative_with_respect_to_the_weights():
    """(l_i - mean) / sum(w), at a weight of 0 too."""
    loss, weights = jnp.array([1.0, 4.0, 7.0]), jnp.array([1.0, 2.0, 0.0])
    np.testing.assert_allclose(jax.grad(lambda w: mean(loss, weights=w))(weights), [-2 / 3, 1 / 3, 4 / 3], rtol=1e-6)


def test_microbatches_make_up_the_batch():
    loss, where = jax.random.uniform(jax.random.key(0), (4, 50)), jax.random.bernoulli(jax.random.key(1), 0.3, (4, 50))
    whole = mean(loss, where=where)
    parts = jax.vmap(lambda x, s: mean(x, where=s, axis_name="shard"), axis_name="shard")(loss, where)
    np.testing.assert_allclose(parts, np.full(4, whole), rtol=1e-6)
    totals = jax.vmap(lambda x, s: sum(x, where=s, axis_name="shard"), axis_name="shard")(loss, where)
    np.testing.assert_allclose(totals, np.full(4, sum(loss, where=where)), rtol=1e-6)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from jax.sharding import AxisType, PartitionSpec as P
from xent.losses import mean, softmax_cross_entropy_with_integer_labels as cross_entropy
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
x = jax.random.normal(jax.random.key(0), (16, 5)).at[3].set(jnp.nan)
y, where = jnp.arange(16) % 5, jnp.arange(16) < 6  # shards with 4, 2, 0 and 0 examples
y = y.at[8].set(-1)
plain = lambda x, y, where: mean(cross_entropy(x, y), where=where & (y != 3))
local = lambda x, y, where: mean(cross_entropy(x, y), where=where & (y != 3), axis_name="data")
specs = dict(mesh=mesh, in_specs=(P("data"), P("data"), P("data")))
one = jax.jit(jax.value_and_grad(plain))(x, y, where)
outside = jax.jit(jax.value_and_grad(jax.shard_map(local, out_specs=P(), **specs)))(x, y, where)
inside = jax.jit(jax.shard_map(jax.value_and_grad(local), out_specs=(P(), P("data")), **specs))(x, y, where)
for sharded in (outside, inside):
    np.testing.assert_allclose(sharded[0], one[0], rtol=1e-6)
    np.testing.assert_allclose(sharded[1], one[1], rtol=1e-5, atol=1e-8)
assert np.isfinite(one[1]).all() and one[0] > 0
"""


def test_the_mean_over_uneven_shards_is_that_of_all_examples():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("reduction", [mean, sum])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(loss=np.zeros(3, int)), "loss must be an array of floating dtype, got int"),
        (dict(loss=[1.0]), "loss must be an array of floating dtype, got list"),
        (dict(where=np.ones(3)), "where must be an array of bool dtype, got float"),
        (dict(where=np.ones((3, 1), bool)), r"where must have the shape of loss, \(3,\), got \(3, 1\)"),
        (dict(weights=np.ones(3, bool)), "weights must be an array of floating or integer dtype, got bool"),
        (dict(weights=2.0), r"weights must have the shape of loss, \(3,\), got \(\)"),
    ],
)
def test_arguments_that_do_not_fit(reduction, arguments, message):
    with pytest.raises(ValueError, match=message):
        reduction(**(dict(loss=np.zeros(3)) | arguments))
