"""The softmax cross-entropies with every modifier."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xent import losses
from xent.experiments.precision import oracle
from xent.experiments.precision.logits import mixed, regimes_of, softmax_rows
from xent.experiments.precision.loss import Loss, Rows, Run, by_jax, by_torch, floats
from xent.experiments.precision.oracle import Truth

CORE = {"float32": 1 / 3, "bfloat16": 1 / 3, "float16": 1 / 3}
"""Of the two losses that the others rest on."""


def losses_of(torch: bool) -> list[Loss]:
    """List them; `torch` says whether to run torch's too."""
    return [
        _integer("softmax, integer labels", 0.0, False, torch),
        _integer("softmax, smoothed by 0.1", 0.1, False, torch),
        _soft("softmax, soft labels", False, torch),
        _soft("softmax, soft labels, masked", True, torch),
        _integer("softmax, masked", 0.0, True, torch),
        _integer("softmax, smoothed, masked", 0.1, True, torch),
    ]


def _loss(name: str, masked: bool, runs: dict[str, Run], smoothing: float | None) -> Loss:
    """`smoothing` of integer labels; None for soft ones."""
    return Loss(
        name, "softmax", regimes_of(softmax_rows, undefined=not masked, masked=masked), runs,
        truth=_truth_of_soft if smoothing is None else partial(_truth, smoothing=smoothing),
        exact=_exact_of_soft if smoothing is None else partial(_exact, smoothing=smoothing),
        widths={10: 1.0} if masked else {2: 0.45, 10: 0.5, 100: 0.05},
        wide={} if masked else dict.fromkeys((1000, 262144), partial(softmax_rows, mixed)), share=CORE,
    )  # fmt: skip


def _integer(name: str, smoothing: float, masked: bool, torch: bool) -> Loss:
    def ours(logits: jax.Array, labels: jax.Array, where: jax.Array | None = None, **_: Any) -> jax.Array:
        return losses.softmax_cross_entropy_with_integer_labels(logits, labels, where=where, label_smoothing=smoothing)

    def optax_hard(logits: jax.Array, labels: jax.Array, where: jax.Array | None = None, **_: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels, where=where)

    def optax_smoothed(logits: jax.Array, labels: jax.Array, where: jax.Array | None = None, **_: Any) -> jax.Array:
        targets = jax.nn.one_hot(labels, logits.shape[-1])
        if where is None:
            return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing))
        spread = where / jnp.maximum(where.sum(-1, keepdims=True), 1)  # over the classes that there are, like ours
        return optax.softmax_cross_entropy(logits, (1 - smoothing) * targets + smoothing * spread, where=where)

    def torchs(functional: Any, logits: Any, labels: Any, **_: Any) -> Any:
        return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

    runs = {"xent": by_jax(ours), "optax": by_jax(optax_smoothed if smoothing else optax_hard)}
    runs |= {"torch": by_torch(torchs)} if torch and not masked else {}
    return _loss(name, masked, runs, smoothing)


def _soft(name: str, masked: bool, torch: bool) -> Loss:
    def run_of(function: Callable[..., jax.Array]) -> Run:
        return by_jax(lambda logits, targets, labels, where=None: function(logits, targets, where=where))

    def torchs(functional: Any, logits: Any, targets: Any, **_: Any) -> Any:
        return functional.cross_entropy(logits, targets, reduction="none")

    runs = {"xent": run_of(losses.softmax_cross_entropy), "optax": run_of(optax.softmax_cross_entropy)}
    return _loss(name, masked, runs | ({"torch": by_torch(torchs)} if torch and not masked else {}), None)


def _truth_of_soft(rows: Rows) -> Truth:
    return oracle.softmax(floats(rows, "logits"), floats(rows, "targets"), None, rows.get("where"))


def _exact_of_soft(row: Rows) -> tuple[float, np.ndarray]:
    where = row["where"][0] if "where" in row else None
    return oracle.exact_softmax(floats(row, "logits")[0], floats(row, "targets")[0].tolist(), where)


def _truth(rows: Rows, smoothing: float) -> Truth:
    logits, labels = floats(rows, "logits"), rows["labels"]
    if not smoothing:
        return oracle.softmax(logits, np.ones_like(logits), labels, rows.get("where"))
    outside = (labels < 0) | (labels >= logits.shape[1])
    found = oracle.softmax(logits, smoothed(rows, smoothing), None, rows.get("where"))
    value, gradient = np.where(outside, np.nan, found.value), np.where(outside[:, None], np.nan, found.gradient)
    return found._replace(value=value, gradient=gradient)


def _exact(row: Rows, smoothing: float) -> tuple[float, np.ndarray]:
    where = row["where"][0] if "where" in row else None
    return oracle.exact_softmax(floats(row, "logits")[0], smoothed(row, smoothing)[0].tolist(), where)


def smoothed(rows: Rows, smoothing: float) -> np.ndarray:
    """The target of integer labels."""
    shape = rows["logits"].shape
    kept = rows.get("where", np.ones(shape, bool))
    spread = smoothing / np.maximum(kept.sum(-1, keepdims=True), 1) * kept
    return spread + (1 - smoothing) * (np.arange(shape[1]) == rows["labels"][:, None])
