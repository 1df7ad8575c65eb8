"""The Transformer: what it may see, that it knows the order of what it sees, and what its head is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xent.models.functional import Model, outline
from xent.models.transformer import head_of, partitions, rotate, transformer

SIZES = {"vocabulary": 37, "units": 16, "layers": 1, "heads": 2}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request):
    apply, shapes = outline(partial(transformer, **SIZES, tied=request.param, dropout=0.3))
    numbers = np.random.default_rng(0)

    def fill(leaf):
        return (numbers.normal(size=leaf.shape) / np.sqrt(len(leaf)) if leaf.ndim > 1 else np.ones(leaf.shape)).astype(
            leaf.dtype
        )

    return Model(jax.jit(apply), jax.tree.map(fill, shapes))


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(1).integers(0, SIZES["vocabulary"], (3, 9), np.int32)


def test_no_hidden_state_depends_on_a_later_token(model, tokens):
    apply = model.apply
    hidden = np.asarray(apply(model.params, tokens))
    for place in (1, 5, 8):
        changed = np.asarray(apply(model.params, (tokens + (np.arange(9, dtype=np.int32) == place)) % 37))
        np.testing.assert_array_equal(changed[:, :place], hidden[:, :place])
        assert (changed[:, place] != hidden[:, place]).any(-1).all()


def test_earlier_tokens_are_seen_in_their_order(model, tokens):
    tokens = tokens.copy()
    tokens[:, 1] = (tokens[:, 0] + 1) % 37
    swapped = tokens[:, [1, 0, *range(2, 9)]]
    last, other = (np.asarray(model.apply(model.params, order))[:, -1] for order in (tokens, swapped))
    assert np.abs(last - other).max() > 1e-4


def test_a_product_of_turned_vectors_knows_the_distance_alone():
    query, key = np.random.default_rng(0).normal(size=(2, 1, 1, 8)).astype(np.float32)
    turned = jax.jit(rotate)

    def product(i, j):
        return float(np.vdot(turned(query, np.array([i])), turned(key, np.array([j]))))

    for distance in (0, 1, 7):
        products = [product(start + distance, start) for start in (0, 3, 50)]
        np.testing.assert_allclose(products, products[0], atol=2e-5)
    assert abs(product(1, 0) - product(0, 1)) > 1e-3  # before is not after
    assert product(0, 0) == pytest.approx(np.vdot(query, key), rel=1e-5)


def test_rotation_is_the_formula():
    x = np.random.default_rng(0).normal(size=(5, 2, 6)).astype(np.float32)
    angles = np.arange(5)[:, None, None] * 10000.0 ** (-np.arange(3) / 3)
    turned = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * angles)
    expected = np.concatenate([turned.real, turned.imag], -1)
    np.testing.assert_allclose(rotate(x, np.arange(5)), expected, rtol=1e-5, atol=1e-5)


def test_the_head_is_the_embedding_or_a_matrix_of_its_own(model):
    kernel, transposed = head_of(model.params)
    assert transposed == ("head" not in model.params)
    assert kernel is model.params["embedding" if transposed else "head"]
    assert kernel.shape == ((37, 16) if transposed else (16, 37))


def test_dropout_needs_a_key_and_follows_from_it(model, tokens):
    apply = model.apply
    still = apply(model.params, tokens)
    np.testing.assert_array_equal(apply(model.params, tokens), still)
    first, same, other = (apply(model.params, tokens, key=jax.random.key(seed)) for seed in (2, 2, 3))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    assert (first != still).any()


def test_it_computes_in_bfloat16_and_keeps_its_parameters_in_float32(model, tokens):
    apply, shapes = outline(partial(transformer, **SIZES, tied="head" not in model.params, dtype="bfloat16"))
    hidden = jax.jit(apply)(model.params, tokens)
    assert hidden.dtype == "bfloat16"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}
    assert float(jnp.abs(hidden - model.apply(model.params, tokens)).max()) < 0.1


def test_heads_that_cannot_be_dealt_are_refused():
    with pytest.raises(ValueError, match="units must be a multiple of twice the heads, 6, got 16"):
        transformer(jax.random.key(0), **{**SIZES, "heads": 3})


def test_every_matrix_has_a_partition(model):
    import re

    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in
             jax.tree_util.tree_leaves_with_path(model.params) if leaf.ndim == 2]  # fmt: skip
    for fully_sharded in (True, False):
        rules = partitions(fully_sharded)
        assert all(sum(bool(re.search(pattern, name)) for pattern, _ in rules) == 1 for name in names)
        assert all(("data" in spec) == fully_sharded for _, spec in rules)
