"""A measurement for machines (one JSON file with every sample) and for people (a table)."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import jax
from rich.table import Table

from xent.experiments.bench.engine import Measurement, Timing
from xent.experiments.bench.estimate import Estimate, estimate, ratio
from xent.experiments.device import device_name
from xent.experiments.versions import commit, versions
from xent.train.errors import UsageError

SCHEMA = 2
"""Changes when a reader of older files would misread a newer one."""


def cores() -> int:
    """Processors that this process may use: as many threads as XLA:CPU starts."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, Any]:
    """Return what a result depends on besides the code and its flags."""
    return {
        "versions": versions("torch"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": device_name(),
        "backend": jax.default_backend(),
        "cores": cores(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "commit": commit(),
    }


def to_record(benchmark: str, unit: str, flags: dict[str, Any], measured: Measurement) -> dict[str, Any]:
    """Make the JSON-able record of a measurement.

    Args:
      benchmark: its name.
      unit: what `units` counts: step, example.
      flags: what was asked for.
      measured: from `measure`; the first case is what ratios are to.
    """
    cases = []
    for timing in measured.timings:
        per_unit, to_first = _estimates(timing, measured)
        compiled = timing.compile._asdict() if timing.compile else None
        derived = {"microseconds_per_unit": per_unit._asdict(), "ratio": to_first._asdict()}
        cases.append({**timing._asdict(), "compile": compiled, **derived})
    return {
        "schema": SCHEMA,
        "benchmark": benchmark,
        "unit": unit,
        "flags": flags,
        "environment": environment(),
        "ratios_to": measured.timings[0].name,
        "cases": cases,
        "order": measured.order,
    }


def table(unit: str, measured: Measurement) -> Table:
    """Lay a measurement out for people, a row a case; ratios are to the first."""
    confidence = estimate(measured.timings[0].seconds).confidence
    title = f"medians of {len(measured.order)} rounds, with {confidence:.0%} intervals; ratios to the first"
    result = Table(title=title, box=None, header_style="bold", padding=(0, 2, 0, 0), title_justify="left")
    result.add_column("", no_wrap=True)
    for header in (f"µs a {unit}", "interval", "ratio", "interval", "compile s"):
        result.add_column(header, justify="right", no_wrap=True)
    for timing in measured.timings:
        per_unit, to_first = _estimates(timing, measured)
        compiled = f"{timing.compile.seconds:.2f}" if timing.compile else "-"
        result.add_row(timing.name, *_show(per_unit, 0), *_show(to_first, 2), compiled)
    return result


def _estimates(timing: Timing, measured: Measurement) -> tuple[Estimate, Estimate]:
    """Microseconds per unit, and the ratio of that to the first case's."""
    per_unit = [second * 1e6 / timing.units for second in timing.seconds]
    first = measured.timings[0]
    return estimate(per_unit), ratio(per_unit, [second * 1e6 / first.units for second in first.seconds])


def _show(value: Estimate, digits: int) -> tuple[str, str]:
    """The median with one digit more than its interval."""
    return f"{value.median:.{digits + 1}f}", f"{value.low:.{digits}f}-{value.high:.{digits}f}"


def refuse(out: Path | None) -> None:
    """Refuse a file that exists or cannot be written, before any time is spent for it.

    Raises:
      UsageError: if so.
    """
    if out is None:
        return
    if out.exists():
        raise UsageError(f"--out {out} exists: name a new file")
    if not os.access(out.parent, os.W_OK | os.X_OK) or not out.parent.is_dir():
        raise UsageError(f"--out {out}: {out.parent} is no folder that can be written")


def write(out: Path, record: dict[str, Any]) -> None:
    """Write a record to a new file.

    Raises:
      UsageError: if it came to exist in the meantime.
    """
    try:
        with out.open("x") as file:
            json.dump(record, file, indent=1, default=str)
            file.write("\n")
    except FileExistsError:
        raise UsageError(f"--out {out} exists: name a new file") from None
