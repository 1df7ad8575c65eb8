"""What every experiment does around its own work: device, folder, seeds, summary."""

import csv
import dataclasses
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from xent.experiments.flags import RunConfig
from xent.experiments.folder import create, write_config
from xent.train.errors import UsageError
from xent.train.report import write_csv

Scores = Mapping[str, Mapping[str, float]]
"""Row of the results table -> metric -> value, e.g. scores["ours"]["accuracy"]."""
One = Callable[[Any, Path], Scores]
"""Trains one seed in a folder of its own, from its newest checkpoint if there is one."""


def use_device(run: RunConfig) -> None:
    """Set platform and precision before the first computation.

    Raises:
      UsageError: if the platform asked for is not here.
    """
    jax.config.update("jax_default_matmul_precision", run.matmul_precision)
    if run.platform == "cpu":
        jax.config.update("jax_platforms", "cpu")  # leaves the memory of any GPU alone
    found = jax.default_backend()
    if run.platform not in (None, found):
        extra = {"gpu": "cuda", "tpu": "tpu"}.get(run.platform, "experiments")
        raise UsageError(
            f"--platform {run.platform}: JAX finds only {found} here; pip install 'xent[{extra}]' on a machine "
            f"that has one, or leave the flag out"
        )


def launch(experiment: str, config: Any, prepare: Callable[[Any, Console], One], resumed: Path | None = None) -> None:
    """Run an experiment once, or once per seed, in a folder of its own.

    Args:
      experiment: its name.
      config: its flags; `config.run` are the shared ones.
      prepare: does once what all seeds share (data, compilation) and gives the function that trains one seed.
      resumed: the folder of a run to continue, instead of a new one.
    """
    run: RunConfig = config.run
    console = Console(highlight=False, soft_wrap=True)
    use_device(run)
    folder = resumed or create(run.out, experiment)
    if resumed is None:
        write_config(folder, experiment, config)
    _line(console, "run", str(folder))
    _line(console, "device", f"{device_name()}, jax {jax.__version__}, {run.dtype}")
    one = prepare(config, console)
    if run.seeds == 1:
        scores = one(config, folder)
        _save_scores(folder, scores)
        console.print(_table(scores))
    else:
        every = []
        for seed in range(run.seed, run.seed + run.seeds):
            every.append(_one_of_many(experiment, config, seed, one, folder / f"seed-{seed}", console))
        _summarise(every, folder, console)
    _line(console, "wrote", ", ".join(sorted(str(file) for file in folder.iterdir() if file.is_file())))


def _one_of_many(
    experiment: str, config: Any, seed: int, one: One, folder: Path, console: Console
) -> dict[str, dict[str, float]]:
    if (folder / "results.csv").exists():
        return read_scores(folder)
    console.print(f"[bold]seed {seed}[/]")
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, seed=seed, seeds=1, out=None))
    if not (folder / "config.json").exists():
        folder.mkdir(exist_ok=True)
        write_config(folder, experiment, config)
    scores = one(config, folder)
    _save_scores(folder, scores)
    return {row: dict(values) for row, values in scores.items()}


def _save_scores(folder: Path, scores: Scores) -> None:
    metrics = _metrics(scores)
    rows = [[row, *(values.get(metric, "") for metric in metrics)] for row, values in scores.items()]
    write_csv(folder / "results.csv", ["held out", *metrics], rows)


def read_scores(folder: Path) -> dict[str, dict[str, float]]:
    """Read the results.csv of one seed."""
    with (folder / "results.csv").open(newline="") as file:
        return {
            row.pop("held out"): {metric: float(value) for metric, value in row.items() if value}
            for row in csv.DictReader(file)
        }


def _metrics(scores: Scores) -> list[str]:
    return list(dict.fromkeys(metric for values in scores.values() for metric in values))


def _table(scores: Scores) -> Table:
    table = Table("held out", box=None, header_style="bold", padding=(0, 3, 0, 0))
    for metric in _metrics(scores):
        table.add_column(metric, justify="right")
    for row, values in scores.items():
        table.add_row(row, *(_show(metric, values.get(metric)) for metric in _metrics(scores)))
    return table


def _show(metric: str, value: float | None, spread: float | None = None) -> str:
    if value is None:
        return "-"
    scale, unit, digits = (100, " %", 2) if metric == "accuracy" else (1, "", 4)
    between = "" if spread is None else f" ± {spread * scale:.{digits}f}"
    return f"{value * scale:.{digits}f}{between}{unit}"


def _summarise(every: list[dict[str, dict[str, float]]], folder: Path, console: Console) -> None:
    """Mean and sample standard deviation of each score over the seeds."""
    table = Table(f"held out, {len(every)} seeds", box=None, header_style="bold", padding=(0, 3, 0, 0))
    metrics = _metrics(every[0])
    for metric in metrics:
        table.add_column(metric, justify="right")
    rows = []
    for row in every[0]:
        cells = []
        for metric in metrics:
            values = [scores[row][metric] for scores in every if metric in scores[row]]
            if not values:
                cells.append("-")
                continue
            mean, spread = statistics.fmean(values), statistics.stdev(values)
            rows.append([row, metric, mean, spread, min(values), max(values), len(values)])
            cells.append(_show(metric, mean, spread))
        table.add_row(row, *cells)
    write_csv(folder / "results.csv", ["held out", "metric", "mean", "std", "min", "max", "seeds"], rows)
    console.print(table)


def _line(console: Console, label: str, text: str) -> None:
    console.print(f"[bold]{label:<9}[/]{text}")


def device_name() -> str:
    """Name the chip JAX computes on; on a CPU, as the operating system names it."""
    device = jax.devices()[0]
    kind = cpu_model() if device.platform == "cpu" else device.device_kind
    return f"{kind} ({device.platform} x {jax.device_count()})"


def cpu_model() -> str:
    """Name the processor, which JAX calls just "cpu"."""
    import os
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
