"""Augmented batches hold what went in, moved or blended, and targets that say in which shares."""

from functools import partial

import jax
import numpy as np
import pytest

from xent.train.augment import chain, crop, cutmix, mixup, one_of, shift

BATCH, SIDE, CLASSES = 16, 9, 4

mixing, cutting = (jax.jit(partial(blend, alpha=1.0)) for blend in (mixup, cutmix))  # compiled once for this file


@pytest.fixture(scope="module")
def batch():
    images = np.random.default_rng(0).uniform(0.1, 1, (BATCH, SIDE, SIDE, 2)).astype(np.float32)
    return images, np.eye(CLASSES, dtype=np.float32)[np.arange(BATCH) % CLASSES]


def shifted(image, down, right):
    moved = np.zeros_like(image)
    for row in range(SIDE):
        for column in range(SIDE):
            if 0 <= row - down < SIDE and 0 <= column - right < SIDE:
                moved[row, column] = image[row - down, column - right]
    return moved


def test_shift_moves_each_image_by_whole_pixels(batch):
    moved, targets = jax.jit(partial(shift, pixels=2))(jax.random.key(1), *batch)
    np.testing.assert_array_equal(targets, batch[1])
    moves = []
    for before, after in zip(batch[0], np.asarray(moved), strict=True):
        fitting = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if np.array_equal(shifted(before, down, right), after)
        ]
        assert len(fitting) == 1
        moves += fitting
    assert len(set(moves)) > 5


def test_crop_shows_a_window_of_each_image_in_its_whole_size():
    """Of a ramp, a window is a ramp again: less steep, by its share, and between the same ends."""
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32)[None, :, None, None], (BATCH, 40, 40, 1))
    cut, _ = jax.jit(partial(crop, smallest=0.5))(jax.random.key(1), ramp, np.ones((BATCH, 1), np.float32))
    rows = np.asarray(cut[:, :, 20, 0])
    slopes = np.diff(rows[:, 5:-5], axis=1)
    np.testing.assert_allclose(slopes, slopes[:, :1].repeat(slopes.shape[1], 1), atol=1e-3)
    assert (slopes[:, 0] >= 0.5 - 1e-3).all()
    assert (slopes[:, 0] <= 1 + 1e-3).all()
    assert np.ptp(slopes[:, 0]) > 0.2
    assert rows.min() >= 0
    assert rows.max() <= 39
    assert np.ptp(rows[:, 20]) > 2


def test_a_crop_of_everything_changes_nothing(batch):
    cut, _ = jax.jit(partial(crop, smallest=1.0))(jax.random.key(1), *batch)
    np.testing.assert_allclose(cut, batch[0], atol=1e-5)


def test_mixup_blends_pixels_as_targets_say(batch):
    images, _ = batch
    mixed, shares = jax.device_get(mixing(jax.random.key(1), images, np.eye(BATCH, dtype=np.float32)))
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(mixed, np.tensordot(shares, images, 1), rtol=1e-5)
    assert ((shares > 0.01).sum(-1) == 2).sum() > BATCH // 2


def test_cutmix_puts_in_a_rectangle_and_counts_its_pixels(batch):
    images, _ = batch
    mixed, shares = jax.device_get(cutting(jax.random.key(1), images, np.eye(BATCH, dtype=np.float32)))
    blended = 0
    for i in range(BATCH):
        own = (mixed[i] == images[i]).all(-1)
        assert own.mean() == pytest.approx(shares[i, i], abs=1e-6)
        if shares[i, i] < 1:
            (other,) = [j for j in range(BATCH) if j != i and shares[i, j] > 0]
            rows, columns = np.nonzero(~own)
            window = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
            assert np.array_equal(mixed[i][window], images[other][window])
            assert (~own)[window].all()
            blended += 1
    assert blended > BATCH // 2


def test_a_chain_applies_all_and_one_of_draws(batch):
    ones = np.ones_like(batch[0])

    def add(key, images, targets, *, number):
        return images + number, targets

    both = jax.jit(chain(partial(add, number=1), partial(add, number=2)))(jax.random.key(0), *batch)[0]
    np.testing.assert_allclose(both, batch[0] + 3, rtol=1e-6)
    either = jax.jit(one_of(partial(add, number=1), partial(add, number=2)))
    found = {float(either(jax.random.key(seed), ones, batch[1])[0].mean()) for seed in range(20)}
    assert found == {2.0, 3.0}


@pytest.mark.parametrize("augmentation", [mixing, cutting])
def test_blending_follows_from_the_key_alone(batch, augmentation):
    targets = np.eye(BATCH, dtype=np.float32)
    one, same, other = (augmentation(jax.random.key(seed), batch[0], targets)[1] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
