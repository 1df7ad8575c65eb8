"""The multilayer perceptron is the formula it claims to be, behind a door of pure functions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from xent.models.functional import functional, outline
from xent.models.mlp import mlp


def test_it_computes_the_formula():
    apply, params = mlp(jax.random.key(0), inputs=6, hidden=5, outputs=3)
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    w1, b1 = np.asarray(params["hidden"]["kernel"]), np.asarray(params["hidden"]["bias"])
    w2, b2 = np.asarray(params["output"]["kernel"]), np.asarray(params["output"]["bias"])
    expected = np.maximum(x.reshape(4, 6) @ w1 + b1, 0) @ w2 + b2
    np.testing.assert_allclose(apply(params, x), expected, rtol=1e-5, atol=1e-6)


def test_weights_follow_from_the_key_alone():
    build = lambda seed: mlp(jax.random.key(seed), inputs=4, hidden=3, outputs=2).params  # noqa: E731
    assert jax.tree.all(jax.tree.map(jnp.array_equal, build(1), build(1)))
    assert not jnp.array_equal(build(1)["hidden"]["kernel"], build(2)["hidden"]["kernel"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_computes_in_the_dtype_asked_for_and_keeps_its_parameters_in_float32(dtype):
    apply, params = mlp(jax.random.key(0), inputs=4, hidden=3, outputs=2, dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert apply(params, jnp.ones((1, 4), dtype)).dtype == dtype


def test_a_module_with_other_state_is_refused():
    class Normalised(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    with pytest.raises(ValueError, match=r"Normalised holds state besides its parameters \(norm\)"):
        functional(Normalised())


def test_an_outline_is_the_model_without_its_arrays():
    build = partial(mlp, inputs=4, hidden=3, outputs=2)
    (apply, params), (same, shapes) = build(jax.random.key(0)), outline(build)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    np.testing.assert_array_equal(same(params, jnp.ones((1, 4))), apply(params, jnp.ones((1, 4))))
