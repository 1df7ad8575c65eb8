"""sigmoid_binary_cross_entropy against the oracle, its laws, and hostile inputs."""

from functools import cache, partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from jax.test_util import check_grads

from xent.losses import sigmoid_binary_cross_entropy as loss
from xent.losses import softmax_cross_entropy_with_integer_labels

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


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_derivatives_of_order_2_in_logits_and_labels(smoothing):
    z, y = jax.random.normal(jax.random.key(0), (5,)) * 2, jnp.array([0.0, 1.0, 0.3, 0.5, 0.9])
    check_grads(jax.jit(partial(loss, label_smoothing=smoothing)), (z, y), order=2, modes=["fwd", "rev"], eps=1e-2)


def test_curvature_is_exact_far_out():
    z = jnp.array([30.0, -30.0, 0.0])
    curvature = jax.jit(jax.vmap(jax.grad(jax.grad(loss))))(z, jnp.array([1.0, 1.0, 1.0]))
    np.testing.assert_allclose(curvature, [np.exp(-30.0), np.exp(-30.0), 0.25], rtol=1e-6)


def test_jit_vmap_and_eager_agree(oracle):
    y = jnp.linspace(0, 1, len(LOGITS))
    for f in (loss, jax.grad(lambda z, y: loss(z, y).sum())):
        for other in (jax.jit(f), jax.vmap(f), jax.jit(jax.vmap(f))):
            assert oracle.ulps(other(LOGITS, y), f(LOGITS, y), 2 * oracle.TINY) <= 8


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
