"""The article's job in JAX: as `xent digits` runs it, as a plain script does, and the two products it cannot avoid.

60000 images of 784 random bytes, ten integer labels: time does not depend on what the pictures show.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xent.experiments import digits
from xent.experiments.bench.engine import Built, Case, Compile, staged
from xent.models.mlp import mlp
from xent.train.loop import Call, fit, make_call
from xent.train.optimizers import make_optimizer
from xent.train.source import Source, array_source
from xent.train.step import TrainState, init_state, make_train_step

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
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (EXAMPLES, SIDE, SIDE, 1), dtype=np.uint8)
    labels = draw.integers(0, CLASSES, EXAMPLES, dtype=np.int32)
    return Job(images, labels, hidden, batch_size, steps, seed)


STEPS_PER_CALL = 100


class Started(NamedTuple):
    """The default job, compiled and ready for its first step."""

    call: Call
    state: TrainState
    source: Source
    compile: Compile


def start_ours(job: Job, *, single: bool = False) -> Started:
    """Set the job up through the functions that `xent digits` calls: many steps a call, or one."""
    config = digits.Config(hidden=job.hidden, batch_size=job.batch_size)
    weights, order, noise = jax.random.split(jax.random.key(job.seed), 3)
    apply, params = mlp(weights, inputs=SIDE * SIDE, hidden=job.hidden, outputs=CLASSES)
    optimizer = make_optimizer(config.optimizer, steps=job.steps)
    step = make_train_step(digits.make_loss(config, apply), optimizer)
    source = array_source({"image": job.images, "label": job.labels}, job.batch_size, order)
    state = init_state(params, optimizer, noise)
    jitted = make_call(step, source, patience=config.patience, single=single)
    call, took = staged(jitted, state, source.feed(0), np.int32(1))
    return Started(call, state, source, took)


def run_ours(
    job: Job,
    started: Started,
    state: TrainState,
    *,
    single: bool = False,
    pause: Callable[[int], bool] = lambda _: False,
    save: Callable[[TrainState], None] = lambda _: None,
) -> TrainState:
    """Train on for the job's steps.

    Metrics are summed, steps that are not finite guarded against, logs delivered one call late; they go nowhere.
    """
    return fit(
        started.call, state, started.source, steps=int(state.step) + job.steps,
        steps_per_call=1 if single else STEPS_PER_CALL, patience=digits.Config().patience, evaluate=lambda _: {},
        record=lambda _: None, pause=pause, save=save,
    )  # fmt: skip


def ours(job: Job, name: str, *, single: bool = False) -> Case:
    """Train as `xent digits` does, without its files."""

    def build() -> Built:
        started = start_ours(job, single=single)
        state = started.state

        def run() -> Any:
            nonlocal state
            state = run_ours(job, started, state, single=single)
            return state

        return Built(run, started.compile)

    return Case(name, build, job.steps)


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
        return Built(lambda: compiled(x, w), took)

    return Case(name, build, job.steps)
