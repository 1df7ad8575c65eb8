"""The article's job in JAX: as `xent digits` runs it, as a plain script does, and the two products it cannot avoid.

60000 images of 784 random bytes, ten integer labels: time does not depend on what the pictures show.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xent.experiments import digits
from xent.experiments.bench import train_start
from xent.experiments.bench.engine import Built, Case, counted, size_in_bytes, staged
from xent.experiments.bench.train_start import Parts, Started
from xent.models.functional import outline
from xent.models.mlp import mlp
from xent.train.optimizers import make_optimizer

EXAMPLES, CLASSES = 60_000, 10
SIDE = 28
LEARNING_RATE = 1e-3


class Job(NamedTuple):
    """What every case trains."""

    images: np.ndarray
    """uint8 [examples, 28, 28, 1]."""
    labels: np.ndarray
    """int32 [examples]."""
    hidden: int
    batch_size: int
    steps: int
    """Steps a run."""
    seed: int


def random_job(*, hidden: int, batch_size: int, steps: int, seed: int) -> Job:
    """Draw images and labels."""
    return Job(*random_images(EXAMPLES, SIDE, seed), hidden, batch_size, steps, seed)


@lru_cache(maxsize=1)
def random_images(examples: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw bytes, uint8 `[examples, side, side, 1]`, and labels, int32 `[examples]`.

    Half of the labels are told by bright pixels, so that there is something to learn, and never all of it: gradients
    that vanish would be another amount of work on a CPU.
    """
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (examples, side * side), dtype=np.uint8)
    told, labels = draw.integers(0, CLASSES, (2, examples), dtype=np.int32)
    width = side * side // CLASSES
    pixels[np.arange(examples)[:, None], told[:, None] * width + np.arange(width)[None]] = 255
    return pixels.reshape(examples, side, side, 1), np.where(draw.integers(0, 2, examples) == 1, told, labels)


def digits_parts(job: Job) -> Parts:
    """The default job of `xent digits`, on generated images."""
    config = digits.Config(hidden=job.hidden, batch_size=job.batch_size)
    build = partial(mlp, inputs=SIDE * SIDE, hidden=job.hidden, outputs=CLASSES)
    optimizer = make_optimizer(config.optimizer, steps=job.steps)
    loss = digits.make_loss(config, outline(build).apply)
    arrays = {"image": job.images, "label": job.labels}
    return Parts(loss, lambda key: build(key).params, optimizer, arrays, config.steps_per_call)


def start_ours(job: Job) -> Started:
    """Set the job up through the functions that `xent digits` calls."""
    return train_start.start(digits_parts(job), job.batch_size, job.steps, job.seed)


def one_step_a_call(job: Job, name: str) -> Case:
    """Train as `xent digits --steps-per-call 1` does, without its files."""
    parts = replace(digits_parts(job), steps_per_call=1)
    begin = partial(train_start.start, parts, job.batch_size, job.steps, job.seed)
    return train_start.case(begin, name, job.steps)


def plain_loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy, by optax, of a network written out by hand; parameters are named as in `mlp`."""
    inputs = images.reshape(len(images), -1).astype(jnp.float32) / 127.5 - 1
    hidden = jax.nn.relu(inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    logits = hidden @ params["output"]["kernel"] + params["output"]["bias"][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def plain_step(optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """Make `step(params, opt_state, images, labels, rows) -> (params, opt_state, loss)` as tutorials write it."""

    def step(params: Any, opt_state: Any, images: jax.Array, labels: jax.Array, rows: jax.Array) -> Any:
        loss, gradients = jax.value_and_grad(plain_loss)(params, images[rows], labels[rows])
        updates, opt_state = optimizer.update(gradients, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    return step


def plain(job: Job, name: str) -> Case:
    """Train as a script of thirty lines would: data on the device, rows shuffled on the host, one jitted step a call.

    It measures no accuracy, guards against nothing and reads no loss: less work than ours.
    """

    def build() -> Built:
        optimizer = optax.adam(LEARNING_RATE)
        params = mlp(jax.random.key(job.seed), inputs=SIDE * SIDE, hidden=job.hidden, outputs=CLASSES).params
        opt_state = optimizer.init(params)
        images, labels = jax.device_put((job.images, job.labels))
        batches = shuffled(job)
        jitted = jax.jit(plain_step(optimizer), donate_argnums=(0, 1))
        step, took = staged(jitted, params, opt_state, images, labels, next(batches))
        batch = jax.eval_shape(lambda: (images[: job.batch_size], labels[: job.batch_size]))
        flops = None if took.flops is None else took.flops * job.steps
        took = took._replace(flops=flops, moved=job.steps * size_in_bytes(params, opt_state, batch, params, opt_state))

        def run() -> Any:
            nonlocal params, opt_state
            loss = None
            for _ in range(job.steps):
                params, opt_state, loss = step(params, opt_state, images, labels, next(batches))
            return params, loss

        return Built(run, took)

    return Case(name, build, job.steps)


def shuffled(job: Job) -> Iterator[np.ndarray]:
    """Yield the rows of each batch, int32, shuffled on the host anew each epoch; what fills no batch is left out."""
    draw = np.random.default_rng(job.seed)
    while True:
        rows = draw.permutation(len(job.labels)).astype(np.int32)
        for start in range(0, len(rows) - job.batch_size + 1, job.batch_size):
            yield rows[start : start + job.batch_size]


def products(job: Job, name: str) -> Case:
    """Compute the two large products of a step and nothing else: the hidden layer's, and its kernel's gradient.

    Nothing of a step that uses products of these shapes can be faster. One scan holds them all, so that no dispatch
    is counted. The rows of x are orthonormal: `w <- x^T (x w)` needs no other operation to stay finite for ever, and
    each product waits for the one before.
    """

    def build() -> Built:
        draw = np.random.default_rng(job.seed)
        inputs, rows = SIDE * SIDE, job.batch_size
        square = np.linalg.qr(draw.normal(size=(max(inputs, rows), min(inputs, rows))))[0].astype(np.float32)
        x = jnp.asarray(square.T if rows <= inputs else square)
        w = jnp.asarray(draw.normal(size=(inputs, job.hidden)), jnp.float32)

        def many(x: jax.Array, w: jax.Array) -> jax.Array:
            return jax.lax.scan(lambda w, _: (x.T @ (x @ w), None), w, length=job.steps)[0]

        compiled, took = staged(jax.jit(many), x, w)
        flops, moved = counted(jax.jit(many), x, w, times=job.steps), job.steps * size_in_bytes(x, w, w)
        return Built(lambda: compiled(x, w), took._replace(flops=flops, moved=moved))

    return Case(name, build, job.steps)
