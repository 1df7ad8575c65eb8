"""From log-probabilities of symbols along time to labels: the best alignment, or the best labels by a beam search."""

from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

BLANK = 0


def greedy(log_probabilities: ArrayLike, length: int) -> list[int]:
    """The labels of the most probable alignment: its repetitions are one, then its blanks are none.

    Args:
      log_probabilities: float `[T, V]`, or logits, of each frame; class 0 is the blank.
      length: frames that count.

    Returns:
      Labels in [1, V).

    Raises:
      ValueError: as `beam`, but for the width.

    Example:
      >>> greedy(np.eye(3)[[0, 1, 1, 0, 1, 2, 0]], 7)
      [1, 1, 2]

    Source: Graves et al., Connectionist Temporal Classification, 2006, section 3.2: best path decoding
    """
    best = _frames(log_probabilities, length).argmax(-1)
    return [label for label, _ in groupby(best.tolist()) if label != BLANK]


def beam(log_probabilities: ArrayLike, length: int, width: int = 16) -> list[int]:
    r"""The most probable labels that a search finds which keeps `width` prefixes after each frame.

    A prefix has two probabilities, of its alignments that end in a blank and of those that end in its last label:

    .. math::
      p_b(y) &\leftarrow (p_b(y) + p_l(y)) \, p_t(\text{blank}) \\
      p_l(y) &\leftarrow p_l(y) \, p_t(y_n) + (p_b(y_{<n}) + [y_{n-1} \ne y_n] \, p_l(y_{<n})) \, p_t(y_n)

    All alignments of a prefix are added up, which `greedy` does not do. If no prefix is ever left out, the labels are
    the most probable ones, those with the least CTC loss.

    Args:
      log_probabilities: float `[T, V]`, normalised, of each frame; class 0 is the blank.
      length: frames that count.
      width: prefixes kept.

    Returns:
      Labels in [1, V).

    Raises:
      ValueError: for a width below 1, more frames than there are, or a frame with NaN or with nothing above -inf.

    Example:
      Both frames are most likely blank, and yet no labels at all are less probable than one.

      >>> log_probabilities = np.log([[0.6, 0.4], [0.6, 0.4]])
      >>> greedy(log_probabilities, 2), beam(log_probabilities, 2)
      ([], [1])

    Source: Hannun et al., First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent
      DNNs, 2014, algorithm 1, without its language model, https://arxiv.org/abs/1408.2873
    """
    if width < 1:
        raise ValueError(f"width must be 1 or more, got {width}")
    kept = _Beam([()], np.zeros(1), np.full(1, -np.inf))
    for frame in _frames(log_probabilities, length):
        kept = _best(*_extended(kept, frame), width)
    return list(kept.prefixes[np.logaddexp(kept.in_blank, kept.in_label).argmax()])


def _frames(log_probabilities: ArrayLike, length: int) -> np.ndarray:
    frames = np.asarray(log_probabilities, np.float64)
    if frames.ndim != 2 or not 0 <= length <= len(frames):
        raise ValueError(f"log_probabilities must be [T, V] with T at least length, got {frames.shape} and {length}")
    frames = frames[:length]
    if not (frames.max(-1) > -np.inf).all():
        raise ValueError("log_probabilities must hold, in each frame, something above -inf and no NaN")
    return frames


class _Beam(NamedTuple):
    """Prefixes, and the log-probabilities of their alignments that end in a blank and in a label, float64 `[K]`."""

    prefixes: list[tuple[int, ...]]
    in_blank: np.ndarray
    in_label: np.ndarray


def _extended(kept: _Beam, frame: np.ndarray) -> tuple[_Beam, np.ndarray]:
    """One frame later: the prefixes that stay, and each of them with one label more, `[K, V - 1]`."""
    prefixes, in_blank, in_label = kept
    number = {prefix: i for i, prefix in enumerate(prefixes)}
    either = np.logaddexp(in_blank, in_label)
    some = np.array([i for i, prefix in enumerate(prefixes) if prefix], int)
    last = np.array([prefix[-1] for prefix in prefixes if prefix], int)
    longer = either[:, None] + frame[1:]
    longer[some, last - 1] = in_blank[some] + frame[last]  # the same label once more needs a blank between
    stays = np.full(len(prefixes), -np.inf)
    stays[some] = in_label[some] + frame[last]
    for i, label in zip(some, last, strict=True):
        shorter = number.get(prefixes[i][:-1])
        if shorter is not None:  # then it is found twice: as it stays, and as another made longer
            stays[i] = np.logaddexp(stays[i], longer[shorter, label - 1])
            longer[shorter, label - 1] = -np.inf
    return _Beam(prefixes, either + frame[BLANK], stays), longer


def _best(stay: _Beam, longer: np.ndarray, width: int) -> _Beam:
    count, labels = longer.shape
    total = np.concatenate([np.logaddexp(stay.in_blank, stay.in_label), longer.ravel()])
    chosen = np.argsort(-total, kind="stable")[:width]
    chosen = chosen[total[chosen] > -np.inf]
    longest = np.stack(np.divmod(chosen - count, labels))
    prefixes = [
        stay.prefixes[i] if i < count else (*stay.prefixes[prefix], int(label) + 1)
        for i, (prefix, label) in zip(chosen, longest.T, strict=True)
    ]
    new = np.full(longer.size, -np.inf)
    in_blank = np.concatenate([stay.in_blank, new])[chosen]
    return _Beam(prefixes, in_blank, np.concatenate([stay.in_label, longer.ravel()])[chosen])
