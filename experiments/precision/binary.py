"""What is left of the losses of one logit, or of one probability: weights of yes, focal loss, and games."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from xent import losses
from xent.experiments.precision import oracle
from xent.experiments.precision.logits import Draw, regimes_of, rounded, sigmoid_rows, undefined
from xent.experiments.precision.loss import LOGITS, Loss, Random, Rows, Run, by_jax, by_torch, floats, within
from xent.experiments.precision.oracle import FORMATS, TINY, Truth, in_many_digits
from xent.experiments.precision.sigmoid import answers

LARGEST = FORMATS["float32"].largest


def losses_of(torch: bool) -> list[Loss]:
    """List them; `torch` says whether to run torch's too."""
    return [
        _of_probabilities(torch),
        _weighted("sigmoid, weight of yes", 0.0, False, torch),
        _weighted("sigmoid, weight of yes, smoothed", 0.1, True, torch),
        _focal("sigmoid focal, gamma 2", 2.0, None, False),
        _focal("sigmoid focal, gamma 5, alpha 0.25", 5.0, 0.25, False),
        _focal("sigmoid focal, gamma 0.5, soft", 0.5, None, True),
        _discriminator("discriminator", 0.0),
        _discriminator("discriminator, smoothed by 0.1", 0.1),
        _generator("generator, minimax", losses.minimax_generator_loss, -1, 0.0),
        _generator("generator, non-saturating", losses.non_saturating_generator_loss, 1, 1.0),
    ]


# Of a probability.


def _of_probabilities(torch: bool) -> Loss:
    def ours(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
        return losses.binary_cross_entropy(probabilities, labels)[:, 0]

    def torchs(functional: Any, probabilities: Any, labels: Any) -> Any:
        return functional.binary_cross_entropy(probabilities, labels, reduction="none")[:, 0]

    names = ("inside", "near 0", "near 1", "0 or 1", "equal to label", "smallest normal", "undefined")
    by = ("probabilities",)
    runs = {"xent": by_jax(ours, by)} | ({"torch": by_torch(torchs, by)} if torch else {})
    return Loss(
        "binary, probabilities", "binary", {name: partial(_probabilities, name) for name in names}, runs,
        _truth_of_probabilities, _exact_of_probabilities, within(4, 8), {"probabilities": (0, 1)}, {1: 1.0},
    )  # fmt: skip


def _probabilities(regime: str, random: Random, rows: int, _: int, dtype: str) -> Rows:
    edge = random.choice([0.0, 1.0, 1e-30, 1e-7, 1 - 2.0**-24, 0.5], rows)
    y = np.choose(random.integers(3, size=rows), [random.random(rows), edge, 1.0 * random.integers(2, size=rows)])
    small = 10 ** random.uniform(-37, 0, rows)
    p = {
        "inside": random.random(rows),
        "near 0": small,
        "near 1": 1 - np.where(random.random(rows) < 0.5, small, 2.0**-24 * random.integers(1, 100, rows)),
        "0 or 1": random.choice([0.0, 1.0], rows),
        "equal to label": y,
        "smallest normal": TINY * 2 ** random.uniform(0, 3, rows),
        "undefined": random.choice([np.nan, -1e-3, -1.0, 1.5, np.inf, -np.inf], rows),
    }[regime]
    p, y = (np.where((a > 0) & (a < TINY), 0, rounded(a, dtype).astype(np.float64))[:, None] for a in (p, y))
    return {"probabilities": rounded(p, dtype), "labels": rounded(y, dtype)}


def _truth_of_probabilities(rows: Rows) -> Truth:
    p, y = floats(rows, "probabilities"), floats(rows, "labels")
    outside = ~((p >= 0) & (p <= 1))[:, 0]
    p = np.where(outside[:, None], 0.5, p)
    with np.errstate(divide="ignore"):
        value = oracle.product(y, -np.log(p)) + oracle.product(1 - y, -np.log1p(-p))
        of_yes, of_no = y * np.minimum(1 / p, LARGEST), (1 - y) * np.minimum(1 / (1 - p), LARGEST)
    value, gradient = oracle.undefined_where(outside, value[:, 0], of_no - of_yes)
    return Truth(value, gradient, np.maximum(of_yes, of_no), np.full(len(value), 2 * TINY))


@in_many_digits
def _exact_of_probabilities(row: Rows) -> tuple[Any, list[Any]]:
    import mpmath

    (p,), (y,) = oracle.numbers(floats(row, "probabilities")), oracle.numbers(floats(row, "labels"))
    value = (-y * mpmath.log(p) if y else y) + (-(1 - y) * mpmath.log(1 - p) if y != 1 else 1 - y)
    return value, [(-y / p if y else y) + ((1 - y) / (1 - p) if y != 1 else 1 - y)]


# Weights of yes.


def _weighted(name: str, smoothing: float, soft: bool, torch: bool) -> Loss:
    def ours(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
        return losses.sigmoid_binary_cross_entropy(
            logits[:, 0], targets[:, 0], pos_weight=weights[:, 0], label_smoothing=smoothing
        )

    def torchs(functional: Any, logits: Any, targets: Any, weights: Any) -> Any:
        t = (1 - smoothing) * targets + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, t, reduction="none", pos_weight=weights)[:, 0]

    def rows_of(draw: Draw, random: Random, rows: int, width: int, dtype: str) -> Rows:
        weights = np.where(random.random((rows, 1)) < 0.1, 0, 10 ** random.uniform(-3, 3, (rows, 1)))
        return sigmoid_rows(draw, random, rows, width, dtype, soft=soft) | {"weights": weights.astype(np.float32)}

    runs = {"xent": by_jax(ours)} | ({"torch": by_torch(torchs)} if torch else {})
    return Loss(
        name, "binary", regimes_of(rows_of), runs, partial(_truth_of_weighted, smoothing=smoothing),
        partial(_exact_of_weighted, smoothing=smoothing), widths={1: 1.0},
    )  # fmt: skip


def _truth_of_weighted(rows: Rows, smoothing: float) -> Truth:
    yes, no = answers(floats(rows, "targets"), smoothing)
    return oracle.sigmoid(floats(rows, "logits"), floats(rows, "weights") * yes, no)


def _exact_of_weighted(row: Rows, smoothing: float) -> tuple[float, np.ndarray]:
    yes, no = answers(floats(row, "targets"), smoothing)
    weight = floats(row, "weights")
    return oracle.exact_sigmoid(float(row["logits"][0, 0]), float((weight * yes)[0, 0]), float(no[0, 0]))


# Focal loss.


def _focal(name: str, gamma: float, alpha: float | None, soft: bool) -> Loss:
    def run_of(function: Callable[..., jax.Array]) -> Run:
        return by_jax(lambda logits, targets: function(logits, targets, alpha=alpha, gamma=gamma)[:, 0])

    runs = {"xent": run_of(losses.sigmoid_focal_loss), "optax": run_of(optax.losses.sigmoid_focal_loss)}
    return Loss(
        name, "binary", regimes_of(sigmoid_rows, soft=soft), runs,
        partial(_truth_of_focal, gamma=gamma, alpha=alpha), partial(_exact_of_focal, gamma=gamma, alpha=alpha),
        within(12 + 2 * gamma, 12 + 2 * gamma), widths={1: 1.0},
    )  # fmt: skip


def _truth_of_focal(rows: Rows, gamma: float, alpha: float | None) -> Truth:
    z, y = floats(rows, "logits"), floats(rows, "targets")
    outside = np.isnan(z[:, 0])
    z = np.where(outside[:, None], 0, z)
    exp = np.exp(-np.abs(z))
    yes, no = np.where(z >= 0, 1, exp) / (1 + exp), np.where(z >= 0, exp, 1) / (1 + exp)
    balance = 1.0 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
    power = balance * (y * no + (1 - y) * yes) ** gamma
    cost = oracle.product(y, np.maximum(-z, 0) + np.log1p(exp))
    cost = cost + oracle.product(1 - y, np.maximum(z, 0) + np.log1p(exp))
    with np.errstate(over="ignore", invalid="ignore"):
        slope = (1 - 2 * y) / (1 + oracle.product(y, np.exp(-z)) + oracle.product(1 - y, np.exp(z)))
    terms = np.stack([power * (1 - y) * yes, -power * y * no, oracle.product(power * gamma * slope, cost)])
    value = np.where((power == 0) & np.isfinite(z), 0, oracle.product(power, cost))
    value, gradient = oracle.undefined_where(outside, value[:, 0], terms.sum(0))
    scale = np.where((y == 0) | (y == 1), np.abs(gradient), np.abs(terms).max(0))
    return Truth(value, gradient, scale, np.full(len(value), 2 * TINY))


@in_many_digits
def _exact_of_focal(row: Rows, gamma: float, alpha: float | None) -> tuple[Any, list[Any]]:
    import mpmath

    z = mpmath.mpf(max(-1e9, min(float(row["logits"][0, 0]), 1e9)))
    (y,), power = oracle.numbers(floats(row, "targets")), mpmath.mpf(gamma)
    balance = mpmath.mpf(1) if alpha is None else alpha * y + (1 - mpmath.mpf(alpha)) * (1 - y)
    yes, no = 1 / (1 + mpmath.exp(-z)), 1 / (1 + mpmath.exp(z))
    cost = y * mpmath.log1p(mpmath.exp(-z)) + (1 - y) * mpmath.log1p(mpmath.exp(z))
    wrong = y * no + (1 - y) * yes
    by_z = wrong**power * (yes - y) + power * wrong ** (power - 1) * (1 - 2 * y) * yes * no * cost
    return balance * wrong**power * cost, [balance * by_z]


# Games.


def _discriminator(name: str, smoothing: float) -> Loss:
    def ours(real: jax.Array, fake: jax.Array) -> jax.Array:
        return losses.discriminator_loss(real, fake, one_sided_label_smoothing=smoothing)[:, 0]

    def rows_of(draw: Draw, random: Random, rows: int, width: int, dtype: str) -> Rows:
        real, fake = (sigmoid_rows(draw, random, rows, width, dtype, soft=False)["logits"] for _ in range(2))
        if draw is undefined:
            fake = np.where(random.random((rows, 1)) < 0.5, fake, real.dtype.type(0.5))
        return {"real": real, "fake": fake}

    return Loss(
        name, "games", regimes_of(rows_of), {"xent": by_jax(ours, ("real", "fake"))},
        partial(_truth_of_discriminator, smoothing=smoothing), partial(_exact_of_discriminator, smoothing=smoothing),
        moved={"real": LOGITS, "fake": LOGITS}, widths={1: 1.0},
    )  # fmt: skip


def _truth_of_discriminator(rows: Rows, smoothing: float) -> Truth:
    real, fake = floats(rows, "real"), floats(rows, "fake")
    of_real = oracle.sigmoid(real, np.full_like(real, 1 - smoothing), np.full_like(real, smoothing))
    of_fake = oracle.sigmoid(fake, np.zeros_like(fake), np.ones_like(fake))
    gradient, scale = (np.concatenate(pair, -1) for pair in zip(of_real[1:3], of_fake[1:3], strict=True))
    # An undefined logit need not spoil the gradient of the other one.
    judged = np.isfinite(of_real.gradient + of_fake.gradient) | np.isnan(np.concatenate([real, fake], -1))
    return Truth(of_real.value + of_fake.value, gradient, scale, of_real.slack + of_fake.slack, judged=judged)


def _exact_of_discriminator(row: Rows, smoothing: float) -> tuple[float, np.ndarray]:
    real, by_real = oracle.exact_sigmoid(float(row["real"][0, 0]), 1 - smoothing, smoothing)
    fake, by_fake = oracle.exact_sigmoid(float(row["fake"][0, 0]), 0.0, 1.0)
    return real + fake, np.concatenate([by_real, by_fake])


def _generator(name: str, function: Callable[[jax.Array], jax.Array], sign: int, target: float) -> Loss:
    def truth(rows: Rows) -> Truth:
        z = floats(rows, "logits")
        found = oracle.sigmoid(z, np.full_like(z, target), np.full_like(z, 1 - target))
        return found._replace(value=sign * found.value, gradient=sign * found.gradient)

    def exact(row: Rows) -> tuple[float, np.ndarray]:
        value, gradient = oracle.exact_sigmoid(float(row["logits"][0, 0]), target, 1 - target)
        return sign * value, sign * gradient

    def rows_of(draw: Draw, random: Random, rows: int, width: int, dtype: str) -> Rows:
        return {"logits": sigmoid_rows(draw, random, rows, width, dtype, soft=False)["logits"]}

    def ours(logits: jax.Array) -> jax.Array:
        return function(logits)[:, 0]

    return Loss(name, "games", regimes_of(rows_of), {"xent": by_jax(ours)}, truth, exact, widths={1: 1.0})
