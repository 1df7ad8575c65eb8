"""A teacher of whom k classes are known, against 60 digits, a dense teacher, and hostile inputs."""

from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from xent.losses import distillation_kl_divergence, distillation_top_k, kl_divergence

inf, nan = np.inf, np.nan
TAILS = ("bucket", "spread")
top_k = jax.jit(distillation_top_k, static_argnames=("tail", "temperature"))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(logits, temperature=1.0):
    e = [mpmath.exp(mpmath.mpf(float(v)) / mpmath.mpf(temperature)) for v in logits]
    total = mpmath.fsum(e)
    return [v / total for v in e]


def divergence(t, p):
    return mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(t, p, strict=True) if a)


def largest(u, k, temperature=1.0):
    """The k largest classes of each of the teacher's rows, and their probabilities."""
    e = np.exp((u - u.max(-1, keepdims=True)) / np.float32(temperature))
    classes = np.argsort(-u, -1, kind="stable")[..., :k]
    return classes, np.take_along_axis(e / e.sum(-1, keepdims=True), classes, -1)


def dense_targets(classes, t, size, tail):
    """The student's classes and the teacher's probabilities for them, written out; for a bucket, (k + 1 groups)."""
    rest = 1 - mpmath.fsum(map(mpmath.mpf, map(float, t)))
    others = [j for j in range(size) if j not in classes]
    groups = [[int(c)] for c in classes] + ([others] if tail == "bucket" else [[j] for j in others])
    share = [rest] if tail == "bucket" else [rest / len(others)] * len(others)
    return groups, [mpmath.mpf(float(v)) for v in t] + share


@cache
def cases():
    """[(tail, temperature, student's rows, classes, probabilities, losses, gradients)]."""
    rng, given = np.random.default_rng(6), []
    for temperature, k in product((1.0, 2.5), (1, 4)):
        z, u = (rng.normal(size=(2, 3, 12)) * np.array([[0.1], [3], [30]])).astype(np.float32)
        given.extend((tail, temperature, z, *largest(u, k, temperature)) for tail in TAILS)

    @jax.jit
    def of_all(arrays):
        def f(options, z, *teacher):
            tail, temperature = options
            losses = distillation_top_k(z, *teacher, tail=tail, temperature=temperature)
            return losses.sum(), losses

        return [jax.grad(f, 1, has_aux=True)(case[:2], *a) for case, a in zip(given, arrays, strict=True)]

    found = of_all([case[2:] for case in given])
    return [
        (*case, np.asarray(losses), np.asarray(slopes)) for case, (slopes, losses) in zip(given, found, strict=True)
    ]


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_top_k_within_16_ulp_of_its_terms(oracle, tail, temperature):
    of_this = [case[2:] for case in cases() if case[:2] == (tail, temperature)]
    assert len(of_this) == 2
    for z, classes, t, value, gradient in (row for rows in of_this for row in zip(*rows, strict=True)):
        with mpmath.workdps(60):
            p = softmax(z, temperature)
            groups, targets = dense_targets(classes, t, 12, tail)
            q = [mpmath.fsum(p[j] for j in group) for group in groups]
            square = mpmath.mpf(temperature) ** 2
            terms = list(zip(targets, q, strict=True))
            true = float(square * divergence(targets, q))
            magnitude = float(
                square * (1 + mpmath.fsum(a * (abs(mpmath.log(abs(a) + 1e-9)) - mpmath.log(b)) for a, b in terms))
            )
            slope = np.zeros(12)
            for group, a, b in zip(groups, targets, q, strict=True):
                for j in group:
                    slope[j] = float(temperature * p[j] * (1 - a / b))
        assert oracle.ulps(value, true, 12 * oracle.TINY, magnitude) <= 16, (z, classes, t)
        np.testing.assert_allclose(gradient, slope, atol=2e-6 * temperature)


def test_top_k_keeps_the_digits_of_a_small_tail(oracle):
    """Added up in float32, these probabilities leave 1.02 times as much as they do."""
    z, classes, t = np.float32([0, 0, 0, -1e4, -1e4]), np.array([0, 1, 2]), np.float32([0.3, 0.3, 0.399999])
    value, gradient = jax.jit(jax.value_and_grad(distillation_top_k, 2))(z, classes, t)
    left = 1 - t.astype(np.float64).sum()
    terms = np.array([*(t * np.log(3 * t.astype(np.float64))), left * (np.log(left) + np.log(3) + 1e4 - np.log(2))])
    assert oracle.ulps(value, terms.sum(), 0, 1 + np.abs(terms).sum()) <= 16
    np.testing.assert_allclose(value, terms.sum(), rtol=5e-5)
    slope = np.log(3 * t) - (np.log(left) + np.log(3) + 1e4 - np.log(2))
    np.testing.assert_allclose(gradient, slope, rtol=1e-6)


def test_a_teacher_known_entirely_is_a_dense_one():
    z, u = normal(7, 2, 3, 6)

    @jax.jit
    def found(z, u, *teacher):
        dense = distillation_kl_divergence(z, u), kl_divergence(jax.nn.log_softmax(z), jax.nn.softmax(u))
        return {tail: distillation_top_k(z, *teacher, tail=tail) for tail in TAILS}, dense

    sparse, dense = found(z, u, *largest(u, 6))
    for tail, losses in sparse.items():
        for expected in dense:
            np.testing.assert_allclose(losses, expected, 2e-5, err_msg=tail)


def test_a_bucket_asks_nothing_of_the_rest_and_a_spread_tail_does():
    u = np.float32([3.0, 2.0, 1.0, -1.0, 0.5])
    students, (classes, t) = np.stack([u, u[[0, 1, 4, 3, 2]]]), largest(np.stack([u, u]), 2)

    @jax.jit
    def found(z, *teacher):
        by_tail = [distillation_top_k(z, *teacher, tail=tail) for tail in TAILS]
        return *by_tail, jax.grad(lambda z: distillation_top_k(z, *teacher).sum())(z)

    bucket, spread, gradient = found(students, classes, t)
    np.testing.assert_allclose(bucket, [0, 0], atol=1e-6)
    np.testing.assert_allclose(gradient, np.zeros((2, 5)), atol=1e-6)
    assert (spread > 0.01).all()


def test_top_k_pads_with_probability_0_and_selects():
    z, classes, t = np.float32([[1.0, 2.0, -1.0, 0.5]]), np.array([[1, 0]]), np.float32([[0.5, 0.25]])
    padded = top_k(z, np.array([[1, 0, 0, 3]]), np.float32([[0.5, 0.25, 0.0, 0.0]]))
    np.testing.assert_allclose(top_k(z, classes, t), padded, 1e-6)
    three = top_k(z[:, :3], classes, t)
    where = np.array([[True, True, True, False]])
    np.testing.assert_allclose(top_k(np.float32([[1.0, 2.0, -1.0, nan]]), classes, t, where), three, 1e-6)
    assert (top_k(z, classes, t, np.array([False])) == 0).all()
    assert (top_k(np.float32([[1.0, -inf, -1.0, 0.5]]), classes, t) == inf).all()


def test_top_k_without_a_tail_asks_nothing_of_a_rest_that_is_not():
    z, one = np.float32([0.0, -inf]), np.array([0])
    assert top_k(z, one, np.float32([1.0])) == 0
    assert top_k(z, one, np.float32([0.5])) == inf


def test_top_k_derivatives(check_derivatives):
    def of_both(z, t):
        classes = jnp.array([[1, 0], [5, 2]])
        return {tail: distillation_top_k(z, classes, t, tail=tail) for tail in TAILS}

    check_derivatives(of_both, (normal(8, 2, 6), np.float32([[0.5, 0.2], [0.3, 0.3]])), step=1e-2)


@pytest.mark.parametrize("tail", TAILS)
def test_top_k_derivatives_are_finite(tail):
    def f(z, t):
        return distillation_top_k(z, np.array([0, 1]), t, tail=tail)

    students = np.float32([[-inf, 5.0, 5.0, -inf], [100.0, -100.0, 0.0, 0.0], [1e4, 1e4, -1e4, -inf]])
    z, t = np.repeat(students, 2, 0), np.tile(np.float32([[0.0, 1.0], [0.2, 0.7]]), (3, 1))
    of_rows = jax.jit(jax.vmap(lambda *a: (jax.grad(f, (0, 1))(*a), jax.hessian(f, (0, 1))(*a))))
    for leaf in map(np.asarray, jax.tree.leaves(of_rows(z, t))):
        assert np.isfinite(leaf).all(), [
            (z[i], t[i]) for i in np.flatnonzero(~np.isfinite(leaf.reshape(6, -1)).all(-1))
        ]


@pytest.mark.parametrize("jit", [pytest.param(jax.jit, id="jit"), pytest.param(lambda f: f, id="eager")])
def test_top_k_undefined_rows_poison_themselves_only(jit):
    # Nine rows of three, as for the dense losses: what these have compiled, one operation after the other, serves both.
    z = np.float32([[nan, 0, 0], [inf, 0, 0], [-inf] * 3, *[[0, 0, 0]] * 5, [0, 1, 2]])
    classes = np.array([[0, 1]] * 3 + [[0, 3], [-1, 0], [0, 1], [0, 1], [0, 1], [1, 2]])
    t = np.float32([[0.5, 0.2]] * 5 + [[nan, 0.5], [-0.1, 0.5], [inf, 0.5], [0.4, 0.4]])
    undefined = np.arange(9) < 8

    def derived(z):
        losses, pull_back = jax.vjp(lambda z: distillation_top_k(z, classes, t), z)
        return losses, *(pull_back(jnp.asarray(w))[0] for w in (np.float32(~undefined), np.full(9, 1e-30, np.float32)))

    losses, clean, poisoned = map(np.asarray, jit(derived)(z))
    np.testing.assert_array_equal(np.isnan(losses), undefined)
    assert (clean[:-1] == 0).all()
    assert (clean[-1] != 0).all()
    np.testing.assert_array_equal(np.isnan(poisoned), undefined[:, None] & [True] * 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(tail="none"), "tail must be 'bucket' or 'spread', got 'none'"),
        (dict(teacher_classes=np.zeros((2, 2))), "teacher_classes must be an array of integer dtype, got float"),
        (dict(teacher_classes=np.zeros((1, 2), int)), r"teacher_classes must have the shape \(2, 'k'\), got \(1, 2\)"),
        (dict(teacher_probabilities=np.zeros((2, 1))), r"teacher_probabilities must have .* got \(2, 1\)"),
        (dict(temperature=-1), "temperature must be .* got -1"),
    ],
)
def test_top_k_arguments_that_do_not_fit(arguments, message):
    good = dict(
        student_logits=np.zeros((2, 3)), teacher_classes=np.zeros((2, 2), int), teacher_probabilities=np.zeros((2, 2))
    )
    with pytest.raises(ValueError, match=message):
        distillation_top_k(**(good | arguments))
