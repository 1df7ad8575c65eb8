"""The losses under test: each as we, optax and torch have it, with its truth."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xent import losses
from xent.experiments import precision_oracle as oracle
from xent.experiments.precision_oracle import Truth
from xent.experiments.precision_regimes import Rows

Run = Callable[[Rows], tuple[np.ndarray, np.ndarray]]
"""Value `[rows]` and gradient `[rows, classes]` in the logits, each in the dtype that the library gives them."""
Kind = Literal["integer", "soft", "sigmoid"]


class Loss(NamedTuple):
    """One loss with its options."""

    name: str
    kind: Kind
    runs: Mapping[str, Run]
    """By library."""
    smoothing: float = 0.0
    masked: bool = False
    soft: bool = False
    """Whether labels may be anything in [0, 1]."""

    def truth(self, rows: Rows) -> Truth:
        """What value and gradient are."""
        logits, targets = rows.logits.astype(np.float64), rows.targets.astype(np.float64)
        if self.kind == "sigmoid":
            return oracle.sigmoid(logits, *self._answers(targets))
        hard = rows.labels if self.kind == "integer" else None
        if hard is None or not self.smoothing:
            return oracle.softmax(logits, targets, hard, rows.where)
        outside = (hard < 0) | (hard >= logits.shape[1])
        found = oracle.softmax(logits, self._smoothed(rows), None, rows.where)
        value = np.where(outside, np.nan, found.value)
        return found._replace(value=value, gradient=np.where(outside[:, None], np.nan, found.gradient))

    def exact(self, rows: Rows, row: int) -> tuple[float, np.ndarray]:
        """The same of one row by the textbook's formula, in many digits."""
        logits, targets = rows.logits[row].astype(np.float64), rows.targets[row].astype(np.float64)
        if self.kind == "sigmoid":
            yes, no = self._answers(targets)
            return oracle.exact_sigmoid(float(logits[0]), float(yes[0]), float(no[0]))
        weights = targets if self.kind == "soft" else self._smoothed(rows)[row]
        return oracle.exact_softmax(logits, weights.tolist(), None if rows.where is None else rows.where[row])

    def _answers(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        half = self.smoothing / 2
        return (1 - self.smoothing) * targets + half, (1 - self.smoothing) * (1 - targets) + half

    def _smoothed(self, rows: Rows) -> np.ndarray:
        kept = np.ones(rows.logits.shape, bool) if rows.where is None else rows.where
        spread = self.smoothing / np.maximum(kept.sum(-1, keepdims=True), 1) * kept
        return spread + (1 - self.smoothing) * (np.arange(kept.shape[1]) == rows.labels[:, None])


def _by_jax(function: Callable[..., jax.Array]) -> Run:
    """Of `function(logits, labels, targets, where) -> [rows]`."""

    @jax.jit
    def both(logits: jax.Array, *others: Any) -> tuple[jax.Array, jax.Array]:
        value, pull = jax.vjp(lambda x: function(x, *others), logits)
        return value, pull(jnp.ones_like(value))[0]

    def run(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        value, gradient = jax.device_get(both(*rows))
        return value, gradient

    return run


def _by_torch(function: Callable[..., Any]) -> Run:
    """Of `function(functional, logits, labels, targets) -> [rows]`; no `where`."""

    def run(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        import torch

        kind = getattr(torch, str(rows.logits.dtype))
        wide = [torch.from_numpy(array.astype(np.float32)).to(kind) for array in (rows.logits, rows.targets)]
        logits, targets = wide[0].requires_grad_(), wide[1]
        value = function(torch.nn.functional, logits, torch.from_numpy(rows.labels.astype(np.int64)), targets)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        return value.detach().float().numpy(), gradient.float().numpy()

    return run


def torch_installed() -> bool:
    """Whether torch is here."""
    return importlib.util.find_spec("torch") is not None


def _integer(smoothing: float, masked: bool, torch: bool) -> dict[str, Run]:
    def ours(x: jax.Array, y: jax.Array, _: jax.Array, where: jax.Array | None) -> jax.Array:
        return losses.softmax_cross_entropy_with_integer_labels(x, y, where=where, label_smoothing=smoothing)

    def optax_hard(x: jax.Array, y: jax.Array, _: jax.Array, where: jax.Array | None) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(x, y, where=where)

    def optax_smoothed(x: jax.Array, y: jax.Array, _: jax.Array, where: jax.Array | None) -> jax.Array:
        targets = jax.nn.one_hot(y, x.shape[-1])
        if where is None:
            return optax.softmax_cross_entropy(x, optax.smooth_labels(targets, smoothing))
        spread = where / jnp.maximum(where.sum(-1, keepdims=True), 1)  # over the classes that there are, like ours
        return optax.softmax_cross_entropy(x, (1 - smoothing) * targets + smoothing * spread, where=where)

    def torchs(functional: Any, x: Any, y: Any, _: Any) -> Any:
        return functional.cross_entropy(x, y, reduction="none", label_smoothing=smoothing)

    runs = {"xent": _by_jax(ours), "optax": _by_jax(optax_smoothed if smoothing else optax_hard)}
    return runs | ({"torch": _by_torch(torchs)} if torch and not masked else {})


def _soft(masked: bool, torch: bool) -> dict[str, Run]:
    def run_of(function: Callable[..., jax.Array]) -> Run:
        return _by_jax(lambda x, _, targets, where: function(x, targets, where=where))

    def torchs(functional: Any, x: Any, _: Any, targets: Any) -> Any:
        return functional.cross_entropy(x, targets, reduction="none")

    runs = {"xent": run_of(losses.softmax_cross_entropy), "optax": run_of(optax.softmax_cross_entropy)}
    return runs | ({"torch": _by_torch(torchs)} if torch and not masked else {})


def _sigmoid(smoothing: float, torch: bool) -> dict[str, Run]:
    def ours(x: jax.Array, _: jax.Array, targets: jax.Array, __: None) -> jax.Array:
        return losses.sigmoid_binary_cross_entropy(x, targets, label_smoothing=smoothing)[:, 0]

    def smoothed(targets: Any) -> Any:
        return (1 - smoothing) * targets + smoothing / 2

    def optaxs(x: jax.Array, _: jax.Array, targets: jax.Array, __: None) -> jax.Array:
        return optax.sigmoid_binary_cross_entropy(x, smoothed(targets))[:, 0]

    def torchs(functional: Any, x: Any, _: Any, targets: Any) -> Any:
        return functional.binary_cross_entropy_with_logits(x, smoothed(targets), reduction="none")[:, 0]

    return {"xent": _by_jax(ours), "optax": _by_jax(optaxs)} | ({"torch": _by_torch(torchs)} if torch else {})


def make_losses(torch: bool) -> list[Loss]:
    """List the losses; `torch` says whether to run torch's too."""
    return [
        Loss("softmax, integer labels", "integer", _integer(0.0, False, torch)),
        Loss("softmax, smoothed by 0.1", "integer", _integer(0.1, False, torch), smoothing=0.1),
        Loss("softmax, soft labels", "soft", _soft(False, torch), soft=True),
        Loss("softmax, soft labels, masked", "soft", _soft(True, torch), soft=True, masked=True),
        Loss("softmax, masked", "integer", _integer(0.0, True, torch), masked=True),
        Loss("softmax, smoothed, masked", "integer", _integer(0.1, True, torch), smoothing=0.1, masked=True),
        Loss("sigmoid, yes or no", "sigmoid", _sigmoid(0.0, torch)),
        Loss("sigmoid, soft labels", "sigmoid", _sigmoid(0.0, torch), soft=True),
        Loss("sigmoid, smoothed by 0.1", "sigmoid", _sigmoid(0.1, torch), smoothing=0.1, soft=True),
    ]
