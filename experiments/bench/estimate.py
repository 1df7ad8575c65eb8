"""What samples of a time say: the median, and an interval that holds it whatever the distribution is."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Estimate(NamedTuple):
    """A median and where it may be."""

    median: float
    low: float
    high: float
    confidence: float
    """Probability that low to high holds the true median, were the samples independent."""


def estimate(samples: Sequence[float], confidence: float = 0.95) -> Estimate:
    r"""Estimate a median, with the narrowest symmetric pair of order statistics that has the confidence asked for.

    .. math:: [x_{(k)}, x_{(n+1-k)}], \qquad 1 - 2 \, P(B < k) \ge confidence, \quad B \sim binomial(n, 1/2)

    Args:
      samples: one or more, in any unit.
      confidence: below 1. Fewer than six samples cannot give 0.95: then the interval is all of them.

    Returns:
      Median and interval in the samples' unit, and the interval's own confidence.

    Raises:
      ValueError: without samples.

    Example:
      >>> estimate([5.0, 1.0, 4.0, 2.0, 3.0, 6.0])
      Estimate(median=3.5, low=1.0, high=6.0, confidence=0.96875)

    Source: Conover, Practical Nonparametric Statistics, 1999, section 3.2.
    """
    count = len(samples)
    if not count:
        raise ValueError("samples is empty: a median needs one or more")
    outside = 2 * 0.5**count  # both tails together, for k = 1
    k, tail = 1, outside + 2 * count * 0.5**count
    while k < (count + 1) // 2 and tail <= 1 - confidence:
        k, outside = k + 1, tail
        tail += 2 * math.comb(count, k) * 0.5**count
    ordered = sorted(samples)
    return Estimate(statistics.median(ordered), ordered[k - 1], ordered[count - k], 1 - outside)


def ratio(times: Sequence[float], baseline: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Estimate how many times as long as a baseline something takes, from pairs taken in the same round.

    The interval needs no independence of a machine's noise, only of the order within rounds. Whatever drifts, who of a
    pair came first was drawn, so a drift is as likely to lengthen one as the other: in each round, whether the ratio is
    above or below its true value is the toss of a coin. That is all that a median's interval stands on.

    Example:
      >>> ratio([2.0, 40.0, 6.0], [1.0, 20.0, 3.0]).median
      2.0
    """
    return estimate([time / base for time, base in zip(times, baseline, strict=True)], confidence)
