"""softmax_focal_loss and poly_loss_cross_entropy against 60 digits, their laws, and hostile inputs."""

from functools import cache, partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings

from xent.losses import mean, poly_loss_cross_entropy, softmax_cross_entropy_with_integer_labels, softmax_focal_loss

inf, nan = np.inf, np.nan


def compiled(f, **static):
    """`f` as one program that gives numpy arrays: each operation on a jax array would be a program of its own."""
    program = jax.jit(f, **static)
    return lambda *args, **kwargs: jax.device_get(program(*args, **kwargs))


JIT_AND_EAGER = [pytest.param(compiled, id="jit"), pytest.param(lambda f: f, id="eager")]
focal_loss = compiled(softmax_focal_loss, static_argnames=("axis", "gamma"))
poly_loss = compiled(poly_loss_cross_entropy, static_argnames="axis")
optax_poly_loss = compiled(optax.losses.poly_loss_cross_entropy, static_argnames="axis")


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


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


@cache
def of_regimes(gamma):
    """{classes: [(logits, label, loss, gradient)]}."""
    drawn = {classes: list(rows(classes, np.random.default_rng(0))) for classes in (2, 10, 100)}
    batches = {classes: tuple(map(np.array, zip(*some, strict=True))) for classes, some in drawn.items()}

    def of_batch(x, y):
        losses, pull_back = jax.vjp(lambda x: softmax_focal_loss(x, y, gamma=gamma), x)
        return losses, pull_back(jnp.ones_like(losses))[0]

    found = compiled(lambda batches: {classes: of_batch(*batch) for classes, batch in batches.items()})(batches)
    return {classes: list(zip(*batches[classes], *found[classes], strict=True)) for classes in drawn}


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 2.5, 5.0])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_focal_within_8_ulp_and_4_gamma(oracle, classes, gamma):
    for x, y, value, gradient in of_regimes(gamma)[classes]:
        true_value, true_gradient = oracle.focal(x, y, gamma)
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


def test_float64_is_computed_in_float64(oracle):
    """A gamma that no float32 is, too."""
    x, y, gamma = [0.3, -1.2, 3.0], 0, 2.1
    with jax.enable_x64(True):
        value, gradient = compiled(jax.value_and_grad(partial(softmax_focal_loss, gamma=gamma)))(np.array(x), y)
    assert value.dtype == gradient.dtype == np.float64
    true_value, true_gradient = oracle.focal(x, y, gamma)
    np.testing.assert_allclose(value, true_value, 4e-15)
    np.testing.assert_allclose(gradient, true_gradient, 4e-15)


logit_rows = st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5).map(partial(np.array, dtype=np.float32))
cross_entropy = compiled(softmax_cross_entropy_with_integer_labels)
of_gammas = {g: compiled(jax.value_and_grad(partial(softmax_focal_loss, gamma=g))) for g in (0, 0.25, 1.0, 3)}


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
    assert values[0] == cross_entropy(x, y)


def test_focal_of_two_classes_is_that_of_the_sigmoid():
    z = np.linspace(-15, 15, 21, dtype=np.float32)
    x, y = np.stack([np.zeros_like(z), z], -1), np.arange(21) % 2
    expected = compiled(optax.losses.sigmoid_focal_loss, static_argnames="gamma")(z, y, gamma=1.5)
    np.testing.assert_allclose(focal_loss(x, y, gamma=1.5), expected, 2e-5)


def test_focal_derivatives_of_order_2(check_derivatives):
    def of_gammas(x, w):
        y = jnp.array([0, 3, 1])
        return {gamma: softmax_focal_loss(x, y, gamma=gamma, class_weights=w) for gamma in (0.0, 0.5, 2.0)}

    check_derivatives(of_gammas, (normal(0, 3, 4), np.float32([1.0, 0.5, 2.0, 3.0])), step=1e-2)


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
    x = np.float32([200.0, 0.0])
    gradients = compiled(
        lambda x: [[jax.grad(softmax_focal_loss)(x, y, gamma=gamma) for y in (0, 1)] for gamma in (0.5, 2.0)]
    )
    for of_right, of_wrong in gradients(x):
        assert (of_right == 0).all()
        np.testing.assert_allclose(of_wrong, [1, -1], 3e-7)
    assert focal_loss(x, 1) == 200


def test_focal_class_weights_axes_and_selections():
    x, y = normal(1, 4, 2, 3), np.array([0, 5, 3, 2])
    flat, w = x.reshape(4, 6), np.arange(1.0, 7.0, dtype=np.float32)
    plain = focal_loss(x, y, (1, 2))
    np.testing.assert_allclose(plain, focal_loss(flat, y), 1e-6)
    np.testing.assert_allclose(focal_loss(x, y, (1, 2), class_weights=w), plain * w[y], 1e-6)
    where = np.array([True, False, True, False])
    np.testing.assert_array_equal(focal_loss(x, y, (1, 2), where), np.where(where, plain, 0))
    classes = np.arange(6) != 4
    few = focal_loss(flat[:, classes], np.array([0, 4, 3, 2]))
    np.testing.assert_allclose(focal_loss(flat, y, where=np.tile(classes, (4, 1))), few, 1e-6)
    assert focal_loss(np.zeros(3, np.float32), 1, where=np.array([True, False, True])) == inf
    of_nothing = compiled(jax.value_and_grad(lambda x: softmax_focal_loss(x, 7, where=np.zeros(2, bool))))
    value, gradient = of_nothing(np.float32([nan, inf]))
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("gamma", [0.7, 2.0])
def test_focal_weights_leave_the_gradient_finite_where_the_label_is_impossible(gamma):
    x, w = np.float32([-inf, -0.16]), np.float32([1.6, 0.5])

    def f(x, w):
        return softmax_focal_loss(x, 0, gamma=gamma, class_weights=w)

    value, (by_x, by_w), hessian = compiled(lambda *a: (f(*a), jax.grad(f, (0, 1))(*a), jax.hessian(f)(*a)))(x, w)
    assert value == inf
    np.testing.assert_allclose(by_x, [-1.6, 1.6], rtol=1e-6)
    assert 1e20 < by_w[0] < inf
    assert by_w[1] == 0
    assert np.isfinite(hessian).all()


BAD_ROWS = [([nan, 0, 1], 0), ([inf, 0, 1], 0), ([-inf] * 3, 0), ([0, 1, 2], -1), ([0, 1, 2], 3)]
BAD_ROWS += [([0, 1, nan], 1), ([-inf, inf, 0], 2), ([0, 1, 2], 2**31 - 1)]  # nine with a good one, as everywhere


@pytest.mark.parametrize(("jit", "gamma"), [(compiled, 0.0), (compiled, 0.5), (compiled, 2.0), (lambda f: f, 0.5)])
def test_focal_undefined_rows_poison_themselves_only(jit, gamma):
    x, y = np.float32([*(x for x, _ in BAD_ROWS), [1.0, 2.0, 3.0]]), np.array([*(y for _, y in BAD_ROWS), 1])
    undefined = np.arange(9) < 8

    def derived(x):
        """Losses, the gradients of the last and of all, and the tangents."""
        f = partial(softmax_focal_loss, labels=y, gamma=gamma)
        losses, pull_back = jax.vjp(f, x)
        gradients = [pull_back(jnp.asarray(w))[0] for w in (np.float32(~undefined), np.full(9, 1e-30, np.float32))]
        return losses, *gradients, jax.jvp(f, (x,), (np.ones(x.shape, np.float32),))[1]

    losses, clean, poisoned, tangent = map(np.asarray, jit(derived)(x))
    np.testing.assert_array_equal(np.isnan(losses), undefined)
    assert (clean[:-1] == 0).all()
    assert (clean[-1] != 0).all()
    np.testing.assert_array_equal(np.isnan(poisoned), undefined[:, None] & [True] * 3)
    np.testing.assert_array_equal(np.isnan(tangent), undefined)


# PolyLoss.


def labels_for(classes, label, rng):
    one = np.eye(classes, dtype=np.float32)[label]
    yield one
    yield np.float32(0.9) * one + np.float32(0.1 / classes)
    yield rng.dirichlet(np.ones(classes)).astype(np.float32)


of_poly = compiled(jax.value_and_grad(lambda x, t, epsilon: poly_loss_cross_entropy(x, t, epsilon=epsilon)))


@pytest.mark.parametrize("epsilon", [2.0, 0.0, -1.0, 10.0])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_poly_within_8_ulp_of_its_terms(oracle, classes, epsilon):
    rng = np.random.default_rng(2)
    for x, y in list(rows(classes, rng)):
        for t in labels_for(classes, y, rng):
            value, gradient = of_poly(x, t, epsilon)
            true_value, true_gradient, magnitude, scale = oracle.poly(x, t, epsilon)
            slack = classes * oracle.TINY * (1 + abs(epsilon))
            assert oracle.ulps(value, true_value, slack, magnitude) <= 8, (x, t)
            assert oracle.ulps(gradient, true_gradient, slack, scale) <= 16, (x, t)


@pytest.mark.parametrize("axis", [-1, 0, (2, 0), None])
def test_poly_is_that_of_optax(axis):
    x, t = normal(2, 3, 4, 5), np.random.default_rng(3).dirichlet(np.ones(60)).reshape(3, 4, 5).astype(np.float32)
    np.testing.assert_allclose(poly_loss(x, t, axis=axis), optax_poly_loss(x, t, axis=axis), 5e-6)
    kwargs = dict(axis=axis, where=np.random.default_rng(4).random(x.shape) < 0.7, epsilon=np.float32(-1))
    np.testing.assert_allclose(poly_loss(x, t, **kwargs), optax_poly_loss(x, t, **kwargs), 5e-6)


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


def test_poly_derivatives_of_order_2(check_derivatives):
    x, t = normal(5, 3, 4), np.float32(0.2 + 0.2 * np.random.default_rng(6).random((3, 4)))
    check_derivatives(lambda x, t, e: poly_loss_cross_entropy(x, t, epsilon=e), (x, t, np.float32(1.5)), step=1e-2)


def test_poly_of_minus_inf():
    f, x, t = poly_loss_cross_entropy, np.float32([-inf, 2.0, 2.0]), np.float32([0.0, 1.0, 0.0])
    orders = [jax.grad(f), jax.hessian(f), jax.jacfwd(jax.hessian(f)), jax.grad(f, 1)]
    for which, derivative in enumerate(compiled(lambda *a: [g(*a) for g in orders])(x, t)):
        assert np.isfinite(derivative).all(), which
    np.testing.assert_allclose(poly_loss(x, t), np.log(2) + 1, rtol=1e-6)
    # What optax makes of it; when this fails it has been mended.
    assert np.isnan(optax_poly_loss(x, t))
    t = np.float32([0.5, 0.5, 0.0])
    assert poly_loss(x, t) == inf
    np.testing.assert_allclose(of_poly(x, t, np.float32(0))[1], [-0.5, 0, 0.5], rtol=1e-6)
    assert poly_loss(x, t, where=np.array([False, True, True])) < 2


def test_poly_keeps_the_digits_of_a_confident_prediction():
    x, t = np.float32([30.0, 0.0]), np.float32([1.0, 0.0])
    value, gradient = of_poly(x, t, 2.0)
    assert value == poly_loss(x, t)
    np.testing.assert_allclose(value, 3 * np.exp(-30.0), rtol=1e-6)
    np.testing.assert_allclose(gradient, 3 * np.exp(-30.0) * np.array([-1, 1]), rtol=1e-6)
    assert optax_poly_loss(x, t) == 0  # a fault of optax


def test_poly_keeps_a_small_label_beside_a_large_one(oracle):
    for x in ([30, 0], [0, 30], [3, 3]):
        for t in ([1, 1e-9], [0.7, 1e-9], [0.9999, 1e-4], [0.3, 0.3]):
            x, t = np.float32(x), np.float32(t)
            _, true, _, scale = oracle.poly(x, t, 2.0)
            assert oracle.ulps(of_poly(x, t, 2.0)[1], true, 2 * oracle.TINY, scale) <= 16


@pytest.mark.parametrize("jit", JIT_AND_EAGER)
def test_poly_undefined_rows_poison_themselves_only(jit):
    bad = [([v, 0, 0], [1, 0, 0]) for v in (nan, inf)] + [([-inf] * 3, [1, 0, 0])]
    bad += [([0, 1, 0], [*t, 0]) for t in ([nan, 0], [-1, 2], [inf, 0], [0, nan], [0, -inf])]
    x, t = np.float32([*(x for x, _ in bad), [1.0, 2.0, 0.5]]), np.float32([*(t for _, t in bad), [0.25, 0.25, 0.5]])
    undefined = np.arange(9) < 8

    def derived(x, t):
        losses, pull_back = jax.vjp(poly_loss_cross_entropy, x, t)
        weights = np.float32(~undefined), np.full(9, 1e-30, np.float32)
        return losses, [pull_back(jnp.asarray(w)) for w in weights]

    losses, (clean, poisoned) = jit(derived)(x, t)
    np.testing.assert_array_equal(np.isnan(losses), undefined)
    for gradient in map(np.asarray, clean):
        assert (gradient[:-1] == 0).all()
        assert (gradient[-1] != 0).all()
    for gradient in map(np.asarray, poisoned):
        np.testing.assert_array_equal(np.isnan(gradient), undefined[:, None] & [True] * 3)


# Both.


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x, y = (normal(7, 3, 64) * 5).astype(dtype), np.array([0, 7, 63])
    t = np.eye(64, dtype=np.float32)[y]
    fs = {"focal": lambda x: softmax_focal_loss(x, y).sum(), "poly": lambda x: poly_loss_cross_entropy(x, t).sum()}
    of_both = compiled(lambda x: {name: jax.value_and_grad(f)(x) for name, f in fs.items()})
    found, wide = of_both(x), of_both(x.astype(np.float32))
    for name, (value, gradient) in found.items():
        value32, gradient32 = wide[name]
        assert value.dtype == np.float32, name
        assert value == value32, name
        assert gradient.dtype == dtype, name
        assert (gradient == gradient32.astype(dtype)).all(), name


@pytest.mark.parametrize("name", ["focal", "poly"])
def test_jit_vmap_and_eager_agree(oracle, name):
    x, y = normal(8, 9, 3) * 10, np.arange(9) % 3
    f, labels = dict(focal=(softmax_focal_loss, y), poly=(poly_loss_cross_entropy, np.eye(3, dtype=np.float32)[y]))[
        name
    ]

    def both(x, labels):
        return f(x, labels), jax.grad(lambda x: f(x, labels).sum())(x)

    for got, eager in oracle.compiled_and_eager(both, x, labels):
        assert oracle.ulps(got, eager, 3 * oracle.TINY) <= 16


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
    x, weights = np.float32([1.0, 2.0, -inf]), np.array([1, 1, 0])
    assert focal_loss(x, np.array(2), class_weights=weights) == 0
    rows = np.float32([[1.0, 2.0, -inf], [nan, 1.0, 2.0], [0.0, 1.0, 2.0]])
    labels, counted = np.array([2, 1, 0]), np.array([False, False, True])

    def of_weights(weights):
        return mean(softmax_focal_loss(rows, labels, class_weights=weights), where=counted)

    gradient = compiled(jax.grad(of_weights))(np.ones(3, np.float32))
    assert gradient[0] > 0
    np.testing.assert_array_equal(gradient[1:], [0, 0])
