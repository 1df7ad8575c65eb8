"""Time what a checkpoint costs a run that goes on training: the default job, with one save half-way and with none.

xent bench save                      about a minute on two cores
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from xent.experiments.bench.engine import Built, Case, measure
from xent.experiments.bench.estimate import estimate
from xent.experiments.bench.record import refuse, table, to_record, write
from xent.experiments.bench.train_cases import random_job, run_ours, start_ours
from xent.experiments.device import device_name
from xent.experiments.flags import parse
from xent.train.errors import require
from xent.train.progress import make_console, say
from xent.train.session import SAVE_SECONDS


@dataclass(frozen=True)
class Config:
    """Time what a checkpoint costs."""

    rounds: int = 15
    """Samples of each case."""
    steps: int = 2000
    """Steps a sample; the save begins half-way, and must end within it to be counted."""
    hidden: int = 256
    """Units of the hidden layer."""
    out: Path | None = None
    """JSON file to write, which must not exist yet."""

    def __post_init__(self) -> None:
        """Check every range."""
        for name in ("rounds", "steps", "hidden"):
            require(f"--{name}", getattr(self, name), 1 <= getattr(self, name) < 2**31, "from 1 to 2147483647")


def main(arguments: Sequence[str]) -> None:
    """Measure, show a table, write the record."""
    from xent.train.checkpoint import open_checkpoints, save

    config = parse(Config, arguments, prog="xent bench save", about=__doc__)
    refuse(config.out)
    console = make_console()
    say(console, "device", f"{device_name()}, jax {jax.__version__}")
    job = random_job(hidden=config.hidden, batch_size=64, steps=config.steps, seed=0)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        checkpoints = stack.enter_context(open_checkpoints(folder, keep=2))

        def case(name: str, saving: bool) -> Case:
            def build() -> Built:
                started = start_ours(job)
                state = started.state

                def keep(state: Any) -> None:
                    step = int(state.step)
                    if saving and step % job.steps:  # the one half-way; the loop also offers its last state
                        save(checkpoints, step, state, [], {})

                def run() -> Any:
                    nonlocal state
                    half = int(state.step) + job.steps // 2
                    state = run_ours(job, started, state, pause=lambda step: step == half, save=keep)
                    return state

                return Built(run, started.compile)

            return Case(name, build, job.steps)

        cases = [case("no save", False), case("one save", True), case("no save, again", False)]
        with console.status("building") as status:
            measured = measure(cases, rounds=config.rounds, report=status.update)
    console.print(table("step", measured))
    none, one = (timing.seconds for timing in measured.timings[:2])
    cost = estimate([after - before for after, before in zip(one, none, strict=True)])
    share = cost.median / SAVE_SECONDS
    say(console, "a save", f"{cost.median * 1e3:.0f} ms ({cost.low * 1e3:.0f} to {cost.high * 1e3:.0f})")
    say(console, "share", f"{share:.2%} of a run's time at the default of one save in {SAVE_SECONDS:.0f} s")
    if config.out is not None:
        write(config.out, to_record("save", "step", dataclasses.asdict(config), measured))
        say(console, "wrote", str(config.out))
