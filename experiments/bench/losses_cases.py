"""What `xent bench losses` times of a loss: ours, its peers, and a copy of the same bytes, on random logits."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from xent.experiments.bench import losses_torch, torch_peer
from xent.experiments.bench.engine import Built, Case, staged
from xent.experiments.bench.losses_table import LOSSES, Labels, Loss

What = Literal["value", "gradient"]


class Cell(NamedTuple):
    """One point of the grid."""

    loss: str
    batch: int
    classes: int
    dtype: str
    what: What


@lru_cache(maxsize=1)  # value and gradient are measured one after the other, on the same numbers
def make_inputs(loss: str, batch: int, classes: int, dtype: str, seed: int) -> tuple[jax.Array, Labels]:
    """Draw logits `[batch, classes]`, normal with standard deviation 3, and the labels that the loss takes."""
    for_logits, for_labels = jax.random.split(jax.random.key(seed))

    @jax.jit
    def draw() -> tuple[jax.Array, Labels]:
        logits = 3 * jax.random.normal(for_logits, (batch, classes), dtype)
        return logits, LOSSES[loss].labels(for_labels, logits)

    return jax.block_until_ready(draw())


def program(loss: Loss, what: What) -> Callable[..., Any]:
    """The mean loss of a batch, as training has it, alone or with its gradient in the logits."""

    def value(logits: jax.Array, labels: Labels) -> jax.Array:
        return loss(logits, labels).astype(jnp.float32).mean()

    return value if what == "value" else jax.value_and_grad(value)


def make_cases(cell: Cell, seed: int, against: torch_peer.Against) -> list[Case]:
    """List what to time for a cell; ratios are to the first, a peer if there is one."""
    inputs = make_inputs(*cell[:4], seed)
    peers = LOSSES[cell.loss]

    def case(name: str, function: Callable[..., Any], *arguments: Any) -> Case:
        def build() -> Built:
            compiled, took = staged(jax.jit(function), *arguments)
            return Built(lambda: compiled(*arguments), took)

        return Case(name, build, units=cell.batch)

    cases = [
        case("ours", program(peers.ours, cell.what), *inputs),
        case("copy", jnp.copy, inputs[0]),
    ]
    if cell.loss in losses_torch.FUNCTIONS and torch_peer.takes_part(against):
        build = losses_torch.build(cell.loss, cell.what == "gradient", *inputs)
        cases = [Case("PyTorch", build, units=cell.batch), *cases]
    if peers.optax is not None and against in ("all", "optax"):
        cases = [case("optax", program(peers.optax, cell.what), *inputs), *cases]
    return [*cases, cases[0]._replace(name=f"{cases[0].name}, again")]
