"""log_likelihood and perplexity, of single outcomes and of many; and all of them in bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xent.losses import (
    cross_entropy,
    entropy,
    jensen_shannon_divergence,
    log_likelihood,
    mean,
    perplexity,
    softmax_cross_entropy_with_integer_labels,
)

inf, nan = np.inf, np.nan


def test_log_likelihood_is_the_cross_entropy_of_the_certain_negated():
    masses = np.random.default_rng(5).gamma(2.0, size=(4, 6)).astype(np.float32)
    q = jnp.array(masses / masses.sum(-1, keepdims=True))
    y = jnp.array([0, 5, 2, 2])
    np.testing.assert_array_equal(log_likelihood(q, y), -cross_entropy(jax.nn.one_hot(y, 6), q))
    np.testing.assert_array_equal(log_likelihood(q.T, y, 0), log_likelihood(q, y))
    of_logits = softmax_cross_entropy_with_integer_labels(jnp.log(q), y)
    np.testing.assert_allclose(log_likelihood(q, y), -of_logits, rtol=2e-6)
    np.testing.assert_array_equal(log_likelihood(q.reshape(4, 2, 3), y, (1, 2)), log_likelihood(q, y))


def test_log_likelihood_within_4_ulp(oracle):
    q = np.concatenate([1 - 2.0 ** -np.arange(1, 25), np.exp(-np.arange(0, 87.0))]).astype(np.float32)[:, None]

    @jax.jit
    def found(q):
        def f(q):
            return log_likelihood(q, np.zeros(len(q), np.int32))

        return f(q), jax.grad(lambda q: f(q).sum())(q)

    values, gradient = found(q)
    assert np.sum(values) < 0
    assert oracle.ulps(values, np.log(q[:, 0].astype(float))) <= 4
    assert oracle.ulps(gradient, 1 / q.astype(float)) <= 4


def test_a_small_label_type_reaches_many_classes():
    q = np.arange(1, 1001) / np.float32(1000)
    for label, dtype in ((100, jnp.int8), (200, jnp.uint8), (999, jnp.uint32)):
        np.testing.assert_array_equal(log_likelihood(q, jnp.array(label, dtype)), jnp.log(q[label]))
    assert np.isnan(log_likelihood(q, jnp.array(2**32 - 1, jnp.uint32)))


@pytest.mark.parametrize("jit", [jax.jit, lambda f: f])
def test_labels_out_of_range_and_outcomes_held_impossible(jit):
    q, y = jnp.asarray(np.float32([[0.5, 0.5, 0.0]] * 4)), jnp.array([-1, 3, 2, 1])

    def derived(q):
        def f(q):
            return log_likelihood(q, y)

        masked = jax.grad(lambda q: mean(f(q), where=np.arange(4) == 3))(q)
        return f(q), jax.grad(lambda q: f(q).sum())(q), masked

    values, gradient, masked = jax.device_get(jit(derived)(q))
    np.testing.assert_array_equal(values, [nan, nan, -inf, np.log(np.float32(0.5))])
    assert np.isnan(gradient[:2]).any(-1).all()
    np.testing.assert_array_equal(gradient[2:], [[0, 0, inf], [0, 2, 0]])
    np.testing.assert_array_equal(masked, [[0, 0, 0]] * 3 + [[0, 2, 0]])


@pytest.mark.parametrize("n", [1, 2, 6, 50257])
def test_the_perplexity_of_n_equally_likely_classes_is_n(n):
    uniform = jnp.full(n, 1 / n)
    np.testing.assert_allclose(perplexity(entropy(uniform)), n, rtol=1e-6)
    np.testing.assert_allclose(perplexity(entropy(uniform, base=2), base=2), n, rtol=2e-6)


@pytest.mark.parametrize("base", [None, 2])
def test_perplexity_within_its_bound(base):
    for scale in (1e-3, 1.0, 10.0):
        loss = (np.random.default_rng(0).uniform(size=5000) * scale).astype(np.float32)
        true = (base or np.e) ** loss.mean(dtype=float)
        np.testing.assert_allclose(perplexity(loss, base=base), true, rtol=8 * 2.0**-23 * (1 + loss.mean()))


def test_perplexity_is_of_the_tokens_that_count():
    loss, where = np.float32([1.0, nan, 3.0, 2.0]), np.array([True, False, True, True])
    weights = np.float32([1, 1, 1, 0])

    @jax.jit
    def found(loss, where, weights):
        shards = jax.vmap(lambda x, s: perplexity(x, where=s, axis_name="i"), axis_name="i")
        perplexities = {
            "masked": perplexity(loss, where=where),
            "weighted": perplexity(loss, where=where, weights=weights),
            "of shards": shards(loss.reshape(2, 2), where.reshape(2, 2)),
        }
        nothing = perplexity(loss, where=jnp.zeros(4, bool))
        return perplexities, jax.grad(lambda x: perplexity(x, where=where))(loss), nothing

    perplexities, gradient, nothing = found(loss, where, weights)
    for name, value in perplexities.items():
        np.testing.assert_allclose(value, np.full(np.shape(value), np.exp(2.0)), rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(gradient, np.exp(2.0) / 3 * where, rtol=1e-6)
    assert nothing == 1


def test_derivatives_of_perplexity(check_derivatives):
    check_derivatives(perplexity, (np.float32([0.3, 0.5]),), step=1e-2)


@pytest.mark.parametrize("loss", [89.0, inf, nan])
def test_a_perplexity_too_large(loss):
    value, gradient = jax.value_and_grad(perplexity)(jnp.float32(loss))
    np.testing.assert_array_equal([value, gradient], np.full(2, nan if np.isnan(loss) else inf))
    assert jax.grad(lambda x: 0 * perplexity(x))(jnp.float32(loss)) == 0


def test_labels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"labels must have the shape of q without axis -1, \(2,\), got \(2, 1\)"):
        log_likelihood(np.ones((2, 3)), np.zeros((2, 1), int))
    with pytest.raises(ValueError, match="labels must be an array of integer dtype, got float"):
        log_likelihood(np.ones((2, 3)), np.zeros(2))
    with pytest.raises(ValueError, match=r"base must be .* got 0"):
        perplexity(np.ones(2), base=0)


def test_bits():
    assert entropy(jnp.full(8, 0.125), base=2) == 3
    np.testing.assert_allclose(cross_entropy(jnp.array([1, 0]), jnp.array([0.8, 0.2]), base=2), 0.32192809, rtol=5e-7)
    assert log_likelihood(jnp.array([0.25, 0.75]), 0, base=2) == -2
    assert jensen_shannon_divergence(jnp.array([1, 0]), jnp.array([0, 1]), base=2) == 1
