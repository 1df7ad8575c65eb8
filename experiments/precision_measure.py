"""Runs every library over every regime, keeps the largest errors, searches around them, and asks mpmath about them."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from xent.experiments.precision_losses import Loss
from xent.experiments.precision_oracle import TINY, Truth, ulps
from xent.experiments.precision_regimes import REGIMES, Rows, mixed, mutated, sigmoid_rows, softmax_rows

OURS = "xent"
OF = ("value", "gradient")
PARENTS = 256
"""Rows that a search goes on from."""
AT_ONCE = 2**16
"""Logits in a batch: enough to keep a device busy, little in memory."""


class Plan(NamedTuple):
    """How much to do for each loss and dtype."""

    rows: int
    """Of each regime."""
    widths: dict[int, float]
    """Classes -> share of the rows."""
    wide: dict[int, int]
    """Classes -> rows, of regimes of their own."""
    searched: int
    """Rows of the search: each batch of them starts from the worst rows so far."""
    checked: int
    """Rows to compute in many digits."""
    checked_logits: int
    """Logits in them, at most."""


class Error(NamedTuple):
    """What a library got wrong in a regime."""

    largest: float = 0.0
    """In ulp, of what is finite where it should be."""
    wrong: int = 0
    """Rows with NaN or inf where there should be none, or none where there should be."""


class Cell(NamedTuple):
    """A line of the result."""

    loss: str
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


def bound(of: str, dtype: str, classes: int) -> float:
    """The contract: 8 ulp of float32 to 1000 classes, 32 to 262144; a gradient in a smaller dtype is rounded once."""
    in_float32 = 8.0 if classes <= 1000 else 32.0
    places = {"float32": 0, "bfloat16": 16, "float16": 13}[dtype]
    return in_float32 if of == "value" or not places else 0.5 + in_float32 / 2**places


class Pool:
    """The rows that we do worst on, of each width."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held: dict[int, tuple[np.ndarray, Rows]] = {}

    def add(self, badness: np.ndarray, rows: Rows) -> None:
        """Put rows in, and drop all but the worst."""
        width = rows.logits.shape[1]
        chosen = np.argsort(-badness, kind="stable")[: self.size]
        badness, rows = badness[chosen], take(rows, chosen)
        if width in self.held:
            before = self.held[width]
            badness, rows = np.concatenate([before[0], badness]), join(before[1], rows)
            order = np.argsort(-badness, kind="stable")[: self.size]
            badness, rows = badness[order], take(rows, order)
        self.held[width] = badness, rows


def take(rows: Rows, chosen: np.ndarray) -> Rows:
    """Some of the rows."""
    where = None if rows.where is None else rows.where[chosen]
    return Rows(rows.logits[chosen], rows.labels[chosen], rows.targets[chosen], where)


def join(one: Rows, other: Rows) -> Rows:
    """The rows of both."""
    where = None if one.where is None or other.where is None else np.concatenate([one.where, other.where])
    labels = np.concatenate([one.labels, other.labels])
    targets = np.concatenate([one.targets, other.targets])
    return Rows(np.concatenate([one.logits, other.logits]), labels, targets, where)


def batches(loss: Loss, dtype: str, plan: Plan, random: np.random.Generator, pool: Pool) -> Iterator[tuple[str, Rows]]:
    """Yield every batch with the name of its regime. The search goes on from what those before left in `pool`."""

    def draw(regime: Callable[..., tuple[np.ndarray, np.ndarray]], rows: int, width: int) -> Rows:
        if loss.kind == "sigmoid":
            return sigmoid_rows(regime, random, rows, dtype, soft=loss.soft)
        return softmax_rows(regime, random, rows, width, dtype, masked=loss.masked)

    widths = {1: 1.0} if loss.kind == "sigmoid" else {10: 1.0} if loss.masked else plan.widths
    for name, regime in REGIMES.items():
        if loss.masked and name == "undefined":  # what is masked is undefined there already
            continue
        for width, share in widths.items():
            for rows in sizes(plan.rows * share, width):
                yield name, draw(regime, rows, width)
    if loss.kind != "sigmoid" and not loss.masked:
        for width, count in plan.wide.items():
            for rows in sizes(count, width):
                yield f"{width} classes", draw(mixed, rows, width)
    width = 10 if 10 in widths else 1
    at_once = sizes(plan.rows * widths[width], width)[0]  # a size that is compiled already
    for _ in range(-(-plan.searched // at_once)):
        found = pool.held[width][1]
        parents = take(found, np.arange(min(PARENTS, len(found.labels))))
        yield "searched", mutated(random, parents, at_once, dtype)


def sizes(rows: float, width: int) -> list[int]:
    """Cut rows into batches of one size, so that each width is compiled once; together at least as many."""
    count = max(1, round(rows * width / AT_ONCE))
    return [math.ceil(rows / count)] * count


def measure(loss: Loss, dtype: str, plan: Plan, random: np.random.Generator) -> Found:
    """Measure a loss in a dtype, in every regime."""
    counts: dict[str, int] = {}
    errors: dict[tuple[str, str, str], Error] = {}
    worst: dict[tuple[str, str, str], Worst] = {}
    bounds: dict[str, float] = {}
    pool = Pool(max(plan.checked, PARENTS))
    for regime, rows in batches(loss, dtype, plan, random, pool):
        truth = loss.truth(rows)
        classes = rows.logits.shape[1]
        counts[regime] = counts.get(regime, 0) + len(rows.labels)
        bounds[regime] = max(classes, bounds.get(regime, 0))
        for library, run in loss.runs.items():
            if library == "torch" and regime == "undefined":
                continue  # it raises an error
            got = run(rows)
            found = judge(truth, got, dtype)
            for of, (error, wrong) in zip(OF, found, strict=True):
                key = regime, of, library
                by_row = error.reshape(len(error), -1).max(-1)
                before = errors.get(key, Error())
                finite = by_row[np.isfinite(by_row)].max(initial=0.0)
                bad = int(wrong.reshape(len(wrong), -1).any(-1).sum())
                errors[key] = Error(max(before.largest, float(finite)), before.wrong + bad)
                at = int(by_row.argmax())
                if key not in worst or by_row[at] > worst[key].error:
                    worst[key] = _worst(loss, dtype, key, float(by_row[at]), at, rows, truth, got, error)
            if library == OURS:
                relative = [error.reshape(len(error), -1).max(-1) / bound(of, dtype, classes)
                            for of, (error, _) in zip(OF, found, strict=True)]  # fmt: skip
                pool.add(np.where(np.isfinite(truth.value), np.maximum(*relative), -1.0), rows)
    cells = [
        Cell(loss.name, dtype, regime, of, bound(of, dtype, int(bounds[regime])), counts[regime],
             {library: errors[regime, of, library] for library in loss.runs if (regime, of, library) in errors})
        for regime in counts for of in OF
    ]  # fmt: skip
    return Found(cells, list(worst.values()), check(loss, dtype, pool, plan))


def judge(
    truth: Truth, got: Sequence[np.ndarray], dtype: str
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Errors, and what is wrong, of value and gradient."""
    slack = truth.gradient.shape[1] * TINY * np.asarray(truth.total)
    value, gradient = got
    return (
        ulps(value, truth.value, truth.value, slack, "float32"),
        ulps(gradient, truth.gradient, truth.scale, slack[..., None], dtype),
    )


def _worst(
    loss: Loss, dtype: str, key: tuple[str, str, str], error: float, at: int, rows: Rows, truth: Truth,
    got: Sequence[np.ndarray], errors: np.ndarray,
) -> Worst:  # fmt: skip
    regime, of, library = key
    position = int(errors[at].argmax()) if of == "gradient" else -1
    values, trues = (
        (got[0][at], truth.value[at]) if of == "value" else (got[1][at, position], truth.gradient[at, position])
    )
    row = take(rows, np.array([at]))
    return Worst(loss.name, dtype, regime, of, library, error, float(values), float(trues), position, row)


def check(loss: Loss, dtype: str, pool: Pool, plan: Plan) -> Check:
    """Compute the worst rows in many digits, and compare the truth that errors were measured against."""
    ordered = sorted(
        ((float(badness), width, row) for width, (every, _) in pool.held.items() for row, badness in enumerate(every)),
        reverse=True,
    )
    differ, done, logits = 0.0, 0, 0
    for badness, width, row in ordered:
        if badness < 0 or done >= plan.checked:
            break
        if logits + width > plan.checked_logits:
            continue
        rows = pool.held[width][1]
        exact_value, exact_gradient = loss.exact(rows, row)
        truth = loss.truth(take(rows, np.array([row])))
        tiny = TINY * 2**-20  # what is that far below the slack is no news
        for true, exact, scale, place in (
            (truth.value, exact_value, truth.value, "float32"),
            (truth.gradient, exact_gradient[None], truth.scale, dtype),
        ):
            error, _ = ulps(true, np.reshape(exact, true.shape), scale, tiny, place)
            differ = max(differ, float(error.max()))
        done, logits = done + 1, logits + width
    return Check(loss.name, dtype, done, differ)
