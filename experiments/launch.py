"""What every experiment does around its own work: device, folder, one seed or several, summary."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from xent.experiments.device import device_name, use_device
from xent.experiments.flags import RunConfig
from xent.experiments.folder import create, refuse_existing, write_config
from xent.experiments.scores import Scores, read_scores, spread, table, write_scores, write_spread
from xent.train.interrupt import Interrupted
from xent.train.loop import Diverged

TrainOne = Callable[[Any, Path], Scores]
"""`train_one(config, folder)`: one seed, from the newest checkpoint in the folder if there is one."""


def launch(
    experiment: str, config: Any, prepare: Callable[[Any, Console], TrainOne], resumed: Path | None = None
) -> None:
    """Run an experiment: one seed in a folder of its own, or several, each in a folder of its own inside it.

    Args:
      experiment: its name.
      config: its flags; `config.run` are the shared ones.
      prepare: does once what all seeds share (data, compilation) and gives the function that trains one.
      resumed: the folder of a run to continue, instead of a new one.
    """
    run: RunConfig = config.run
    console = Console(highlight=False, soft_wrap=True)
    use_device(run)
    if resumed is None:
        refuse_existing(run.out)
    say(console, "device", f"{device_name()}, jax {jax.__version__}, {run.dtype}")
    train_one = prepare(config, console)
    folder = resumed or create(run.out, experiment)  # only now: a run that could not begin leaves no folder behind
    if resumed is None:
        write_config(folder, experiment, config)
    say(console, "run", str(folder))
    with _endings(folder):
        if run.seeds == 1:
            scores = train_one(config, folder)
            write_scores(folder / "results.csv", scores)
            console.print(table(scores))
        else:
            _several(experiment, config, train_one, folder, console)
    inside = sorted(file.name + "/" * file.is_dir() for file in folder.iterdir())
    say(console, "wrote", f"{folder}: {', '.join(inside)}")


@contextlib.contextmanager
def _endings(folder: Path) -> Iterator[None]:
    """Turn the two ways a run can end early into a line and an exit code."""
    try:
        yield
    except Interrupted as stop:
        print(f"xent: {stop} and saved; continue with: xent resume {folder}", file=sys.stderr)
        sys.exit(stop.code)
    except Diverged as error:
        advice = "lower --learning-rate, set --clip, or look at the data"
        print(f"xent: {error}: {advice}; {folder} keeps the log", file=sys.stderr)
        sys.exit(1)


def _several(experiment: str, config: Any, train_one: TrainOne, folder: Path, console: Console) -> None:
    every = []
    for seed in range(config.run.seed, config.run.seed + config.run.seeds):
        inside = folder / f"seed-{seed}"
        if not (inside / "results.csv").exists():  # a resumed run keeps the seeds that are done
            say(console, "seed", str(seed))
            alone = dataclasses.replace(config, run=dataclasses.replace(config.run, seed=seed, seeds=1, out=None))
            if not (inside / "config.json").exists():
                inside.mkdir(exist_ok=True)
                write_config(inside, experiment, alone)
            write_scores(inside / "results.csv", train_one(alone, inside))
        every.append(read_scores(inside / "results.csv"))
    total = spread(every)
    write_spread(folder / "results.csv", total)
    console.print(table(total, f"held out, {len(every)} seeds"))


def say(console: Console, label: str, text: str) -> None:
    """Print a labelled line."""
    console.print(f"[bold]{label:<9}[/]{text}")
