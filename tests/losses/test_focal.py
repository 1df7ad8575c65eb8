"""softmax_focal_loss and poly_loss_cross_entropy against 60 digits, their laws, and hostile inputs."""

from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from jax.test_util import check_grads

from xent.losses import mean, poly_loss_cross_entropy, softmax_cross_entropy_with_integer_labels, softmax_focal_loss

inf, nan = np.inf, np.nan
JIT_AND_EAGER = [pytest.param(jax.jit, id="jit"), pytest.param(lambda f: f, id="eager")]


def softmax(logits):
    e = [mpmath.exp(mpmath.mpf(float(v))) if v > -inf else mpmath.mpf(0) for v in logits]
    total = mpmath.fsum(e)
    # 1 - p as the sum of the others: p may be nearer to 1 than any number of digits tells.
    return [v / total for v in e], [mpmath.fsum(e[:j] + e[j + 1 :]) / total for j in range(len(e))]


def focal(logits, label, gamma):
    """Loss and gradient of one row."""
    with mpmath.workdps(60):
        (p, not_p), g = softmax(logits), mpmath.mpf(gamma)
        q, cost = not_p[label], -mpmath.log1p(-not_p[label]) if p[label] > 0.5 else -mpmath.log(p[label])
        slope = q**g * (1 + (g * cost * p[label] / q if q else g))
        gradient = [slope * (-q if j == label else v) for j, v in enumerate(p)]
        return float(q**g * cost), np.array([float(v) for v in gradient])


def poly(logits, labels, epsilon):
    """Loss, gradient, and the magnitudes that their errors are counted in."""
    with mpmath.workdps(60):
        (p, not_p), t = softmax(logits), [mpmath.mpf(float(v)) for v in labels]
        costs = [-mpmath.log1p(-q) if v > 0.5 else -mpmath.log(v) for v, q in zip(p, not_p, strict=True)]
        terms = list(zip(t, p, not_p, costs, strict=True))
        total, hits = mpmath.fsum(t), mpmath.fsum(a * b for a, b, _, _ in terms)
        # p sum(t) - t and t - sum(t p), each with 1 - p for what is left of a label.
        gradient = [b * (total - a) - a * q - epsilon * b * (a * q - (hits - a * b)) for a, b, q, _ in terms]
        scale = [(1 + abs(epsilon)) * (b * (total - a) + a * q) for a, b, q, _ in terms]
        loss = mpmath.fsum(a * (c + epsilon * q) for a, _, q, c in terms)
        magnitude = mpmath.fsum(a * (c + abs(epsilon) * q) for a, _, q, c in terms)
        return float(loss), np.array(list(map(float, gradient))), float(magnitude), np.array(list(map(float, scale)))


def rows(classes, rng):
    """(logits, label): confident, hopeless, tied, moved."""
    normal = rng.normal(size=classes).astype(np.float32)
    for scale in (0, 1e-3, 1, 10, 88, 1000):
        for label in (int(normal.argmax()), int(normal.argmin())):
            yield normal * np.float32(scale), label
    for gap in (7.28, 20, 60, 80, 85):
        for label in (0, classes - 1):
            x = np.full(classes, -37.7 - gap, np.float32)
            x[0] = -37.7
            yield x, label


# Focal loss.


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 2.5, 5.0])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_focal_within_8_ulp_and_4_gamma(oracle, classes, gamma):
    value_and_gradient = jax.jit(jax.value_and_grad(partial(softmax_focal_loss, gamma=gamma)))
    for x, y in rows(classes, np.random.default_rng(0)):
        value, gradient = value_and_gradient(x, y)
        true_value, true_gradient = focal(x, y, gamma)
        assert oracle.ulps(value, true_value, classes * oracle.TINY) <= 8 + 4 * gamma, (x, y)
        assert oracle.ulps(gradient, true_gradient, classes * oracle.TINY) <= 8 + 4 * gamma, (x, y)


def test_focal_over_1000_classes(oracle):
    value_and_gradient = jax.jit(jax.value_and_grad(softmax_focal_loss))
    for x, y in list(rows(1000, np.random.default_rng(1)))[1::4]:
        value, gradient = value_and_gradient(x, y)
        p, label = np.exp(np.float64(x) - x.max()), y
        p, others = p / p.sum(), np.delete(p, label).sum() / p.sum()
        cost = -np.log1p(-others) if others < 0.5 else -np.log(p[label])
        true = others**2 * (1 + 2 * cost * p[label] / others) * np.where(np.arange(1000) == label, -others, p)
        assert oracle.ulps(value, others**2 * cost, 1000 * oracle.TINY) <= 16
        assert oracle.ulps(gradient, true, 1000 * oracle.TINY) <= 16


def test_float64_is_computed_in_float64():
    """A gamma that no float32 is, too."""
    x, y, gamma = [0.3, -1.2, 3.0], 0, 2.1
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(partial(softmax_focal_loss, gamma=gamma))(np.array(x), y)
    assert value.dtype == gradient.dtype == np.float64
    true_value, true_gradient = focal(x, y, gamma)
    np.testing.assert_allclose(value, true_value, 4e-15)
    np.testing.assert_allclose(gradient, true_gradient, 4e-15)


logit_rows = st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5).map(partial(np.array, dtype=np.float32))
of_gammas = {g: jax.jit(jax.value_and_grad(partial(softmax_focal_loss, gamma=g))) for g in (0, 0.25, 1.0, 3)}


@settings(deadline=None, max_examples=80, derandomize=True)
@given(x=logit_rows, y=st.integers(0, 4), c=st.integers(-(10**5), 10**5), order=st.permutations(range(5)))
def test_focal_laws(oracle, x, y, c, order):
    x = np.round(x * 8) / 8  # so that x + c is exact
    values = []
    for gamma, value_and_gradient in of_gammas.items():
        value, gradient = value_and_gradient(x, y)
        shifted = value_and_gradient((x + c).astype(np.float32), y)
        assert oracle.ulps(shifted[0], value, 5 * oracle.TINY) <= 8 + 4 * gamma
        assert oracle.ulps(shifted[1], gradient, 5 * oracle.TINY) <= 8 + 4 * gamma
        permuted = value_and_gradient(x[np.array(order)], order.index(y))
        assert oracle.ulps(permuted[0], value, 5 * oracle.TINY) <= 8 + 4 * gamma
        np.testing.assert_allclose(np.sum(gradient), 0, atol=1e-6 * np.abs(gradient).max() + 5 * oracle.TINY)
        values.append(float(value))
    # The surer, the less it counts; and never more than without.
    assert values == sorted(values, reverse=True)
    assert values[0] == softmax_cross_entropy_with_integer_labels(x, y)


def test_focal_of_two_classes_is_that_of_the_sigmoid():
    z = jnp.linspace(-15, 15, 21)
    x, y = jnp.stack([jnp.zeros_like(z), z], -1), jnp.arange(21) % 2
    expected = optax.losses.sigmoid_focal_loss(z, y, gamma=1.5)
    np.testing.assert_allclose(softmax_focal_loss(x, y, gamma=1.5), expected, 2e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_derivatives_of_order_2(gamma):
    x, w = jax.random.normal(jax.random.key(0), (3, 4)), jnp.array([1.0, 0.5, 2.0, 3.0])
    f = jax.jit(lambda x, w: softmax_focal_loss(x, jnp.array([0, 3, 1]), gamma=gamma, class_weights=w))
    check_grads(f, (x, w), order=2, modes=["fwd", "rev"], eps=1e-2)


@pytest.mark.parametrize("gamma", [0.0, 1e-3, 0.5, 1.0, 2.0])
def test_focal_derivatives_of_every_order_are_finite(gamma):
    """Also where 1 - p underflows: the slope of its power there is infinite for gamma below 1."""
    x = jnp.array([[0.0, 200.0, -inf], [300.0, 0.0, 0.0], [0.0, -inf, -inf], [0.0, 1e4, -1e4]])
    f = partial(softmax_focal_loss, gamma=gamma)
    orders = [jax.grad(f), jax.hessian(f), jax.jacfwd(jax.hessian(f))]
    of_rows = jax.jit(jax.vmap(lambda x, y: [derivative(x, y) for derivative in orders], (0, None)))
    for label in (0, 1):
        for derivative in of_rows(x, label):
            assert np.isfinite(derivative).all()


def test_focal_gradient_where_the_loss_underflows_is_0_and_where_hopeless_that_of_cross_entropy():
    x = jnp.array([200.0, 0.0])
    for gamma in (0.5, 2.0):
        assert (jax.grad(softmax_focal_loss)(x, 0, gamma=gamma) == 0).all()
        np.testing.assert_allclose(jax.grad(softmax_focal_loss)(x, 1, gamma=gamma), [1, -1], 3e-7)
    assert softmax_focal_loss(x, 1) == 200


def test_focal_class_weights_axes_and_selections():
    x, y = jax.random.normal(jax.random.key(1), (4, 2, 3)), jnp.array([0, 5, 3, 2])
    w = jnp.arange(1.0, 7.0)
    plain = softmax_focal_loss(x, y, (1, 2))
    np.testing.assert_allclose(plain, softmax_focal_loss(x.reshape(4, 6), y), 1e-6)
    np.testing.assert_allclose(softmax_focal_loss(x, y, (1, 2), class_weights=w), plain * w[y], 1e-6)
    where = jnp.array([True, False, True, False])
    np.testing.assert_array_equal(softmax_focal_loss(x, y, (1, 2), where), jnp.where(where, plain, 0))
    classes = jnp.ones((4, 6), bool).at[:, 4].set(False)
    few = softmax_focal_loss(jnp.delete(x.reshape(4, 6), 4, 1), jnp.array([0, 4, 3, 2]))
    np.testing.assert_allclose(softmax_focal_loss(x.reshape(4, 6), y, where=classes), few, 1e-6)
    assert softmax_focal_loss(jnp.zeros((3,)), 1, where=jnp.array([True, False, True])) == inf
    value, gradient = jax.value_and_grad(lambda x: softmax_focal_loss(x, 7, where=jnp.zeros(2, bool)))(
        jnp.array([nan, inf])
    )
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("gamma", [0.7, 2.0])
def test_focal_weights_leave_the_gradient_finite_where_the_label_is_impossible(gamma):
    x, w = jnp.array([-inf, -0.16]), jnp.array([1.6, 0.5])
    f = jax.jit(lambda x, w: softmax_focal_loss(x, 0, gamma=gamma, class_weights=w))
    assert f(x, w) == inf
    by_x, by_w = jax.grad(f, (0, 1))(x, w)
    np.testing.assert_allclose(by_x, [-1.6, 1.6], rtol=1e-6)
    assert 1e20 < by_w[0] < inf
    assert by_w[1] == 0
    assert np.isfinite(jax.hessian(f)(x, w)).all()


BAD_ROWS = [([nan, 0, 1], 0), ([inf, 0, 1], 0), ([-inf] * 3, 0), ([0, 1, 2], -1), ([0, 1, 2], 3)]


@pytest.mark.parametrize("jit", JIT_AND_EAGER)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_undefined_rows_poison_themselves_only(jit, gamma):
    x, y = jnp.array([*(x for x, _ in BAD_ROWS), [1.0, 2.0, 3.0]]), jnp.array([*(y for _, y in BAD_ROWS), 1])
    f = partial(softmax_focal_loss, gamma=gamma)
    undefined = np.arange(6) < 5
    np.testing.assert_array_equal(np.isnan(f(x, y)), undefined)
    clean = jit(jax.grad(lambda x: f(x, y)[-1]))(x)
    assert (clean[:-1] == 0).all()
    assert (clean[-1] != 0).all()
    poisoned = jit(jax.grad(lambda x: 1e-30 * f(x, y).sum()))(x)
    np.testing.assert_array_equal(np.isnan(poisoned), undefined[:, None] & [True] * 3)
    tangent = jit(lambda x: jax.jvp(lambda x: f(x, y), (x,), (jnp.ones_like(x),))[1])(x)
    np.testing.assert_array_equal(np.isnan(tangent), undefined)


# PolyLoss.


def labels_for(classes, label, rng):
    one = np.eye(classes, dtype=np.float32)[label]
    yield one
    yield np.float32(0.9) * one + np.float32(0.1 / classes)
    yield rng.dirichlet(np.ones(classes)).astype(np.float32)


of_poly = jax.jit(jax.value_and_grad(lambda x, t, epsilon: poly_loss_cross_entropy(x, t, epsilon=epsilon)))


@pytest.mark.parametrize("epsilon", [2.0, 0.0, -1.0, 10.0])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_poly_within_8_ulp_of_its_terms(oracle, classes, epsilon):
    rng = np.random.default_rng(2)
    for x, y in list(rows(classes, rng)):
        for t in labels_for(classes, y, rng):
            value, gradient = of_poly(x, t, epsilon)
            true_value, true_gradient, magnitude, scale = poly(x, t, epsilon)
            slack = classes * oracle.TINY * (1 + abs(epsilon))
            assert oracle.ulps(value, true_value, slack, magnitude) <= 8, (x, t)
            assert oracle.ulps(gradient, true_gradient, slack, scale) <= 16, (x, t)


@pytest.mark.parametrize("axis", [-1, 0, (2, 0), None])
def test_poly_is_that_of_optax(axis):
    x = jax.random.normal(jax.random.key(2), (3, 4, 5))
    t = jax.nn.softmax(jax.random.normal(jax.random.key(3), x.shape), axis)
    ours, theirs = poly_loss_cross_entropy(x, t, axis=axis), optax.losses.poly_loss_cross_entropy(x, t, axis=axis)
    np.testing.assert_allclose(ours, theirs, 5e-6)
    where = jax.random.bernoulli(jax.random.key(4), 0.7, x.shape)
    kwargs = dict(axis=axis, where=where, epsilon=jnp.float32(-1))
    np.testing.assert_allclose(
        poly_loss_cross_entropy(x, t, **kwargs), optax.losses.poly_loss_cross_entropy(x, t, **kwargs), 5e-6
    )


@settings(deadline=None, max_examples=60, derandomize=True)
@given(x=logit_rows, y=st.integers(0, 4), c=st.integers(-(10**5), 10**5))
def test_poly_laws(oracle, x, y, c):
    x, t = np.round(x * 8) / 8, np.eye(5, dtype=np.float32)[y]
    plain, _ = of_gammas[0](x, y)  # the cross-entropy
    assert oracle.ulps(of_poly(x, t, 0.0)[0], plain, 5 * oracle.TINY) <= 16
    assert of_poly((x + c).astype(np.float32), t, 2.0)[0] == of_poly(x, t, 2.0)[0]
    # Linear in epsilon.
    at = [float(of_poly(x, t, e)[0]) for e in (0.0, 1.0, 3.0)]
    np.testing.assert_allclose(at[2] - at[0], 3 * (at[1] - at[0]), atol=1e-6 * (1 + at[2]))


def test_poly_derivatives_of_order_2():
    x, t = jax.random.normal(jax.random.key(5), (3, 4)), jax.nn.softmax(jax.random.normal(jax.random.key(6), (3, 4)))
    f = jax.jit(lambda x, t, e: poly_loss_cross_entropy(x, t, epsilon=e))
    check_grads(f, (x, t, jnp.float32(1.5)), order=2, modes=["fwd", "rev"], eps=1e-2)


def test_poly_of_minus_inf():
    x, t = jnp.array([-inf, 2.0, 2.0]), jnp.array([0.0, 1.0, 0.0])
    f = poly_loss_cross_entropy
    orders = [jax.grad(f), jax.hessian(f), jax.jacfwd(jax.hessian(f))]
    for order, derivative in enumerate(jax.jit(lambda *a: [g(*a) for g in orders])(x, t), 1):
        assert np.isfinite(derivative).all(), order
    np.testing.assert_allclose(poly_loss_cross_entropy(x, t), np.log(2) + 1, rtol=1e-6)
    assert np.isfinite(jax.grad(poly_loss_cross_entropy, 1)(x, t)).all()
    # What optax makes of it; when this fails it has been mended.
    assert np.isnan(optax.losses.poly_loss_cross_entropy(x, t))
    t = jnp.array([0.5, 0.5, 0.0])
    assert poly_loss_cross_entropy(x, t) == inf
    np.testing.assert_allclose(jax.grad(partial(poly_loss_cross_entropy, epsilon=0))(x, t), [-0.5, 0, 0.5], rtol=1e-6)
    assert poly_loss_cross_entropy(x, t, where=jnp.array([False, True, True])) < 2


def test_poly_keeps_the_digits_of_a_confident_prediction():
    x, t = jnp.array([30.0, 0.0]), jnp.array([1.0, 0.0])
    np.testing.assert_allclose(poly_loss_cross_entropy(x, t), 3 * np.exp(-30.0), rtol=1e-6)
    np.testing.assert_allclose(
        jax.grad(poly_loss_cross_entropy)(x, t), 3 * np.exp(-30.0) * np.array([-1, 1]), rtol=1e-6
    )
    assert optax.losses.poly_loss_cross_entropy(x, t) == 0  # a fault of optax


def test_poly_keeps_a_small_label_beside_a_large_one(oracle):
    for x in ([30, 0], [0, 30], [3, 3]):
        for t in ([1, 1e-9], [0.7, 1e-9], [0.9999, 1e-4], [0.3, 0.3]):
            x, t = np.float32(x), np.float32(t)
            _, true, _, scale = poly(x, t, 2.0)
            assert oracle.ulps(of_poly(x, t, 2.0)[1], true, 2 * oracle.TINY, scale) <= 16


@pytest.mark.parametrize("jit", JIT_AND_EAGER)
def test_poly_undefined_rows_poison_themselves_only(jit):
    bad = [
        ([nan, 0], [1, 0]),
        ([inf, 0], [1, 0]),
        ([-inf, -inf], [1, 0]),
        ([0, 1], [nan, 0]),
        ([0, 1], [-1, 2]),
        ([0, 1], [inf, 0]),
    ]
    x, t = jnp.array([*(x for x, _ in bad), [1.0, 2.0]]), jnp.array([*(t for _, t in bad), [0.25, 0.75]])
    undefined = np.arange(7) < 6
    np.testing.assert_array_equal(np.isnan(poly_loss_cross_entropy(x, t)), undefined)
    for argument in (0, 1):
        clean = jit(jax.grad(lambda *a: poly_loss_cross_entropy(*a)[-1], argument))(x, t)
        assert (clean[:-1] == 0).all()
        assert (clean[-1] != 0).all()
        poisoned = jit(jax.grad(lambda *a: 1e-30 * poly_loss_cross_entropy(*a).sum(), argument))(x, t)
        np.testing.assert_array_equal(np.isnan(poisoned), undefined[:, None] & [True] * 2)


# Both.


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x, y = (jax.random.normal(jax.random.key(7), (3, 64)) * 5).astype(dtype), jnp.array([0, 7, 63])
    t = jax.nn.one_hot(y, 64)
    for f in (lambda x: softmax_focal_loss(x, y), lambda x: poly_loss_cross_entropy(x, t)):
        value_and_gradient = jax.jit(jax.value_and_grad(lambda x, f=f: f(x).sum()))
        (value, gradient), (value32, gradient32) = value_and_gradient(x), value_and_gradient(x.astype(jnp.float32))
        assert value.dtype == jnp.float32
        assert value == value32
        assert gradient.dtype == dtype
        assert (gradient == gradient32.astype(dtype)).all()


def test_jit_vmap_and_eager_agree(oracle):
    x, y = jax.random.normal(jax.random.key(8), (3, 8)) * 10, jnp.arange(3)
    t = jax.nn.one_hot(y, 8)
    for f, labels in ((softmax_focal_loss, y), (poly_loss_cross_entropy, t)):
        for g in (f, jax.grad(lambda x, t, f=f: f(x, t).sum())):
            for other in (jax.jit(g), jax.jit(jax.vmap(g))):
                assert oracle.ulps(other(x, labels), g(x, labels), 8 * oracle.TINY) <= 16


GOOD = dict(logits=np.zeros((2, 3)), labels=np.zeros(2, int))


@pytest.mark.parametrize(
    ("f", "arguments", "message"),
    [
        (softmax_focal_loss, dict(gamma=-1), "gamma must be a finite Python float of at least 0, got -1"),
        (softmax_focal_loss, dict(gamma=inf), "gamma must be a finite Python float of at least 0, got inf"),
        (softmax_focal_loss, dict(gamma=True), "gamma must be a finite Python float of at least 0, got True"),
        (softmax_focal_loss, dict(gamma=jnp.ones(2)), "gamma must be .*, got .* float32 "),
        (softmax_focal_loss, dict(labels=np.zeros(2)), "labels must be an array of integer dtype, got float"),
        (softmax_focal_loss, dict(labels=np.zeros((2, 1), int)), r"labels must have .*, \(2,\), got \(2, 1\)"),
        (softmax_focal_loss, dict(class_weights=np.ones(2)), r"class_weights must have .*, \(3,\), got \(2,\)"),
        (softmax_focal_loss, dict(class_weights=2.0), r"class_weights must have .*, \(3,\), got \(\)"),
        (
            softmax_focal_loss,
            dict(where=np.ones((2, 1), bool)),
            r"where must have the shape \(2, 3\), .*, or \(2,\), .*, got \(2, 1\); it is not",
        ),
        (softmax_focal_loss, dict(logits=np.zeros((2, 0))), "logits must hold between 1 and .* classes, got 0"),
        (poly_loss_cross_entropy, dict(), "labels must be an array of floating dtype, got int"),
        (poly_loss_cross_entropy, dict(labels=np.zeros((2, 1))), r"labels must have .*, \(2, 3\), got \(2, 1\)"),
        (poly_loss_cross_entropy, dict(labels=np.zeros((2, 3)), epsilon="2"), "epsilon must be an array of"),
        (
            poly_loss_cross_entropy,
            dict(labels=np.zeros((2, 3)), epsilon=np.ones(3)),
            r"epsilon must have .*, \(\), got",
        ),
        (poly_loss_cross_entropy, dict(labels=np.zeros((2, 3)), axis=5), "axis must be"),
    ],
)
def test_arguments_that_do_not_fit(f, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        f(**(GOOD | arguments))
    assert "\n" not in str(error.value)


def test_no_weight_on_an_impossible_class_costs_nothing():
    x, weights = jnp.array([1.0, 2.0, -jnp.inf]), jnp.array([1, 1, 0])
    assert softmax_focal_loss(x, jnp.array(2), class_weights=weights) == 0
    rows = jnp.array([[1.0, 2.0, -jnp.inf], [jnp.nan, 1.0, 2.0], [0.0, 1.0, 2.0]])
    labels, counted = jnp.array([2, 1, 0]), jnp.array([False, False, True])

    def of_weights(weights):
        return mean(softmax_focal_loss(rows, labels, class_weights=weights), where=counted)

    gradient = jax.grad(of_weights)(jnp.ones(3))
    assert gradient[0] > 0
    np.testing.assert_array_equal(gradient[1:], [0, 0])
