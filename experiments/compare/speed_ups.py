"""How many times as fast each measurement is on each machine as on the first."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from xent.experiments.bench.estimate import Estimate, estimate
from xent.experiments.compare import drawing
from xent.experiments.compare.joining import Joined, Row
from xent.experiments.compare.part import Part, Table
from xent.experiments.compare.reading import Machine
from xent.experiments.compare.speed import speed_up, verdict
from xent.experiments.formats import times, with_unit

BENCHMARKS = {
    "train": ("Training steps", "A step of training as the experiment takes it: forward, backward, optimiser."),
    "losses": ("Losses", "Loss functions of logits: their values, or values with gradients."),
    "fused": (
        "Losses fused with a linear head",
        "Cross-entropy of hidden states times a large kernel; the logits are never held all at once.",
    ),
    "peaks": ("Large products and copies", "What the machine does at its best: a product of square matrices, a copy."),
    "save": ("Checkpoints", "Training with and without saving."),
}
"""Benchmark -> title, and what it is; in the order of the page."""


class Compared(NamedTuple):
    """A measurement on a machine, beside the first machine that has it."""

    row: Row
    base: str
    other: str
    found: Estimate

    @property
    def verdict(self) -> str:
        """What the interval shows."""
        return verdict(self.found)


def samples(row: Row) -> dict[str, list[float]]:
    """Seconds a unit of each sample, by machine."""
    return {label: measured.own.per_unit for label, measured in row.on.items() if measured.own is not None}


def compare(row: Row) -> list[Compared]:
    """Compare each machine that has the measurement to the first that does."""
    (base, first), *others = samples(row).items()
    return [Compared(row, base, label, speed_up(first, seconds)) for label, seconds in others]


def by_benchmark(joined: Joined) -> Iterator[tuple[str, list[Row]]]:
    """Group rows by their benchmark, in the order of the page."""
    order = list(BENCHMARKS)
    rows = sorted(joined.rows, key=lambda row: order.index(row.key[0]))
    for benchmark, group in itertools.groupby(rows, key=lambda row: row.key[0]):
        yield benchmark, list(group)


def cells(row: Row, machines: Sequence[Machine]) -> list[str]:
    """A row for people: its name, the unit, the median on each machine, each speed-up with its interval."""
    medians = {label: with_unit(estimate(seconds).median, "s") for label, seconds in samples(row).items()}
    compared = {each.other: each for each in compare(row)}
    first = machines[0].label
    line = [row.key[1], next(iter(row.on.values())).unit, *(medians.get(machine.label, "") for machine in machines)]
    for machine in machines[1:]:
        each = compared.get(machine.label)
        to = f" (to {each.base})" if each and each.base != first else ""
        line += ["", ""] if each is None else [shown(each) + to, times(each.found)[1]]
    return line


def shown(each: Compared) -> str:
    """The speed-up where one is shown, else why not."""
    return f"{times(each.found)[0]}×" if each.verdict in ("faster", "slower") else each.verdict


def header(machines: Sequence[Machine]) -> list[str]:
    """Of the rows that `cells` makes."""
    pairs = [("speed-up of " + machine.label, "95 % interval") for machine in machines[1:]]
    return ["measurement", "a", *(machine.label for machine in machines), *itertools.chain(*pairs)]


def parts(joined: Joined, machines: Sequence[Machine]) -> list[Part]:
    """A part for each benchmark."""
    return [_part(benchmark, rows, machines) for benchmark, rows in by_benchmark(joined)]


def _part(benchmark: str, rows: Sequence[Row], machines: Sequence[Machine]) -> Part:
    title, about = BENCHMARKS[benchmark]
    every = [each for row in rows for each in compare(row)]
    numbers = [
        [*each.row.key, each.base, each.other, *each.found, each.verdict] for each in every
    ]  # fmt: skip
    csv = Table(("benchmark", "measurement", "first", "machine", "speed_up", "low", "high", "confidence", "shows"),
                numbers, 4)  # fmt: skip
    alt = f"{title}: " + "; ".join(
        f"{each.row.key[1]} on {each.other}: {shown(each)}, interval {times(each.found)[1]}" for each in every
    )
    return Part(
        f"speed-up-{benchmark}",
        title,
        (about,),
        csv,
        _draw(benchmark, [row for row in rows if machines[0].label in row.on], machines, alt),
        alt,
        Table(tuple(header(machines)), [cells(row, machines) for row in rows], 2),
        folded=len(rows) > 12,
    )


def _draw(benchmark: str, rows: Sequence[Row], machines: Sequence[Machine], alt: str) -> str:
    if not rows:
        return ""
    number = {machine.label: i for i, machine in enumerate(machines)}
    room = 0.25 + 0.07 * (len(machines) - 2)
    with drawing.canvas(f"speed-up-{benchmark}", 0.9 + room * len(rows)) as figure:
        axes = figure.subplots()
        axes.axvline(1, color=drawing.MUTED, linewidth=1)
        for at, row in enumerate(rows):
            for each in compare(row):
                _whisker(axes, at + _dodge(number, each.other), each, number[each.other])
        axes.set_yticks(range(len(rows)), [row.key[1] for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"times as fast as on {machines[0].label} (logarithmic)")
        drawing.powers(axes, "x", "×")
        handles = [drawing.handle(i, machine.label) for i, machine in enumerate(machines) if i]
        drawing.legend(figure, handles)
        return drawing.to_svg(figure, alt)


def _dodge(number: Mapping[str, int], label: str) -> float:
    """Machines of a row lie a little below one another."""
    others = len(number) - 1
    return (number[label] - 1 - (others - 1) / 2) * 0.55 / max(others, 2)


def _whisker(axes: Axes, at: float, each: Compared, number: int) -> None:
    found, hue = each.found, drawing.hue(number)
    axes.plot([found.low, found.high], [at, at], color=hue, linewidth=1.6, solid_capstyle="butt")
    sure = each.verdict in ("faster", "slower")
    fill: Any = {"markerfacecolor": hue if sure else drawing.PAPER, "markeredgecolor": hue}
    axes.plot([found.median], [at], drawing.marker(number), markersize=6, markeredgewidth=1.4, **fill)
