"""softmax_cross_entropy_with_integer_labels against 60 digits, its own laws, and the faults of others."""

from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings

from xent.losses import mean
from xent.losses import softmax_cross_entropy_with_integer_labels as eager_loss

inf, nan = np.inf, np.nan
# Compiled as a whole, for time's sake; without is tested where that may differ.
loss = jax.jit(eager_loss, static_argnames=("axis", "label_smoothing"))
optax_loss = jax.jit(optax.softmax_cross_entropy_with_integer_labels, static_argnames="axis")
value_and_gradient = jax.jit(jax.value_and_grad(loss))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rows(classes, rng):
    """(name, logits, label): every regime of the contract."""
    normal = rng.normal(size=classes).astype(np.float32)
    top, bottom = int(normal.argmax()), int(normal.argmin())
    for scale in (1e-3, 0.1, 1, 3, 10, 30, 88, 1000, 1e4 / np.abs(normal).max()):
        x = normal * np.float32(scale)
        moved = np.clip(x + np.float32(rng.uniform(-9e3, 9e3)), -1e4, 1e4).astype(np.float32)
        yield f"scale {scale}, top", x, top
        yield f"scale {scale}, bottom", x, bottom
        yield f"scale {scale}, any", x, int(rng.integers(classes))
        yield f"scale {scale}, moved", moved, top
    for gap in (1e-7, 0.3, 5.46, 7.28, 10.9, 12.7, 20, 60, 80):
        # Equal terms round the same way: the worst case of a sum.
        for offset in (0, 3.3, -37.7):
            x = np.full(classes, offset - gap, np.float32)
            x[0] = offset
            yield f"all {gap} below one at {offset}, right", x, 0
            yield f"all {gap} below one at {offset}, wrong", x, classes - 1
        x = (normal * 3 - np.float32(gap)).astype(np.float32)
        x[0] = max(x) + np.float32(gap)
        yield f"confident by {gap}", x, 0
        yield f"hopeless by {gap}", x, 1
    yield "ties", np.zeros(classes, np.float32), classes - 1
    yield "ties at 1e4", np.full(classes, 1e4, np.float32), 0


@pytest.mark.parametrize(("classes", "seeds"), [(2, 10), (3, 5), (10, 5), (33, 3), (100, 2), (1000, 1)])
def test_value_and_gradient_within_8_ulp(oracle, classes, seeds):
    for seed in range(seeds):
        for name, x, y in rows(classes, np.random.default_rng(seed)):
            value, gradient = value_and_gradient(x, y)
            true_value, true_gradient = oracle.categorical(x, y)
            slack = classes * oracle.TINY
            assert oracle.ulps(value, true_value, slack) <= 8, name
            assert oracle.ulps(gradient, true_gradient, slack) <= 8, name


def test_value_and_gradient_within_32_ulp_for_262144_classes(oracle):
    classes = 262144
    for name, x, y in list(rows(classes, np.random.default_rng(0)))[::2]:
        value, gradient = value_and_gradient(x, y)
        true_value, true_gradient = oracle.categorical_in_float64(x, y)
        assert oracle.ulps(value, true_value, classes * oracle.TINY) <= 32, name
        assert oracle.ulps(gradient, true_gradient, classes * oracle.TINY) <= 32, name


def test_the_float64_oracle_is_the_60_digit_oracle(oracle):
    for name, x, y in rows(100, np.random.default_rng(1)):
        for fast, exact in zip(oracle.categorical_in_float64(x, y), oracle.categorical(x, y), strict=True):
            assert oracle.ulps(fast, exact, oracle.TINY) < 1e-5, name


def test_one_class_costs_nothing():
    assert loss(jnp.ones((1,)), 0) == 0
    assert jax.grad(loss)(jnp.ones((1,)), 0) == 0


@pytest.mark.parametrize("batch", [(48,), (4, 3)])
def test_a_batch_is_as_exact_as_a_row(oracle, batch):
    """XLA compiles sums of many rows otherwise than of one."""
    rng = np.random.default_rng(2)
    x = (rng.normal(size=(*batch, 200)) * 10).astype(np.float32)
    y = rng.integers(200, size=batch)
    values, gradient = jax.device_get((loss(x, y), jax.jit(jax.grad(lambda x: loss(x, y).sum()))(x)))
    for i in np.ndindex(batch):
        true_value, true_gradient = oracle.categorical(x[i], y[i])
        assert oracle.ulps(values[i], true_value, 200 * oracle.TINY) <= 8
        assert oracle.ulps(gradient[i], true_gradient, 200 * oracle.TINY) <= 8


@pytest.mark.parametrize("smoothing", [1e-6, 0.1, 0.5, 1.0])
def test_smoothing(oracle, smoothing):
    rng = np.random.default_rng(3)
    smoothed = jax.jit(jax.value_and_grad(partial(loss, label_smoothing=smoothing)))
    for name, x, y in rows(30, rng):
        value, gradient = smoothed(x, y)
        true_value, true_gradient = oracle.categorical(x, y, smoothing)
        p = oracle.categorical(x, y, 0.0)[1] + (np.arange(30) == y)
        target = smoothing / 30 + (1 - smoothing) * (np.arange(30) == y)
        assert oracle.ulps(value, true_value, 30 * oracle.TINY) <= 8, name
        assert oracle.ulps(gradient, true_gradient, 30 * oracle.TINY, np.maximum(p, target)) <= 8, name


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_classes_not_selected_are_not_there(oracle, smoothing):
    rng = np.random.default_rng(4)
    x = (rng.normal(size=(6, 40)) * 5).astype(np.float32)
    y = rng.integers(40, size=6)
    where = rng.random((6, 40)) < 0.5
    where[np.arange(6), y] = True
    x[~where] = np.resize([nan, inf, -inf, 1e30], (~where).sum())
    values = loss(x, y, where=where, label_smoothing=smoothing)
    gradient = jax.grad(lambda x: loss(x, y, where=where, label_smoothing=smoothing).sum())(x)
    assert (gradient[~where] == 0).all()
    for i in range(6):
        true_value, true_gradient = oracle.categorical(np.where(where[i], x[i], -inf), y[i], smoothing)
        assert oracle.ulps(values[i], true_value) <= 8
        assert oracle.ulps(gradient[i], true_gradient, 0, np.maximum(np.abs(true_gradient), smoothing)) <= 8


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x = (normal(0, 50, 100) * 4).astype(dtype)
    y = jnp.arange(50)
    value, gradient = jax.value_and_grad(lambda x: loss(x, y).sum())(x)
    value32, gradient32 = jax.value_and_grad(lambda x: loss(x, y).sum())(x.astype(jnp.float32))
    assert loss(x, y).dtype == value.dtype == jnp.float32
    assert value == value32
    assert gradient.dtype == dtype
    assert (gradient == gradient32.astype(dtype)).all()


# Laws.

sizes = st.sampled_from([1, 2, 5, 12])  # few, since each is compiled
logit_rows = sizes.flatmap(lambda n: st.lists(st.floats(-50, 50, width=32), min_size=n, max_size=n)).map(
    partial(np.array, dtype=np.float32)
)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(x=logit_rows, c=st.integers(-(10**6), 10**6), data=st.data())
def test_a_shift_changes_nothing(oracle, x, c, data):
    x = np.round(x * 8) / 8  # so that x + c is exact
    y = data.draw(st.integers(0, len(x) - 1))
    shifted = value_and_gradient((x + c).astype(np.float32), y)
    for got, same in zip(shifted, value_and_gradient(x, y), strict=True):
        assert oracle.ulps(got, same, len(x) * oracle.TINY) <= 8


@settings(deadline=None, max_examples=60, derandomize=True)
@given(x=logit_rows, data=st.data())
def test_the_order_of_classes_does_not_matter(oracle, x, data):
    y = data.draw(st.integers(0, len(x) - 1))
    order = np.array(data.draw(st.permutations(range(len(x)))))
    value, gradient = value_and_gradient(x, y)
    permuted = value_and_gradient(x[order], int(np.flatnonzero(order == y)[0]))
    assert oracle.ulps(permuted[0], value, len(x) * oracle.TINY) <= 16
    assert oracle.ulps(permuted[1], gradient[order], len(x) * oracle.TINY) <= 16


@settings(deadline=None, max_examples=60, derandomize=True)
@given(x=logit_rows, s=st.sampled_from([0.0, 0.125, 0.5, 1.0]), data=st.data())
def test_smoothing_is_the_mean_of_its_ends(x, s, data):
    y = data.draw(st.integers(0, len(x) - 1))
    everywhere = np.mean(loss(np.tile(x, (len(x), 1)), np.arange(len(x))))
    np.testing.assert_allclose(loss(x, y, label_smoothing=s), (1 - s) * loss(x, y) + s * everywhere, 2e-6, 1e-37)
    assert loss(x, y, label_smoothing=0.0) == loss(x, y)


# Derivatives.


def test_derivatives_of_order_2(check_derivatives):
    y, where = np.array([0, 2, 1]), np.arange(15).reshape(3, 5) % 4 != 1

    def of_all(x):
        return {"plain": loss(x, y), "smooth": loss(x, y, label_smoothing=0.2), "masked": loss(x, y, where=where)}

    check_derivatives(of_all, (normal(1, 3, 5),), step=1e-2)


def test_derivatives_of_order_3_are_those_of_log_sum_exp():
    x = normal(2, 4)

    def three_orders(f):
        return [[jacobian(f), jacobian(jacobian(f)), jacobian(jacobian(jacobian(f)))] for jacobian in jacobians]

    jacobians = (jax.jacfwd, jax.jacrev)
    derivatives = [*three_orders(partial(loss, labels=1)), *three_orders(lambda x: jax.nn.logsumexp(x) - x[1])]
    found = jax.jit(lambda x: [[derivative(x) for derivative in each] for each in derivatives])(x)
    for ours, plain in zip(found[:2], found[2:], strict=True):
        for each, expected in zip(ours, plain, strict=True):
            np.testing.assert_allclose(each, expected, atol=2e-6)


def test_hessian_of_a_confident_row_keeps_its_digits():
    x = jnp.array([0.0, 30.0])
    q = np.exp(-30.0)
    np.testing.assert_allclose(jax.hessian(loss)(x, 1), q * np.array([[1, -1], [-1, 1]]), rtol=1e-6)


def test_jit_vmap_and_eager_agree(oracle):
    x, y = normal(3, 9, 3) * 10, np.arange(9) % 3

    def both(x, y):
        return eager_loss(x, y), jax.grad(lambda x: eager_loss(x, y).sum())(x)

    for got, eager in oracle.compiled_and_eager(both, x, y):
        assert oracle.ulps(got, eager, 3 * oracle.TINY) <= 8
    products = jax.vmap(lambda x, y, v: jax.jvp(jax.grad(loss), (x, y), (v, np.zeros((), jax.dtypes.float0)))[1])
    np.testing.assert_allclose(jax.jit(products)(x, y, np.ones_like(x)), np.zeros((9, 3)), atol=1e-6)


# Axes and selections, as optax has them.


@pytest.mark.parametrize("axis", [-1, (2, 0), (-1, 1, 0)])
def test_axes_are_those_of_optax(axis):
    x = normal(4, 3, 4, 5)
    axes = {a % 3 for a in (axis if isinstance(axis, tuple) else (axis,))}
    y = np.random.default_rng(5).integers(0, 3, [n for a, n in enumerate(x.shape) if a not in axes])
    np.testing.assert_allclose(loss(x, y, axis), optax_loss(x, y, axis), 1e-6)
    where = np.random.default_rng(6).random(y.shape) < 0.7
    masked = optax_loss(x, y, axis, where)
    np.testing.assert_allclose(loss(x, y, axis, where), masked, 1e-6)


def test_nothing_selected_is_zero_with_zero_gradients():
    x = jnp.array([[1.0, nan], [inf, 0.0]])
    y = jnp.array([0, 5])
    for where in (jnp.zeros((2, 2), bool), jnp.zeros(2, bool)):
        value, gradient = jax.value_and_grad(lambda x, w: loss(x, y, where=w, label_smoothing=0.1).sum())(x, where)
        assert value == 0
        assert (gradient == 0).all()


def test_a_label_masked_out_costs_inf():
    x, where = jnp.array([1.0, 2.0, 3.0]), jnp.array([True, False, True])
    assert loss(x, 1, where=where) == inf
    assert loss(x.at[1].set(-inf), 1) == inf
    gradient = jax.grad(lambda x: loss(x, 1, where=where))(x)
    np.testing.assert_allclose(gradient, [0.1192029, 0, 0.8807971], rtol=1e-6)


# Hostile values.


def test_logits_of_minus_inf_are_classes_of_no_probability():
    x = jnp.array([-inf, 2.0, 2.0, -inf])
    value, gradient = value_and_gradient(x, 1)
    assert value == np.float32(np.log(2))
    np.testing.assert_array_equal(gradient, [0, -0.5, 0.5, 0])
    hessian = jax.jit(jax.hessian(loss))(x, 1)
    np.testing.assert_array_equal(hessian[1:3, 1:3], [[0.25, -0.25], [-0.25, 0.25]])
    third = jax.jit(jax.jacfwd(jax.hessian(loss)))(x, 1)
    assert np.isfinite(hessian).all()
    assert np.isfinite(third).all()
    lowest = float(jnp.finfo(jnp.float32).min)
    assert loss(jnp.array([lowest, 0.0]), 1) == 0
    assert np.isfinite(jax.grad(loss)(jnp.array([lowest, -lowest, -inf]), 1)).all()


@pytest.mark.parametrize(
    ("dtype", "jit"), [(t, jax.jit) for t in (jnp.int8, jnp.int32, jnp.uint8, jnp.uint32)] + [(jnp.int32, lambda f: f)]
)
def test_a_label_out_of_range_is_nan_and_never_wrapped(dtype, jit):
    wrong = [3, 100, 127] + ([-1, -3] if jnp.issubdtype(dtype, jnp.signedinteger) else [255])
    wrong += [2**32 - 1, 2**31] if dtype == jnp.uint32 else []
    y = np.array([0, *wrong], dtype)
    x = np.ones((len(y), 3), np.float32)

    def derived(x):
        values, tangent = jax.jvp(lambda x: eager_loss(x, y), (x,), (x,))
        _, pull_back = jax.vjp(lambda x: eager_loss(x, y), x)
        return values, pull_back(np.ones(len(y), np.float32))[0], tangent

    values, gradient, tangent = map(np.asarray, jit(derived)(x))
    assert np.isfinite(values[0])
    assert np.isfinite(gradient[0]).all()
    for bad in (values, gradient, tangent):
        assert np.isnan(bad[1:]).all()


def test_a_small_label_type_reaches_many_classes():
    assert loss(jnp.arange(1000.0), jnp.int8(100)) == 899.45868


BAD_ROWS = [([nan, 0, 1], 0), ([inf, 0, 1], 0), ([inf, inf, -inf], 1), ([-inf] * 3, 0), ([0, 1, 2], -1), ([0, 1, 2], 3)]
BAD_ROWS += [([0, 1, nan], 1), ([-inf, inf, 0], 2)]  # nine with a good one, as everywhere


@pytest.mark.parametrize(("jit", "smoothing"), [(jax.jit, 0.0), (jax.jit, 0.1), (lambda f: f, 0.1)])
def test_a_zero_cotangent_gives_zero_whatever_the_row_holds(jit, smoothing):
    """One good row after the bad ones; only it counts, and the first of the others with a weight that is 0."""
    x = jnp.asarray(np.float32([*(row for row, _ in BAD_ROWS), [1, 2, 3]]))
    y, last = np.array([*(y for _, y in BAD_ROWS), 1]), np.arange(9) == 8
    losses = partial(eager_loss, labels=y, label_smoothing=smoothing)

    def total(x, w):
        values = losses(x)
        return mean(values, where=last) + w * values[0]

    for derivative in (jax.grad, jax.hessian) if jit is jax.jit else (jax.grad,):
        of_bad_rows = np.asarray(jit(derivative(total))(x, 0.0))[:-1]
        np.testing.assert_array_equal(of_bad_rows, 0)
    of_row = jit(lambda x, cotangent: jax.vjp(losses, x)[1](cotangent)[0])
    for i in range(len(BAD_ROWS)):
        for weight in (1.0, 1e-37):
            poisoned = of_row(x, jnp.asarray(np.float32(np.arange(9) == i) * np.float32(weight)))
            np.testing.assert_array_equal(np.isnan(poisoned), np.arange(9)[:, None] == np.full(3, i))


def test_a_zero_weight_still_has_a_derivative():
    x, y = jnp.array([1.0, 2.0]), 0
    mixed = jax.jacfwd(jax.grad(lambda x, w: w * loss(x, y)), 1)(x, 0.0)
    np.testing.assert_allclose(mixed, jax.grad(loss)(x, y))


# What others get wrong.


def test_confident_predictions_keep_their_digits():
    x = jnp.array([30.0, 0.0])
    assert optax_loss(x, 0) == 0
    np.testing.assert_allclose(loss(x, 0), np.exp(-30.0), rtol=3e-7)
    np.testing.assert_allclose(jax.grad(loss)(x, 0), np.exp(-30.0) * np.array([-1, 1]), rtol=3e-7)


def test_a_common_offset_of_a_million():
    np.testing.assert_allclose(loss(jnp.array([1e6, 1e6 - 1]), 0), 0.31326169, rtol=1e-7)


def test_bfloat16_over_8192_classes(oracle):
    x = normal(7, 8192).astype(jnp.bfloat16)
    true, _ = oracle.categorical_in_float64(x.astype(jnp.float32), 5)
    assert oracle.ulps(loss(x, 5), true) <= 32


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(logits=np.zeros((2, 3), int)), "logits must be an array of floating dtype, got int.* of shape"),
        (dict(logits=[[0.0, 1.0]]), "logits must be an array of floating dtype, got list"),
        (dict(labels=np.zeros(2)), "labels must be an array of integer dtype, got float"),
        (dict(labels=np.zeros(2, bool)), "labels must be an array of integer dtype, got bool"),
        (dict(labels=np.zeros((2, 1), int)), r"labels must have .*, \(2,\), got \(2, 1\); it is not broadcast"),
        (dict(labels=0), r"labels must have .*, \(2,\), got \(\)"),
        (dict(axis=2), r"axis must be .* in \[-2, 2\), got 2 for shape \(2, 3\)"),
        (dict(axis=()), r"axis must be .* got \(\)"),
        (dict(axis=1.0), "axis must be .* got 1.0"),
        (dict(axis=(1, -1)), r"axis must name each axis once, got \(1, -1\)"),
        (dict(where=np.ones(2)), "where must be an array of bool dtype, got float"),
        (dict(where=np.ones((1, 3), bool)), r"where must have the shape \(2, 3\), .*, or \(2,\), .*, got \(1, 3\)"),
        (dict(where=True), r"where must have .*, got \(\)"),
        (dict(label_smoothing=1.5), r"label_smoothing must be a Python float in \[0, 1\], got 1.5"),
        (dict(label_smoothing=nan), r"label_smoothing must be .* got nan"),
        (dict(label_smoothing=True), "label_smoothing must be .* got True"),
        (dict(label_smoothing=np.array([0.1])), r"label_smoothing must be .* got ndarray float64 \(1,\)"),
        (dict(logits=np.zeros((2, 0))), "logits must hold between 1 and .* classes, got 0"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    good = dict(logits=np.zeros((2, 3)), labels=np.zeros(2, int))
    for f in (eager_loss, lambda **kw: jax.eval_shape(lambda: eager_loss(**kw))):
        with pytest.raises(ValueError, match=message) as error:
            f(**(good | arguments))
        assert "\n" not in str(error.value)
