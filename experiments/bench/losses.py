"""Time our losses and optax's, values and gradients, from many short rows of logits to a few very long ones.

    xent bench losses                                             some four minutes on two cores
    xent bench losses --loss integer --batch 2048 --classes 50257
    xent bench losses --out losses.json                           with every sample

Each line is a measurement of its own: optax, ours, a copy of the logits (read once, written once: the roof of anything
that writes a gradient) and optax a second time take turns in random order in one process. Times are medians; `ratio`
is ours to optax's, formed within rounds, with its interval, and `null` is the interval of optax to itself, noise alone.
The bound is what we hold ourselves to: on a CPU 1.3 for gradients and 1.5 for values, elsewhere 1.05.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
from rich.table import Table

from xent.experiments.bench.engine import Measurement, measure
from xent.experiments.bench.estimate import Estimate, estimate, ratio
from xent.experiments.bench.losses_cases import LOSSES, Cell, What, make_cases, make_inputs
from xent.experiments.bench.record import cores, refuse, to_record, write
from xent.experiments.device import device_name, use_device
from xent.experiments.flags import DeviceConfig, parse
from xent.train.errors import require
from xent.train.progress import make_console, say

WHATS: tuple[What, ...] = ("value", "gradient")


@dataclass(frozen=True)
class Config:
    """Time our losses beside optax's."""

    loss: Literal["all", "integer", "soft", "sigmoid"] = "all"
    """Softmax with integer labels, softmax with soft labels, sigmoid per element, or each in turn."""
    batch: tuple[int, ...] = (65536, 8192, 512, 256)
    """Rows of logits, one number for each of --classes."""
    classes: tuple[int, ...] = (10, 1000, 32768, 262144)
    """Logits a row."""
    dtype: Literal["both", "float32", "bfloat16"] = "both"
    """Of the logits."""
    rounds: int = 5
    """Samples of each case."""
    quick: bool = False
    """The two ends of the grid only, each with a sixteenth of its batch: half a minute, and of less weight."""
    seed: int = 0
    """Seed of logits, labels and the order of the cases."""
    out: Path | None = None
    """JSON file to write, which must not exist yet."""
    device: DeviceConfig = field(default_factory=DeviceConfig)

    def __post_init__(self) -> None:
        """Check every range."""
        require("--rounds", self.rounds, self.rounds >= 1, "1 or more")
        require("--seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 4294967295")
        for name in ("batch", "classes"):
            values = getattr(self, name)
            shown = " ".join(map(str, values))
            require(f"--{name}", shown, bool(values) and min(values) >= 1, "numbers of 1 or more")
        pairs = f"as many numbers as --batch has, {len(self.batch)}"
        require("--classes", " ".join(map(str, self.classes)), len(self.batch) == len(self.classes), pairs)


class Row(NamedTuple):
    """A line of the table."""

    cell: Cell
    measured: Measurement

    def milliseconds(self, case: int) -> Estimate:
        """How long a case takes."""
        return estimate([second * 1e3 for second in self.measured.timings[case].seconds])

    def to_optax(self, case: int) -> Estimate:
        """How many times as long as optax a case takes."""
        return ratio(self.measured.timings[case].seconds, self.measured.timings[0].seconds)


def cells(config: Config) -> Iterator[Cell]:
    """List the points of the grid; neighbours share their inputs."""
    names = LOSSES if config.loss == "all" else [config.loss]
    dtypes = ("float32", "bfloat16") if config.dtype == "both" else (config.dtype,)
    shapes = list(zip(config.batch, config.classes, strict=True))
    if config.quick:
        shapes = [(max(batch // 16, 1), classes) for batch, classes in dict.fromkeys((shapes[0], shapes[-1]))]
    for name, (batch, classes), dtype, what in itertools.product(names, shapes, dtypes, WHATS):
        yield Cell(name, batch, classes, dtype, what)


def bound(what: What, backend: str) -> float:
    """The largest ratio to optax that we hold ourselves to."""
    return {"value": 1.5, "gradient": 1.3}[what] if backend == "cpu" else 1.05


def table(rows: Sequence[Row], backend: str) -> Table:
    """Lay the measurements out for people."""
    confidence = rows[0].milliseconds(0).confidence
    title = f"medians of {len(rows[0].measured.order)} rounds in ms, with {confidence:.0%} intervals"
    result = Table(title=title, box=None, header_style="bold", padding=(0, 2, 0, 0), title_justify="left")
    for header in ("loss", "dtype", "of"):
        result.add_column(header, no_wrap=True)
    for header in ("batch", "classes", "optax", "ours", "interval", "copy", "ratio", "interval", "null", "bound"):
        result.add_column(header, justify="right", no_wrap=True)
    result.add_column("", no_wrap=True)
    for row in rows:
        cell, ours, against, null = row.cell, row.milliseconds(1), row.to_optax(1), row.to_optax(3)
        limit = bound(cell.what, backend)
        verdict = "holds" if against.high <= limit else "broken" if against.low > limit else "open"
        result.add_row(
            cell.loss, cell.dtype, cell.what, str(cell.batch), str(cell.classes),
            f"{row.milliseconds(0).median:.2f}", f"{ours.median:.2f}", f"{ours.low:.2f}-{ours.high:.2f}",
            f"{row.milliseconds(2).median:.2f}", f"{against.median:.2f}", f"{against.low:.2f}-{against.high:.2f}",
            f"{null.low:.2f}-{null.high:.2f}", f"{limit:.2f}", verdict,
        )  # fmt: skip
    return result


def record(config: Config, rows: Sequence[Row]) -> dict[str, Any]:
    """Make the JSON-able record: what all measurements share, and under `cells` what was measured of each."""
    shared: dict[str, Any] = {}
    measured = []
    for row in rows:
        whole = to_record("losses", "example", dataclasses.asdict(config), row.measured)
        own = {name: whole.pop(name) for name in ("ratios_to", "cases", "order")}
        shared = whole
        measured.append({**row.cell._asdict(), "bound": bound(row.cell.what, jax.default_backend()), **own})
    return {**shared, "cells": measured}


def main(arguments: Sequence[str]) -> None:
    """Measure, show a table, write the record."""
    config = parse(Config, arguments, prog="xent bench losses", about=__doc__)
    refuse(config.out)
    use_device(config.device)
    console = make_console()
    say(console, "device", f"{device_name()}, jax {jax.__version__}, {cores()} threads")
    say(console, "data", "logits drawn from a normal distribution of standard deviation 3, labels at random")
    rows: list[Row] = []
    with console.status("drawing") as status:

        def show(name: str, text: str) -> None:
            status.update(f"{name}: {text}")

        for _, group in itertools.groupby(cells(config), key=lambda cell: cell._replace(what="value")):
            inputs = None
            for cell in group:
                name = f"{cell.loss}, {cell.batch} x {cell.classes}, {cell.dtype}, {cell.what}"
                inputs = inputs or make_inputs(cell, config.seed)
                measured = measure(
                    make_cases(cell, inputs), rounds=config.rounds, seed=config.seed,
                    report=partial(show, name),
                )  # fmt: skip
                rows.append(Row(cell, measured))
    console.width = max(console.width, 140)  # a table cut off says nothing
    console.print(table(rows, jax.default_backend()))
    if config.out is not None:
        write(config.out, record(config, rows))
        say(console, "wrote", str(config.out))
