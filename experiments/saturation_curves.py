"""Three ways to compute cross-entropy, and what they give from logit -100 to 100."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from xent import losses
from xent.experiments.precision.oracle import sigmoid

CLIP = 1e-7
"""Keras's epsilon."""


class Way(NamedTuple):
    """A way to compute cross-entropy."""

    binary: Callable[[jax.Array, jax.Array], jax.Array]
    """Of logits and answers, both `[n]`, per element."""
    softmax: Callable[[jax.Array, jax.Array], jax.Array]
    """Of logits `[batch, classes]` and integer labels `[batch]`, per example."""


def _of_probability(p: jax.Array, y: jax.Array) -> jax.Array:
    return -(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))


def _of_label(p: jax.Array, y: jax.Array) -> jax.Array:
    return -jnp.log(jnp.take_along_axis(p, y[:, None], -1)[:, 0])


def _clipped(p: jax.Array) -> jax.Array:
    return jnp.clip(p, CLIP, 1 - CLIP)


WAYS = {
    "probabilities": Way(
        lambda z, y: _of_probability(jax.nn.sigmoid(z), y), lambda z, y: _of_label(jax.nn.softmax(z), y)
    ),
    "clipped": Way(
        lambda z, y: _of_probability(_clipped(jax.nn.sigmoid(z)), y),
        lambda z, y: _of_label(_clipped(jax.nn.softmax(z)), y),
    ),
    "logits (xent)": Way(losses.sigmoid_binary_cross_entropy, losses.softmax_cross_entropy_with_integer_labels),
}


class Curves(NamedTuple):
    """Value and gradient along the logits, `[points]` each."""

    logits: np.ndarray
    truth: tuple[np.ndarray, np.ndarray]
    ways: dict[str, tuple[np.ndarray, np.ndarray]]


def curves(points: int = 801) -> Curves:
    """Compute the loss of the answer yes, and its derivative, from logit -100 to 100."""
    z = np.linspace(-100, 100, points).astype(np.float32)
    yes = np.ones((points, 1))
    truth = sigmoid(z[:, None].astype(np.float64), yes, yes - 1)
    found = {}
    for name, way in WAYS.items():
        value = jax.jit(way.binary)(z, jnp.ones(points))
        gradient = jax.jit(jax.grad(lambda z, way=way: way.binary(z, jnp.ones(points)).sum()))(z)
        found[name] = np.asarray(value), np.asarray(gradient)
    return Curves(z, (truth.value, truth.gradient[:, 0]), found)


def table_of(found: Curves) -> Table:
    """A few points of the curves, for people."""
    result = Table(
        title="cross-entropy of the answer yes (value, gradient), float32", box=None, header_style="bold",
        padding=(0, 2, 0, 0), title_justify="left",
    )  # fmt: skip
    for name in ("logit", *found.ways, "truth"):
        result.add_column(name, justify="right", no_wrap=True)
    for logit in (-100, -50, -20, -10, 0, 10, 20, 50, 100):
        at = int(np.abs(found.logits - logit).argmin())
        pairs = [(value[at], gradient[at]) for value, gradient in (*found.ways.values(), found.truth)]
        result.add_row(f"{found.logits[at]:g}", *(f"{value:.3g}, {gradient:.3g}" for value, gradient in pairs))
    return result
