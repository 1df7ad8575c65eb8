"""What `xent bench losses` times: each loss as ours and as optax's, on random logits, and a copy of the same bytes."""

import math
from collections.abc import Callable
from functools import lru_cache, partial
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
    optax: Loss | None
    """None where it has none."""
    labels: Callable[[jax.Array, jax.Array], jax.Array]
    """From a key and the logits, the labels that both of them take."""


def _classes(key: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.random.randint(key, logits.shape[:1], 0, logits.shape[1])


def _shares(key: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.nn.softmax(jax.random.normal(key, logits.shape)).astype(logits.dtype)


def _bits(key: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.random.bernoulli(key, 0.1, logits.shape).astype(logits.dtype)


def _teacher(key: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.random.normal(key, logits.shape, logits.dtype)


def _same(name: str, labels: Callable[[jax.Array, jax.Array], jax.Array]) -> Peers:
    """A loss that optax has under the same name."""
    return Peers(getattr(losses, name), getattr(optax.losses, name), labels)


def _optax_smoothed(z: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy(z, optax.smooth_labels(jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype), 0.1))


def _optax_distillation(z: jax.Array, teacher: jax.Array) -> jax.Array:
    return optax.losses.kl_divergence_with_log_targets(jax.nn.log_softmax(z), jax.nn.log_softmax(teacher))


def _words(key: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.random.randint(key, logits.shape[:1], min(1, logits.shape[1] - 1), logits.shape[1])  # 0 is blank


def _spoken(ctc_loss: Callable[..., jax.Array]) -> Loss:
    """CTC: the rows are frames of utterances of 64, a quarter as many labels are said in each."""

    def loss(z: jax.Array, y: jax.Array) -> jax.Array:
        frames = math.gcd(len(z), 64)
        said = y.reshape(-1, frames)[:, : max(1, frames // 4)]
        nothing = jnp.zeros((len(said), frames))
        return ctc_loss(z.reshape(-1, frames, z.shape[1]), nothing, said, nothing[:, : said.shape[1]])

    return loss


def _of_probabilities(divergence: Callable[..., jax.Array]) -> Loss:
    """Of p and q: q is the softmax of the logits, so that the gradient is one in logits like all others."""
    return lambda z, p: divergence(p, jax.nn.softmax(z))


LOSSES = {
    "integer": _same("softmax_cross_entropy_with_integer_labels", _classes),
    "soft": _same("softmax_cross_entropy", _shares),
    "sigmoid": _same("sigmoid_binary_cross_entropy", _bits),
    "smoothed": Peers(
        partial(losses.softmax_cross_entropy_with_integer_labels, label_smoothing=0.1), _optax_smoothed, _classes
    ),
    "focal": Peers(losses.softmax_focal_loss, None, _classes),
    "sigmoid-focal": _same("sigmoid_focal_loss", _bits),
    "poly": _same("poly_loss_cross_entropy", _shares),
    "ctc": Peers(_spoken(losses.ctc_loss), _spoken(optax.ctc_loss), _words),
    "distillation": Peers(losses.distillation_kl_divergence, _optax_distillation, _teacher),
    "jensen-shannon": Peers(losses.distillation_jensen_shannon_divergence, None, _teacher),
    "discriminator": Peers(losses.discriminator_loss, None, _teacher),
    "generator": Peers(lambda z, _: losses.non_saturating_generator_loss(z), None, _teacher),
    "cross-entropy-of-probabilities": Peers(_of_probabilities(losses.cross_entropy), None, _shares),
    "relative-entropy": Peers(_of_probabilities(losses.relative_entropy), None, _shares),
    "total-variation": Peers(losses.distillation_total_variation, None, _teacher),
}
CORE = ("integer", "soft", "sigmoid")


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
    if cell.loss in losses_torch.FUNCTIONS and torch_peer.takes_part(against):
        build = losses_torch.build(cell.loss, cell.what == "gradient", *inputs)
        cases = [Case("PyTorch", build, units=cell.batch), *cases]
    if peers.optax is not None and against in ("all", "optax"):
        cases = [case("optax", program(peers.optax, cell.what), *inputs), *cases]
    return [*cases, cases[0]._replace(name=f"{cases[0].name}, again")]
