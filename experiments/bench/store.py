"""A benchmark's file: written anew, whole, after each measurement, and continued by the command that began it."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema

from xent.experiments.bench.record import Measured, to_json
from xent.experiments.bench.schema import RECORD, VERSION
from xent.train.errors import UsageError

Record = dict[str, Any]
"""What `schema.RECORD` describes."""


def refuse(out: Path | None) -> None:
    """Refuse a file that exists or cannot be written, before any time is spent for it.

    Raises:
      UsageError: if so.
    """
    if out is None:
        return
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK | os.X_OK):
        raise UsageError(f"--out {out}: {out.parent} is no folder that can be written")
    if out.exists():
        raise UsageError(f"--out {out} exists: name a new file")


def unfinished(out: Path) -> Record | None:
    """Read the file, if it is one that a benchmark began and did not finish.

    Raises:
      UsageError: if it is another one, or cannot be written.
    """
    if not out.exists():
        refuse(out)
        return None
    try:
        record = json.loads(out.read_text())
        jsonschema.validate(record, RECORD)
    except (OSError, ValueError, jsonschema.ValidationError):
        record = {"finished": True}
    if record["finished"]:
        refuse(out)
    return record


def begin(out: Path, benchmark: str, flags: Mapping[str, Any], environment: Mapping[str, Any]) -> Record:
    """Begin a file, or go on with one that has the same flags and environment; the clock may differ.

    Raises:
      UsageError: if there is a file that this is no continuation of.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    fresh = {
        "schema": VERSION, "benchmark": benchmark, "flags": flags, "began": now, "finished": False,
        "environment": environment, "measurements": [],
    }  # fmt: skip
    fresh = json.loads(json.dumps(fresh, default=str))
    record = unfinished(out)
    if record is None:
        write(out, fresh)
        return fresh
    differing = [*_differences({"benchmark": record["benchmark"]}, {"benchmark": benchmark})]
    differing += _differences(record["flags"], fresh["flags"])
    differing += _differences(record["environment"], fresh["environment"])
    if differing:
        raise UsageError(f"--out {out} was begun with {', '.join(differing)}: go on as it began, or name a new file")
    return record


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for name in [*before, *(name for name in now if name not in before)]:
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new)
        elif old != new and name != "clock_mhz":
            found.append(f"{name} {old} (now {new})")
    return found


def add(out: Path, record: Record, measured: Measured) -> Record:
    """Write a measurement more; return the record that holds it."""
    more = {**record, "measurements": [*record["measurements"], to_json(measured)]}
    write(out, more)
    return more


def write(out: Path, record: Record) -> None:
    """Write the file, whole or not at all."""
    with out.with_name(f".{out.name}").open("w") as file:
        json.dump(record, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(out)
