"""sigmoid_binary_cross_entropy against the oracle, its laws, and hostile inputs."""

import math
from functools import cache, partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings

from xent.losses import binary_cross_entropy, softmax_cross_entropy_with_integer_labels
from xent.losses import sigmoid_binary_cross_entropy as loss

inf, nan = np.inf, np.nan
LOGITS = np.concatenate([s * np.array([-1e4, -300, -88, -87, -30, -17, -5, -1, -0.1, -1e-3, -1e-30]) for s in (1, -1)])
LOGITS = np.concatenate([LOGITS, [0], np.random.default_rng(0).normal(size=60) * 10]).astype(np.float32)


@partial(jax.jit, static_argnames="label_smoothing")
def value_and_gradient(z, y, **kwargs):
    return loss(z, y, **kwargs), jax.grad(lambda z: loss(z, y, **kwargs).sum())(z)


@pytest.mark.parametrize("label", [0.0, 1.0, 1e-6, 0.3, 0.5, 1 - 2**-24])
@pytest.mark.parametrize("smoothing", [0.0, 1e-9, 0.1, 1.0])
def test_within_8_ulp(oracle, label, smoothing):
    y = np.float32(label)
    values, gradient = jax.device_get(value_and_gradient(LOGITS, np.full_like(LOGITS, y), label_smoothing=smoothing))
    soft = smoothing > 0 or label not in (0, 1)
    yes = (1 - smoothing) * y + smoothing / 2
    for z, value, derivative in zip(LOGITS, values, gradient, strict=True):
        true_value, true_derivative = oracle.binary(z, y, smoothing)
        p = 1 / (1 + np.exp(-np.float64(np.clip(z, -700, 700))))
        assert oracle.ulps(value, true_value, 2 * oracle.TINY) <= 8, z
        assert oracle.ulps(derivative, true_derivative, 2 * oracle.TINY, max(p, yes) if soft else None) <= 8, z


@cache
def of_one_logit(smoothing):
    return jax.jit(jax.value_and_grad(partial(loss, label_smoothing=smoothing)))


@cache
def of_two_logits(smoothing):
    softmax = partial(softmax_cross_entropy_with_integer_labels, label_smoothing=smoothing)
    return jax.jit(jax.value_and_grad(lambda z, y: softmax(jnp.stack([jnp.zeros_like(z), z]), y)))


@settings(deadline=None, max_examples=100, derandomize=True)
@given(z=st.floats(-80, 80, width=32), y=st.integers(0, 1), s=st.sampled_from([0.0, 0.1, 1.0]))
def test_it_is_the_softmax_of_two_classes(oracle, z, y, s):
    z = np.float32(z)
    binary, pair = of_one_logit(s)(z, y), of_two_logits(s)(z, y)
    assert oracle.ulps(binary[0], pair[0], 2 * oracle.TINY) <= 16
    assert oracle.ulps(binary[1], pair[1], 2 * oracle.TINY, None if s == 0 else 1) <= 16


@settings(deadline=None, max_examples=60, derandomize=True)
@given(z=st.floats(-1e4, 1e4, width=32), y=st.integers(0, 8), s=st.sampled_from([0.0, 0.25]))
def test_yes_and_no_are_alike(z, y, s):
    a, b = jnp.float32(z), jnp.float32(y / 8)
    assert loss(a, b, label_smoothing=s) == loss(-a, 1 - b, label_smoothing=s)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    z, y = jnp.array(LOGITS, dtype), jnp.arange(len(LOGITS)) % 2
    value, gradient = value_and_gradient(z, y)
    value32, gradient32 = value_and_gradient(z.astype(jnp.float32), y)
    assert value.dtype == jnp.float32
    assert gradient.dtype == dtype
    assert (value == value32).all()
    assert (gradient == gradient32.astype(dtype)).all()


def test_labels_of_any_kind():
    z = jnp.array([-2.0, 3.0])
    as_float = loss(z, jnp.array([0.0, 1.0]))
    for labels in ([0, 1], [False, True]):
        assert (loss(z, jnp.array(labels)) == as_float).all()
    np.testing.assert_allclose(as_float, optax.sigmoid_binary_cross_entropy(z, jnp.array([0.0, 1.0])), 1e-6)


def test_derivatives_of_order_2_in_logits_and_labels(check_derivatives):
    def of_both(z, y):
        return {"plain": loss(z, y), "smooth": loss(z, y, label_smoothing=0.2)}

    z, y = np.random.default_rng(0).normal(size=5) * 2, [0.0, 1.0, 0.3, 0.5, 0.9]
    check_derivatives(of_both, (np.float32(z), np.float32(y)), step=1e-2)


def test_curvature_is_exact_far_out():
    z = jnp.array([30.0, -30.0, 0.0])
    curvature = jax.jit(jax.vmap(jax.grad(jax.grad(loss))))(z, jnp.array([1.0, 1.0, 1.0]))
    np.testing.assert_allclose(curvature, [np.exp(-30.0), np.exp(-30.0), 0.25], rtol=1e-6)


def test_jit_vmap_and_eager_agree(oracle):
    y = np.linspace(0, 1, len(LOGITS), dtype=np.float32)

    def both(z, y):
        return loss(z, y), jax.grad(lambda z: loss(z, y).sum())(z)

    for got, eager in oracle.compiled_and_eager(both, LOGITS, y):
        assert oracle.ulps(got, eager, 2 * oracle.TINY) <= 8


def test_infinite_logits():
    z, y = jnp.array([inf, -inf, inf, -inf]), jnp.array([1.0, 0.0, 0.0, 1.0])
    value, gradient = value_and_gradient(z, y)
    np.testing.assert_array_equal(value, [0, 0, inf, inf])
    np.testing.assert_array_equal(gradient, [0, 0, 1, -1])
    assert (jax.jit(jax.vmap(jax.grad(jax.grad(loss))))(z, y) == 0).all()
    assert (loss(z, y, label_smoothing=0.1) == inf).all()


@pytest.mark.parametrize("jit", [jax.jit, lambda f: f])
def test_a_zero_cotangent_gives_zero_whatever_the_element_holds(jit):
    z, y = jnp.array([nan, inf, -inf, nan, 1.0, 2.0]), jnp.array([0.0, 0.5, 0.5, nan, nan, 1.0])
    for derivative in (jax.grad, jax.hessian) if jit is jax.jit else (jax.grad,):
        of_logits, of_labels = (jit(derivative(lambda z, y: loss(z, y)[5], i))(z, y) for i in (0, 1))
        assert (of_logits[..., :5] == 0).all()
        assert (of_labels[..., :5] == 0).all()
    poisoned = jit(jax.grad(lambda z, y: loss(z, y).sum(), (0, 1)))(z, y)
    undefined = [True, False, False, True, True, False]
    np.testing.assert_array_equal(np.isnan(poisoned[0]), undefined)
    np.testing.assert_array_equal(np.isnan(poisoned[1]), undefined)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(logits=np.zeros(3, int)), r"logits must be an array of floating dtype, got int.* of shape \(3,\)"),
        (
            dict(labels=np.zeros(3, complex)),
            "labels must be an array of floating or integer or bool dtype, got complex",
        ),
        (dict(labels=np.zeros((3, 1))), r"labels must have the shape of logits, \(3,\), got \(3, 1\)"),
        (dict(labels=1.0), r"labels must have the shape of logits, \(3,\), got \(\)"),
        (dict(labels=None), "labels must be an array of .* dtype, got NoneType"),
        (dict(label_smoothing=-0.1), r"label_smoothing must be a Python float in \[0, 1\], got -0.1"),
        (dict(label_smoothing="x"), "label_smoothing must be .* got 'x'"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        loss(**(dict(logits=np.zeros(3), labels=np.zeros(3)) | arguments))


# A weight of yes.

WEIGHTS = np.array([2.0, 0.5, 10.0], np.float32)


@pytest.mark.parametrize("label", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [1e-3, 0.5, 3.0, 1e3])
def test_weighted_within_8_ulp(oracle, label, smoothing, weight):
    y, weight = np.float32(label), np.float32(weight)
    values, gradient = jax.device_get(
        value_and_gradient(LOGITS, np.full_like(LOGITS, y), label_smoothing=smoothing, pos_weight=weight)
    )
    yes, weight = (1 - smoothing) * float(y) + smoothing / 2, float(weight)
    for z, value, derivative in zip(LOGITS, values, gradient, strict=True):
        (of_yes, by_yes), (of_no, by_no) = oracle.binary(z, 1), oracle.binary(z, 0)
        parts, slack = (weight * yes * by_yes, (1 - yes) * by_no), 2 * oracle.TINY * max(1, weight)
        assert oracle.ulps(value, weight * yes * of_yes + (1 - yes) * of_no, slack) <= 8, z
        assert oracle.ulps(derivative, sum(parts), slack, max(map(abs, parts))) <= 8, z


def test_pos_weight_is_that_of_torch():
    """torch 2.13, BCEWithLogitsLoss(pos_weight=..., reduction="none") in float64."""
    z = np.array([[-3.0, 0.5, 40.0], [2.0, -60.0, 0.0]], np.float32)
    y = np.array([[1, 0, 0], [0.25, 1, 0.5]], np.float32)
    table = {
        3.0: (
            [[9.145762054721, 0.97407698418, 40.0], [1.690392016564, 180.0, 1.38629436112]],
            [[-2.857722380467, 0.622459331202, 1.0], [0.571195616967, -3.0, -0.5]],
        ),
        tuple(WEIGHTS): (
            [[6.097174703147, 0.97407698418, 40.0], [1.658660013804, 30.0, 3.81230949308]],
            [[-1.905148253645, 0.622459331202, 1.0], [0.600996347472, -0.5, -2.25]],
        ),
    }
    for weight, expected in table.items():
        weight = np.array(weight, np.float32) if isinstance(weight, tuple) else weight
        for ours, theirs in zip(value_and_gradient(z, y, pos_weight=weight), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=4e-7)


def test_a_weight_of_1_changes_nothing_and_one_of_0_forgets_yes():
    y = jnp.linspace(0, 1, len(LOGITS))
    for weight in (1, 1.0, jnp.ones(()), np.ones(len(LOGITS), int)):
        np.testing.assert_allclose(loss(LOGITS, y, pos_weight=weight), loss(LOGITS, y), rtol=4e-7)
    ones, infinite = np.ones(2, np.float32), np.array([-inf, inf], np.float32)
    np.testing.assert_array_equal(loss(infinite, ones, pos_weight=0.0), [0, 0])


def test_weighted_derivatives_of_order_2_in_all_arguments(check_derivatives):
    z, y = np.float32([-2.0, 0.5, 1.0]), np.float32([0.3, 1.0, 0.6])
    check_derivatives(lambda z, y, w: loss(z, y, pos_weight=w, label_smoothing=0.1), (z, y, WEIGHTS), step=1e-2)


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_no_weight_on_an_infinite_cost_is_nothing(smoothing):
    """The cost of a yes that was held impossible; of a no, at the other end, it is inf as ever."""
    f = jax.jit(partial(loss, pos_weight=0.0, label_smoothing=smoothing))
    z, y = jnp.array([-jnp.inf, -jnp.inf, 3.0]), jnp.array([1.0, 0.5, 1.0])
    value, gradients = jax.value_and_grad(lambda *a: f(*a)[:2].sum(), (0, 1))(z, y)
    assert value == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros(3))
    assert f(jnp.array(jnp.inf), jnp.array(0.5)) == jnp.inf


def test_no_weight_on_nan_is_nan():
    f = jax.jit(partial(loss, pos_weight=0.0))
    value, gradient = jax.value_and_grad(lambda z: f(z, jnp.ones(2)).sum())(jnp.array([nan, 1.0]))
    assert np.isnan(value)
    np.testing.assert_array_equal(gradient, [nan, 0])
    np.testing.assert_array_equal(jax.grad(lambda z: f(z, jnp.ones(2))[1])(jnp.array([nan, 1.0])), [0, 0])


def test_a_weight_that_is_nan_poisons_only_whom_it_counts_for():
    z, y, w = jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0]), jnp.array([nan, 2.0])
    of_second = jax.jit(jax.grad(lambda z, y, w: loss(z, y, pos_weight=w)[1], (0, 1, 2)))(z, y, w)
    assert all(g[0] == 0 and g[1] != 0 for g in of_second)
    of_first = jax.jit(jax.grad(lambda z, y, w: loss(z, y, pos_weight=w)[0], (0, 1, 2)))(z, y, w)
    assert all(np.isnan(g[0]) and g[1] == 0 for g in of_first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(pos_weight=-1.0), "pos_weight must be a finite number from 0 to inf, got -1.0"),
        (dict(pos_weight=True), "pos_weight must be .* got True"),
        (dict(pos_weight=np.ones((3, 1))), r"pos_weight must be a number or have .*, \(3,\), got \(3, 1\); it is not"),
        (dict(pos_weight=np.ones(2)), r"pos_weight must be .*, \(3,\), got \(2,\)"),
        (dict(pos_weight="x"), "pos_weight must be an array of floating or integer dtype, got str"),
    ],
)
def test_weights_and_logits_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        loss(**(dict(logits=np.zeros(3), labels=np.zeros(3)) | arguments))


# From probabilities.

PROBABILITIES = np.array([0, 1e-37, 1e-10, 1e-3, 0.25, 0.5, 0.75, 0.999, 1 - 2**-24, 1], np.float32)


@pytest.mark.parametrize("label", [0.0, 1.0, 1e-6, 0.3])
def test_of_probabilities_within_4_ulp(oracle, label):
    y = np.full_like(PROBABILITIES, label)
    values, gradient = jax.device_get(of_probabilities(PROBABILITIES, y))
    for p, t, value, derivative in zip(PROBABILITIES.astype(float), y.astype(float), values, gradient, strict=True):
        parts = t * -math.log(p) if t and p else 0, (1 - t) * -math.log1p(-p) if t < 1 and p < 1 else 0
        if (p == 0 and t > 0) or (p == 1 and t < 1):
            weight = -t if p == 0 else 1 - t
            assert value == inf
            np.testing.assert_allclose(derivative, weight * np.finfo(np.float32).max, rtol=1e-6)
        else:
            slopes = [-t / p if t else 0, (1 - t) / (1 - p) if t < 1 else 0]
            assert oracle.ulps(value, sum(parts), 2 * oracle.TINY) <= 4, p
            assert oracle.ulps(derivative, sum(slopes), 2 * oracle.TINY, max(map(abs, slopes))) <= 4, p


@jax.jit
def of_probabilities(p, y):
    return binary_cross_entropy(p, y), jax.grad(lambda p: binary_cross_entropy(p, y).sum())(p)


def test_what_probabilities_cost():
    """The figures of the docstring: the error of a loss whose probability went through float32."""
    z = jnp.array([10.0, 15.0, 17.5, -80.0])
    exact, rounded = loss(z, jnp.ones(4)), binary_cross_entropy(jax.nn.sigmoid(z), jnp.ones(4))
    error = np.abs(rounded / exact - 1)
    assert 2e-4 < error[0] < 1e-3
    assert 0.1 < error[1] < 0.3
    assert error[2] == 1
    assert error[3] < 1e-6
    assert binary_cross_entropy(jax.nn.sigmoid(jnp.float32(17.5)), jnp.float32(0)) == inf
    assert jax.grad(lambda z: binary_cross_entropy(jax.nn.sigmoid(z), jnp.float32(1)))(17.5) == 0
    assert jax.grad(loss)(17.5, jnp.float32(1)) < 0


def test_of_probabilities_derivatives_of_order_2(check_derivatives):
    p, y = np.array([0.2, 0.5, 0.7, 0.6]), np.array([0.0, 1.0, 0.3, 0.9])
    with jax.enable_x64(True):
        check_derivatives(binary_cross_entropy, (p, y), step=1e-5)


def test_what_is_no_probability_is_nan_and_poisons_only_whom_it_counts_for():
    p, y = jnp.array([-0.1, 1.1, nan, 0.0, 1.0, 0.5, 0.5]), jnp.array([0.0, 1.0, 1.0, 1.0, 0.0, nan, 1.0])
    values, _ = of_probabilities(p, y)
    np.testing.assert_array_equal(np.isnan(values), [True, True, True, False, False, True, False])
    for derivative in (jax.grad, jax.hessian):
        for i in (0, 1):
            assert (jax.jit(derivative(lambda p, y: binary_cross_entropy(p, y)[6], i))(p, y)[..., :6] == 0).all()
    poisoned = jax.jit(jax.grad(lambda p, y: binary_cross_entropy(p, y).sum(), (0, 1)))(p, y)
    for gradient in poisoned:
        np.testing.assert_array_equal(np.isnan(gradient), np.isnan(values))


def test_probabilities_that_do_not_fit():
    with pytest.raises(ValueError, match="probabilities must be an array of floating dtype, got int"):
        binary_cross_entropy(np.zeros(3, int), np.zeros(3))
    with pytest.raises(ValueError, match=r"labels must have the shape of probabilities, \(3,\), got \(3, 1\)"):
        binary_cross_entropy(np.zeros(3), np.zeros((3, 1)))
