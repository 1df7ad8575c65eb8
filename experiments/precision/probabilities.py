"""Pairs of distributions that break losses: one regime a name, drawn in float64."""

import jax.numpy as jnp
import numpy as np

from xent.experiments.precision.loss import Random

SMALLEST = float(np.finfo(np.float32).tiny)
"""What is below it is 0 to XLA before any function sees it."""
PAIRS = (
    "ordinary", "equal", "nearly equal", "one-hot", "sparse", "confident", "tails", "smallest normal", "unnormalised",
    "undefined",
)  # fmt: skip


def pair(regime: str, random: Random, rows: int, classes: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted probabilities, `[rows, classes]` each, rounded to a dtype."""
    p, q = (_spread(random, rows, classes) for _ in range(2))
    if regime == "equal":
        q = p
    elif regime == "nearly equal":
        q = p * (1 + random.standard_normal(p.shape) * 10 ** random.uniform(-8, -0.5, (rows, 1)))
        q = np.where(random.random((rows, 1)) < 0.5, p * (1 + 2.0**-23 * random.integers(-3, 4, p.shape)), np.abs(q))
        p, q = np.minimum(p, 1), np.minimum(q, 1)
    elif regime == "one-hot":
        p = 1.0 * (np.arange(classes) == random.integers(classes, size=(rows, 1)))
        q = np.where(random.random((rows, 1)) < 0.3, p, q)
    elif regime == "sparse":
        p, q = (a * (random.random(a.shape) < 0.5) for a in (p, q))
        q = np.where((p > 0) & (q == 0) & (random.random((rows, 1)) < 0.7), p, q)
    elif regime == "confident":
        at = random.integers(classes, size=(rows, 1))
        p, q = (_confident(random, a, at) for a in (p, q))
    elif regime == "tails":
        p, q = (a * 10 ** random.uniform(-30, 0, a.shape) for a in (p, q))
    elif regime == "smallest normal":
        p, q = (
            np.where(random.random(a.shape) < 0.5, SMALLEST * 2 ** random.uniform(0, 4, a.shape), a) for a in (p, q)
        )
    elif regime == "unnormalised":
        p, q = (np.minimum(a * 10 ** random.uniform(-6, 1, (rows, 1)), 1) for a in (p, q))
    p, q = (np.where(a < SMALLEST, 0, rounded(a, dtype)) for a in (p, q))
    if regime == "undefined":
        bad = random.choice([np.nan, np.inf, -1e-3, -1.0], (rows, 1))
        at = np.arange(classes) == random.integers(classes, size=(rows, 1))
        first = random.random((rows, 1)) < 0.5
        p, q = np.where(at & first, bad, p), np.where(at & ~first, bad, q)
    return p, q


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """To a dtype, and back to float64; what is no normal float32 is 0."""
    found = values.astype(np.float32).astype(jnp.dtype(dtype)).astype(np.float64)
    return np.where(np.abs(found) < SMALLEST, 0, found)


def _spread(random: Random, rows: int, classes: int) -> np.ndarray:
    spread = random.gamma(random.choice([0.1, 1.0, 10.0], (rows, 1)), 1, (rows, classes)) + 1e-30
    return spread / spread.sum(-1, keepdims=True)


def _confident(random: Random, p: np.ndarray, at: np.ndarray) -> np.ndarray:
    rest = p * 10 ** random.uniform(-9, -1, (len(p), 1))
    np.put_along_axis(rest, at, 0, -1)
    np.put_along_axis(rest, at, 1 - rest.sum(-1, keepdims=True), -1)
    return rest
