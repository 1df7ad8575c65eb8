"""What the fused losses hold in memory, and optax, by number of classes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from xent.experiments.compare import drawing
from xent.experiments.compare.part import Part, Table
from xent.experiments.compare.reading import Machine
from xent.experiments.formats import size

_CASES: dict[str, Any] = {"ours": "-", "optax": "--"}


class Held(NamedTuple):
    """Bytes that a program needs beside its arguments and results."""

    what: str
    dtype: str
    machine: str
    case: str
    tokens: int
    units: int
    classes: int
    temporary: int


def held(machines: Sequence[Machine]) -> list[Held]:
    """Read them from all machines, also where only one has a measurement."""
    found = []
    for machine in machines:
        for (benchmark, _), measured in machine.measurements.items():
            of = measured.of
            tokens, units, classes = (of.get(name, 0) for name in ("tokens", "units", "classes"))
            if benchmark != "fused" or not all(isinstance(n, int) and n > 0 for n in (tokens, units, classes)):
                continue
            for name in _CASES:
                case = measured.case(name)
                if case and case.compile and case.compile.temporary is not None:
                    what, bytes_held = str(of.get("what", "value")), case.compile.temporary
                    found.append(Held(what, measured.dtype, machine.label, name, tokens, units, classes, bytes_held))
    return found


def parts(machines: Sequence[Machine]) -> list[Part]:
    """One part, or none where nothing of it was measured."""
    found = held(machines)
    if not found:
        return []
    kinds = list(dict.fromkeys((one.what, one.dtype) for one in found))
    alt = "Memory by number of classes. " + "; ".join(
        f"{one.what}, {one.dtype}, {one.machine}, {one.case}, {one.classes:,} classes: {size(one.temporary)}"
        for one in found
    )
    says = (
        "Bytes that the compiled program needs beside its arguments and results, as the compiler of each machine says. "
        "Whoever holds every logit climbs with the vocabulary. Points are joined where tokens and hidden units are the "
        "same. Lines that coincide are drawn one inside the other.",
    )
    with drawing.canvas("memory", drawing.height_of(len(kinds))) as figure:
        for axes, kind in zip(drawing.panels(figure, len(kinds)), kinds, strict=True):
            for number, machine in enumerate(machines):
                _lines(axes, [one for one in found if one[:2] == kind and one.machine == machine.label], number)
            axes.set(title=", ".join(kind), xlabel="classes (vocabulary)", ylabel="memory")
            drawing.powers(axes, "x")
            drawing.powers(axes, "y")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: with_decimal(value)))
        cases = [Line2D([], [], color=drawing.INK, linestyle=style, label=name) for name, style in _CASES.items()]
        handles = [drawing.handle(i, machine.label) for i, machine in enumerate(machines)]
        figure.legend(handles=[*handles, *cases], loc="outside upper left", ncols=8)
        picture = drawing.to_svg(figure, alt)
    rows = [[*one] for one in found]
    return [Part("memory", "Memory by vocabulary", says, Table(Held._fields, rows, 4), picture, alt,
                 _table(found), folded=len(found) > 24)]  # fmt: skip


def with_decimal(value: float) -> str:
    """A tick of bytes, in powers of ten.

    Example:
      >>> with_decimal(1e8), with_decimal(1e9)
      ('100 MB', '1 GB')
    """
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= scale:
            return f"{value / scale:g} {unit}"
    return f"{value:g} B"


def _lines(axes: Axes, found: Sequence[Held], number: int) -> None:
    groups: dict[tuple[str, int, int], list[Held]] = {}
    for one in found:
        groups.setdefault((one.case, one.tokens, one.units), []).append(one)
    for (case, _, _), group in groups.items():
        ordered = sorted(group, key=lambda one: one.classes)
        axes.plot([one.classes for one in ordered], [max(one.temporary, 1) for one in ordered], _CASES[case],
                  color=drawing.hue(number), marker=drawing.marker(number), linewidth=max(4.4 - 1.5 * number, 1.2),
                  markersize=max(10 - 2.5 * number, 4))  # fmt: skip


def _table(found: Sequence[Held]) -> Table:
    pairs: dict[tuple[str, ...], dict[str, int]] = {}
    for one in found:
        shape = f"{one.tokens} x {one.units} x {one.classes}"
        pairs.setdefault((one.what, one.dtype, one.machine, shape), {})[one.case] = one.temporary
    rows = [[*key, *(size(on[name]) if name in on else "" for name in _CASES), _share(on)] for key, on in pairs.items()]
    return Table(("of", "dtype", "machine", "tokens x units x classes", "ours", "optax", "ours to optax"), rows, 3)


def _share(on: Mapping[str, int]) -> str:
    return f"{on['ours'] / on['optax']:.3f}" if "ours" in on and on.get("optax") else ""
