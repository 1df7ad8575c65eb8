"""Why losses take logits: cross-entropy on probabilities, on clipped probabilities and on logits, far from zero.

    xent saturation                       half a minute on two CPU cores
    xent saturation --seeds 3             with mean and spread

First the numbers: value and gradient of the binary cross-entropy of an answer that is yes, for logits from -100 to 100
in float32, beside the truth. On probabilities (-y log p - (1 - y) log(1 - p), as textbooks print it) it is inf below
-88 and NaN above 17; clipped to [1e-7, 1 - 1e-7], as Keras does, it is finite, but flat and without gradient beyond 16;
on logits it is right, until at 87 it is less than the smallest normal float, which XLA takes for 0.

Then what that does to a network (64-256-10 on the built-in digits, Adam at 1e-3) that is trained with each of the three
losses, and with nothing else changed. From the usual start all learn alike. From output weights 1000 times too large,
where softmax gives 0 and 1, the loss on probabilities is NaN at every step, the clipped one has no gradient for 99 % of
the examples, and the one on logits learns on. Held-out digits that are right (`xent saturation --seeds 3`):

    start       probabilities   clipped      logits
    usual       97.3 ± 0.3 %    97.3 ± 0.3   97.3 ± 0.3
    saturated   11.2 ± 2.2 %    39 ± 13      93.2 ± 1.3

Steps with NaN gradients are skipped and counted; without that guard the weights would be NaN. `no gradient` is the
share of training examples that nothing is learnt from at the start. The loss reported is the exact one, whatever was
trained with.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from xent import losses
from xent.experiments import datasets
from xent.experiments.flags import RunConfig, identity, parse, total_steps
from xent.experiments.launch import TrainOne, launch
from xent.experiments.saturation_curves import WAYS, Way, curves, table_of
from xent.experiments.scores import Scores
from xent.models.mlp import mlp
from xent.train import data
from xent.train.errors import require
from xent.train.evaluate import make_evaluate
from xent.train.journal import read_lines
from xent.train.loop import make_call
from xent.train.metrics import Metrics, divide, weighted
from xent.train.optimizers import OptimizerConfig, make_optimizer
from xent.train.progress import say
from xent.train.session import Saving, compile_call, train
from xent.train.source import Source, array_source
from xent.train.step import Batch, Loss, TrainState, init_state, make_train_step

STARTS = ("usual", "saturated")
STEPS_PER_CALL = 100
NEVER = 2**31 - 1
"""The patience of the guard: a run of bad steps is what is to be seen here."""


@dataclass(frozen=True)
class Config:
    """Show why losses take logits, in numbers and on a network."""

    scale: float = 1000.0
    """What the output weights of the saturated start are multiplied by."""
    hidden: int = 256
    """Units of the hidden layer."""
    epochs: int = 20
    """Passes over the training data."""
    batch_size: int = 64
    """Examples a step."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        """Check every range."""
        require("--mesh", self.run.mesh, self.run.mesh is None, "left out: these small networks train on one device")
        require("--scale", self.scale, 1 <= self.scale <= 1e6, "from 1 to 1000000")
        for name in ("hidden", "batch_size", "epochs"):
            value = getattr(self, name)
            require(f"--{name.replace('_', '-')}", value, 1 <= value < 2**20, "from 1 to 1048575")


def make_loss(way: Way, apply: Callable[..., jax.Array], dtype: str) -> Loss:
    """Mean cross-entropy in one of the ways; the metrics are those of the exact loss."""

    def loss(params: Any, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, Metrics]:
        logits = apply(params, batch["image"].astype(dtype) / 127.5 - 1, key=key)
        labels, where = batch["label"], batch["where"]
        exact = losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        metrics = {"loss": weighted(exact, where), "accuracy": weighted(logits.argmax(-1) == labels, where)}
        return losses.mean(way.softmax(logits, labels), where=where), metrics

    return loss


def without_gradient(way: Way, logits: jax.Array, labels: jax.Array) -> float:
    """Of all examples, the share whose gradient is NaN, infinite or exactly zero: nothing is learnt from them."""
    gradient = jax.jit(jax.grad(lambda x: way.softmax(x, labels).sum()))(logits)
    return float((~jnp.isfinite(gradient).all(-1) | (gradient == 0).all(-1)).mean())


def folder_of(name: str, start: str) -> str:
    """Where a network's logs and checkpoints go, in the run's folder."""
    return f"{start} {name.removesuffix(' (xent)')}".replace(" ", "-")


def prepare(config: Config, console: Console) -> TrainOne:
    """Compute the curves, load the data and compile a step for each way, once for all seeds."""
    found = curves()
    console.print(table_of(found))
    images = data.load("digits", data_dir=config.run.data_dir, builtin=datasets.register("images"))
    say(
        console,
        "data",
        f"digits: {len(images.train.label)} train, {len(images.test.label)} test\n{'':9}{images.source}",
    )
    shape, classes = images.train.image.shape[1:], len(images.classes)
    build = partial(mlp, inputs=math.prod(shape), hidden=config.hidden, outputs=classes, dtype=config.run.dtype)
    steps = total_steps(config.epochs, len(images.train.label), config.batch_size)
    optimizer = make_optimizer(config.optimizer, steps)
    apply = build(jax.random.key(0)).apply
    say(console, "model", f"MLP {math.prod(shape)}-{config.hidden}-{classes}, {config.epochs} epochs, {steps} steps")

    def begin(seed: int, start: str) -> tuple[TrainState, Source]:
        weights, order, noise = jax.random.split(jax.random.key(seed), 3)
        params = build(weights).params
        if start == "saturated":
            output = {**params["output"], "kernel": params["output"]["kernel"] * config.scale}
            params = {**params, "output": output}
        return init_state(params, optimizer, noise), array_source(images.train._asdict(), config.batch_size, order)

    evaluate = make_evaluate(make_loss(WAYS["logits (xent)"], apply, config.run.dtype), images.validation._asdict())
    test = make_evaluate(make_loss(WAYS["logits (xent)"], apply, config.run.dtype), images.test._asdict())

    @cache
    def compiled(name: str) -> Any:
        state, source = begin(config.run.seed, STARTS[0])
        step = make_train_step(make_loss(WAYS[name], apply, config.run.dtype), optimizer)
        return compile_call(make_call(step, source, NEVER), state, source, evaluate, console)

    def train_one(config: Config, folder: Path) -> Scores:
        scores: dict[str, dict[str, float]] = {}
        for start in STARTS:
            for name, way in WAYS.items():
                state, source = begin(config.run.seed, start)
                pixels = jnp.asarray(images.train.image, config.run.dtype) / 127.5 - 1
                at_start = without_gradient(way, apply(state.params, pixels), jnp.asarray(images.train.label))
                say(console, "train", f"{name}, {start} start")
                inside = folder / folder_of(name, start)
                inside.mkdir(exist_ok=True)
                state = train(
                    partial(compiled, name), state, source, epochs=config.epochs, steps_per_call=STEPS_PER_CALL,
                    patience=NEVER, evaluate=evaluate, folder=inside, flags=identity(config), console=console,
                    saving=Saving(config.run.save_every, config.run.keep),
                )  # fmt: skip
                scores[f"{name}, {start}"] = {
                    **divide(test(state.params)),
                    "no gradient": at_start,
                    "skipped": int(state.skipped_steps) / steps,
                }
        from xent.experiments import saturation_report as report  # matplotlib: not for a run that ends at a bad flag

        logs = {start: {name: read_lines(folder / folder_of(name, start) / "metrics.jsonl") for name in WAYS}
                for start in STARTS}  # fmt: skip
        report.write_curves(found, folder)
        report.write_training(logs, folder)
        report.draw(found, logs, folder / "saturation.png")
        return scores

    return train_one


def main(arguments: Sequence[str], resumed: Path | None = None) -> None:
    """Run as the command line says, or continue the run in `resumed`, whose flags these are."""
    launch("saturation", parse(Config, arguments, prog="xent saturation", about=__doc__), prepare, resumed)


if __name__ == "__main__":
    from xent.experiments.__main__ import main as xent

    xent(["saturation", *sys.argv[1:]])
