"""What entropies and divergences are to each other, whatever the distributions."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from xent.losses import cross_entropy, entropy, jensen_shannon_divergence, perplexity, relative_entropy

PAIRS = [cross_entropy, relative_entropy, jensen_shannon_divergence]


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
        assert whole == relative == np.inf
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


def test_near_the_smallest_float_a_cost_may_be_lost_before_the_unit_is_changed(oracle):
    p, q = np.float32([1.372e-38, 1.597e-38]), np.float32([0.48, 0.52])
    true = -np.sum(p.astype(float) * np.log2(q.astype(float)))
    assert oracle.ulps(cross_entropy(p, q, base=2), true, 2 * oracle.TINY / np.log(2)) <= 8


def test_probabilities_are_not_normalised():
    counts, q = jnp.array([3.0, 1.0]), jnp.array([0.75, 0.25])
    np.testing.assert_allclose(cross_entropy(counts, q), -3 * np.log(0.75) - np.log(0.25), rtol=1e-6)
    np.testing.assert_allclose(relative_entropy(q, 2 * q), 1 - np.log(2), rtol=1e-6)


def test_close_distributions_keep_their_digits():
    """The plain sum is rounding errors; with -p + q it is the divergence: half the chi-square distance, this close."""
    rng = np.random.default_rng(1)
    q = np.exp(rng.normal(size=1000))
    q = (q / q.sum()).astype(np.float32)
    p = q * np.float32(1 + 1e-5 * np.sign(rng.normal(size=1000)))
    true = np.sum((p.astype(float) - q.astype(float)) ** 2 / q.astype(float)) / 2
    np.testing.assert_allclose(compiled[relative_entropy](p, q), true, rtol=2e-5)
    np.testing.assert_allclose(compiled[jensen_shannon_divergence](p, q), true / 4, rtol=2e-5)
    assert abs(np.sum(jax.jit(jax.scipy.special.rel_entr)(p, q)) - true) > 100 * true
