"""Held-out scores: the table at the end of a run, its CSV, and the mean and spread of several."""

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from xent.train.tables import write_csv

_SHARES = ("accuracy", "WER", "CER")
"""Metrics that people read in per cent."""

Scores = Mapping[str, Mapping[str, float]]
"""Row of the table -> metric -> value: scores["xent"]["accuracy"]."""


class Spread(NamedTuple):
    """A score over seeds."""

    mean: float
    std: float
    """Sample standard deviation."""
    min: float
    max: float
    seeds: int


def write_scores(file: Path, scores: Scores) -> None:
    """Write one run's scores, a row each; what a row has no value for stays empty."""
    metrics = metrics_of(scores)
    rows = [[row, *(values.get(metric, "") for metric in metrics)] for row, values in scores.items()]
    write_csv(file, ["held out", *metrics], rows)


def read_scores(file: Path) -> dict[str, dict[str, float]]:
    """Read what `write_scores` or `write_spread` wrote; nothing where there is no such file, or it is not whole."""
    if not file.exists():
        return {}
    with file.open(newline="", errors="replace") as lines:
        rows = [row for row in csv.DictReader(lines)]
    try:
        return {
            row.pop("held out"): {name: float(value) for name, value in row.items() if value and name != "metric"}
            for row in rows
        }
    except (KeyError, TypeError, ValueError):  # not ours: it is written again
        return {}


def spread(every: Sequence[Scores]) -> dict[str, dict[str, Spread]]:
    """Mean and spread of each score over several runs.

    Example:
      >>> spread([{"xent": {"loss": 1.0}}, {"xent": {"loss": 3.0}}])["xent"]["loss"].mean
      2.0
    """

    def over(values: list[float]) -> Spread:
        return Spread(statistics.fmean(values), statistics.stdev(values), min(values), max(values), len(values))

    metrics = metrics_of(every[0])
    return {
        row: {metric: over([scores[row][metric] for scores in every]) for metric in metrics if metric in values}
        for row, values in every[0].items()
    }


def write_spread(file: Path, scores: Mapping[str, Mapping[str, Spread]]) -> None:
    """Write the scores of several runs, a row for each score."""
    rows = [[row, metric, *value] for row, values in scores.items() for metric, value in values.items()]
    write_csv(file, ["held out", "metric", *Spread._fields], rows)


def read_spread(file: Path) -> dict[str, dict[str, Spread]]:
    """Read what `write_spread` wrote; nothing where there is no such file, or it is not of several runs."""
    if not file.exists():
        return {}
    found: dict[str, dict[str, Spread]] = {}
    with file.open(newline="", errors="replace") as lines:
        try:
            for row in csv.DictReader(lines):
                mean, std, low, high = (float(row[name]) for name in Spread._fields[:4])
                found.setdefault(row["held out"], {})[row["metric"]] = Spread(mean, std, low, high, int(row["seeds"]))
        except (KeyError, TypeError, ValueError):
            return {}
    return found


def table(scores: Mapping[str, Mapping[str, float | Spread]], title: str = "held out") -> Table:
    """Lay scores out for people: accuracies and error rates in per cent, spreads behind a ±."""
    metrics = metrics_of(scores)
    result = Table(title, box=None, header_style="bold", padding=(0, 3, 0, 0))
    for metric in metrics:
        result.add_column(metric, justify="right")
    for row, values in scores.items():
        result.add_row(row, *(show(metric, values.get(metric)) for metric in metrics))
    return result


def metrics_of(scores: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Every metric that any row has, the loss first."""
    found = dict.fromkeys(metric for values in scores.values() for metric in values)
    return sorted(found, key=lambda metric: metric != "loss")


def show(metric: str, value: float | Spread | None) -> str:
    """Write a score for people.

    Example:
      >>> show("accuracy", 0.9778), show("loss", Spread(1.0, 0.25, 0.75, 1.25, 2)), show("loss", None)
      ('97.78 %', '1.0000 ± 0.2500', '-')
    """
    if value is None:
        return "-"
    scale, unit, digits = (100, " %", 2) if metric in _SHARES else (1, "", 4)
    if isinstance(value, Spread):
        return f"{value.mean * scale:.{digits}f} ± {value.std * scale:.{digits}f}{unit}"
    return f"{value * scale:.{digits}f}{unit}"
