"""Deep Speech and convolutions with a BiGRU: their formulas, their counts, and that padding has no influence."""

from functools import partial

import jax
import numpy as np
import pytest
from scipy.special import expit

from xent.losses import ctc_loss
from xent.models.conv_gru import conv_gru
from xent.models.deep_speech import deep_speech
from xent.models.frames import output_lengths, there
from xent.models.functional import outline

FEATURES, OUTPUTS, UNITS = 6, 5, 8
LENGTHS = np.array([23, 14, 1, 30])
LABELS = np.array([[1, 2, 2], [4, 0, 0], [3, 0, 0], [2, 1, 3]])
LABEL_PADDINGS = np.array([[0, 0, 0], [0, 1, 1], [0, 1, 1], [0, 0, 0]])
SIZES = {"features": FEATURES, "outputs": OUTPUTS, "units": UNITS}
DEEP_SPEECH = partial(deep_speech, **SIZES, context=3)
CONV_GRU = partial(conv_gru, **SIZES, maps=7, width=5, strides=(2, 1, 2), layers=2)
STRIDES = {DEEP_SPEECH: (2,), CONV_GRU: (2, 1, 2)}


class Speech:
    """A model, compiled, with biases that are not 0, lest padding look like a frame of zeros."""

    def __init__(self, build):
        apply, shapes = outline(build)
        numbers = np.random.default_rng(0)

        def fill(path, leaf):
            draws = numbers.normal(size=leaf.shape)
            if leaf.ndim > 1:
                draws /= np.sqrt(leaf.size / leaf.shape[-1])
            else:
                draws = 0.2 * draws + (path[-1].key == "scale")
            return draws.astype(leaf.dtype)

        self.params = jax.tree_util.tree_map_with_path(fill, shapes)
        self.build, self.strides, self.apply = build, STRIDES[build], jax.jit(apply)
        self.value_and_gradients = jax.jit(jax.value_and_grad(self.loss, (0, 1)))

    def own(self, lengths, frames):
        return there(output_lengths(lengths, *self.strides), frames)

    def loss(self, params, clips, lengths, labels=LABELS, label_paddings=LABEL_PADDINGS):
        logits = self.apply(params, clips, lengths)
        return ctc_loss(logits, ~self.own(lengths, logits.shape[1]), labels, label_paddings).sum()


@pytest.fixture(scope="module", params=STRIDES, ids=["deep_speech", "conv_gru"])
def model(request):
    return Speech(request.param)


@pytest.fixture(scope="module")
def clips():
    return np.random.default_rng(1).normal(size=(4, 30, FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def silenced(model, clips):
    """Logits, and loss with its gradients, of clips with zeros in their padding."""
    x = np.where(np.asarray(there(LENGTHS, 30))[..., None], clips, 0)
    return np.asarray(model.apply(model.params, x, LENGTHS)), model.value_and_gradients(model.params, x, LENGTHS)


@pytest.mark.parametrize("padding", [np.nan, np.inf, 1e30, "other"])
def test_what_padding_holds_changes_no_bit(model, clips, silenced, padding):
    padding = clips[::-1] if padding == "other" else np.float32(padding)
    x = np.where(np.asarray(there(LENGTHS, 30))[..., None], clips, padding)
    logits, (loss, gradients) = silenced
    own = np.asarray(model.own(LENGTHS, logits.shape[1]))
    np.testing.assert_array_equal(np.asarray(model.apply(model.params, x, LENGTHS))[own], logits[own])
    found = model.value_and_gradients(model.params, x, LENGTHS)
    assert np.isfinite(loss)
    jax.tree.map(np.testing.assert_array_equal, found, (loss, gradients))
    assert (np.asarray(found[1][1])[~np.asarray(there(LENGTHS, 30))] == 0).all()


def assert_close(found, expected):
    """To 1e-6 of the largest: products of other shapes add up in another order."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * max(1, np.abs(expected).max()))


def test_more_padding_and_other_clips_beside_it_change_nothing(model, clips, silenced):
    logits, (_, (gradients, _)) = silenced
    longer = np.full((4, 47, FEATURES), np.nan, np.float32)
    longer[:, :30] = clips
    found = np.asarray(model.apply(model.params, longer, LENGTHS))
    own = np.asarray(model.own(LENGTHS, logits.shape[1]))
    assert_close(found[:, : own.shape[1]][own], logits[own])
    alone = np.asarray(model.apply(model.params, clips[1:2, :14], LENGTHS[1:2]))[0]
    assert_close(alone, logits[1, : len(alone)])
    total = jax.tree.map(np.zeros_like, gradients)
    for i in range(4):
        only = (longer[i : i + 1], LENGTHS[i : i + 1], LABELS[i : i + 1], LABEL_PADDINGS[i : i + 1])
        total = jax.tree.map(np.add, total, model.value_and_gradients(model.params, *only)[1][0])
    jax.tree.map(assert_close, total, gradients)


def test_every_output_frame_hears_the_first_and_the_last_of_its_clip(model, clips):
    heard = jax.jit(jax.jacobian(lambda x: model.apply(model.params, x, LENGTHS[:1]).sum(-1)[0]))(clips[:1])
    heard = np.abs(np.asarray(heard)[:, 0]).sum(-1) > 0  # [T', T]
    count = int(output_lengths(LENGTHS[0], *model.strides))
    assert heard[:count, [0, LENGTHS[0] - 1]].all()
    assert not heard[:, LENGTHS[0] :].any()


def test_there_are_as_many_output_frames_as_it_says(model, clips):
    for frames in (1, 2, 29, 30):
        shape = jax.eval_shape(model.apply, model.params, clips[:, :frames], np.minimum(LENGTHS, frames)).shape
        assert shape == (4, int(output_lengths(frames, *model.strides)), OUTPUTS)


def rectified(x):
    return np.clip(x, 0, 20)


def windows(x, layer, stride):
    """A dense layer on the frames around each `stride`-th one."""
    kernel = layer["kernel"]
    side = len(kernel) // 2
    padded = np.pad(x, ((side, side), (0, 0)))
    return np.stack([np.einsum("cm,cmh->h", padded[t : t + len(kernel)], kernel) for t in range(0, len(x), stride)])


def recurrence(step, inputs, kernel):
    state, states = np.zeros(len(kernel)), []
    for x in inputs:
        state = step(state, x, state @ kernel)
        states.append(state)
    return np.stack(states)


def two_ways(step, forwards, backwards, kernels):
    return recurrence(step, forwards, kernels[0]) + recurrence(step, backwards[::-1], kernels[1])[::-1]


def dense(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def deep_speech_by_hand(params, x):
    x = rectified(windows(x, params["layer1"], 2) + params["layer1"]["bias"])
    for name in ("layer2", "layer3"):
        x = rectified(dense(x, params[name]))
    inputs = dense(x, params["layer4"]["input"])
    x = two_ways(lambda _, x, h: rectified(x + h), inputs, inputs, params["layer4"]["kernel"])
    return dense(rectified(dense(x, params["layer5"])), params["output"])


def gated(state, x, h):
    (xz, xr, xc), (hz, hr, hc) = np.split(x, 3), np.split(h, 3)
    update = expit(xz + hz)
    return (1 - update) * state + update * np.tanh(xc + expit(xr + hr) * hc)


def conv_gru_by_hand(params, x):
    for i, stride in enumerate(STRIDES[CONV_GRU]):
        layer = params["convolutions"][str(i)]
        x = windows(x, layer["convolution"], stride)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        x = rectified(x * layer["norm"]["scale"] + layer["norm"]["bias"])
    for layer in params["recurrent"].values():
        x = two_ways(gated, *np.split(dense(x, layer["input"]), 2, -1), layer["kernel"])
    return dense(x, params["output"])


def test_it_is_the_formula(model, clips, silenced):
    by_hand = {DEEP_SPEECH: deep_speech_by_hand, CONV_GRU: conv_gru_by_hand}[model.build]
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model.params)
    for clip, length, found in zip(clips, LENGTHS, silenced[0], strict=True):
        expected = by_hand(params, clip[:length].astype(np.float64))
        np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def count(build):
    return sum(leaf.size for leaf in jax.tree.leaves(outline(build).params))


@pytest.mark.parametrize(("features", "units", "context", "outputs"), [(6, 8, 3, 5), (80, 2048, 9, 29)])
def test_deep_speech_has_as_many_parameters_as_its_formulas(features, units, context, outputs):
    build = partial(deep_speech, features=features, units=units, context=context, outputs=outputs)
    first = (2 * context + 1) * features * units + units
    others = 4 * (units * units + units)  # the inputs of the recurrence are one of them
    assert count(build) == first + others + 2 * units * units + units * outputs + outputs


@pytest.mark.parametrize(("maps", "width", "convolutions", "units", "layers"), [(7, 5, 3, 8, 2), (32, 11, 1, 800, 3)])
def test_conv_gru_has_as_many_parameters_as_its_formulas(maps, width, convolutions, units, layers):
    sizes = {"maps": maps, "width": width, "strides": (2,) * convolutions, "units": units, "layers": layers}
    befores, inputs = [FEATURES] + [maps] * (convolutions - 1), [maps] + [units] * (layers - 1)
    expected = sum(width * before * maps + 2 * maps for before in befores)
    expected += sum(2 * 3 * (before * units + units * units + units) for before in inputs)
    assert count(partial(conv_gru, features=FEATURES, outputs=OUTPUTS, **sizes)) == expected + units * OUTPUTS + OUTPUTS


def test_dropout_needs_a_key_and_follows_from_it(model, clips, silenced):
    apply = jax.jit(outline(partial(model.build, dropout=0.3)).apply)
    np.testing.assert_allclose(apply(model.params, clips, LENGTHS), silenced[0], rtol=0, atol=1e-6)
    first, same, other = (apply(model.params, clips, LENGTHS, key=jax.random.key(seed)) for seed in (2, 2, 3))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    assert (first != silenced[0]).any()


def test_it_computes_in_bfloat16_and_keeps_its_parameters_in_float32(model, clips, silenced):
    apply, shapes = outline(partial(model.build, dtype="bfloat16"))
    logits = jax.jit(apply)(model.params, clips, LENGTHS)
    assert logits.dtype == "bfloat16"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}
    own = np.asarray(model.own(LENGTHS, logits.shape[1]))
    difference = np.abs(np.asarray(logits, np.float32) - silenced[0])[own]
    assert difference.max() < 0.05 * np.abs(silenced[0][own]).max()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(DEEP_SPEECH, context=-1), "got -1 and 2"),
        (partial(DEEP_SPEECH, stride=0), "got 3 and 0"),
        (partial(CONV_GRU, width=4), "width must be an odd number"),
        (partial(CONV_GRU, strides=()), "one or more numbers"),
        (partial(CONV_GRU, strides=(2, 0)), r"got \(2, 0\)"),
        (partial(CONV_GRU, layers=0), "layers must be 1 or more, got 0"),
    ],
)
def test_sizes_that_make_no_model_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build(jax.random.key(0))
    with pytest.raises(ValueError, match=r"strides must be 1 or more, got \(0,\)"):
        output_lengths(LENGTHS, 0)
