"""The losses of a generator and a discriminator against 60 digits, and the laws of their games."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xent.losses import discriminator_loss, mean, minimax_generator_loss, non_saturating_generator_loss

inf, nan = np.inf, np.nan
LOGITS = np.concatenate([s * np.array([1e4, 300, 88, 87, 30, 17, 5, 1, 0.1, 1e-3, 1e-30]) for s in (1, -1)])
LOGITS = np.concatenate([LOGITS, [0], np.random.default_rng(0).normal(size=60) * 10]).astype(np.float32)
ALL = {
    "discriminator": lambda z: discriminator_loss(z, -z),
    "smoothed": lambda z: discriminator_loss(z, -z, one_sided_label_smoothing=0.1),
    "minimax": minimax_generator_loss,
    "non-saturating": non_saturating_generator_loss,
}
every_loss = pytest.mark.parametrize("loss", ALL.values(), ids=ALL)


@pytest.fixture(scope="module")
def true(oracle):
    """Label -> the cost of each logit, and its derivative: [logits, 2]."""
    return {label: np.array([oracle.binary(z, label) for z in LOGITS]) for label in (0, 1)}


@pytest.mark.parametrize(
    ("loss", "label", "sign"), [(minimax_generator_loss, 0, -1), (non_saturating_generator_loss, 1, 1)]
)
def test_generators_within_8_ulp(oracle, true, loss, label, sign):
    values, gradient = jax.device_get((loss(LOGITS), jax.jit(jax.grad(lambda z: loss(z).sum()))(LOGITS)))
    assert oracle.ulps(values, sign * true[label][:, 0], 2 * oracle.TINY) <= 8
    assert oracle.ulps(gradient, sign * true[label][:, 1], 2 * oracle.TINY) <= 8


@pytest.mark.parametrize("smoothing", [0.0, 1e-9, 0.1, 1.0])
def test_the_discriminator_within_8_ulp(oracle, true, smoothing):
    order = np.random.default_rng(1).permutation(len(LOGITS))

    def total(real, fake):
        return discriminator_loss(real, fake, one_sided_label_smoothing=smoothing)

    gradients = jax.jit(jax.grad(lambda r, f: total(r, f).sum(), (0, 1)))(LOGITS, LOGITS[order])
    values, (by_real, by_fake) = jax.device_get((jax.jit(total)(LOGITS, LOGITS[order]), gradients))
    reals, fakes = (1 - smoothing) * true[1] + smoothing * true[0], true[0][order]
    larger = np.maximum((1 - smoothing) * np.abs(true[1]), smoothing * np.abs(true[0]))[:, 1]  # they cancel if smoothed
    assert oracle.ulps(values, reals[:, 0] + fakes[:, 0], 2 * oracle.TINY) <= 8
    assert oracle.ulps(by_real, reals[:, 1], 2 * oracle.TINY, larger) <= 8
    assert oracle.ulps(by_fake, fakes[:, 1], 2 * oracle.TINY) <= 8


def test_the_minimax_game_is_zero_sum():
    """What the discriminator pays for generated samples, the generator receives."""
    real, fake = np.split(LOGITS[1:], 2)
    np.testing.assert_allclose(
        discriminator_loss(real, fake), non_saturating_generator_loss(real) - minimax_generator_loss(fake), rtol=1e-6
    )


def test_the_best_discriminator_of_equal_distributions_loses_log_4():
    np.testing.assert_allclose(discriminator_loss(jnp.zeros(3), jnp.zeros(3)), np.full(3, np.log(4)), rtol=1e-7)
    gradient = jax.grad(lambda z: discriminator_loss(z, z))(0.0)
    assert gradient == 0


def test_the_generators_pull_the_same_way_and_one_of_them_saturates():
    losses = minimax_generator_loss, non_saturating_generator_loss
    gradients = jax.jit(lambda z: [jax.vmap(jax.grad(loss))(z) for loss in losses])
    minimax, non_saturating = gradients(np.float32([-20, 0, 20]))
    np.testing.assert_allclose(minimax, -1 / (1 + np.exp([20.0, 0, -20.0])), rtol=1e-6)
    np.testing.assert_allclose(non_saturating, minimax[::-1], rtol=1e-6)


def test_smoothing_is_of_the_real_samples_alone():
    """So the best logit of a real sample is finite, and that of a generated one is not."""
    real, fake = jnp.log(9.0), jnp.float32(-50)
    by_real, by_fake = jax.grad(lambda r, f: discriminator_loss(r, f, one_sided_label_smoothing=0.1), (0, 1))(
        real, fake
    )
    assert abs(by_real) < 1e-7
    np.testing.assert_allclose(by_fake, np.exp(-50.0), rtol=1e-6)
    labels = jnp.full(5, 0.9)
    z = jnp.linspace(-3, 3, 5)
    np.testing.assert_allclose(
        discriminator_loss(z, z, one_sided_label_smoothing=0.1),
        optax.sigmoid_binary_cross_entropy(z, labels) + optax.sigmoid_binary_cross_entropy(z, 0 * labels),
        rtol=1e-6,
    )


def test_derivatives_of_order_2(check_derivatives):
    def of_all(z):
        return {name: loss(z) for name, loss in ALL.items()}

    check_derivatives(of_all, (np.float32([-2.0, 0.3, 1.5]),), step=1e-2)


@every_loss
def test_jit_vmap_and_eager_agree(oracle, loss):
    for other in (jax.jit(loss), jax.vmap(loss), jax.jit(jax.vmap(loss))):
        assert oracle.ulps(other(LOGITS), loss(LOGITS), 2 * oracle.TINY) <= 8


def test_infinite_logits():
    z = jnp.array([inf, -inf])
    np.testing.assert_array_equal(discriminator_loss(z, -z), [0, inf])
    np.testing.assert_array_equal(discriminator_loss(z, -z, one_sided_label_smoothing=0.1), [inf, inf])
    np.testing.assert_array_equal(minimax_generator_loss(z), [-inf, 0])
    np.testing.assert_array_equal(non_saturating_generator_loss(z), [0, inf])
    np.testing.assert_array_equal(jax.grad(lambda z: minimax_generator_loss(z).sum())(z), [-1, 0])


@every_loss
@pytest.mark.parametrize("jit", [jax.jit, lambda f: f])
def test_a_zero_cotangent_gives_zero_whatever_the_element_holds(loss, jit):
    z = jnp.array([nan, inf, -inf, 1.0])
    masked = jit(jax.grad(lambda z: mean(loss(z), where=jnp.arange(4) == 3)))(z)
    np.testing.assert_array_equal(masked[:3], 0)
    assert np.isfinite(masked[3])
    assert np.isnan(loss(z)[0])
    np.testing.assert_array_equal(np.isnan(jit(jax.grad(lambda z: loss(z).sum()))(z)), [True, False, False, False])


@every_loss
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    z = jnp.array(LOGITS[25:], dtype)
    assert loss(z).dtype == jnp.float32
    np.testing.assert_array_equal(loss(z), loss(z.astype(jnp.float32)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_of_half_precision_is_that_of_float32_rounded_once(dtype, smoothing):
    """Of a smoothed discriminator it is a difference of two."""
    z = jnp.array(LOGITS[25:], dtype)
    gradient = jax.jit(
        jax.grad(lambda r, f: discriminator_loss(r, f, one_sided_label_smoothing=smoothing).sum(), (0, 1))
    )
    wide = gradient(z.astype(jnp.float32), -z.astype(jnp.float32))
    for got, true in zip(gradient(z, -z), wide, strict=True):
        np.testing.assert_array_equal(got, true.astype(dtype))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: minimax_generator_loss(np.zeros(3, int)), "fake_logits must be an array of floating dtype, got int"),
        (lambda: non_saturating_generator_loss([0.0]), "fake_logits must be an array of floating dtype, got list"),
        (lambda: discriminator_loss(np.zeros(3, int), np.zeros(3)), "real_logits must be an array of floating dtype"),
        (
            lambda: discriminator_loss(np.zeros(3), np.zeros((3, 1))),
            r"fake_logits must have the shape of real_logits, \(3,\), got \(3, 1\); it is not broadcast",
        ),
        (
            lambda: discriminator_loss(np.zeros(3), np.zeros(3), one_sided_label_smoothing=1.1),
            r"one_sided_label_smoothing must be a Python float in \[0, 1\], got 1.1",
        ),
    ],
)
def test_arguments_that_do_not_fit(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
