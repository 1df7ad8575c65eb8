"""Entropies and divergences against 60 digits; their axes, dtypes and arguments."""

from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from xent.losses import (
    cross_entropy,
    entropy,
    jensen_shannon_divergence,
    relative_entropy,
)

inf, nan = np.inf, np.nan
TINY = float(np.finfo(np.float32).tiny)
LOG_TINY = np.log(TINY)
PAIRS = [cross_entropy, relative_entropy, jensen_shannon_divergence]


def random_pair(seed, *shape):
    masses = np.random.default_rng(seed).gamma(2.0, size=(2, *shape)).astype(np.float32)
    return masses / masses.sum(-1, keepdims=True)


@partial(jax.jit, static_argnums=2)
def value_and_gradients(p, q, f):
    return f(p, q), *jax.grad(lambda p, q: f(p, q).sum(), (0, 1))(p, q)


def terms_and_slopes(f, p, q):
    """Of one class, in 60 digits: the term, and its derivatives by p and q. What is infinite is so at 0 only."""
    p, q = mpmath.mpf(float(p)), mpmath.mpf(float(q))
    m, log, tiny = (p + q) / 2, mpmath.log, mpmath.mpf(float(TINY))
    p_or_tiny, q_or_tiny = p or tiny, q or tiny
    if f is cross_entropy:
        return (-p * log(q) if p else 0), -log(q_or_tiny), (-p / q if p else 0)
    if f is relative_entropy:
        return (p * log(p / q) if p else 0) - p + q, log(p_or_tiny / q_or_tiny), (1 - p / q if p else 1)
    value = ((p * log(p / m) if p else 0) + (q * log(q / m) if q else 0)) / 2
    return value, log(2 * p_or_tiny / (p_or_tiny + q)) / 2, log(2 * q_or_tiny / (p + q_or_tiny)) / 2


def pairs(classes, rng):
    """(name, p, q) in float32: every regime, none with p > 0 = q."""

    def softmax(x):
        e = np.exp(x - x.max())
        p = (e / e.sum()).astype(np.float32)
        return np.where(p < TINY, 0, p)  # as XLA does

    x, y = rng.normal(size=classes), rng.normal(size=classes)
    for scale in (0.1, 1, 5, 20, 80):
        p, q = softmax(x * scale), softmax(y * scale)
        q = np.where(p > 0, np.maximum(q, TINY), q)
        yield f"independent, scale {scale}", p, q
        yield f"one-hot, scale {scale}", (np.arange(classes) == y.argmin()).astype(np.float32), np.maximum(q, TINY)
        for distance in (1e-7, 1e-5, 1e-3, 0.1, 0.5, 1.0, 1.1, 2):
            near = softmax(x * scale + y * distance)
            yield f"{distance} apart, scale {scale}", p, np.where(p > 0, np.maximum(near, TINY), near)
    uniform = np.full(classes, 1 / classes, np.float32)
    confident = np.full(classes, np.float32(1e-6), np.float32)
    confident[0] = 1 - 2.0**-20
    yield "uniform", uniform, uniform
    yield "confident", uniform, confident
    yield "sparse", np.where(np.arange(classes) % 2, 0, 2 * uniform).astype(np.float32), uniform
    yield "not normalised", uniform * 3, uniform * 5


@pytest.mark.parametrize("f", PAIRS)
@pytest.mark.parametrize(("classes", "seeds"), [(2, 6), (3, 3), (33, 2), (1000, 1)])
def test_values_and_gradients_within_8_ulp(oracle, f, classes, seeds):
    for seed in range(seeds):
        for name, p, q in list(pairs(classes, np.random.default_rng(seed)))[:: 1 + 3 * (classes == 1000)]:
            value, by_p, by_q = jax.device_get(value_and_gradients(p, q, f))
            with mpmath.workdps(60):
                true = [terms_and_slopes(f, *pair) for pair in zip(p, q, strict=True)]
                true_value = float(mpmath.fsum(t[0] for t in true))
            true_by_p, true_by_q = (np.array([float(t[i]) for t in true]) for i in (1, 2))
            slack = classes * TINY
            assert oracle.ulps(value, true_value, slack) <= 8, name
            assert oracle.ulps(by_p, true_by_p, slack) <= 8, name
            assert oracle.ulps(by_q, true_by_q, slack) <= 8, name


def log_ratio(a, b):
    """Where a is not 0."""
    ratio = np.divide(a, b, out=np.ones_like(a), where=a > 0)
    near = (a > 0) & (ratio > 0.5) & (ratio < 2)
    return np.where(near, np.log1p(np.divide(a - b, b, out=np.zeros_like(a), where=near)), np.log(ratio))


@pytest.mark.parametrize("f", PAIRS)
def test_values_within_32_ulp_for_262144_classes(oracle, f):
    classes = 262144
    for name, p, q in list(pairs(classes, np.random.default_rng(0)))[::5]:
        a, b = p.astype(np.longdouble), q.astype(np.longdouble)
        m = (a + b) / 2
        if f is cross_entropy:
            terms = -a * np.log(np.where(a > 0, b, 1))
        elif f is relative_entropy:
            terms = a * log_ratio(a, b) - a + b
        else:
            terms = (a * log_ratio(a, m) + b * log_ratio(b, m)) / 2
        assert oracle.ulps(f(p, q), float(terms.sum()), classes * TINY) <= 32, name


@pytest.mark.parametrize("classes", [2, 33, 1000])
def test_entropy_within_8_ulp(oracle, classes):
    value_and_gradient = jax.jit(jax.value_and_grad(entropy))
    for name, p, _ in list(pairs(classes, np.random.default_rng(0)))[::3]:
        value, gradient = jax.device_get(value_and_gradient(p))
        with mpmath.workdps(60):
            logs = [mpmath.log(mpmath.mpf(float(x or TINY))) for x in p]
            true = float(-mpmath.fsum(float(x) * log for x, log in zip(p, logs, strict=True)))
        logs = np.array([float(log) for log in logs])
        assert oracle.ulps(value, true, classes * TINY) <= 8, name
        # -1 - log p cancels near 1/e; at 0 the slope of log p alone stands.
        assert oracle.ulps(gradient, -logs - (p > 0), 0, np.maximum(1, -logs)) <= 8, name


def test_float64_is_computed_in_float64():
    with jax.enable_x64(True):
        for f in PAIRS:
            for name, p, q in pairs(7, np.random.default_rng(5)):
                p, q = p.astype(np.float64), q.astype(np.float64)
                with mpmath.workdps(60):
                    true = float(mpmath.fsum(terms_and_slopes(f, *pair)[0] for pair in zip(p, q, strict=True)))
                value = f(jnp.array(p), jnp.array(q))
                assert value.dtype == jnp.float64
                np.testing.assert_allclose(value, true, rtol=8 * 2.0**-52, err_msg=name)


# Axes, dtypes and transformations.


def test_axes_batches_jit_vmap_and_eager_agree(oracle):
    p, q = random_pair(3, 5, 12)

    @jax.jit
    def of_all(p, q):
        split = [x.reshape(5, 3, 4).swapaxes(0, 1) for x in (p, q)]
        return [
            [
                f(p, q),
                jax.vmap(f)(p, q),
                f(p.T, q.T, 0),
                jnp.stack([f(p[i], q[i]) for i in range(5)]),
                f(*split, (0, -1)),
            ]
            for f in PAIRS
        ], entropy(p.T, 0)

    of_pairs, of_p = of_all(p, q)
    for f, others in zip(PAIRS, of_pairs, strict=True):
        rows = f(p, q)
        assert rows.shape == (5,)
        for other in others:
            assert oracle.ulps(other, rows) <= 8
        assert f(np.zeros((0, 3)), np.zeros((0, 3))).shape == (0,)
    assert oracle.ulps(of_p, entropy(p)) <= 8


@pytest.mark.parametrize("f", PAIRS)
def test_half_precision_is_computed_in_float32(f):
    dtype = jnp.float16 if f is cross_entropy else jnp.bfloat16
    p, q = random_pair(4, 6, 9).astype(dtype)
    wide = p.astype(np.float32), q.astype(np.float32)
    value, *gradients = value_and_gradients(p, q, f)
    true_value, *true_gradients = value_and_gradients(*wide, f)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, true_value)
    for half, full in zip(gradients, true_gradients, strict=True):
        assert half.dtype == dtype
        np.testing.assert_array_equal(half, np.asarray(full).astype(dtype))


@pytest.mark.parametrize("p", [np.array([0, 1]), np.array([False, True])])
def test_a_certain_truth_may_be_integer_or_bool(p):
    q = jnp.array([0.25, 0.75])
    for f in PAIRS:
        assert f(p, q) == f(jnp.array([0.0, 1.0]), q)
    assert entropy(p) == 0


@pytest.mark.parametrize("f", PAIRS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(p=[0.5, 0.5]), "p must be an array of floating or integer or bool dtype, got list"),
        (dict(q=np.ones((1, 2))), r"q must have the shape of p, \(2,\), got \(1, 2\); it is not broadcast"),
        (dict(axis=1), r"axis must be .* got 1 for shape \(2,\)"),
        (dict(p=np.ones(0), q=np.ones(0)), "p must hold between 1 and .* classes, got 0"),
        (dict(base=1), "base must be None or a Python number above 1, got 1"),
        (dict(base=True), "base must be .* got True"),
        (dict(base=inf), "base must be .* got inf"),
        (dict(base=np.ones(3)), "base must be .* got ndarray float64"),
    ],
)
def test_arguments_that_do_not_fit(f, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        f(**(dict(p=np.ones(2), q=np.ones(2)) | arguments))
    assert "\n" not in str(error.value)
