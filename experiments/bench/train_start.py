"""A training step of any experiment, ready to be timed: its parts, compiled, run on, and its loss step by step.

Data and first weights are drawn on the host, so that every machine starts from the same bits.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xent.experiments.bench.engine import Built, Case, Compile, counted, size_in_bytes, staged
from xent.train.loop import Call, fit, make_call
from xent.train.metrics import divide
from xent.train.source import Source, array_source
from xent.train.step import Loss, Step, TrainState, init_state, make_train_step

PATIENCE = 20


@dataclass(frozen=True)
class Parts:
    """What a training step is made of."""

    loss: Any
    """As `make_step` takes it: a `Loss`, or the rules of a game."""
    params: Callable[[jax.Array], Any]
    """First parameters, by a key; `same_everywhere` draws others in their place."""
    optimizer: optax.GradientTransformation
    arrays: Mapping[str, np.ndarray]
    """The examples, `[examples, ...]` each."""
    steps_per_call: int
    """Inside one jitted call: as many as the experiment takes by default."""
    alike: Loss | None = None
    """Of the same work, where the loss has a loop in it: operations are counted of this."""
    init: Callable[[Any, optax.GradientTransformation, jax.Array], TrainState] = init_state
    """`init(params, optimizer, key)`: the state before the first step."""
    make_step: Callable[[Any, optax.GradientTransformation], Step] = make_train_step
    """`make_step(loss, optimizer)`: the step; a game of two networks has its own."""


class Started(NamedTuple):
    """Compiled and ready for the first step."""

    call: Call
    state: TrainState
    source: Source
    compile: Compile
    steps: int
    """Of a run."""
    steps_per_call: int


def same_everywhere(init: Callable[[jax.Array], Any], seed: int) -> Any:
    """Draw weights on the host: what a chip makes of the same random bits, as normal numbers, differs in the last ones.

    Args:
      init: gives parameters, a pytree of arrays, by a key. Their vectors are constants (biases, scales of norms) and
        stay; its matrices are not computed, which would take seconds.
      seed: of the matrices, uniform with LeCun's variance, of the sums over all axes but the last. (Of larger ones a
        recurrence would be chaotic, and the last bit of a sum would decide its losses.)

    Example:
      >>> init = lambda key: {"bias": jnp.zeros(2), "kernel": jax.random.normal(key, (3, 2))}
      >>> drawn = same_everywhere(init, seed=0)
      >>> print(drawn["bias"], bool(abs(drawn["kernel"]).max() <= 1))
      [0. 0.] True
    """
    draw, key = np.random.default_rng(seed), jax.random.key(0)
    vectors = iter(jax.jit(lambda key: [leaf for leaf in jax.tree.leaves(init(key)) if leaf.ndim < 2])(key))

    def fresh(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if leaf.ndim < 2:
            return next(vectors)
        whole = draw.integers(-(2**23), 2**23, leaf.shape) / 2**23
        return jnp.asarray(whole * np.sqrt(3 / math.prod(leaf.shape[:-1])), leaf.dtype)

    return jax.tree.map(fresh, jax.eval_shape(init, key))


def start(parts: Parts, batch_size: int, steps: int, seed: int) -> Started:
    """Compile a call of the experiment's loop: many steps, or one, as a run of it does.

    Its operations are those of so many steps; what must move is, for each step, state and batch in, and state out.
    """
    _, order, noise = jax.random.split(jax.random.key(seed), 3)
    source = array_source(dict(parts.arrays), batch_size, order)
    state = parts.init(same_everywhere(parts.params, seed), parts.optimizer, noise)
    step = parts.make_step(parts.loss, parts.optimizer)
    call = make_call(step, source, PATIENCE, single=parts.steps_per_call == 1)
    compiled, took = staged(call, state, source.feed(0), np.int32(1))
    batch = jax.eval_shape(source.batch, source.feed(0), jnp.int32(0))
    alike = parts.make_step(parts.alike or parts.loss, parts.optimizer)
    # Not those of `call`: until it is compiled, the body of its loop holds operations that nothing uses.
    flops = counted(jax.jit(alike), state, batch, times=steps)
    moved = steps * size_in_bytes(state, batch, state)
    took = took._replace(flops=flops, moved=moved)
    return Started(compiled, state, source, took, steps, parts.steps_per_call)


def run_on(
    started: Started,
    state: TrainState,
    *,
    pause: Callable[[int], bool] = lambda _: False,
    save: Callable[[TrainState], None] = lambda _: None,
) -> TrainState:
    """Train on for a run's steps.

    Metrics are summed, steps that are not finite guarded against, logs delivered one call late; they go nowhere.
    """
    return fit(
        started.call, state, started.source, steps=int(state.step) + started.steps,
        steps_per_call=started.steps_per_call, patience=PATIENCE, evaluate=lambda _: {},
        record=lambda _: None, pause=pause, save=save,
    )  # fmt: skip


def case(begin: Callable[[], Started], name: str, steps: int) -> Case:
    """Train as `xent` does, without its files.

    Args:
      begin: gives what `start` does; its state is copied.
      name: of the case.
      steps: a run, as given to `start`.
    """

    def build() -> Built:
        started = begin()
        state = jax.tree.map(jnp.copy, started.state)

        def run() -> Any:
            nonlocal state
            state = run_on(started, state)
            return state

        return Built(run, started.compile)

    return Case(name, build, steps)


def curve(started: Started, steps: int) -> tuple[float, ...]:
    """The loss of each of the first steps, in nats."""
    state, found = jax.tree.map(jnp.copy, started.state), []
    for step in range(steps):
        state, metrics, _ = started.call(state, started.source.feed(step), np.int32(1))
        found.append(divide(metrics)["loss"])
    return tuple(found)
