"""The derivatives of entropies and divergences: of every order, at zero, and of what is no probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from xent.losses import cross_entropy, entropy, jensen_shannon_divergence, log_likelihood, mean, relative_entropy

inf, nan = np.inf, np.nan
TINY = float(np.finfo(np.float32).tiny)
LOG_TINY = np.log(TINY)
PAIRS = [cross_entropy, relative_entropy, jensen_shannon_divergence]


@pytest.mark.parametrize("f", [*PAIRS, lambda p, q: log_likelihood(p * q[:, :1], jnp.array([0, 2]))])
def test_derivatives_of_order_2(f):
    p, q = jax.random.dirichlet(jax.random.key(0), jnp.full(3, 2.0), (2, 2))
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
    of_all = jit(jax.grad(lambda p, q: f(p, q).sum(), (0, 1)))
    of_first = jit(jax.grad(lambda p, q: mean(f(p, q), where=jnp.arange(5) < 1), (0, 1)))
    for which in (0, 1) if f in PAIRS else (0,):
        rows = [jnp.stack([good.at[1].set(bad) for bad in (0.25, *BAD)])] * 2
        rows[1 - which] = jnp.stack([good] * 5)
        np.testing.assert_array_equal(np.isnan(f(*rows)), [False, True, True, True, True])
        by_both = of_all(*rows)
        assert np.isnan(by_both[which][1:, 1]).all()
        assert np.isfinite(by_both[which][0]).all()
        assert np.isfinite(by_both[which][:, 0]).all()
        for gradient in of_first(*rows):
            np.testing.assert_array_equal(gradient[1:], 0)
