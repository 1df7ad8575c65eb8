"""Time our losses and optax's, values and gradients, from many short rows of logits to a few very long ones.

    xent bench losses                                             every loss, over an hour on two cores
    xent bench losses --loss integer soft sigmoid --rounds 5      some six minutes on two cores
    xent bench losses --loss integer --batch 2048 --classes 50257
    xent bench losses --out losses.json                           with every sample

Each line is a measurement of its own: optax, PyTorch where it is installed, ours, a copy of the logits (read once,
written once: the roof of anything that writes a gradient) and the first of them a second time take turns in random
order in one process. Times are medians; `ratio` is ours to the first, optax, formed within rounds, with its interval,
and `null` is the interval of the first to itself, noise alone. The bound is what we hold ourselves to beside optax: on
a CPU 1.3 for gradients and 1.5 for values, elsewhere 1.05. --quick takes the two ends of the grid, each with a
sixteenth of its batch, in float32, and of losses the three most used: half a minute.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import jax
from rich.table import Table

from xent.experiments.bench import tables, torch_peer
from xent.experiments.bench.frame import BenchConfig, Benchmark, Plan
from xent.experiments.bench.frame import main as run
from xent.experiments.bench.losses_cases import Cell, What, make_cases
from xent.experiments.bench.losses_table import CORE, LOSSES
from xent.experiments.bench.record import Measured
from xent.train.errors import require

WHATS: tuple[What, ...] = ("value", "gradient")


@dataclass(frozen=True)
class Config:
    """Time our losses beside optax's."""

    loss: tuple[str, ...] = ()
    """Which, by their short names: integer, soft, sigmoid, smoothed, focal, ...; by default all."""
    batch: tuple[int, ...] = (65536, 8192, 512, 256)
    """Rows of logits, one number for each of --classes."""
    classes: tuple[int, ...] = (10, 1000, 32768, 262144)
    """Logits a row."""
    dtype: Literal["both", "float32", "bfloat16"] = "both"
    """Of the logits."""
    against: torch_peer.Against = "all"
    """Peers that take turns with ours: optax, PyTorch (on a CPU), all that are installed, or none."""
    bench: BenchConfig = field(default_factory=BenchConfig)

    def __post_init__(self) -> None:
        """Check every range."""
        known = set(self.loss) <= set(LOSSES)
        require("--loss", " ".join(self.loss), known, f"some of {', '.join(LOSSES)}")
        for name in ("batch", "classes"):
            values = getattr(self, name)
            shown = " ".join(map(str, values))
            require(f"--{name}", shown, bool(values) and min(values) >= 1, "numbers of 1 or more")
        pairs = f"as many numbers as --batch has, {len(self.batch)}"
        require("--classes", " ".join(map(str, self.classes)), len(self.batch) == len(self.classes), pairs)


def cells(config: Config) -> Iterator[Cell]:
    """List the points of the grid; neighbours share their inputs."""
    names = dict.fromkeys(config.loss or (CORE if config.bench.quick else LOSSES))
    both = ("float32",) if config.bench.quick else ("float32", "bfloat16")
    dtypes = both if config.dtype == "both" else (config.dtype,)
    shapes = list(zip(config.batch, config.classes, strict=True))
    if config.bench.quick:
        shapes = [(max(batch // 16, 1), classes) for batch, classes in dict.fromkeys((shapes[0], shapes[-1]))]
    for name, (batch, classes), dtype, what in itertools.product(names, shapes, dtypes, WHATS):
        yield Cell(name, batch, classes, dtype, what)


def bound(what: What, backend: str) -> float:
    """The largest ratio to optax that we hold ourselves to."""
    return {"value": 1.5, "gradient": 1.3}[what] if backend == "cpu" else 1.05


def plans(config: Config) -> Iterator[Plan]:
    """List the measurements."""
    for cell in cells(config):
        name = f"{cell.loss}, {cell.batch} x {cell.classes}, {cell.dtype}, {cell.what}"
        cases = partial(make_cases, cell, config.bench.seed, config.against)
        yield Plan(name, cell._asdict(), cell.dtype, "example", cases)


def says(config: Config) -> list[tuple[str, str]]:
    """What is timed, and what is not."""
    data = "logits drawn from a normal distribution of standard deviation 3, labels at random"
    return [("data", data), *torch_peer.left_out(config.against)]


def table(rows: Sequence[Measured]) -> Table:
    """Lay the measurements out, a row each, times in milliseconds."""
    confidence = tables.median(rows[0], "ours").confidence
    title = (
        f"medians of {len(rows[0].order)} rounds in ms, with {confidence:.0%} intervals; ratios to the first of each"
    )
    peers = [name for name in ("optax", "PyTorch") if any(row.case(name) for row in rows)]
    numbers = ["batch", "classes", *peers, "ours", "interval", "copy", "ratio", "interval", "null", "bound"]
    result = tables.blank(title, ["loss", "dtype", "of"], numbers)
    result.add_column("", no_wrap=True)
    for row in rows:
        of, null = row.of, tables.interval(row.ratio(row.null), 2)
        milliseconds = {case.name: tables.shown(row.time(case.name, 1e3 * of["batch"]), 2) for case in row.cases}
        ours = tables.interval(row.time("ours", 1e3 * of["batch"]), 2)
        result.add_row(
            of["loss"], of["dtype"], of["what"], str(of["batch"]), str(of["classes"]),
            *(milliseconds.get(name, "-") for name in peers), milliseconds["ours"], ours, milliseconds["copy"],
            *tables.with_interval(None if row.ratios_to == "ours" else row.ratio("ours"), 2), null, *judged(row),
        )  # fmt: skip
    return result


def judged(row: Measured) -> tuple[str, str]:
    """The bound beside optax, and whether the interval keeps to it."""
    against = row.ratio("ours")
    if row.ratios_to != "optax" or against is None:
        return "-", ""
    limit = bound(row.of["what"], jax.default_backend())
    return f"{limit:.2f}", "holds" if against.high <= limit else "broken" if against.low > limit else "open"


BENCHMARK = Benchmark("losses", __doc__, Config, says, plans, table)
main = partial(run, BENCHMARK)
