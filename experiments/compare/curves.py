"""Whether the machines train the same: each one's loss at each step, beside the first machine's."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from xent.experiments.compare import drawing
from xent.experiments.compare.joining import Joined
from xent.experiments.compare.part import Part, Table
from xent.experiments.compare.reading import Machine
from xent.experiments.compare.speed import differences

LOWEST = 1e-9
"""Where the picture puts losses that are equal."""


class Agreement(NamedTuple):
    """Two curves of one training."""

    name: str
    base: str
    other: str
    relative: tuple[float, ...]
    """Difference to the first machine's loss, of each step that both have."""
    lengths: tuple[int, int]

    @property
    def largest(self) -> float:
        """Of the relative differences."""
        return max(self.relative)


def agreements(joined: Joined) -> list[Agreement]:
    """Compare the curves of each training measurement to those of the first machine that has one."""
    found = []
    for row in joined.rows:
        curves = {label: measured.curve for label, measured in row.on.items() if measured.curve}
        base = next(iter(curves), "")
        found += [
            Agreement(row.key[1], base, label, tuple(differences(curves[base], curve)), (len(curves[base]), len(curve)))
            for label, curve in curves.items() if label != base
        ]  # fmt: skip
    return found


def parts(joined: Joined, machines: Sequence[Machine]) -> list[Part]:
    """One part, or none where no curve was recorded twice."""
    found = agreements(joined)
    if not found:
        return []
    rows = [
        [one.name, one.base, one.other, step + 1, value] for one in found for step, value in enumerate(one.relative)
    ]
    header = ("measurement", "first", "machine", "step", "relative_difference")
    shown = [
        [one.name, one.other, one.base, _steps(one), f"{one.largest:.1e}", f"{one.relative[0]:.1e}"] for one in found
    ]
    alt = "Relative difference of the loss to the first machine's, by step. " + "; ".join(
        f"{one.name}, {one.other}: at most {one.largest:.1e}" for one in found
    )
    says = (
        "The same seeds, the same batches, another machine: losses should be the same but for rounding. Rounding grows "
        "from step to step, as in any training, and grows faster where products are computed with fewer bits. A curve "
        "that starts apart, or leaps, would mean that something else was trained.",
    )
    table = Table(("measurement", "machine", "beside", "steps", "largest difference", "at the first step"), shown, 3)
    return [Part("loss-curves", "Do they learn the same?", says, Table(header, rows, 3),
                 _draw(found, machines, alt), alt, table)]  # fmt: skip


def _steps(one: Agreement) -> str:
    shorter = min(one.lengths)
    return f"{shorter:,}" if one.lengths[0] == one.lengths[1] else f"{shorter:,} of {max(one.lengths):,}"


def _draw(found: Sequence[Agreement], machines: Sequence[Machine], alt: str) -> str:
    number = {machine.label: i for i, machine in enumerate(machines)}
    names = list(dict.fromkeys(one.name for one in found))
    with drawing.canvas("loss-curves", drawing.height_of(len(names))) as figure:
        for axes, name in zip(drawing.panels(figure, len(names)), names, strict=True):
            for one in (one for one in found if one.name == name):
                drawn = [max(value, LOWEST) if math.isfinite(value) else math.nan for value in one.relative]
                i = number[one.other]
                axes.plot(range(1, len(drawn) + 1), drawn, color=drawing.hue(i), marker=drawing.marker(i),
                          markevery=max(len(drawn) // 8, 1))  # fmt: skip
            axes.set(title=name, xlabel="step", ylabel="relative difference")
            drawing.powers(axes, "y")
        used = [i for i, machine in enumerate(machines) if any(one.other == machine.label for one in found)]
        handles = [drawing.handle(i, machines[i].label) for i in used]
        drawing.legend(figure, handles)
        return drawing.to_svg(figure, alt)
