"""From log-probabilities of symbols along time to labels: the best alignment, or the best labels by a beam search."""

from collections import defaultdict

import numpy as np
from numpy.typing import ArrayLike

BLANK = 0
Prefix = tuple[int, ...]


def greedy(log_probabilities: ArrayLike, length: int) -> list[int]:
    """The labels of the most probable alignment: its repetitions are one, then its blanks are none.

    Args:
      log_probabilities: float `[T, V]`, or logits, of each frame; class 0 is the blank.
      length: frames that count.

    Returns:
      Labels in [1, V).

    Example:
      >>> greedy(np.eye(3)[[0, 1, 1, 0, 1, 2, 0]], 7)
      [1, 1, 2]

    Source: Graves et al., Connectionist Temporal Classification, 2006, section 3.2: best path decoding
    """
    best = np.asarray(log_probabilities)[:length].argmax(-1)
    first = np.concatenate([[True], best[1:] != best[:-1]])[: len(best)]
    return [int(label) for label in best[first] if label != BLANK]


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
      ValueError: for a width below 1.

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
    kept: dict[Prefix, tuple[float, float]] = {(): (0.0, -np.inf)}
    for frame in np.asarray(log_probabilities, np.float64)[:length]:
        kept = dict(sorted(_extended(kept, frame).items(), key=lambda found: -np.logaddexp(*found[1]))[:width])
    return list(max(kept, key=lambda prefix: np.logaddexp(*kept[prefix])))


def _extended(kept: dict[Prefix, tuple[float, float]], frame: np.ndarray) -> dict[Prefix, tuple[float, float]]:
    """Every prefix that one frame makes of those before it, with its log-probabilities, in a blank and in a label."""
    found: dict[Prefix, tuple[float, float]] = defaultdict(lambda: (-np.inf, -np.inf))
    for prefix, (in_blank, in_label) in kept.items():
        either = np.logaddexp(in_blank, in_label)
        again = in_label + frame[prefix[-1]] if prefix else -np.inf
        was_blank, was_label = found[prefix]
        found[prefix] = np.logaddexp(was_blank, either + frame[BLANK]), np.logaddexp(was_label, again)
        for label in range(1, len(frame)):
            before = in_blank if prefix and prefix[-1] == label else either
            longer = (*prefix, label)
            was_blank, was_label = found[longer]
            found[longer] = was_blank, np.logaddexp(was_label, before + frame[label])
    return found
