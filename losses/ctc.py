"""Connectionist temporal classification: the cross-entropy of a sequence whose alignment to the input is not known.

The probability of all alignments together is a sum of products, of which none is negative, so it is computed as one:
each number is a fraction times a power of two whose exponent is kept apart (`_wide.py`). Nothing underflows, as in the
probabilities themselves; nothing is rounded at the size of a whole logarithm, as in log space, where it would grow with
the length; and derivatives of every order are those of products and sums.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from xent.losses import _checks, _softmax, _wide
from xent.losses._floats import exp_difference, largest, nan_if_used
from xent.losses._wide import Wide


def ctc_loss(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    zero_infinity: bool = False,
) -> jax.Array:
    r"""Minus the log-probability that the frames, less repetitions and then less blanks, spell the labels.

    .. math:: -\log \sum_{\pi : B(\pi) = y} \prod_t p_{t, \pi_t}, \qquad p_{t, k} = \frac{e^{x_{tk}}}{\sum_j e^{x_{tj}}}

    The loss is within 2 ulp and `T` times 2**-23, as every frame's factor is rounded twice: no less is left of the loss
    of a target that is all but certain. The gradient, probability less occupancy, is within `8 + T` times 2**-24 of
    the larger of the two; over 1500 frames 4e-6 is what was seen.

    Args:
      logits: `x`, unnormalised log-probabilities, float [..., T, K]: for each of `T` frames, of each of `K` classes.
        bfloat16 and float16 are computed in float32. -inf is a class of probability 0.
      logit_paddings: which frames are not there, [..., T]: bool, or numbers, 0 for a frame and 1 for padding.
      labels: `y`, the target, integer [..., N].
      label_paddings: which labels are not there, [..., N], likewise. Neither padding need be at the end.
      blank_id: the class that stands for no label.
      zero_infinity: whether a target that no alignment spells costs 0, with a gradient of 0, instead of inf.

    Returns:
      The loss of each example in nats, float32 (float64 for float64 logits), of the shape of `labels` without the last
      axis. What padding holds, even NaN, has no influence. A target that no alignment spells, as it is too long (each
      repeated label takes a frame more) or has a label of probability 0, costs inf, and its gradient is NaN. A label
      that is blank or outside of [0, K), and a frame that holds NaN, +inf or nothing above -inf, gives NaN in the loss
      and in its gradient; but the gradient is exactly 0, whatever the example holds, where the cotangent is 0.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      Two frames spell a single label in three ways: twice it, or once, before or after a blank.

      >>> import jax.numpy as jnp
      >>> from xent.losses import ctc_loss
      >>> jnp.set_printoptions(precision=4)
      >>> logits = jnp.log(jnp.array([[[0.6, 0.4], [0.5, 0.5]]]))
      >>> loss = ctc_loss(logits, jnp.zeros((1, 2)), jnp.array([[1]]), jnp.zeros((1, 1)))
      >>> print(loss, jnp.exp(-loss))
      [0.3567] [0.7]

    Source:
      Graves et al., Connectionist Temporal Classification, 2006, equation 3 and section 4.1
    """
    x = _checks.computed(_checks.array_of("logits", logits, jnp.floating))
    y = _checks.array_of("labels", labels, jnp.integer)
    _check_shapes(x, y, blank_id)
    frame_is_padding = _paddings("logit_paddings", logit_paddings, x.shape[:-1], "the shape of logits without classes")
    label_is_padding = _paddings("label_paddings", label_paddings, y.shape, "the shape of labels")
    if not isinstance(zero_infinity, bool):
        raise ValueError(f"zero_infinity must be a bool, got {type(zero_infinity).__name__}")
    batch = math.prod(x.shape[:-2])
    x, y = x.reshape(batch, *x.shape[-2:]), y.reshape(batch, y.shape[-1])
    frame_is_padding, label_is_padding = frame_is_padding.reshape(x.shape[:-1]), label_is_padding.reshape(y.shape)
    return _losses(x, frame_is_padding, y, label_is_padding, blank_id, zero_infinity).reshape(jnp.shape(labels)[:-1])


def _check_shapes(x: jax.Array, y: jax.Array, blank: int) -> None:
    if x.ndim < 2:
        raise ValueError(f"logits must have an axis of frames and one of classes, got shape {x.shape}")
    _checks.class_count("logits", x.shape, (x.ndim - 1,))
    if y.ndim != x.ndim - 1 or y.shape[:-1] != x.shape[:-2]:
        raise ValueError(f"labels must have the shape {x.shape[:-2]} + (N,), got {y.shape}; it is not broadcast")
    if isinstance(blank, bool) or not isinstance(blank, int) or not 0 <= blank < x.shape[-1]:
        raise ValueError(f"blank_id must be an int in [0, {x.shape[-1]}), got {blank!r}")


def _paddings(name: str, value: ArrayLike, shape: tuple[int, ...], meaning: str) -> jax.Array:
    paddings = _checks.array_of(name, value, jnp.floating, jnp.integer, jnp.bool_)
    _checks.same_shape(name, paddings, shape, meaning)
    return paddings != 0


def _losses(
    x: jax.Array,
    frame_is_padding: jax.Array,
    y: jax.Array,
    label_is_padding: jax.Array,
    blank: int,
    zero_infinity: bool,
) -> jax.Array:
    """Of x [B, T, K] and y [B, N]."""
    y = _checks.signed(y)
    length = jnp.sum(~label_is_padding, -1)
    # Labels first, in their order; then padding, as a class that no alignment reaches.
    y = jnp.take_along_axis(y, jnp.argsort(label_is_padding, -1, stable=True), -1)
    there = jnp.arange(y.shape[-1])[None] < length[:, None]
    allowed = (y >= 0) & (y < x.shape[-1]) & (y != blank)
    x = jnp.where(frame_is_padding[..., None], 0, x)
    defined = (allowed | ~there).all(-1) & _softmax.has_softmax(x).all(-1)
    labels = jnp.where(there & allowed, y, blank)
    target = _Target(jnp.insert(labels, 0, blank, -1), length, ~frame_is_padding & defined[:, None], defined)
    return _cross_entropy(x, target, zero_infinity)


class _Target(NamedTuple):
    """What is to be spelled."""

    classes: jax.Array  # blank, then the labels, int [B, 1 + N]
    length: jax.Array  # how many labels count, int [B]
    frames: jax.Array  # which are there, bool [B, T]
    defined: jax.Array  # whether there is a loss, bool [B]


_Primals = tuple[jax.Array, _Target]
_Pair = tuple[jax.Array, jax.Array]
# In blank, after so many labels, [..., N + 1]; and in a label, [..., N].
_States = tuple[Wide, Wide]

# The loss and its gradient carry each other's derivatives: forward and reverse mode, of any order, follow.


@partial(jax.custom_jvp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def _cross_entropy(x: jax.Array, target: _Target, zero_infinity: bool) -> jax.Array:
    return _loss(_plain(x, target), target, zero_infinity)


@_cross_entropy.defjvp
def _(zero_infinity: bool, primals: _Primals, tangents: _Primals) -> tuple[jax.Array, jax.Array]:
    loss, gradient = _with_gradient(*primals, zero_infinity)
    return loss, _tangent(loss, gradient, tangents[0])


@partial(jax.custom_jvp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def _with_gradient(x: jax.Array, target: _Target, zero_infinity: bool) -> tuple[jax.Array, jax.Array]:
    """The loss, and its derivative by x: in each frame, p times the sum of the occupancies, less each class's own."""
    x = _finite_rows(x, target)
    emissions = _emissions(x, target.classes)
    state, forwards = _run(emissions, target, keep=True)
    _, backwards = _run(emissions, target, keep=True, reverse=True)
    total = _total(state, target.length)
    blanks, labels = (_occupancy(*each, total) for each in zip(forwards, backwards, emissions, strict=True))
    occupancy = jnp.concatenate([blanks.sum(-1, keepdims=True), labels], -1)
    occupancy = jnp.where(target.frames.T[..., None], occupancy, 0).transpose(1, 2, 0)  # [B, 1 + N, T]
    expected = jnp.swapaxes(_probabilities(x), 1, 2) * jnp.sum(occupancy, 1, keepdims=True)
    example = jnp.arange(x.shape[0])[:, None]
    gradient = jnp.swapaxes(expected.at[example, target.classes].add(-occupancy), 1, 2)
    return _loss(total, target, zero_infinity), gradient


@_with_gradient.defjvp
def _(zero_infinity: bool, primals: _Primals, tangents: _Primals) -> tuple[_Pair, _Pair]:
    loss, gradient = _with_gradient(*primals, zero_infinity)
    of_sum = jax.grad(lambda x: -_wide.log(_plain(x, primals[1])).sum())
    return (loss, gradient), (_tangent(loss, gradient, tangents[0]), jax.jvp(of_sum, primals[:1], tangents[:1])[1])


def _plain(x: jax.Array, target: _Target) -> Wide:
    """The probability of all alignments, [B], of finite rows: as sums and products that JAX can differentiate."""
    state, _ = _run(_emissions(_finite_rows(x, target), target.classes), target, keep=False)
    return _total(state, target.length)


def _loss(total: Wide, target: _Target, zero_infinity: bool) -> jax.Array:
    # An alignment that is all but certain may come out above 1 by what was rounded.
    loss = jnp.where(total.fraction > 0, jnp.maximum(-_wide.log(total), 0), 0 if zero_infinity else jnp.inf)
    return jnp.where(target.defined, loss, jnp.nan)


def _tangent(loss: jax.Array, gradient: jax.Array, dx: jax.Array) -> jax.Array:
    usable = jnp.isfinite(loss)
    # Any finite number but 0: NaN is made of it.
    return nan_if_used(jnp.sum(jnp.where(usable[:, None, None], gradient, 1) * dx, (1, 2)), usable)


def _finite_rows(x: jax.Array, target: _Target) -> jax.Array:
    return jnp.where(target.frames[..., None], x, 0)


def _run(emissions: _States, target: _Target, *, keep: bool, reverse: bool = False) -> tuple[_States, Any]:
    """The probability of each state after all frames; and after each, if they are to be kept.

    Reversed, it starts behind the last label and behind the last frame.
    """
    again = target.classes[:, 2:] == target.classes[:, 1:-1]
    first, last, all_but_last, all_but_first = slice(1), slice(-1, None), slice(-1), slice(1, None)
    if reverse:
        ends, own, other = last, all_but_last, all_but_first
    else:
        ends, own, other = first, all_but_first, all_but_last
    nobody = jnp.zeros((again.shape[0], min(1, target.classes.shape[1] - 1)), bool)
    again = jnp.concatenate([again, nobody] if reverse else [nobody, again], -1)
    zero = _wide.zeros((), emissions[0].fraction.dtype)
    one = Wide(jnp.ones_like(zero.fraction), jnp.zeros_like(zero.exponent))

    def step(state: _States, frame: tuple[_States, jax.Array]) -> tuple[_States, _States | None]:
        (blanks, labels), (emissions, there) = state, frame
        left = _wide.add(_wide.part(blanks, own), labels)
        end = _wide.part(blanks, ends)
        either = _wide.join(left, end) if reverse else _wide.join(end, left)
        # From one label to the next without a blank between, unless the two are the same.
        before = _wide.select(again, _wide.part(blanks, other), _wide.part(either, other))
        after = _wide.product(either, emissions[0]), _wide.product(_wide.add(before, labels), emissions[1])
        blanks, labels = (_wide.select(there[:, None], *pair) for pair in zip(after, state, strict=True))
        return (blanks, labels), (blanks, labels) if keep else None

    start = target.length if reverse else jnp.zeros_like(target.length)
    at_start = jnp.arange(target.classes.shape[1])[None] == start[:, None]
    initial = _wide.select(at_start, one, zero), _wide.zeros(again.shape, zero.fraction.dtype)
    return lax.scan(step, initial, (emissions, target.frames.T), reverse=reverse)


def _total(state: _States, length: jax.Array) -> Wide:
    """All alignments end after the last label, in it or in a blank."""
    blanks, labels = state
    none = _wide.zeros((length.shape[0], 1), labels.fraction.dtype)
    ends = _wide.add(blanks, _wide.join(none, labels))
    return Wide(*(jnp.take_along_axis(a, length[:, None], 1)[:, 0] for a in ends))


def _occupancy(forwards: Wide, backwards: Wide, emissions: Wide, total: Wide) -> jax.Array:
    """The probability of each state in each frame, given the target: both ways hold the frame's own emission."""
    total = Wide(*(a[None, :, None] for a in total))
    possible = (forwards.fraction > 0) & (backwards.fraction > 0) & (total.fraction > 0)
    fraction = forwards.fraction * backwards.fraction
    fraction /= jnp.where(possible, emissions.fraction * total.fraction, 1)
    # The exponents cancel: in pairs, lest they round.
    exponent = (forwards.exponent - total.exponent) + (backwards.exponent - emissions.exponent)
    return jnp.where(possible, fraction * _wide.power_of_two(exponent), 0)


def _emissions(x: jax.Array, classes: jax.Array) -> _States:
    """The probabilities of blank, [T, B, 1], and of each label, [T, B, N], in each frame."""
    both = Wide(*(lax.transpose(a, (1, 0, 2)) for a in _picked(x, classes[:, None, :])))
    both = Wide(both.fraction, lax.stop_gradient(both.exponent))
    return _wide.part(both, slice(1)), _wide.part(both, slice(1, None))


@jax.custom_jvp
def _picked(x: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Fractions and exponents of the softmax of x at `index`."""
    top = x.max(-1, keepdims=True)
    scale = 1 / _softmax.sum_last(exp_difference(x, top))[..., None]
    picked = jnp.take_along_axis(x, index, -1, mode="clip")
    impossible = picked == -jnp.inf
    picked = jnp.where(impossible, top, picked)
    # Knuth's error-free difference. It fails, harmlessly, only where it overflows.
    difference = jnp.maximum(picked - top, -largest(x.dtype) / 4)
    moved = difference - picked
    error = (picked - (difference - moved)) - (top + moved)
    exponent = jnp.round(difference / math.log(2))
    rest = (
        (difference - exponent * _wide.LOG_2_HIGH)
        - exponent * _wide.LOG_2_LOW
        + jnp.where(jnp.isfinite(error), error, 0)
    )
    fraction = jnp.exp(jnp.clip(rest, -1, 1)) * scale
    return jnp.where(impossible, 0, fraction), exponent


@_picked.defjvp
def _(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    x, index = primals
    fraction, exponent = _picked(x, index)
    mean = jnp.sum(_probabilities(x) * tangents[0], -1, keepdims=True)
    picked = jnp.take_along_axis(tangents[0], index, -1, mode="clip")
    return (fraction, exponent), (fraction * (picked - mean), jnp.zeros_like(exponent))


@jax.custom_jvp
def _probabilities(x: jax.Array) -> jax.Array:
    exp = exp_difference(x, x.max(-1, keepdims=True))
    return exp / _softmax.sum_last(exp)[..., None]


@_probabilities.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    p: jax.Array = _probabilities(x)
    return p, p * (dx - jnp.sum(p * dx, -1, keepdims=True))
