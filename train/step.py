"""One training step: a pure function `(state, batch) -> (state, metrics)`, whatever the model and the loss are."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from xent.train.metrics import Metrics

Batch: TypeAlias = Any
"""A pytree of arrays with a leading batch axis."""
Loss: TypeAlias = Callable[[Any, Batch, jax.Array | None], tuple[jax.Array, Metrics]]
"""`loss(params, batch, key) -> (scalar to minimise, metrics)`; without a key it evaluates (no dropout)."""


class TrainState(NamedTuple):
    """All that a step changes. A checkpoint of it is the whole run."""

    step: jax.Array
    """int32 []: steps done, skipped ones included."""
    params: Any
    opt_state: optax.ApplyIfFiniteState
    key: jax.Array
    """PRNG key of the run, never changed: step t draws from `fold_in(key, t)`."""

    @property
    def bad_steps(self) -> jax.Array:
        """int32 []: steps skipped in a row, up to this one, because a gradient was not finite."""
        return self.opt_state.notfinite_count

    @property
    def skipped_steps(self) -> jax.Array:
        """int32 []: steps skipped since the start."""
        return self.opt_state.total_notfinite


Step: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]

_NEVER = 2**31 - 1  # optax applies a bad update after this many; ours ends the run long before (see `fit`)


def _guard(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Let no NaN or infinite gradient reach the optimiser: such a step changes nothing but its own count."""
    return optax.apply_if_finite(optimizer, max_consecutive_errors=_NEVER)


def init_state(params: Any, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """Make the state before the first step.

    Args:
      params: a pytree of arrays. They are copied, since a jitted step donates its state.
      optimizer: the one given to `make_train_step`.
      key: PRNG key that every step's randomness is folded from.
    """
    params = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.int32(0), params, _guard(optimizer).init(params), jnp.copy(key))


def make_train_step(loss: Loss, optimizer: optax.GradientTransformation) -> Step:
    """Make the pure step: gradient, guard against NaN, update, metrics.

    A step whose gradients hold a NaN or an infinity leaves parameters and optimiser as they were. It counts in
    `state.skipped_steps` and, until a good one comes, in `state.bad_steps`.

    Args:
      loss: `loss(params, batch, key) -> (scalar, metrics)`.
      optimizer: any optax transformation.

    Returns:
      `step(state, batch) -> (state, metrics)`: pure and not yet jitted, ready for `jax.jit(step, donate_argnums=0)`
      or for the body of a loop.

    Example:
      >>> def loss(params, batch, key):
      ...     value = (params - batch) ** 2
      ...     return value, {"loss": (value, jnp.float32(1))}
      >>> step = make_train_step(loss, optax.sgd(0.1))
      >>> state = init_state(jnp.float32(1.0), optax.sgd(0.1), jax.random.key(0))
      >>> state, metrics = jax.jit(step)(state, jnp.float32(0.0))
      >>> print(f"{state.params:.1f} {metrics['loss'][0]:.1f}")
      0.8 1.0

    Source: nanodo's step; `optax.apply_if_finite`.
    """
    guarded = _guard(optimizer)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, batch, key)
        updates, opt_state = guarded.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.key), metrics

    return step
