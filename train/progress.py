"""What a person sees while a run trains: a live bar in a terminal, plain lines in a log."""

import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from xent.train.interrupt import ask_to_end
from xent.train.loop import Record

PLAIN_SECONDS = 5.0  # a log gets a line this often, and one at the end


class _Forgiving(io.TextIOBase):
    """Standard output, whose loss is not the loss of a run: when it cannot be written, the run goes on, or ends well.

    Where nobody reads any more (`xent digits | head`) it ends as by a signal, so that it saves first.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    encoding = property(lambda self: self.stream.encoding)

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def write(self, text: str) -> int:
        return self._try(lambda: self.stream.write(text)) or 0

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, do: Callable[[], Any]) -> Any:
        try:
            return do()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())  # Python flushes once more at its exit
            if isinstance(error, BrokenPipeError):
                ask_to_end(signal.SIGPIPE)
            else:
                os.write(
                    2, f"xent: standard output cannot be written ({error.strerror}): going on in silence\n".encode()
                )


def make_console(quiet: bool = False) -> Console:
    """The console of a command: plain text, long lines are the terminal's to wrap, and a log has room for tables.

    Args:
      quiet: whether to say nothing, as one of several processes.
    """
    width = None if sys.stdout.isatty() else 120
    forgiving: Any = _Forgiving(sys.stdout)
    return Console(file=forgiving, width=width, highlight=False, markup=False, soft_wrap=True, quiet=quiet)


def say(console: Console, label: str, text: str) -> None:
    """Print a labelled line."""
    console.print(Text.assemble((f"{label:<9}", "bold"), text))


@contextmanager
def progress(console: Console, steps: int, start: int = 0) -> Iterator[Callable[[Record], None]]:
    """Show a run's progress; yields a function to call with each record.

    Args:
      console: where to; whether it is a terminal decides between the bar and the lines.
      steps: steps of the whole run.
      start: steps that were done before, in a run that is resumed.
    """
    began = time.perf_counter()

    def rate(record: Record) -> float:
        return (record.step - start) / max(time.perf_counter() - began, 1e-9)

    if console.is_terminal:
        columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn(compact=True))
        with Progress(*columns, console=console, transient=False) as bar:
            task = bar.add_task("", total=steps, completed=start)
            yield lambda record: bar.update(task, completed=record.step, description=_line(record, steps, rate(record)))
        return

    shown = [-PLAIN_SECONDS]

    def show(record: Record) -> None:
        now = time.perf_counter() - began
        if now - shown[0] >= PLAIN_SECONDS or record.step == steps:
            shown[0] = now
            left = (steps - record.step) / rate(record)
            console.print(f"{_line(record, steps, rate(record))}, {left:.0f} s left", highlight=False)

    yield show


def _line(record: Record, steps: int, rate: float) -> str:
    parts = [f"epoch {record.epoch:.1f}", f"step {record.step}/{steps}"]
    parts += [f"{name} {value:.4f}" for name, value in sorted(record.metrics.items(), reverse=True)]
    if record.skipped:
        parts.append(f"{record.skipped} steps skipped")
    return ", ".join([*parts, f"{rate:.0f} steps/s"])
