"""What all benchmarks share: flags, the loop over measurements, the file that is written as it goes, the last lines.

A benchmark is a `Benchmark`: its flags, the measurements that they ask for, and a table for people.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
from rich.console import Console, RenderableType

from xent.experiments.bench import store
from xent.experiments.bench.engine import Case, measure
from xent.experiments.bench.record import Measured, cores, environment, from_json
from xent.experiments.device import device_name, use_device
from xent.experiments.flags import DeviceConfig, parse
from xent.train.errors import require
from xent.train.progress import make_console, say

QUICK_ROUNDS = 7
"""The fewest whose interval, all of them, holds the median in 98 of 100 cases."""


@dataclass(frozen=True)
class BenchConfig:
    """How to measure; the same for every benchmark."""

    rounds: int | None = None
    """Samples of each case; by default 11, of training 22, and 7 with --quick."""
    quick: bool = False
    """Fewer and smaller measurements, of less weight."""
    seed: int = 0
    """Seed of all arrays and of the order of the cases."""
    out: Path | None = None
    """JSON file to write, after each measurement: a new one, or one that this same command began and did not finish."""
    device: DeviceConfig = field(default_factory=DeviceConfig)

    def __post_init__(self) -> None:
        """Check every range."""
        require("--rounds", self.rounds, self.rounds is None or self.rounds >= 1, "1 or more")
        require("--seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 4294967295")


class Config(Protocol):
    """The flags of a benchmark: a frozen dataclass."""

    @property
    def bench(self) -> BenchConfig:
        """Those that it shares with every other."""
        ...


class Plan(NamedTuple):
    """A measurement to make; see `Measured`."""

    name: str
    of: dict[str, Any]
    dtype: str
    unit: str
    cases: Callable[[], Sequence[Case]]
    """Makes what is to be timed; ratios are to the first, and a case with that one's `build` is the null test."""
    curve: Callable[[], Sequence[float]] | None = None
    """Our loss of each step."""


class Benchmark(NamedTuple):
    """All that one benchmark has of its own."""

    name: str
    about: str | None
    config: type[Any]
    says: Callable[[Any], Iterable[tuple[str, str]]]
    """Labelled lines about the data, and about what cannot be measured here. It may raise a UsageError."""
    plans: Callable[[Any], Iterable[Plan]]
    """From the flags; the platform is settled when it is called."""
    table: Callable[[Sequence[Measured]], RenderableType]
    rounds: int = 11


def main(benchmark: Benchmark, arguments: Sequence[str]) -> None:
    """Run one benchmark as the command line says."""
    config = parse(benchmark.config, arguments, prog=f"xent bench {benchmark.name}", about=benchmark.about)
    run(benchmark.name, config, [(benchmark, config)])


def run(name: str, config: Config, parts: Sequence[tuple[Benchmark, Any]]) -> None:
    """Measure what is not measured yet, show tables, write the file.

    Args:
      name: of the whole.
      config: the flags of the whole.
      parts: benchmarks, each with flags of its own.

    Raises:
      UsageError: if the file exists and is no beginning of this, or cannot be written.
    """
    how = config.bench
    if how.out is not None:
        store.unfinished(how.out)  # refused before anything is loaded
    use_device(how.device)
    console = make_console()
    console.width = max(console.width, 200)  # a table cut off says nothing
    say(console, "device", f"{device_name()}, jax {jax.__version__}, {cores()} threads")
    record = (
        None
        if how.out is None
        else store.begin(how.out, name, _flags(config), environment(how.device.matmul_precision))
    )
    rows = [from_json(entry) for entry in record["measurements"]] if record else []
    if rows:
        say(console, "goes on", f"{how.out} has {len(rows)} measurements already")

    def keep(row: Measured) -> None:
        nonlocal record
        rows.append(row)
        if how.out is not None and record is not None:
            record = store.add(how.out, record, row)

    said: set[tuple[str, str]] = set()
    for benchmark, own in parts:
        for line in benchmark.says(own):
            if line not in said:
                say(console, *line)
            said.add(line)
        before = {row.name: row for row in rows if row.benchmark == benchmark.name}
        found = _measure(benchmark, own, before, keep, console)
        console.print(benchmark.table(found))
    if how.out is not None and record is not None:
        store.write(how.out, {**record, "finished": True})
    _end(console, name, how, rows)


def _measure(
    benchmark: Benchmark,
    config: Config,
    before: dict[str, Measured],
    keep: Callable[[Measured], None],
    console: Console,
) -> list[Measured]:
    """Make the measurements of a benchmark that were not made before; give all of them, in order."""
    how, found = config.bench, []
    rounds = how.rounds or (QUICK_ROUNDS if how.quick else benchmark.rounds)
    count = sum(1 for _ in benchmark.plans(config))
    with console.status("drawing") as status:

        def show(which: str, text: str) -> None:
            status.update(f"{which}: {text}")

        for number, plan in enumerate(benchmark.plans(config)):
            row = before.get(plan.name)
            if row is None:
                report = partial(show, f"{benchmark.name} {number + 1} of {count}, {plan.name}")
                report("drawing")
                row = _one(benchmark.name, plan, rounds, how.seed, report)
                keep(row)
            found.append(row)
    return found


def _one(benchmark: str, plan: Plan, rounds: int, seed: int, report: Callable[[str], None]) -> Measured:
    cases = plan.cases()
    timings, order = measure(cases, rounds=rounds, seed=f"{seed} {plan.name}", report=report)
    curve = None if plan.curve is None else tuple(plan.curve())
    first, *rest = cases
    null = next((case.name for case in rest if case.build is first.build), None)
    return Measured(benchmark, plan.name, plan.of, plan.dtype, plan.unit, first.name, null, order, curve, timings)


def _flags(config: Config) -> dict[str, Any]:
    """Those that decide what is measured."""
    flags = dataclasses.asdict(config)  # type: ignore[call-overload]  # a protocol cannot say that it is a dataclass
    flags["bench"].pop("out")
    return flags


def _end(console: Console, name: str, how: BenchConfig, rows: Sequence[Measured]) -> None:
    nulls = [found for row in rows if (found := row.ratio(row.null)) is not None]
    if nulls:
        held = sum(null.low <= 1 <= null.high for null in nulls)
        say(
            console, "noise", f"the interval of the first case to itself holds 1 in {held} of {len(nulls)} measurements"
        )
    if how.out is None:
        quick = " --quick" * how.quick
        say(console, "next", f"xent bench {name}{quick} --out cpu.json, and then xent compare cpu.json OTHER.json")
    else:
        say(console, "wrote", str(how.out))
        say(console, "next", f"xent compare {how.out} OTHER.json")
