"""How an experiment trains: its step is compiled once for all seeds, and each seed runs in a folder of its own."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from xent.experiments.flags import identity
from xent.train.loop import Call, make_call
from xent.train.metrics import Metrics
from xent.train.session import Saving, compile_call, train
from xent.train.source import Source
from xent.train.step import Step, TrainState

Start = Callable[[int], tuple[TrainState, Source]]
"""`start(seed)`: the state before the first step, on its devices, and where the batches come from."""


class Training(NamedTuple):
    """An experiment's training."""

    run: Callable[[Any, Path], TrainState]
    """`run(config, folder)`: the state after the last step of `config.run.seed`; it goes on from a checkpoint."""
    compiled: Callable[[], Call]
    """The compiled call; the first to ask has it compiled."""


def prepare_training(
    config: Any,
    console: Console,
    *,
    start: Start,
    step: Step,
    evaluate: Callable[[Any], Metrics],
    epochs: int,
) -> Training:
    """Make an experiment's training of its parts.

    Args:
      config: the flags. Of them: `steps_per_call`, `patience` and `run`.
      console: where progress is shown.
      start: how a seed starts; of another seed, shapes and shardings are the same.
      step: one step, not jitted.
      evaluate: metrics of parameters on validation data.
      epochs: passes over the data.
    """
    state, source = start(config.run.seed)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    call = make_call(step, source, config.patience, single=config.steps_per_call == 1, shardings=shardings)
    compiled = cache(lambda: compile_call(call, state, source, evaluate, console))

    def run(config: Any, folder: Path) -> TrainState:
        state, source = start(config.run.seed)
        return train(
            compiled, state, source, epochs=epochs, steps_per_call=config.steps_per_call, patience=config.patience,
            evaluate=evaluate, folder=folder, flags=identity(config), console=console,
            saving=Saving(config.run.save_every, config.run.keep),
        )  # fmt: skip

    return Training(run, compiled)
