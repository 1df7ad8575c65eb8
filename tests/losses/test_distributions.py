"""Entropies and divergences against 60 digits, their laws, and their edges."""

from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from jax.test_util import check_grads

from xent.losses import (
    cross_entropy,
    entropy,
    jensen_shannon_divergence,
    log_likelihood,
    mean,
    perplexity,
    relative_entropy,
)

inf, nan = np.inf, np.nan
TINY = float(np.finfo(np.float32).tiny)
LOG_TINY = np.log(TINY)
PAIRS = [cross_entropy, relative_entropy, jensen_shannon_divergence]


def random_pair(seed, *shape):
    masses = np.random.default_rng(seed).gamma(2.0, size=(2, *shape)).astype(np.float32)
    return jnp.array(masses / masses.sum(-1, keepdims=True))


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


# Laws.


@st.composite
def distributions(draw, count):
    """`count` distributions over the same classes, zeros among them."""
    classes = draw(st.sampled_from([2, 3, 7]))
    masses = st.lists(st.sampled_from([0, 0, 1]) | st.integers(1, 10**6), min_size=classes, max_size=classes)
    rows = [np.array(draw(masses.filter(any)), float) for _ in range(count)]
    return [(row / row.sum()).astype(np.float32) for row in rows]


law = settings(deadline=None, max_examples=60, derandomize=True)
compiled = {f: jax.jit(f) for f in (*PAIRS, entropy, perplexity)}


@law
@given(distributions(2))
def test_cross_entropy_is_entropy_and_relative_entropy(pair):
    p, q = pair
    whole, own, relative = compiled[cross_entropy](p, q), compiled[entropy](p), compiled[relative_entropy](p, q)
    if (p[q == 0] > 0).any():
        assert whole == relative == inf
    else:
        surplus = q.astype(float).sum() - p.astype(float).sum()  # what rounding left
        np.testing.assert_allclose(whole, float(own) + float(relative) - surplus, rtol=1e-6, atol=1e-12)


@law
@given(distributions(2))
def test_divergences_know_equal_from_different(pair):
    p, q = pair
    for f in (relative_entropy, jensen_shannon_divergence):
        assert compiled[f](p, p) == 0
        assert (compiled[f](p, q) > 0) == (p != q).any()


@law
@given(distributions(2))
def test_jensen_shannon_is_symmetric_and_bounded(pair):
    p, q = pair
    value = compiled[jensen_shannon_divergence](p, q)
    assert value == compiled[jensen_shannon_divergence](q, p)
    assert value <= np.log(2) * (1 + 1e-6)
    middle = ((p.astype(float) + q) / 2).astype(np.float32)
    mean_relative = (compiled[relative_entropy](p, middle) + compiled[relative_entropy](q, middle)) / 2
    np.testing.assert_allclose(value, mean_relative, rtol=1e-3, atol=1e-7)  # the middle is rounded here


@law
@given(distributions(1))
def test_entropy_is_largest_for_the_uniform_and_zero_for_the_certain(one):
    (p,) = one
    n = len(p)
    value = compiled[entropy](p)
    assert -1e-7 <= value <= np.log(n) * (1 + 1e-6)
    assert (value == 0) == (p.max() == 1)
    np.testing.assert_allclose(compiled[entropy](np.full(n, 1 / n, np.float32)), np.log(n), rtol=1e-6)
    np.testing.assert_allclose(np.log(n) - value, relative_entropy(p, np.full(n, 1 / n, np.float32)), atol=1e-6)


@law
@given(distributions(3))
def test_relative_entropy_is_convex_in_either(three):
    p, q, r = three
    middle = ((p.astype(float) + q) / 2).astype(np.float32)
    f = compiled[relative_entropy]
    assert f(middle, r) <= (f(p, r) + f(q, r)) / 2 * (1 + 1e-6) + 1e-6
    assert f(r, middle) <= (f(r, p) + f(r, q)) / 2 * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize("f", PAIRS)
@pytest.mark.parametrize("base", [2, 10.0, 1.5])
def test_a_base_changes_the_unit(oracle, f, base):
    p, q = jnp.array([0.2, 0.3, 0.5]), jnp.array([0.7, 0.2, 0.1])
    assert oracle.ulps(f(p, q, base=base), float(f(p, q)) / np.log(base)) <= 2


# Derivatives.


@pytest.mark.parametrize("f", [*PAIRS, lambda p, q: log_likelihood(p * q[:, :1], jnp.array([0, 2]))])
def test_derivatives_of_order_2(f):
    p, q = random_pair(0, 2, 3)
    check_grads(jax.jit(f), (p, q), order=2, modes=["fwd", "rev"], eps=1e-3, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("f", PAIRS)
def test_derivatives_of_order_3_are_those_of_the_formula(f):
    def plain(x):
        p, q = x
        m = (p + q) / 2
        if f is cross_entropy:
            return -p * jnp.log(q)
        if f is relative_entropy:
            return p * jnp.log(p / q) - p + q
        return (p * jnp.log(p / m) + q * jnp.log(q / m)) / 2

    def third(f):
        return jax.jit(jax.jacfwd(jax.jacrev(jax.jacfwd(f))))

    x = jnp.array([0.3, 0.8])
    np.testing.assert_allclose(third(lambda x: f(x[:1], x[1:]))(x), third(plain)(x), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("f", [*PAIRS, lambda p, q: entropy(p)])
@pytest.mark.parametrize("jacobian", [jax.jacfwd, jax.jacrev])
def test_zero_log_zero_has_finite_derivatives_of_every_order(f, jacobian):
    derivative = f
    for order in (1, 2, 3):
        derivative = jacobian(derivative, (0, 1))
        compiled = jax.jit(derivative)
        for q in [0.0, 0.5, 1e-18] + [TINY] * (order < 3):  # the third by p, q and q is 1 / q**2
            values = compiled(jnp.zeros(1), jnp.full(1, q))
            assert all(np.isfinite(value).all() for value in jax.tree.leaves(values)), (order, q)


def test_the_derivatives_at_zero():
    p, q = jnp.zeros(3), jnp.array([0.0, 0.25, 1.0])
    np.testing.assert_allclose(jax.grad(cross_entropy)(p, q), [-LOG_TINY, np.log(4), 0], rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(cross_entropy, 1)(p, q), 0)
    np.testing.assert_allclose(jax.grad(relative_entropy)(p, q), LOG_TINY - np.log([TINY, 0.25, 1]), rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(relative_entropy, 1)(p, q), 1)
    np.testing.assert_allclose(jax.grad(entropy)(p), np.full(3, -LOG_TINY), rtol=1e-6)


def test_the_gradient_by_logits_survives_probabilities_that_vanish():
    """A policy whose illegal actions have a logit of -inf, or so low that the softmax is 0."""
    z = jnp.array([1.0, -inf, 0.5, -200.0])
    legal = np.array([0, 2])
    objectives = [
        entropy,
        lambda p: relative_entropy(p, jnp.array([0.2, 0.2, 0.3, 0.3])),
        lambda p: jensen_shannon_divergence(p, jnp.array([0.2, 0.2, 0.3, 0.3])),
        lambda p: cross_entropy(jnp.array([0.4, 0, 0.6, 0]), p),
    ]
    plain = [
        lambda p, q: -(p * jnp.log(p)).sum(),
        lambda p, q: (p * jnp.log(p / q)).sum(),
        lambda p, q: (p * jnp.log(2 * p / (p + q)) + q * jnp.log(2 * q / (p + q))).sum() / 2,
        lambda p, q: -(jnp.array([0.4, 0.6]) * jnp.log(p)).sum(),
    ]
    for f, formula in zip(objectives, plain, strict=True):
        gradient = jax.jit(jax.grad(lambda z, f=f: f(jax.nn.softmax(z))))(z)
        among_legal = jax.grad(lambda z, g=formula: g(jax.nn.softmax(z), jnp.array([0.2, 0.3])))(z[legal])
        np.testing.assert_array_equal(gradient[np.array([1, 3])], 0)
        np.testing.assert_allclose(gradient[legal], among_legal, rtol=1e-5, atol=1e-7)
    assert np.isfinite(jax.jit(jax.hessian(lambda z: entropy(jax.nn.softmax(z))))(z)).all()


# Hostile values.


@pytest.mark.parametrize("f", [cross_entropy, relative_entropy])
@pytest.mark.parametrize("jit", [jax.jit, lambda f: f])
def test_what_was_held_impossible_costs_inf(f, jit):
    p, q = jnp.array([0.5, 0.5]), jnp.array([1.0, 0.0])
    value, (by_p, by_q) = jit(jax.value_and_grad(f, (0, 1)))(p, q)
    assert value == inf
    assert (by_p[1], by_q[1]) == (inf, -inf)
    assert np.isfinite([by_p[0], by_q[0]]).all()
    for gradient in jit(jax.grad(lambda p, q: 0 * f(p, q), (0, 1)))(p, q):
        np.testing.assert_array_equal(gradient, 0)


BAD = [-0.1, nan, inf, -inf]


@pytest.mark.parametrize(
    ("f", "jit"), [(f, jax.jit) for f in (*PAIRS, lambda p, q: entropy(p))] + [(relative_entropy, lambda f: f)]
)
def test_what_is_no_probability_is_nan_and_a_zero_cotangent_gives_zero(f, jit):
    good = jnp.array([0.5, 0.25, 0.25])
    for which in (0, 1) if f in PAIRS else (0,):
        rows = [jnp.stack([good.at[1].set(bad) for bad in (0.25, *BAD)])] * 2
        rows[1 - which] = jnp.stack([good] * 5)
        np.testing.assert_array_equal(np.isnan(f(*rows)), [False, True, True, True, True])
        by_both = jit(jax.grad(lambda p, q: f(p, q).sum(), (0, 1)))(*rows)
        assert np.isnan(by_both[which][1:, 1]).all()
        assert np.isfinite(by_both[which][0]).all()
        assert np.isfinite(by_both[which][:, 0]).all()
        masked = jit(jax.grad(lambda p, q: mean(f(p, q), where=jnp.arange(5) < 1), (0, 1)))(*rows)
        for gradient in masked:
            np.testing.assert_array_equal(gradient[1:], 0)


def test_probabilities_are_not_normalised():
    counts, q = jnp.array([3.0, 1.0]), jnp.array([0.75, 0.25])
    np.testing.assert_allclose(cross_entropy(counts, q), -3 * np.log(0.75) - np.log(0.25), rtol=1e-6)
    np.testing.assert_allclose(relative_entropy(q, 2 * q), 1 - np.log(2), rtol=1e-6)


def test_close_distributions_keep_their_digits():
    """The plain sum is rounding errors; with -p + q it is the divergence: half the chi-square distance, this close."""
    q = jax.nn.softmax(jax.random.normal(jax.random.key(1), (1000,)))
    p = q * (1 + 1e-5 * jnp.sign(jax.random.normal(jax.random.key(2), (1000,))))
    true = np.sum((np.asarray(p, float) - np.asarray(q, float)) ** 2 / np.asarray(q, float)) / 2
    np.testing.assert_allclose(relative_entropy(p, q), true, rtol=2e-5)
    np.testing.assert_allclose(jensen_shannon_divergence(p, q), true / 4, rtol=2e-5)
    assert abs(jax.scipy.special.rel_entr(p, q).sum() - true) > 100 * true


# Axes, dtypes and transformations.


def test_axes_batches_jit_vmap_and_eager_agree(oracle):
    p, q = random_pair(3, 5, 12)
    for f in PAIRS:
        rows = f(p, q)
        assert rows.shape == (5,)
        for other in (jax.jit(f)(p, q), jax.vmap(f)(p, q), f(p.T, q.T, 0), jnp.stack([f(*x) for x in zip(p, q)])):  # noqa: B905
            assert oracle.ulps(other, rows) <= 8
        split = f(p.reshape(5, 3, 4).swapaxes(0, 1), q.reshape(5, 3, 4).swapaxes(0, 1), (0, -1))
        assert oracle.ulps(split, rows) <= 8
        assert f(jnp.zeros((0, 3)), jnp.zeros((0, 3))).shape == (0,)
    assert oracle.ulps(entropy(p.T, 0), entropy(p)) <= 8


@pytest.mark.parametrize("f", PAIRS)
def test_half_precision_is_computed_in_float32(f):
    dtype = jnp.float16 if f is cross_entropy else jnp.bfloat16
    p, q = random_pair(4, 6, 9).astype(dtype)
    wide = p.astype(jnp.float32), q.astype(jnp.float32)
    value, *gradients = value_and_gradients(p, q, f)
    true_value, *true_gradients = value_and_gradients(*wide, f)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, true_value)
    for half, full in zip(gradients, true_gradients, strict=True):
        assert half.dtype == dtype
        np.testing.assert_array_equal(half, full.astype(dtype))


@pytest.mark.parametrize("p", [np.array([0, 1]), np.array([False, True])])
def test_a_certain_truth_may_be_integer_or_bool(p):
    q = jnp.array([0.25, 0.75])
    for f in PAIRS:
        assert f(p, q) == f(jnp.array([0.0, 1.0]), q)
    assert entropy(p) == 0


# log_likelihood and perplexity.


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
