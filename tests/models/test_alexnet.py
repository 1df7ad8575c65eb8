"""AlexNet has the paper's parameters and layers, and shrinks with its input and its width."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from xent.models.alexnet import alexnet, local_response_normalisation
from xent.models.functional import outline

PUBLISHED = {
    "conv1": 34_944,
    "conv2": 307_456,
    "conv3": 885_120,
    "conv4": 663_936,
    "conv5": 442_624,
    "dense/first": 37_752_832,
    "dense/second": 16_781_312,
    "dense/output": 4_097_000,
}
"""Layer by layer as the paper's sizes have it; 60,965,224 together, its "60 million parameters"."""


def test_the_whole_network_has_the_papers_parameters():
    params = outline(partial(alexnet, inputs=(227, 227, 3), outputs=1000)).params
    dense = params.pop("dense")
    layers = params | {f"dense/{name}": layer for name, layer in dense.items()}
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(layer)) for name, layer in layers.items()}
    assert counts == PUBLISHED
    assert sum(counts.values()) == 60_965_224


def test_it_computes_the_papers_layers(drawn):
    """As Flax's own layers do, with groups and windows where ours has halves and slices."""
    apply, params = drawn(partial(alexnet, inputs=(26, 19, 2), outputs=5, width=1 / 32))
    images = np.random.default_rng(1).normal(size=(3, 26, 19, 2)).astype(np.float32)

    def convolve(x, layer, padding="SAME"):
        halves = list(layer.get("halves", {"0": layer}).values())
        kernel = jnp.concatenate([half["kernel"] for half in halves], axis=-1)
        bias = jnp.concatenate([half["bias"] for half in halves])
        layout = ("NHWC", "HWIO", "NHWC")
        maps = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), padding, dimension_numbers=layout, feature_group_count=len(halves)
        )
        return jax.nn.relu(maps + bias[None, None, None])

    @jax.jit
    def by_hand(params, x):
        for name, padding in (("conv1", "VALID"), ("conv2", "SAME")):
            x = convolve(x, params[name], padding)
            x = nnx.max_pool(local_response_normalisation(x), (3, 3), strides=(2, 2))
        for name in ("conv3", "conv4", "conv5"):
            x = convolve(x, params[name])
        x = nnx.max_pool(x, (3, 3), strides=(2, 2)).reshape(3, -1)
        dense = params["dense"]
        for name in ("first", "second"):
            x = jax.nn.relu(x @ dense[name]["kernel"] + dense[name]["bias"][None])
        return x @ dense["output"]["kernel"] + dense["output"]["bias"][None]

    np.testing.assert_allclose(apply(params, images), by_hand(params, images), rtol=1e-4, atol=1e-5)


def test_normalisation_is_the_papers_sum():
    x = 50 * np.random.default_rng(0).normal(size=(2, 3, 3, 7))
    expected = np.empty_like(x)
    for i in range(7):
        near = x[..., max(0, i - 2) : i + 3]
        expected[..., i] = x[..., i] / (2 + 1e-4 * (near**2).sum(-1)) ** 0.75
    np.testing.assert_allclose(local_response_normalisation(jnp.asarray(x, jnp.float32)), expected, rtol=1e-5)


def test_units_are_dropped_where_there_is_a_key(drawn):
    apply, params = drawn(partial(alexnet, inputs=(17, 17, 1), outputs=5, width=1 / 32))
    image = np.ones((1, 17, 17, 1), np.float32)
    one, other = (apply(params, image, key=jax.random.key(seed)) for seed in (1, 2))
    assert not np.array_equal(one, other)
    assert np.array_equal(apply(params, image), apply(params, image))


@pytest.mark.parametrize(("sizes", "message"), [(((16, 32, 1), 1.0), "17 or more"), (((32, 32, 1), 0.0), "above 0")])
def test_what_cannot_be_built_is_refused(sizes, message):
    inputs, width = sizes
    with pytest.raises(ValueError, match=message):
        alexnet(jax.random.key(0), inputs=inputs, outputs=10, width=width)
