"""What `xent precision` found: tables to read, CSV to compute with, a picture a dtype."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from xent.experiments.precision.loss import OURS
from xent.experiments.precision.measure import OF, Cell, Check, Error, Found, Worst
from xent.train.tables import write_csv

matplotlib.use("Agg")

_COLOURS = {OURS: "tab:blue", "optax": "tab:orange", "torch": "tab:red"}
_MARKERS = {OURS: "o", "optax": "x", "torch": "+"}


def libraries(cells: Iterable[Cell]) -> list[str]:
    """All that were run, ours first."""
    return list(dict.fromkeys(library for cell in cells for library in cell.errors))


def show(error: Error | None) -> str:
    """An error in few characters; rows that are wrong come before any number."""
    if error is None:
        return "-"
    if error.wrong:
        return f"{error.wrong if error.wrong < 1e4 else f'{error.wrong:.0e}'} wrong"
    return f"{error.largest:.2f}" if error.largest < 1e4 else f"{error.largest:.1e}"


def show_bound(bound: float) -> str:
    """A bound in few characters, rounded up."""
    if math.isinf(bound):
        return "none"
    return f"{bound:g}" if bound == int(bound) else f"{math.ceil(bound * 1e4) / 1e4:.4f}"


def table(found: Found) -> Table:
    """Every regime of a loss in a dtype."""
    names = libraries(found.cells)
    first = found.cells[0]
    title = f"{first.loss}, {first.dtype}: largest error, value in ulp of float32, gradient in ulp of {first.dtype}"
    result = Table(title=title, box=None, header_style="bold", padding=(0, 2, 0, 0), title_justify="left")
    result.add_column("regime", no_wrap=True)
    result.add_column("rows", justify="right")
    for of in OF:
        for name in ("bound", *names):
            result.add_column(f"{of}\n{name}", justify="right", no_wrap=True)
    result.add_column("", no_wrap=True)
    for regime in dict.fromkeys(cell.regime for cell in found.cells):
        cells = {cell.of: cell for cell in found.cells if cell.regime == regime}
        parts = [
            part for of in OF
            for part in ([show_bound(cells[of].bound), *(show(cells[of].errors.get(name)) for name in names)]
                         if of in cells else ["-"] * (1 + len(names)))
        ]  # fmt: skip
        rows, verdict = next(iter(cells.values())).rows, all(cell.holds for cell in cells.values())
        result.add_row(regime, str(rows), *parts, "holds" if verdict else "BROKEN")
    return result


def _largest(cells: Sequence[Cell], of: str, library: str) -> Error | None:
    errors = [cell.errors[library] for cell in cells if cell.of == of and library in cell.errors]
    return Error(max(e.largest for e in errors), sum(e.wrong for e in errors)) if errors else None


def summary(every: Sequence[Found]) -> Table:
    """One line for each loss and dtype: the worst of all regimes. With many digits' verdict on the truth itself."""
    names = libraries(cell for found in every for cell in found.cells)
    result = Table(
        title="largest error in any regime, in ulp (`wrong`: rows with NaN or inf where there is none, or none where "
        "there is)", box=None, header_style="bold", padding=(0, 2, 0, 0), title_justify="left",
    )  # fmt: skip
    result.add_column("loss", no_wrap=True)
    result.add_column("dtype", no_wrap=True)
    result.add_column("rows", justify="right")
    for of in OF:
        for name in names:
            result.add_column(f"{of}\n{name}", justify="right", no_wrap=True)
    result.add_column("mpmath\nrows", justify="right", no_wrap=True)
    result.add_column("mpmath\ndiffers", justify="right", no_wrap=True)
    result.add_column("", no_wrap=True)
    for found in every:
        cells, check = found.cells, found.check
        rows = sum({cell.regime: cell.rows for cell in cells}.values())
        errors = [show(_largest(cells, of, name)) for of in OF for name in names]
        verdict = "holds" if all(cell.holds for cell in cells) else "BROKEN"
        result.add_row(
            check.loss, check.dtype, str(rows), *errors, str(check.rows), f"{check.differ:.0e}", verdict
        )  # fmt: skip
    return result


def write_errors(file: Path, cells: Sequence[Cell]) -> None:
    """Write every number of every table."""
    names = libraries(cells)
    header = ["loss", "dtype", "regime", "of", "ulp_of", "inputs", "bound_ulp", "xent_holds"]
    header += [f"{name}_{column}" for name in names for column in ("ulp", "wrong_inputs")]
    rows = []
    for cell in cells:
        unit = "float32" if cell.of == "value" else cell.dtype
        shown = [part for name in names for part in cell.errors.get(name, ("", ""))]
        rows.append([cell.loss, cell.dtype, cell.regime, cell.of, unit, cell.rows, cell.bound, cell.holds, *shown])
    write_csv(file, header, rows)


def write_worst(file: Path, worst: Iterable[Worst]) -> None:
    """Write the input of each largest error; numbers in the fewest digits that give them back. Long rows are left out.

    `position` is the number whose gradient is that far off. One column an argument; of two dimensions, row by row.
    """
    worst = list(worst)
    names = list(dict.fromkeys(name for w in worst for name in w.rows))
    header = ["loss", "dtype", "regime", "of", "library", "error_ulp", "got", "true", "position", *names]

    def numbers(array: np.ndarray | None) -> str:
        if array is None or array.size > 1000:
            return ""
        whole = array.dtype.kind in "biu"
        return " ".join(repr(number) for number in array[0].astype(np.int64 if whole else np.float64).ravel().tolist())

    rows = [
        [w.loss, w.dtype, w.regime, w.of, w.library, w.error, w.got, w.true, "" if w.of == "value" else w.position,
         *(numbers(w.rows.get(name)) for name in names)]
        for w in worst
    ]  # fmt: skip
    write_csv(file, header, rows)


def write_checks(file: Path, checks: Iterable[Check]) -> None:
    """Write what many digits said."""
    write_csv(file, ["loss", "dtype", "rows_checked", "truth_differs_from_mpmath_by_ulp"], checks)


WRONG = 1e10
"""Where the picture puts what is not finite."""


def draw(cells: Sequence[Cell], dtype: str, file: Path) -> None:
    """Draw the largest error of every library, loss and regime, with the bound."""
    cells = [cell for cell in cells if cell.dtype == dtype]
    panels = list(dict.fromkeys((cell.loss, cell.of) for cell in cells))
    regimes = list(dict.fromkeys(cell.regime for cell in cells))
    across = min(6, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(2.2 + 2.6 * across, 1.2 + (0.6 + 0.2 * len(regimes)) * down), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    kinds: dict[str, Artist] = {}
    for number in range(down * across):
        axes = grid[number // across, number % across]
        if number >= len(panels):
            axes.set_axis_off()
            continue
        loss, of = panels[number]
        _panel(axes, [cell for cell in cells if (cell.loss, cell.of) == (loss, of)], regimes)
        handles, labels = axes.get_legend_handles_labels()
        kinds |= dict(zip(labels, handles, strict=True))
        axes.set_title(f"{loss}\n{of}", fontsize=9)
        if number + across >= len(panels):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel(f"ulp of {'float32' if of == 'value' else dtype}", fontsize=9)
    figure.legend(list(kinds.values()), list(kinds), loc="outside upper right", ncols=4, fontsize=9)
    rows = sum({(cell.loss, cell.regime): cell.rows for cell in cells}.values())
    figure.suptitle(f"Largest error of {dtype} losses against extended precision, {rows:,} inputs", x=0.01, ha="left")
    figure.savefig(file, dpi=110)


def _panel(axes: Axes, cells: Sequence[Cell], regimes: Sequence[str]) -> None:
    heights = {regime: -place for place, regime in enumerate(regimes)}
    bounded = [cell for cell in cells if math.isfinite(cell.bound)]
    middle = np.array([heights[cell.regime] for cell in bounded])
    axes.vlines([cell.bound for cell in bounded], middle - 0.5, middle + 0.5, "black", linewidth=1.2, label="our bound")
    for library in libraries(cells):
        errors = [(cell.errors[library], heights[cell.regime]) for cell in cells if library in cell.errors]
        at = [WRONG if error.wrong else min(max(error.largest, 0.1), WRONG / 30) for error, _ in errors]
        size, marker = {"o": 26, "x": 30, "+": 44}[_MARKERS[library]], _MARKERS[library]
        axes.scatter(at, [y for _, y in errors], s=size, c=_COLOURS[library], marker=marker, label=library, zorder=3)
    axes.axvspan(WRONG / 5, WRONG * 5, color="tab:red", alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlim(0.05, WRONG * 5)
    axes.set_xticks([0.1, 10, 1e3, 1e5, 1e7, WRONG], ["≤0.1", "10", "10³", "10⁵", "10⁷", "wrong"], fontsize=8)
    axes.minorticks_off()
    axes.set_yticks(list(heights.values()), regimes, fontsize=8)
    axes.set_ylim(-len(regimes) + 0.4, 0.6)
    axes.grid(alpha=0.25)
