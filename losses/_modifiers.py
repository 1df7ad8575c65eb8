"""What the modifiers of a softmax loss ask for: their checks, and what soft cap and temperature make of logits."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from xent.losses import _checks, _shards
from xent.losses._shards import AxisName


def class_weights_of(value: ArrayLike | None, x: jax.Array) -> jax.Array | None:
    """One weight for each class of the rows x [..., V], in their dtype."""
    if value is None:
        return None
    weights = _checks.array_of("class_weights", value, jnp.floating, jnp.integer)
    _checks.same_shape("class_weights", weights, x.shape[-1:], "one weight for each class")
    return weights.astype(x.dtype)


def index_or_none(name: str, value: int | None) -> int | None:
    """`value`, if it is a Python int that a label can be, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31):
        raise ValueError(f"{name} must be None or a Python int that fits int32, got {_checks.shown(value)}")
    return value


def scaled(x: jax.Array, logit_soft_cap: float | None, temperature: ArrayLike) -> jax.Array:
    """Soft cap, then temperature. What is not finite stays as it is, and no derivative sees it: it poisons nothing."""
    cap = None if logit_soft_cap is None else _checks.positive("logit_soft_cap", logit_soft_cap)
    if isinstance(temperature, (bool, int, float)):
        if cap is None and _checks.positive("temperature", temperature) == 1:
            return x
        temperature = _checks.positive("temperature", temperature)
    divisor = _checks.array_of("temperature", temperature, jnp.floating).astype(x.dtype)
    _checks.same_shape("temperature", divisor, (), "the shape of a scalar")
    finite = jnp.isfinite(x)
    z = jnp.where(finite, x, 0)
    if cap is not None:
        z = cap * _tanh(z / cap)
    return jnp.where(finite, z / divisor, x)


@jax.custom_jvp
def _tanh(z: jax.Array) -> jax.Array:
    return jnp.tanh(z)


@_tanh.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _tanh(*primals), _slope_of_tanh(*primals) * tangents[0]


@jax.custom_jvp
def _slope_of_tanh(z: jax.Array) -> jax.Array:
    """1 - tanh(z)**2, of which for a z far from 0 no digit is lost: a logit beyond the cap still learns."""
    exp = jnp.exp(-2 * jnp.abs(z))
    return 4 * exp / (1 + exp) ** 2


@_slope_of_tanh.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    slope = _slope_of_tanh(*primals)
    return slope, -2 * slope * _tanh(*primals) * tangents[0]


def smoothed(
    target: jax.Array,
    smoothing: float,
    total: ArrayLike,
    selected: jax.Array | None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """The share `smoothing` of the `total` [..., 1] of each target [..., V] spread over the selected classes."""
    uniform: ArrayLike = 1 / (target.shape[-1] * _shards.count(axis_name))
    if selected is not None:
        count = _shards.total(selected.sum(-1, keepdims=True), axis_name)
        uniform = selected / jnp.maximum(count, 1).astype(target.dtype)
    return (1 - smoothing) * target + smoothing * uniform * total
