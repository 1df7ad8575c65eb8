"""LeNet-5 has the paper's layers and counts, and its features are those its logits are made of."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from xent.models.functional import outline
from xent.models.lenet import lenet, lenet_features

PUBLISHED = {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48120, "f6": 10164}
"""Trainable parameters that the paper names, layer by layer; 60,000 together."""


def test_each_layer_has_the_parameters_that_the_paper_counts():
    params = outline(partial(lenet_features, inputs=(32, 32, 1))).params
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(layer)) for name, layer in params.items()}
    assert counts == PUBLISHED
    assert sum(counts.values()) == 60_000


def squash(x):
    return 1.7159 * np.tanh(2 * x / 3)


def convolve(maps, kernel):
    """Maps [h, w, c] with a kernel [5, 5, c]: one map, by scipy."""
    return sum(scipy.signal.correlate2d(maps[..., i], kernel[..., i], "valid") for i in range(maps.shape[-1]))


def subsample(maps, layer):
    totals = maps[::2, ::2] + maps[1::2, ::2] + maps[::2, 1::2] + maps[1::2, 1::2]
    return squash(totals * layer["coefficient"] + layer["bias"])


def by_hand(params, image):
    """The paper's section II.B in float64, with a loop where it has a table."""
    c1, c3 = params["c1"], params["c3"]
    x = squash(np.stack([convolve(image, c1["kernel"][..., i]) + c1["bias"][i] for i in range(6)], axis=-1))
    x = subsample(x, params["s2"])
    three = [[i, (i + 1) % 6, (i + 2) % 6] for i in range(6)]
    four = [[i, (i + 1) % 6, (i + 2) % 6, (i + 3) % 6] for i in range(6)]
    split = [[i, i + 1, (i + 3) % 6, (i + 4) % 6] for i in range(3)]
    maps, used = [], 0
    for i, seen in enumerate([*three, *four, *split, list(range(6))]):
        weights = c3["weights"][..., used : used + len(seen)]
        maps.append(convolve(x[..., sorted(seen)], weights) + c3["bias"][i])
        used += len(seen)
    x = subsample(squash(np.stack(maps, axis=-1)), params["s4"]).reshape(-1)
    for layer in (params["c5"], params["f6"]):
        x = squash(x @ layer["kernel"] + layer["bias"])
    return x


def test_it_computes_the_papers_layers(drawn):
    apply, params = drawn(partial(lenet_features, inputs=(32, 32, 1)))
    numbers = np.random.default_rng(1)
    image = numbers.normal(size=(32, 32, 1)).astype(np.float32)
    expected = by_hand(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), image)
    np.testing.assert_allclose(apply(params, image[None])[0], expected, rtol=1e-4, atol=1e-5)


def test_logits_are_a_linear_map_of_the_features(drawn):
    shape = (28, 20, 3)
    apply, params = drawn(partial(lenet, inputs=shape, outputs=7))
    features = jax.jit(outline(partial(lenet_features, inputs=shape)).apply)
    images = np.random.default_rng(2).normal(size=(4, *shape)).astype(np.float32)
    output = params["output"]
    found = features(params["features"], images) @ output["kernel"] + output["bias"][None]
    np.testing.assert_allclose(found, apply(params, images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_computes_in_the_dtype_asked_for_and_keeps_its_parameters_in_float32(dtype):
    apply, params = outline(partial(lenet, inputs=(16, 16, 1), outputs=3, dtype=dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert jax.eval_shape(apply, params, jnp.ones((1, 16, 16, 1), dtype)).dtype == dtype


@pytest.mark.parametrize("shape", [(15, 28, 1), (28, 28)])
def test_an_image_that_is_too_small_or_flat_is_refused(shape):
    with pytest.raises(ValueError, match="16 or more"):
        lenet(jax.random.key(0), inputs=shape, outputs=10)
