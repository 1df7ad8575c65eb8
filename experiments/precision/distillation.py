"""A student's logits against a teacher's."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from xent import losses
from xent.experiments.precision import oracle
from xent.experiments.precision.logits import REGIMES, mixed, rounded, softmax_rows
from xent.experiments.precision.loss import LOGITS, Loss, Random, Regime, Rows, by_jax, floats, within
from xent.experiments.precision.oracle import TINY, Truth, in_many_digits

NAMES = (*REGIMES, "equal", "equal but for a shift", "nearly equal")
BOTH = ("student", "teacher")
_quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")
"""Infinities come and go where one of the two lacks a class."""


def losses_of(torch: bool) -> list[Loss]:
    """List them; optax and torch have none that takes logits."""
    kl, js, tv = (
        losses.distillation_kl_divergence,
        losses.distillation_jensen_shannon_divergence,
        losses.distillation_total_variation,
    )
    plain = _loss("distillation, KL", kl, _kl, _exact_kl)
    return [
        _by_student(plain),
        _by_student(_loss("distillation, KL, temperature 3", kl, _kl, _exact_kl, temperature=3.0)),
        _by_student(_loss("distillation, KL, masked", kl, _kl, _exact_kl, masked=True)),
        _unsaid(plain)._replace(name="distillation, KL, by both"),
        _unsaid(_loss("distillation, Jensen-Shannon", js, _js, _exact_js, beta=0.5)),
        _unsaid(_loss("distillation, Jensen-Shannon, 0.1 at 2", js, _js, _exact_js, beta=0.1, temperature=2.0)),
        _unsaid(_loss("distillation, total variation", tv, _tv, _exact_tv)),
    ]


def _loss(
    name: str, function: Callable[..., jax.Array], truth: Callable[..., Truth], exact: Callable[..., Any],
    masked: bool = False, **options: float,
) -> Loss:  # fmt: skip
    def ours(student: jax.Array, teacher: jax.Array, where: jax.Array | None = None) -> jax.Array:
        return function(student, teacher, where=where, **options)

    regimes: dict[str, Regime] = {n: partial(_rows, n, masked) for n in NAMES if not (masked and n == "undefined")}
    return Loss(
        name, "distillation", regimes, {"xent": by_jax(ours, BOTH)}, partial(truth, **options),
        partial(exact, **options), within(16, 16), moved=dict.fromkeys(BOTH, LOGITS), widths={2: 0.2, 10: 0.8},
        wide={} if masked else dict.fromkeys((1000,), partial(_rows, "ordinary", False)),
    )  # fmt: skip


def _unsaid(loss: Loss) -> Loss:
    """The docstring says nothing of the gradient."""
    return loss._replace(bounds=within(16, np.inf))


def _by_student(loss: Loss) -> Loss:
    """The gradient by the student's logits alone."""

    def truth(rows: Rows) -> Truth:
        found = loss.truth(rows)
        half = slice(found.gradient.shape[1] // 2)
        return found._replace(
            **{name: getattr(found, name)[:, half] for name in ("gradient", "scale", "slope_slack", "judged")}
        )

    def exact(row: Rows) -> tuple[float, np.ndarray]:
        value, gradient = loss.exact(row)
        return value, gradient[: len(gradient) // 2]

    def run(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        value, gradient = loss.runs["xent"](rows)
        return value, gradient[:, : gradient.shape[1] // 2]

    return loss._replace(truth=truth, exact=exact, runs={"xent": run})


@_quiet
def _rows(regime: str, masked: bool, random: Random, rows: int, classes: int, dtype: str) -> Rows:
    draw = REGIMES.get(regime, mixed)
    z, u = (softmax_rows(draw, random, rows, classes, dtype)["logits"].astype(np.float64) for _ in range(2))
    if regime not in REGIMES:
        u = z
    if regime == "equal but for a shift":
        u = z + 2.0 ** random.integers(-3, 12, (rows, 1))
    elif regime == "nearly equal":
        close = z + random.standard_normal(z.shape) * 10 ** random.uniform(-7, 0, (rows, 1))
        u = np.where(random.random((rows, 1)) < 0.3, z * (1 + 2.0**-23 * random.integers(-2, 3, z.shape)), close)
    elif regime == "-inf":  # half of the teachers lack what the student lacks
        u = np.where((random.random((rows, 1)) < 0.5) & np.isneginf(z), -np.inf, u)
        u = np.where(np.isneginf(u).all(-1, keepdims=True), z, u)
    found = {"student": rounded(z, dtype), "teacher": rounded(u, dtype)}
    if not masked:
        return found
    where = (random.random(z.shape) < random.uniform(0.2, 1, (rows, 1))) & (random.random((rows, 1)) > 0.02)
    where &= np.isfinite(z) & np.isfinite(u)
    garbage = random.choice([np.nan, np.inf, -np.inf, 1e30, 0.0], z.shape)
    return {name: np.where(where, a, garbage.astype(a.dtype)) for name, a in found.items()} | {"where": where}


# The truth: log(t / p) without taking two logarithms apart where they are nearly the same.


class Both(NamedTuple):
    """Two softmaxes, t of the teacher and p of the student."""

    outside: np.ndarray
    empty: np.ndarray
    t: np.ndarray
    p: np.ndarray
    ratio: np.ndarray
    """log(t / p); inf where p is 0, -inf where t is, 0 where both are."""
    gap: np.ndarray
    """p - t"""
    surely: np.ndarray
    """Whether the sign of the gap is no matter of rounding."""


@_quiet
def _both(rows: Rows, temperature: float) -> Both:
    where = rows.get("where", np.ones(rows["student"].shape, bool))
    z, u = (np.where(where, floats(rows, name), -np.inf) for name in BOTH)
    empty = ~oracle.some(where)
    z, u = np.where(empty[:, None], 0, z), np.where(empty[:, None], 0, u)
    of_p, of_t = oracle.softmax_of(z), oracle.softmax_of(u)
    outside = ~of_p.defined | ~of_t.defined
    z, u = of_p.x, of_t.x
    of_p, of_t = (oracle.softmax_of((x - x.max(-1, keepdims=True)) / temperature) for x in (z, u))
    p, t = of_p.p, of_t.p
    far = of_p.cost - of_t.cost  # of what both lack, NaN
    # Counted from the teacher's top, whose probabilities are p_m and t_m: p exp(d) is p_m exp(u - u_m).
    top = u.argmax(-1)[:, None]
    u_m, z_m, p_m = (np.take_along_axis(a, top, -1) for a in (u, z, p))
    d = _difference(u, z, u_m, z_m) / temperature
    d = np.where(np.isneginf(u) & np.isneginf(z), 0, d)
    grown = np.where(d <= 1, p * np.expm1(np.minimum(d, 1)), p_m * np.exp((u - u_m) / temperature) - p)
    excess = grown.sum(-1, keepdims=True)
    near = d - np.log1p(np.maximum(excess, -0.9))
    usable = (excess > -0.5) & np.isfinite(excess) & np.isfinite(z_m)
    ratio = np.where(usable, near, far)
    ratio = np.where(np.isneginf(u) & np.isneginf(z), 0, ratio)
    gap = np.where(ratio > 0, t, -p) * np.expm1(-np.abs(ratio))
    noise = np.where(np.isfinite(d), np.abs(d), 0) + np.abs(ratio)
    surely = np.abs(ratio) > 1e-5 * noise.max(-1, keepdims=True, initial=0, where=np.isfinite(noise))
    surely = surely & (np.abs(gap) > 100 * TINY) | (noise == 0) | (np.maximum(p, t) < 10 * TINY)
    return Both(outside, empty, t, p, ratio, gap, surely)


def _difference(u: np.ndarray, z: np.ndarray, u_m: np.ndarray, z_m: np.ndarray) -> np.ndarray:
    """(u - z) - (u_m - z_m), rounded once: what each difference loses is added again (Knuth)."""

    def apart(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        high = a - b
        moved = high - a
        low = (a - (high - moved)) - (b + moved)
        return high, np.where(np.isfinite(low), low, 0)

    (one, lost), (other, lost_there) = apart(u, z), apart(u_m, z_m)
    high, low = apart(one, other)
    return high + (low + (lost - lost_there))


@_quiet
def _entropy(a: np.ndarray, b: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """a log(a / b) - a + b, given log(a / b)."""
    of_a = oracle.product(a, oracle.surplus(np.maximum(ratio, -1)))
    of_b = oracle.product(b, 1 + np.where(np.isneginf(ratio), 0, np.exp(ratio) * (ratio - 1)))
    return np.where(ratio > -0.1, of_a, of_b)


def _truth_of(
    both: Both, value: np.ndarray, by_z: np.ndarray, by_u: np.ndarray, scale: np.ndarray, judged: np.ndarray,
    lost: tuple[float | np.ndarray, float | np.ndarray] = (1.0, 1.0), of_value: float | np.ndarray = 1.0,
) -> Truth:  # fmt: skip
    """`lost`: what multiplies a flushed probability in the gradient by the student's logits, then by the teacher's;
    `of_value`: in the value.
    """
    value, by_z, by_u = (np.where(both.empty.reshape(-1, *[1] * (a.ndim - 1)), 0, a) for a in (value, by_z, by_u))
    value, gradient = oracle.undefined_where(both.outside, value, np.concatenate([by_z, by_u], -1))
    slack = np.full(len(value), both.t.shape[1] * TINY)
    by_both = np.concatenate([(slack * each)[:, None] * np.ones_like(by_z) for each in lost], -1)
    return Truth(value, gradient, scale, slack * of_value, slope_slack=by_both, judged=judged | both.outside[:, None])


def _centred(weights: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slopes less their mean, weighed, and what that is the difference of."""
    each = oracle.product(weights, slopes)
    mean, size = each.sum(-1, keepdims=True), np.abs(each).sum(-1, keepdims=True)
    return each - weights * mean, np.abs(each) + weights * size


@_quiet
def _kl(rows: Rows, temperature: float = 1.0) -> Truth:
    both = _both(rows, temperature)
    value = temperature**2 * np.sum(_entropy(both.t, both.p, both.ratio), -1)
    impossible = oracle.some(np.isposinf(both.ratio))[:, None]
    by_u, of_u = _centred(both.t, np.where(impossible, 0, both.ratio))
    distance = np.abs(both.gap)
    of_z = distance + both.p * distance.sum(-1, keepdims=True)
    scale = temperature * np.concatenate([of_z, of_u], -1)
    judged = np.concatenate([np.full(of_z.shape, True), np.broadcast_to(~impossible, of_u.shape)], -1)
    # By the teacher's logits the slope is a probability, maybe flushed, times a logarithm.
    lost = temperature * np.abs(both.ratio).max(-1, where=np.isfinite(both.ratio), initial=0)
    value, of_gap = np.where(impossible[:, 0], np.inf, value), max(1.0, temperature)
    return _truth_of(
        both, value, temperature * both.gap, temperature * by_u, scale, judged, (of_gap, np.maximum(lost, of_gap)),
        np.maximum(1, temperature * np.maximum(temperature, lost)),
    )  # fmt: skip


@_quiet
def _js(rows: Rows, beta: float, temperature: float = 1.0) -> Truth:
    both = _both(rows, temperature)
    of_t, of_p = (
        np.where(r < -1, r - np.log(share * np.exp(r) + rest), -np.log1p(rest * np.expm1(-r)))
        for r, share, rest in ((both.ratio, beta, 1 - beta), (-both.ratio, 1 - beta, beta))
    )  # log(t / m) and log(p / m)
    mixture = beta * both.t + (1 - beta) * both.p
    terms = beta * _entropy(both.t, mixture, of_t) + (1 - beta) * _entropy(both.p, mixture, of_p)
    by_z, of_z = _mixed(both.p, of_p, (1 - beta) / temperature)
    by_u, of_u = _mixed(both.t, of_t, beta / temperature)
    scale = np.concatenate([of_z, of_u], -1)
    # Nothing is said of the gradient; a flushed probability in it is multiplied by a logarithm.
    lost = tuple(np.abs(a).max(-1, where=np.isfinite(a), initial=1) for a in (of_p, of_t))
    return _truth_of(both, terms.sum(-1), by_z, by_u, scale, np.full(scale.shape, True), (lost[0], lost[1]))


def _mixed(weights: np.ndarray, slopes: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    by, of = _centred(weights, slopes)
    return factor * by, factor * of


@_quiet
def _tv(rows: Rows, temperature: float = 1.0) -> Truth:
    both = _both(rows, temperature)
    sign = np.sign(both.gap)
    gradients = []
    for weights, way in ((both.p, sign), (both.t, -sign)):
        # The mean distance from all others: signs are three, and of the own one nothing is taken away.
        distances = [np.sum(weights * (way == s), -1, keepdims=True) * (way - s) for s in (-1, 0, 1)]
        gradients.append(weights * sum(distances) / 2 / temperature)
    by_z, by_u = gradients
    value = np.abs(both.gap).sum(-1) / 2
    scale = np.concatenate([both.p, both.t], -1) / temperature
    judged = np.broadcast_to(both.surely.all(-1, keepdims=True), scale.shape)
    return _truth_of(both, value, by_z, by_u, scale, judged)


# In many digits.


def _exact_both(row: Rows, temperature: float) -> tuple[list[Any], list[Any], list[Any]]:
    """t, p and log(t / p), as the difference of two logarithms."""
    import mpmath

    where = row.get("where", np.ones(row["student"].shape, bool))
    of = [np.where(where, floats(row, name), -np.inf) for name in BOTH]
    (p, cost_p), (t, cost_t) = (
        oracle.exact_softmax_of([x / mpmath.mpf(temperature) for x in oracle.numbers(a)]) for a in of
    )
    return t, p, [a - b if mpmath.isfinite(a - b) else mpmath.mpf(0) for a, b in zip(cost_p, cost_t, strict=True)]


def _exact_kl(row: Rows, temperature: float = 1.0) -> tuple[float, np.ndarray]:
    return _many_digits(row, temperature, _textbook_kl)


def _exact_js(row: Rows, beta: float, temperature: float = 1.0) -> tuple[float, np.ndarray]:
    return _many_digits(row, temperature, partial(_textbook_js, beta=beta))


def _exact_tv(row: Rows, temperature: float = 1.0) -> tuple[float, np.ndarray]:
    return _many_digits(row, temperature, _textbook_tv)


@in_many_digits
def _many_digits(row: Rows, temperature: float, textbook: Callable[..., Any]) -> tuple[Any, list[Any]]:
    import mpmath

    if "where" in row and not row["where"].any():
        return 0, [0] * (2 * row["student"].shape[1])
    value, by_z, by_u = textbook(*_exact_both(row, temperature), mpmath.mpf(temperature))
    return value, by_z + by_u


def _textbook_kl(t: list[Any], p: list[Any], ratio: list[Any], temperature: Any) -> tuple[Any, list[Any], list[Any]]:
    import mpmath

    value = mpmath.fsum(a * r for a, r in zip(t, ratio, strict=True))
    by_u = [temperature * a * (r - value) for a, r in zip(t, ratio, strict=True)]
    return temperature**2 * value, [temperature * (b - a) for a, b in zip(t, p, strict=True)], by_u


def _textbook_js(
    t: list[Any], p: list[Any], _: list[Any], temperature: Any, beta: float
) -> tuple[Any, list[Any], list[Any]]:
    import mpmath

    share = mpmath.mpf(beta)
    mixture = [share * a + (1 - share) * b for a, b in zip(t, p, strict=True)]
    value, slopes = mpmath.mpf(0), []
    for weight, of in ((1 - share, p), (share, t)):
        logs = [mpmath.log(a / m) if a else mpmath.mpf(0) for a, m in zip(of, mixture, strict=True)]
        mean = mpmath.fsum(a * x for a, x in zip(of, logs, strict=True))
        value += weight * mean
        slopes.append([weight * a * (x - mean) / temperature for a, x in zip(of, logs, strict=True)])
    return value, slopes[0], slopes[1]


def _textbook_tv(t: list[Any], p: list[Any], _: list[Any], temperature: Any) -> tuple[Any, list[Any], list[Any]]:
    import mpmath

    # What is left of a difference of equals is rounding, also in many digits.
    equal = mpmath.mpf(10) ** -60
    signs = [mpmath.sign(b - a) if abs(b - a) > equal * (a + b) else 0 for a, b in zip(t, p, strict=True)]
    value = mpmath.fsum(abs(b - a) for a, b in zip(t, p, strict=True)) / 2
    slopes = []
    for of, way in ((p, 1), (t, -1)):
        mean = mpmath.fsum(a * s for a, s in zip(of, signs, strict=True))
        slopes.append([way * a * (s - mean) / 2 / temperature for a, s in zip(of, signs, strict=True)])
    return value, slopes[0], slopes[1]
