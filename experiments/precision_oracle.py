"""What the losses are, in extended precision, and how far from it a result is. Knows nothing of any library.

float64 is enough for the truth about float32 if nothing cancels: every loss here is a sum of terms that are not
negative, and differences of float32 logits are exact, or so large that their last digits do not count. What remains is
some 1e-8 ulp of float32. `exact_*` are the same definitions as textbooks print them, in many digits, to check that.
"""

from typing import NamedTuple

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
    """`[rows, classes]`"""
    scale: np.ndarray
    """`[rows, classes]`: the magnitude in whose ulp the gradient's error counts; the gradient's own, or, where a
    difference of this magnitude makes it (soft labels), that."""
    total: np.ndarray | float = 1.0
    """`[rows]`: the sum of the targets, which multiplies what XLA flushed to zero."""


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
    total = 1.0 if hard is not None else np.maximum(1, np.nan_to_num(targets.sum(-1), posinf=1))
    return Truth(value, gradient, np.where(selected, scale, 0), total)


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
    hard = (yes == 0) | (no == 0)
    scale = np.where(hard, np.abs(gradient), np.maximum((yes + no) * positive, yes))
    undefined = np.isnan(logits) | np.isnan(yes)
    return Truth(np.where(undefined, np.nan, value)[:, 0], np.where(undefined, np.nan, gradient), scale)


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


class Format(NamedTuple):
    """A floating-point format, as far as its last places go."""

    digits: int
    """Binary digits after the first."""
    tiny: float
    """Its smallest normal number."""


FORMATS = {
    "float32": Format(23, TINY),
    "bfloat16": Format(7, TINY),
    "float16": Format(10, 2.0**-14),
}


def ulps(
    got: np.ndarray, true: np.ndarray, scale: np.ndarray, slack: float | np.ndarray, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """How far off results are, in units of the last place of a dtype at `scale`, beyond an absolute slack.

    Returns:
      `(errors, wrong)`, of the shape of `true`: what is NaN or inf where the truth is not, or the other way round, or
      inf of the other sign, is wrong, whatever its distance; its error is inf.
    """
    got, true = np.asarray(got, np.float64), np.asarray(true, np.float64)
    digits, tiny = FORMATS[dtype]
    with np.errstate(invalid="ignore", over="ignore"):
        same = np.where(np.isfinite(true), np.isfinite(got), (got == true) | (np.isnan(got) & np.isnan(true)))
        distance = np.maximum(np.abs(got - true) - slack, 0)
        magnitude = np.maximum(np.where(np.isfinite(scale), np.abs(scale), 1), tiny)
        place = np.ldexp(1.0, np.frexp(magnitude)[1] - 1 - digits)
        errors = np.where(np.isfinite(true), distance / place, 0)
    return np.where(same, errors, np.inf), ~same
