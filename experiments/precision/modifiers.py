"""The softmax cross-entropies with what else their arguments ask for: class weights, z-loss, soft cap, temperature."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from xent import losses
from xent.experiments.precision import oracle
from xent.experiments.precision.logits import Draw, mixed, regimes_of, softmax_rows
from xent.experiments.precision.loss import Loss, Random, Rows, by_jax, by_torch, contract, floats
from xent.experiments.precision.oracle import Truth, in_many_digits


class Options(NamedTuple):
    """Of one line."""

    soft: bool = False
    weighted: bool = False
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    logit_soft_cap: float | None = None
    temperature: float = 1.0


def losses_of(torch: bool) -> list[Loss]:
    """List them; `torch` says whether to run torch's too."""
    return [
        _loss("softmax, class weights", Options(weighted=True), torch),
        _loss("softmax, class weights, smoothed", Options(weighted=True, label_smoothing=0.1), torch),
        _loss("softmax, class weights, soft", Options(soft=True, weighted=True), False),
        _loss("softmax, z-loss 0.01", Options(z_loss=0.01), False),
        _loss("softmax, soft cap 30", Options(logit_soft_cap=30.0), False),
        _loss("softmax, temperature 0.7", Options(temperature=0.7), False),
        _loss("softmax, all modifiers, soft", Options(True, True, 0.1, 0.01, 30.0, 0.7), False),
    ]


def _loss(name: str, options: Options, torch: bool) -> Loss:
    weighted, soft, rest = options.weighted, options.soft, options._asdict()
    del rest["soft"], rest["weighted"]

    def ours(logits: jax.Array, labels: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
        function = losses.softmax_cross_entropy if soft else losses.softmax_cross_entropy_with_integer_labels
        one = jax.vmap(lambda x, y, w: function(x, y, class_weights=w if weighted else None, **rest))
        return one(logits, targets if soft else labels, weights)

    def torchs(functional: Any, logits: Any, labels: Any, weights: Any, **_: Any) -> Any:
        from torch.func import vmap

        def one(x: Any, y: Any, w: Any) -> Any:
            return functional.cross_entropy(x, y, w, reduction="none", label_smoothing=options.label_smoothing)

        return vmap(one)(logits, labels, weights.to(logits.dtype))

    return Loss(
        name, "softmax-modifiers", regimes_of(_rows),
        {"xent": by_jax(ours)} | ({"torch": by_torch(torchs)} if torch else {}),
        partial(_truth, options=options), partial(_exact, options=options),
        partial(_bounds, options), widths={2: 0.2, 10: 0.8}, wide=dict.fromkeys((1000,), partial(_rows, mixed)),
    )  # fmt: skip


def _bounds(options: Options, classes: int) -> tuple[float, float]:
    """The contract's, and what weights of a target, soft cap and temperature add to the gradient."""
    value, gradient = contract(classes)
    gradient += 2 * (options.weighted and (options.soft or options.label_smoothing > 0))
    return value, gradient + 4 * (options.logit_soft_cap is not None) + (options.temperature != 1)


def _rows(draw: Draw, random: Random, rows: int, classes: int, dtype: str) -> Rows:
    """With weights of 0, or around 1, for each class of each row."""
    found = softmax_rows(draw, random, rows, classes, dtype)
    # What weights, and smoothing over a thousand classes, make of it is a normal float.
    targets = np.where(found["targets"] < 1e-33, 0, found["targets"])
    weights = random.uniform(0.5, 2, (rows, classes)) * (random.random((rows, classes)) < 0.9)
    return found | {"targets": targets.astype(found["targets"].dtype), "weights": weights.astype(np.float32)}


def _targets(rows: Rows, options: Options) -> np.ndarray:
    shape, s = rows["logits"].shape, options.label_smoothing
    targets = floats(rows, "targets") if options.soft else 1.0 * (np.arange(shape[1]) == rows["labels"][:, None])
    total = targets.sum(-1, keepdims=True) if options.soft else 1
    targets = (1 - s) * targets + s / shape[1] * total
    return targets * floats(rows, "weights") if options.weighted else targets


def _truth(rows: Rows, options: Options) -> Truth:
    z, labels, classes = floats(rows, "logits"), rows["labels"], rows["logits"].shape[1]
    x, slope, steepness = z / options.temperature, 1 / options.temperature, np.zeros_like(z)
    if options.logit_soft_cap is not None:
        finite = np.where(np.isfinite(z), z, 0) / options.logit_soft_cap
        exp = np.exp(-2 * np.abs(finite))
        x = np.where(np.isfinite(z), options.logit_soft_cap * np.tanh(finite) / options.temperature, z)
        slope, steepness = 4 * exp / (1 + exp) ** 2 / options.temperature, 2 * np.abs(finite)
    hard = None if options.soft or options.label_smoothing else labels
    found = oracle.softmax(x, _targets(rows, options), hard, None)
    value, gradient, scale, slack = found.value, found.gradient, found.scale, found.slack
    outside = np.isnan(value) | (not options.soft) & ((labels < 0) | (labels >= classes))
    if hard is not None and options.weighted:
        weight = np.take_along_axis(floats(rows, "weights"), np.clip(labels, 0, classes - 1)[:, None], -1)
        value = np.where(outside, value, oracle.product(weight[:, 0], value))
        gradient, scale = gradient * weight, scale * weight
    of = oracle.softmax_of(x)
    here = np.where(of.x > -np.inf, np.abs(of.x), 0)
    total, largest = of.log_total, np.maximum(np.maximum(np.abs(of.log_total), np.log(classes)), np.abs(of.top))
    size = np.abs(value) + options.z_loss * np.abs(total) * largest
    value = value + options.z_loss * total**2
    penalty = 2 * options.z_loss * of.p
    scale = scale + penalty * (np.abs(total) + largest / 2)[:, None]
    gradient = gradient + penalty * total[:, None]
    if options.logit_soft_cap is not None or options.temperature != 1:  # each logit is rounded, and so moves all
        moved = np.broadcast_to(np.sum(of.p * here, -1, keepdims=True), z.shape)
        size = size + np.sum(np.abs(scale) * here, -1)
        if hard is not None:  # the label's gradient is the others' probability
            others = oracle.sum_of_others(of.p * here) / np.maximum(of.not_p, oracle.TINY**2)
            moved = np.where(np.arange(classes) == labels[:, None], others, moved)
        scale = scale * (1 + here + moved + steepness) + penalty * moved
    value, gradient = oracle.undefined_where(outside, value, gradient * slope)
    # What a flushed exponential is multiplied by: in the cap's slope by 4, in the penalty's by L.
    flushed = np.maximum(1, slope) * (1 + 2 * options.z_loss * np.abs(total))[:, None] * np.ones_like(z)
    flushed = flushed if options.logit_soft_cap is None else 4 * flushed
    # Under a soft cap or a temperature a logit of -inf stays what it is, and nothing is promised of its gradient.
    plain = options.logit_soft_cap is None and options.temperature == 1
    return Truth(value, gradient, scale * slope, slack, np.where(np.isinf(value), value, size),
                 slack[:, None] * flushed,
                 None if plain else outside[:, None] | np.isfinite(z))  # fmt: skip


@in_many_digits
def _exact(row: Rows, options: Options) -> tuple[Any, list[Any]]:
    import mpmath

    x, slopes = oracle.numbers(floats(row, "logits")), [mpmath.mpf(1)] * row["logits"].shape[1]
    if options.logit_soft_cap is not None:
        cap = mpmath.mpf(options.logit_soft_cap)
        slopes = [1 - mpmath.tanh(z / cap) ** 2 if mpmath.isfinite(z) else mpmath.mpf(0) for z in x]
        x = [cap * mpmath.tanh(z / cap) if mpmath.isfinite(z) else z for z in x]
    x = [z / mpmath.mpf(options.temperature) for z in x]
    p, costs = oracle.exact_softmax_of(x)
    targets = oracle.numbers(_targets(row, options))
    value = mpmath.fsum(t * cost for t, cost in zip(targets, costs, strict=True) if t)
    log_total, mass = mpmath.log(mpmath.fsum(mpmath.exp(z) for z in x)), mpmath.fsum(targets)
    zeta = mpmath.mpf(options.z_loss)
    gradient = [
        (q * mass - t + 2 * zeta * log_total * q) * slope / mpmath.mpf(options.temperature)
        for q, t, slope in zip(p, targets, slopes, strict=True)
    ]
    return value + zeta * log_total**2, gradient
