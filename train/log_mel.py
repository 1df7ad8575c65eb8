"""What a speech model hears: the logarithm of a clip's energy in bands of the mel scale, frame after frame."""

from functools import lru_cache

import numpy as np
from scipy import sparse

from xent.train.errors import require

WINDOW = 0.025
"""Seconds that a frame looks at."""
HOP = 0.01
"""Seconds from one frame to the next."""
HIGHEST = 8000.0
"""Hertz; the bands end here, or at half of the samples a second."""


def log_mel(samples: np.ndarray, sample_rate: int, bands: int) -> np.ndarray:
    r"""Of each frame, log energies in bands of equal width in mel, less the clip's mean and over its deviation.

    .. math:: \mathrm{mel}(f) = 2595 \log_{10}(1 + f / 700)

    Args:
      samples: integer or float `[samples]`; shorter ones than a window are filled up with silence.
      sample_rate: samples a second.
      bands: numbers a frame.

    Returns:
      float32 `[frames, bands]`, a frame each hundredth of a second, each band with mean 0 and variance 1 over the clip.

    Raises:
      UsageError: for so many bands that some would hold no frequency.

    Example:
      >>> log_mel(np.sin(np.arange(16000.0)), 16000, 40).shape
      (98, 40)

    Source: Davis and Mermelstein 1980, https://doi.org/10.1109/TASSP.1980.1163420; the scale as in O'Shaughnessy 1987.
    """
    window, hop = round(WINDOW * sample_rate), round(HOP * sample_rate)
    x = np.asarray(samples, np.float64)
    x = np.pad(x, (0, max(0, window - len(x))))
    frames = np.lib.stride_tricks.sliding_window_view(x, window)[::hop]
    size = 1 << (window - 1).bit_length()
    spectrum = np.fft.rfft(frames * np.hanning(window), size)
    power = spectrum.real**2 + spectrum.imag**2
    energy = np.log((_filters(sample_rate, size, bands) @ power.T).T + 1.0)  # one step of an int16 sample is no sound
    centred = energy - energy.mean(0)
    return (centred / np.maximum(centred.std(0), 1e-3)).astype(np.float32)


@lru_cache(maxsize=4)
def _filters(sample_rate: int, size: int, bands: int) -> sparse.csr_array:
    """Triangles, `[bands, frequencies]`: each rises from its left neighbour's middle and falls to its right one's.

    Mostly zeros: a sparse product is over before the threads of a dense one have started, whose number it does not see.
    """
    top = 2595 * np.log10(1 + min(HIGHEST, sample_rate / 2) / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    left, middle, right = (part[:, None] for part in (edges[:-2], edges[1:-1], edges[2:]))
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate)
    rising, falling = (frequencies - left) / (middle - left), (right - frequencies) / (right - middle)
    filters = np.maximum(0, np.minimum(rising, falling))
    allowed = f"so few that each holds a frequency, at {sample_rate} samples a second: 40, or 80"
    require("--bands", bands, bool((filters > 0).any(1).all()), allowed)
    return sparse.csr_array(filters)
