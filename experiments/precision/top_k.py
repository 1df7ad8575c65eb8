"""Distillation from a teacher of whom only the likeliest classes are kept."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from xent import losses
from xent.experiments.precision import oracle
from xent.experiments.precision.logits import Draw, mixed, regimes_of, softmax_rows, undefined
from xent.experiments.precision.loss import Loss, Random, Rows, by_jax, floats, within
from xent.experiments.precision.oracle import TINY, Truth, in_many_digits
from xent.experiments.precision.probabilities import rounded

KEPT = 3
NONE = KEPT * 2.0**-23
"""Mass of the others that counts as none: k roundings of 1."""


def losses_of(torch: bool) -> list[Loss]:
    """List them; neither optax nor torch has these."""
    return [
        _loss("distillation, top k, bucket", "bucket", 1.0),
        _loss("distillation, top k, spread, temperature 2", "spread", 2.0),
    ]


def _loss(name: str, tail: Literal["bucket", "spread"], temperature: float) -> Loss:
    def ours(logits: jax.Array, classes: jax.Array, probabilities: jax.Array) -> jax.Array:
        return losses.distillation_top_k(logits, classes, probabilities, tail=tail, temperature=temperature)

    return Loss(
        name, "distillation", regimes_of(_rows), {"xent": by_jax(ours)},
        partial(_truth, bucket=tail == "bucket", temperature=temperature),
        partial(_exact, bucket=tail == "bucket", temperature=temperature),
        within(16, np.inf),  # nothing is said of the gradient
        wide=dict.fromkeys((1000,), partial(_rows, mixed)),
    )  # fmt: skip


def _rows(draw: Draw, random: Random, rows: int, width: int, dtype: str) -> Rows:
    """With nothing left for the others in a fourth of the rows, next to nothing in another, and gaps in the list."""
    logits = softmax_rows(draw, random, rows, width, dtype)["logits"]
    likely = np.where(random.random((rows, 1)) < 0.5, logits.astype(np.float64), 0)
    classes = np.argsort(random.random((rows, width)) - likely)
    classes = classes[:, :KEPT].astype(np.int32)
    t = random.gamma(random.choice([0.1, 1.0, 10.0], (rows, 1)), 1, (rows, KEPT)) + 1e-30
    left = np.choose(random.integers(4, size=rows), [0 * t[:, 0], 10 ** random.uniform(-6, -1, rows),
                                                     random.random(rows), random.random(rows)])  # fmt: skip
    t *= ((1 - left) / t.sum(-1))[:, None]
    t = rounded(np.where(random.random(t.shape) < 0.1, 0, t), dtype)
    rest = 1 - t.sum(-1, keepdims=True)
    t = rounded(np.where((rest > NONE / 2) & (rest < NONE * 2), t * 0.99, t), dtype)  # neither some nor none
    if draw is undefined:
        labels = random.choice([-1, width, 2**31 - 1], rows)
        kind = random.integers(2, size=rows)
        classes[:, 0] = np.where(kind == 0, labels, classes[:, 0])
        t[:, 0] = np.where(kind == 1, random.choice([np.nan, -0.5, 1.5], rows), t[:, 0])
    return {"logits": logits, "classes": classes, "probabilities": t.astype(jnp.dtype(dtype))}


def _parts(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What each class is given by name, `[rows, V]`; the others, likewise; their mass, `[rows, 1]`; what is wrong."""
    z, classes, t = floats(rows, "logits"), rows["classes"], floats(rows, "probabilities")
    outside = ~oracle.every((classes >= 0) & (classes < z.shape[1]) & (t >= 0) & (t <= 1))
    t = np.where(outside[:, None], 0, t)
    target = np.zeros(z.shape)
    for i in range(KEPT):
        target[np.arange(len(z)), np.clip(classes[:, i], 0, z.shape[1] - 1)] += t[:, i]
    rest = np.ones((len(z), 1))
    for i in range(KEPT):  # the largest first, so that no more is rounded than what is left
        rest -= np.sort(t, -1)[:, KEPT - 1 - i, None]
    return target, (target == 0) & (z > -np.inf), np.where(rest > NONE, rest, 0), outside


def _truth(rows: Rows, bucket: bool, temperature: float) -> Truth:
    target, others, rest, outside = _parts(rows)
    z = floats(rows, "logits")
    of = oracle.softmax_of(z)
    outside = outside | ~of.defined
    of = oracle.softmax_of((of.x - of.x.max(-1, keepdims=True)) / temperature)
    cost = np.where(np.isfinite(of.x), of.cost, np.inf)
    logs = np.log(np.where(target > 0, target, 1))
    value, size = (oracle.product(target, a).sum(-1) for a in (logs + cost, np.abs(logs) + cost))
    number = others.sum(-1, keepdims=True)
    some = number > 0
    log_rest = np.log(np.where(rest > 0, rest, 1))
    if bucket:
        among = oracle.softmax_of(np.where(others, of.x, np.where(some, -np.inf, 0)))
        shares = np.where(others, among.p, 0)
        tail = of.log_total - among.log_total  # minus the logarithm of the others' probability
        logs_of_tail = log_rest[:, 0]
    else:
        shares = others / np.maximum(number, 1)
        tail = oracle.product(shares, cost).sum(-1)
        logs_of_tail = log_rest[:, 0] - np.log(np.maximum(number, 1))[:, 0]
    tail = np.where(some[:, 0], tail, np.inf)
    value = value + oracle.product(rest[:, 0], tail + logs_of_tail)
    size = temperature**2 * (1 + size + oracle.product(rest[:, 0], tail + np.abs(logs_of_tail)))
    given = target + rest * shares
    mass = target.sum(-1, keepdims=True) + rest
    gradient, scale = temperature * (of.p * mass - given), temperature * np.maximum(of.p, given)
    judged = outside[:, None] | np.broadcast_to(np.isfinite(value)[:, None], z.shape)
    value, gradient = oracle.undefined_where(outside, temperature**2 * value, gradient)
    return Truth(value, gradient, scale, np.full(len(z), z.shape[1] * TINY), size, judged=judged)


@in_many_digits
def _exact(row: Rows, bucket: bool, temperature: float) -> tuple[Any, list[Any]]:
    import mpmath

    scale = mpmath.mpf(temperature)
    p, costs = oracle.exact_softmax_of([z / scale for z in oracle.numbers(floats(row, "logits"))])
    named, others, left, _ = _parts(row)
    given = dict(enumerate(oracle.numbers(named)))
    t = [x for x in oracle.numbers(floats(row, "probabilities")) if x]
    rest = 1 - mpmath.fsum(t) if left[0, 0] else mpmath.mpf(0)
    among = [j for j in range(len(p)) if others[0, j]]
    together = mpmath.fsum(p[j] for j in among)
    value = mpmath.fsum(x * (mpmath.log(x) + costs[j]) for j, x in given.items() if x)
    if rest and among:
        share = rest / len(among)
        value += (
            rest * mpmath.log(rest / together) if bucket
            else mpmath.fsum(share * (mpmath.log(share) + costs[j]) for j in among)
        )  # fmt: skip
        for j in among:
            given[j] = rest * p[j] / together if bucket else share
    mass = mpmath.fsum(t) + rest
    return scale**2 * value, [scale * (q * mass - given[j]) for j, q in enumerate(p)]
