"""Ctrl-C and SIGTERM as a wish: the run saves what it has and ends; a second one ends it at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """A run stopped on request, after saving. `code` is the exit code that shells expect: 128 + the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number


@contextmanager
def interrupts() -> Iterator[Callable[[], int | None]]:
    """Catch SIGINT and SIGTERM; yields a function that returns the signal received so far, or None.

    Example:
      >>> with interrupts() as received:
      ...     print(received())
      None
    """
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def catch(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])  # the second one is not caught

    for number in before:
        signal.signal(number, catch)
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
