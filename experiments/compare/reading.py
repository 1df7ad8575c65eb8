"""From files of `xent bench` to machines, or one line that says what is wrong with a file."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
from jsonschema.exceptions import best_match

from xent.experiments.bench.record import Measured, from_json
from xent.experiments.bench.schema import RECORD, VERSION
from xent.train.errors import UsageError

Key = tuple[str, str]
"""Benchmark and name of a measurement."""


class Machine(NamedTuple):
    """A file: what one machine measured."""

    label: str
    """Short, and no other machine's: the file's name without .json, with folders where two are called the same."""
    file: Path
    record: Mapping[str, Any]
    measurements: Mapping[Key, Measured]

    @property
    def environment(self) -> Mapping[str, Any]:
        """What its results depend on."""
        return self.record["environment"]


def read_machines(files: Sequence[Path]) -> list[Machine]:
    """Read the files of a comparison, in their order.

    Raises:
      UsageError: if there are fewer than two, one is given twice, or one is no whole file of `xent bench`.
    """
    if len(files) < 2:
        given = f"only {files[0]} is" if files else "no file is"
        raise UsageError(f"{given} given: compare two files or more, each written by xent bench --out on one machine")
    seen: dict[Path, Path] = {}
    for file in files:
        if file.resolve() in seen:
            raise UsageError(f"{file} is given twice: name another machine's file")
        seen[file.resolve()] = file
    records = [_read(file) for file in files]
    for i, record in enumerate(records):
        if record in records[:i]:
            raise UsageError(f"{files[i]} is a copy of {files[records.index(record)]}: name another machine's file")
    parts = zip(_labels(files), files, records, strict=True)
    return [Machine(label, file, record, _by_key(file, record)) for label, file, record in parts]


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise UsageError(f"{file} cannot be read ({reason}): name a file that xent bench --out wrote") from None
    if not text.strip():
        raise UsageError(f"{file} is empty: measure again with xent bench --out")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        at = f"line {error.lineno}, {error.msg}" if isinstance(error, json.JSONDecodeError) else error
        raise UsageError(
            f"{file} is no whole JSON ({at}): was it cut off? measure again with xent bench --out"
        ) from None
    if not isinstance(record, dict) or "schema" not in record:
        raise UsageError(f"{file} was not written by xent bench: name a file that xent bench --out wrote")
    if record.get("kind") == "compiled":
        raise UsageError(f"{file} was written by xent fits, which measures nothing: name files of xent bench --out")
    if record["schema"] != VERSION:
        raise UsageError(
            f"{file} has schema {str(record['schema'])[:20]!r}, and this xent reads {VERSION}: "
            "measure again with this version, or compare with the one that wrote it"
        )
    if wrong := best_match(jsonschema.Draft202012Validator(RECORD).iter_errors(record)):
        where = ".".join(map(str, wrong.absolute_path)) or "the whole"
        raise UsageError(f"{file} is no file of xent bench ({where}: {_short(wrong.message)}): measure again")
    for where, seconds in _times(record):
        if not (0 < seconds < math.inf):
            raise UsageError(f"{file} has a time of {seconds} s ({where}): its clock was too coarse, measure again")
    return record


def _short(message: str) -> str:
    return message if len(message) <= 120 else f"...{message[-110:]}"


def _times(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every sample, and every time of compilation (which may be zero)."""
    for measurement in record["measurements"]:
        for case in measurement["cases"]:
            where = f"{measurement['name']}, {case['name']}"
            yield from ((where, seconds) for seconds in case["seconds"])
            for stage in ("trace", "lower", "compile") if case["compile"] else ():
                yield where, case["compile"][stage] or 1.0


def _by_key(file: Path, record: Mapping[str, Any]) -> dict[Key, Measured]:
    found: dict[Key, Measured] = {}
    for measured in map(from_json, record["measurements"]):
        key = measured.benchmark, measured.name
        if key in found:
            raise UsageError(f"{file} has {key[1]!r} of {key[0]} twice: remove one of them")
        if measured.own is None:
            raise UsageError(f"{file} has no case {measured.ratios_to!r} in {key[1]!r}: measure again")
        if len({len(case.seconds) for case in measured.cases}) > 1:
            raise UsageError(f"{file} has not as many samples of each case in {key[1]!r}: measure again")
        found[key] = measured
    return found


def _labels(files: Sequence[Path]) -> list[str]:
    """As few parts of each path as tell them apart.

    Example:
      >>> _labels([Path("cpu.json"), Path("a/gpu.json"), Path("b/gpu.json")])
      ['cpu', 'a/gpu', 'b/gpu']
    """

    def last(file: Path, parts: int) -> str:
        return Path(*file.absolute().with_suffix("").parts[-parts:]).as_posix()

    def label(file: Path) -> str:
        most = len(file.absolute().parts)
        others = [other for other in files if other is not file]
        return next(
            (last(file, n) for n in range(1, most) if last(file, n) not in {last(o, n) for o in others}), str(file)
        )

    return [label(file) for file in files]
