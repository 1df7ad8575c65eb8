"""Tables as CSV files."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a table, whole or not at all; returns the file."""
    with file.with_name(f".{file.name}").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(header)
        writer.writerows(rows)
        out.flush()
        os.fsync(out.fileno())
    return Path(out.name).rename(file)
