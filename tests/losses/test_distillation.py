"""The losses between a student's and a teacher's logits, against 120 digits, their laws, and hostile inputs."""

from functools import cache, partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from jax.test_util import check_grads

from xent.losses import (
    distillation_jensen_shannon_divergence,
    distillation_kl_divergence,
    distillation_top_k,
    distillation_total_variation,
    kl_divergence,
    softmax_cross_entropy_with_integer_labels,
)

inf, nan = np.inf, np.nan
DENSE = [distillation_kl_divergence, distillation_jensen_shannon_divergence, distillation_total_variation]
JITTED = {f: jax.jit(f) for f in DENSE}
JIT_AND_EAGER = [pytest.param(jax.jit, id="jit"), pytest.param(lambda f: f, id="eager")]


def softmax(logits, temperature):
    e = [mpmath.exp(mpmath.mpf(float(v)) / mpmath.mpf(temperature)) if v > -inf else mpmath.mpf(0) for v in logits]
    total = mpmath.fsum(e)
    return [v / total for v in e]


def divergence(t, p):
    return mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(t, p, strict=True) if a)


def oracle_of(f, student, teacher, temperature=1.0, beta=0.5):
    with mpmath.workdps(120):
        t, p = softmax(teacher, temperature), softmax(student, temperature)
        if f is distillation_kl_divergence:
            return float(mpmath.mpf(temperature) ** 2 * divergence(t, p))
        if f is distillation_total_variation:
            return float(mpmath.fsum(abs(a - b) for a, b in zip(t, p, strict=True)) / 2)
        share = mpmath.mpf(beta)
        m = [share * a + (1 - share) * b for a, b in zip(t, p, strict=True)]
        return float(share * divergence(t, m) + (1 - share) * divergence(p, m))


def pairs(classes, rng):
    """(student, teacher): nearly equal, shifted, different, confident, hopeless, with classes that one or both lack."""
    for scale in (1e-3, 1, 10, 100):
        z = (rng.normal(size=classes) * scale).astype(np.float32)
        for step in (1e-6, 1e-3, 1, 30):
            yield z, (z + rng.normal(size=classes) * step + rng.normal()).astype(np.float32)
    yield z, z[::-1].copy()
    yield np.zeros(classes, np.float32), (np.eye(classes)[0] * 100).astype(np.float32)
    yield (np.eye(classes)[0] * 1000).astype(np.float32), (np.eye(classes)[1] * 1000).astype(np.float32)
    yield (rng.normal(size=classes) + 1e5).astype(np.float32), rng.normal(size=classes).astype(np.float32)
    # Tops that are further apart than the rest.
    flat = np.full(classes, -3.95806, np.float32)
    yield (
        (flat - 2e-6 * (np.arange(classes) == 0)).astype(np.float32),
        (flat + 33.4 + 0.04 * (np.arange(classes) == 1)).astype(np.float32),
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("f", DENSE)
def test_within_8_ulp_even_where_they_nearly_agree(oracle, f, temperature):
    jitted = jax.jit(partial(f, temperature=temperature))
    for classes in (2, 10, 200):
        for z, u in pairs(classes, np.random.default_rng(classes)):
            true = oracle_of(f, z, u, temperature)
            slack = classes * oracle.TINY * temperature**2
            assert oracle.ulps(jitted(z, u), true, slack) <= 8, (z, u)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("f", DENSE)
def test_within_16_ulp_where_they_agree_but_for_the_rounding_of_a_shift(oracle, f, temperature):
    """Logits of very different sizes differ by less than what their distances from the largest are rounded by."""
    jitted, rng = jax.jit(partial(f, temperature=temperature)), np.random.default_rng(5)
    for _ in range(200):
        z = np.float32(rng.normal(size=3) * 10 ** rng.uniform(-4, 1.3, 3))
        u = z + np.float32(2.0 ** rng.integers(-3, 8))
        assert oracle.ulps(jitted(z, u), oracle_of(f, z, u, temperature), 3 * oracle.TINY * temperature**2) <= 16, (
            z,
            u,
        )


@pytest.mark.parametrize("beta", [1e-6, 0.01, 0.3, 0.9, 0.9999])
def test_jensen_shannon_within_8_ulp_for_any_share(oracle, beta):
    jitted = jax.jit(partial(distillation_jensen_shannon_divergence, beta=beta))
    for z, u in pairs(10, np.random.default_rng(3)):
        assert oracle.ulps(jitted(z, u), oracle_of(DENSE[1], z, u, beta=beta), 10 * oracle.TINY) <= 8, (z, u)


def test_the_gradient_is_the_gap_between_the_softmaxes(oracle):
    for temperature in (1.0, 3.0):
        gradient = jax.jit(jax.grad(partial(distillation_kl_divergence, temperature=temperature)))
        for z, u in pairs(10, np.random.default_rng(4)):
            with mpmath.workdps(120):
                t, p = softmax(u, temperature), softmax(z, temperature)
                gap = np.array([float(b - a) for a, b in zip(t, p, strict=True)]) * temperature
            scale = np.abs(gap) + np.array(list(map(float, p))) * np.abs(gap).sum()
            assert oracle.ulps(gradient(z, u), gap, 10 * oracle.TINY * temperature, scale) <= 16, (z, u)


# Laws.

logit_rows = st.lists(st.floats(-40, 40, width=32), min_size=6, max_size=6).map(partial(np.array, dtype=np.float32))


@pytest.mark.parametrize("f", DENSE)
@settings(deadline=None, max_examples=60, derandomize=True)
@given(z=logit_rows, u=logit_rows, c=st.integers(-(10**5), 10**5), order=st.permutations(range(6)))
def test_laws(oracle, f, z, u, c, order):
    z, u = np.round(z * 8) / 8, np.round(u * 8) / 8  # so that z + c is exact
    total_variation, f_is_kl = JITTED[DENSE[2]], f is distillation_kl_divergence
    f, order = JITTED[f], np.array(order)
    value = f(z, u)
    assert value >= 0
    assert (value > 0) or np.abs((z - u) - (z - u)[0]).max() == 0 or value < 1e-6
    assert f((z + c).astype(np.float32), u) == value
    assert oracle.ulps(f(z[order], u[order]), value, 6 * oracle.TINY) <= 16
    if not f_is_kl:
        assert oracle.ulps(f(u, z), value, 6 * oracle.TINY) <= 16
        assert value <= 1
    else:  # Pinsker
        assert value >= 2 * total_variation(z, u) ** 2 * (1 - 1e-6)


@cache
def of_both(f, temperature):
    return jax.jit(jax.value_and_grad(partial(f, temperature=temperature), (0, 1)))


@pytest.mark.parametrize("f", DENSE)
@settings(deadline=None, max_examples=40, derandomize=True)
@given(z=logit_rows, temperature=st.sampled_from([1.0, 0.3, 5.0]))
def test_a_student_that_agrees_costs_exactly_nothing(f, z, temperature):
    value, gradients = of_both(f, temperature)(z, z)
    assert value == 0
    assert all((g == 0).all() for g in gradients)


def test_a_certain_teacher_is_a_label():
    z = jax.random.normal(jax.random.key(0), (5,)) * 3
    u = jnp.full(5, -inf).at[2].set(0.0)
    np.testing.assert_allclose(distillation_kl_divergence(z, u), softmax_cross_entropy_with_integer_labels(z, 2), 1e-6)


def test_jensen_shannon_tends_to_the_divergences():
    z, u = jax.random.normal(jax.random.key(1), (2, 5))
    js = distillation_jensen_shannon_divergence
    np.testing.assert_allclose(js(z, u, beta=1e-6) / 1e-6, distillation_kl_divergence(z, u), 1e-4)
    np.testing.assert_allclose(js(z, u, beta=1 - 1e-6) / 1e-6, distillation_kl_divergence(u, z), 1e-4)


@pytest.mark.parametrize("f", DENSE)
def test_derivatives_of_order_2_in_both(f):
    z, u = jax.random.normal(jax.random.key(2), (2, 2, 4))
    check_grads(jax.jit(partial(f, temperature=2.0)), (z, u), order=2, modes=["fwd", "rev"], eps=1e-2)


@pytest.mark.parametrize("f", DENSE)
def test_curvature_where_they_agree(f):
    """Of the divergences it is that of the Fisher information; JS of a half has a quarter of it."""
    z = jnp.array([1.0, -0.5, 3.0])
    p = np.exp(z) / np.exp(z).sum()
    fisher = np.diag(p) - np.outer(p, p)
    share = {DENSE[0]: 1, DENSE[1]: 0.25, DENSE[2]: 0}[f]
    np.testing.assert_allclose(jax.jit(jax.hessian(f))(z, z), share * fisher, atol=1e-6)


@pytest.mark.parametrize("f", DENSE)
def test_jit_vmap_and_eager_agree(oracle, f):
    z, u = jax.random.normal(jax.random.key(3), (2, 3, 7)) * 5
    for g in (f, jax.grad(lambda z, u: f(z, u).sum())):
        for other in (jax.jit(g), jax.jit(jax.vmap(g))):
            np.testing.assert_allclose(other(z, u), g(z, u), 2e-6, 1e-7)


@pytest.mark.parametrize("f", DENSE)
def test_axes_and_selections(f):
    z, u = jax.random.normal(jax.random.key(4), (2, 3, 4, 2))
    flat = [x.swapaxes(0, 1).reshape(4, 6) for x in (z, u)]
    np.testing.assert_allclose(f(z, u, (0, 2)), f(*flat), 1e-6)
    assert f(z, u, None).shape == ()
    where = jnp.array([True, True, False, True, True, True])
    bad = [x.at[:, 2].set(nan) for x in flat]
    few = f(*(jnp.delete(x, 2, 1) for x in flat))
    np.testing.assert_allclose(f(*bad, where=jnp.tile(where, (4, 1))), few, 1e-6)
    examples = jnp.array([True, False, False, True])
    np.testing.assert_array_equal(f(*flat, where=examples) == 0, ~examples)


# Hostile values.


@pytest.mark.parametrize("f", DENSE)
def test_classes_that_one_or_both_lack(f):
    z, u = jnp.array([-inf, 0.0, 1.0, 0.0]), jnp.array([-inf, -inf, 0.0, 0.0])
    of_all = jax.jit(lambda *a: (f(*a), jax.grad(f, (0, 1))(*a), [jax.hessian(f, i)(*a) for i in (0, 1)]))
    value, gradients, hessians = of_all(z, u)
    np.testing.assert_allclose(value, oracle_of(f, z, u), rtol=1e-6)
    for result in (*gradients, *hessians):
        assert np.isfinite(result).all()
        assert (result[..., 0] == 0).all()
    value, gradients, _ = of_all(u, z)
    np.testing.assert_allclose(value, inf if f is DENSE[0] else oracle_of(f, u, z), rtol=1e-6)
    assert np.isfinite(gradients).all()


def test_a_hopeless_student_costs_what_it_should():
    z, u = jnp.array([1e4, 0.0, 0.0]), jnp.array([0.0, 1e4, 0.0])
    assert distillation_kl_divergence(z, u) == 1e4
    np.testing.assert_array_equal(jax.grad(distillation_kl_divergence)(z, u), [1, -1, 0])
    assert distillation_total_variation(z, u) == 1
    np.testing.assert_allclose(distillation_jensen_shannon_divergence(z, u), np.log(2), rtol=1e-7)


BAD_ROWS = [[nan, 0.0], [inf, 0.0], [-inf, -inf], [inf, nan]]


@pytest.mark.parametrize("jit", JIT_AND_EAGER)
@pytest.mark.parametrize("f", DENSE)
def test_undefined_rows_poison_themselves_only(f, jit):
    good = [[1.0, 2.0]] * 4
    z, u = jnp.array([*BAD_ROWS, *good, [1.0, 3.0]]), jnp.array([*good, *BAD_ROWS, [2.0, 1.0]])
    undefined = np.arange(9) < 8
    np.testing.assert_array_equal(np.isnan(f(z, u)), undefined)
    clean, poisoned = (
        jit(jax.grad(lambda *a, w=w: jnp.vdot(jnp.where(w > 0, f(*a), 0), w), (0, 1)))(z, u)
        for w in (jnp.eye(9)[8], jnp.full(9, 1e-30))
    )
    for gradient in clean:
        assert (gradient[:-1] == 0).all()
        assert (gradient[-1] != 0).all()
    for gradient in poisoned:
        np.testing.assert_array_equal(np.isnan(gradient), undefined[:, None] & [True] * 2)


@pytest.mark.parametrize("f", DENSE)
def test_half_precision_is_computed_in_float32(f):
    z, u = jax.random.normal(jax.random.key(5), (2, 2, 50)).astype(jnp.bfloat16)
    wide = z.astype(jnp.float32), u.astype(jnp.float32)
    value_and_gradient = jax.jit(jax.value_and_grad(lambda *a: f(*a).sum()))
    (value, gradient), (value32, gradient32) = value_and_gradient(z, u), value_and_gradient(*wide)
    assert value.dtype == jnp.float32
    assert value == value32
    assert gradient.dtype == jnp.bfloat16
    assert (gradient == gradient32.astype(jnp.bfloat16)).all()


# A teacher of whom k classes are known.


def top_k(u, k, temperature=1.0):
    t = jax.nn.softmax(jnp.asarray(u) / temperature)
    return jax.lax.top_k(t, k)[::-1]


def dense_targets(classes, t, size, tail):
    """The student's classes and the teacher's probabilities for them, written out; for a bucket, (k + 1 groups)."""
    rest = 1 - mpmath.fsum(map(mpmath.mpf, map(float, t)))
    others = [j for j in range(size) if j not in classes]
    groups = [[int(c)] for c in classes] + ([others] if tail == "bucket" else [[j] for j in others])
    share = [rest] if tail == "bucket" else [rest / len(others)] * len(others)
    return groups, [mpmath.mpf(float(v)) for v in t] + share


@pytest.mark.parametrize("tail", ["bucket", "spread"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_top_k_within_16_ulp_of_its_terms(oracle, tail, temperature):
    rng = np.random.default_rng(6)
    jitted = jax.jit(jax.value_and_grad(partial(distillation_top_k, tail=tail, temperature=temperature)))
    for scale in (0.1, 3, 30):
        for k in (1, 4):
            z, u = (rng.normal(size=(2, 12)) * scale).astype(np.float32)
            classes, t = top_k(u, k, temperature)
            with mpmath.workdps(60):
                p = softmax(z, temperature)
                groups, targets = dense_targets(np.array(classes), np.array(t), 12, tail)
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
            value, gradient = jitted(z, classes, t)
            assert oracle.ulps(value, true, 12 * oracle.TINY, magnitude) <= 16
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


@pytest.mark.parametrize("tail", ["bucket", "spread"])
def test_a_teacher_known_entirely_is_a_dense_one(tail):
    z, u = jax.random.normal(jax.random.key(7), (2, 3, 6))
    classes, t = top_k(u, 6)
    np.testing.assert_allclose(distillation_top_k(z, classes, t, tail=tail), distillation_kl_divergence(z, u), 2e-5)
    np.testing.assert_allclose(
        distillation_top_k(z, classes, t, tail=tail), kl_divergence(jax.nn.log_softmax(z), jax.nn.softmax(u)), 2e-5
    )


def test_a_bucket_asks_nothing_of_the_rest_and_a_spread_tail_does():
    u = jnp.array([3.0, 2.0, 1.0, -1.0, 0.5])
    classes, t = top_k(u, 2)
    moved = u.at[2:].set(u[2:][::-1])
    for z in (u, moved):
        np.testing.assert_allclose(distillation_top_k(z, classes, t), 0, atol=1e-6)
        np.testing.assert_allclose(jax.grad(distillation_top_k)(z, classes, t), np.zeros(5), atol=1e-6)
        assert distillation_top_k(z, classes, t, tail="spread") > 0.01


def test_top_k_pads_with_probability_0_and_selects():
    z, classes, t = jnp.array([[1.0, 2.0, -1.0, 0.5]]), jnp.array([[1, 0]]), jnp.array([[0.5, 0.25]])
    padded = distillation_top_k(z, jnp.array([[1, 0, 0, 3]]), jnp.array([[0.5, 0.25, 0.0, 0.0]]))
    np.testing.assert_allclose(distillation_top_k(z, classes, t), padded, 1e-6)
    three = distillation_top_k(z[:, :3], classes, t)
    where = jnp.array([[True, True, True, False]])
    np.testing.assert_allclose(distillation_top_k(z.at[0, 3].set(nan), classes, t, where), three, 1e-6)
    assert (distillation_top_k(z, classes, t, jnp.array([False])) == 0).all()
    assert (distillation_top_k(z.at[0, 1].set(-inf), classes, t) == inf).all()
    # No tail, and no class but those listed: nothing is asked of the rest.
    sure = distillation_top_k(jnp.array([0.0, -inf]), jnp.array([0]), jnp.array([1.0]))
    assert sure == 0
    assert distillation_top_k(jnp.array([0.0, -inf]), jnp.array([0]), jnp.array([0.5])) == inf


@pytest.mark.parametrize("tail", ["bucket", "spread"])
def test_top_k_derivatives(tail):
    z, t = jax.random.normal(jax.random.key(8), (2, 6)), jnp.array([[0.5, 0.2], [0.3, 0.3]])
    f = jax.jit(lambda z, t: distillation_top_k(z, jnp.array([[1, 0], [5, 2]]), t, tail=tail))
    check_grads(f, (z, t), order=2, modes=["fwd", "rev"], eps=1e-2)
    g = partial(distillation_top_k, teacher_classes=jnp.array([0, 1]), tail=tail)

    def h(z, t):
        return g(z, teacher_probabilities=t)

    z = jnp.array([[-inf, 5.0, 5.0, -inf], [100.0, -100.0, 0.0, 0.0], [1e4, 1e4, -1e4, -inf]])
    of_rows = jax.jit(jax.vmap(lambda *a: (jax.grad(h, (0, 1))(*a), jax.hessian(h, (0, 1))(*a)), (0, None)))
    for t in ([0.0, 1.0], [0.2, 0.7]):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(of_rows(z, jnp.array(t)))), t


@pytest.mark.parametrize("jit", JIT_AND_EAGER)
def test_top_k_undefined_rows_poison_themselves_only(jit):
    z = jnp.array([[nan, 0, 0], [inf, 0, 0], [-inf] * 3, [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 2]])
    classes = jnp.array([[0, 1]] * 3 + [[0, 3], [-1, 0], [0, 1], [0, 1], [1, 2]])
    t = jnp.array([[0.5, 0.2]] * 5 + [[nan, 0.5], [-0.1, 0.5], [0.4, 0.4]])
    undefined = np.arange(8) < 7
    np.testing.assert_array_equal(np.isnan(distillation_top_k(z, classes, t)), undefined)
    clean = jit(jax.grad(lambda z: distillation_top_k(z, classes, t)[-1]))(z)
    assert (clean[:-1] == 0).all()
    assert (clean[-1] != 0).all()
    poisoned = jit(jax.grad(lambda z: 1e-30 * distillation_top_k(z, classes, t).sum()))(z)
    np.testing.assert_array_equal(np.isnan(poisoned), undefined[:, None] & [True] * 3)


# Arguments.


@pytest.mark.parametrize("f", DENSE)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(student_logits=np.zeros((2, 3), int)), "student_logits must be an array of floating dtype, got int"),
        (
            dict(teacher_logits=np.zeros((2, 1))),
            r"teacher_logits must have the shape of student_logits, .* got \(2, 1\)",
        ),
        (dict(temperature=0.0), "temperature must be a Python float from 1e-9 to 1e9, got 0.0"),
        (dict(temperature=nan), "temperature must be .* got nan"),
        (dict(axis=2), "axis must be"),
        (dict(where=np.ones(3, bool)), r"where must have .* got \(3,\)"),
    ],
)
def test_arguments_that_do_not_fit(f, arguments, message):
    with pytest.raises(ValueError, match=message):
        f(**(dict(student_logits=np.zeros((2, 3)), teacher_logits=np.zeros((2, 3))) | arguments))


@pytest.mark.parametrize("beta", [0.0, 1.0, 0, True, -1, "x", nan])
def test_a_share_that_does_not_fit(beta):
    with pytest.raises(ValueError, match="beta must be a Python float above 0 and below 1, got"):
        distillation_jensen_shannon_divergence(np.zeros(3), np.zeros(3), beta=beta)


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
