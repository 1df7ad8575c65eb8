"""The one stopwatch of every benchmark: cases take turns in random order, in one process.

A machine's speed drifts by more than most differences worth knowing. Here every case runs once in each round, so that
all of them meet the same drift, and ratios are formed within rounds. A case listed twice shows how much of a ratio is
noise.
"""

import itertools
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

Clock = Callable[[], float]
"""Seconds since some moment."""


class Compile(NamedTuple):
    """What JAX did before the first run."""

    trace: float
    """Seconds."""
    lower: float
    """Seconds."""
    compile: float
    """Seconds."""
    temporary: int | None = None
    """Bytes that the program needs beside its arguments and results, where the compiler says."""

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return self.trace + self.lower + self.compile


class Built(NamedTuple):
    """A case that is ready to run."""

    run: Callable[[], object]
    """Does the work once. It may return arrays still being computed: the stopwatch waits for them."""
    compile: Compile | None = None


class Case(NamedTuple):
    """One thing to time."""

    name: str
    build: Callable[[], Built]
    """Makes arrays and programs, outside the timing."""
    units: int
    """What a run does, in the unit that results are given per: steps, examples, bytes."""


class Timing(NamedTuple):
    """What was measured of a case."""

    name: str
    units: int
    build: float
    """Seconds, compilation included."""
    compile: Compile | None
    warm_up: float
    """Seconds of the first run, which is no sample."""
    seconds: tuple[float, ...]
    """Of each run: entry r is round r's."""


class Measurement(NamedTuple):
    """What was measured of all cases."""

    timings: tuple[Timing, ...]
    order: tuple[tuple[int, ...], ...]
    """Of each round: the numbers of the cases as they took their turns."""


def staged(function: jax.stages.Wrapped, *arguments: Any, clock: Clock = time.perf_counter) -> tuple[Any, Compile]:
    """Compile a jitted function for these arguments, with the time of each stage.

    Returns:
      The compiled function and its `Compile`.

    Example:
      >>> import jax.numpy as jnp
      >>> double, took = staged(jax.jit(lambda x: 2 * x), jnp.float32(1))
      >>> float(double(jnp.float32(3))), took.compile > 0
      (6.0, True)
    """
    times = [clock()]
    traced = function.trace(*arguments)
    times.append(clock())
    lowered = traced.lower()
    times.append(clock())
    compiled = lowered.compile()
    times.append(clock())
    memory = compiled.memory_analysis()
    temporary = None if memory is None else memory.temp_size_in_bytes
    trace, lower, compile = (after - before for before, after in itertools.pairwise(times))
    return compiled, Compile(trace, lower, compile, temporary)


def orders(cases: int, rounds: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Draw the order of the cases in each round.

    Example:
      >>> [sorted(turn) for turn in orders(cases=3, rounds=2, seed=0)]
      [[0, 1, 2], [0, 1, 2]]
    """
    draw = random.Random(seed)
    return tuple(tuple(draw.sample(range(cases), cases)) for _ in range(rounds))


def measure(
    cases: Sequence[Case],
    *,
    rounds: int,
    seed: int = 0,
    pause: float = 0.02,
    report: Callable[[str], None] = lambda _: None,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Measurement:
    """Build every case, run each once to warm up, then sample each once a round.

    Args:
      cases: what to time; the same one may be listed twice.
      rounds: samples of each.
      seed: of the order within rounds.
      pause: seconds of rest before each run: threads of the case before (OpenMP's, say) spin for a while.
      report: told in a few words what comes next.
      clock: where time is read.
      sleep: how to rest.

    Example:
      >>> ticks = iter(range(100))
      >>> case = Case("two ticks", lambda: Built(lambda: next(ticks)), units=1)
      >>> measure([case], rounds=3, clock=lambda: next(ticks), sleep=lambda _: None).timings[0].seconds
      (2, 2, 2)
    """

    def sample(built: Built) -> float:
        sleep(pause)
        began = clock()
        jax.block_until_ready(built.run())
        return clock() - began

    built, build = [], []
    for case in cases:
        report(f"building: {case.name}")
        began = clock()
        built.append(case.build())
        build.append(clock() - began)
    report("warming up")
    warm_up = [sample(ready) for ready in built]
    order = orders(len(cases), rounds, seed)
    seconds: list[list[float]] = [[] for _ in cases]
    for number, turns in enumerate(order):
        report(f"round {number + 1} of {rounds}")
        for turn in turns:
            seconds[turn].append(sample(built[turn]))
    timings = tuple(
        Timing(case.name, case.units, build[i], built[i].compile, warm_up[i], tuple(seconds[i]))
        for i, case in enumerate(cases)
    )
    return Measurement(timings, order)
