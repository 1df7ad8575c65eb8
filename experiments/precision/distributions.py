"""Cross-entropy and its kin, of probabilities that are given."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xent import losses
from xent.experiments.precision import oracle
from xent.experiments.precision.loss import Loss, Random, Rows, by_jax, floats, within
from xent.experiments.precision.oracle import TINY, Truth, in_many_digits
from xent.experiments.precision.probabilities import PAIRS, pair, rounded

Terms = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Of p and q: what each class adds, and the slopes by either."""
LOG_TINY = float(np.log(TINY))


def losses_of(torch: bool) -> list[Loss]:
    """List them; neither optax nor torch has these."""
    return [
        _of_two("cross-entropy of distributions", losses.cross_entropy, _cross, _exact_cross),
        _of_two("cross-entropy, bits", partial(losses.cross_entropy, base=2), _cross, _exact_cross, np.log(2)),
        _of_two("relative entropy", losses.relative_entropy, _relative, _exact_relative),
        _of_two(
            "Jensen-Shannon divergence",
            losses.jensen_shannon_divergence,
            _jensen_shannon,
            _exact_jensen_shannon,
            lost=2,  # a term is made of two
        ),
        Loss(
            "entropy", "distributions", {name: partial(_one, name) for name in PAIRS},
            {"xent": by_jax(losses.entropy, ("p",))}, _entropy, _exact_entropy, moved={"p": (0, 1)},
            widths={2: 0.2, 10: 0.8}, wide=dict.fromkeys((1000, 262144), partial(_one, "ordinary")),
        ),
        Loss(
            "log-likelihood", "distributions", {name: partial(_one_with_label, name) for name in PAIRS},
            {"xent": by_jax(losses.log_likelihood, ("q",))}, _log_likelihood, _exact_log_likelihood, within(4, 4),
            moved={"q": (0, 1)},
        ),
        Loss(
            "perplexity", "distributions", {name: partial(_losses, name) for name in _PERPLEXITY},
            {"xent": by_jax(_of_each, ("costs",))},
            _perplexity, _exact_perplexity, within(8, 8), moved={"costs": (-1e3, 1e3)},
        ),
    ]  # fmt: skip


# Of two distributions: a sum over the classes.


def _of_two(
    name: str,
    function: Callable[..., jax.Array],
    terms: Terms,
    exact_term: Callable[..., Any],
    unit: float = 1.0,
    lost: float = 1.0,
) -> Loss:
    def truth(rows: Rows) -> Truth:
        p, q = floats(rows, "p"), floats(rows, "q")
        defined = (p >= 0) & (q >= 0) & (p < np.inf) & (q < np.inf)
        value, by_p, by_q = terms(np.where(defined, p, 1), np.where(defined, q, 1))
        outside = ~oracle.every(defined)
        gradient = np.concatenate([by_p, by_q], -1) / unit
        (value,) = oracle.undefined_where(outside, value.sum(-1) / unit)
        # Classes that are defined keep their slopes, also where another one is not.
        gradient = np.where(np.concatenate([defined, defined], -1), gradient, np.nan)
        return Truth(value, gradient, np.abs(gradient), np.full(len(value), p.shape[1] * TINY * lost / min(unit, 1)))

    @in_many_digits
    def exact(row: Rows) -> tuple[Any, list[Any]]:
        import mpmath

        pairs = zip(oracle.numbers(floats(row, "p")), oracle.numbers(floats(row, "q")), strict=True)
        found = [exact_term(a, b) for a, b in pairs]
        scale = 1 / mpmath.log(2) if unit != 1 else mpmath.mpf(1)
        slopes = [of[1] * scale for of in found] + [of[2] * scale for of in found]
        return mpmath.fsum(of[0] for of in found) * scale, slopes

    return Loss(
        name, "distributions", {regime: partial(_two, regime) for regime in PAIRS},
        {"xent": by_jax(function, ("p", "q"))}, truth, exact, moved={"p": (0, 1), "q": (0, 1)},
        widths={2: 0.2, 10: 0.8}, wide=dict.fromkeys((1000, 262144), partial(_two, "ordinary")),
    )  # fmt: skip


def _two(regime: str, random: Random, rows: int, classes: int, dtype: str) -> Rows:
    p, q = pair(regime, random, rows, classes, dtype)
    return {"p": p.astype(jnp.dtype(dtype)), "q": q.astype(jnp.dtype(dtype))}


def _log(x: np.ndarray) -> np.ndarray:
    """At 0, that of the smallest normal float."""
    return np.log(np.where(x > 0, x, TINY))


def _log_ratio(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """log(p / q) of positive numbers."""
    relative = (p - q) / q
    near = np.abs(relative) < 0.5
    return np.where(near, np.log1p(np.where(near, relative, 0)), np.log(p) - np.log(q))


def _cross(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    impossible, safe = (p > 0) & (q == 0), np.where(q > 0, q, 1)
    value = np.where(impossible, np.inf, p * -np.log(safe))
    return value, np.where(impossible, np.inf, -_log(q)), np.where(impossible, -np.inf, -p / safe)


def _exact_cross(p: Any, q: Any) -> tuple[Any, Any, Any]:
    import mpmath

    if not q:
        return mpmath.mpf(0), -mpmath.log(mpmath.mpf(TINY)), mpmath.mpf(0)
    return -p * mpmath.log(q), -mpmath.log(q), -p / q


def _relative(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    impossible, neither, safe = (p > 0) & (q == 0), (p == 0) & (q == 0), np.where(q > 0, q, 1)
    ratio = _log_ratio(np.where(p > 0, p, TINY), safe)
    value = np.where(p > 0, p * oracle.surplus(ratio), q)
    by_p, by_q = np.where(neither, 0, ratio), np.where(neither, 1, (safe - p) / safe)
    return (
        np.where(impossible, np.inf, value), np.where(impossible, np.inf, by_p), np.where(impossible, -np.inf, by_q)
    )  # fmt: skip


def _exact_relative(p: Any, q: Any) -> tuple[Any, Any, Any]:
    import mpmath

    if not q:  # p is 0, too
        return q, q, mpmath.mpf(1)
    by_p = mpmath.log((p or mpmath.mpf(TINY)) / q)
    return (p * mpmath.log(p / q) if p else p) - p + q, by_p, 1 - p / q


def _jensen_shannon(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    value, slopes = np.zeros_like(p), []
    for a, b in ((p, q), (q, p)):
        some, safe = a + b > 0, np.where(a > 0, a, TINY)
        middle = np.where(some, safe + b, 1) / 2  # at a = 0 the slope is that at the smallest normal float
        far = (safe < b * 0.1) & some  # there the argument of log1p is near -1
        share = np.where(some, np.log1p(np.where(far, 0, (safe - b) / (2 * middle))), np.log(2))
        share = np.where(far, np.log(safe / middle), share)
        # a log(a / m) - a + m
        value += np.where(a > 0, a * oracle.surplus(share), b / 2) / 2
        slopes.append(share / 2)
    return value, slopes[0], slopes[1]


def _exact_jensen_shannon(p: Any, q: Any) -> tuple[Any, Any, Any]:
    import mpmath

    tiny = mpmath.mpf(TINY)
    value = mpmath.fsum(a * mpmath.log(2 * a / (p + q)) / 2 for a in (p, q) if a)
    by_p, by_q = (mpmath.log(2 * (a or tiny) / ((a or tiny) + b)) / 2 for a, b in ((p, q), (q, p)))
    return value, by_p, by_q


# Of one.


def _one(regime: str, random: Random, rows: int, classes: int, dtype: str) -> Rows:
    p, q = pair(regime, random, rows, classes, dtype)
    bad = ~(np.isfinite(q) & (q >= 0))
    return {"p": np.where(bad, q, p).astype(jnp.dtype(dtype))}


def _entropy(rows: Rows) -> Truth:
    p = floats(rows, "p")
    defined = (p >= 0) & (p < np.inf)
    safe = np.where(defined, p, 1)
    (value,) = oracle.undefined_where(~oracle.every(defined), -np.sum(safe * _log(safe), -1))
    gradient = np.where(safe > 0, -1 - _log(safe), -LOG_TINY)
    scale = np.maximum(1, np.abs(_log(safe)))
    return Truth(value, np.where(defined, gradient, np.nan), scale, np.full(len(value), p.shape[1] * TINY))


@in_many_digits
def _exact_entropy(row: Rows) -> tuple[Any, list[Any]]:
    import mpmath

    p = oracle.numbers(floats(row, "p"))
    slopes = [-1 - mpmath.log(a) if a else -mpmath.log(mpmath.mpf(TINY)) for a in p]
    return -mpmath.fsum(a * mpmath.log(a) for a in p if a), slopes


def _one_with_label(regime: str, random: Random, rows: int, classes: int, dtype: str) -> Rows:
    q, labels = _one(regime, random, rows, classes, dtype)["p"], random.integers(classes, size=rows)
    if regime == "undefined":
        labels = np.where(random.random(rows) < 0.5, labels, random.choice([-1, classes, 2**31 - 1, -(2**31)], rows))
    return {"q": q, "labels": labels.astype(np.int32)}


def _log_likelihood(rows: Rows) -> Truth:
    q, labels = floats(rows, "q"), rows["labels"]
    outside = (labels < 0) | (labels >= q.shape[1])
    of_label = np.take_along_axis(q, np.clip(labels, 0, q.shape[1] - 1)[:, None], -1)[:, 0]
    undefined = outside | ~((of_label >= 0) & (of_label < np.inf))
    with np.errstate(divide="ignore"):
        safe = np.where(undefined, 1, of_label)
        value, slope = np.log(safe), 1 / safe
    gradient = np.where(np.arange(q.shape[1]) == labels[:, None], slope[:, None], 0)
    (value,) = oracle.undefined_where(undefined, value)
    # A label out of range belongs to no class; all that is asked is that NaN shows, and it does where JAX looks for it.
    wrapped = np.where((labels < 0) & (labels >= -q.shape[1]), labels + q.shape[1], labels)
    at = np.arange(q.shape[1]) == np.clip(wrapped, 0, q.shape[1] - 1)[:, None]
    gradient = np.where(undefined[:, None] & at, np.nan, gradient)
    return Truth(value, gradient, np.abs(gradient), np.full(len(value), TINY))


@in_many_digits
def _exact_log_likelihood(row: Rows) -> tuple[Any, list[Any]]:
    import mpmath

    q, label = oracle.numbers(floats(row, "q")), int(row["labels"][0])
    return mpmath.log(q[label]), [1 / a if j == label else mpmath.mpf(0) for j, a in enumerate(q)]


# Of losses.

_PERPLEXITY = ("ordinary", "small", "near overflow", "both signs", "no weight", "undefined")


def _of_each(costs: jax.Array, weights: jax.Array) -> jax.Array:
    return jax.vmap(lambda row, of_row: losses.perplexity(row, weights=of_row))(costs, weights)


def _losses(regime: str, random: Random, rows: int, tokens: int, dtype: str) -> Rows:
    loss = random.gamma(1.0, 1.0, (rows, tokens)) * 10 ** random.uniform(-2, 1.2, (rows, 1))
    weights = random.uniform(0, 2, (rows, tokens)) * (random.random((rows, tokens)) < 0.8)
    if regime == "small":
        loss = loss * 10 ** random.uniform(-38, -3, (rows, 1))
    elif regime == "near overflow":
        loss = random.uniform(80, 95, (rows, 1)) + random.standard_normal((rows, tokens))
    elif regime == "both signs":
        loss = loss * random.choice([-1, 1], (rows, tokens))
    elif regime == "no weight":
        weights *= random.random((rows, tokens)) < random.choice([0, 0.5], (rows, 1))
        loss = np.where(weights > 0, loss, random.choice([np.nan, np.inf, -np.inf, 1.0], (rows, tokens)))
    elif regime == "undefined":
        weights[:, 0] = 1
        loss[:, 0] = np.nan
    return {"costs": rounded(loss, dtype).astype(jnp.dtype(dtype)), "weights": weights.astype(np.float32)}


def _perplexity(rows: Rows) -> Truth:
    loss, weights = floats(rows, "costs"), floats(rows, "weights")
    loss, total = np.where(weights > 0, loss, 0), weights.sum(-1, keepdims=True)
    shares = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    mean, size = (np.sum(shares * a, -1) for a in (loss, np.abs(loss)))
    value = np.exp(mean)
    gradient = value[:, None] * shares
    scale = gradient * (1 + size[:, None])
    undefined = np.isnan(value)
    gradient = np.where(undefined[:, None] & (weights > 0), np.nan, gradient)
    judged = np.broadcast_to(
        ~(value > 1e38)[:, None], gradient.shape
    )  # of what is beyond the floats, a part may be inf
    return Truth(value, gradient, scale, np.full(len(value), TINY), value * (1 + size), judged=judged)


@in_many_digits
def _exact_perplexity(row: Rows) -> tuple[Any, list[Any]]:
    import mpmath

    loss, weights = oracle.numbers(floats(row, "costs")), oracle.numbers(floats(row, "weights"))
    total = mpmath.fsum(weights)
    if not total:
        return mpmath.mpf(1), weights
    value = mpmath.exp(mpmath.fsum(w * x for x, w in zip(loss, weights, strict=True) if w) / total)
    return value, [value * w / total for w in weights]
