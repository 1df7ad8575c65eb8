"""A run's two logs: metrics.jsonl, which two runs of one seed write alike, and timing.jsonl, which holds the clock."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xent.train.loop import Record


def line(record: Record) -> dict[str, Any]:
    """A record as one flat dict; held-out metrics are named `validation_...`."""
    held_out = {f"validation_{name}": value for name, value in (record.held_out or {}).items()}
    return {"step": record.step, "epoch": record.epoch, **record.metrics, **held_out, "skipped": record.skipped}


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Read a log; nothing where there is no file."""
    return [json.loads(text) for text in file.read_text().splitlines()] if file.exists() else []


def open_journal(folder: Path, step: int) -> Callable[[Record], None]:
    """Continue the logs of a run that stands at `step`, without lines written after it; at step 0, start them.

    Returns:
      A function that appends a record: whole lines, flushed as they are written.
    """
    for name in ("metrics.jsonl", "timing.jsonl"):
        file = folder / name
        kept = [entry for entry in _whole_lines(file) if step > 0 and entry["step"] <= step]
        file.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
    began = time.perf_counter()

    def append(record: Record) -> None:
        _append(folder / "metrics.jsonl", line(record))
        _append(folder / "timing.jsonl", {"step": record.step, "seconds": round(time.perf_counter() - began, 4)})

    return append


def _append(file: Path, entry: dict[str, Any]) -> None:
    with file.open("a") as out:
        out.write(json.dumps(entry) + "\n")


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a log up to the first that a kill left half-written."""
    lines = []
    for text in file.read_text().splitlines(keepends=True) if file.exists() else []:
        if not text.endswith("\n"):
            break
        lines.append(json.loads(text))
    return lines
