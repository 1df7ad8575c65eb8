"""The modifiers of the softmax losses: smoothing, class weights, ignored labels, z-loss, soft cap, temperature."""

from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from xent.losses import mean
from xent.losses import softmax_cross_entropy as soft_loss
from xent.losses import softmax_cross_entropy_with_integer_labels as loss
from xent.losses import sum as total

inf, nan = np.inf, np.nan

# torch.nn.functional.cross_entropy 2.13 on these, reduction none, sum and mean.
LOGITS = jnp.array([[1.5, -0.5, 0.25, 2.0], [0.0, 3.0, -1.0, 0.5], [-2.0, 0.75, 1.0, 0.0]])
LABELS = jnp.array([3, 2, 0])
SOFT = jnp.array([[0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.0, 0.5], [1.0, 0.0, 0.0, 0.0]])
WEIGHTS = jnp.array([0.5, 2.0, 1.25, 0.0])
TORCH = [
    (0.0, False, None, [0.6218604, 4.139925, 3.7868502], 8.548635, 2.849545),
    (0.0, False, 2, [0.6218604, 0.0, 3.7868502], 4.40871, 2.204355),
    (0.0, True, None, [0.0, 5.1749063, 1.8934251], 7.068331, 4.039046),
    (0.0, True, 2, [0.0, 0.0, 1.8934251], 1.893425, 3.78685),
    (0.1, False, None, [0.7406104, 3.9774249, 3.5931003], 8.311135, 2.770379),
    (0.1, False, 2, [0.7406104, 0.0, 3.5931003], 4.33371, 2.166855),
    (0.1, True, None, [0.2442369, 4.8330336, 1.8278499], 6.90512, 3.945783),
    (0.1, True, 2, [0.2442369, 0.0, 1.8278499], 2.072087, 4.144174),
    (1.0, False, None, [1.8093605, 2.5149252, 1.8493502], 6.173635, 2.057878),
    (1.0, False, 2, [1.8093605, 0.0, 1.8493502], 3.658711, 1.829355),
    (1.0, True, None, [2.4423692, 1.7561798, 1.2376721], 5.436221, 3.106412),
    (1.0, True, 2, [2.4423692, 0.0, 1.2376721], 3.680041, 7.360083),
]
TORCH_SOFT = [
    (0.0, False, [1.6968604, 1.3899252, 3.7868502]),
    (0.0, True, [2.1942849, 0.1399252, 1.8934251]),
    (0.1, False, [1.7081105, 1.5024252, 3.5931001]),
    (0.1, True, [2.2190933, 0.3015506, 1.8278496]),
]


@pytest.mark.parametrize(("smoothing", "weighted", "ignored", "losses", "summed", "averaged"), TORCH)
def test_smoothing_weights_and_ignored_labels_are_those_of_torch(
    smoothing, weighted, ignored, losses, summed, averaged
):
    weights = WEIGHTS if weighted else None
    values = loss(LOGITS, LABELS, label_smoothing=smoothing, class_weights=weights, ignore_index=ignored)
    np.testing.assert_allclose(values, losses, rtol=1e-6)
    kept = jnp.array([True, ignored is None, True])
    np.testing.assert_allclose(total(values, where=kept), summed, rtol=1e-6)
    # torch puts the weights of the labels into the mean's denominator; ours are counted.
    of_labels = jnp.where(kept, WEIGHTS[LABELS] if weighted else 1.0, 0)
    np.testing.assert_allclose(mean(values, where=kept) * kept.sum() / of_labels.sum(), averaged, rtol=1e-6)


@pytest.mark.parametrize(("smoothing", "weighted", "losses"), TORCH_SOFT)
def test_soft_labels_are_those_of_torch(smoothing, weighted, losses):
    values = soft_loss(LOGITS, SOFT, label_smoothing=smoothing, class_weights=WEIGHTS if weighted else None)
    np.testing.assert_allclose(values, losses, rtol=1e-6)


def plain(x, target, cap, temperature, z_loss):
    """The definition, word for word, in 50 digits."""
    with mpmath.workdps(50):
        x = [mpmath.mpf(float(v)) for v in x]
        x = [v if cap is None else cap * mpmath.tanh(v / cap) for v in x]
        x = [v / mpmath.mpf(temperature) for v in x]
        normaliser = mpmath.log(mpmath.fsum(map(mpmath.exp, x)))
        terms = [mpmath.mpf(float(t)) * (normaliser - v) for t, v in zip(target, x, strict=True)]
        return float(mpmath.fsum(terms) + z_loss * normaliser**2)


@pytest.mark.parametrize("cap", [None, 5.0, 30.0])
@pytest.mark.parametrize("temperature", [1, 0.5, 3.0])
@pytest.mark.parametrize("z_loss", [0.0, 1e-4, 0.5])
def test_soft_cap_temperature_and_z_loss_in_this_order(cap, temperature, z_loss):
    options = dict(logit_soft_cap=cap, temperature=temperature, z_loss=z_loss)
    for x in np.asarray(LOGITS) * 4:
        for y, target in ((2, np.eye(4)[2]), (3, np.eye(4)[3])):
            true = plain(x, target, cap, temperature, z_loss)
            # 8 ulp of each logit, none of which is above 12 / temperature.
            np.testing.assert_allclose(loss(x, y, **options), true, rtol=1e-6, atol=16 * 2.0**-20 / temperature)
            np.testing.assert_allclose(
                soft_loss(x, jnp.array(target), **options), true, rtol=1e-6, atol=16 * 2.0**-20 / temperature
            )


def test_the_gradient_with_all_modifiers_is_within_15_ulp(oracle):
    """8, for weights 2, for the slopes of soft cap and temperature 4 and 1; of logits too small for theirs to count."""
    rng, cap, temperature, zeta, s = np.random.default_rng(3), 30.0, 0.7, 0.01, 0.1
    options = dict(label_smoothing=s, z_loss=zeta, logit_soft_cap=cap, temperature=temperature)
    gradients = jax.jit(jax.vmap(lambda x, t, w: jax.grad(soft_loss)(x, t, class_weights=w, **options)))
    logits = (rng.normal(size=(30, 10)) * 10.0 ** rng.uniform(-4, -1.5, (30, 1))).astype(np.float32)
    targets, weights = rng.dirichlet([0.1] * 10, 30).astype(np.float32), np.float32(rng.uniform(0.5, 2, (30, 10)))
    computed = gradients(logits, targets, weights)
    for x, t, w, gradient in zip(logits, targets, weights, computed, strict=True):
        with mpmath.workdps(50):
            z = [mpmath.mpf(float(v)) for v in x]
            slopes = [(1 - mpmath.tanh(v / cap) ** 2) / mpmath.mpf(temperature) for v in z]
            e = [mpmath.exp(cap * mpmath.tanh(v / cap) / mpmath.mpf(temperature)) for v in z]
            log_total = mpmath.log(mpmath.fsum(e))
            p = np.array([float(v / mpmath.fsum(e)) for v in e])
        t = w * ((1 - s) * t.astype(float) + s / 10 * t.sum(dtype=float))
        penalty, slopes = 2 * zeta * float(log_total) * p, np.array(slopes, float)
        scale = (np.maximum(p * t.sum(), t) + penalty) * slopes
        assert oracle.ulps(gradient, (p * t.sum() - t + penalty) * slopes, 10 * oracle.TINY, scale) <= 15


def test_the_log_normaliser_keeps_its_digits(oracle):
    """Of the z-loss alone: labels of no weight cost nothing else."""
    rng = np.random.default_rng(0)
    for x in (
        rng.normal(size=100) * 10,
        np.full(100, -4.0),
        rng.normal(size=100) + 5e3,
        np.array([1e-3, -40.0, -50.0]),
    ):
        x = x.astype(np.float32)
        with mpmath.workdps(60):
            true = mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(float(v))) for v in x))
        value = soft_loss(x, np.zeros_like(x), z_loss=1.0)
        scale = max(abs(float(true)), abs(float(x.max())), np.log(len(x)))
        assert oracle.ulps(np.sqrt(float(value)), abs(float(true)), 0, scale) <= 4


def test_a_row_with_its_top_at_0_keeps_a_tiny_log_normaliser():
    of_normaliser = jax.jit(jax.value_and_grad(lambda x: soft_loss(x, jnp.zeros(2), z_loss=1.0)))
    value, gradient = of_normaliser(np.float32([0.0, -30.0]))
    np.testing.assert_allclose(value, np.exp(-30.0) ** 2, rtol=1e-6)
    np.testing.assert_allclose(gradient, 2 * np.exp(-30.0) * np.array([1, np.exp(-30.0)]), rtol=1e-6)


def test_class_weights_of_hard_labels_keep_all_digits(oracle):
    rng = np.random.default_rng(1)
    weights = (rng.random(50) * 3).astype(np.float32)
    value_and_gradient = jax.jit(jax.value_and_grad(partial(loss, class_weights=weights)))
    for scale in (1, 10, 30):
        x, y = (rng.normal(size=50) * scale).astype(np.float32), int(rng.integers(50))
        for label in (y, int(x.argmax())):
            value, gradient = value_and_gradient(x, label)
            true_value, true_gradient = oracle.categorical(x, label)
            factor = float(weights[label])
            assert oracle.ulps(value, factor * true_value, 200 * oracle.TINY) <= 8
            assert oracle.ulps(gradient, factor * true_gradient, 200 * oracle.TINY) <= 8


def test_no_weight_on_a_logit_of_minus_inf_costs_nothing():
    """torch: NaN."""
    x, weights = np.float32([-inf, 0.0, 1.0]), np.float32([0.0, 1.0, 1.0])

    @jax.jit
    def orders(x, weights):
        fs = [partial(loss, labels=0, class_weights=weights, label_smoothing=s) for s in (0.0, 1.0)]
        by_weights = jax.grad(lambda w: loss(x, 0, class_weights=w))(weights)
        return [(f(x), jax.grad(f)(x), jax.hessian(f)(x)) for f in fs], by_weights

    for order in jax.tree.leaves(orders(x, weights)):
        assert np.isfinite(order).all()
    assert loss(x, 0, class_weights=np.float32([0.5, 1.0, 1.0])) == inf


def test_modifiers_have_derivatives_of_order_2(check_derivatives):
    def of_both(x, w, t):
        options = dict(class_weights=w, temperature=t, z_loss=0.01, logit_soft_cap=4.0)
        return {
            "hard": loss(x, LABELS, **options).sum(),
            "soft": soft_loss(x, SOFT, label_smoothing=0.25, **options).sum(),
        }

    check_derivatives(of_both, (LOGITS, WEIGHTS + 0.5, np.float32(1.5)), step=1e-2)


def with_gradients(x, weights, temperature, labels, ignored, smoothing):
    """Losses, and the gradients of their sum by the first three."""

    def losses(x, weights, temperature):
        options = dict(label_smoothing=smoothing, z_loss=0.1, logit_soft_cap=9.0, ignore_index=ignored)
        values = loss(x, labels, class_weights=weights, temperature=temperature, **options)
        return values.sum(), values

    gradients, values = jax.grad(losses, (0, 1, 2), has_aux=True)(x, weights, temperature)
    return values, gradients


compiled = jax.jit(with_gradients, static_argnums=(4, 5))


@pytest.mark.parametrize("f", [compiled, with_gradients], ids=["jit", "eager"])
@pytest.mark.parametrize(("ignored", "smoothing"), [(-100, 0.0), (-100, 0.1), (1, 0.0), (4, 0.1)])
def test_an_ignored_label_has_no_loss_and_no_gradients(f, ignored, smoothing):
    """All is as if the example were not there, though its logits are NaN."""
    x, labels, kept = np.array(LOGITS), np.array(LABELS), np.array([0, 2])
    x[1], labels[1] = nan, ignored
    values, (by_x, *others) = jax.device_get(f(jnp.array(x), WEIGHTS, jnp.float32(2), labels, ignored, smoothing))
    assert values[1] == 0
    np.testing.assert_array_equal(by_x[1], 0)
    alone, true = compiled(x[kept], WEIGHTS, jnp.float32(2), labels[kept], None, smoothing)
    np.testing.assert_allclose(values[kept], alone, rtol=1e-6)
    for got, expected in zip((by_x[kept], *others), true, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_an_ignored_index_that_the_labels_cannot_hold_ignores_nothing():
    for dtype in (jnp.uint8, jnp.int8):
        np.testing.assert_array_equal(
            loss(LOGITS, LABELS.astype(dtype), ignore_index=-1000), loss(LOGITS, LABELS.astype(dtype))
        )
    assert loss(jnp.zeros((1, 3)), jnp.array([255], jnp.uint8), ignore_index=255)[0] == 0


@pytest.mark.parametrize("options", [dict(label_smoothing=0.1), dict(class_weights=WEIGHTS), dict(z_loss=0.1)])
def test_a_label_out_of_range_stays_nan(options):
    for y in (-1, 4, -100):
        value, gradient = jax.value_and_grad(partial(loss, **options))(LOGITS[0], y)
        assert np.isnan(value)
        assert np.isnan(gradient).all()


def test_what_is_not_finite_goes_through_cap_and_temperature_as_it_is():
    x, y, kept = np.float32([[0, -inf, 1], [nan, 0, 1], [inf, 0, 1]]), np.zeros(3, int), np.array([True, False, False])

    def f(x, t):
        return loss(x, y[: len(x)], logit_soft_cap=2.0, temperature=t)

    @jax.jit
    def found(x, t):
        averaged = jax.value_and_grad(lambda t: mean(f(x, t), where=kept))(t)
        return f(x, t), averaged, jax.grad(lambda x: f(x, 0.5).sum())(x), f(x[:1, ::2], 0.5)[0]

    losses, (average, by_t), poisoned, true = found(x, np.float32(0.5))
    np.testing.assert_array_equal(np.isnan(losses), ~kept)
    np.testing.assert_allclose(average, true, rtol=1e-6)
    assert np.isfinite(by_t)
    np.testing.assert_array_equal(np.isnan(poisoned), ~np.repeat(kept[:, None], 3, 1))


def test_modifiers_know_the_selected_classes_only():
    where = jnp.array([True, False, True, True])
    options = dict(label_smoothing=0.3, z_loss=0.1, temperature=0.7, logit_soft_cap=3.0)
    kept = jnp.array([0, 2, 3])
    for row, soft in zip(LOGITS, SOFT, strict=True):
        masked = loss(row.at[1].set(nan), 2, where=where, class_weights=WEIGHTS, **options)
        np.testing.assert_allclose(masked, loss(row[kept], 1, class_weights=WEIGHTS[kept], **options), rtol=1e-6)
        masked = soft_loss(row.at[1].set(nan), soft, where=where, class_weights=WEIGHTS, **options)
        alone = soft_loss(row[kept], soft[kept], class_weights=WEIGHTS[kept], **options)
        np.testing.assert_allclose(masked, alone, rtol=1e-6)


def test_class_weights_follow_a_tuple_of_axes():
    x, weights = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32), np.arange(6, dtype=np.float32)
    flat, y = x.transpose(2, 1, 0).reshape(4, 6), np.array([0, 1, 4, 5])
    options = dict(class_weights=weights, label_smoothing=0.1)
    of_both = jax.jit(lambda x, flat, y: (loss(x, y, (1, 0), **options), loss(flat, y, **options)))
    np.testing.assert_allclose(*of_both(x, flat, y), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(class_weights=np.ones(3)), r"class_weights must have one weight for each class, \(4,\), got \(3,\)"),
        (dict(class_weights=np.ones((4, 1))), r"class_weights must have .*, got \(4, 1\)"),
        (dict(class_weights=[1, 1, 1, 1]), "class_weights must be an array of .* got list"),
        (dict(z_loss=-0.1), "z_loss must be a finite Python float of at least 0, got -0.1"),
        (dict(z_loss=nan), "z_loss must be .* got nan"),
        (dict(z_loss=np.ones(2)), r"z_loss must be .* got ndarray float64 \(2,\)"),
        (dict(logit_soft_cap=0.0), "logit_soft_cap must be a finite Python float above 0, got 0.0"),
        (dict(logit_soft_cap=True), "logit_soft_cap must be .* got True"),
        (dict(temperature=0), "temperature must be a finite Python float above 0, got 0"),
        (dict(temperature=inf), "temperature must be .* got inf"),
        (dict(temperature=True), "temperature must be .* got True"),
        (dict(temperature=np.ones(3)), r"temperature must have the shape of a scalar, \(\), got \(3,\)"),
        (dict(temperature=np.ones((), int)), "temperature must be an array of floating dtype, got int"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    for f, labels in ((loss, LABELS), (soft_loss, SOFT)):
        with pytest.raises(ValueError, match=message) as error:
            f(LOGITS, labels, **arguments)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("index", [1.0, True, 2**31, np.array(1)])
def test_an_ignored_index_that_does_not_fit(index):
    with pytest.raises(ValueError, match="ignore_index must be None or a Python int that fits int32, got"):
        loss(LOGITS, LABELS, ignore_index=index)


def test_a_zero_cotangent_gives_zero_where_the_compiler_knows_what_is_undefined():
    """XLA folds what is constant: two products with the largest float would become one with inf."""
    masked = jax.jit(jax.grad(lambda x, where: loss(x, jnp.array(-1), where=where)))
    np.testing.assert_array_equal(masked(jnp.ones(3), jnp.array(False)), np.zeros(3))
    labels = np.array([5, 5])
    weighted = jax.jit(jax.grad(lambda x, weights: mean(loss(x, labels), weights=weights)))
    gradient = weighted(jnp.ones((2, 3)), jnp.array([0.0, 1.0]))
    np.testing.assert_array_equal(gradient[0], np.zeros(3))
    assert np.isnan(gradient[1]).all()


@pytest.mark.parametrize("factor", [1.0, 2.0, 1000.0])
def test_a_teacher_that_shares_the_mask_gets_a_gradient(factor):
    x, u = np.float32([1, 2, -inf]), np.float32([0.5, 1, -inf])
    gradient, weighted = by_teacher(x, u, np.float32([1, 2, 3]), factor)
    t = np.exp(u[:2]) / np.exp(u[:2]).sum()
    expected = factor * t[0] * t[1] * (x[1] - x[0])
    np.testing.assert_allclose(gradient, [expected, -expected, 0], rtol=1e-6)
    assert np.isfinite(weighted).all()


@jax.jit
def by_teacher(x, u, weights, factor):
    def total(u, **kwargs):
        return factor * soft_loss(x, jax.nn.softmax(u), **kwargs)

    return jax.grad(total)(u), jax.grad(total)(u, class_weights=weights)


@pytest.mark.parametrize("z", [0.1, 29.0, 150.0, 300.0, 1000.0])
def test_beyond_a_soft_cap_a_logit_still_learns(z):
    gradient = jax.jit(jax.grad(lambda x: loss(x, 0, logit_soft_cap=30.0)))(jnp.array([z, z, 0.0]))[0]
    with mpmath.workdps(60):
        bent = 30 * mpmath.tanh(mpmath.mpf(z) / 30)
        p = mpmath.exp(bent) / (2 * mpmath.exp(bent) + 1)
        true = float((p - 1) * (1 - mpmath.tanh(mpmath.mpf(z) / 30) ** 2))
    np.testing.assert_allclose(gradient, true, rtol=2e-5)
