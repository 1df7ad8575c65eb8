"""Closed forms of gradient, Hessian and Gauss-Newton products: what JAX derives, and exact against 60 digits."""

from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from jax.flatten_util import ravel_pytree

from xent.losses import (
    sigmoid_binary_cross_entropy,
    sigmoid_binary_cross_entropy_fisher_diagonal,
    sigmoid_binary_cross_entropy_gauss_newton_vector_product,
    sigmoid_binary_cross_entropy_gradient,
    sigmoid_binary_cross_entropy_hessian_vector_product,
    softmax_cross_entropy_fisher_diagonal,
    softmax_cross_entropy_gauss_newton_vector_product,
    softmax_cross_entropy_gradient,
    softmax_cross_entropy_hessian_vector_product,
    softmax_cross_entropy_with_integer_labels,
)

inf, nan = np.inf, np.nan
gradient_of, product_of = softmax_cross_entropy_gradient, softmax_cross_entropy_hessian_vector_product
fisher_of = softmax_cross_entropy_fisher_diagonal
jitted_gradient, jitted_product = (jax.jit(f, static_argnames="axis") for f in (gradient_of, product_of))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def plain(x, t):
    """Cross-entropy with soft labels, as its definition reads."""
    return -jnp.sum(t * jax.nn.log_softmax(x), -1)


def softmax(logits):
    e = [mpmath.exp(mpmath.mpf(float(v))) if v > -inf else mpmath.mpf(0) for v in logits]
    total = mpmath.fsum(e)
    return [v / total for v in e], [mpmath.fsum(e[:j] + e[j + 1 :]) / total for j in range(len(e))]


def rows(classes, rng):
    """(logits, label): confident, hopeless, tied, moved, with classes that are not there."""
    normal = rng.normal(size=classes).astype(np.float32)
    for scale in (0, 1, 10, 88, 1000):
        for label in (int(normal.argmax()), int(normal.argmin())):
            yield normal * np.float32(scale), label
    for gap in (7.28, 20, 60):
        x = np.full(classes, 1e4 - gap, np.float32)
        x[-1] = 1e4
        yield x, classes - 1
        yield np.where(np.arange(classes) == 1, -inf, x).astype(np.float32), 0


def floats(values):
    return np.array([float(v) for v in values])


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_softmax_against_60_digits(oracle, classes):
    rng = np.random.default_rng(0)
    of_gradient, of_product, of_fisher = map(jax.jit, (gradient_of, product_of, fisher_of))
    for x, y in rows(classes, rng):
        soft = rng.dirichlet(np.ones(classes)).astype(np.float32) * np.float32(1.5)
        slack = classes * oracle.TINY
        with mpmath.workdps(60):
            p, q = softmax(x)
            hard = floats(-b if j == y else a for j, (a, b) in enumerate(zip(p, q, strict=True)))
            t = [mpmath.mpf(float(v)) for v in soft]
            total = mpmath.fsum(t)
            mixed = floats(a * total - b for a, b in zip(p, t, strict=True))
            scale = floats(a * (total - b) + b * c for a, b, c in zip(p, t, q, strict=True))
            information = floats(a * b for a, b in zip(p, q, strict=True))
        assert oracle.ulps(of_gradient(x, y), hard, slack) <= 8, (x, y)
        assert oracle.ulps(of_gradient(x, soft), mixed, 2 * slack, scale) <= 8, (x, soft)
        assert oracle.ulps(of_fisher(x), information, slack) <= 16, x
        vectors = [
            np.eye(classes)[y],
            rng.normal(size=classes),
            rng.normal(size=classes) + 1e4,
            1e6 * np.eye(classes)[0],
        ]
        for v in np.float32(vectors):
            with mpmath.workdps(60):
                w = [mpmath.mpf(float(a)) for a in v]
                steps = [[c * (a - b) for b, c in zip(w, p, strict=True)] for a in w]
                true = floats(a * mpmath.fsum(s) for a, s in zip(p, steps, strict=True))
                scale = floats(a * mpmath.fsum(map(abs, s)) for a, s in zip(p, steps, strict=True))
            spread = slack * (1 + np.ptp(v))
            assert oracle.ulps(of_product(x, y, v), true, spread, scale) <= 16, (x, v)


def test_softmax_keeps_a_small_weight_beside_a_large_one(oracle):
    """sum(t) is 1 in float32, and so is t_0; ties, and no weight at all, as well."""
    x, t = np.float32([[30.0, 0.0], [0.0, 40.0]]), np.float32([[1.0, 1e-9], [1e-9, 1.0]])
    got = jitted_gradient(x, t)
    small = np.float64(np.float32(1e-9))
    p = np.exp(-np.array([30.0, 40.0]))  # of the other class, to its first 13 digits
    true = np.array([[small - p[0], p[0] - small], [p[1] - small, small - p[1]]])
    assert oracle.ulps(got, true) <= 8
    tied = np.array([[0.5, 0.5, 1e-9], [0.0, 0.0, 0.0]], np.float32)
    e = np.exp(np.array([30.0, 0.0, 0.0]))
    true = e / e.sum() * tied.astype(np.float64).sum(-1, keepdims=True) - tied
    assert oracle.ulps(jitted_gradient(np.float32([[30, 0, 0]] * 2), tied), true) <= 8


def test_softmax_is_what_jax_derives():
    x, v = 3 * normal(0, 3, 5), normal(1, 3, 5)
    y, t = np.array([0, 4, 2]), np.random.default_rng(2).random((3, 5), np.float32)

    def pairs(loss, x, labels, v):
        """(ours, what JAX derives): the gradient, a Hessian product, and all of a row's Hessian."""
        gradient = jax.grad(lambda x: loss(x, labels).sum())
        yield gradient_of(x, labels), gradient(x)
        yield product_of(x, labels, v), jax.jvp(gradient, (x,), (v,))[1]
        columns = jax.vmap(lambda e: product_of(x[1], labels[1], e))(jnp.eye(5))
        yield columns, jax.hessian(lambda x: loss(x, labels)[1])(x)[1, :, 1]

    @jax.jit
    def found(x, y, t, v):
        diagonal = jnp.diag(jax.hessian(lambda x: plain(x, jnp.eye(5)[0]))(x[1]))
        hard = pairs(softmax_cross_entropy_with_integer_labels, x, y, v)
        return [*hard, *pairs(plain, x, t, v), (fisher_of(x[1]), diagonal)]

    for ours, derived in found(x, y, t, v):
        np.testing.assert_allclose(ours, derived, atol=1e-6)


def test_the_closed_forms_are_differentiable_themselves():
    @jax.jit
    def found(x, v):
        of_gradient = jax.jvp(partial(gradient_of, labels=2), (x,), (v,))[1]
        third = jax.jacrev(lambda x: jax.vmap(lambda e: product_of(x, 2, e))(jnp.eye(5)))(x)
        plain_third = jax.jacfwd(jax.hessian(partial(plain, t=jnp.eye(5)[0])))(x)
        return (of_gradient, product_of(x, 2, v)), (third, plain_third)

    for ours, expected in found(*normal(3, 2, 5)):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


vectors = st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5).map(partial(np.array, dtype=np.float32))


@settings(deadline=None, max_examples=80, derandomize=True)
@given(x=vectors, u=vectors, v=vectors, y=st.integers(0, 4), c=st.floats(-1e6, 1e6, width=32))
def test_laws_of_the_hessian(x, u, v, y, c):
    hv, hu = jitted_product(x, y, v), jitted_product(x, y, u)
    size = 1e-6 * (1 + np.abs(u).max() * np.abs(v).max())
    np.testing.assert_allclose(np.dot(u, hv), np.dot(v, hu), atol=10 * size)
    assert np.dot(v, hv) >= -size * (1 + np.abs(v).max())
    np.testing.assert_allclose(np.sum(hv), 0, atol=size)
    # The same for all classes: nothing moves, to the last bit.
    assert (jitted_product(x, y, np.full(5, c, np.float32)) == 0).all()
    shifted = jitted_product((np.round(x) + 4096).astype(np.float32), y, v)
    np.testing.assert_array_equal(jitted_product(np.round(x), y, v), shifted)
    gradient = jitted_gradient(x, y)
    np.testing.assert_allclose(np.sum(gradient), 0, atol=1e-6 * np.abs(gradient).max() + 1e-37)


def test_gauss_newton_between_jacobians():
    inputs, y, params = normal(4, 6, 3), np.arange(6) % 4, {"a": normal(5, 3, 5), "b": normal(6, 5, 4)}
    v = jax.tree.map(lambda p: np.cos(p * 7), params)
    loss, gauss_newton = softmax_cross_entropy_with_integer_labels, softmax_cross_entropy_gauss_newton_vector_product

    def apply(params):
        return jnp.tanh(inputs @ params["a"]) @ params["b"]

    def linear(k):
        return inputs @ k

    @jax.jit
    def found(params, v, y):
        flat, unravel = ravel_pytree(params)
        j = jax.jacobian(lambda f: apply(unravel(f)))(flat)
        h = jax.vmap(jax.hessian(loss))(apply(params), y)
        matrix = jnp.einsum("nip,nij,njq->pq", j, h, j)
        product = ravel_pytree(gauss_newton(apply, params, y, v))[0]
        # Where the logits are linear in the parameters it is the Hessian.
        k, w = params["a"][:, :4], v["a"][:, :4]
        of_hessian = jax.jvp(jax.grad(lambda k: loss(linear(k), y).sum()), (k,), (w,))[1]
        return (product, matrix @ ravel_pytree(v)[0]), (gauss_newton(linear, k, y, w), of_hessian)

    (product, expected), (of_linear, of_hessian) = found(params, v, y)
    np.testing.assert_allclose(product, expected, atol=2e-5)
    np.testing.assert_allclose(of_linear, of_hessian, atol=1e-5)


def test_axes_selections_and_dtypes():
    x, labels, axes = normal(7, 4, 3, 2), np.array([0, 1, 7]), (0, 2)
    kept = np.array([True, False, True])

    @jax.jit
    def found(x, v, labels, kept):
        pairs = []
        for where in (None, kept, x > -0.5):
            total = partial(softmax_cross_entropy_with_integer_labels, labels=labels, axis=axes, where=where)
            gradient = jax.grad(lambda x: total(x).sum())  # noqa: B023
            pairs.append((gradient_of(x, labels, axes, where=where), gradient(x)))
            pairs.append((product_of(x, labels, v, axes, where=where), jax.jvp(gradient, (x,), (v,))[1]))
        return pairs, fisher_of(x, axes, kept)

    compared, fisher = found(x, np.sin(9 * x), labels, kept)
    for ours, derived in compared:
        np.testing.assert_allclose(ours, derived, atol=1e-6)
    assert (fisher[:, 1] == 0).all()
    half = x.astype(jnp.bfloat16)
    result, wide = (jitted_gradient(x, labels, axes) for x in (half, half.astype(np.float32)))
    assert result.dtype == jnp.bfloat16
    assert (np.asarray(result) == np.asarray(wide).astype(jnp.bfloat16)).all()


@pytest.mark.parametrize("jit", [jax.jit, lambda f: f])
def test_rows_without_a_loss_are_nan_and_poison_nothing(jit):
    # Nine rows of three, as for the losses: what these have compiled, one operation after the other, serves all.
    x = np.float32([[nan, 0, 0], [inf, 0, 0], [-inf] * 3, [0, 1, nan], [-inf, inf, 0], *[[0, 0, 0]] * 3, [1, 2, 3]])
    y, undefined = np.array([0, 0, 0, 1, 2, -1, 3, 100, 1]), np.arange(9) < 8
    v = np.ones_like(x)
    v[:, 0] = 0
    one = jnp.asarray(np.arange(27).reshape(x.shape) == 25, jnp.float32)  # [-1, 1]

    def derived(x):
        """Gradient and Hessian product, and what an element of the last row sends back through each."""
        of_gradient, pull_gradient = jax.vjp(lambda x: gradient_of(x, y), x)
        of_product, pull_product = jax.vjp(lambda x: product_of(x, y, v), x)
        return [(of_gradient, *pull_gradient(one)), (of_product, *pull_product(one))]

    for value, through in jax.device_get(jit(derived)(x)):
        np.testing.assert_array_equal(np.isnan(value), undefined[:, None] & [True] * 3)
        assert (through[:-1] == 0).all()
        assert (through[-1] != 0).all()
    t = np.float32([[0.5, 0.5, nan], [-0.5, 1, 0.5], [0.2, 0.3, 0.5]])
    of_labels, fisher = map(np.asarray, jit(lambda t, x: (gradient_of(jnp.zeros((3, 3)), t), fisher_of(x)))(t, x))
    np.testing.assert_array_equal(np.isnan(of_labels)[:, 0], [True, True, False])
    np.testing.assert_array_equal(np.isnan(fisher)[:, 0], np.arange(9) < 5)


# Of the sigmoid.


LOGITS = np.float32([0, 1e-3, 0.5, 3, 17, 30, 80, 1e4])
LOGITS = np.concatenate([LOGITS, -LOGITS[1:]])


@pytest.mark.parametrize("label", [0.0, 1.0, 0.3])
def test_sigmoid_against_60_digits(oracle, label):
    label = float(np.float32(label))
    v = np.float32(np.linspace(-3, 5, len(LOGITS)))
    y = np.full_like(LOGITS, label)
    gradient = jax.jit(sigmoid_binary_cross_entropy_gradient)(LOGITS, y)
    product = jax.jit(sigmoid_binary_cross_entropy_hessian_vector_product)(LOGITS, y, v)
    fisher = jax.jit(sigmoid_binary_cross_entropy_fisher_diagonal)(LOGITS)
    for i, z in enumerate(LOGITS):
        _, true = oracle.binary(z, label)
        with mpmath.workdps(60):
            e = mpmath.exp(-abs(mpmath.mpf(float(z))))
            information = float(e / (1 + e) ** 2)
        scale = None if label in (0, 1) else max(label, 1 / (1 + np.exp(-np.float64(np.clip(z, -700, 700)))))
        assert oracle.ulps(gradient[i], true, 2 * oracle.TINY, scale) <= 8
        assert oracle.ulps(fisher[i], information, 2 * oracle.TINY) <= 8
        assert oracle.ulps(product[i], information * np.float64(v[i]), 2 * oracle.TINY * (1 + abs(v[i]))) <= 8


def test_sigmoid_is_what_jax_derives():
    z, y = 3 * normal(8, 4, 3), np.array([[0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]])
    inputs, k, w = normal(9, 4, 2), np.ones((2, 3), np.float32), np.arange(6, dtype=np.float32).reshape(2, 3)

    @jax.jit
    def found(z, v, k, w):
        def product(f, x, v):
            return jax.jvp(jax.grad(f), (x,), (v,))[1]

        total = lambda z: sigmoid_binary_cross_entropy(z, y).sum()  # noqa: E731
        diagonal = jnp.diag(jax.hessian(total)(z).reshape(12, 12)).reshape(4, 3)
        gauss_newton = sigmoid_binary_cross_entropy_gauss_newton_vector_product(lambda k: inputs @ k, k, y, w)
        return [
            (sigmoid_binary_cross_entropy_gradient(z, y), jax.grad(total)(z)),
            (sigmoid_binary_cross_entropy_hessian_vector_product(z, y, v), product(total, z, v)),
            (sigmoid_binary_cross_entropy_fisher_diagonal(z), diagonal),
        ], (gauss_newton, product(lambda k: total(inputs @ k), k, w))

    elementwise, of_linear = found(z, np.sin(5 * z), k, w)
    for ours, derived in elementwise:
        np.testing.assert_allclose(ours, derived, 1e-6)
    np.testing.assert_allclose(*of_linear, 1e-5, 1e-6)
    bad = sigmoid_binary_cross_entropy_gradient(np.float32([nan, 1.0, inf]), np.float32([0.0, nan, 1.0]))
    np.testing.assert_array_equal(bad, [nan, nan, 0])


@pytest.mark.parametrize(
    ("f", "arguments", "message"),
    [
        (gradient_of, (np.zeros((2, 3)), np.zeros((2, 1), int)), r"labels must have .*, \(2,\), got \(2, 1\)"),
        (gradient_of, (np.zeros((2, 3)), np.zeros(2)), r"labels must have the shape of logits, \(2, 3\), got \(2,\)"),
        (gradient_of, (np.zeros((2, 3), int), np.zeros(2, int)), "logits must be an array of floating dtype, got int"),
        (gradient_of, (np.zeros((2, 3)), np.zeros(2, bool)), "labels must be .* got bool"),
        (product_of, (np.zeros((2, 3)), np.zeros(2, int), np.zeros(3)), r"vector must have .* got \(3,\)"),
        (product_of, (np.zeros((2, 3)), np.zeros(2, int), np.zeros((2, 3), int)), "vector must be .* got int"),
        (fisher_of, (np.zeros((2, 3)), 2), "axis must be"),
        (sigmoid_binary_cross_entropy_gradient, (np.zeros(3), np.zeros((3, 1))), r"labels must have .* got \(3, 1\)"),
        (sigmoid_binary_cross_entropy_hessian_vector_product, (np.zeros(3), np.zeros(3), 1.0), "vector must have"),
    ],
)
def test_arguments_that_do_not_fit(f, arguments, message):
    with pytest.raises(ValueError, match=message):
        f(*arguments)
