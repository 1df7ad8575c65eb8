"""softmax_cross_entropy, for labels that are weights: against 60 digits, its laws, and the faults of others."""

from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from hypothesis import given, settings

from xent.losses import mean
from xent.losses import softmax_cross_entropy as eager_loss
from xent.losses import softmax_cross_entropy_with_integer_labels as eager_hard_loss

inf, nan = np.inf, np.nan
# Compiled as a whole, for time's sake; without is tested where that may differ.
OPTIONS = ("axis", "label_smoothing", "z_loss", "logit_soft_cap")
loss, hard_loss = (jax.jit(f, static_argnames=OPTIONS) for f in (eager_loss, eager_hard_loss))
optax_loss = jax.jit(optax.softmax_cross_entropy, static_argnames="axis")
value_and_gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))


def exact(x, t):
    """Loss, its gradients with respect to x and t, and the scale of the first, each rounded once from 60 digits."""
    with mpmath.workdps(60):
        e = [mpmath.exp(mpmath.mpf(float(v))) for v in x]
        t = [mpmath.mpf(float(v)) for v in t]
        total, mass = mpmath.fsum(e), mpmath.fsum(t)
        costs = [mpmath.log(total) - mpmath.mpf(float(v)) for v in x]
        share = [v / total * mass for v in e]
        value = mpmath.fsum(a * b for a, b in zip(t, costs, strict=True))
        gradient = np.array([float(p - w) for p, w in zip(share, t, strict=True)])
        scale = np.array([float(max(p, w)) for p, w in zip(share, t, strict=True)])
        return float(value), gradient, np.array([float(c) for c in costs]), scale


def rows(classes, rng):
    """(name, logits, labels): confident, hopeless, tied and moved rows, with labels hard, soft, sparse and heavy."""
    normal = rng.normal(size=classes).astype(np.float32)
    logits = {f"scale {s}": normal * np.float32(s) for s in (1e-3, 1, 10, 30, 1000)}
    logits["moved"] = normal * np.float32(3) + np.float32(1234.5)
    logits["ties"] = np.full(classes, 77.7, np.float32)
    for gap in (0.3, 7.28, 20, 60):
        logits[f"confident by {gap}"] = np.where(np.arange(classes) == 0, 3.3, 3.3 - gap).astype(np.float32)
        logits[f"two tops by {gap}"] = np.where(np.arange(classes) < 2, 3.3, 3.3 - gap).astype(np.float32)
    for name, x in logits.items():
        yield f"{name}, at the top", x, np.eye(classes, dtype=np.float32)[x.argmax()]
        yield f"{name}, at the bottom", x, np.eye(classes, dtype=np.float32)[x.argmin()]
        yield f"{name}, soft", x, rng.dirichlet(np.ones(classes)).astype(np.float32)
        yield f"{name}, any weights", x, (rng.random(classes) * 100 * (rng.random(classes) < 0.5)).astype(np.float32)
        spread = np.full(classes, 1e-12, np.float32)
        spread[x.argmax()] = 1
        yield f"{name}, hardly soft", x, spread


@pytest.mark.parametrize(("classes", "seeds"), [(2, 3), (3, 2), (10, 2), (100, 1), (1000, 1)])
def test_value_and_gradients_within_8_ulp(oracle, classes, seeds):
    for seed in range(seeds):
        for name, x, t in rows(classes, np.random.default_rng(seed)):
            value, (by_x, by_t) = value_and_gradients(x, t)
            true_value, true_by_x, true_by_t, scale = exact(x, t)
            slack = classes * oracle.TINY * max(1, float(t.sum()))
            assert oracle.ulps(value, true_value, slack) <= 8, name
            assert oracle.ulps(by_x, true_by_x, slack, scale) <= 8, name
            assert oracle.ulps(by_t, true_by_t, slack) <= 8, name


def test_value_and_gradient_within_32_ulp_for_262144_classes(oracle):
    """A float64 oracle, whose log1p keeps the digits of a confident row."""
    classes, rng = 262144, np.random.default_rng(0)
    for scale, gap in ((1, 0), (10, 0), (0.1, 20)):
        x = (rng.normal(size=classes) * scale).astype(np.float32)
        x[7] = x.max() + np.float32(gap)
        for t in (rng.dirichlet(np.ones(classes)).astype(np.float32), np.eye(1, classes, 7, dtype=np.float32)[0]):
            value, (by_x, _) = value_and_gradients(x, t)
            x64, t64 = x.astype(np.float64), t.astype(np.float64)
            k = int(x64.argmax())
            e = np.exp(x64 - x64[k])
            others = np.delete(e, k).sum()
            true = (t64 * (x64[k] - x64)).sum() + t64.sum() * np.log1p(others)
            share = e / (1 + others) * t64.sum()
            assert oracle.ulps(value, true, classes * oracle.TINY) <= 32
            assert oracle.ulps(by_x, share - t64, classes * oracle.TINY, np.maximum(share, t64)) <= 32


def test_a_single_long_row_is_not_added_up_one_term_after_the_other(oracle):
    x, t = np.full((1, 20000), -3.3, np.float32), np.full((1, 20000), 3e-5, np.float32)
    x[0, 7] = 0.1
    x64, t64 = x.astype(float), t.astype(float)
    assert oracle.ulps(jax.jit(loss)(x, t), np.sum(t64 * (np.log(np.exp(x64).sum()) - x64))) <= 8


def product_and_scale(x, v, mass, pivot):
    """H v and the magnitude of its terms, v counted from the pivot's, in 60 digits."""
    with mpmath.workdps(60):
        e = [mpmath.exp(mpmath.mpf(float(a))) for a in x]
        total = mpmath.fsum(e)
        p, v = [a / total for a in e], [mpmath.mpf(float(b)) - mpmath.mpf(float(v[pivot])) for b in v]
        along, spread = (mpmath.fsum(a * f(b) for a, b in zip(p, v, strict=True)) for f in (mpmath.mpf, abs))
        true = [float(mass * a * (b - along)) for a, b in zip(p, v, strict=True)]
        return np.array(true), np.array([float(mass * a * (abs(b) + spread)) for a, b in zip(p, v, strict=True)])


def test_hessian_products_within_8_ulp_of_their_terms(oracle):
    rng = np.random.default_rng(1)
    soft, hard = (
        jax.jit(lambda x, t, v, f=f: jax.jvp(lambda x: jax.grad(f)(x, t), (x,), (v,))[1]) for f in (loss, hard_loss)
    )
    for name, x, t in rows(30, rng):
        v, y = rng.normal(size=30).astype(np.float32), int(t.argmax())
        last_top = 29 - int(x[::-1].argmax())
        true, scale = product_and_scale(x, v, float(t.sum(dtype=np.float64)), last_top)
        assert oracle.ulps(soft(x, t, v), true, 3e3 * 30 * oracle.TINY, scale) <= 8, name
        true, scale = product_and_scale(x, v, 1, y)
        assert oracle.ulps(hard(x, y, v), true, 10 * 30 * oracle.TINY, scale) <= 8, name


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x = (np.random.default_rng(0).normal(size=(50, 100)).astype(np.float32) * 4).astype(dtype)
    t = jax.nn.softmax(np.random.default_rng(1).normal(size=(50, 100)).astype(np.float32))
    of_sum = jax.jit(jax.value_and_grad(lambda x: loss(x, t).sum()))
    (value, gradient), (value32, gradient32) = of_sum(x), of_sum(x.astype(jnp.float32))
    assert value.dtype == jnp.float32
    assert value == value32
    assert gradient.dtype == dtype
    assert (gradient == gradient32.astype(dtype)).all()


# Laws.

pairs = st.sampled_from([2, 5, 12]).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(-400, 400), min_size=n, max_size=n).map(lambda v: np.array(v, np.float32) / 8),
        st.lists(st.integers(0, 64), min_size=n, max_size=n).map(lambda v: np.array(v, np.float32) / 64),
    )
)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(pair=pairs, c=st.integers(-(10**6), 10**6))
def test_a_shift_changes_nothing(oracle, pair, c):
    x, t = pair
    value, (by_logits, by_labels) = value_and_gradients(x, t)
    shifted, (shifted_by_logits, shifted_by_labels) = value_and_gradients(x + np.float32(c), t)
    slack = len(x) * oracle.TINY * max(1, t.sum())
    assert oracle.ulps(shifted, value, slack) <= 8
    assert oracle.ulps(shifted_by_labels, by_labels, slack) <= 8
    assert oracle.ulps(shifted_by_logits, by_logits, slack, np.maximum(by_logits + t, t)) <= 8


@settings(deadline=None, max_examples=60, derandomize=True)
@given(pair=pairs, data=st.data())
def test_the_order_of_classes_does_not_matter(oracle, pair, data):
    x, t = pair
    order = np.array(data.draw(st.permutations(range(len(x)))))
    assert oracle.ulps(loss(x[order], t[order]), loss(x, t), 64 * oracle.TINY) <= 16


@settings(deadline=None, max_examples=60, derandomize=True)
@given(pair=pairs, data=st.data())
def test_a_one_hot_label_is_an_integer_label(oracle, pair, data):
    x, y = pair[0], data.draw(st.integers(0, len(pair[0]) - 1))
    one_hot = np.eye(len(x), dtype=np.float32)[y]
    assert oracle.ulps(loss(x, one_hot), hard_loss(x, y), len(x) * oracle.TINY) <= 16
    smoothed = loss(x, one_hot, label_smoothing=0.25), hard_loss(x, y, label_smoothing=0.25)
    assert oracle.ulps(*smoothed, len(x) * oracle.TINY) <= 16


optax_divergence = jax.jit(lambda x, t: optax.kl_divergence(jax.nn.log_softmax(x), t))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(pair=pairs)
def test_cross_entropy_is_entropy_plus_divergence(pair):
    x, t = pair[0], (pair[1] + 1 / 64) / (pair[1] + 1 / 64).sum()
    entropy = -np.sum(t * np.log(t))
    divergence = optax_divergence(x, t)
    np.testing.assert_allclose(loss(x, t), entropy + divergence, rtol=2e-6, atol=2e-6)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(pair=pairs, factor=st.sampled_from([0.0, 0.5, 4.0]))
def test_it_is_linear_in_the_labels(oracle, pair, factor):
    x, t = pair
    assert loss(x, np.float32(factor) * t) == factor * loss(x, t)
    by_class = np.array([hard_loss(x, y) for y in range(len(x))], np.float64)
    assert oracle.ulps(loss(x, t), np.sum(by_class * t), len(x) ** 2 * oracle.TINY) <= 16


# Derivatives.


def test_derivatives_of_order_2_in_logits_and_labels(check_derivatives):
    where = np.arange(15).reshape(3, 5) % 4 != 1

    def of_all(x, t):
        return {"plain": loss(x, t), "smooth": loss(x, t, label_smoothing=0.2), "masked": loss(x, t, where=where)}

    given = np.random.default_rng(1).normal(size=(3, 5)), np.random.default_rng(2).random((3, 5)) + 0.1
    check_derivatives(of_all, tuple(map(np.float32, given)), step=1e-2)


def test_a_cotangent_that_differs_from_row_to_row_reaches_its_row():
    x, t = (
        np.random.default_rng(3).normal(size=(4, 6)).astype(np.float32),
        np.random.default_rng(4).random((4, 6), np.float32),
    )
    weights = np.float32([0.0, -2.0, 0.5, 1e3])
    both = loss, lambda x, t: -(t * jax.nn.log_softmax(x)).sum(-1)
    pulled = jax.jit(lambda *a: [jax.vjp(f, *a)[1](weights) for f in both])(x, t)
    for ours, theirs in zip(*jax.device_get(pulled), strict=True):
        np.testing.assert_array_equal(ours[0], 0)
        np.testing.assert_allclose(ours[1:] / weights[1:, None], theirs[1:] / weights[1:, None], rtol=1e-5, atol=1e-6)


def test_jit_vmap_and_eager_agree(oracle):
    x = np.random.default_rng(5).normal(size=(9, 3)).astype(np.float32) * 10
    t = np.random.default_rng(6).random((9, 3), np.float32)
    eager = eager_loss(x, t)
    for other in (loss(x, t), jax.jit(jax.vmap(loss))(x, t)):
        assert oracle.ulps(other, eager) <= 8


# Axes and selections, as optax has them.


@pytest.mark.parametrize("axis", [-1, 0, 1, 2, (2, 0), (0, 1), None])
def test_axes_and_selections_are_those_of_optax(axis):
    x, t = (
        np.random.default_rng(7).normal(size=(3, 4, 5)).astype(np.float32),
        np.random.default_rng(8).random((3, 4, 5), np.float32),
    )
    theirs = optax_loss(x, t, axis)
    np.testing.assert_allclose(loss(x, t, axis), theirs, rtol=2e-6)
    where = np.random.default_rng(9).random(x.shape) < 0.7
    np.testing.assert_allclose(loss(x, t, axis, where), optax_loss(x, t, axis, where), rtol=2e-6)
    where = np.random.default_rng(9).random(theirs.shape) < 0.5
    np.testing.assert_array_equal(loss(x, t, axis, where), jnp.where(where, loss(x, t, axis), 0))


def test_the_example_that_optax_documents():
    logits = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
    labels = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(loss(logits, labels), [0.2761, 2.9518], atol=5e-5)


def test_labels_of_integers_and_bools_are_weights():
    x = np.random.default_rng(10).normal(size=(2, 3)).astype(np.float32)
    t = np.array([[1, 0, 0], [0, 1, 1]])
    for dtype in (np.int8, np.uint32, bool, jnp.bfloat16):
        np.testing.assert_array_equal(loss(x, jnp.asarray(t.astype(dtype))), loss(x, t.astype(np.float32)))


# Hostile values.


def test_no_weight_on_a_logit_of_minus_inf_costs_nothing():
    """optax: NaN."""
    x, t = jnp.array([-inf, 2.0, 2.0]), jnp.array([0.0, 1.0, 0.0])
    assert np.isnan(optax_loss(x, t))
    value, (by_x, by_t) = value_and_gradients(x, t)
    assert value == np.float32(np.log(2))
    np.testing.assert_array_equal(by_x, [0, -0.5, 0.5])
    assert np.isfinite(by_t).all()
    for derivative in (jax.hessian, lambda f: jax.jacfwd(jax.hessian(f))):
        for argument in (lambda x: loss(x, t), lambda x: jax.grad(loss, 1)(x, t).sum()):
            assert np.isfinite(jax.jit(derivative(argument))(x)).all()


@pytest.mark.parametrize("weight", [1e-37, 1.0, 1e30])
def test_any_weight_on_a_logit_of_minus_inf_costs_inf(weight):
    x, t = jnp.array([-inf, 2.0, 2.0]), jnp.array([weight, 0.0, 1.0])
    assert eager_loss(x, t) == loss(x, t) == inf
    assert np.isfinite(jax.grad(loss)(x, t)).all()


def test_labels_outside_of_the_selection_are_left_out():
    x, t = jnp.array([1.0, nan, 3.0]), jnp.array([0.5, nan, 0.25])
    where = jnp.array([True, False, True])
    value, (by_x, by_t) = jax.value_and_grad(loss, (0, 1))(x, t, where=where)
    np.testing.assert_allclose(value, loss(x[::2], t[::2]), rtol=1e-6)
    assert by_x[1] == by_t[1] == 0


def test_nothing_selected_is_zero_with_zero_gradients():
    x, t = jnp.array([[1.0, nan], [inf, 0.0]]), jnp.array([[nan, 1.0], [0.5, 0.5]])
    for where in (jnp.zeros((2, 2), bool), jnp.zeros(2, bool)):
        options = dict(where=where, label_smoothing=0.1, z_loss=0.1, logit_soft_cap=3.0)
        total = lambda x, t, w, o=options: loss(x, t, class_weights=w, **o).sum()  # noqa: E731
        value, gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(x, t, jnp.ones(2))
        assert value == 0
        for gradient in gradients:
            np.testing.assert_array_equal(gradient, 0)


def test_an_empty_batch_has_no_loss():
    x = jnp.zeros((0, 5))
    assert loss(x, x).shape == (0,)
    assert jax.grad(lambda x: loss(x, x).sum())(x).shape == (0, 5)
    y = jnp.zeros(0, int)
    for options in ({}, dict(label_smoothing=0.1, z_loss=0.1, class_weights=jnp.ones(5), ignore_index=0)):
        assert jax.jit(jax.grad(lambda x, o=options: eager_hard_loss(x, y, **o).sum()))(x).shape == (0, 5)
        assert jax.jit(jax.grad(lambda x, o=options: mean(eager_hard_loss(x, y, **o))))(x).shape == (0, 5)


good = [1.0, 2.0, 3.0]
BAD_ROWS = [([nan, 0, 1], good), ([inf, 0, 1], good), ([-inf] * 3, good), (good, [nan, 0, 0]), (good, [inf, 1, 0])]
BAD_ROWS += [([0, 1, nan], good), ([0, inf, -inf], good), (good, [1, 2, -inf])]  # nine with a good one, as everywhere


@pytest.mark.parametrize(("jit", "smoothing"), [(jax.jit, 0.0), (jax.jit, 0.1), (lambda f: f, 0.1)])
def test_a_zero_cotangent_gives_zero_whatever_the_row_holds(jit, smoothing):
    x, t = (jnp.asarray(np.float32([*(row[i] for row in BAD_ROWS), good])) for i in range(2))
    losses, counted = partial(eager_loss, label_smoothing=smoothing), np.arange(9) == 8

    def derived(x, t):
        """The losses, the gradients of the mean of what counts, and that of all by the logits."""
        of_mean = jax.grad(lambda x, t: mean(losses(x, t), where=counted), (0, 1))
        return losses(x, t), of_mean(x, t), jax.grad(lambda x: losses(x, t).sum())(x)

    values, gradients, poisoned = jax.device_get(jit(derived)(x, t))
    for gradient in gradients:
        np.testing.assert_array_equal(gradient[:-1], 0)
        assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(np.isnan(poisoned), ~np.repeat(counted[:, None], 3, 1))
    np.testing.assert_array_equal(np.isnan(values), ~counted)


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(logits=np.zeros((2, 3), int)), "logits must be an array of floating dtype, got int"),
        (dict(labels=np.zeros((2, 3), complex)), "labels must be an array of .* got complex"),
        (dict(labels=np.zeros((1, 3))), r"labels must have the shape of logits, \(2, 3\), got \(1, 3\)"),
        (dict(labels=np.zeros(2, int)), r"labels must have .* got \(2,\); it is not broadcast"),
        (dict(where=np.ones((2, 1), bool)), r"where must have the shape \(2, 3\), .*, or \(2,\), .*, got \(2, 1\)"),
        (dict(axis=2), r"axis must be .* got 2 for shape \(2, 3\)"),
        (dict(label_smoothing=-0.1), r"label_smoothing must be a Python float in \[0, 1\], got -0.1"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    good = dict(logits=np.zeros((2, 3), np.float32), labels=np.zeros((2, 3), np.float32))
    for f in (eager_loss, lambda **kw: jax.eval_shape(lambda: eager_loss(**kw))):
        with pytest.raises(ValueError, match=message) as error:
            f(**(good | arguments))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("rows", [1, 3, 600, 3000])
def test_a_nan_is_seen_wherever_it_stands(rows):
    """XLA:CPU's vectorised maximum passes over some, and so does its minimum, in arrays above some size."""
    x = np.random.default_rng(0).normal(size=(rows, 10)).astype(np.float32)
    labels, soft = np.zeros(rows, int), np.full((rows, 10), np.float32(0.1))
    for cost in (
        lambda x: hard_loss(x, labels),
        lambda x: hard_loss(x, labels, label_smoothing=0.1),
        lambda x: loss(x, soft),
    ):
        forward = jax.jit(lambda x, cost=cost: jax.vjp(cost, x))
        backward = jax.jit(lambda pull: pull(jnp.ones(rows))[0])
        for column in range(10):
            x_nan = x.copy()
            x_nan[:, column] = np.nan
            losses, pull = forward(x_nan)
            assert np.isnan(losses).all(), column
            assert np.isnan(backward(pull)).any(-1).all(), column


def test_the_top_is_told_from_logits_near_the_smallest_float():
    x = np.full(10, -np.inf, np.float32)
    x[0], x[9] = 3.9e-38, 1.2e-38
    selected = np.isfinite(x)
    smoothed = hard_loss(x, 0, where=selected, label_smoothing=0.1)
    np.testing.assert_allclose(smoothed, np.log(2), rtol=1e-6)
