"""The derivatives of entropies and divergences: of every order, at zero, and of what is no probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xent.losses import cross_entropy, entropy, jensen_shannon_divergence, log_likelihood, mean, relative_entropy

inf, nan = np.inf, np.nan
TINY = float(np.finfo(np.float32).tiny)
LOG_TINY = np.log(TINY)
PAIRS = [cross_entropy, relative_entropy, jensen_shannon_divergence]


def test_derivatives_of_order_2(check_derivatives):
    def of_all(p, q):
        chosen = log_likelihood(p * q[:, :1], jnp.array([0, 2]))
        return {f.__name__: f(p, q) for f in PAIRS} | {"log-likelihood": chosen}

    with jax.enable_x64(True):
        check_derivatives(of_all, tuple(np.random.default_rng(0).dirichlet([2.0] * 3, (2, 2))), step=1e-5)


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
def test_zero_log_zero_has_finite_derivatives_of_every_order(f):
    def of_both_modes(p, q):
        def orders(jacobian):
            first = jacobian(f, (0, 1))
            second = jacobian(first, (0, 1))
            return first(p, q), second(p, q), jacobian(second, (0, 1))(p, q)

        return [orders(jacobian) for jacobian in (jax.jacfwd, jax.jacrev)]

    compiled, zero = jax.jit(of_both_modes), np.zeros(1, np.float32)
    for q in (0.0, 0.5, 1e-18, TINY):
        for orders in jax.device_get(compiled(zero, np.full(1, q, np.float32))):
            for order, values in enumerate(orders, 1):
                if order < 3 or q != TINY:  # the third by p, q and q is 1 / q**2
                    assert all(np.isfinite(value).all() for value in jax.tree.leaves(values)), (order, q)


def test_the_derivatives_at_zero():
    @jax.jit
    def found(p, q):
        of_pairs = [jax.grad(f, (0, 1))(p, q) for f in (cross_entropy, relative_entropy)]
        return *of_pairs, jax.grad(entropy)(p)

    of_cross_entropy, of_divergence, of_entropy = found(np.zeros(3, np.float32), np.float32([0.0, 0.25, 1.0]))
    np.testing.assert_allclose(of_cross_entropy[0], [-LOG_TINY, np.log(4), 0], rtol=1e-6)
    np.testing.assert_array_equal(of_cross_entropy[1], 0)
    np.testing.assert_allclose(of_divergence[0], LOG_TINY - np.log([TINY, 0.25, 1]), rtol=1e-6)
    np.testing.assert_array_equal(of_divergence[1], 1)
    np.testing.assert_allclose(of_entropy, np.full(3, -LOG_TINY), rtol=1e-6)


def test_the_gradient_by_logits_survives_probabilities_that_vanish():
    """A policy whose illegal actions have a logit of -inf, or so low that the softmax is 0."""
    z = np.float32([1.0, -inf, 0.5, -200.0])
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

    @jax.jit
    def found(z):
        q = jnp.array([0.2, 0.3])
        gradients = [
            (
                jax.grad(lambda z, f=f: f(jax.nn.softmax(z)))(z),
                jax.grad(lambda z, g=g: g(jax.nn.softmax(z), q))(z[legal]),
            )
            for f, g in zip(objectives, plain, strict=True)
        ]
        return gradients, jax.hessian(lambda z: entropy(jax.nn.softmax(z)))(z)

    gradients, hessian = jax.device_get(found(z))
    for gradient, among_legal in gradients:
        np.testing.assert_array_equal(gradient[[1, 3]], 0)
        np.testing.assert_allclose(gradient[legal], among_legal, rtol=1e-5, atol=1e-7)
    assert np.isfinite(hessian).all()


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
    counted = np.arange(5) < 1

    def derived(p, q):
        """Losses, and the gradients of all of them, and of the first alone."""
        of_first = jax.grad(lambda p, q: mean(f(p, q), where=counted), (0, 1))
        return f(p, q), jax.grad(lambda p, q: f(p, q).sum(), (0, 1))(p, q), of_first(p, q)

    good, derived = np.tile(np.float32([0.5, 0.25, 0.25]), (5, 1)), jit(derived)
    bad = good.copy()
    bad[1:, 1] = BAD
    for which in (0, 1) if f in PAIRS else (0,):
        rows = (bad, good) if which == 0 else (good, bad)
        values, by_both, by_first = jax.device_get(derived(*map(jnp.asarray, rows)))
        np.testing.assert_array_equal(np.isnan(values), [False, True, True, True, True])
        assert np.isnan(by_both[which][1:, 1]).all()
        assert np.isfinite(by_both[which][0]).all()
        assert np.isfinite(by_both[which][:, 0]).all()
        for gradient in by_first:
            np.testing.assert_array_equal(gradient[1:], 0)
