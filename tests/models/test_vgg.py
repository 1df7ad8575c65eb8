"""VGG has the paper's parameters and layers, at every depth, and shrinks with its input and its width."""

from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from xent.models.functional import outline
from xent.models.vgg import vgg


@pytest.mark.parametrize(
    ("depth", "count"), [(11, 132_863_336), (13, 133_047_848), (16, 138_357_544), (19, 143_667_240)]
)
def test_each_depth_has_the_papers_parameters(depth, count):
    """The paper's table 2 says 133, 133, 138 and 144 million."""
    params = outline(partial(vgg, inputs=(224, 224, 3), outputs=1000, depth=depth)).params
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_it_computes_the_papers_layers(drawn):
    apply, params = drawn(partial(vgg, inputs=(20, 33, 2), outputs=5, depth=13, width=1 / 32))
    images = np.random.default_rng(1).normal(size=(3, 20, 33, 2)).astype(np.float32)
    np.testing.assert_allclose(apply(params, images), by_hand(params, images), rtol=1e-4, atol=1e-5)


@jax.jit
def by_hand(params, x):
    layout = ("NHWC", "HWIO", "NHWC")
    for group in range(5):
        for i in range(2):
            layer = params["groups"][str(group)][str(i)]
            maps = jax.lax.conv_general_dilated(x, layer["kernel"], (1, 1), "SAME", dimension_numbers=layout)
            x = jax.nn.relu(maps + layer["bias"][None, None, None])
        x = nnx.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
    x = x.reshape(3, -1)
    dense = params["dense"]
    for name in ("first", "second"):
        x = jax.nn.relu(x @ dense[name]["kernel"] + dense[name]["bias"][None])
    return x @ dense["output"]["kernel"] + dense["output"]["bias"][None]


def test_units_are_dropped_where_there_is_a_key(drawn):
    apply, params = drawn(partial(vgg, inputs=(2, 2, 1), outputs=5, depth=11, width=1 / 32))
    image = np.ones((1, 2, 2, 1), np.float32)
    one, other = (apply(params, image, key=jax.random.key(seed)) for seed in (1, 2))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(("depth", "width", "message"), [(12, 1.0, "11, 13, 16, 19, got 12"), (11, -1.0, "above 0")])
def test_what_cannot_be_built_is_refused(depth, width, message):
    with pytest.raises(ValueError, match=message):
        vgg(jax.random.key(0), inputs=(32, 32, 1), outputs=10, depth=depth, width=width)
