"""Speech recognition: characters from log-mel frames under the CTC loss, which needs nobody to say when what was said.

    xent speech                                     strings of digits in 63 voices, synthesised by espeak-ng
    xent speech --model deep_speech                 Deep Speech's five layers, one of them recurrent
    xent speech --dataset librispeech --stream      any TFDS set of samples and texts: people, reading books

The job: two convolutions over time, a GRU in both directions, 128 units, AdamW at 3e-3 falling along a cosine, batches
of 32, ten epochs. In training, spectra are stretched along the mel scale to voices that nobody has. Held out are 16
whole voices, 480 clips of one to five digits; a beam search of CTC probabilities reads them, without a language model
or a list of words. Sizes and strengths were chosen on 10 other voices; that spectra are stretched at all came after a
first run of two epochs had been scored on the 16. alignments.png shows when each character is heard.

    held out (--seeds 5)                  wrong words       wrong characters
    conv + BiGRU, beam of 8               5.97 ± 0.37 %     2.37 ± 0.18 %
    the same, best path                   6.45 ± 0.55 %     2.51 ± 0.20 %
    Deep Speech, beam of 8                6.61 ± 0.88 %     3.05 ± 0.39 %
    nearest templates, warped in time     38.5 %            33.9 %

Nine in ten of the errors are of three voices that are alike (voices.png of `xent speech`): of these a third of the
words, of the other thirteen 0.5 %. `xent speech` takes 2 minutes 7 on two cores of an AMD EPYC, Deep Speech 1:17.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from rich.console import Console

from xent import losses
from xent.experiments.device import mesh_of, require_memory
from xent.experiments.flags import RunConfig, parse, require_ranges, total_steps
from xent.experiments.launch import TrainOne, launch
from xent.experiments.scores import Scores
from xent.experiments.speech_augment import other_voices
from xent.experiments.speech_data import CLASSES, STRIDE, Data, Part, load
from xent.experiments.speech_finish import Heard, best_path, finish
from xent.experiments.speech_scores import errors
from xent.experiments.speech_templates import score
from xent.experiments.training import prepare_training
from xent.models.conv_gru import conv_gru
from xent.models.deep_speech import deep_speech
from xent.models.frames import output_lengths, there
from xent.models.functional import Apply, Model, outline
from xent.train.errors import require
from xent.train.evaluate import make_predict
from xent.train.metrics import Metrics
from xent.train.optimizers import OptimizerConfig, make_optimizer
from xent.train.progress import say
from xent.train.sharding import Rules, place, state_shardings
from xent.train.source import Source
from xent.train.step import Batch, Loss, TrainState, init_state, make_train_step

RULES: Rules = ()
"""Every device of a mesh holds all parameters."""
EVALUATED_FRAMES = 2**14
"""A call and a device, in whole clips."""


@dataclass(frozen=True)
class Config:
    """Train a network to write down what is said."""

    model: Literal["conv_gru", "deep_speech"] = "conv_gru"
    """Convolutions and a GRU in both directions, or Deep Speech's five layers, of which one is recurrent."""
    units: int = 128
    """Of each layer."""
    layers: int = 1
    """Recurrent layers of conv_gru."""
    dropout: float = 0.1
    """Share of hidden units that are dropped in training."""
    warp: float = 0.2
    """By how much of their width spectra are stretched or squeezed in training, to voices that nobody has; 0: not."""
    mask: int = 4
    """Neighbouring mel bands that are silenced in training, at most."""
    dataset: str = "digit_strings"
    """The built-in strings of digits, synthesised by espeak-ng, or a TFDS set of samples and texts: librispeech, ..."""
    bands: int = 40
    """Of the mel scale, that a frame's energies are added up in."""
    longest: float = 36.0
    """Seconds that no clip may exceed; streamed ones are padded to it."""
    stream: bool = False
    """Read the training clips as they are needed, for sets that do not fit in memory; held-out clips must."""
    beam: int = 8
    """Prefixes that the search for the likeliest transcript keeps."""
    epochs: int = 10
    """Passes over the training data."""
    batch_size: int = 32
    """Clips a step."""
    steps_per_call: int = 1
    """Steps inside one jitted call; the log has a line a call. On a CPU, convolutions are slow in more than one."""
    patience: int = 20
    """Steps in a row with NaN or infinite gradients that end the run; fewer are skipped and counted."""
    baselines: bool = True
    """Score templates, too, where there are clips of one word."""
    optimizer: OptimizerConfig = field(
        default_factory=partial(
            OptimizerConfig, optimizer="adamw", learning_rate=3e-3, schedule="cosine", warmup_steps=50, clip=1.0
        )
    )
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        """Check every range."""
        require("--bands", self.bands, 1 <= self.bands <= 128, "from 1 to 128")
        require("--beam", self.beam, 1 <= self.beam < 2**31, "from 1 to 2147483647")
        require_ranges(self)
        require("--warp", self.warp, 0 <= self.warp < 1, "from 0 to below 1")
        require("--mask", self.mask, 0 <= self.mask < self.bands, f"from 0 to below the --bands {self.bands}")
        require("--longest", self.longest, 0 < self.longest <= 3600, "above 0, at most 3600 seconds")
        single = self.steps_per_call == 1
        require("--steps-per-call", self.steps_per_call, single or not self.stream, "1 together with --stream")


def model_of(config: Config) -> Callable[[jax.Array], Model]:
    """The network that the flags describe, by the key of its weights."""
    named: dict[str, Any] = {
        "features": config.bands, "outputs": CLASSES, "units": config.units, "dropout": config.dropout,
        "dtype": config.run.dtype,
    }  # fmt: skip
    if config.model == "deep_speech":
        return partial(deep_speech, stride=STRIDE, **named)
    return partial(conv_gru, strides=(STRIDE, 1), maps=config.units, layers=config.layers, **named)


def logits_of(apply: Apply, params: Any, batch: Batch, key: jax.Array | None = None) -> jax.Array:
    """Of each output, logits of blank and characters, float32 `[batch, outputs, 1 + characters]`."""
    return apply(params, batch["features"], batch["frames"], key=key).astype(jnp.float32)


def nats_of(logits: jax.Array, batch: Batch) -> jax.Array:
    """CTC loss of each clip, of its whole transcript, float32 `[batch]`."""
    frames_are_padding = ~there(output_lengths(batch["frames"], STRIDE), logits.shape[1])
    labels_are_padding = ~there(batch["characters"], batch["labels"].shape[1])
    return losses.ctc_loss(logits, frames_are_padding, batch["labels"], labels_are_padding)


def make_loss(config: Config, apply: Apply) -> Loss:
    """CTC loss, nats a character of all transcripts together; voices are varied where there is a key, in training."""

    def loss(params: Any, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, Metrics]:
        if key is not None:
            key, voice = jax.random.split(key)
            features = other_voices(voice, batch["features"], warp=config.warp, mask=config.mask)
            batch = batch | {"features": features}
        values = nats_of(logits_of(apply, params, batch, key), batch)
        nats = losses.sum(values, where=batch["where"])
        characters = jnp.where(batch["where"], batch["characters"], 0).sum(dtype=jnp.float32)
        return nats / characters, {"loss": (nats, characters)}

    return loss


def load_clips(config: Config, console: Console) -> Data:
    """Load the clips that the flags name."""
    return load(
        config.dataset, console, bands=config.bands, longest=config.longest, stream=config.stream,
        data_dir=config.run.data_dir,
    )  # fmt: skip


def prepare(config: Config, console: Console) -> TrainOne:
    """Load the data and compile the step once for all seeds; give the function that trains one."""
    data = load_clips(config, console)
    build = model_of(config)
    apply, shapes = outline(build)
    require_memory(shapes, copies=4)
    steps = total_steps(config.epochs, data.examples, config.batch_size)
    optimizer, mesh = make_optimizer(config.optimizer, steps), mesh_of(config.run, RULES)
    loss = make_loss(config, apply)

    def start(seed: int) -> tuple[TrainState, Source]:
        weights, order, noise = jax.random.split(jax.random.key(seed), 3)
        state = init_state(build(weights).params, optimizer, noise)
        return place(state, state_shardings(state, mesh, RULES)), data.source(config.batch_size, order, mesh)

    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    say(console, "model", f"{config.model}, {count:,} parameters, epochs: {config.epochs}")

    hear_validation, hear_test = (hearing(apply, part, mesh) for part in (data.validation, data.test))

    def evaluate(params: Any) -> Metrics:
        heard = hear_validation(params)
        return heard.loss(data.validation) | errors(data.validation.texts, best_path(heard, data.validation))

    step = make_train_step(loss, optimizer)
    training = prepare_training(config, console, start=start, step=step, evaluate=evaluate, epochs=config.epochs)
    templates = cache(lambda: nearest_templates(config, data))  # the same for all seeds

    def train_one(config: Config, folder: Path) -> Scores:
        state = training.run(config, folder)
        scores = finish(hear_test(state.params), data.test, config.beam, folder)
        return {**scores, **templates()}

    return train_one


def hearing(apply: Apply, part: Part, mesh: Mesh) -> Callable[[Any], Heard]:
    """Make `hear(params)`: what is heard in all clips of a part."""

    def hear(params: Any, batch: Batch) -> Heard:
        logits = logits_of(apply, params, batch)
        return Heard(jax.nn.log_softmax(logits), nats_of(logits, batch))

    some = max(1, EVALUATED_FRAMES // part.arrays["features"].shape[1])
    return make_predict(hear, part.arrays, mesh, batch_size=some)


def nearest_templates(config: Config, data: Data) -> Scores:
    """Error rates of templates that are warped in time, where there are clips of one word to make some of."""
    if not config.baselines or data.train is None:
        return {}
    found = score(data.train, data.validation, data.test)
    return {"nearest templates": found} if found else {}


def main(arguments: Sequence[str], resumed: Path | None = None) -> None:
    """Train as the command line says, or continue the run in `resumed`, whose flags these are."""
    launch("speech", parse(Config, arguments, prog="xent speech", about=__doc__), prepare, resumed)


if __name__ == "__main__":
    from xent.experiments.__main__ import main as xent

    xent(["speech", *sys.argv[1:]])
