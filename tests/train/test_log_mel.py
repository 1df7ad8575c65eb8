"""What a speech model hears: what the definition says, whatever the samples' rate, level or length."""

import numpy as np
import pytest

from xent.train.errors import UsageError
from xent.train.log_mel import log_mel


def by_definition(samples, rate, bands):
    """Frame by frame, with a dense filter for each band."""
    window, hop = round(0.025 * rate), round(0.01 * rate)
    size = 1 << (window - 1).bit_length()
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), bands + 2) / 2595) - 1)
    frequencies = np.arange(size // 2 + 1) * rate / size
    filters = [np.interp(frequencies, edges[band : band + 3], [0, 1, 0]) for band in range(bands)]
    found = []
    for start in range(0, len(samples) - window + 1, hop):
        frame = samples[start : start + window] * np.hanning(window)
        power = np.abs(np.fft.fft(frame, size)[: size // 2 + 1]) ** 2
        found.append([np.log(1 + (power * each).sum()) for each in filters])
    found = np.array(found)
    return (found - found.mean(0)) / found.std(0)


@pytest.mark.parametrize("rate", [16000, 22050])
def test_it_is_what_the_definition_says(rate):
    time = np.arange(rate // 2) / rate
    samples = (8000 * np.sin(2 * np.pi * (200 + 3000 * time) * time)).astype(np.int16)
    samples += np.random.default_rng(0).integers(-100, 100, len(samples)).astype(np.int16)
    np.testing.assert_allclose(log_mel(samples, rate, 40), by_definition(samples, rate, 40), atol=2e-5)


def test_level_does_not_matter_and_short_clips_have_a_frame():
    samples = np.random.default_rng(0).normal(size=8000) * 3000
    np.testing.assert_allclose(log_mel(samples, 16000, 20), log_mel(samples / 10, 16000, 20), atol=1e-3)
    for count in (0, 1, 399, 400, 559):
        assert log_mel(np.ones(count, np.int16), 16000, 20).shape == (1, 20)
    assert log_mel(np.ones(560, np.int16), 16000, 20).shape == (2, 20)
    assert (log_mel(np.zeros(1000, np.int16), 16000, 20) == 0).all()


def test_a_band_without_a_frequency_is_refused():
    assert log_mel(np.arange(22050), 22050, 128).shape[1] == 128
    with pytest.raises(UsageError, match=r"^--bands 200: must be so few that each holds a frequency, at 16000 samples"):
        log_mel(np.arange(16000), 16000, 200)
