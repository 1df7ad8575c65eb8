"""Sums of several tasks' losses: names, weights of 0, learned variances, and their derivatives."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings

from xent.losses import mean, uncertainty_weighted_multitask_loss, weighted_multitask_loss

inf, nan = np.inf, np.nan
TASKS = ("depth", "edges", "segmentation")


def scalars(*values):
    return dict(zip(TASKS, map(jnp.float32, values), strict=True))


def shuffled(tree):
    return dict(reversed(tree.items()))


number = st.floats(-20, 20, width=32, allow_subnormal=False)
three = st.tuples(number, number, number)
fixed, learned = jax.jit(weighted_multitask_loss), jax.jit(uncertainty_weighted_multitask_loss)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(three, three)
def test_the_weighted_sum_within_8_ulp_of_its_terms(oracle, losses, weights):
    terms = np.array(losses, float) * np.array(weights, float)
    value = fixed(scalars(*losses), shuffled(scalars(*weights)))
    assert oracle.ulps(value, terms.sum(), 3 * oracle.TINY, np.abs(terms).sum()) <= 8


@settings(deadline=None, max_examples=100, derandomize=True)
@given(three, three, three)
def test_the_uncertainty_weighted_sum_within_8_ulp_of_its_terms(oracle, losses, log_variances, weights):
    loss, s, w = (np.array(x, float) for x in (losses, log_variances, weights))
    given = scalars(*losses), shuffled(scalars(*log_variances))
    parts, scale = np.exp(-s) * loss + s / 2, np.exp(-s) * np.abs(loss) + np.abs(s)
    assert oracle.ulps(learned(*given), parts.sum(), 9 * oracle.TINY, scale.sum()) <= 8
    weighted = learned(*given, weights=scalars(*weights))
    assert oracle.ulps(weighted, (w * parts).sum(), 99 * oracle.TINY, (np.abs(w) * scale).sum()) <= 8


def test_derivatives(check_derivatives):
    losses, weights = scalars(0.5, 2.0, 3.0), scalars(1.0, 0.0, -2.0)
    by_losses, by_weights = jax.grad(weighted_multitask_loss, (0, 1))(losses, weights)
    assert by_losses == weights
    assert by_weights == losses
    log_variances = scalars(0.3, -1.0, 2.0)
    by_losses, by_log_variances = jax.grad(uncertainty_weighted_multitask_loss, (0, 1))(losses, log_variances)
    for name in TASKS:
        loss, s = float(losses[name]), float(log_variances[name])
        np.testing.assert_allclose(by_losses[name], np.exp(-s), rtol=1e-6)
        np.testing.assert_allclose(by_log_variances[name], 0.5 - np.exp(-s) * loss, rtol=2e-6)

    def of_both(losses, s, weights):
        learned = uncertainty_weighted_multitask_loss(losses, s, weights=weights)
        return {"fixed": weighted_multitask_loss(losses, weights), "learned": learned}

    with jax.enable_x64(True):
        given = (jax.tree.map(np.float64, of) for of in (losses, log_variances, weights))
        check_derivatives(of_both, tuple(given), step=1e-4)


def test_the_best_variance_is_twice_the_loss():
    losses = scalars(0.5, 2.0, 300.0)
    best = {name: jnp.log(2 * loss) for name, loss in losses.items()}
    gradient = jax.grad(uncertainty_weighted_multitask_loss, 1)(losses, best)
    np.testing.assert_allclose(list(gradient.values()), np.zeros(3), atol=1e-6)


def test_a_regression_is_a_gaussian_likelihood():
    """Half the squared error, e^-s l + s / 2, and the constant: -log N(y; f, e^s)."""
    y, f, s = jnp.array([1.0, -2.0]), jnp.array([0.3, 0.5]), jnp.float32(0.7)
    total = uncertainty_weighted_multitask_loss({"depth": mean(optax.l2_loss(f, y))}, {"depth": s})
    likelihood = jax.scipy.stats.norm.logpdf(y, f, jnp.exp(s / 2)).mean()
    np.testing.assert_allclose(total + np.log(2 * np.pi) / 2, -likelihood, rtol=1e-6)


@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize("jit", [jax.jit, lambda f: f])
def test_a_task_of_weight_0_contributes_nothing(bad, jit):
    losses, weights = scalars(0.5, bad, 2.0), scalars(1.0, 0.0, 3.0)
    value, gradient = jit(jax.value_and_grad(weighted_multitask_loss))(losses, weights)
    assert value == 6.5
    assert gradient == weights

    for s in (scalars(0.0, 0.0, 0.0), scalars(0.0, bad, 0.0), scalars(0.0, -1e3, 0.0)):
        both = jit(jax.value_and_grad(uncertainty_weighted_multitask_loss, (0, 1)))
        value, (by_losses, by_log_variances) = both(losses, s, weights=weights)
        assert value == 6.5
        assert by_losses == weights
        assert by_log_variances == scalars(0.0, 0.0, 3 * (0.5 - 2))


def test_weight_0_reaches_the_network_as_an_exact_zero():
    """Also through a task that has no example in this batch, or a broken one."""

    def total(x, weights):
        empty = mean(x, where=jnp.zeros(3, bool))
        return weighted_multitask_loss({"a": mean(x**2), "b": jnp.log(x[0] - 5).sum(), "c": empty}, weights)

    gradient = jax.grad(total)(jnp.array([1.0, 2.0, 3.0]), {"a": 3.0, "b": 0, "c": 1})
    np.testing.assert_allclose(gradient[1:], [4, 6], rtol=1e-6)


@pytest.mark.parametrize("bad", [nan, inf])
def test_a_task_that_counts_poisons_and_a_zero_cotangent_heals(bad):
    losses, s = scalars(0.5, bad, 2.0), scalars(0.0, -200.0, 0.0)
    assert not np.isfinite(weighted_multitask_loss(losses, scalars(1.0, 1e-9, 1.0)))
    assert not np.isfinite(uncertainty_weighted_multitask_loss(losses, s))
    for gradient in (
        *jax.grad(lambda *x: 0 * weighted_multitask_loss(*x), (0, 1))(losses, scalars(1.0, 2.0, bad)),
        *jax.grad(lambda *x: 0 * uncertainty_weighted_multitask_loss(*x), (0, 1))(losses, s),
    ):
        assert gradient == scalars(0.0, 0.0, 0.0)


def test_any_pytree_and_dtype():
    losses = {"vision": {"depth": jnp.bfloat16(2), "edges": 4.0}, "text": [jnp.float32(1)]}
    weights = {"vision": {"depth": 1, "edges": np.float32(0.5)}, "text": [jnp.int32(3)]}
    total = weighted_multitask_loss(losses, weights)
    assert total == 7
    assert total.dtype == jnp.float32
    assert jax.jit(weighted_multitask_loss)(losses, weights) == 7
    with jax.enable_x64(True):
        assert weighted_multitask_loss({"a": jnp.array(1.0, jnp.float64)}, {"a": 1}).dtype == jnp.float64


def test_log_variances_are_trained_like_any_parameters():
    optimizer, log_variances = optax.sgd(0.5), {"a": jnp.zeros(()), "b": jnp.zeros(())}
    losses = {"a": jnp.float32(2.0), "b": jnp.float32(0.125)}
    state, step = optimizer.init(log_variances), jax.jit(jax.grad(uncertainty_weighted_multitask_loss, 1))
    for _ in range(60):
        updates, state = optimizer.update(step(losses, log_variances), state)
        log_variances = optax.apply_updates(log_variances, updates)
    np.testing.assert_allclose([log_variances["a"], log_variances["b"]], np.log([4.0, 0.25]), atol=1e-3)


@pytest.mark.parametrize(
    ("losses", "weights", "message"),
    [
        ({"depth": 1.0}, {"dept": 1.0}, "weights must name the tasks of losses, got 'dept'; the nearest is 'depth'"),
        (
            {"a": {"depth": 1.0, "edges": 1.0}},
            {"a": {"depth": 1.0, "egdes": 1.0}},
            "weights must name the tasks of losses, got 'a/egdes'; the nearest is 'a/edges'",
        ),
        ({"a": 1.0, "b": 1.0}, {"a": 1.0}, "weights must name the tasks of losses, got none for 'b'"),
        ({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": None}, "weights must name the tasks of losses, got none for 'b'"),
        ({"a": {"b": 1.0}, "a/b": 1.0}, {"a/b": 1.0}, "losses must name each task once, got 'a/b' twice"),
        ({}, {}, r"losses must name at least one task, got \{\}"),
        ({"a": 1}, {"a": 1}, r"losses\['a'\] must be an array of floating dtype, got int32 of shape \(\)"),
        ({"a": "x"}, {"a": 1}, r"losses\['a'\] must be an array of floating dtype, got str"),
        ({"a": np.ones(3)}, {"a": 1}, r"losses\['a'\] must have the shape of a scalar, \(\), got \(3,\)"),
        ({"a": 1.0}, {"a": True}, r"weights\['a'\] must be an array of floating or integer dtype, got bool"),
        ({"a": 1.0}, {"a": np.ones(1)}, r"weights\['a'\] must have the shape of a scalar, \(\), got \(1,\)"),
    ],
)
def test_arguments_that_do_not_fit(losses, weights, message):
    with pytest.raises(ValueError, match=message) as error:
        weighted_multitask_loss(losses, weights)
    assert "\n" not in str(error.value)


def test_log_variances_must_fit_too():
    with pytest.raises(ValueError, match="log_variances must name the tasks of losses, got 'b'; the nearest is 'a'"):
        uncertainty_weighted_multitask_loss({"a": 1.0}, {"a": 0.0, "b": 0.0})
    with pytest.raises(ValueError, match=r"log_variances\['a'\] must be an array of floating dtype, got int"):
        uncertainty_weighted_multitask_loss({"a": 1.0}, {"a": 0})
