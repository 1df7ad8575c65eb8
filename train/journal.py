"""A run's two logs: metrics.jsonl, which two runs of one seed write alike, and timing.jsonl, which holds the clock.

A checkpoint remembers how long each was, so that a run which goes on cuts off whatever was written after it, half a
line included, and writes it again.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from xent.train.loop import Record

METRICS, TIMING = "metrics.jsonl", "timing.jsonl"
Lengths = Mapping[str, int]
"""Log -> bytes."""


class Journal(NamedTuple):
    """The two logs of a run, open."""

    append: Callable[[Record], None]
    """Write a record, a whole line to each."""
    lengths: Callable[[], Lengths]
    """Bytes written so far, which are on the disk when this returns."""


def sizes(folder: Path) -> Lengths:
    """Bytes of each log in a run's folder as it is."""
    return {name: (folder / name).stat().st_size for name in (METRICS, TIMING) if (folder / name).exists()}


@contextmanager
def open_journal(folder: Path, lengths: Lengths) -> Iterator[Journal]:
    """Open the logs of a run for writing, cut to `lengths` (a log without one: to nothing)."""
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("ab", buffering=0)) for name in (METRICS, TIMING)}
        for name, file in files.items():
            size = os.fstat(file.fileno()).st_size
            file.truncate(min(lengths.get(name, 0), size))  # a longer one would be filled up with zeros
        began = time.perf_counter()

        def append(record: Record) -> None:
            seconds = round(time.perf_counter() - began, 4)
            files[METRICS].write(_line(flat(record)))
            files[TIMING].write(_line({"step": record.step, "seconds": seconds}))

        def synced() -> Lengths:
            for file in files.values():
                os.fsync(file.fileno())
            return {name: os.fstat(file.fileno()).st_size for name, file in files.items()}

        yield Journal(append, synced)


def flat(record: Record) -> dict[str, Any]:
    """A record as one flat dict; held-out metrics are named `validation_...`, and what is not finite is None."""
    held_out = {f"validation_{name}": value for name, value in (record.held_out or {}).items()}
    metrics = {name: value if math.isfinite(value) else None for name, value in {**record.metrics, **held_out}.items()}
    return {"step": record.step, "epoch": record.epoch, **metrics, "skipped": record.skipped}


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Read a log; nothing where there is no file."""
    return [json.loads(text) for text in file.read_text().splitlines()] if file.exists() else []


def _line(entry: Mapping[str, Any]) -> bytes:
    return (json.dumps(entry) + "\n").encode()
