"""The losses between a student's and a teacher's logits, against 120 digits, their laws, and hostile inputs."""

from functools import cache, partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings

from xent.losses import (
    distillation_jensen_shannon_divergence,
    distillation_kl_divergence,
    distillation_total_variation,
    softmax_cross_entropy_with_integer_labels,
)

inf, nan = np.inf, np.nan
DENSE = {
    "kl": distillation_kl_divergence,
    "jensen-shannon": distillation_jensen_shannon_divergence,
    "total-variation": distillation_total_variation,
}
LOSSES = pytest.mark.parametrize("name", DENSE)
TEMPERATURES = pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
jensen_shannon = distillation_jensen_shannon_divergence


def each(of, *arguments):
    """{name: of(loss, *arguments)}, of all three losses; jitted, one program."""
    return {name: of(f, *arguments) for name, f in DENSE.items()}


@partial(jax.jit, static_argnames="temperature")
def values(z, u, temperature=1.0):
    return each(lambda f: f(z, u, temperature=temperature))


def softmax(logits, temperature):
    e = [mpmath.exp(mpmath.mpf(float(v)) / mpmath.mpf(temperature)) if v > -inf else mpmath.mpf(0) for v in logits]
    total = mpmath.fsum(e)
    return [v / total for v in e]


def divergence(t, p):
    return mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(t, p, strict=True) if a)


def oracle_of(name, student, teacher, temperature=1.0, beta=0.5):
    with mpmath.workdps(120):
        t, p = softmax(teacher, temperature), softmax(student, temperature)
        if name == "kl":
            return float(mpmath.mpf(temperature) ** 2 * divergence(t, p))
        if name == "total-variation":
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


@cache
def values_of_pairs(temperature):
    """{classes: (pairs, what the three losses say of each)}."""
    drawn = {classes: np.array(list(pairs(classes, np.random.default_rng(classes)))) for classes in (2, 10, 200)}
    batches = {classes: rows.swapaxes(0, 1) for classes, rows in drawn.items()}
    found = jax.jit(lambda b: {classes: values(z, u, temperature) for classes, (z, u) in b.items()})(batches)
    return {classes: (rows, found[classes]) for classes, rows in drawn.items()}


@TEMPERATURES
@LOSSES
def test_within_8_ulp_even_where_they_nearly_agree(oracle, name, temperature):
    for classes, (rows, found) in values_of_pairs(temperature).items():
        for (z, u), value in zip(rows, np.asarray(found[name]), strict=True):
            slack = classes * oracle.TINY * temperature**2
            assert oracle.ulps(value, oracle_of(name, z, u, temperature), slack) <= 8, (z, u)


@TEMPERATURES
@LOSSES
def test_within_16_ulp_where_they_agree_but_for_the_rounding_of_a_shift(oracle, name, temperature):
    """Logits of very different sizes differ by less than what their distances from the largest are rounded by."""
    rng, rows = np.random.default_rng(5), []
    for _ in range(200):
        z = np.float32(rng.normal(size=3) * 10 ** rng.uniform(-4, 1.3, 3))
        rows.append((z, z + np.float32(2.0 ** rng.integers(-3, 8))))
    found = values(*np.array(rows).swapaxes(0, 1), temperature)[name]
    for (z, u), value in zip(rows, np.asarray(found), strict=True):
        true, slack = oracle_of(name, z, u, temperature), 3 * oracle.TINY * temperature**2
        assert oracle.ulps(value, true, slack) <= 16, (z, u)


def test_jensen_shannon_within_8_ulp_for_any_share(oracle):
    betas, rows = [1e-6, 0.01, 0.3, 0.9, 0.9999], np.array(list(pairs(10, np.random.default_rng(3))))
    found = jax.jit(lambda z, u: [jensen_shannon(z, u, beta=beta) for beta in betas])(*rows.swapaxes(0, 1))
    for beta, of_rows in zip(betas, found, strict=True):
        for (z, u), value in zip(rows, np.asarray(of_rows), strict=True):
            true = oracle_of("jensen-shannon", z, u, beta=beta)
            assert oracle.ulps(value, true, 10 * oracle.TINY) <= 8, (beta, z, u)


def test_the_gradient_is_the_gap_between_the_softmaxes(oracle):
    temperatures, rows = (1.0, 3.0), np.array(list(pairs(10, np.random.default_rng(4))))

    @jax.jit
    def gradients(z, u):
        return [jax.grad(lambda z, t=t: distillation_kl_divergence(z, u, temperature=t).sum())(z) for t in temperatures]

    for temperature, found in zip(temperatures, gradients(*rows.swapaxes(0, 1)), strict=True):
        for (z, u), gradient in zip(rows, np.asarray(found), strict=True):
            with mpmath.workdps(120):
                t, p = softmax(u, temperature), softmax(z, temperature)
                gap = np.array([float(b - a) for a, b in zip(t, p, strict=True)]) * temperature
            scale = np.abs(gap) + np.array(list(map(float, p))) * np.abs(gap).sum()
            assert oracle.ulps(gradient, gap, 10 * oracle.TINY * temperature, scale) <= 16, (temperature, z, u)


# Laws.


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def several_rows():
    """Student's and teacher's rows: undefined students, undefined teachers, and one that both have."""
    bad = [[nan, 0.0, 0.0], [inf, 0.0, 0.0], [-inf] * 3, [inf, nan, 0.0]]
    good = [[1.0, 2.0, 0.5]] * 4
    return np.float32([*bad, *good, [1.0, 3.0, -1.0]]), np.float32([*good, *bad, [2.0, 1.0, 0.0]])


logit_rows = st.lists(st.floats(-40, 40, width=32), min_size=6, max_size=6).map(partial(np.array, dtype=np.float32))


@LOSSES
@settings(deadline=None, max_examples=60, derandomize=True)
@given(z=logit_rows, u=logit_rows, c=st.integers(-(10**5), 10**5), order=st.permutations(range(6)))
def test_laws(oracle, name, z, u, c, order):
    z, u = np.round(z * 8) / 8, np.round(u * 8) / 8  # so that z + c is exact
    order = np.array(order)

    def f(z, u):
        return values(z, u)[name]

    value = f(z, u)
    assert value >= 0
    assert (value > 0) or np.abs((z - u) - (z - u)[0]).max() == 0 or value < 1e-6
    assert f((z + c).astype(np.float32), u) == value
    assert oracle.ulps(f(z[order], u[order]), value, 6 * oracle.TINY) <= 16
    if name != "kl":
        assert oracle.ulps(f(u, z), value, 6 * oracle.TINY) <= 16
        assert value <= 1
    else:  # Pinsker
        assert value >= 2 * float(values(z, u)["total-variation"]) ** 2 * (1 - 1e-6)


@partial(jax.jit, static_argnames="temperature")
def of_both(z, u, temperature):
    return each(lambda f: jax.value_and_grad(partial(f, temperature=temperature), (0, 1))(z, u))


@settings(deadline=None, max_examples=80, derandomize=True)
@given(z=logit_rows, temperature=st.sampled_from([1.0, 0.3, 5.0]))
def test_a_student_that_agrees_costs_exactly_nothing(z, temperature):
    for name, (value, gradients) in of_both(z, z, temperature).items():
        assert value == 0, name
        assert all((g == 0).all() for g in np.asarray(gradients)), name


def test_a_certain_teacher_is_a_label():
    z, u = normal(0, 5) * 3, np.float32([-inf, -inf, 0, -inf, -inf])
    np.testing.assert_allclose(values(z, u)["kl"], jax.jit(softmax_cross_entropy_with_integer_labels)(z, 2), 1e-6)


def test_jensen_shannon_tends_to_the_divergences():
    z, u = normal(1, 2, 5)
    low, high = jax.jit(lambda z, u: [jensen_shannon(z, u, beta=beta) / 1e-6 for beta in (1e-6, 1 - 1e-6)])(z, u)
    np.testing.assert_allclose(low, values(z, u)["kl"], 1e-4)
    np.testing.assert_allclose(high, values(u, z)["kl"], 1e-4)


def test_derivatives_of_order_2_in_both(check_derivatives):
    check_derivatives(lambda z, u: values(z, u, 2.0), normal(2, 2, 2, 4), step=1e-2)


def test_curvature_where_they_agree():
    """Of the divergences it is that of the Fisher information; JS of a half has a quarter of it."""
    z = np.float32([1.0, -0.5, 3.0])
    p = np.exp(z) / np.exp(z).sum()
    fisher = np.diag(p) - np.outer(p, p)
    found = jax.jit(partial(each, lambda f, z: jax.hessian(f)(z, z)))(z)
    for name, share in {"kl": 1, "jensen-shannon": 0.25, "total-variation": 0}.items():
        np.testing.assert_allclose(found[name], share * fisher, atol=1e-6, err_msg=name)


@LOSSES
def test_jit_vmap_and_eager_agree_undefined_rows_and_all(name):
    z, u = several_rows()
    f = DENSE[name]

    def both(f, z, u):
        return f(z, u), jax.grad(lambda z: f(z, u).sum())(z)

    jitted, mapped = every_way(z, u)[name]
    for ours, of_map, eager in zip(jitted, mapped, both(f, z, u), strict=True):
        np.testing.assert_allclose(ours, eager, 2e-6, 1e-7)
        np.testing.assert_allclose(of_map, eager, 2e-6, 1e-7)


@jax.jit
def every_way(z, u):
    """Value and gradient of each loss, of the batch and mapped over its rows."""

    def both(f):
        return lambda z, u: (f(z, u), jax.grad(lambda z: f(z, u).sum())(z))

    return each(lambda f: (both(f)(z, u), jax.vmap(both(f))(z, u)))


def test_axes_and_selections():
    z, u = normal(4, 2, 3, 4, 2)
    flat = [x.swapaxes(0, 1).reshape(4, 6) for x in (z, u)]
    where, examples = np.array([True, True, False, True, True, True]), np.array([True, False, False, True])
    bad = [np.where(where, x, np.float32(nan)) for x in flat]
    few = [np.delete(x, 2, 1) for x in flat]

    @jax.jit
    def found(z, u, flat, bad, few, classes, examples):
        return each(
            lambda f: {
                "of two axes": (f(z, u, (0, 2)), f(*flat)),
                "of all axes": f(z, u, None),
                "of classes": (f(*bad, where=classes), f(*few)),
                "of examples": f(*flat, where=examples),
            }
        )

    for name, of in found(z, u, flat, bad, few, np.tile(where, (4, 1)), examples).items():
        np.testing.assert_allclose(*of["of two axes"], 1e-6, err_msg=name)
        assert of["of all axes"].shape == (), name
        np.testing.assert_allclose(*of["of classes"], 1e-6, err_msg=name)
        np.testing.assert_array_equal(of["of examples"] == 0, ~examples, err_msg=name)


# Hostile values.


@jax.jit
def to_order_2(z, u):
    return each(lambda f: (f(z, u), jax.grad(f, (0, 1))(z, u), [jax.hessian(f, i)(z, u) for i in (0, 1)]))


@LOSSES
def test_classes_that_one_or_both_lack(name):
    z, u = np.float32([-inf, 0.0, 1.0, 0.0]), np.float32([-inf, -inf, 0.0, 0.0])
    value, gradients, hessians = to_order_2(z, u)[name]
    np.testing.assert_allclose(value, oracle_of(name, z, u), rtol=1e-6)
    for result in map(np.asarray, (*gradients, *hessians)):
        assert np.isfinite(result).all()
        assert (result[..., 0] == 0).all()
    value, gradients, _ = to_order_2(u, z)[name]
    np.testing.assert_allclose(value, inf if name == "kl" else oracle_of(name, u, z), rtol=1e-6)
    assert np.isfinite(gradients).all()


def test_a_hopeless_student_costs_what_it_should():
    z, u = np.float32([1e4, 0.0, 0.0]), np.float32([0.0, 1e4, 0.0])
    found, gradient = values(z, u), jax.jit(jax.grad(distillation_kl_divergence))(z, u)
    assert found["kl"] == 1e4
    np.testing.assert_array_equal(gradient, [1, -1, 0])
    assert found["total-variation"] == 1
    np.testing.assert_allclose(found["jensen-shannon"], np.log(2), rtol=1e-7)


@jax.jit
def gradients_of_weighted(z, u, weights):
    """By both logits, of the sum of w f without what has no weight, for each row of weights."""

    def weighted(f, w):
        return lambda *a: jnp.vdot(jnp.where(w > 0, f(*a), 0), w)

    return each(lambda f: [jax.grad(weighted(f, w), (0, 1))(z, u) for w in weights])


@LOSSES
def test_undefined_rows_poison_themselves_only(name):
    z, u = several_rows()
    undefined = np.arange(9) < 8
    np.testing.assert_array_equal(np.isnan(every_way(z, u)[name][0][0]), undefined)
    weights = np.float32([np.eye(9)[8], np.full(9, 1e-30)])
    clean, poisoned = np.asarray(gradients_of_weighted(z, u, list(weights))[name])
    for gradient in clean:
        assert (gradient[:-1] == 0).all()
        assert (gradient[-1] != 0).all()
    for gradient in poisoned:
        np.testing.assert_array_equal(np.isnan(gradient), undefined[:, None] & [True] * 3)


def test_half_precision_is_computed_in_float32():
    half = normal(5, 2, 2, 50).astype(jnp.bfloat16)
    of_all = jax.jit(partial(each, lambda f, *a: jax.value_and_grad(lambda *a: f(*a).sum())(*a)))
    found, wide = of_all(*half), of_all(*half.astype(np.float32))
    for name, (value, gradient) in found.items():
        value32, gradient32 = wide[name]
        assert value.dtype == jnp.float32, name
        assert value == value32, name
        assert gradient.dtype == jnp.bfloat16, name
        assert (np.asarray(gradient) == np.asarray(gradient32).astype(jnp.bfloat16)).all(), name


# Arguments.


@pytest.mark.parametrize("f", DENSE.values())
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
