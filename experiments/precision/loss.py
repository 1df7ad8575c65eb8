"""What a loss under test is: how its inputs are drawn, how libraries run it, what is true, and what it promises."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xent.experiments.precision.oracle import Truth

Random = np.random.Generator
Rows = dict[str, np.ndarray]
"""Inputs of one shape: by argument, `[rows, ...]`. The first one's shape is the row's."""
Regime = Callable[[Random, int, int, str], Rows]
"""`regime(random, rows, width, dtype)`."""
Run = Callable[[Rows], tuple[np.ndarray, np.ndarray]]
"""Value `[rows]` and gradient `[rows, inputs]`, each in the dtype that the library gives them."""
OURS = "xent"
LOGITS = (-1e6, 1e6)


def contract(classes: int) -> tuple[float, float]:
    """8 ulp of value and gradient to 1000 classes, 32 to 262144."""
    return (8.0, 8.0) if classes <= 1000 else (32.0, 32.0)


def within(value: float, gradient: float) -> Callable[[int], tuple[float, float]]:
    """So many ulp, whatever the number of classes."""
    return lambda classes: (value, gradient)


class Loss(NamedTuple):
    """One loss with its options, each part of which knows nothing of the others."""

    name: str
    family: str
    """Of the losses that share a picture."""
    regimes: Mapping[str, Regime]
    runs: Mapping[str, Run]
    """By library."""
    truth: Callable[[Rows], Truth]
    """In float64, in a form where nothing cancels."""
    exact: Callable[[Rows], tuple[float, np.ndarray]]
    """Value and gradient of one row (`[1, ...]`) as textbooks print them, in many digits."""
    bounds: Callable[[int], tuple[float, float]] = contract
    """Classes -> what value and gradient promise, in ulp of float32 at the sizes that `truth` names."""
    moved: Mapping[str, tuple[float, float]] = {"logits": LOGITS}
    """What the search changes, and within which limits; what cannot be negative changes by factors."""
    widths: Mapping[int, float] = {10: 1.0}
    """Classes -> share of the rows. The search goes on with the width of the largest share."""
    wide: Mapping[int, Regime] = {}
    """More classes -> what a few rows are drawn from."""
    share: Mapping[str, float] = {"float32": 0.05, "bfloat16": 0.01, "float16": 0.01}
    """Of the rows asked for, by dtype."""
    of: tuple[str, ...] = ("value", "gradient")
    """What there is to judge: a closed form of a derivative has no value."""

    def in_full(self, dtype: str) -> bool:
        """Whether a dtype gets as much as float32: every width, also in a quick run."""
        return self.share[dtype] == self.share["float32"]


def by_jax(function: Callable[..., jax.Array], by: tuple[str, ...] = ("logits",)) -> Run:
    """Of `function(**rows) -> [rows]`, with its gradient by the named arguments, one behind the other."""

    @jax.jit
    def both(moving: dict[str, jax.Array], others: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        value, pull = jax.vjp(lambda moving: function(**moving, **others), moving)
        return value, pull(jnp.ones_like(value))[0]

    def run(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        moving = {name: rows[name] for name in by}
        value, gradients = jax.device_get(both(moving, {name: a for name, a in rows.items() if name not in by}))
        return value, side_by_side([gradients[name] for name in by])

    return run


def products_by_jax(function: Callable[..., jax.Array]) -> Run:
    """Of `function(**rows)`, a derivative itself, which stands where others have their gradient."""
    jitted = jax.jit(lambda rows: function(**rows))

    def run(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        product = jax.device_get(jitted(rows))
        return np.zeros(len(product), np.float32), product.reshape(len(product), -1)

    return run


def by_torch(function: Callable[..., Any], by: tuple[str, ...] = ("logits",)) -> Run:
    """Of `function(functional, **rows) -> [rows]`, with rows as tensors."""

    def run(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        import torch

        tensors = {}
        for name, array in rows.items():
            if array.dtype.kind in "biu":
                tensors[name] = torch.from_numpy(array.astype(np.int64 if array.dtype.kind != "b" else bool))
            else:
                kind = getattr(torch, str(array.dtype))
                tensors[name] = torch.from_numpy(array.astype(np.float32)).to(kind)
        moving = [tensors[name].requires_grad_() for name in by]
        value = function(torch.nn.functional, **tensors)
        gradients = torch.autograd.grad(value.sum(), moving)
        return value.detach().float().numpy(), side_by_side([gradient.float().numpy() for gradient in gradients])

    return run


def side_by_side(gradients: list[np.ndarray]) -> np.ndarray:
    """Gradients of each row, one behind the other."""
    flat = [gradient.reshape(len(gradient), -1) for gradient in gradients]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, -1)


def torch_installed() -> bool:
    """Whether torch is here."""
    return importlib.util.find_spec("torch") is not None


def floats(rows: Rows, name: str) -> np.ndarray:
    """One argument, in float64."""
    return rows[name].astype(np.float64)


def take(rows: Rows, chosen: np.ndarray) -> Rows:
    """Some of the rows."""
    return {name: array[chosen] for name, array in rows.items()}


def join(one: Rows, other: Rows) -> Rows:
    """The rows of both."""
    return {name: np.concatenate([array, other[name]]) for name, array in one.items()}


def count(rows: Rows) -> int:
    """How many there are."""
    return len(next(iter(rows.values())))


def shape(rows: Rows) -> tuple[int, ...]:
    """Of one row."""
    return next(iter(rows.values())).shape[1:]
