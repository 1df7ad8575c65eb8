"""The comparison in the terminal: a row for each measurement that two machines or more have."""

from collections.abc import Sequence

from rich.table import Table

from xent.experiments.compare.joining import Joined
from xent.experiments.compare.reading import Machine
from xent.experiments.compare.speed_ups import BENCHMARKS, by_benchmark, cells, header


def table(joined: Joined, machines: Sequence[Machine]) -> Table:
    """Lay out medians a unit, and speed-ups with their intervals."""
    title = f"medians, and speed-ups to {machines[0].label}: none is claimed where the 95 % interval holds 1"
    result = Table(title=title, box=None, header_style="bold", padding=(0, 2, 0, 0), title_justify="left")
    for i, name in enumerate(header(machines)):
        result.add_column(name, justify="left" if i < 2 else "right", no_wrap=True)
    for benchmark, rows in by_benchmark(joined):
        result.add_row(f"{BENCHMARKS[benchmark][0].lower()}", style="bold")
        for row in rows:
            result.add_row(*cells(row, machines))
        result.add_section()
    return result
