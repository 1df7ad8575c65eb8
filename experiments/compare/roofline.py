"""How far each measurement is from what its machine can do: operations a second against operations a byte."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from xent.experiments.bench.estimate import estimate
from xent.experiments.bench.record import Measured
from xent.experiments.chip_peaks import peaks_of
from xent.experiments.compare import drawing
from xent.experiments.compare.part import Part, Table
from xent.experiments.compare.reading import Machine
from xent.experiments.formats import listed, plural, with_unit

_MARKERS = {"train": "^", "fused": "D", "losses": "o", "save": "v"}
_WORDS = {"train": "training steps", "fused": "fused losses", "losses": "losses", "save": "training with saves"}


class Roof(NamedTuple):
    """What bounds a machine."""

    flops: Mapping[str, float]
    """Operations a second, by what is multiplied and how."""
    bandwidth: float | None
    """Bytes a second."""


class Point(NamedTuple):
    """A measurement of our own code."""

    benchmark: str
    name: str
    dtype: str
    intensity: float
    """Operations a byte of arguments and results."""
    achieved: float
    """Operations a second."""


def measured_roof(machine: Machine) -> Roof:
    """Read the peaks that the machine's own file has; a product counts 2 n^3 operations."""
    flops, bandwidth = {}, None
    for (benchmark, _), measured in machine.measurements.items():
        own = measured.own
        if benchmark != "peaks" or own is None:
            continue
        seconds = estimate(own.seconds).median
        of = measured.of
        if of.get("what") == "copy":
            bandwidth = own.units / seconds
        elif of.get("what") == "product" and isinstance(of.get("size"), int):
            flops[f"{measured.dtype}, {of.get('precision', 'default')}"] = 2 * of["size"] ** 3 / seconds
    return Roof(flops, bandwidth)


def datasheet_roof(machine: Machine) -> Roof | None:
    """Look the chip up."""
    chip = peaks_of(machine.environment["device"])
    return None if chip is None else Roof(chip.flops, chip.bandwidth)


def points(machine: Machine) -> list[Point]:
    """All measurements whose operations and bytes were counted, but for the roofs themselves."""
    found = []
    for (benchmark, name), measured in machine.measurements.items():
        point = None if benchmark == "peaks" else _point(benchmark, name, measured)
        found += [point] if point else []
    return found


def _point(benchmark: str, name: str, measured: Measured) -> Point | None:
    own = measured.own
    compiled = own and own.compile
    if not own or not compiled or not compiled.flops or not compiled.moved:
        return None
    achieved = compiled.flops / estimate(own.seconds).median
    return Point(benchmark, name, measured.dtype, compiled.flops / compiled.moved, achieved)


def parts(machines: Sequence[Machine]) -> list[Part]:
    """One part, or none where nothing was counted."""
    every = {machine.label: points(machine) for machine in machines}
    if not any(every.values()):
        return []
    rows = [[label, *point] for label, found in every.items() for point in found]
    for machine in machines:
        for source, roof in (("measured", measured_roof(machine)), ("datasheet", datasheet_roof(machine))):
            rows += _roof_rows(machine.label, source, roof)
    header = ("machine", "benchmark", "measurement", "dtype", "flops_per_byte", "flops_per_second")
    alt = "Roofline of each machine. " + " ".join(_told(machine, every[machine.label]) for machine in machines)
    return [Part("roofline", "How near to the machine's limits", _says(machines), Table(header, rows, 4),
                 _draw(machines, every, alt), alt)]  # fmt: skip


def _roof_rows(label: str, source: str, roof: Roof | None) -> list[list[object]]:
    if roof is None:
        return []
    rows: list[list[object]] = [[label, f"roof, {source}", name, "", "", flops] for name, flops in roof.flops.items()]
    bytes_row: list[object] = [label, f"roof, {source}", "bytes a second", "", "", roof.bandwidth]
    return [*rows, *([bytes_row] if roof.bandwidth else [])]


def _told(machine: Machine, found: Sequence[Point]) -> str:
    if not found:
        return f"{machine.label}: nothing was counted."
    best = max(found, key=lambda point: point.achieved)
    return (
        f"{machine.label}: {plural(len(found), 'case')}, the most {with_unit(best.achieved, 'FLOP/s')} ({best.name})."
    )


def _says(machines: Sequence[Machine]) -> tuple[str, ...]:
    unknown = [machine.label for machine in machines if datasheet_roof(machine) is None]
    without = [machine.label for machine in machines if measured_roof(machine) == Roof({}, None)]
    says = [
        "Each marker is a measurement of our own code: to the right, more arithmetic for each byte that must move; "
        "higher, more arithmetic a second. The roof is what the machine could do: the slope as fast as its memory, the "
        "flat part as fast as its arithmetic. A marker at the slope waits for memory, one at the flat part for "
        "arithmetic, and one far below both for something else: too little work, or operations that are no products.",
        "Operations are counted in the program before it is compiled. Bytes are those of its arguments and results, "
        "the least that must move, so a marker may belong further to the left; what stays in a cache can lie above the "
        "slope.",
    ]
    if unknown:
        says.append(f"No datasheet is known for {listed(unknown)}: only the roofs measured there are drawn.")
    if without:
        says.append(f"{listed(without)}: no roof was measured (xent bench peaks measures them).")
    return tuple(says)


def _draw(machines: Sequence[Machine], every: Mapping[str, Sequence[Point]], alt: str) -> str:
    with drawing.canvas("roofline", drawing.height_of(len(machines), each=3.7, more=0.5)) as figure:
        spread = [point for found in every.values() for point in found]
        left = min(point.intensity for point in spread) / 4
        right = max(max(point.intensity for point in spread) * 4, 3000.0)
        for number, (machine, axes) in enumerate(zip(machines, drawing.panels(figure, len(machines)), strict=True)):
            axes.set(xscale="log", yscale="log", xlim=(left, right))
            _points(axes, every[machine.label], number)
            labels = [
                *_roof(axes, measured_roof(machine), (left, right), "-", ""),
                *_roof(axes, datasheet_roof(machine), (left, right), "--", "datasheet: "),
            ]
            top = max([flops for flops, _ in labels] + [point.achieved for point in every[machine.label]] + [1.0])
            bottom = min([point.achieved for point in every[machine.label]] + [top / 1e4])
            axes.set_ylim(bottom / 3, top * 4)
            _name(axes, labels)
            axes.set(title=machine.label, xlabel="FLOP a byte", ylabel="FLOP/s")
            drawing.powers(axes, "x")
            drawing.powers(axes, "y")
        benchmarks = [name for name in _MARKERS if any(point.benchmark == name for point in spread)]
        drawing.legend(figure, _key(benchmarks))
        return drawing.to_svg(figure, alt)


def _points(axes: Axes, found: Sequence[Point], number: int) -> None:
    for point in found:
        fill = drawing.hue(number) if point.dtype == "float32" else drawing.PAPER
        axes.plot([point.intensity], [point.achieved], _MARKERS.get(point.benchmark, "o"), markerfacecolor=fill,
                  markeredgecolor=drawing.hue(number), linestyle="none", zorder=3)  # fmt: skip


def _roof(axes: Axes, roof: Roof | None, ends: tuple[float, float], style: str, word: str) -> list[tuple[float, str]]:
    """Draw slope and flat parts; returns where the flat parts are and what they are."""
    if roof is None:
        return []
    flats = _merged(roof.flops)
    highest = max((flops for flops, _ in flats), default=None)
    if roof.bandwidth:
        stop = highest / roof.bandwidth if highest else ends[1]
        slope = [ends[0], stop]
        axes.plot(slope, [x * roof.bandwidth for x in slope], style, color=drawing.INK, linewidth=1.1)
    for flops, _ in flats:
        start = max(flops / roof.bandwidth, ends[0]) if roof.bandwidth else ends[0]
        axes.plot([start, ends[1]], [flops, flops], style, color=drawing.INK, linewidth=1.1)
    return [(flops, word + name) for flops, name in flats]


def _merged(flops: Mapping[str, float]) -> list[tuple[float, str]]:
    """Roofs that are nearly one, as one, with what is multiplied there."""
    found: list[tuple[float, list[str]]] = []
    for name, value in sorted(flops.items(), key=lambda item: -item[1]):
        if found and value > found[-1][0] / 1.25:
            found[-1][1].append(name)
        else:
            found.append((value, [name]))
    return [(value, _together(names)) for value, names in found]


def _together(names: Sequence[str]) -> str:
    """Name several roofs by what they have in common.

    Example:
      >>> _together(["float32, default", "float32, highest", "bfloat16, default"])
      'float32, bfloat16 default'
    """
    by_dtype = itertools.groupby(sorted(names), key=lambda name: name.partition(", ")[0])
    kinds = {dtype: sorted({name.partition(", ")[2] for name in group}) for dtype, group in by_dtype}
    shown = [f"{dtype} {how[0]}".strip() if len(how) == 1 else dtype for dtype, how in kinds.items()]
    return ", ".join(sorted(shown, key=lambda text: not text.startswith("float32")))


def _name(axes: Axes, labels: Sequence[tuple[float, str]]) -> None:
    """Write the roofs' names beside their right ends, apart from each other."""
    low, high = (math.log10(end) for end in axes.get_ylim())
    moved = drawing.apart([(math.log10(flops) - low) / (high - low) for flops, _ in labels], least=0.05)
    for at, (_, text) in zip(moved, labels, strict=True):
        axes.annotate(text, (1, at), xytext=(4, 0), xycoords="axes fraction", textcoords="offset points", va="center",
                      fontsize=8, annotation_clip=False)  # fmt: skip


def _key(benchmarks: Sequence[str]) -> list[Line2D]:
    def entry(marker: str, label: str, fill: str = drawing.MUTED) -> Line2D:
        return Line2D([], [], marker=marker, linestyle="none", color=drawing.MUTED, markerfacecolor=fill, label=label)

    lines = [
        Line2D([], [], color=drawing.INK, linestyle="-", linewidth=1.1, label="roof, measured"),
        Line2D([], [], color=drawing.INK, linestyle="--", linewidth=1.1, label="roof, datasheet"),
    ]
    kinds = [entry(_MARKERS[name], _WORDS[name]) for name in benchmarks]
    return [*kinds, entry("o", "bfloat16", drawing.PAPER), *lines]
