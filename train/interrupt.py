"""Signals that ask a process to end: a run that trains saves first, anything else ends at once, a second one ends both.

Python runs its signal handlers only between two steps of its own, not while XLA compiles, and what a handler raises is
lost inside a callback of somebody's C code. So a thread reads the signals from a socket as they come, and answers.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(Exception):
    """A run stopped on request, with all it did saved. `code` is the exit code that shells expect: 128 + the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number


@dataclass
class _Process:
    """What the answer to a signal depends on. Signals come to a process, so there is one of these."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    saving: bool = False  # a loop will look at `received` and save
    received: int | None = None
    advice: str = ""
    owned: bool = False


_process = _Process()


@contextmanager
def ends_on_signals() -> Iterator[None]:
    """Answer signals while the block runs, whatever Python is busy with; one that was ignored before stays so.

    Does nothing inside another such block, nor outside the main thread, where Python lets nobody handle signals.
    """
    if _process.owned or threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    thread = threading.Thread(target=_answer, args=(ours,), daemon=True)
    thread.start()
    wakeup = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, lambda *_: None) for number in numbers}
    _process.owned = True
    try:
        yield
    finally:
        _process.owned = False
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        pythons.close()
        thread.join()
        ours.close()


@contextmanager
def saves_on_signals() -> Iterator[Callable[[], int | None]]:
    """Let the first signal be a wish; yields a function that returns it, or None.

    Raises:
      Interrupted: at the end of the block, if there was a signal.

    Example:
      >>> with saves_on_signals() as received:
      ...     print(received())
      None
    """
    with ends_on_signals():
        _process.saving, _process.received = True, None
        try:
            yield lambda: _process.received
        finally:
            with _process.lock:  # from here on a signal ends the process
                _process.saving = False
        if _process.received is not None:
            raise Interrupted(_process.received)


@contextmanager
def advising(advice: str) -> Iterator[None]:
    """Say this to whoever ends the process inside the block: how to go on."""
    before, _process.advice = _process.advice, advice
    try:
        yield
    finally:
        _process.advice = before


def ask_to_end(number: int) -> None:
    """Answer as if this signal had come."""
    with _process.lock:
        if _process.saving and _process.received is None:
            _process.received = number
            os.write(2, f"xent: {signal.Signals(number).name}: saving, then ending; once more ends at once\n".encode())
        else:
            end(number)


def end(number: int) -> None:
    """End the process now, as a signal would, with one line; nothing is cleaned up, and nothing needs to be."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    show_cursor = "\x1b[?25h\n" if terminal else ""  # a live bar hides it
    advice = f"; {_process.advice}" if _process.advice else ""
    os.write(2, f"{show_cursor}xent: stopped by {signal.Signals(number).name}{advice}\n".encode())
    os._exit(128 + number)  # an orderly exit ends in a fault where threads of XLA are cut short


def _answer(signals: socket.socket) -> None:
    while byte := signals.recv(1):
        if byte[0] in SIGNALS:
            ask_to_end(byte[0])
