"""Ctrl-C and SIGTERM as a wish: the run saves what it has and ends; a second one ends it at once."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A run stopped on request, with all it did saved. `code` is the exit code that shells expect: 128 + the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number


@contextmanager
def interrupts() -> Iterator[Callable[[], int | None]]:
    """Catch SIGINT and SIGTERM; yields a function that returns the first one received, or None.

    Python runs its handlers only between two steps of its own, not while XLA compiles. So that the second signal
    ends the process even then, a thread reads the signals from a socket as they come.

    Example:
      >>> with interrupts() as received:
      ...     print(received())
      None
    """
    received: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)

    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    thread = threading.Thread(target=_exit_at_the_second, args=(ours,), daemon=True)
    thread.start()
    handlers = {number: signal.signal(number, catch) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    try:
        yield lambda: received[0] if received else None
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        pythons.close()
        thread.join()
        ours.close()


def _exit_at_the_second(signals: socket.socket) -> None:
    count = 0
    while byte := signals.recv(1):
        count += byte[0] in SIGNALS
        if count == 2:
            show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a live bar hides it
            os.write(2, f"{show_cursor}\nxent: stopped at once\n".encode())
            os._exit(128 + byte[0])
