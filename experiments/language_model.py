"""A language model: a decoder-only Transformer learns the next byte-pair token, its logits never held.

    xent language_model                                the standard library's docstrings: 1.8 MB, English about Python
    xent language_model --dataset lm1b --epochs 1      any TFDS set with a text feature
    xent language_model --dataset ./texts              a folder of text files
    xent language_model --mesh data=4,model=2          eight devices: batches in four parts, the vocabulary in two

The job: two layers of 128 units over 16384 byte-pair tokens that the training text alone decides on, three passes over
361,228 of them in windows of 128. Documents follow one another with an end of text between; windows begin anywhere,
attention reaches over the ends, and the first token of a document is a target like any other. Held out are whole
packages: 37,761 tokens of 137,318 bytes, each scored once, after at least 64 that the model sees, but for the first 64.
The n-gram model beside it, modified Kneser-Ney of order five, reads the same stream. Ends of text are paid for and have
no bytes.

    held out (--seeds 5, Python 3.11.7)   nats a token    perplexity   bits per byte   next token right
    this Transformer                      5.537 ± 0.019   254 ± 5      2.197 ± 0.007   20.1 ± 0.3 %
    Kneser-Ney, 5 tokens                  5.846           346          2.319
    unigram                               7.096           1207         2.815

The n-grams stay ahead on words that came less than four times (comparison.png). The loss goes over the head in chunks:
a step takes 61 MiB besides state and batch, 117 with its logits held (--no-fused). All of one seed took 4 minutes 38
on two cores of an AMD EPYC.
Sizes, learning rate, batch and dropout were chosen on the validation packages.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from xent import losses
from xent.experiments.device import mesh_of, require_memory
from xent.experiments.flags import RunConfig, parse, require_ranges, total_steps
from xent.experiments.language_model_finish import finish
from xent.experiments.language_model_sample import sample
from xent.experiments.language_model_text import load
from xent.experiments.launch import TrainOne, launch
from xent.experiments.scores import Scores
from xent.experiments.training import prepare_training
from xent.models.functional import Apply, Model, outline
from xent.models.transformer import head_of, partitions, transformer
from xent.train import tokens
from xent.train.errors import require
from xent.train.evaluate import make_evaluate, make_predict
from xent.train.loop import make_call
from xent.train.metrics import Metrics, weighted
from xent.train.optimizers import OptimizerConfig, make_optimizer
from xent.train.progress import say
from xent.train.sharding import split, state_shardings
from xent.train.source import Source, array_source
from xent.train.step import Batch, Loss, Step, TrainState, init_state, make_train_step
from xent.train.tokens import windows

EVALUATED_TOKENS = 8192
"""A call and a device, in whole windows."""


@dataclass(frozen=True)
class Config:
    """Train a decoder-only Transformer on text."""

    dataset: str = "docstrings"
    """The built-in docstrings, any TFDS set with a text feature (lm1b, ...), or a folder of text files."""
    documents: int | None = None
    """Use only so many training documents, the first ones; not given: all."""
    vocabulary: int = 16384
    """Byte-pair tokens, learnt from the training text."""
    context: int = 128
    """Tokens that the model sees at once."""
    units: int = 128
    """Of the hidden states."""
    layers: int = 2
    """Blocks of attention and MLP."""
    heads: int = 4
    """Of attention; each has units / heads units."""
    dropout: float = 0.1
    """Share of the embedding's and of each branch's outputs that is dropped in training."""
    tied: bool = True
    """Use the embedding as the head, too."""
    fused: bool = True
    """Take the loss over the head in chunks, whose logits are never held together."""
    recompute: bool = False
    """In a gradient keep only what goes into each block and compute the rest again: less memory, a third more time."""
    epochs: int = 3
    """Passes over the training data."""
    batch_size: int = 4
    """Sequences a step."""
    steps_per_call: int = 50
    """Steps inside one jitted call; the log has a line a call."""
    patience: int = 20
    """Steps in a row with NaN or infinite gradients that end the run; fewer are skipped and counted."""
    fully_sharded: bool = False
    """Split every matrix over the mesh's data axis, too, and gather it where it is used."""
    prompt: str = "Return a list of"
    """What the sampled paragraph begins with."""
    sampled: int = 120
    """Tokens to sample after it."""
    temperature: float = 0.7
    """What the logits are divided by in sampling."""
    baselines: bool = True
    """Score n-gram models on the same tokens, too."""
    optimizer: OptimizerConfig = field(
        default_factory=partial(
            OptimizerConfig,
            optimizer="adamw",
            learning_rate=3e-3,
            schedule="cosine",
            warmup_steps=100,
            weight_decay=0.1,
            clip=1.0,
        )
    )
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        """Check every range."""
        for name in ("context", "heads"):
            value = getattr(self, name)
            require(f"--{name.replace('_', '-')}", value, 1 <= value < 2**31, "from 1 to 2147483647")
        require_ranges(self)
        least = tokens.LEAST_VOCABULARY
        require("--vocabulary", self.vocabulary, least <= self.vocabulary < 2**31, f"from {least} to 2147483647")
        require("--documents", self.documents, self.documents is None or self.documents >= 1, "1 or more")
        pairs = 2 * self.heads
        require("--units", self.units, self.units % pairs == 0, f"a multiple of {pairs}, twice the --heads")
        require("--sampled", self.sampled, 0 <= self.sampled < 2**16, "from 0 to 65535")
        require("--temperature", self.temperature, 0 < self.temperature < float("inf"), "a number above 0")
        meshed = self.run.mesh is not None
        require("--fully-sharded", True, not self.fully_sharded or meshed, "given together with --mesh")


def make_loss(apply: Apply, fused: bool, shares: int = 1) -> Loss:
    """Mean cross-entropy of the next tokens. In evaluation it counts the hits too, which training has no time for.

    Args:
      apply: the Transformer's.
      fused: whether the logits are never held together.
      shares: devices that each batch is split over, each of which takes an equal part of every chunk.
    """

    def loss(params: Any, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, Metrics]:
        if key is None:
            value, told, counted = evaluated(apply, params, batch)
            return value, {"loss": weighted(told.loss, counted), "accuracy": weighted(told.correct, counted)}
        hidden, labels, counted = forward(apply, params, batch, key)
        kernel, transposed = head_of(params)
        kernel = kernel.astype(hidden.dtype)
        if fused:
            value = losses.linear_softmax_cross_entropy(
                hidden, kernel, labels, where=counted, transpose_kernel=transposed,
                chunk_size=chunk_size(labels.size, hidden.shape[-1], shares),
            )  # fmt: skip
        else:
            logits = jnp.dot(hidden, kernel.T if transposed else kernel, preferred_element_type=jnp.float32)
            value = losses.mean(losses.softmax_cross_entropy_with_integer_labels(logits, labels), where=counted)
        count = counted.sum(dtype=jnp.float32)
        return value, {"loss": (value * count, count)}

    return loss


def chunk_size(count: int, units: int, shares: int) -> int:
    """Tokens that a chunk of the head takes: of each device's tokens an equal part, about a quarter of the units.

    Example:
      >>> chunk_size(count=65536, units=2560, shares=32)
      16384
    """
    own = count // shares
    chunks = next(n for n in range(-(-own // max(128, units // 4)), own + 1) if own % n == 0)
    return count // chunks


def forward(
    apply: Apply, params: Any, batch: Batch, key: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Hidden states `[batch, context, units]`, the tokens that come next, and which of these count."""
    inputs, labels = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
    return apply(params, inputs, key=key), labels, batch["scored"] & batch["where"][:, None]


def evaluated(apply: Apply, params: Any, batch: Batch) -> tuple[jax.Array, losses.Auxiliary, jax.Array]:
    """The mean loss, what is known of each token, and which of them count."""
    hidden, labels, counted = forward(apply, params, batch)
    kernel, transposed = head_of(params)
    value, told = losses.linear_softmax_cross_entropy(
        hidden, kernel.astype(hidden.dtype), labels, where=counted, transpose_kernel=transposed, auxiliary=True
    )
    return value, told, counted


def told_of(apply: Apply, params: Any, batch: Batch) -> jax.Array:
    """Of each token its nats and whether it was the likeliest, float32 `[batch, context, 2]`."""
    _, told, _ = evaluated(apply, params, batch)
    return jnp.stack([told.loss, told.correct.astype(jnp.float32)], -1)


def model_of(config: Config, mesh: Mesh | None = None) -> Callable[[jax.Array], Model]:
    """The Transformer that the flags describe, by the key of its weights; on a mesh, as it is trained there."""
    build = partial(
        transformer, vocabulary=config.vocabulary, units=config.units, layers=config.layers, heads=config.heads,
        dropout=config.dropout, tied=config.tied, dtype=config.run.dtype,
    )  # fmt: skip
    if mesh is None:
        return build
    return partial(build, between=partial(split, mesh=mesh), recompute=config.recompute)


def prepare(config: Config, console: Console) -> TrainOne:
    """Load the text and compile the step once for all seeds; give the function that trains one."""
    mesh = mesh_of(config.run, partitions(config.fully_sharded))
    data = load(
        config.dataset, vocabulary=config.vocabulary, context=config.context, documents=config.documents,
        data_dir=config.run.data_dir, report=lambda line: say(console, "data", line),
    )  # fmt: skip
    build = model_of(config)
    apply, shapes = outline(build)
    meshed = outline(model_of(config, mesh)).apply
    require_memory(shapes, copies=4)
    sequences = windows(data.train, config.context, config.context)
    steps = total_steps(config.epochs, len(sequences["tokens"]), config.batch_size)
    optimizer = make_optimizer(config.optimizer, steps)

    def initial(weights: jax.Array, noise: jax.Array) -> TrainState:
        return init_state(build(weights).params, optimizer, noise)

    key = jax.random.key(0)
    shardings = state_shardings(jax.eval_shape(initial, key, key), mesh, partitions(config.fully_sharded))
    sharded = jax.jit(initial, out_shardings=shardings)  # so that no device ever holds more than its share

    def start(seed: int) -> tuple[TrainState, Source]:
        weights, order, noise = jax.random.split(jax.random.key(seed), 3)
        return sharded(weights, noise), array_source(sequences, config.batch_size, order, mesh)

    size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    say(console, "model", f"Transformer, {config.layers} x {config.units}, {size:,} parameters, {steps} steps")

    def step(fused: bool) -> Step:
        return make_train_step(make_loss(meshed, fused, mesh.shape["data"]), optimizer)

    some = max(1, EVALUATED_TOKENS // config.context)
    validated = windows(data.validation, config.context, config.context)
    evaluate = make_evaluate(make_loss(meshed, config.fused), validated, mesh, batch_size=some)
    tested = windows(data.test, config.context, max(1, config.context // 2))
    predict = make_predict(partial(told_of, meshed), tested, mesh, batch_size=some)
    training = prepare_training(
        config, console, start=start, step=step(config.fused), evaluate=evaluate, epochs=config.epochs
    )

    @cache
    def other() -> jax.stages.Compiled:
        """The same training with the head that is not asked for, for its memory."""
        state, source = start(config.run.seed)
        call = make_call(step(not config.fused), source, config.patience, config.steps_per_call == 1, shardings)
        return call.lower(state, source.feed(0), np.int32(1)).compile()

    prompt = np.array([tokens.END, *data.tokenizer.encode(config.prompt).ids])

    def train_one(config: Config, folder: Path) -> Scores:
        state = training.run(config, folder)
        drawn = sample(
            apply, state.params, prompt, jax.random.key(config.run.seed), length=config.sampled,
            context=config.context, temperature=config.temperature,
        )  # fmt: skip
        fused, dense = (training.compiled(), other()) if config.fused else (other(), training.compiled())
        return finish(
            predict(state.params)[tested["scored"]], np.asarray(drawn), {"fused": fused, "dense": dense}, data,
            config.vocabulary, config.baselines, folder, console,
        )  # fmt: skip

    return train_one


def main(arguments: Sequence[str], resumed: Path | None = None) -> None:
    """Train as the command line says, or continue the run in `resumed`, whose flags these are."""
    launch("language_model", parse(Config, arguments, prog="xent language_model", about=__doc__), prepare, resumed)


if __name__ == "__main__":
    from xent.experiments.__main__ import main as xent

    xent(["language_model", *sys.argv[1:]])
