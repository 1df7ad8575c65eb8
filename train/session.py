"""One run, from first to last step, with what surrounds the loop: compilation, logs, progress, checkpoints, Ctrl-C."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from xent.train.errors import UsageError
from xent.train.interrupt import Interrupted, saves_on_signals
from xent.train.journal import METRICS, open_journal, sizes
from xent.train.loop import Call, Diverged, Record, fit
from xent.train.metrics import Metrics, divide
from xent.train.processes import make_agree
from xent.train.progress import progress, say
from xent.train.source import Source
from xent.train.step import TrainState

SAVE_SECONDS = 60.0


class Saving(NamedTuple):
    """When a run saves its state; it always does at its end and when it is asked to stop."""

    every: int | None = None
    """Steps between saves, rounded up to the end of a call; None saves once a minute."""
    keep: int = 2
    """Checkpoints that stay."""


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
    say(console, "compile", f"{time.perf_counter() - began:.1f} s")
    return compiled


def train(
    compiled: Callable[[], Call],
    state: TrainState,
    source: Source,
    *,
    epochs: int,
    steps_per_call: int,
    patience: int,
    evaluate: Callable[[Any], Metrics],
    folder: Path,
    flags: Sequence[str],
    console: Console,
    saving: Saving,
) -> TrainState:
    """Run to the end of the last epoch, from the newest good checkpoint in `folder` if there is one.

    Writes metrics.jsonl, timing.jsonl and checkpoints/ into `folder`.

    Args:
      compiled: gives the compiled call; asked once, when a signal no longer ends the process.
      state: the state before the first step.
      source: where the batches come from.
      epochs: passes over the data.
      steps_per_call: largest number of steps a call.
      patience: bad steps in a row that end the run.
      evaluate: metrics of parameters on validation data.
      folder: the run's folder.
      flags: what makes this run what it is, kept in its checkpoints: none made with other flags is taken up.
      console: where progress is shown.
      saving: when to save, and how much to keep.

    Returns:
      The state after the last step.

    Raises:
      Interrupted: after a signal, when all is saved.
      Diverged: see `fit`; the message says which checkpoint is the last good one.
      UsageError: if the folder cannot be written, or its checkpoint is of another model or of other flags.
    """
    from xent.train.checkpoint import open_checkpoints, restore
    from xent.train.checkpoint import save as write  # orbax takes a second to import

    steps = epochs * source.steps_per_epoch
    with (
        saves_on_signals() as received,
        _writable(folder),
        open_checkpoints(folder / "checkpoints", saving.keep) as checkpoints,
    ):
        logs = sizes(folder)
        restored = restore(checkpoints, state, flags, logs, lambda text: console.print(text, style="yellow"))
        state, lengths = restored or (state, {})
        start = int(state.step)
        if restored:
            say(console, "resume", f"from step {start} of {steps}")
        elif METRICS in logs:
            say(console, "resume", "from the start, there is no checkpoint to go on from")
        call = compiled()
        with (
            _good_until(folder, checkpoints),
            open_journal(folder, lengths) as journal,
            progress(console, steps, start) as show,
        ):

            def record(record: Record) -> None:
                journal.append(record)
                show(record)

            wish, pause = _pauses(received, saving.every, start)

            def save(state: TrainState) -> None:
                write(checkpoints, int(state.step), state, flags, journal.lengths())
                if (number := wish()) is not None:
                    raise Interrupted(number)

            if start == 0:  # where the curve begins: log(classes) for a network that knows nothing
                journal.append(Record(0, 0.0, {}, divide(evaluate(state.params)), 0))
            return fit(
                call, state, source, steps=steps, steps_per_call=steps_per_call, patience=patience, evaluate=evaluate,
                record=record, pause=pause, save=save,
            )  # fmt: skip


def _pauses(
    received: Callable[[], int | None], every: int | None, start: int
) -> tuple[Callable[[], int | None], Callable[[int], bool]]:
    """The signal that ends the run, if one came to any process, and whether to save after a step, asked each call."""
    agree = make_agree()
    last_step, last_time, agreed = start, time.monotonic(), 0

    def pause(step: int) -> bool:
        nonlocal last_step, last_time, agreed
        now, number = time.monotonic(), received()
        due = now - last_time > SAVE_SECONDS if every is None else step - last_step >= every
        agreed = agree(int(due) if number is None else 1 + number)
        if agreed:
            last_step, last_time = step, now
        return agreed > 0

    return lambda: agreed - 1 if agreed > 1 else None, pause


@contextmanager
def _good_until(folder: Path, checkpoints: Any) -> Iterator[None]:
    """Say of a run that diverged what is left of it."""
    try:
        yield
    except Diverged as error:
        checkpoints.wait_until_finished()
        last = checkpoints.latest_step()
        good = f"the last good checkpoint is {folder / 'checkpoints' / str(last)}" if last else "none was saved before"
        raise Diverged(f"{error}; {good}") from None


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Say what to do where the logs or a checkpoint cannot be written."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written ({error.strerror}): mend that, then continue with xent resume {folder}"
        ) from None
