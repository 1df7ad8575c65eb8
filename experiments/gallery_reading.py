"""Finds the last run of each experiment in a folder of runs, and reads what can be read of it."""

import importlib
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from xent.experiments.flags import to_arguments
from xent.experiments.folder import CONFIG, read_config
from xent.experiments.launch import RESULTS
from xent.experiments.scores import Spread, read_scores, read_spread
from xent.experiments.table import EXPERIMENTS
from xent.train.errors import UsageError

_PNG = b"\x89PNG\r\n"
_ELSEWHERE = ("--out=", "--resume=")


class Run(NamedTuple):
    """One run, as its folder tells it."""

    experiment: str
    folder: Path
    command: str
    """That gives it again."""
    began: str
    """When, in UTC."""
    order: float
    """The same in seconds."""
    versions: Mapping[str, str]
    commit: str | None
    device: str
    scores: Mapping[str, Mapping[str, float | Spread]]
    """Empty if it is not finished."""
    pictures: tuple[Path, ...]
    """PNG files; of several seeds those of the first."""

    @property
    def finished(self) -> bool:
        """Whether it has its scores."""
        return bool(self.scores)

    @property
    def title(self) -> str:
        """Of the table of scores."""
        spreads = [value for row in self.scores.values() for value in row.values() if isinstance(value, Spread)]
        return f"Held out, {spreads[0].seeds} seeds, mean ± standard deviation" if spreads else "Held out, one seed"


class Found(NamedTuple):
    """What a folder of runs holds."""

    runs: Mapping[str, Run]
    """Experiment -> its last run that is finished, or else its last one."""
    unreadable: tuple[str, ...]
    """A line for each folder or picture that could not be read."""


def find(folder: Path) -> Found:
    """Look through the runs in a folder.

    Args:
      folder: that runs are in; one that does not exist holds none.

    Returns:
      What can be shown, and a line for each thing that cannot be read.
    """
    runs: dict[str, Run] = {}
    unreadable: list[str] = []
    for inside in sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith(".")):
        try:
            text = read_config(inside)
            if text["experiment"] in EXPERIMENTS:
                run = _read(inside, text, unreadable)
                before = runs.get(run.experiment)
                if before is None or (run.finished, run.order) >= (before.finished, before.order):
                    runs[run.experiment] = run
        except UsageError as error:
            unreadable.append(str(error))
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            unreadable.append(f"{inside}: {CONFIG} or {RESULTS} cannot be read ({type(error).__name__}: {error})")
    return Found(runs, tuple(unreadable))


def _read(folder: Path, text: Mapping[str, Any], unreadable: list[str]) -> Run:
    name, results = text["experiment"], folder / RESULTS
    scores = read_spread(results) or read_scores(results)
    if results.exists() and not scores:
        unreadable.append(f"{results}: holds no scores")
    order = (folder / CONFIG).stat().st_mtime
    device = text.get("device") or {}
    versions = {key: str(text["versions"][key]) for key in ("xent", "jax") if key in text["versions"]}
    return Run(
        name, folder, _command(name, text["flags"]), f"{datetime.fromtimestamp(order, UTC):%Y-%m-%d %H:%M} UTC", order,
        versions, text.get("commit"), f"{device.get('count', '?')} x {device.get('kind', 'unknown')}", scores,
        _pictures(folder, unreadable),
    )  # fmt: skip


def _command(name: str, flags: Mapping[str, Any]) -> str:
    """What to type: the flags that differ from the experiment's own."""
    own = to_arguments(asdict(importlib.import_module(EXPERIMENTS[name].module).Config()))
    given = [flag for flag in to_arguments(flags) if flag not in own and not flag.startswith(_ELSEWHERE)]
    return shlex.join(["xent", name, *given])


def _pictures(folder: Path, unreadable: list[str]) -> tuple[Path, ...]:
    seeds = sorted(folder.glob("seed-*"), key=lambda path: (len(path.name), path.name))
    found = sorted(folder.glob("*.png")) or [file for inside in seeds[:1] for file in sorted(inside.glob("*.png"))]
    pictures = []
    for file in found:
        if file.read_bytes().startswith(_PNG):
            pictures.append(file)
        else:
            unreadable.append(f"{file}: is no PNG")
    return tuple(pictures)
