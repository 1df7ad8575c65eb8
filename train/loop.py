"""The loop: calls of several steps each, metrics read one call late, and a moment to save or stop after each call."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xent.train.metrics import Metrics, add, divide
from xent.train.source import Feed, Source
from xent.train.step import Step, TrainState


class Skips(NamedTuple):
    """Steps not taken because a gradient held a NaN or an infinity."""

    total: jax.Array
    """int32 []: since the start of the run."""
    in_a_row: jax.Array
    """int32 []: up to now."""
    metrics: Metrics
    """Those of the last one in this call."""
    step: jax.Array
    """int32 []: steps done by the end of the call, which comes early after too many bad ones."""


Call = Callable[[TrainState, Feed, int | np.int32], tuple[TrainState, Metrics, Skips]]


class Record(NamedTuple):
    """What one call did: one line of a run's log."""

    step: int
    """Steps done by its end, since the start of the run."""
    epoch: float
    metrics: dict[str, float]
    """Averages over the call's batches; a skipped step has no part in them."""
    held_out: dict[str, float] | None
    """Averages over held-out data, if an epoch ended here."""
    skipped: int
    """Steps skipped since the start of the run."""


class Diverged(ArithmeticError):
    """Too many steps in a row had gradients that are not finite. The state before them is as good as ever."""


def make_call(
    step: Step, source: Source, patience: int, single: bool = False, shardings: TrainState | None = None
) -> jax.stages.Wrapped:
    """Make the jitted `call(state, feed, count) -> (state, metrics, skips)`: up to `count` steps in one program.

    The number of steps is an argument, not part of the program, so that the short call at the end of an epoch costs
    no second compilation. The state is donated. After `patience` bad steps in a row, the rest are not taken.

    Args:
      step: from `make_train_step`, or a step of one's own with the same shape.
      source: where the batches come from.
      patience: bad steps in a row after which the call returns early.
      single: leave the loop out and take one step; XLA:CPU runs convolutions in a loop four times slower.
      shardings: of the state (`state_shardings`), which leaves the call as it came; None: as XLA likes.
    """

    def one(state: TrainState, feed: Feed) -> tuple[TrainState, Metrics, Metrics]:
        """A step, its metrics if it was taken, and its metrics if it was skipped; the other ones are zero."""
        state, metrics = step(state, source.batch(feed, state.step))
        taken = state.bad_steps == 0
        return state, _where(taken, metrics), _where(~taken, metrics)

    def many(state: TrainState, feed: Feed, count: int | np.int32) -> tuple[TrainState, Metrics, Metrics]:
        shapes = jax.eval_shape(one, state, feed)[1]
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        stop = state.step + count

        def unfinished(carry: tuple[TrainState, Metrics, Metrics]) -> jax.Array:
            return (carry[0].step < stop) & (carry[0].bad_steps < patience)

        def body(carry: tuple[TrainState, Metrics, Metrics]) -> tuple[TrainState, Metrics, Metrics]:
            state, taken, skipped = one(carry[0], feed)
            latest = jax.tree.map(lambda new, old: jnp.where(state.bad_steps > 0, new, old), skipped, carry[2])
            return state, add(carry[1], taken), latest

        return jax.lax.while_loop(unfinished, body, (state, nothing, nothing))

    def call(state: TrainState, feed: Feed, count: int | np.int32) -> tuple[TrainState, Metrics, Skips]:
        state, taken, skipped = one(state, feed) if single else many(state, feed, count)
        return state, taken, Skips(state.skipped_steps, state.bad_steps, skipped, state.step)

    return jax.jit(call, donate_argnums=0, out_shardings=(shardings, None, None))


def _where(condition: jax.Array, metrics: Metrics) -> Metrics:
    return jax.tree.map(lambda value: jnp.where(condition, value, 0), metrics)


def fit(
    call: Call,
    state: TrainState,
    source: Source,
    *,
    steps: int,
    steps_per_call: int,
    patience: int,
    evaluate: Callable[[Any], Metrics],
    record: Callable[[Record], None],
    pause: Callable[[int], bool],
    save: Callable[[TrainState], None],
) -> TrainState:
    """Train until `steps` steps are done, or until somebody asks to stop.

    The host never waits for the call in flight: it reads the metrics of the one before. Calls end where epochs end and
    at multiples of `steps_per_call` within them, so a run that starts again at the end of any call repeats the rest.

    Args:
      call: from `make_call`, jitted or compiled.
      state: where to start; it is donated. Its step number says how far the run has come.
      source: where the batches come from.
      steps: steps of the whole run.
      steps_per_call: largest number of steps a call.
      patience: as given to `make_call`.
      evaluate: metrics of parameters on held-out data, asked for after each epoch.
      record: told what each call did, in order, one call late.
      pause: asked after each call, with the steps done: True saves now.
      save: given the state, after everything up to it was recorded. It may raise, to stop.

    Returns:
      The last state, saved.

    Raises:
      Diverged: after `patience` steps in a row whose gradients were not finite.
    """
    done = int(state.step)
    pending: list[tuple[Metrics, Skips, Metrics | None]] = []

    def read() -> None:
        for metrics, skips, held_out in pending:
            step, total, in_a_row = int(skips.step), int(skips.total), int(skips.in_a_row)
            averages = divide(held_out) if held_out else None
            record(Record(step, step / source.steps_per_epoch, divide(metrics), averages, total))
            if in_a_row >= patience:
                raise Diverged(_diagnosis(step, in_a_row, divide(skips.metrics)))
        pending.clear()

    while done < steps:
        start, epoch_end = done, (done // source.steps_per_epoch + 1) * source.steps_per_epoch
        done = min(start + steps_per_call, epoch_end, steps)
        state, metrics, skips = call(state, source.feed(start), np.int32(done - start))
        held_out = evaluate(state.params) if done in (epoch_end, steps) else None
        read()  # the call before this one
        pending.append((metrics, skips, held_out))
        if pause(done) or done == steps:
            read()
            save(state)
    return state


def _diagnosis(step: int, in_a_row: int, metrics: dict[str, float]) -> str:
    bad = [f"{name} {value}" for name, value in metrics.items() if not math.isfinite(value)] or ["a gradient"]
    return f"{in_a_row} steps in a row up to step {step} were not finite ({', '.join(bad)}) and were skipped"
