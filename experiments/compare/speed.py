"""What is computed from two machines' samples: speed-ups with honest intervals, when compilation pays, agreement."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from xent.experiments.bench.engine import Timing
from xent.experiments.bench.estimate import Estimate, estimate

CONFIDENCE = 0.95
EACH = math.sqrt(CONFIDENCE)


def speed_up(base: Sequence[float], other: Sequence[float]) -> Estimate:
    r"""Estimate how many times as fast something is on another machine: the ratio of two medians.

    The machines ran at different times, so there are no pairs, and a bootstrap of a median from a dozen samples covers
    too little. Each median gets the interval between two order statistics that holds it with probability
    :math:`\sqrt{0.95}` whatever its distribution is. Both hold at once with probability 0.95, since the samples of two
    machines are independent, and then the ratio lies between the ratios of their ends:

    .. math:: \left[\frac{l_{base}}{h_{other}}, \frac{h_{base}}{l_{other}}\right]

    No shape, and no likeness of the two distributions is assumed. The price is width: the interval holds the truth
    more often than it says, about 99 times in 100.

    Args:
      base: seconds a unit on the first machine.
      other: seconds a unit on the other.

    Returns:
      The ratio of the medians, base to other, above 1 where the other is faster; its interval, and the confidence of
      that. Fewer than seven samples of each give less than 0.95.

    Example:
      >>> speed_up([8.0, 9.0, 7.0, 8.0, 10.0, 8.0, 7.0], [4.0, 4.0, 5.0, 4.0, 4.0, 4.0, 4.0])[:3]
      (2.0, 1.4, 2.5)
    """
    a, b = estimate(base, EACH), estimate(other, EACH)
    return Estimate(a.median / b.median, a.low / b.high, a.high / b.low, a.confidence * b.confidence)


def verdict(found: Estimate) -> str:
    """Say what a speed-up shows: `faster`, `slower`, `no difference shown`, or `too few samples` to say."""
    if found.confidence < CONFIDENCE:
        return "too few samples"
    if found.low > 1:
        return "faster"
    return "slower" if found.high < 1 else "no difference shown"


class Line(NamedTuple):
    """The seconds that a training of so many steps takes: `start + steps * step`."""

    start: float
    """To trace, lower and compile."""
    step: Estimate


def line(case: Timing) -> Line | None:
    """What a case's training takes, if it says how long compilation took."""
    return case.compile and Line(case.compile.seconds, estimate(case.per_unit, EACH))


class Crossing(NamedTuple):
    """When another machine's training is ahead of the first one's."""

    kind: str
    """`after` so many steps it is ahead for good; `until` so many it is, and no longer; `at once`, `never`; `open`: the
    steps' times are not told apart."""
    steps: int | None = None
    low: int | None = None
    high: int | None = None
    """Where the number of steps may be, by the steps' intervals. The time to compile was taken once and counts as it
    is."""


def crossing(base: Line, other: Line) -> Crossing:
    """Find where the lines of two machines cross.

    Example:
      >>> step = lambda seconds: Estimate(seconds, seconds, seconds, 1.0)
      >>> crossing(Line(1.0, step(0.010)), Line(11.0, step(0.005)))
      Crossing(kind='after', steps=2000, low=2000, high=2000)
      >>> crossing(Line(1.0, step(0.010)), Line(0.5, step(0.005))).kind
      'at once'
    """
    gain = base.step.median - other.step.median
    least, most = base.step.low - other.step.high, base.step.high - other.step.low
    if least <= 0 <= most:
        return Crossing("open")
    wait = other.start - base.start
    if gain > 0 and wait <= 0:
        return Crossing("at once")
    if gain < 0 and wait >= 0:
        return Crossing("never")
    low, high = sorted(math.ceil(wait / by) for by in (least, most))
    return Crossing("after" if gain > 0 else "until", math.ceil(wait / gain), low, high)


def differences(base: Sequence[float], other: Sequence[float]) -> list[float]:
    """Compare two loss curves step by step, relative to the first, over the steps that both have.

    What is no number on both counts as equal, on one as infinitely far.

    Example:
      >>> differences([2.0, 1.0, 0.5], [2.0, 1.25])
      [0.0, 0.25]
    """
    return [_difference(a, b) for a, b in zip(base, other, strict=False)]


def _difference(a: float, b: float) -> float:
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    if not (math.isfinite(a) and math.isfinite(b)) or a == 0:
        return math.inf
    return abs(b - a) / abs(a)
