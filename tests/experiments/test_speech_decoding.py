"""Decoding CTC: the best alignment by hand, and the best labels as all labels and their losses have it."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xent.experiments.speech_decoding import beam, greedy
from xent.losses import ctc_loss

FRAMES, CLASSES = 4, 3
EVERYTHING = [y for n in range(FRAMES + 1) for y in product(range(1, CLASSES), repeat=n)]


@jax.jit
def losses(frames, labels, paddings):
    """Of many labels for the same frames, `[S]`."""
    count = len(labels)
    x = jnp.broadcast_to(frames[None], (count, *frames.shape))
    return ctc_loss(x, jnp.zeros(x.shape[:-1]), labels, paddings)


def costs(frames, candidates):
    labels = np.ones((len(candidates), len(frames)), int)
    paddings = np.ones(labels.shape)
    for i, candidate in enumerate(candidates):
        labels[i, : len(candidate)], paddings[i, : len(candidate)] = candidate, 0
    return np.asarray(losses(frames, labels, paddings))


def clips(count, frames, classes, scale, seed):
    logits = scale * np.random.default_rng(seed).normal(size=(count, frames, classes)).astype(np.float32)
    return np.asarray(jax.nn.log_softmax(logits))


@pytest.mark.parametrize(
    ("path", "labels"),
    [
        ([0, 0, 0], []),
        ([1, 1, 1], [1]),
        ([1, 0, 1], [1, 1]),
        ([0, 1, 1, 0, 0, 1, 2, 2, 0], [1, 1, 2]),
        ([2, 1, 2], [2, 1, 2]),
        ([], []),
    ],
)
def test_repetitions_are_one_label_and_blanks_none(path, labels):
    frames = np.log(0.8 * np.eye(3)[path] + 0.1 * (1 - np.eye(3)[path])).reshape(-1, 3)
    assert greedy(frames, len(path)) == labels
    certain = np.where(np.eye(3)[path].reshape(-1, 3) == 1, 0, -np.inf)
    assert greedy(certain, len(path)) == beam(certain, len(path), 1) == beam(certain, len(path), 8) == labels


def test_frames_beyond_the_length_do_not_count():
    (frames,) = clips(1, 9, 4, 2.0, seed=0)
    longer = np.concatenate([frames, np.full((3, 4), np.nan)])
    assert greedy(longer, 9) == greedy(frames, 9)
    assert beam(longer, 9, 4) == beam(frames, 9, 4)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_a_beam_that_leaves_out_nothing_finds_the_labels_with_the_least_loss(scale):
    for frames in clips(60, FRAMES, CLASSES, scale, seed=1):
        cost = costs(frames, EVERYTHING)
        found = tuple(beam(frames, FRAMES, len(EVERYTHING)))
        assert found == EVERYTHING[cost.argmin()]


def test_the_labels_of_a_beam_are_at_least_as_probable_as_those_of_the_best_alignment():
    better = 0
    for frames in clips(60, 12, 5, 1.0, seed=2):
        of_beam, of_greedy = costs(frames, [beam(frames, 12, 16), greedy(frames, 12)])
        assert of_beam <= of_greedy
        better += of_beam < of_greedy
    assert better > 10


def test_a_wider_beam_finds_labels_that_are_more_probable_on_the_whole():
    frames = clips(40, 12, 5, 1.0, seed=3)
    mean = [np.mean([costs(each, [beam(each, 12, width)])[0] for each in frames]) for width in (1, 2, 8, 64)]
    assert mean == sorted(mean, reverse=True)
    assert mean[0] > mean[-1]


def test_a_beam_of_one_follows_confident_frames():
    path = np.repeat([0, 2, 0, 1, 3, 3, 0, 3], 3)
    frames = np.asarray(jax.nn.log_softmax(jnp.asarray(8.0 * np.eye(4)[path])))
    assert beam(frames, len(path), 1) == greedy(frames, len(path)) == [2, 1, 3, 3]


@pytest.mark.parametrize("decode", [greedy, beam])
def test_frames_that_are_not_there_or_say_nothing_are_refused(decode):
    frames = np.log(np.full((3, 2), 0.5))
    with pytest.raises(ValueError, match=r"T at least length, got \(3, 2\) and 4"):
        decode(frames, 4)
    with pytest.raises(ValueError, match="no NaN"):
        decode(np.where(np.eye(3, 2) == 1, np.nan, frames), 3)
    with pytest.raises(ValueError, match="above -inf"):
        decode(np.full((3, 2), -np.inf), 3)


def test_a_beam_of_nothing_is_refused():
    with pytest.raises(ValueError, match="width must be 1 or more, got 0"):
        beam(np.zeros((1, 2)), 1, 0)
