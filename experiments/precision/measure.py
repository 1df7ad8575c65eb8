"""Runs every library over every regime, keeps the largest errors, searches around them, and asks mpmath about them."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from xent.experiments.precision.logits import mutated
from xent.experiments.precision.loss import OURS, Loss, Rows, count, join, shape, take
from xent.experiments.precision.oracle import FORMATS, TINY, Truth, ulps

OF = ("value", "gradient")
NO_BOUND = 1e6
"""What the search takes for the bound of what has none."""
PARENTS = 256
"""Rows that a search goes on from."""
AT_ONCE = 2**16
"""Numbers in a batch: enough to keep a device busy, little in memory."""
GENERATIONS = 6
"""Of the search, at least, if there are thousands of rows."""


class Plan(NamedTuple):
    """How much to do for each loss and dtype."""

    inputs: int
    """Rows, before a loss's share in a dtype."""
    narrow: bool
    """Whether to leave out all widths but the most common one, and dtypes that do not get as much as float32."""
    checked: int
    """Rows to compute in many digits; fewer for a loss whose share is below a tenth."""
    checked_numbers: int
    """Numbers in them, at most."""

    def dtypes(self, loss: Loss) -> list[str]:
        """To measure a loss in."""
        return [dtype for dtype in FORMATS if loss.in_full(dtype) or not self.narrow]

    def rows(self, loss: Loss, dtype: str) -> int:
        """Of each regime; the search has twice as many."""
        return math.ceil(self.inputs * loss.share[dtype] / (len(loss.regimes) + 2))

    def rows_checked(self, loss: Loss, dtype: str) -> int:
        """To compute in many digits."""
        return math.ceil(self.checked * min(1, 10 * loss.share[dtype]))


class Error(NamedTuple):
    """What a library got wrong in a regime."""

    largest: float = 0.0
    """In ulp, of what is finite where it should be."""
    wrong: int = 0
    """Rows with NaN or inf where there should be none, or none where there should be."""


class Cell(NamedTuple):
    """A line of the result."""

    loss: str
    family: str
    dtype: str
    regime: str
    of: str
    bound: float
    """In ulp of float32; for gradients, of the dtype."""
    rows: int
    errors: dict[str, Error]

    @property
    def holds(self) -> bool:
        """Whether our error is within the bound."""
        ours = self.errors[OURS]
        return not ours.wrong and ours.largest <= self.bound


class Worst(NamedTuple):
    """The input of a largest error."""

    loss: str
    dtype: str
    regime: str
    of: str
    library: str
    error: float
    """inf if what is not finite is at the wrong place."""
    got: float
    """At the logit of the error, if it is one of the gradient."""
    true: float
    position: int
    """Of that logit."""
    rows: Rows
    """One row."""


class Check(NamedTuple):
    """What many digits say of the rows that we do worst on."""

    loss: str
    dtype: str
    rows: int
    differ: float
    """Largest distance of our truth from theirs, in ulp: float32's, and the dtype's for gradients."""


class Found(NamedTuple):
    """All there is to say about a loss in a dtype."""

    cells: list[Cell]
    worst: list[Worst]
    check: Check


def bounds(loss: Loss, dtype: str, classes: int) -> tuple[float, float]:
    """What a loss promises; a gradient in a smaller dtype is rounded once more."""
    value, gradient = loss.bounds(classes)
    places = {"float32": 0, "bfloat16": 16, "float16": 13}[dtype]
    return value, gradient if not places else 0.5 + gradient / 2**places


class Pool:
    """The rows that we do worst on, of each shape."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held: dict[tuple[int, ...], tuple[np.ndarray, Rows]] = {}

    def add(self, badness: np.ndarray, rows: Rows) -> None:
        """Put rows in, and drop all but the worst."""
        width = shape(rows)
        chosen = np.argsort(-badness, kind="stable")[: self.size]
        badness, rows = badness[chosen], take(rows, chosen)
        if width in self.held:
            before = self.held[width]
            badness, rows = np.concatenate([before[0], badness]), join(before[1], rows)
            order = np.argsort(-badness, kind="stable")[: self.size]
            badness, rows = badness[order], take(rows, order)
        self.held[width] = badness, rows


def batches(loss: Loss, dtype: str, plan: Plan, random: np.random.Generator, pool: Pool) -> Iterator[tuple[str, Rows]]:
    """Yield every batch with the name of its regime. The search goes on from what those before left in `pool`."""
    main = max(loss.widths, key=lambda width: loss.widths[width])
    narrow = plan.narrow or not loss.in_full(dtype)  # half precision becomes float32 first, whatever the width
    widths = {main: 1.0} if narrow else loss.widths
    each = plan.rows(loss, dtype)
    searched: tuple[int, ...] = ()
    for name, regime in loss.regimes.items():
        for width, share in widths.items():
            for number in sizes(each * share, width):
                rows = regime(random, number, width, dtype)
                searched = shape(rows) if width == main else searched
                yield name, rows
    for width, regime in () if narrow else loss.wide.items():
        for number in sizes(max(each // 100, 9) if width <= 1000 else 9, width):
            yield f"{width} classes", regime(random, number, width, dtype)
    at_once = sizes(each * widths[main], main)[0]  # a size that is compiled already
    for _ in range(-(-2 * each // at_once)):
        found = pool.held[searched][1]
        yield "searched", mutated(random, take(found, np.arange(min(PARENTS, count(found)))), at_once, loss.moved)


def sizes(rows: float, width: int) -> list[int]:
    """Cut rows into batches of one size, so that each width is compiled once; together at least as many."""
    number = max(1, round(rows * width / AT_ONCE), min(GENERATIONS // 2, int(rows) // 1000))
    return [math.ceil(rows / number)] * number


def measure(loss: Loss, dtype: str, plan: Plan, random: np.random.Generator) -> Found:
    """Measure a loss in a dtype, in every regime."""
    counts: dict[str, int] = {}
    errors: dict[tuple[str, str, str], Error] = {}
    worst: dict[tuple[str, str, str], Worst] = {}
    classes: dict[str, int] = {}
    pool = Pool(max(plan.rows_checked(loss, dtype), PARENTS))
    for regime, rows in batches(loss, dtype, plan, random, pool):
        truth, width = loss.truth(rows), shape(rows)[-1]
        counts[regime] = counts.get(regime, 0) + count(rows)
        classes[regime] = max(width, classes.get(regime, 0))
        for library, run in loss.runs.items():
            if library == "torch" and regime == "undefined":
                continue  # it raises an error
            got = run(rows)
            found = judge(truth, got, dtype)
            for of, (error, wrong) in zip(OF, found, strict=True):
                key = regime, of, library
                by_row = error.max(-1, initial=0)
                before = errors.get(key, Error())
                finite = by_row[np.isfinite(by_row)].max(initial=0.0)
                errors[key] = Error(max(before.largest, float(finite)), before.wrong + int(wrong.any(-1).sum()))
                at = int(by_row.argmax())
                if of in loss.of and (key not in worst or by_row[at] > worst[key].error):
                    worst[key] = _worst(loss, dtype, key, at, rows, truth, got, error)
            if library == OURS:
                relative = [error.max(-1, initial=0) / min(limit, NO_BOUND)
                            for (error, _), limit in zip(found, bounds(loss, dtype, width), strict=True)]  # fmt: skip
                pool.add(np.where(np.isfinite(truth.value), np.maximum(*relative), -1.0), rows)
    cells = [
        Cell(loss.name, loss.family, dtype, regime, of, limit, counts[regime],
             {library: errors[regime, of, library] for library in loss.runs if (regime, of, library) in errors})
        for regime in counts for of, limit in zip(OF, bounds(loss, dtype, classes[regime]), strict=True)
        if of in loss.of
    ]  # fmt: skip
    return Found(cells, list(worst.values()), check(loss, dtype, pool, plan))


Judgement = tuple[np.ndarray, np.ndarray]
"""Errors, and what is wrong, `[rows, numbers]`."""


def judge(truth: Truth, got: Sequence[np.ndarray], dtype: str) -> tuple[Judgement, Judgement]:
    """Judge value and gradient."""
    value, gradient = got
    slack = truth.slack[:, None]
    size = truth.value if truth.size is None else truth.size
    scale = truth.scale
    if dtype != "float32":  # rounded once more, at its own size
        scale = np.maximum(scale, np.abs(truth.gradient))
    error, wrong = ulps(gradient, truth.gradient, scale,
                        slack if truth.slope_slack is None else truth.slope_slack, dtype)  # fmt: skip
    if truth.relative and dtype == "float32":
        error = error / (2 * np.frexp(np.maximum(scale, TINY))[0])
    judged = np.True_ if truth.judged is None else truth.judged
    of_value = ulps(value[:, None], truth.value[:, None], size[:, None], slack, "float32")
    return of_value, (np.where(judged, error, 0), wrong & judged)


def _worst(
    loss: Loss, dtype: str, key: tuple[str, str, str], at: int, rows: Rows, truth: Truth, got: Sequence[np.ndarray],
    errors: np.ndarray,
) -> Worst:  # fmt: skip
    regime, of, library = key
    position = int(errors[at].argmax()) if of == "gradient" else 0
    values, trues = (
        (got[0][at], truth.value[at]) if of == "value" else (got[1][at, position], truth.gradient[at, position])
    )
    error = float(errors[at, position])
    row = take(rows, np.array([at]))
    return Worst(loss.name, dtype, regime, of, library, error, float(values), float(trues), position, row)


def check(loss: Loss, dtype: str, pool: Pool, plan: Plan) -> Check:
    """Compute the worst rows in many digits, and compare the truth that errors were measured against."""
    ordered = sorted(
        ((float(badness), width, row) for width, (every, _) in pool.held.items() for row, badness in enumerate(every)),
        reverse=True,
    )
    differ, done, numbers = 0.0, 0, 0
    for badness, width, row in ordered:
        if badness < 0 or done >= plan.rows_checked(loss, dtype):
            break
        if numbers + math.prod(width) > plan.checked_numbers:
            continue
        one = take(pool.held[width][1], np.array([row]))
        differ = max(differ, distance(loss, dtype, one))
        done, numbers = done + 1, numbers + math.prod(width)
    return Check(loss.name, dtype, done, differ)


def distance(loss: Loss, dtype: str, row: Rows) -> float:
    """How far our truth of a row is from that in many digits, in ulp: float32's, and the dtype's for gradients."""
    value, gradient = loss.exact(row)
    truth = loss.truth(row)
    far = 2.0**-20  # below what is forgiven: no news
    truth = truth._replace(
        slack=truth.slack * far,
        # Nor is it that a difference has the digits of its terms.
        scale=np.maximum(truth.scale, np.abs(truth.gradient)),
        slope_slack=None if truth.slope_slack is None else truth.slope_slack * far,
    )
    found = judge(truth, (np.array([value]), gradient.reshape(1, -1)), dtype)
    return max(float(error.max(initial=0)) for of, (error, _) in zip(OF, found, strict=True) if of in loss.of)
