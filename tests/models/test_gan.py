"""Generator and discriminator are the formulas they claim to be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xent.models.gan import discriminator, generator


def layers(params):
    return [
        (np.asarray(params[name]["kernel"]), np.asarray(params[name]["bias"])) for name in ("first", "second", "output")
    ]


def test_the_generator_computes_the_formula():
    apply, params = generator(jax.random.key(0), latent=3, hidden=5, shape=(2, 4, 1))
    x = noise = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    *hidden, (kernel, bias) = layers(params)
    for w, b in hidden:
        x = np.maximum(x @ w + b, 0)
    expected = np.tanh(x @ kernel + bias).reshape(6, 2, 4, 1)
    np.testing.assert_allclose(apply(params, noise), expected, rtol=1e-5, atol=1e-6)


def test_the_discriminator_computes_the_formula():
    apply, params = discriminator(jax.random.key(0), inputs=8, hidden=5, dropout=0.5)
    images = np.random.default_rng(0).normal(size=(6, 2, 4, 1)).astype(np.float32)
    x = images.reshape(6, 8)
    *hidden, (kernel, bias) = layers(params)
    for w, b in hidden:
        x = x @ w + b
        x = np.where(x > 0, x, 0.2 * x)
    np.testing.assert_allclose(apply(params, images), (x @ kernel + bias)[:, 0], rtol=1e-5, atol=1e-6)


def test_dropout_needs_a_key_and_keeps_the_mean():
    apply, params = discriminator(jax.random.key(0), inputs=8, hidden=64, dropout=0.3)
    params["first"]["bias"] += 1  # so that no unit of the second layer is near its kink
    params["second"] = {"kernel": jnp.abs(params["second"]["kernel"]), "bias": params["second"]["bias"] + 5}
    image = jnp.ones((1, 2, 4, 1)) / 10
    keys = jax.random.split(jax.random.key(1), 4000)
    drawn = jax.jit(jax.vmap(lambda key: apply(params, image, key=key)[0]))(keys)
    assert len(np.unique(drawn)) > 3900
    assert abs(drawn.mean() - apply(params, image)[0]) < 5 * drawn.std() / np.sqrt(len(keys))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_they_compute_in_the_dtype_asked_for_and_keep_their_parameters_in_float32(dtype):
    make, making = generator(jax.random.key(0), latent=3, hidden=5, shape=(2, 4, 1), dtype=dtype)
    tell, telling = discriminator(jax.random.key(0), inputs=8, hidden=5, dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves((making, telling))} == {jnp.dtype("float32")}
    images = make(making, jnp.ones((1, 3)))
    assert images.dtype == tell(telling, images).dtype == dtype
