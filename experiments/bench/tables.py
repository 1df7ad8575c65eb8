"""A measurement for people: a row a case."""

from collections.abc import Sequence

from rich.table import Table

from xent.experiments.bench.estimate import Estimate
from xent.experiments.bench.record import Measured


def blank(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    """Make a table of columns that are never cut off: words stand left, numbers right."""
    result = Table(title=title, box=None, header_style="bold", padding=(0, 2, 0, 0), title_justify="left")
    for header in words:
        result.add_column(header, no_wrap=True)
    for header in numbers:
        result.add_column(header, justify="right", no_wrap=True)
    return result


def cases(rows: Sequence[Measured]) -> Table:
    """Lay measurements out, a row a case: microseconds a unit, and the ratio to the first case of each."""
    confidence = median(rows[0], rows[0].ratios_to).confidence
    title = f"medians of {len(rows[0].order)} rounds, with {confidence:.0%} intervals; ratios to the first of each"
    result = blank(title, ["", ""], [f"µs a {rows[0].unit}", "interval", "ratio", "interval", "compile s"])
    for row in rows:
        for case in row.cases:
            name = row.name if case is row.cases[0] else ""
            compiled = f"{case.compile.seconds:.2f}" if case.compile else "-"
            times, against = row.time(case.name, 1e6), row.ratio(case.name)
            result.add_row(name, case.name, *with_interval(times, 1), *with_interval(against, 2), compiled)
    return result


def median(row: Measured, name: str) -> Estimate:
    """A case's time, of one that was measured.

    Raises:
      KeyError: if it was not.
    """
    found = row.time(name)
    if found is None:
        raise KeyError(f"{row.name} has no case {name!r}")
    return found


def with_interval(value: Estimate | None, digits: int) -> tuple[str, str]:
    """A median and its interval, or dashes."""
    return shown(value, digits), interval(value, digits)


def shown(value: Estimate | None, digits: int) -> str:
    """A median, or a dash."""
    return "-" if value is None else f"{value.median:.{digits}f}"


def interval(value: Estimate | None, digits: int) -> str:
    """An interval, or a dash."""
    return "-" if value is None else f"{value.low:.{digits}f}-{value.high:.{digits}f}"
