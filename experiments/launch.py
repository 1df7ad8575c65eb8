"""What every experiment does around its own work: device, folder, one seed or several, summary, endings."""

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from xent.experiments.device import device_name, use_mesh
from xent.experiments.flags import RunConfig, identity
from xent.experiments.folder import (
    begun_elsewhere,
    create,
    only_writer,
    private_copy,
    read_config,
    refuse_existing,
    refuse_unwritable,
)
from xent.experiments.scores import Scores, read_scores, spread, table, write_scores, write_spread
from xent.train.errors import UsageError, require
from xent.train.interrupt import Interrupted, advising
from xent.train.loop import Diverged
from xent.train.processes import from_first, is_first
from xent.train.progress import make_console, say

TrainOne = Callable[[Any, Path], Scores]
"""`train_one(config, folder)`: one seed, from the newest checkpoint in the folder if there is one."""

RESULTS = "results.csv"
"""Written last, and whole: a run's folder that has it is finished."""


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
    if resumed is None:
        resumed = _to_continue(experiment, config)
    if resumed and read_scores(resumed / RESULTS):
        text = f"{resumed} is finished: read {resumed / RESULTS}, or repeat it with xent rerun {resumed}"
        make_console().print(text)
        return
    with contextlib.ExitStack() as held:
        if not resumed:
            refuse_unwritable(run.out)
        use_mesh(run)
        if resumed:
            held.enter_context(_held(resumed))
        console = make_console(quiet=not is_first())
        say(console, "device", f"{device_name()}, jax {jax.__version__}, {run.dtype}")
        if resumed and (other := begun_elsewhere(read_config(resumed))):
            say(console, "note", f"begun with {other}: the last bits may differ from an uninterrupted run's")
        with _memory():
            train_one = prepare(config, console)
            # Only now: what cannot begin leaves none behind.
            folder = Path(from_first(lambda: str(resumed or create(run.out, experiment, config))))
            if not resumed:
                held.enter_context(_held(folder))
            say(console, "run", str(folder))
            mine = folder if is_first() else held.enter_context(private_copy(folder))
            _train(experiment, config, train_one, mine, console)
    inside = sorted(file.name + "/" * file.is_dir() for file in folder.iterdir() if not file.name.startswith("."))
    say(console, "wrote", f"{folder}: {', '.join(inside)}")


def _to_continue(experiment: str, config: Any) -> Path | None:
    """The folder of the run that `--resume auto` continues, if there is one."""
    out: Path | None = config.run.out
    if config.run.resume == "never":
        refuse_existing(out)
        return None
    require("--resume", "auto", out is not None, "given together with --out, the folder to start or continue")
    if out is None or not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    _same_run(out, experiment, config)
    return out


def _same_run(folder: Path, experiment: str, config: Any) -> None:
    """Refuse to continue a run as another one."""
    found = read_config(folder)
    before, now = identity(found["flags"]), identity(config)
    if found["experiment"] != experiment or before != now:
        other = ", ".join(sorted({*before} - {*now})) or found["experiment"]
        raise UsageError(f"{folder} holds a run with other flags ({other}): use those, or name a new folder")


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Be the only writer of a folder, and turn the ways a run can end early into a line and an exit code."""
    advice = f"continue with: xent resume {shlex.quote(str(folder))}"
    with only_writer(folder) if is_first() else contextlib.nullcontext(), advising(advice):
        try:
            yield
        except Interrupted as error:
            sys.stderr.write(f"xent: {error}; {advice}\n")
            sys.exit(error.code)
        except Diverged as error:
            again = f"xent rerun {shlex.quote(str(folder))} --learning-rate ..."
            sys.stderr.write(f"xent: {error}; look at the data, or lower the learning rate, or set --clip: {again}\n")
            sys.exit(1)


@contextlib.contextmanager
def _memory() -> Iterator[None]:
    """Turn what XLA says about too little memory into a line."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        text = str(error).splitlines()[0] if str(error) else "MemoryError"
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in text:
            raise
        raise UsageError(
            f"not enough memory on {device_name()} ({text[:150]}): make the model or the batch smaller"
        ) from None


def _train(experiment: str, config: Any, train_one: TrainOne, folder: Path, console: Console) -> None:
    if config.run.seeds == 1:
        scores = train_one(config, folder)
        write_scores(folder / RESULTS, scores)
        console.print(table(scores))
        return
    every = []
    for seed in range(config.run.seed, config.run.seed + config.run.seeds):
        inside = folder / f"seed-{seed}"
        run = dataclasses.replace(config.run, seed=seed, seeds=1, out=None, resume="never")
        alone = dataclasses.replace(config, run=run)
        if inside.exists():
            _same_run(inside, experiment, alone)
        else:
            create(inside, experiment, alone)
        scores = read_scores(inside / RESULTS)  # a resumed run keeps the seeds that are done
        if not scores:
            say(console, "seed", str(seed))
            with only_writer(inside):
                scores = train_one(alone, inside)
                write_scores(inside / RESULTS, scores)
        every.append(scores)
    total = spread(every)
    write_spread(folder / RESULTS, total)
    console.print(table(total, f"held out, {len(every)} seeds"))
