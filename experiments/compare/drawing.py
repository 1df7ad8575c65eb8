"""How pictures look, and how they become SVG that lives in the page: its fonts, and its colours by day and by night."""

import contextlib
import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

matplotlib.use("Agg")

# Drawn in these, which the page replaces by names that it defines twice. Machines: Okabe and Ito's palette, told apart
# in every common kind of colour blindness, and markers differ too.
INK, MUTED, LINE, PAPER = "#1c2128", "#5a6472", "#d4d9e0", "#fdfefd"
MACHINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07d00", "#3c9bd0")
_NAMES = {INK: "--ink", MUTED: "--muted", LINE: "--line", PAPER: "--paper"} | {
    hue: f"--machine-{i}" for i, hue in enumerate(MACHINES)
}
MARKERS = ("o", "s", "D", "^", "v", "P")
WIDTH = 9.4
"""Inches of a picture; the page shows an inch as 96 pixels where there is room."""

_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
}


def hue(number: int) -> str:
    """The colour of a machine by its place among the files."""
    return MACHINES[number % len(MACHINES)]


def marker(number: int) -> str:
    """The marker of a machine by its place among the files."""
    return MARKERS[number % len(MARKERS)]


def handle(number: int, label: str, **more: Any) -> Line2D:
    """A machine's entry in a legend."""
    return Line2D([], [], color=hue(number), marker=marker(number), label=label, **more)


def legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Put the legend above all panels."""
    figure.legend(handles=handles, loc="outside upper left", ncols=6)


@contextlib.contextmanager
def canvas(name: str, height: float) -> Iterator[Figure]:
    """A figure in the page's style; `to_svg` it before the style ends.

    Args:
      name: tells its parts' ids from another picture's in the same page.
      height: inches.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        yield Figure(figsize=(WIDTH, height), layout="constrained")


def panels(figure: Figure, count: int, columns: int = 2) -> list[Axes]:
    """Axes side by side, as many as are needed."""
    rows = math.ceil(count / columns)
    grid = figure.add_gridspec(rows, columns, wspace=0.06, hspace=0.1)
    return [figure.add_subplot(grid[i // columns, i % columns]) for i in range(count)]


def height_of(count: int, columns: int = 2, each: float = 3.1, more: float = 0.4) -> float:
    """Inches of so many panels."""
    return each * math.ceil(count / columns) + more


def powers(axes: Axes, which: str, unit: str = "") -> None:
    """Make an axis logarithmic, with plain numbers at it."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set_xscale("log") if which == "x" else axes.set_yscale("log")
    low, high = sorted(axis.get_view_interval())
    narrow = low > 0 and high / low < 200
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{_plain(value)}{unit}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def _plain(value: float) -> str:
    """A tick's number: 0.01, 1, 100, 10 k, 2 M, 10⁻⁵.

    Example:
      >>> [_plain(value) for value in (0.01, 50.0, 2e6, 1e-5)]
      ['0.01', '50', '2 M', '10⁻⁵']
    """
    if value <= 0:
        return f"{value:g}"
    power = math.floor(math.log10(value) + 1e-9)
    lead = value / 10.0**power
    if not -3 <= power < 15:
        factor = "" if abs(lead - 1) < 1e-6 else f"{lead:g}·"
        return f"{factor}10{str(power).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    group = max(power // 3, 0)
    prefix = ("", " k", " M", " G", " T")[group]
    return f"{value / 1000.0**group:g}{prefix}"


def apart(values: Sequence[float], least: float) -> list[float]:
    """Move labels apart, each as little as need be, so that neighbours are `least` or more from each other.

    Example:
      >>> apart([1.0, 1.1, 5.0], 1.0)
      [0.55, 1.55, 5.0]
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    groups: list[list[int]] = []
    for i in order:
        groups.append([i])
        while len(groups) > 1 and _start(groups[-1], values, least) < _start(groups[-2], values, least) + least * len(
            groups[-2]
        ):
            groups[-2:] = [groups[-2] + groups[-1]]
    moved = list(values)
    for group in groups:
        for place, i in enumerate(group):
            moved[i] = _start(group, values, least) + place * least
    return moved


def _start(group: Sequence[int], values: Sequence[float], least: float) -> float:
    """Where the first label of a group stands, so that the group lies around its values' mean."""
    return sum(values[i] for i in group) / len(group) - least * (len(group) - 1) / 2


def to_svg(figure: Figure, alt: str) -> str:
    """Turn a figure into an SVG element for the page, with `alt` for screen readers."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img" aria-label="ALT">', text, count=1
    )
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", text)
    for colour, name in _NAMES.items():
        text = text.replace(colour, f"var({name})")
    escaped = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace('"ALT"', f'"{escaped}"', 1).strip()
