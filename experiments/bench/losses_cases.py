"""What `xent bench losses` times: each loss as ours and as optax's, on random logits, and a copy of the same bytes."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from xent import losses
from xent.experiments.bench import losses_torch, torch_peer
from xent.experiments.bench.engine import Built, Case, staged

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""`loss(logits, labels)`, per example or per element."""
What = Literal["value", "gradient"]


class Peers(NamedTuple):
    """One loss, twice."""

    ours: Loss
    optax: Loss
    labels: Callable[[jax.Array, jax.Array], jax.Array]
    """From a key and the logits, the labels that both of them take."""


def _classes(key: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.random.randint(key, logits.shape[:1], 0, logits.shape[1])


def _shares(key: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.nn.softmax(jax.random.normal(key, logits.shape)).astype(logits.dtype)


def _bits(key: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.random.bernoulli(key, 0.1, logits.shape).astype(logits.dtype)


# The name of a flag's choice -> the name of the function, ours and optax's alike, and its labels.
_TABLE = {
    "integer": ("softmax_cross_entropy_with_integer_labels", _classes),
    "soft": ("softmax_cross_entropy", _shares),
    "sigmoid": ("sigmoid_binary_cross_entropy", _bits),
}
LOSSES = {
    choice: Peers(getattr(losses, name), getattr(optax, name), labels) for choice, (name, labels) in _TABLE.items()
}


class Cell(NamedTuple):
    """One point of the grid."""

    loss: str
    batch: int
    classes: int
    dtype: str
    what: What


@lru_cache(maxsize=1)  # value and gradient are measured one after the other, on the same numbers
def make_inputs(loss: str, batch: int, classes: int, dtype: str, seed: int) -> tuple[jax.Array, jax.Array]:
    """Draw logits `[batch, classes]`, normal with standard deviation 3, and the labels that the loss takes."""
    for_logits, for_labels = jax.random.split(jax.random.key(seed))

    @jax.jit
    def draw() -> tuple[jax.Array, jax.Array]:
        logits = 3 * jax.random.normal(for_logits, (batch, classes), dtype)
        return logits, LOSSES[loss].labels(for_labels, logits)

    return jax.block_until_ready(draw())


def program(loss: Loss, what: What) -> Callable[..., Any]:
    """The mean loss of a batch, as training has it, alone or with its gradient in the logits."""

    def value(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return loss(logits, labels).astype(jnp.float32).mean()

    return value if what == "value" else jax.value_and_grad(value)


def make_cases(cell: Cell, seed: int, against: torch_peer.Against) -> list[Case]:
    """List what to time for a cell; ratios are to the first, a peer if there is one."""
    inputs = make_inputs(*cell[:4], seed)
    peers = LOSSES[cell.loss]

    def case(name: str, function: Callable[..., Any], *arguments: jax.Array) -> Case:
        def build() -> Built:
            compiled, took = staged(jax.jit(function), *arguments)
            return Built(lambda: compiled(*arguments), took)

        return Case(name, build, units=cell.batch)

    cases = [
        case("ours", program(peers.ours, cell.what), *inputs),
        case("copy", jnp.copy, inputs[0]),
    ]
    if torch_peer.takes_part(against):
        build = losses_torch.build(cell.loss, cell.what == "gradient", *inputs)
        cases = [Case("PyTorch", build, units=cell.batch), *cases]
    if against in ("all", "optax"):
        cases = [case("optax", program(peers.optax, cell.what), *inputs), *cases]
    return [*cases, cases[0]._replace(name=f"{cases[0].name}, again")]
