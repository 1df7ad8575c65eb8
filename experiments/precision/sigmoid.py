"""The cross-entropies of two classes from one logit."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import jax
import numpy as np
import optax

from xent import losses
from xent.experiments.precision import oracle
from xent.experiments.precision.logits import regimes_of, sigmoid_rows
from xent.experiments.precision.loss import Loss, Rows, Run, by_jax, by_torch, floats
from xent.experiments.precision.oracle import Truth
from xent.experiments.precision.softmax import CORE


def losses_of(torch: bool) -> list[Loss]:
    """List them; `torch` says whether to run torch's too."""
    return [
        _sigmoid("sigmoid, yes or no", 0.0, False, torch),
        _sigmoid("sigmoid, soft labels", 0.0, True, torch),
        _sigmoid("sigmoid, smoothed by 0.1", 0.1, True, torch),
    ]


@cache
def _runs(smoothing: float, torch: bool) -> Mapping[str, Run]:
    """Of labels of any kind, so that each is compiled once."""

    def ours(logits: jax.Array, targets: jax.Array) -> jax.Array:
        return losses.sigmoid_binary_cross_entropy(logits, targets, label_smoothing=smoothing)[:, 0]

    def of_smoothed(targets: Any) -> Any:
        return (1 - smoothing) * targets + smoothing / 2

    def optaxs(logits: jax.Array, targets: jax.Array) -> jax.Array:
        return optax.sigmoid_binary_cross_entropy(logits, of_smoothed(targets))[:, 0]

    def torchs(functional: Any, logits: Any, targets: Any) -> Any:
        return functional.binary_cross_entropy_with_logits(logits, of_smoothed(targets), reduction="none")[:, 0]

    return {"xent": by_jax(ours), "optax": by_jax(optaxs)} | ({"torch": by_torch(torchs)} if torch else {})


def _sigmoid(name: str, smoothing: float, soft: bool, torch: bool) -> Loss:
    return Loss(
        name, "sigmoid", regimes_of(sigmoid_rows, soft=soft), _runs(smoothing, torch),
        partial(_truth, smoothing=smoothing), partial(_exact, smoothing=smoothing), widths={1: 1.0}, share=CORE,
    )  # fmt: skip


def answers(targets: np.ndarray, smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    """The weights of yes and no."""
    half = smoothing / 2
    return (1 - smoothing) * targets + half, (1 - smoothing) * (1 - targets) + half


def _truth(rows: Rows, smoothing: float) -> Truth:
    return oracle.sigmoid(floats(rows, "logits"), *answers(floats(rows, "targets"), smoothing))


def _exact(row: Rows, smoothing: float) -> tuple[float, np.ndarray]:
    yes, no = answers(floats(row, "targets"), smoothing)
    return oracle.exact_sigmoid(float(floats(row, "logits")[0, 0]), float(yes[0, 0]), float(no[0, 0]))
