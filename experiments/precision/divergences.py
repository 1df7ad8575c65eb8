"""Kullback-Leibler divergences of log-probabilities."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from xent import losses
from xent.experiments.precision import oracle
from xent.experiments.precision.loss import Loss, Random, Rows, Run, by_jax, by_torch, floats
from xent.experiments.precision.oracle import TINY, Truth, in_many_digits
from xent.experiments.precision.probabilities import PAIRS, pair

NAMES = (*PAIRS, "-inf", "within 1e4")


def losses_of(torch: bool) -> list[Loss]:
    """List them; `torch` says whether to run torch's too."""

    def torchs(functional: Any, log_predictions: Any, targets: Any) -> Any:
        return functional.kl_div(log_predictions, targets, reduction="none").sum(-1)

    def torchs_log(functional: Any, log_predictions: Any, log_targets: Any) -> Any:
        return functional.kl_div(log_predictions, log_targets, reduction="none", log_target=True).sum(-1)

    by, by_logs = ("log_predictions", "targets"), ("log_predictions", "log_targets")
    runs = {"xent": by_jax(losses.kl_divergence, by), "optax": by_jax(optax.losses.kl_divergence, by)}
    of_logs: dict[str, Run] = {
        "xent": by_jax(losses.kl_divergence_with_log_targets, by_logs),
        "optax": by_jax(optax.losses.kl_divergence_with_log_targets, by_logs),
    }
    if torch:
        runs["torch"], of_logs["torch"] = by_torch(torchs, by), by_torch(torchs_log, by_logs)
    return [
        Loss(
            "KL divergence", "divergences", {name: partial(_rows, name) for name in NAMES}, runs, _truth, _exact,
            moved={"log_predictions": (-1e5, 1e4), "targets": (0, 1)}, widths={2: 0.2, 10: 0.8},
            wide=dict.fromkeys((1000,), partial(_rows, "ordinary")),
        ),
        Loss(
            "KL divergence, log targets", "divergences", {name: partial(_rows_of_logs, name) for name in NAMES},
            of_logs, _truth_of_logs, _exact_of_logs, moved=dict.fromkeys(by_logs, (-1e5, 5)),
            widths={2: 0.2, 10: 0.8}, wide=dict.fromkeys((1000,), partial(_rows_of_logs, "ordinary")),
        ),
    ]  # fmt: skip


def _rows(regime: str, random: Random, rows: int, classes: int, dtype: str) -> Rows:
    t, q = pair(regime if regime in PAIRS else "ordinary", random, rows, classes, dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_q = np.log(np.where(q < 0, np.inf, q))
    if regime == "-inf":
        gone = random.random(q.shape) < random.uniform(0, 0.9, (rows, 1))
        t = np.where(gone & (random.random((rows, 1)) < 0.7), 0, t)
        log_q = np.where(gone, -np.inf, log_q)
    if regime == "within 1e4":
        log_q = random.uniform(-1e4, 1e4, q.shape)
    return {name: a.astype(jnp.dtype(dtype)) for name, a in (("log_predictions", log_q), ("targets", t))}


def _rows_of_logs(regime: str, random: Random, rows: int, classes: int, dtype: str) -> Rows:
    found = _rows(regime, random, rows, classes, dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = floats(found, "targets")
        log_t = np.log(np.where(t < 0, np.inf, t))
    if regime == "-inf":
        log_t = np.where(random.random((rows, 1)) < 0.1, random.uniform(-1e4, 0, log_t.shape), log_t)
    if regime == "equal":
        found["log_predictions"] = log_t.astype(jnp.dtype(dtype))
    return {"log_predictions": found["log_predictions"], "log_targets": log_t.astype(jnp.dtype(dtype))}


def _truth(rows: Rows) -> Truth:
    log_q, t = floats(rows, "log_predictions"), floats(rows, "targets")
    outside = ~oracle.every((log_q < np.inf) & (t >= 0) & (t < np.inf))
    there = (t > 0) & ~outside[:, None]
    log_t = np.log(np.where(there, t, 1))
    log_q, t = np.where(there, log_q, 0), np.where(there, t, 0)
    value = np.sum(oracle.product(t, log_t - log_q), -1)
    size = np.sum(oracle.product(t, np.abs(log_t) + np.abs(log_q)), -1)
    gradient = np.concatenate([-t, np.where(there, log_t - log_q + 1, 0)], -1)
    scale = np.concatenate([t, np.where(there, np.abs(log_t) + np.abs(log_q) + 1, 0)], -1)
    value, gradient = oracle.undefined_where(outside, value, gradient)
    # The slope by a target whose prediction is impossible is infinite, and nothing is promised of it.
    judged = outside[:, None] | np.concatenate([np.full(t.shape, True), np.isfinite(log_q)], -1)
    return Truth(value, gradient, scale, np.full(len(value), t.shape[1] * TINY), size, judged=judged)


@in_many_digits
def _exact(row: Rows) -> tuple[Any, list[Any]]:
    import mpmath

    log_q, t = oracle.numbers(floats(row, "log_predictions")), oracle.numbers(floats(row, "targets"))
    value = mpmath.fsum(a * (mpmath.log(a) - b) for a, b in zip(t, log_q, strict=True) if a)
    by_t = [mpmath.log(a) - b + 1 if a else a for a, b in zip(t, log_q, strict=True)]
    return value, [-a for a in t] + by_t


def _truth_of_logs(rows: Rows) -> Truth:
    log_q, log_t = floats(rows, "log_predictions"), floats(rows, "log_targets")
    outside = ~oracle.every((log_q < np.inf) & (log_t < np.inf))
    there = (log_t > -np.inf) & ~outside[:, None]
    impossible = there & (log_q == -np.inf)
    log_t, log_q = np.where(there, log_t, 0), np.where(there & ~impossible, log_q, 0)
    t = np.where(there, np.exp(log_t), 0)
    terms = t * (log_t - log_q)
    value = np.where(impossible.any(-1), np.inf, terms.sum(-1))
    size = np.where(impossible.any(-1), np.inf, np.abs(terms).sum(-1))
    gradient = np.concatenate([-t, t * (log_t - log_q + 1)], -1)
    scale = np.concatenate([t, t * (np.abs(log_t - log_q) + 1)], -1)
    value, gradient = oracle.undefined_where(outside, value, gradient)
    judged = np.concatenate([np.full(t.shape, True), ~impossible], -1)
    slack = np.full(len(value), t.shape[1] * TINY)
    # Of a target that XLA flushes to zero, the value and the slope by its logarithm hold a multiple.
    slope_slack = slack[:, None] * np.concatenate([np.ones_like(t), 1 + np.abs(log_t - log_q)], -1)
    slack = slack * (1 + np.abs(log_t - log_q).max(-1))
    return Truth(value, gradient, scale, slack, size, slope_slack, judged)


@in_many_digits
def _exact_of_logs(row: Rows) -> tuple[Any, list[Any]]:
    import mpmath

    log_q, log_t = (oracle.numbers(floats(row, name)) for name in ("log_predictions", "log_targets"))
    t = [mpmath.exp(a) for a in log_t]
    pairs = list(zip(t, log_t, log_q, strict=True))
    value = mpmath.fsum(a * (b - c) for a, b, c in pairs if a)
    return value, [-a for a in t] + [a * (b - c + 1) if a else a for a, b, c in pairs]
