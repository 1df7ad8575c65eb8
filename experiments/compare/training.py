"""What training measurements say: throughput by batch, and after how many steps compiling has paid."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from xent.experiments.bench.estimate import Estimate, estimate
from xent.experiments.compare import drawing
from xent.experiments.compare.joining import Joined, Row
from xent.experiments.compare.part import Part, Table
from xent.experiments.compare.reading import Machine
from xent.experiments.compare.speed import Crossing, Line, crossing, line
from xent.experiments.formats import plural, with_unit

STEPS = (1, 10**7)
"""What the picture of crossing lines shows."""


def parts(joined: Joined, machines: Sequence[Machine]) -> list[Part]:
    """Throughput and crossings, where there are training measurements."""
    rows = [row for row in joined.rows if row.key[0] == "train"]
    return [*_throughput(rows, machines), *_crossings(rows, machines)]


def rates(rows: Sequence[Row]) -> dict[str, dict[str, list[tuple[int, Estimate]]]]:
    """Experiment -> machine -> batch and examples a second, of experiments measured at two batch sizes or more."""
    found: dict[str, dict[str, list[tuple[int, Estimate]]]] = {}
    for row in rows:
        for label, measured in row.on.items():
            own, batch = measured.own, measured.of.get("batch")
            if own is not None and measured.unit == "step" and isinstance(batch, int) and batch > 0:
                examples = estimate([batch / seconds for seconds in own.per_unit])
                experiment = str(measured.of.get("experiment", "training"))
                found.setdefault(experiment, {}).setdefault(label, []).append((batch, examples))
    several = {name: {label: sorted(at) for label, at in on.items()} for name, on in found.items()}
    return {name: on for name, on in several.items() if len({batch for at in on.values() for batch, _ in at}) > 1}


def _throughput(rows: Sequence[Row], machines: Sequence[Machine]) -> list[Part]:
    found = rates(rows)
    if not found:
        return []
    numbers = [
        [experiment, label, batch, rate.median, rate.low, rate.high]
        for experiment, on in found.items() for label, at in on.items() for batch, rate in at
    ]  # fmt: skip
    header = ("experiment", "machine", "batch", "examples_per_second", "low", "high")
    shown = [
        [experiment, label, f"{batch:,}", *(with_unit(value, "/s") for value in rate[:3])]
        for experiment, on in found.items() for label, at in on.items() for batch, rate in at
    ]  # fmt: skip
    alt = "Examples a second by batch size. " + "; ".join(f"{a}, {b}, batch {c}: {d}" for a, b, c, d, *_ in shown)
    says = (
        "A larger batch gives a machine more to do at once. While a line climbs, the machine still had idle parts; "
        "where it is flat, it is full. The interval is the median's own.",
    )
    with drawing.canvas("throughput", drawing.height_of(len(found))) as figure:
        for axes, (experiment, on) in zip(drawing.panels(figure, len(found)), found.items(), strict=True):
            for number, machine in enumerate(machines):
                _rate_line(axes, on.get(machine.label, []), number)
            axes.set(title=experiment, xlabel="examples a step (batch)", ylabel="examples a second")
            drawing.powers(axes, "y")
            batches = sorted({batch for at in on.values() for batch, _ in at})
            axes.set_xscale("log")
            axes.set_xticks(batches, [f"{batch:,}" for batch in batches], minor=False)
            axes.set_xticks([], minor=True)
        drawing.legend(figure, [drawing.handle(i, m.label) for i, m in enumerate(machines)])
        picture = drawing.to_svg(figure, alt)
    table = Table(("experiment", "machine", "batch", "examples a second", "from", "to"), shown, 2)
    return [
        Part(
            "throughput",
            "Throughput by batch",
            says,
            Table(header, numbers, 2),
            picture,
            alt,
            table,
            folded=len(shown) > 12,
        )
    ]


def _rate_line(axes: Axes, at: Sequence[tuple[int, Estimate]], number: int) -> None:
    batches = [batch for batch, _ in at]
    below = [rate.median - rate.low for _, rate in at]
    above = [rate.high - rate.median for _, rate in at]
    axes.errorbar(batches, [rate.median for _, rate in at], [below, above], color=drawing.hue(number),
                  marker=drawing.marker(number), capsize=3)  # fmt: skip


def lines_of(row: Row) -> dict[str, Line]:
    """What training takes on each machine that says how long it compiled."""
    own = {label: measured.own for label, measured in row.on.items()}
    return {label: found for label, case in own.items() if case is not None and (found := line(case)) is not None}


def ahead(found: Crossing) -> tuple[str, str]:
    """Say in words when another machine is ahead, and where the number of steps may be.

    Example:
      >>> ahead(Crossing("after", 2000, 1800, 2300))
      ('after 2,000 steps', '1,800 – 2,300')
      >>> ahead(Crossing("never"))
      ('never', '')
    """
    if found.steps is None:
        return "no difference shown" if found.kind == "open" else found.kind, ""
    steps = plural(found.steps, "step")
    words = f"for {steps}, no longer" if found.kind == "until" else f"after {steps}"
    return words, f"{found.low:,} – {found.high:,}"


def crossings(rows: Sequence[Row]) -> list[tuple[Row, str, str, Crossing]]:
    """When each other machine is ahead of the first one that has the measurement."""
    found = []
    for row in rows:
        lines = lines_of(row)
        base = next(iter(lines), None)
        found += [(row, base, label, crossing(lines[base], lines[label])) for label in lines if base and label != base]
    return found


def _crossings(rows: Sequence[Row], machines: Sequence[Machine]) -> list[Part]:
    found = crossings(rows)
    if not found:
        return []
    drawn = [row for row in rows if len(lines_of(row)) > 1]
    numbers: list[list[Any]] = []
    shown = []
    for row, base, other, at in found:
        lines = lines_of(row)
        starts = [lines[base].start, lines[other].start]
        steps = [lines[base].step.median, lines[other].step.median]
        numbers.append([row.key[1], base, other, *starts, *steps, at.kind, at.steps, at.low, at.high])
        shown.append([row.key[1], other, base, *ahead(at), *(with_unit(value, "s") for value in (*starts, *steps))])
    header = ("measurement", "first", "machine", "first_compile_seconds", "machine_compile_seconds",
              "first_step_seconds", "machine_step_seconds", "ahead", "steps", "low", "high")  # fmt: skip
    says = (
        "A faster machine may take longer to compile, and that is paid before the first step. Lines show compilation "
        "(tracing, lowering, compiling, all done once) and that many steps; where they cross, the wait has paid.",
        "The range of a crossing comes from the intervals of the steps' times. The time to compile is a single "
        "measurement.",
    )
    alt = "Seconds of training by steps, compilation included. " + "; ".join(
        f"{name}, {other} is ahead of {base}: {words}" for name, other, base, words, *_ in shown
    )
    columns = ("measurement", "machine", "ahead of", "from when", "range of that", "compiles: first", "machine",
               "a step: first", "machine")  # fmt: skip
    table = Table(columns, shown, 4)
    picture = _draw_crossings(drawn, machines, found, alt)
    return [Part("steps-until-ahead", "When the faster machine wins, compilation counted", says,
                 Table(header, numbers, 3), picture, alt, table)]  # fmt: skip


def _draw_crossings(
    rows: Sequence[Row], machines: Sequence[Machine], found: Sequence[tuple[Row, str, str, Crossing]], alt: str
) -> str:
    number = {machine.label: i for i, machine in enumerate(machines)}
    with drawing.canvas("crossings", drawing.height_of(len(rows))) as figure:
        for axes, row in zip(drawing.panels(figure, len(rows)), rows, strict=True):
            lines = lines_of(row)
            _cross(axes, lines, number)
            for at, base, other in ((at, base, other) for of, base, other, at in found if of is row):
                if at.steps is not None and STEPS[0] <= at.steps <= STEPS[1]:
                    seconds = lines[base].start + at.steps * lines[base].step.median
                    axes.plot([at.steps], [seconds], "o", markersize=9, markerfacecolor="none",
                              markeredgecolor=drawing.hue(number[other]), markeredgewidth=1.6)  # fmt: skip
            axes.set(title=row.key[1], xlabel="steps", ylabel="seconds, compilation included")
            drawing.powers(axes, "x")
            drawing.powers(axes, "y")
        drawing.legend(figure, [drawing.handle(i, m.label) for i, m in enumerate(machines)])
        return drawing.to_svg(figure, alt)


def _cross(axes: Axes, lines: Mapping[str, Line], number: Mapping[str, int]) -> None:
    steps = np.geomspace(*STEPS, 57)
    for label, found in lines.items():
        axes.plot(steps, found.start + steps * found.step.median, color=drawing.hue(number[label]),
                  marker=drawing.marker(number[label]), markevery=(4 * number[label], 14))  # fmt: skip
