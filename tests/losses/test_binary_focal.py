"""sigmoid_focal_loss against 60 digits, the cross-entropy it grows out of, and optax."""

from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from hypothesis import given, settings

from xent.losses import sigmoid_binary_cross_entropy
from xent.losses import sigmoid_focal_loss as loss

inf, nan = np.inf, np.nan
LOGITS = np.concatenate([s * np.array([1e4, 300, 174, 100, 88, 87, 50, 30, 17, 5, 1, 0.1, 1e-3]) for s in (1, -1)])
LOGITS = np.concatenate([LOGITS, [0], np.random.default_rng(0).normal(size=56) * 10]).astype(np.float32)
GAMMAS = [0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 5.0]


def exact(z, y, gamma, alpha=None):
    """Loss, its derivative by the logit, and the largest of the terms that this is the sum of."""
    with mpmath.workdps(60):
        z, y, gamma = (mpmath.mpf(float(v)) for v in (z, y, gamma))
        balance = 1 if alpha is None else mpmath.mpf(alpha) * y + (1 - mpmath.mpf(alpha)) * (1 - y)
        p, q = 1 / (1 + mpmath.exp(-z)), 1 / (1 + mpmath.exp(z))
        with mpmath.workdps(60 if abs(z) < 100 else 10000):
            cost = y * mpmath.log1p(mpmath.exp(-z)) + (1 - y) * mpmath.log1p(mpmath.exp(z))
        wrong = y * q + (1 - y) * p
        power = balance * wrong**gamma
        terms = (1 - y) * p, -y * q, gamma * (1 - 2 * y) * p * q / wrong * cost
        return float(power * cost), float(power * mpmath.fsum(terms)), float(power * max(map(abs, terms)))


@jax.jit
def value_and_gradient(z, y, gamma):
    return loss(z, y, gamma=gamma), jax.grad(lambda z: loss(z, y, gamma=gamma).sum())(z)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("label", [0.0, 1.0, 1e-6, 0.3, 0.5, 1 - 2**-24])
def test_within_its_bound(oracle, label, gamma):
    gamma, y = np.float32(gamma), np.float32(label)
    values, gradient = jax.device_get(value_and_gradient(LOGITS, np.full_like(LOGITS, y), gamma))
    for z, value, derivative in zip(LOGITS, values, gradient, strict=True):
        true_value, true_derivative, largest = exact(z, y, gamma)
        scale = None if label in (0, 1) else max(largest, oracle.TINY)
        assert oracle.ulps(value, true_value, 2 * oracle.TINY) <= 8 + gamma, z
        assert oracle.ulps(derivative, true_derivative, 2 * oracle.TINY, scale) <= 8 + gamma, z


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_gamma_as_a_number_and_alpha(oracle, gamma):
    for y in (0.0, 1.0):
        values = jax.jit(partial(loss, alpha=0.25, gamma=gamma))(LOGITS, np.full_like(LOGITS, y))
        for z, value in zip(LOGITS, values, strict=True):
            assert oracle.ulps(value, exact(z, y, gamma, 0.25)[0], 2 * oracle.TINY) <= 8 + gamma, z


def test_float64_is_computed_in_float64():
    """A gamma that no float32 is, too."""
    z = np.array([-20.3, -1.2, 0.3, 3.1])
    with jax.enable_x64(True):
        for gamma in (2.1, np.float64(2.1), np.full(4, 2.1)):

            def f(z, gamma=gamma):
                values, pull = jax.vjp(partial(loss, labels=np.ones(4), gamma=gamma), z)
                return values, *pull(np.ones(4))

            values, gradient = jax.jit(f)(z)
            assert values.dtype == gradient.dtype == np.float64
            true = [exact(v, 1, 2.1)[:2] for v in z]
            np.testing.assert_allclose(np.stack([values, gradient], 1), true, 4e-15)


def test_the_power_of_a_probability_that_underflows():
    """(1 - p_t)**gamma of a right answer is exp(-gamma z), and the loss about exp(-(1 + gamma) z)."""
    at_70 = jax.jit(partial(loss, gamma=0.2))(np.float32([70.0]), np.ones(1, np.float32))
    np.testing.assert_allclose(at_70, np.exp(-84.0), rtol=2e-6)
    value, gradient = value_and_gradient(np.array([-100, 100], np.float32), np.array([1, 0], np.float32), 0.5)
    np.testing.assert_array_equal(value, [100, 100])
    np.testing.assert_array_equal(gradient, [-1, 1])
    # The power alone, e**-50, by the derivative in alpha of the cost that a label of 1/2 leaves.
    by_alpha = jax.jit(jax.grad(lambda a, z: loss(z, jnp.float32(1), alpha=a, gamma=0.1)))(0.5, np.float32(75))
    np.testing.assert_allclose(by_alpha, np.exp(-82.5), rtol=2e-6)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(z=st.floats(-1e4, 1e4, width=32), y=st.integers(0, 8))
def test_gamma_0_is_the_cross_entropy(oracle, z, y):
    z, y = np.float32(z), np.float32(y / 8)
    for ours, plain in zip(value_and_gradient(z, y, 0.0), cross_entropy(z, y), strict=True):
        assert oracle.ulps(ours, plain, 2 * oracle.TINY, max(abs(float(plain)), min(y, 1 - y))) <= 8


cross_entropy = jax.jit(jax.value_and_grad(sigmoid_binary_cross_entropy))


@settings(deadline=None, max_examples=40, derandomize=True)
@given(z=st.floats(-100, 100, width=32), y=st.integers(0, 8), g=st.sampled_from([0.0, 0.5, 2.0]))
def test_yes_and_no_are_alike(z, y, g):
    z, y = np.float32(z), np.float32(y / 8)
    (a, b), (c, d) = value_and_gradient(z, y, g), value_and_gradient(-z, 1 - y, g)
    assert a == c
    np.testing.assert_allclose(b, -d, rtol=1e-6, atol=1e-7)


def test_it_is_that_of_optax_where_nothing_is_extreme():
    z = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32) * 3
    for y in ((z > 0).astype(np.float32), np.random.default_rng(2).random((20, 3), np.float32)):
        for kwargs, ours, theirs in zip(KWARGS, *of_all(z, y), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=3e-6, err_msg=str(kwargs))


KWARGS = {}, {"alpha": 0.25}, {"gamma": 0.5}, {"alpha": 0.7, "gamma": 3}


@jax.jit
def of_all(z, y):
    return [[f(z, y, **kwargs) for kwargs in KWARGS] for f in (loss, optax.sigmoid_focal_loss)]


def test_alpha_and_gamma_of_each_class():
    z, y = np.ones((2, 3), np.float32), np.array([[0, 1, 1], [1, 0, 1]])
    alpha, gamma = np.float32([0.1, 0.5, 0.9]), np.array([0, 1, 4])

    @jax.jit
    def found(z, y):
        alone = [loss(z[:, c], y[:, c], alpha=float(alpha[c]), gamma=float(gamma[c])) for c in range(3)]
        return loss(z, y, alpha=alpha, gamma=gamma), jnp.stack(alone, 1)

    together, alone = found(z, y)
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_derivatives_of_order_2_in_all_arguments(check_derivatives):
    z, y = np.float32([-2.0, -0.3, 0.4, 1.5]), np.float32([0.2, 0.9, 0.5, 0.7])
    given = (z, y, np.float32(0.3), np.float32(1.7))
    check_derivatives(lambda z, y, a, g: loss(z, y, alpha=a, gamma=g), given, step=1e-2)


@pytest.mark.parametrize("label", [0, 1])
def test_curvature_for_hard_labels(label):
    z = np.array([-9.0, -2.0, -0.3, 0.0, 0.4, 1.5, 8.0], np.float32)
    for gamma in (0.0, 0.5, 1.0, 2.0):
        with mpmath.workdps(60):
            true = [
                float(
                    mpmath.diff(
                        lambda v, g=gamma: (1 - 1 / (1 + mpmath.exp(v))) ** g * mpmath.log1p(mpmath.exp(v)), v, 2
                    )
                )
                for v in (-z if label else z)
            ]
        np.testing.assert_allclose(curvature(z, np.full_like(z, label), gamma), true, rtol=2e-5, atol=1e-6)


curvature = jax.jit(jax.vmap(jax.grad(jax.grad(lambda z, y, gamma: loss(z, y, gamma=gamma))), (0, 0, None)))


def test_curvature_far_out_keeps_its_digits():
    """For a right answer the loss is exp(-(1 + gamma) z), but for what is exp(-z) of it."""
    second = jax.jit(jax.grad(jax.grad(lambda z, gamma: loss(z, jnp.float32(1), gamma=gamma))))
    for gamma in (0.0, 0.5, 1.0, 2.0):
        np.testing.assert_allclose(second(20.0, gamma), (1 + gamma) ** 2 * np.exp(-(1 + gamma) * 20), rtol=1e-5)


def test_infinite_logits():
    z, y = jnp.array([inf, -inf, inf, -inf]), jnp.array([1.0, 0.0, 0.0, 1.0])
    for gamma in GAMMAS:
        value, gradient = value_and_gradient(z, y, gamma)
        np.testing.assert_array_equal(value, [0, 0, inf, inf])
        np.testing.assert_array_equal(gradient, [0, 0, 1, -1])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_zero_cotangent_gives_zero_whatever_the_element_holds(gamma):
    z, y = np.float32([nan, inf, -inf, nan, 1.0, 100.0, 2.0]), np.float32([0.0, 0.5, 1.0, nan, nan, 1.0, 1.0])

    @jax.jit
    def derived(z, y):
        of_one = [
            derivative(lambda *a: loss(*a, gamma=gamma)[6], i) for derivative in (jax.grad, jax.hessian) for i in (0, 1)
        ]
        return [d(z, y) for d in of_one], jax.grad(lambda *a: loss(*a, gamma=gamma).sum(), (0, 1))(z, y)

    of_one, poisoned = jax.device_get(derived(z, y))
    for derivative in of_one:
        assert (derivative[..., :6] == 0).all()
    undefined = [True, False, False, True, True, False, False]
    np.testing.assert_array_equal(np.isnan(poisoned[0]), undefined)
    np.testing.assert_array_equal(np.isnan(poisoned[1]), undefined)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    z, y = jnp.array(LOGITS, dtype), jnp.arange(len(LOGITS)) % 2
    value, gradient = value_and_gradient(z, y, 2.0)
    value32, gradient32 = value_and_gradient(z.astype(jnp.float32), y, 2.0)
    assert value.dtype == jnp.float32
    assert gradient.dtype == dtype
    assert (value == value32).all()
    assert (gradient == gradient32.astype(dtype)).all()


def test_jit_vmap_and_eager_agree(oracle):
    y = np.arange(len(LOGITS)) % 2

    def both(z, y):
        return loss(z, y), jax.grad(lambda z: loss(z, y).sum())(z)

    for got, eager in oracle.compiled_and_eager(both, LOGITS, y):
        assert oracle.ulps(got, eager, 2 * oracle.TINY) <= 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(logits=np.zeros(3, int)), r"logits must be an array of floating dtype, got int.* of shape \(3,\)"),
        (dict(labels=np.zeros((3, 1))), r"labels must have the shape of logits, \(3,\), got \(3, 1\)"),
        (dict(alpha=1.5), "alpha must be a finite number from 0 to 1, got 1.5"),
        (dict(alpha=np.zeros(2)), r"alpha must be a number or have .*, \(3,\), got \(2,\); it is not broadcast"),
        (dict(gamma=-1), "gamma must be a finite number from 0 to inf, got -1"),
        (dict(gamma=inf), "gamma must be a finite number from 0 to inf, got inf"),
        (dict(gamma=None), "gamma must be an array of .* dtype, got NoneType"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        loss(**(dict(logits=np.zeros(3), labels=np.zeros(3)) | arguments))
