"""What could be done before there were networks: words by the nearest templates, in time warped to fit.

One dynamic program over all frames finds where words begin and end, and which templates they are nearest to. Templates
are the training clips of a single word.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xent.experiments.speech_data import STRIDE, Part
from xent.experiments.speech_scores import errors
from xent.train.metrics import divide

PENALTIES = (0.0, 0.5, 1.0, 2.0)
"""For each word that is begun, in units of a frame's usual distance: tried on clips of the validation split."""
TRIED = 60
"""Clips."""


class Templates(NamedTuple):
    """Frames of words, one after the other."""

    frames: np.ndarray
    """float32 `[states, bands]`."""
    first: np.ndarray
    """Of each template its first state, int `[templates]`."""
    words: tuple[str, ...]


def templates_of(part: Part) -> Templates:
    """Every clip of a single word; none where there is no such clip."""
    rows = [row for row, text in enumerate(part.texts) if " " not in text]
    found = [_frames(part, row) for row in rows]
    lengths = np.array([len(frames) for frames in found], int)
    frames = np.concatenate([np.zeros((0, part.arrays["features"].shape[-1]), np.float32), *found])
    return Templates(frames, np.cumsum(lengths) - lengths, tuple(part.texts[row] for row in rows))


def hear(templates: Templates, frames: np.ndarray, penalty: float) -> str:
    r"""The words of the templates that warp to the frames at the least sum of distances.

    .. math:: D_{t,j} = d(x_t, y_j) + \min(D_{t-1,j}, D_{t-1,j-1}, D_{t-1,j-2})

    A template's first two frames may follow any template's last one, too, at a penalty.

    Args:
      templates: what is known.
      frames: float `[T, bands]`.
      penalty: for each word.

    Returns:
      Words with spaces between.

    Example:
      >>> templates = Templates(np.eye(4, dtype=np.float32), np.array([0, 2]), ("one", "two"))
      >>> hear(templates, np.eye(4)[[2, 3, 3, 0, 0, 1]], penalty=0.1)
      'two one'

    Source: Bridle, Brown and Chamberlain 1982, https://doi.org/10.1109/ICASSP.1982.1171695
    """
    y, first = templates.frames, templates.first
    last = np.append(first[1:], len(y)) - 1
    second = first[first < last] + 1
    distances = np.maximum(0, (frames**2).sum(1)[:, None] + (y**2).sum(1) - 2 * frames @ y.T)
    cost, begun = np.full(len(y), np.inf), np.zeros(len(y), int)
    entry, ends = 0.0, []
    for t, distance in enumerate(distances):
        costs, begins = np.stack([cost, _shifted(cost, 1), _shifted(cost, 2)]), begun
        costs[1, first] = costs[2, first] = costs[2, second] = np.inf
        way = costs.argmin(0)
        cost, begun = costs.min(0), begins[np.maximum(0, np.arange(len(y)) - way)]
        for place in (first, second):
            better = place[entry + penalty < cost[place]]
            cost[better], begun[better] = entry + penalty, t
        cost = cost + distance
        best = last[cost[last].argmin()]
        entry = cost[best]
        ends.append((best, begun[best]))
    words, t = [], len(ends) - 1
    while t >= 0 and np.isfinite(entry):
        state, start = ends[t]
        words.append(templates.words[int(np.searchsorted(first, state, side="right")) - 1])
        t = int(start) - 1
    return " ".join(reversed(words))


def _shifted(cost: np.ndarray, by: int) -> np.ndarray:
    return np.concatenate([np.full(by, np.inf), cost])[: len(cost)]


def _frames(part: Part, row: int) -> np.ndarray:
    return part.arrays["features"][row, : part.arrays["frames"][row] : STRIDE]


def score(train: Part, validation: Part, test: Part) -> dict[str, float]:
    """Choose the penalty on validation clips, and give the error rates on the test clips; none without templates."""
    templates = templates_of(train)
    if not templates.words:
        return {}
    unit = 2 * train.arrays["features"].shape[-1]  # two frames at random, each of variance 1

    def heard(part: Part, rows: Sequence[int], penalty: float) -> dict[str, float]:
        texts = [hear(templates, _frames(part, row), penalty * unit) for row in rows]
        return divide(errors([part.texts[row] for row in rows], texts))

    some = np.random.default_rng(0).permutation(len(validation.texts))[:TRIED].tolist()
    best = min(PENALTIES, key=lambda penalty: heard(validation, some, penalty)["WER"])
    return heard(test, range(len(test.texts)), best)
