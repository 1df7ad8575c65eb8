"""What every experiment does around its own work: device, folder, one seed or several, summary, endings."""

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from rich.console import Console

from xent.experiments.device import device_name, use_device
from xent.experiments.flags import RunConfig, to_arguments
from xent.experiments.folder import create, only_writer, read_config, refuse_existing
from xent.experiments.scores import Scores, read_scores, spread, table, write_scores, write_spread
from xent.experiments.versions import differences
from xent.train.errors import UsageError, require
from xent.train.interrupt import SIGNALS, Interrupted
from xent.train.loop import Diverged

TrainOne = Callable[[Any, Path], Scores]
"""`train_one(config, folder)`: one seed, from the newest checkpoint in the folder if there is one."""

_MAY_DIFFER = ("--out=", "--resume=", "--keep=", "--save-every=", "--platform=", "--data-dir=")


def launch(
    experiment: str, config: Any, prepare: Callable[[Any, Console], TrainOne], resumed: Path | None = None
) -> None:
    """Run an experiment: one seed in a folder of its own, or several, each in a folder of its own inside it.

    Args:
      experiment: its name.
      config: its flags; `config.run` are the shared ones.
      prepare: does once what all seeds share (data, the compiled step) and gives the function that trains one.
      resumed: the folder of a run to continue, instead of a new one.
    """
    run: RunConfig = config.run
    console = Console(highlight=False, soft_wrap=True)
    if resumed is None:
        resumed = _to_continue(experiment, config)
    if resumed and (resumed / "results.csv").exists():
        console.print(f"{resumed} is finished: read {resumed / 'results.csv'}, or repeat it with xent rerun {resumed}")
        return
    use_device(run)
    say(console, "device", f"{device_name()}, jax {jax.__version__}, {run.dtype}")
    if resumed and (other := differences(read_config(resumed)["versions"])):
        say(console, "note", f"begun with {other}: the last bits may differ from an uninterrupted run's")
    train_one = prepare(config, console)
    folder = resumed or create(run.out, experiment, config)  # only now: what could not begin leaves no folder behind
    say(console, "run", str(folder))
    with only_writer(folder), _endings(folder):
        if run.seeds == 1:
            scores = train_one(config, folder)
            write_scores(folder / "results.csv", scores)
            console.print(table(scores))
        else:
            _several(experiment, config, train_one, folder, console)
    inside = sorted(file.name + "/" * file.is_dir() for file in folder.iterdir() if not file.name.startswith("."))
    say(console, "wrote", f"{folder}: {', '.join(inside)}")


def _to_continue(experiment: str, config: Any) -> Path | None:
    """The folder of the run that `--resume auto` continues, if there is one."""
    out: Path | None = config.run.out
    if config.run.resume == "never":
        refuse_existing(out)
        return None
    require("--resume", "auto", out is not None, "given together with --out, the folder to start or continue")
    if out is None or not out.exists():
        return None
    found = read_config(out)
    before, now = ({flag for flag in to_arguments(flags) if not flag.startswith(_MAY_DIFFER)}
                   for flags in (found["flags"], config))  # fmt: skip
    if found["experiment"] != experiment or before != now:
        other = ", ".join(sorted(before - now)) or found["experiment"]
        raise UsageError(f"--out {out} holds a run with other flags ({other}): use those, or name a new folder")
    return out


@contextlib.contextmanager
def _endings(folder: Path) -> Iterator[None]:
    """Turn the ways a run can end early into a line and an exit code.

    While it trains, `xent.train.session` catches the signals and saves; here, before and after, they end the run,
    whose folder is as complete as it was.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        raise Interrupted(number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    except Interrupted as error:
        print(f"xent: {error}; continue with: xent resume {folder}", file=sys.stderr)
        sys.exit(error.code)
    except Diverged as error:
        print(f"xent: {error}; lower --learning-rate, set --clip, or look at the data", file=sys.stderr)
        sys.exit(1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _several(experiment: str, config: Any, train_one: TrainOne, folder: Path, console: Console) -> None:
    every = []
    for seed in range(config.run.seed, config.run.seed + config.run.seeds):
        inside = folder / f"seed-{seed}"
        if not (inside / "results.csv").exists():  # a resumed run keeps the seeds that are done
            say(console, "seed", str(seed))
            run = dataclasses.replace(config.run, seed=seed, seeds=1, out=None, resume="never")
            alone = dataclasses.replace(config, run=run)
            if not inside.exists():
                create(inside, experiment, alone)
            with only_writer(inside):
                write_scores(inside / "results.csv", train_one(alone, inside))
        every.append(read_scores(inside / "results.csv"))
    total = spread(every)
    write_spread(folder / "results.csv", total)
    console.print(table(total, f"held out, {len(every)} seeds"))


def say(console: Console, label: str, text: str) -> None:
    """Print a labelled line."""
    console.print(f"[bold]{label:<9}[/]{text}")
