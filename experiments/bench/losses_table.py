"""Which losses `xent bench losses` times: each as ours and, where it has it, as optax's, as functions of logits."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from xent import losses

Labels = Any
"""What a loss takes beside the logits: an array, or a pytree of them."""
Loss = Callable[[jax.Array, Labels], jax.Array]
"""`loss(logits, labels)`, per example or per element."""
Draw = Callable[[jax.Array, jax.Array], Labels]
"""From a key and the logits, labels."""


class Peers(NamedTuple):
    """One loss, twice."""

    name: str
    """Of ours in `xent.losses`."""
    ours: Loss
    optax: Loss | None
    """None where it has none."""
    labels: Draw
    """Those that both of them take."""


def _classes(key: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.random.randint(key, logits.shape[:1], 0, logits.shape[1])


def _shares(key: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.nn.softmax(jax.random.normal(key, logits.shape)).astype(logits.dtype)


def _log_shares(key: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(jax.random.normal(key, logits.shape)).astype(logits.dtype)


def _bits(key: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.random.bernoulli(key, 0.1, logits.shape).astype(logits.dtype)


def _teacher(key: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.random.normal(key, logits.shape, logits.dtype)


def _none(key: jax.Array, logits: jax.Array) -> tuple[()]:
    return ()


def _words(key: jax.Array, logits: jax.Array) -> jax.Array:
    return jax.random.randint(key, logits.shape[:1], min(1, logits.shape[1] - 1), logits.shape[1])  # 0 is blank


def _best(key: jax.Array, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A teacher's eight best classes, one in each eighth of them, and nine tenths of the probability."""
    count = min(8, logits.shape[1])
    each = logits.shape[1] // count
    within = jax.random.randint(key, (len(logits), count), 0, each)
    shares = jax.nn.softmax(jax.random.normal(key, (len(logits), count)))
    return within + each * jnp.arange(count)[None], 0.9 * shares


def _sequences(rows: int) -> tuple[int, int]:
    """The rows are positions of sequences of 64."""
    positions = math.gcd(rows, 64)
    return rows // positions, positions


def _spoken(ctc_loss: Callable[..., jax.Array]) -> Loss:
    """CTC: a quarter as many labels are said in each utterance as it has frames."""

    def loss(z: jax.Array, y: jax.Array) -> jax.Array:
        shape = _sequences(len(z))
        said = y.reshape(shape)[:, : max(1, shape[1] // 4)]
        nothing = jnp.zeros(shape)
        return ctc_loss(z.reshape(*shape, z.shape[1]), nothing, said, nothing[:, : said.shape[1]])

    return loss


def _written(next_token: Callable[..., jax.Array]) -> Loss:
    def loss(z: jax.Array, y: jax.Array) -> jax.Array:
        shape = _sequences(len(z))
        return next_token(z.reshape(*shape, z.shape[1]), y.reshape(shape))

    return loss


def _of_logits(function: Callable[..., jax.Array]) -> Loss:
    return function


def _of_logits_alone(function: Callable[..., jax.Array]) -> Loss:
    return lambda z, _: function(z)


# Probabilities are the logits' own, so that each gradient is one in logits, like all others.
def _of_both(function: Callable[..., jax.Array]) -> Loss:
    return lambda z, p: function(p, jax.nn.softmax(z))


def _of_probabilities(function: Callable[..., jax.Array]) -> Loss:
    return lambda z, y: function(jax.nn.softmax(z), y)


def _of_probabilities_alone(function: Callable[..., jax.Array]) -> Loss:
    return lambda z, _: function(jax.nn.softmax(z))


def _of_yes(function: Callable[..., jax.Array]) -> Loss:
    return lambda z, y: function(jax.nn.sigmoid(z), y)


def _of_logarithms(function: Callable[..., jax.Array]) -> Loss:
    return lambda z, t: function(jax.nn.log_softmax(z), t)


def _of_best(function: Callable[..., jax.Array]) -> Loss:
    return lambda z, best: function(z, *best)


def _optax_smoothed(z: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy(z, optax.smooth_labels(jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype), 0.1))


def _optax_distillation(z: jax.Array, teacher: jax.Array) -> jax.Array:
    return optax.losses.kl_divergence_with_log_targets(jax.nn.log_softmax(z), jax.nn.log_softmax(teacher))


How = Callable[[Callable[..., jax.Array]], Loss]


def _same(name: str, labels: Draw, how: How = _of_logits) -> Peers:
    """A loss that optax has under the same name."""
    return Peers(name, how(getattr(losses, name)), how(getattr(optax.losses, name)), labels)


def _ours(name: str, labels: Draw, how: How = _of_logits, theirs: Loss | None = None) -> Peers:
    """A loss that optax does not have, or only in other words: `theirs`."""
    return Peers(name, how(getattr(losses, name)), theirs, labels)


_INTEGER = "softmax_cross_entropy_with_integer_labels"
LOSSES = {
    "integer": _same(_INTEGER, _classes),
    "soft": _same("softmax_cross_entropy", _shares),
    "sigmoid": _same("sigmoid_binary_cross_entropy", _bits),
    "smoothed": _ours(_INTEGER, _classes, lambda loss: partial(loss, label_smoothing=0.1), _optax_smoothed),
    "next-token": _ours("next_token_cross_entropy", _classes, _written),
    "focal": _ours("softmax_focal_loss", _classes),
    "sigmoid-focal": _same("sigmoid_focal_loss", _bits),
    "poly": _same("poly_loss_cross_entropy", _shares),
    "ctc": _same("ctc_loss", _words, _spoken),
    "kl": _same("kl_divergence", _shares, _of_logarithms),
    "kl-log-targets": _same("kl_divergence_with_log_targets", _log_shares, _of_logarithms),
    "distillation": _ours("distillation_kl_divergence", _teacher, theirs=_optax_distillation),
    "jensen-shannon": _ours("distillation_jensen_shannon_divergence", _teacher),
    "total-variation": _ours("distillation_total_variation", _teacher),
    "top-k": _ours("distillation_top_k", _best, _of_best),
    "discriminator": _ours("discriminator_loss", _teacher),
    "generator": _ours("non_saturating_generator_loss", _none, _of_logits_alone),
    "minimax-generator": _ours("minimax_generator_loss", _none, _of_logits_alone),
    "cross-entropy-of-probabilities": _ours("cross_entropy", _shares, _of_both),
    "relative-entropy": _ours("relative_entropy", _shares, _of_both),
    "jensen-shannon-of-probabilities": _ours("jensen_shannon_divergence", _shares, _of_both),
    "entropy": _ours("entropy", _none, _of_probabilities_alone),
    "log-likelihood": _ours("log_likelihood", _classes, _of_probabilities),
    "binary-of-probabilities": _ours("binary_cross_entropy", _bits, _of_yes),
}
CORE = ("integer", "soft", "sigmoid")

_DERIVATIVE = "a derivative in closed form: the time of a gradient is the loss's"
_OF_A_HEAD = "of hidden states and a kernel: xent bench fused"
_OF_SCALARS = "of a few scalars: too little to be timed alone"
NOT_TIMED = {
    "Auxiliary": "a type",
    "fused_linear": _OF_A_HEAD,
    "linear_distillation": _OF_A_HEAD,
    "linear_softmax_cross_entropy": _OF_A_HEAD,
    "mean": "no loss: what each of them is timed with",
    "sum": "no loss: as mean",
    "next_token_targets": "no loss: part of next_token_cross_entropy",
    "perplexity": "the exponential of a mean",
    "uncertainty_weighted_multitask_loss": _OF_SCALARS,
    "weighted_multitask_loss": _OF_SCALARS,
} | {
    f"{loss}_cross_entropy_{derivative}": _DERIVATIVE
    for loss in ("softmax", "sigmoid_binary")
    for derivative in ("gradient", "hessian_vector_product", "gauss_newton_vector_product", "fisher_diagonal")
}
"""The rest of what `xent.losses` has, and why."""
