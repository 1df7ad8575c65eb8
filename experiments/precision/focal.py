"""The softmax losses that weigh the cross-entropy by how wrong the prediction is: focal loss and PolyLoss."""

from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from xent import losses
from xent.experiments.precision import oracle
from xent.experiments.precision.logits import Draw, mixed, regimes_of, softmax_rows, undefined
from xent.experiments.precision.loss import Loss, Random, Rows, by_jax, floats, within
from xent.experiments.precision.oracle import TINY, Truth, in_many_digits


def losses_of(torch: bool) -> list[Loss]:
    """List them; torch has none of these."""
    return [
        _focal("softmax focal, gamma 2", 2.0, False),
        _focal("softmax focal, gamma 0.7, class weights", 0.7, True),
        _poly("poly loss, epsilon 2", 2.0),
        _poly("poly loss, epsilon -1", -1.0),
    ]


def _focal(name: str, gamma: float, weighted: bool) -> Loss:
    def ours(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
        def one(x: jax.Array, y: jax.Array, w: jax.Array) -> jax.Array:
            return losses.softmax_focal_loss(x, y, gamma=gamma, class_weights=w if weighted else None)

        return jax.vmap(one)(logits, labels, weights)

    return Loss(
        name, "focal", regimes_of(_weighted_rows), {"xent": by_jax(ours)},
        partial(_focal_truth, gamma=gamma, weighted=weighted), partial(_exact_focal, gamma=gamma, weighted=weighted),
        within(16 + 4 * gamma, 16 + 4 * gamma),
        widths={2: 0.2, 10: 0.8}, wide=dict.fromkeys((1000,), partial(_weighted_rows, mixed)),
    )  # fmt: skip


def _weighted_rows(draw: Draw, random: Random, rows: int, classes: int, dtype: str) -> Rows:
    found = softmax_rows(draw, random, rows, classes, dtype)
    weights = random.uniform(0.5, 2, (rows, classes)) * (random.random((rows, classes)) < 0.9)
    return {"logits": found["logits"], "labels": found["labels"], "weights": weights.astype(np.float32)}


def _focal_truth(rows: Rows, gamma: float, weighted: bool) -> Truth:
    """The gradient is `p_j` or, at the label, `-(1 - p)`, times `(1 - p)**gamma (1 + gamma p (-log p) / (1 - p))`."""
    labels, classes = rows["labels"], rows["logits"].shape[1]
    of = oracle.softmax_of(floats(rows, "logits"))
    at = np.clip(labels, 0, classes - 1)[:, None]
    not_p, p, cost = (np.take_along_axis(array, at, -1) for array in (of.not_p, of.p, of.cost))
    weight = np.take_along_axis(floats(rows, "weights"), at, -1) if weighted else np.ones_like(p)
    there = not_p > 0
    # Where p is 0 its cost may be infinite, and is multiplied by p.
    ratio = np.where(there, np.where(p > 0, p * np.minimum(cost, 1e300), 0) / np.where(there, not_p, 1), 1)
    slope = weight * not_p**gamma * (1 + gamma * ratio)
    gradient = of.p.copy()
    np.put_along_axis(gradient, at, -not_p, -1)
    gradient *= slope
    value = oracle.product(weight, not_p**gamma * cost)[:, 0]
    outside = ~of.defined | (labels < 0) | (labels >= classes)
    value, gradient = oracle.undefined_where(outside, value, gradient)
    return Truth(value, gradient, np.abs(gradient), np.full(len(value), classes * TINY))


@in_many_digits
def _exact_focal(row: Rows, gamma: float, weighted: bool) -> tuple[Any, list[Any]]:
    import mpmath

    label, power = int(row["labels"][0]), mpmath.mpf(gamma)
    probabilities, costs = oracle.exact_softmax_of(oracle.numbers(floats(row, "logits")))
    p, cost = probabilities[label], costs[label]
    weight = oracle.numbers(floats(row, "weights"))[label] if weighted else mpmath.mpf(1)
    if not weight:
        return weight, [weight] * len(costs)
    if p == 1:
        return mpmath.mpf(0), [mpmath.mpf(0)] * len(costs)
    slope = -power * (1 - p) ** (power - 1) * cost - (1 - p) ** power / p  # of the loss by p
    of_p = [p * ((1 if j == label else 0) - q) for j, q in enumerate(probabilities)]
    return weight * (1 - p) ** power * cost, [weight * slope * change for change in of_p]


def _poly(name: str, epsilon: float) -> Loss:
    def ours(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return losses.poly_loss_cross_entropy(logits, labels, epsilon=epsilon)

    def optaxs(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return optax.losses.poly_loss_cross_entropy(logits, labels, epsilon=epsilon)

    return Loss(
        name, "focal", regimes_of(soft_rows), {"xent": by_jax(ours), "optax": by_jax(optaxs)},
        partial(_poly_truth, epsilon=epsilon), partial(_exact_poly, epsilon=epsilon),
        lambda classes: (8.0 if classes <= 1000 else 32.0, 16.0),
        widths={2: 0.2, 10: 0.8}, wide=dict.fromkeys((1000, 262144), partial(soft_rows, mixed)),
    )  # fmt: skip


def soft_rows(draw: Draw, random: Random, rows: int, classes: int, dtype: str) -> Rows:
    """With labels that are probabilities; where undefined, those may be the reason."""
    found = softmax_rows(draw, random, rows, classes, dtype)
    labels = found["targets"].astype(np.float64)
    labels /= np.maximum(labels.sum(-1, keepdims=True), 1)  # up to rounding, which may leave 1 beside small ones
    if draw is undefined:
        bad = random.choice([np.nan, -0.1, np.inf], (rows, classes))
        labels = np.where(random.random((rows, classes)) < 0.05, bad, labels)
        outside = (found["labels"] < 0) | (found["labels"] >= classes)  # of these the logits are defined
        labels[outside, 0] = bad[outside, 0]
    labels = np.where(np.abs(labels) < TINY, 0, labels)
    return {"logits": found["logits"], "labels": labels.astype(found["targets"].dtype)}


def _poly_truth(rows: Rows, epsilon: float) -> Truth:
    t = floats(rows, "labels")
    of = oracle.softmax_of(floats(rows, "logits"))
    outside = ~of.defined | ~oracle.every((t >= 0) & (t < np.inf))
    t = np.where(outside[:, None], 1.0, t)
    value = np.sum(oracle.product(t, of.cost + epsilon * of.not_p), -1)
    size = np.sum(oracle.product(t, of.cost + abs(epsilon) * of.not_p), -1)
    wrong = t * of.not_p
    others = oracle.sum_of_others(t)
    gradient = of.p * others - wrong + epsilon * of.p * (oracle.sum_of_others(t * of.p) - wrong)
    scale = (1 + abs(epsilon)) * (of.p * others + wrong)
    value, gradient = oracle.undefined_where(outside, value, gradient)
    return Truth(value, gradient, scale, np.full(len(value), (1 + abs(epsilon)) * t.shape[1] * TINY), size)


@in_many_digits
def _exact_poly(row: Rows, epsilon: float) -> tuple[Any, list[Any]]:
    import mpmath

    p, costs = oracle.exact_softmax_of(oracle.numbers(floats(row, "logits")))
    t, weight = oracle.numbers(floats(row, "labels")), mpmath.mpf(epsilon)
    value = mpmath.fsum(label * (cost + weight * (1 - q)) for label, cost, q in zip(t, costs, p, strict=True) if label)
    mass, hit = mpmath.fsum(t), mpmath.fsum(label * q for label, q in zip(t, p, strict=True))
    gradient = [q * mass - label + weight * q * (hit - label) for label, q in zip(t, p, strict=True)]
    return value, gradient
