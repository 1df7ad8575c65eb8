"""What the losses are, in extended precision, and how far from it a result is. Knows nothing of any library.

float64 is enough for the truth about float32 if nothing cancels: every loss here is a sum of terms that are not
negative, and differences of float32 logits are exact, or so large that their last digits do not count. What remains is
some 1e-8 ulp of float32. `exact_*` are the same definitions as textbooks print them, in many digits, to check that.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

TINY = float(np.finfo(np.float32).tiny)
"""The smallest normal float32; XLA flushes what is smaller."""
DIGITS = 80
"""Of which 1 + exp(-100) costs 44, and an offset of a million 6."""


class Truth(NamedTuple):
    """What a loss and its gradient are, in float64. NaN: undefined. The value may be inf."""

    value: np.ndarray
    """`[rows]`"""
    gradient: np.ndarray
    """`[rows, inputs]`"""
    scale: np.ndarray
    """`[rows, inputs]`: the magnitude in whose ulp the gradient's error counts; the gradient's own, or, where a
    difference of this magnitude makes it (soft labels), that."""
    slack: np.ndarray
    """`[rows]`: what an error is forgiven besides, as XLA flushes to zero what is below the smallest normal float."""
    size: np.ndarray | None = None
    """`[rows]`: the magnitude in whose ulp the value's error counts, if not its own."""
    slope_slack: np.ndarray | None = None
    """`[rows, inputs]`: what the gradient is forgiven, if not as much as the value."""
    judged: np.ndarray | None = None
    """`[rows, inputs]` booleans: where the gradient is one that the loss promises; everywhere if not given."""
    relative: bool = False
    """Whether the gradient's error counts not in ulp at its scale, but in 2**-23 of that, one to two of them."""


def softmax(logits: np.ndarray, targets: np.ndarray, hard: np.ndarray | None, where: np.ndarray | None) -> Truth:
    """Cross-entropy of soft targets, or of one class.

    Args:
      logits: `[rows, classes]`, float64.
      targets: `[rows, classes]`, float64, not negative: the weight of each class.
      hard: `[rows]` integers if the targets are one-hot: the class of each row; out of range is undefined.
      where: `[rows, classes]` booleans: the classes that there are; none in a row gives 0.
    """
    classes = logits.shape[1]
    selected = np.ones(logits.shape, bool) if where is None else where
    x = np.where(selected, logits, -np.inf)
    top = x.max(-1, initial=-np.inf, keepdims=True)
    undefined = ~np.isfinite(top[:, 0])  # NaN, +inf, or nothing above -inf
    if hard is not None:
        undefined |= (hard < 0) | (hard >= classes)
    empty = ~selected.any(-1)
    undefined &= ~empty
    x = np.where((undefined | empty)[:, None], 0.0, x)
    top = x.max(-1, keepdims=True)
    exp = np.exp(x - top)
    others = exp.copy()
    np.put_along_axis(others, x.argmax(-1)[:, None], 0, -1)
    log_total = np.log1p(others.sum(-1))  # beyond the top
    total = 1 + others.sum(-1, keepdims=True)
    weights = np.where(selected, targets, 0)
    mass = weights.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        distances = np.where(weights > 0, weights * (top - x), 0)
    probabilities = exp / total
    if hard is None:
        value = distances.sum(-1) + mass[:, 0] * log_total
        gradient = mass * probabilities - weights
        scale = np.maximum(mass * probabilities, weights)
    else:
        label = np.clip(hard, 0, classes - 1)[:, None]
        value = np.take_along_axis(top - x, label, -1)[:, 0] + log_total
        not_label = exp.copy()
        np.put_along_axis(not_label, label, 0, -1)
        gradient = probabilities
        np.put_along_axis(gradient, label, -not_label.sum(-1, keepdims=True) / total, -1)
        scale = np.abs(gradient)
    value = np.where(undefined, np.nan, np.where(empty, 0, value))
    gradient = np.where(selected, np.where(undefined[:, None], np.nan, gradient), 0)
    slack = np.full(len(value), classes * TINY)
    if hard is None:
        slack *= np.maximum(1, np.nan_to_num(targets.sum(-1), posinf=1))
    return Truth(value, gradient, np.where(selected, scale, 0), slack)


def sigmoid(logits: np.ndarray, yes: np.ndarray, no: np.ndarray) -> Truth:
    """Binary cross-entropy, `yes * softplus(-z) + no * softplus(z)`; logits `[rows, 1]`, weights likewise, float64."""
    z = np.where(np.isnan(logits) | np.isnan(yes), 0, logits)
    exp = np.exp(-np.abs(z))
    log1p = np.log1p(exp)
    with np.errstate(invalid="ignore"):
        value = np.where(yes > 0, yes * (np.maximum(-z, 0) + log1p), 0)
        value += np.where(no > 0, no * (np.maximum(z, 0) + log1p), 0)
    positive = np.where(z >= 0, 1, exp) / (1 + exp)
    negative = np.where(z >= 0, exp, 1) / (1 + exp)
    gradient = no * positive - yes * negative
    scale = np.maximum(no * positive, yes * negative)
    undefined = np.isnan(logits) | np.isnan(yes)
    slack = 2 * TINY * np.maximum(1, np.nan_to_num(yes[:, 0]))
    return Truth(np.where(undefined, np.nan, value)[:, 0], np.where(undefined, np.nan, gradient), scale, slack)


def exact_softmax(logits: np.ndarray, targets: list[float], where: np.ndarray | None) -> tuple[float, np.ndarray]:
    """Value and gradient of one row, each rounded once from 80 digits: `-sum t log p` and `p sum(t) - t`."""
    import mpmath

    from_float, zero = mpmath.mpf, mpmath.mpf(0)
    with mpmath.workdps(DIGITS):
        weights = [
            from_float(float(t)) if where is None or kept else zero
            for t, kept in zip(targets, logits if where is None else where, strict=True)
        ]
        kept = [True] * len(logits) if where is None else list(where)
        known: dict[float, mpmath.mpf] = {-np.inf: zero}
        exps = []
        for x, here in zip(logits.tolist(), kept, strict=True):
            x = x if here else -np.inf
            if x not in known:
                known[x] = mpmath.exp(from_float(x))
            exps.append(known[x])
        total, mass = mpmath.fsum(exps), mpmath.fsum(weights)
        if not total:  # no class is left
            return 0.0, np.zeros(len(kept))
        log_total = mpmath.log(total)
        value = mpmath.fsum(
            t * (log_total - from_float(x)) if x > -np.inf else mpmath.inf
            for t, x, here in zip(weights, logits.tolist(), kept, strict=True)
            if t and here
        )
        gradient = [float(mass * e / total - t) if here else 0.0
                    for e, t, here in zip(exps, weights, kept, strict=True)]  # fmt: skip
        return float(value), np.array(gradient)


def exact_sigmoid(logit: float, yes: float, no: float) -> tuple[float, np.ndarray]:
    """Value and derivative for one logit; an infinite one must cost nothing, and then is as good as 1e9."""
    import mpmath

    with mpmath.workdps(DIGITS):
        z, for_yes, for_no = (mpmath.mpf(float(number)) for number in (max(-1e9, min(logit, 1e9)), yes, no))
        # log1p needs no digits of 1 + exp(z), and exp(-|z|) as good as vanishes long before 1e4.
        small = mpmath.exp(-abs(z))
        log1p = mpmath.log1p(small)
        cost_yes, cost_no = log1p + max(-z, mpmath.mpf(0)), log1p + max(z, mpmath.mpf(0))
        positive, negative = 1 / (1 + mpmath.exp(-z)), 1 / (1 + mpmath.exp(z))
        return float(for_yes * cost_yes + for_no * cost_no), np.array([float(for_no * positive - for_yes * negative)])


class Softmax(NamedTuple):
    """What rows of logits `[rows, classes]` give, each number to its last places; whatever if not `defined`."""

    defined: np.ndarray
    """`[rows]`: some logit is finite, none is NaN or +inf."""
    x: np.ndarray
    p: np.ndarray
    not_p: np.ndarray
    """`1 - p`"""
    cost: np.ndarray
    """`-log p`"""
    top: np.ndarray
    """`[rows]`: the largest logit."""
    log_total: np.ndarray
    """`[rows]`: the logarithm of the sum of exponentials."""


def softmax_of(logits: np.ndarray) -> Softmax:
    """Take rows of logits apart."""
    top = logits.max(-1)
    defined = np.isfinite(top) & ~np.isnan(logits).any(-1)
    x = np.where(defined[:, None], logits, 0.0)
    top = x.max(-1, keepdims=True)
    exp = np.exp(x - top)
    at = x.argmax(-1)[:, None]
    others = exp.copy()
    np.put_along_axis(others, at, 0, -1)
    rest = others.sum(-1, keepdims=True)
    not_p = (1 - exp) + rest
    np.put_along_axis(not_p, at, rest, -1)
    log1p = np.log1p(rest)
    return Softmax(
        defined, x, exp / (1 + rest), not_p / (1 + rest), (top - x) + log1p, top[:, 0], top[:, 0] + log1p[:, 0]
    )


def surplus(r: np.ndarray) -> np.ndarray:
    """r - 1 + exp(-r), of which nothing is lost near 0."""
    near = np.clip(r, -0.1, 0.1)
    series = np.ones_like(near)
    for n in range(14, 2, -1):
        series = 1 - near / n * series
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(np.abs(r) <= 0.1, near * near / 2 * series, (r - 1) + np.exp(-r))


def every(flags: np.ndarray) -> np.ndarray:
    """Which rows are true all over."""
    return np.asarray(flags.all(-1))


def some(flags: np.ndarray) -> np.ndarray:
    """Which rows are true somewhere."""
    return np.asarray(flags.any(-1))


def product(weights: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Weights times costs, of which an infinite one costs nothing under a weight of 0."""
    with np.errstate(invalid="ignore"):
        return np.where(weights == 0, 0.0, weights * costs)


def sum_of_others(terms: np.ndarray) -> np.ndarray:
    """The sum of all terms of a row but each one, without taking it away again."""
    zero = np.zeros_like(terms[:, :1])
    before = np.concatenate([zero, np.cumsum(terms[:, :-1], -1)], -1)
    after = np.concatenate([np.cumsum(terms[:, :0:-1], -1)[:, ::-1], zero], -1)
    return before + after


def undefined_where(undefined: np.ndarray, value: np.ndarray, *gradients: np.ndarray) -> tuple[np.ndarray, ...]:
    """NaN for rows that have no loss."""
    return (np.where(undefined, np.nan, value), *(np.where(undefined[:, None], np.nan, g) for g in gradients))


def numbers(array: np.ndarray) -> list[Any]:
    """One row's numbers for mpmath."""
    import mpmath

    return [mpmath.mpf(float(number)) for number in array.ravel().tolist()]


def exact_softmax_of(x: list[Any]) -> tuple[list[Any], list[Any]]:
    """Probabilities of logits, and their logarithms negated, by the formula, in whatever digits are at work."""
    import mpmath

    exps = [mpmath.exp(z) for z in x]
    total = mpmath.fsum(exps)
    log_total = mpmath.log(total)
    return [e / total for e in exps], [log_total - z for z in x]


def in_many_digits(function: Callable[..., tuple[Any, Sequence[Any]]]) -> Callable[..., tuple[float, np.ndarray]]:
    """Run a formula in 80 digits, and round its value and gradient once."""

    @functools.wraps(function)
    def rounded(*arguments: Any, **options: Any) -> tuple[float, np.ndarray]:
        import mpmath

        with mpmath.workdps(DIGITS):
            value, gradient = function(*arguments, **options)
            return float(value), np.array([float(number) for number in gradient])

    return rounded


class Format(NamedTuple):
    """A floating-point format, as far as its ends and last places go."""

    digits: int
    """Binary digits after the first."""
    tiny: float
    """Its smallest normal number."""
    largest: float


FORMATS = {
    "float32": Format(23, TINY, (2 - 2.0**-23) * 2.0**127),
    "bfloat16": Format(7, TINY, (2 - 2.0**-7) * 2.0**127),
    "float16": Format(10, 2.0**-14, (2 - 2.0**-10) * 2.0**15),
}


def ulps(
    got: np.ndarray, true: np.ndarray, scale: np.ndarray, slack: float | np.ndarray, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """How far off results are, in units of the last place of a dtype at `scale`, beyond an absolute slack.

    Returns:
      `(errors, wrong)`, of the shape of `true`: what is NaN or inf where the truth is not, or the other way round, or
      inf of the other sign, is wrong, whatever its distance; its error is inf. What the dtype has no room for is inf.
    """
    got, true = np.asarray(got, np.float64), np.asarray(true, np.float64)
    digits, tiny, largest = FORMATS[dtype]
    beyond = np.isinf(got) & (np.abs(true) > largest * (1 - 2.0 ** (-digits - 1))) & (np.sign(got) == np.sign(true))
    true = np.where(beyond, got, true)
    with np.errstate(invalid="ignore", over="ignore"):
        same = np.where(np.isfinite(true), np.isfinite(got), (got == true) | (np.isnan(got) & np.isnan(true)))
        distance = np.maximum(np.abs(got - true) - slack, 0)
        magnitude = np.maximum(np.where(np.isfinite(scale), np.abs(scale), 1), tiny)
        place = np.ldexp(1.0, np.frexp(magnitude)[1] - 1 - digits)
        errors = np.where(np.isfinite(true), distance / place, 0)
    return np.where(same, errors, np.inf), ~same
