"""Time what a checkpoint costs a run that goes on training: the default job, with one save half-way and with none.

xent bench save                      about a minute on two cores
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Group

from xent.experiments.bench import tables
from xent.experiments.bench.engine import Built, Case
from xent.experiments.bench.estimate import estimate
from xent.experiments.bench.frame import BenchConfig, Benchmark, Plan
from xent.experiments.bench.frame import main as run
from xent.experiments.bench.record import Measured
from xent.experiments.bench.train_cases import Job, random_job, start_ours
from xent.experiments.bench.train_start import run_on
from xent.train.errors import require
from xent.train.session import SAVE_SECONDS


@dataclass(frozen=True)
class Config:
    """Time what a checkpoint costs."""

    steps: int = 2000
    """Steps a sample; the save begins half-way, and must end within it to be counted."""
    hidden: int = 256
    """Units of the hidden layer."""
    bench: BenchConfig = field(default_factory=BenchConfig)

    def __post_init__(self) -> None:
        """Check every range."""
        for name in ("steps", "hidden"):
            require(f"--{name}", getattr(self, name), 1 <= getattr(self, name) < 2**31, "from 1 to 2147483647")


def case(job: Job, name: str, saving: bool) -> Case:
    """Train on, and save half-way or not at all."""

    def build() -> Built:
        from xent.train.checkpoint import open_checkpoints, save

        started = start_ours(job)
        state = started.state
        folder = tempfile.TemporaryDirectory()
        opened = open_checkpoints(Path(folder.name), keep=2)
        checkpoints = opened.__enter__()

        def keep(state: Any) -> None:
            step = int(state.step)
            if saving and step % job.steps:  # the one half-way; the loop also offers its last state
                save(checkpoints, step, state, [], {})

        def run() -> Any:
            nonlocal state
            half = int(state.step) + job.steps // 2
            state = run_on(started, state, pause=lambda step: step == half, save=keep)
            return state

        def close() -> None:
            opened.__exit__(None, None, None)
            folder.cleanup()

        return Built(run, started.compile, close)

    return Case(name, build, job.steps)


def cases(config: Config) -> list[Case]:
    """List what to time; ratios are to the first."""
    job = random_job(hidden=config.hidden, batch_size=64, steps=config.steps, seed=config.bench.seed)
    none = case(job, "no save", False)
    return [none, case(job, "one save", True), none._replace(name="no save, again")]


def plans(config: Config) -> Iterator[Plan]:
    """List the one measurement."""
    of = {"what": "save", "hidden": config.hidden, "steps": config.steps}
    yield Plan("digits, with one save and with none", of, "float32", "step", partial(cases, config))


def says(config: Config) -> list[tuple[str, str]]:
    """What is timed."""
    return [("data", "60000 x 784 random bytes, ten labels, generated")]


def table(rows: Sequence[Measured]) -> Group:
    """Lay it out, and say what a save costs."""
    none, one = (case.seconds for case in rows[0].cases[:2])
    cost = estimate([after - before for after, before in zip(one, none, strict=True)])
    share = f"{cost.median / SAVE_SECONDS:.2%} of a run's time at the default of one save in {SAVE_SECONDS:.0f} s"
    return Group(
        tables.cases(rows),
        f"a save   {cost.median * 1e3:.0f} ms ({cost.low * 1e3:.0f} to {cost.high * 1e3:.0f})",
        f"share    {share}",
    )


BENCHMARK = Benchmark("save", __doc__, Config, says, plans, table, rounds=16)
main = partial(run, BENCHMARK)
