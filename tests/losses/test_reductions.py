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


jitted_sum, jitted_mean = (
    jax.jit(lambda x, where, weights, f=f: f(x, where=where, weights=weights)) for f in (sum, mean)
)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(entries=entries)
def test_sum_and_mean_are_what_they_say(entries):
    loss, where, weights = (np.array([e[i] for e in entries], t) for i, t in enumerate((np.float32, bool, np.float32)))
    for w in (None, weights):
        for s in (None, where):
            factor = (np.ones(len(loss)) if w is None else w.astype(float)) * (1 if s is None else s)
            total, count = (factor * loss).sum(), factor.sum()
            flushed = len(loss) * np.finfo(np.float32).tiny  # XLA makes 0 of what is smaller
            np.testing.assert_allclose(jitted_sum(loss, s, w), total, 1e-5, flushed)
            average = total / count if count else 0
            np.testing.assert_allclose(jitted_mean(loss, s, w), average, 1e-5, flushed / (count or 1))


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


@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1.0, 1e19, 1e30])
def test_only_the_ratios_of_weights_matter(scale):
    """The square of their sum, which the derivative of a quotient usually divides by, is 0 or inf at both ends."""
    loss, weights = jnp.array([1.0, 4.0, 7.0]), jnp.array([1.0, 2.0, 3.0])

    def of(loss, weights):
        return mean(loss, weights=weights)

    value, (by_loss, by_weights) = jax.value_and_grad(of, (0, 1))(loss, weights * scale)
    np.testing.assert_allclose(value, 5, rtol=1e-6)
    np.testing.assert_allclose(by_loss, weights / 6, rtol=1e-6)
    np.testing.assert_allclose(by_weights * scale, [-4 / 6, -1 / 6, 2 / 6], rtol=1e-5)


@pytest.mark.parametrize("jit", [jax.jit, lambda f: f])
def test_a_mean_whose_sums_overflow(jit):
    """Of weights, of losses, and of their products; the mean itself is an ordinary number."""

    def full(value):
        return jnp.asarray(np.full(5, value, np.float32))

    f = jit(jax.value_and_grad(lambda x, w: mean(x, weights=w), (0, 1)))
    for weight, loss in ((1e38, 1.0), (3e38, 3e38), (10.0, 3e38), (1e20, 1e19), (-3e38, 2.0)):
        weights = np.full(5, weight, np.float32)
        weights[0] = 0
        value, (by_loss, by_weight) = jax.device_get(f(full(loss), jnp.asarray(weights)))
        np.testing.assert_allclose(value, loss, rtol=1e-6)
        np.testing.assert_allclose(by_loss, [0, 0.25, 0.25, 0.25, 0.25], rtol=1e-6)
        np.testing.assert_allclose(by_weight * weight / loss, np.zeros(5), atol=1e-6)
    value, gradient = jit(jax.value_and_grad(mean))(full(-3e38))
    np.testing.assert_allclose(value, -3e38, rtol=1e-6)
    np.testing.assert_allclose(gradient, np.full(5, 0.2), rtol=1e-6)
    # A small weight counts by its loss, whatever the large one's.
    value, _ = f(jnp.array([0.0, 1e38]), jnp.array([1e20, 1e-25]))
    np.testing.assert_allclose(value, 1e-7, rtol=1e-6)
    shards = jit(jax.vmap(lambda x, w: mean(x, weights=w, axis_name="i"), axis_name="i"))
    values = shards(jnp.array([[1.0], [4.0]]), jnp.array([[1e38], [3e38]]))
    np.testing.assert_allclose(values, [3.25, 3.25], rtol=1e-6)


def test_derivatives_of_order_2(check_derivatives):
    def of_both(x, w):
        weighted = dict(weights=w, where=jnp.array([[True, True, True]]))
        return {f.__name__: {"weighted": f(x, **weighted), "plain": f(x)} for f in (mean, sum)}

    with jax.enable_x64(True):
        check_derivatives(of_both, (np.array([[1.0, -4.0, 7.0]]), np.array([[1.0, 2.0, 0.0]])), step=1e-4)


@pytest.mark.parametrize("jit", [jax.jit, lambda f: f])
def test_weights_of_both_signs_that_add_up_to_0_divide_by_it(jit):
    """Only where nothing counts is the mean 0."""
    f = jit(jax.value_and_grad(lambda x, w: mean(x, weights=w), (0, 1)))
    for loss, true in ([1.0, 2.0], -inf), ([2.0, 1.0], inf), ([1.0, 1.0], nan):
        value, gradients = f(jnp.array(loss), jnp.array([1.0, -1.0]))
        np.testing.assert_array_equal(value, true)
        assert np.isnan(gradients).all()
    value, gradients = f(jnp.array([1.0, nan]), jnp.zeros(2))
    assert value == 0
    np.testing.assert_array_equal(gradients, np.zeros((2, 2)))
    assert mean(jnp.array([1.0, 2.0, 3.0]), weights=jnp.array([2.0, -1.0, 0.0])) == 0
    parts = jax.vmap(lambda x, w: mean(x, weights=w, axis_name="i"), axis_name="i")
    np.testing.assert_array_equal(parts(jnp.array([[1.0], [2.0]]), jnp.array([[1.0], [-1.0]])), [-inf, -inf])
    np.testing.assert_array_equal(parts(jnp.array([[nan], [2.0]]), jnp.array([[0.0], [0.0]])), [0, 0])


@pytest.mark.parametrize("reduction", [mean, sum])
@pytest.mark.parametrize("jit", [jax.jit, lambda f: f])
def test_a_zero_cotangent_gives_zero_whatever_counts(reduction, jit):
    weights = [[1.0, 2.0, 3.0], [1.0, nan, 3.0], [1.0, inf, 3.0], [1.0, 1.0, -2.0]]
    gradients = jit(jax.grad(lambda x, w: 0 * reduction(x, weights=w), (0, 1)))
    for loss in ([1.0, 2.0, 4.0], [1.0, nan, 4.0], [1.0, inf, 4.0]):
        for w in weights:
            np.testing.assert_array_equal(gradients(jnp.array(loss), jnp.array(w)), np.zeros((2, 3)))


def test_an_infinite_loss_leaves_the_other_gradients_alone():
    """Per-example losses of inf have finite gradients: those must arrive."""
    loss, weights = jnp.array([1.0, inf]), jnp.array([1.0, 3.0])
    np.testing.assert_array_equal(jax.grad(lambda x: mean(x, weights=weights))(loss), [0.25, 0.75])
    np.testing.assert_array_equal(jax.grad(mean)(loss), [0.5, 0.5])
    assert np.isnan(jax.grad(lambda w: mean(loss, weights=w))(weights)).all()


def test_cotangents_that_are_not_uniform():
    """The mean of one task times 2, minus three times the sum of another, one row of losses each."""
    loss, where = np.float32([[1, 2], [3, 4]]), np.array([[True, True], [True, False]])

    @jax.jit
    def found(x, where):
        total = jax.grad(lambda x: 2 * mean(x[0], where=where[0]) - 3 * sum(x[1], where=where[1]))(x)
        rows = jax.vmap(lambda x, s: mean(x, where=s))
        return total, *jax.vjp(lambda x: rows(x, where), x)[1](jnp.array([2.0, -3.0]))

    for gradient in found(loss, where):
        np.testing.assert_array_equal(gradient, [[1, 1], [-3, 0]])


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int32, jnp.bfloat16, jnp.float16])
def test_weights_of_any_number_type(dtype):
    loss = np.float32([1, 4, nan])
    weights = np.array([1, 2, 0], dtype)
    value, gradient = value_and_gradient_of_mean(loss, weights)
    assert value == 3
    np.testing.assert_allclose(gradient, [1 / 3, 2 / 3, 0], rtol=1e-6)
    assert value_and_gradient_of_mean(np.ones(300, np.float32), np.full(300, 100, np.int8))[0] == 1  # no sum of int8


value_and_gradient_of_mean = jax.jit(jax.value_and_grad(lambda x, w: mean(x, weights=w)))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0)])
def test_an_empty_array_is_nothing(shape):
    empty = np.zeros(shape, np.float32)

    @jax.jit
    def found(empty):
        options = {}, dict(where=jnp.ones(shape, bool)), dict(weights=empty)
        return [jax.value_and_grad(lambda x, f=f, k=k: f(x, **k))(empty) for f in (mean, sum) for k in options]

    for value, gradient in found(empty):
        assert value == 0
        assert gradient.shape == shape
    assert mean(empty) == sum(empty) == 0


@pytest.mark.parametrize("size", [1000, 2**20])
def test_within_8_ulp(oracle, size):
    rng = np.random.default_rng(0)
    weights = rng.uniform(size=size).astype(np.float32)
    of_all = jax.jit(lambda x, w: (sum(x, weights=w), mean(x, weights=w), mean(x)))
    for loss in (rng.normal(size=size), rng.uniform(size=size), np.full(size, 0.1)):
        loss = loss.astype(np.float32)
        terms, factors = loss.astype(float) * weights, weights.astype(float)
        total, average, plain = of_all(loss, weights)
        assert oracle.ulps(total, terms.sum(), 0, np.abs(terms).sum()) <= 8
        true = terms.sum() / factors.sum()
        assert oracle.ulps(average, true, 0, np.abs(terms).sum() / factors.sum()) <= 8
        assert oracle.ulps(plain, loss.mean(dtype=float), 0, np.abs(loss).mean(dtype=float)) <= 8


def test_microbatches_make_up_the_batch():
    rng = np.random.default_rng(0)
    loss, where = rng.random((4, 50), np.float32), rng.random((4, 50)) < 0.3

    @jax.jit
    def found(loss, where):
        def of_shards(f):
            return jax.vmap(lambda x, s: f(x, where=s, axis_name="shard"), axis_name="shard")(loss, where)

        return [(of_shards(f), f(loss, where=where)) for f in (mean, sum)]

    for parts, whole in found(loss, where):
        np.testing.assert_allclose(parts, np.full(4, whole), rtol=1e-6)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from jax.sharding import AxisType, PartitionSpec as P
from xent.losses import mean, softmax_cross_entropy_with_integer_labels as cross_entropy
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
x = jax.random.normal(jax.random.key(0), (16, 5)).at[3].set(jnp.nan)
y, where = jnp.arange(16) % 5, jnp.arange(16) < 6  # shards with 4, 2, 0 and 0 examples
y = y.at[8].set(-1)
w = jnp.arange(16.0) % 4  # shards of two kinds of weights, some of them 0
specs = dict(mesh=mesh, in_specs=(P("data"), P("data"), P("data"), P("data")))
for weigh in (False, True):
    def of(x, y, where, w, axis_name=None):
        return mean(cross_entropy(x, y), where=where & (y != 3), weights=w if weigh else None, axis_name=axis_name)
    local = partial(of, axis_name="data")
    one = jax.jit(jax.value_and_grad(of, (0, 3)))(x, y, where, w)
    outside = jax.jit(jax.value_and_grad(jax.shard_map(local, out_specs=P(), **specs), (0, 3)))(x, y, where, w)
    shards = (P(), (P("data"), P("data")))
    inside = jax.jit(jax.shard_map(jax.value_and_grad(local, (0, 3)), out_specs=shards, **specs))(x, y, where, w)
    for sharded in (outside, inside):
        np.testing.assert_allclose(sharded[0], one[0], rtol=1e-6)
        np.testing.assert_allclose(sharded[1][0], one[1][0], rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(sharded[1][1], one[1][1], rtol=1e-5, atol=1e-7)
    assert np.isfinite(one[1][0]).all() and one[0] > 0
    assert weigh == np.any(one[1][1] != 0)
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


@pytest.mark.parametrize("reduction", [mean, sum])
def test_an_axis_that_is_not_mapped(reduction):
    with pytest.raises(ValueError, match=r"^axis_name must name an axis that is mapped .*, got 'data'; .*\Z"):
        reduction(jnp.ones(3), axis_name="data")
