"""Networks with weights at hand."""

import jax
import numpy as np
import pytest

from xent.models.functional import Model, outline


@pytest.fixture
def drawn():
    """`drawn(build)`: the model, with weights by numpy: a builder's own take a compilation for each shape."""

    def draw(build):
        apply, shapes = outline(build)
        numbers = np.random.default_rng(0)

        def fill(leaf):
            return (numbers.normal(size=leaf.shape) / max(1, np.sqrt(leaf.size / leaf.shape[-1]))).astype(leaf.dtype)

        return Model(jax.jit(apply), jax.tree.map(fill, shapes))

    return draw
