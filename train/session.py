"""One run from first to last step, with what surrounds the loop: compilation, logs, progress, checkpoints, Ctrl-C."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from xent.train.interrupt import Interrupted, interrupts
from xent.train.journal import open_journal
from xent.train.loop import Call, Record, fit
from xent.train.metrics import Metrics, divide
from xent.train.progress import progress
from xent.train.source import Source
from xent.train.step import TrainState

SAVE_SECONDS = 60.0


def compile_call(
    call: jax.stages.Wrapped,
    state: TrainState,
    source: Source,
    evaluate: Callable[[Any], Metrics],
    console: Console,
) -> Call:
    """Compile a jitted call and the evaluation ahead of the first step, and say how long it took."""
    began = time.perf_counter()
    compiled = call.lower(state, source.feed(0), np.int32(1)).compile()
    divide(evaluate(state.params))
    console.print(f"[bold]compile  [/]{time.perf_counter() - began:.1f} s", highlight=False)
    return compiled


def train(
    call: Call,
    state: TrainState,
    source: Source,
    *,
    epochs: int,
    steps_per_call: int,
    patience: int,
    evaluate: Callable[[Any], Metrics],
    folder: Path,
    console: Console,
) -> TrainState:
    """Run to the end of the last epoch, from the newest checkpoint in `folder` if there is one.

    Writes metrics.jsonl, timing.jsonl and checkpoints/ into `folder`.

    Args:
      call: from `make_call`, compiled.
      state: the state before the first step.
      source: where the batches come from.
      epochs: passes over the data.
      steps_per_call: largest number of steps a call.
      patience: bad steps in a row that end the run.
      evaluate: metrics of parameters on validation data.
      folder: the run's folder.
      console: where progress is shown.

    Returns:
      The state after the last step.

    Raises:
      Interrupted: after Ctrl-C or SIGTERM, when all is saved.
      Diverged: see `fit`.
    """
    from xent.train.checkpoint import open_checkpoints, restore, save  # orbax takes a second to import

    steps = epochs * source.steps_per_epoch
    with open_checkpoints(folder / "checkpoints") as checkpoints, interrupts() as received:
        state = restore(checkpoints, state) or state
        start = int(state.step)
        journal = open_journal(folder, start)
        saved = [time.monotonic()]

        def pause(step: int) -> bool:
            del step
            return received() is not None or time.monotonic() - saved[0] > SAVE_SECONDS

        def keep(state: TrainState) -> None:
            if int(state.step) > start:
                save(checkpoints, state)
            saved[0] = time.monotonic()
            number = received()
            if number is not None and int(state.step) < steps:
                checkpoints.wait_until_finished()
                raise Interrupted(number)

        with progress(console, steps, start) as show:

            def record(record: Record) -> None:
                journal(record)
                show(record)

            if start == 0:  # where the curve begins: log(classes) for a network that knows nothing
                journal(Record(0, 0.0, {}, divide(evaluate(state.params)), 0))
            return fit(
                call,
                state,
                source,
                steps=steps,
                steps_per_call=steps_per_call,
                patience=patience,
                evaluate=evaluate,
                record=record,
                pause=pause,
                save=keep,
            )
