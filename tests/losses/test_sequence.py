"""next_token_cross_entropy: that it predicts the right tokens, masks the others, and never copies the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xent.losses import mean, next_token_cross_entropy, next_token_targets
from xent.losses import softmax_cross_entropy_with_integer_labels as cross_entropy

inf, nan = np.inf, np.nan
LOGITS = np.random.default_rng(0).normal(size=(2, 6, 5)).astype(np.float32) * 3
TOKENS = np.random.default_rng(1).integers(0, 5, size=(2, 6))


def test_position_t_predicts_token_t_plus_1_and_the_last_predicts_nothing():
    losses = next_token_cross_entropy(LOGITS, TOKENS)
    assert losses.shape == TOKENS.shape
    np.testing.assert_array_equal(losses[:, :-1], cross_entropy(LOGITS[:, :-1], TOKENS[:, 1:]))
    assert (losses[:, -1] == 0).all()

    @jax.jit
    def gradients(x):
        of_slice = jax.grad(lambda x: cross_entropy(x[:, :-1], TOKENS[:, 1:]).sum())
        return jax.grad(lambda x: next_token_cross_entropy(x, TOKENS).sum())(x), of_slice(x)

    gradient, of_slice = jax.device_get(gradients(LOGITS))
    np.testing.assert_allclose(gradient, of_slice, rtol=1e-6, atol=1e-12)
    assert (gradient[:, -1] == 0).all()


def test_the_mean_over_what_counts():
    losses, (_, counted) = next_token_cross_entropy(LOGITS, TOKENS), next_token_targets(TOKENS)
    sliced = cross_entropy(LOGITS[:, :-1], TOKENS[:, 1:])
    np.testing.assert_allclose(mean(losses, where=counted), np.mean(sliced), rtol=1e-6)


def test_where_is_of_the_tokens_predicted():
    """As for a prompt that the model reads but is not trained to write."""
    where = np.array([[0, 0, 0, 1, 1, 1], [1, 0, 1, 1, 0, 0]], bool)
    losses = next_token_cross_entropy(LOGITS, TOKENS, where)
    everywhere = next_token_cross_entropy(LOGITS, TOKENS)
    counts = np.array([[0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]])
    np.testing.assert_array_equal(losses, everywhere * counts)
    np.testing.assert_array_equal(next_token_targets(TOKENS, where)[1], counts)


def test_packed_documents_are_each_as_if_alone():
    lengths = [3, 1, 2]
    segment_ids = np.repeat([7, 8, 9], lengths)
    packed = next_token_cross_entropy(LOGITS[0], TOKENS[0], segment_ids=segment_ids)
    parts = np.split(np.arange(6), np.cumsum(lengths)[:-1])
    alone = jax.jit(lambda x, y: jnp.concatenate([next_token_cross_entropy(x[p], y[p]) for p in parts]))
    np.testing.assert_allclose(packed, alone(LOGITS[0], TOKENS[0]), rtol=1e-6)
    where = np.array([1, 1, 0, 1, 1, 1], bool)
    _, counted = next_token_targets(TOKENS[0], where, segment_ids=segment_ids)
    np.testing.assert_array_equal(counted, [1, 0, 0, 0, 1, 0])


@pytest.mark.parametrize(
    "modifiers",
    [
        {"label_smoothing": 0.1},
        {"class_weights": np.arange(5, dtype=np.float32)},
        {"ignore_index": 2},
        {"z_loss": 1e-2},
        {"logit_soft_cap": 2.0},
        {"temperature": 3.0},
    ],
)
def test_every_modifier_reaches_the_loss(modifiers):
    losses = next_token_cross_entropy(LOGITS, TOKENS, **modifiers)
    true = cross_entropy(LOGITS[:, :-1], TOKENS[:, 1:], **modifiers)
    np.testing.assert_allclose(losses[:, :-1], true, rtol=1e-6)
    assert (losses[:, -1] == 0).all()
    assert np.abs(losses - next_token_cross_entropy(LOGITS, TOKENS)).max() > 1e-3


def test_what_does_not_count_poisons_nothing():
    where = np.ones((2, 6), bool)
    where[0, 3] = False
    x, tokens = LOGITS.copy(), TOKENS.copy()
    x[:, -1], x[0, 2] = nan, inf
    tokens[0, 3] = -1
    f = jax.jit(jax.value_and_grad(lambda x: next_token_cross_entropy(x, tokens, where).sum()))
    value, gradient = f(x)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert (gradient[:, -1] == 0).all()
    assert (gradient[0, 2] == 0).all()
    assert np.isnan(next_token_cross_entropy(x, tokens)[0, 2])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_copy_of_the_logits_is_made(dtype):
    """Gradient included, it takes the memory of the plain loss, and nothing of the shape of a slice is computed."""
    x, tokens = jax.ShapeDtypeStruct((4, 64, 4096), dtype), jax.ShapeDtypeStruct((4, 64), jnp.int32)
    logits_bytes = 4 * 64 * 4096 * jnp.dtype(dtype).itemsize

    def plain(x, tokens):
        return cross_entropy(x, tokens, where=tokens > 0)

    def sliced(x, tokens):
        return cross_entropy(x[:, :-1], tokens[:, 1:])

    def compiled(f):
        with_gradient = jax.jit(jax.value_and_grad(lambda x, tokens: f(x, tokens).sum()))
        program = with_gradient.lower(x, tokens).compile()
        return program.memory_analysis().temp_size_in_bytes, program.as_text()

    (ours, text), (others, _), (_, sliced_text) = map(compiled, (next_token_cross_entropy, plain, sliced))
    assert ours <= others + logits_bytes // 100
    assert "[4,63,4096]" not in text
    assert "[4,63,4096]" in sliced_text
    assert ours < logits_bytes or dtype == jnp.bfloat16  # whose float32 is larger


def test_one_token_and_none():
    assert next_token_cross_entropy(np.ones((1, 3)), np.zeros(1, int)) == 0
    assert next_token_cross_entropy(np.ones((2, 0, 3)), np.zeros((2, 0), int)).shape == (2, 0)


def test_vmap_and_jit_agree():
    batch = next_token_cross_entropy(LOGITS, TOKENS)
    for f in (jax.vmap(next_token_cross_entropy), jax.jit(next_token_cross_entropy)):
        np.testing.assert_allclose(f(LOGITS, TOKENS), batch, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(logits=np.zeros(3)), r"logits must have an axis of positions and one of classes, got shape \(3,\)"),
        (dict(logits=np.zeros((2, 6, 5), int)), "logits must be an array of floating dtype, got int"),
        (dict(tokens=TOKENS[:, 1:]), r"tokens must have .*, \(2, 6\), got \(2, 5\); it is not broadcast"),
        (dict(tokens=TOKENS * 1.0), "tokens must be an array of integer dtype, got float"),
        (dict(where=np.ones(6, bool)), r"where must have the shape of tokens, \(2, 6\), got \(6,\)"),
        (dict(where=np.ones((2, 6, 5), bool)), r"where must have the shape of tokens, \(2, 6\), got \(2, 6, 5\)"),
        (dict(where=TOKENS), "where must be an array of bool dtype, got int"),
        (dict(segment_ids=np.ones((2, 1), int)), r"segment_ids must have the shape of tokens, \(2, 6\), got \(2, 1\)"),
        (dict(label_smoothing=2.0), r"label_smoothing must be a Python float in \[0, 1\], got 2.0"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        next_token_cross_entropy(**(dict(logits=LOGITS, tokens=TOKENS) | arguments))
