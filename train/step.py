"""One training step: a pure function `(state, batch) -> (state, metrics)`, whatever the model and the loss are."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from xent.train.guard import update_if_finite
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
    opt_state: Any
    key: jax.Array
    """PRNG key of the run, never changed: step t draws from `fold_in(key, t)`."""
    skipped_steps: jax.Array
    """int32 []: steps, of all so far, that changed nothing because a gradient was not finite."""
    bad_steps: jax.Array
    """int32 []: how many of them came in a row, up to this one."""


Step: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def init_state(params: Any, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """Make the state before the first step.

    Args:
      params: a pytree of arrays. They are copied, since a jitted step donates its state.
      optimizer: the one given to `make_train_step`.
      key: PRNG key that every step's randomness is folded from.
    """
    params = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.int32(0), params, optimizer.init(params), jnp.copy(key), jnp.int32(0), jnp.int32(0))


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

    Source: nanodo's step; the rule of `optax.apply_if_finite`.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, batch, key)
        params, opt_state, finite = update_if_finite(optimizer, gradients, state.opt_state, state.params)
        skipped_steps = state.skipped_steps + ~finite
        bad_steps = jnp.where(finite, 0, state.bad_steps + 1)
        return TrainState(state.step + 1, params, opt_state, state.key, skipped_steps, bad_steps), metrics

    return step
