"""Logits that break losses: one function a regime, each giving rows of logits with a class each.

A row is one input: a vector of logits and its label. Everything is drawn in float64 and rounded once to the dtype under
test; the truth is that of the rounded numbers.
"""

from collections.abc import Callable, Mapping
from functools import partial

import jax.numpy as jnp
import numpy as np

from xent.experiments.precision.loss import Random, Regime, Rows, count, take

SMALLEST = float(np.finfo(np.float32).tiny)
"""Weights below it are 0 to XLA before any function sees them."""


Draw = Callable[[Random, int, int], tuple[np.ndarray, np.ndarray]]
"""`draw(random, rows, classes) -> (logits, labels)`"""


def _normal(random: Random, rows: int, classes: int) -> np.ndarray:
    return random.standard_normal((rows, classes), np.float32).astype(np.float64)


def _any(random: Random, rows: int, classes: int) -> np.ndarray:
    return random.integers(classes, size=rows)


def _powers(random: Random, low: float, high: float, rows: int) -> np.ndarray:
    """`[rows, 1]`: ten to powers spread evenly."""
    return 10 ** random.uniform(low, high, (rows, 1))


def _set(logits: np.ndarray, labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    np.put_along_axis(logits, labels[:, None], values.reshape(-1, 1), -1)
    return logits


def ordinary(random: Random, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal logits of every scale, any label."""
    return _normal(random, rows, classes) * _powers(random, -4, 2.3, rows), _any(random, rows, classes)


def ties(random: Random, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact ties, and near ones that differ by a few units in the last place."""
    base = random.choice([0.0, 1.0, -1.0, 30.0], (rows, 1)) + random.choice([0, 1], (rows, 1)) * random.uniform(-40, 40)
    gap = random.choice([0, 2.0**-23, 2.0**-20, 2.0**-8, 0.1], (rows, 1)) * np.maximum(np.abs(base), 1)
    return base + gap * random.integers(-2, 3, (rows, classes)), _any(random, rows, classes)


def confident(random: Random, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The label above all others by up to 30."""
    logits, labels = (
        _normal(random, rows, classes) * random.choice([0.3, 3, 10], (rows, 1)),
        _any(random, rows, classes),
    )
    return _set(logits, labels, logits.max(-1) + random.uniform(0, 30, rows)), labels


def hopeless(random: Random, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The label below the top by up to ten thousand."""
    logits, labels = (
        _normal(random, rows, classes) * random.choice([0.3, 3, 10], (rows, 1)),
        _any(random, rows, classes),
    )
    return _set(logits, labels, logits.max(-1) - _powers(random, -2, 4, rows)[:, 0]), labels


def equal_others(random: Random, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """All but one equal, since equal terms round the same way: the worst case of a sum."""
    gap = random.uniform(0, 60, (rows, 1))
    logits = np.repeat(random.choice([0.0, 3.3, -37.7], (rows, 1)) - gap, classes, -1)
    peak = _any(random, rows, classes)
    logits = _set(logits, peak, logits[:, 0] + gap[:, 0])
    return logits, np.where(random.random(rows) < 0.5, peak, _any(random, rows, classes))


def offset(random: Random, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A constant of up to a million, added to all."""
    shift = _powers(random, 0, 6, rows) * random.choice([-1, 1], (rows, 1))
    return _normal(random, rows, classes) * _powers(random, -1, 1.5, rows) + shift, _any(random, rows, classes)


def extreme(random: Random, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits anywhere within ten thousand, of any magnitude."""
    size = 10 ** random.uniform(-6, 4, (rows, classes))
    logits = np.where(random.random((rows, 1)) < 0.5, size, random.uniform(0, 1e4, (rows, classes)))
    return logits * random.choice([-1, 1], (rows, classes)), _any(random, rows, classes)


def smallest(random: Random, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses and logits around the smallest normal float, 1.2e-38."""
    logits, labels = _normal(random, rows, classes), _any(random, rows, classes)
    gaps = _set(logits * 1, labels, logits.max(-1) + random.uniform(80, 104, rows))
    return np.where(random.random((rows, 1)) < 0.8, gaps, logits * _powers(random, -45, -30, rows)), labels


def minus_infinity(random: Random, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes of probability 0; the label may be one, which costs inf."""
    logits, labels = _normal(random, rows, classes) * _powers(random, -2, 2, rows), _any(random, rows, classes)
    gone = random.random((rows, classes)) < random.uniform(0, 0.9, (rows, 1))
    keep = random.integers(classes, size=rows)
    gone = _set(gone, keep, np.zeros(rows, bool))
    return np.where(gone, -np.inf, logits), np.where(random.random(rows) < 0.8, keep, labels)


def undefined(random: Random, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """NaN, +inf, nothing above -inf: value and gradient must be NaN; and labels out of range, where there are any."""
    logits, labels = _normal(random, rows, classes), _any(random, rows, classes)
    kind = random.integers(4, size=rows)
    at = random.integers(classes, size=rows)
    values = np.choose(kind, [np.nan, np.inf, -np.inf, 0.0])
    logits = np.where((kind == 2)[:, None], -np.inf, _set(logits, at, values))
    outside = random.choice([-1, -classes, classes, classes + 1, 2**31 - 1, -(2**31)], rows)
    return logits, np.where(kind == 3, outside, labels)


REGIMES: dict[str, Draw] = {
    "ordinary": ordinary,
    "ties": ties,
    "confident": confident,
    "hopeless": hopeless,
    "equal others": equal_others,
    "offset to 1e6": offset,
    "within 1e4": extreme,
    "smallest normal": smallest,
    "-inf": minus_infinity,
    "undefined": undefined,
}


def mixed(random: Random, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A few rows of every defined regime in turn."""
    draws = [draw for draw in REGIMES.values() if draw is not undefined]
    parts = [draw(random, -(-rows // len(draws)), classes) for draw in draws]
    order = random.permutation(sum(len(labels) for _, labels in parts))[:rows]
    return np.concatenate([logits for logits, _ in parts])[order], np.concatenate([labels for _, labels in parts])[
        order
    ]


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """To the nearest numbers of a dtype, the largest finite one for what is larger."""
    info = jnp.finfo(dtype)
    clipped = np.where(np.isinf(values), values, np.clip(values, float(info.min), float(info.max)))
    return clipped.astype(np.float32).astype(jnp.dtype(dtype))


def soft_targets(random: Random, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Soft labels `[rows, classes]` of every kind: one-hot, spread, sparse, tiny, not of sum 1.

    Classes of -inf have weight 0 in nine rows of ten.
    """
    rows, classes = logits.shape
    one_hot = np.arange(classes) == labels[:, None]
    spread = random.gamma(random.choice([0.1, 1.0, 10.0], (rows, 1)), 1, (rows, classes)) + 1e-30
    spread /= spread.sum(-1, keepdims=True)
    sparse = spread * (random.random((rows, classes)) < 0.3)
    tiny = spread * 10 ** random.uniform(-38, 0, (rows, classes))
    smoothed = 0.9 * one_hot + 0.1 / classes
    targets = np.choose(random.integers(6, size=(rows, 1)), [one_hot, spread, sparse, tiny, smoothed, spread * 2.5])
    targets = np.where(np.isneginf(logits) & (random.random((rows, 1)) < 0.9), 0, targets)
    return np.where(targets < SMALLEST, 0, targets)


def softmax_rows(draw: Draw, random: Random, rows: int, classes: int, dtype: str, *, masked: bool = False) -> Rows:
    """Draw logits, labels and soft labels of a regime.

    Args:
      draw: the regime.
      random: where numbers come from.
      rows: how many.
      classes: of each row.
      dtype: of logits and soft labels.
      masked: leave classes out, with garbage in their place; one row in fifty has none left.
    """
    logits, labels = draw(random, rows, classes)
    targets = soft_targets(random, logits, labels)
    where = None
    if masked:
        where = random.random((rows, classes)) < random.uniform(0.2, 1, (rows, 1))
        where = _set(where, labels, np.ones(rows, bool)) & (random.random((rows, 1)) > 0.02)
        garbage = random.choice([np.nan, np.inf, -np.inf, 1e30, 0.0], (rows, classes))
        logits, targets = np.where(where, logits, garbage), np.where(where, targets, 0)
    found = {"logits": rounded(logits, dtype), "labels": labels.astype(np.int32), "targets": rounded(targets, dtype)}
    return found if where is None else found | {"where": where}


def sigmoid_rows(draw: Draw, random: Random, rows: int, _: int, dtype: str, *, soft: bool) -> Rows:
    """Draw single logits with the probability of yes, hard or of every kind, from a regime of two classes.

    The label counts as the class for what is common with the softmax: a draw of two classes becomes their difference.
    """
    logits, labels = draw(random, rows, 2)
    if draw is minus_infinity:
        z = random.choice([-np.inf, np.inf], rows)
    elif draw in (offset, extreme):
        z = logits[:, 0]  # a difference would take the offset away
    elif draw is undefined:
        z = np.full(rows, np.nan)
    else:
        z = logits[:, 1] - logits[:, 0]
    yes = np.clip(labels, 0, 1).astype(np.float64)
    if soft:
        edge = random.choice([2.0**-24, 1e-6, 1e-30, 0.0], rows)
        yes = np.choose(random.integers(3, size=rows), [random.random(rows), edge, 1 - edge])
    return {"logits": rounded(z[:, None], dtype), "targets": rounded(yes[:, None], dtype)}


def regimes_of(rows: Callable[..., Rows], *, undefined: bool = True, **options: bool) -> dict[str, Regime]:
    """Every regime of logits, for one kind of rows. Where `undefined`, that one, too."""
    names = [name for name in REGIMES if undefined or name != "undefined"]
    return {name: partial(rows, REGIMES[name], **options) for name in names}


def mutated(random: Random, parents: Rows, rows: int, moved: Mapping[str, tuple[float, float]]) -> Rows:
    """Children of rows that a loss does badly on: some numbers moved a little, a lot, onto others, or all together."""
    children = take(parents, random.integers(count(parents), size=rows))
    for name, limits in moved.items():
        array = children[name]
        moves = _moved(random, array.astype(np.float64), float(jnp.finfo(array.dtype).eps), limits[0] >= 0)
        children[name] = rounded(_normal_or_zero(np.clip(moves, *limits), limits[0] >= 0), str(array.dtype))
    return children


def _moved(random: Random, values: np.ndarray, eps: float, by_factors: bool) -> np.ndarray:
    shape, one = values.shape, (len(values), *[1] * (values.ndim - 1))
    some = random.random(shape) < random.uniform(0.05, 1, one)
    last_places = values * (1 + random.integers(-4, 5, shape) * eps)
    step, all_step = random.standard_normal(shape), random.standard_normal(one)
    if by_factors:
        moved = values * np.exp(step * 10 ** random.uniform(-6, 1, one))
        together = values * np.exp(all_step * 10 ** random.uniform(-6, 1, one))
    else:
        moved = values + step * 10 ** random.uniform(-6, 1, one)
        together = values + all_step * 10 ** random.uniform(-3, 2, one)
    copied = np.take_along_axis(values, random.integers(shape[-1], size=shape), -1)
    copied = np.where(np.isfinite(copied), copied, values)  # no garbage from under a mask
    kind = random.integers(4, size=one)
    changed = np.choose(kind, [last_places, moved, copied, together])
    return np.where(some | (kind == 3), changed, values)


def _normal_or_zero(values: np.ndarray, by_factors: bool) -> np.ndarray:
    return np.where(values < SMALLEST, 0, values) if by_factors else values
