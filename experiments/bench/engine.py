"""The one stopwatch of every benchmark: cases take turns in random order, in one process.

A machine's speed drifts by more than most differences worth knowing. Here every case runs once in each round, so that
all of them meet the same drift, and ratios are formed within rounds. A case listed twice shows how much of a ratio is
noise: it is built once, so that the two differ in nothing but their turns.
"""

import contextlib
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache

Clock = Callable[[], float]
"""Seconds since some moment."""

SAMPLE_SECONDS = 0.02
"""A sample is at least about this long: what is shorter is called more than once in it."""
MOST_CALLS = 10_000


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
    peak: int | None = None
    """Bytes of all that a device holds at most while it runs."""
    moved: int | None = None
    """Bytes of arguments and results."""
    flops: float | None = None
    """Floating-point operations of one call of the case."""

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return self.trace + self.lower + self.compile


class Built(NamedTuple):
    """A case that is ready to run."""

    run: Callable[[], object]
    """Does the work once. It may return arrays still being computed: the stopwatch waits for them."""
    compile: Compile | None = None
    close: Callable[[], None] = lambda: None
    """Gives back what it holds besides memory."""


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
    """Of each run: entry r is round r's, the mean of its `calls`."""
    calls: int = 1
    """Runs a sample."""

    @property
    def per_unit(self) -> list[float]:
        """Seconds a unit of each sample."""
        return [second / self.units for second in self.seconds]


class Measurement(NamedTuple):
    """What was measured of all cases."""

    timings: tuple[Timing, ...]
    order: tuple[tuple[int, ...], ...]
    """Of each round: the numbers of the cases as they took their turns."""


def staged(function: jax.stages.Wrapped, *arguments: Any, clock: Clock = time.perf_counter) -> tuple[Any, Compile]:
    """Compile a jitted function for these arguments, with the time of each stage.

    It is compiled anew also where the user keeps compiled programs on disk (`JAX_COMPILATION_CACHE_DIR`).

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
    with _nothing_kept():
        compiled = lowered.compile()
    times.append(clock())
    trace, lower, compile = (after - before for before, after in itertools.pairwise(times))
    flops = _flops(lowered)
    memory = compiled.memory_analysis()
    if memory is None:
        return compiled, Compile(trace, lower, compile, flops=flops)
    moved = memory.argument_size_in_bytes + memory.output_size_in_bytes
    temporary, peak = memory.temp_size_in_bytes, memory.peak_memory_in_bytes
    if jax.default_backend() == "cpu":  # whose peak leaves out what is temporary
        peak = moved - memory.alias_size_in_bytes + temporary
    return compiled, Compile(trace, lower, compile, temporary, peak, moved, flops)


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    """Without the cache of compiled programs; JAX looks at its switch only after a reset."""
    switch = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", switch)
        compilation_cache.reset_cache()


def counted(function: jax.stages.Wrapped, *arguments: Any, times: int = 1) -> float | None:
    """Count the floating-point operations of a jitted function before it is compiled, so alike for every chip.

    Args:
      function: what to count. The body of a loop counts once, however often it runs.
      arguments: of the function, or their shapes.
      times: how often the function, or the body of its loop, runs.

    Returns:
      The number, and None where JAX gives none.

    Example:
      >>> import jax.numpy as jnp
      >>> powers = jax.jit(lambda x: jax.lax.scan(lambda y, _: (y @ x, None), x, length=7)[0])
      >>> round(counted(powers, jnp.ones((64, 64)), times=7) / (7 * 2 * 64**3), 3)
      1.0
    """
    once = _flops(function.lower(*arguments))
    return None if once is None else once * times


def _flops(lowered: jax.stages.Lowered) -> float | None:
    analysis: Any = lowered.cost_analysis()
    flops = analysis.get("flops") if isinstance(analysis, dict) else None
    return None if flops is None or flops < 0 else float(flops)


def size_in_bytes(*trees: Any) -> int:
    """Bytes of all arrays, or of arrays of such shapes.

    Example:
      >>> size_in_bytes({"x": jax.ShapeDtypeStruct((3, 2), "float32")}, jax.ShapeDtypeStruct((1,), "uint8"))
      25
    """
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees))


def orders(cases: int, rounds: int, seed: int | str) -> tuple[tuple[int, ...], ...]:
    """Draw the order of the cases in each round; every second round is the one before, backwards.

    So of any two cases each comes first equally often, and what a place in a round does to a time, it does to both.

    Example:
      >>> first, second = orders(cases=3, rounds=2, seed=0)
      >>> sorted(first), second == first[::-1]
      ([0, 1, 2], True)
    """
    draw = random.Random(seed)
    pairs = (draw.sample(range(cases), cases) for _ in range(-(-rounds // 2)))
    both = (turns for order in pairs for turns in (tuple(order), tuple(order[::-1])))
    return tuple(itertools.islice(both, rounds))


def measure(
    cases: Sequence[Case],
    *,
    rounds: int,
    seed: int | str = 0,
    pause: float = 0.02,
    least: float = SAMPLE_SECONDS,
    report: Callable[[str], None] = lambda _: None,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Measurement:
    """Build every case, run each once to warm up, then sample each once a round.

    Args:
      cases: what to time; the same one may be listed twice, under two names, and is built once.
      rounds: samples of each.
      seed: of the order within rounds.
      pause: seconds of rest before each sample: threads of the case before (OpenMP's, say) spin for a while.
      least: seconds; a case whose run is shorter runs several times a sample, one after the other.
      report: told in a few words what comes next.
      clock: where time is read.
      sleep: how to rest.

    Example:
      >>> ticks = iter(range(100))
      >>> case = Case("two ticks", lambda: Built(lambda: next(ticks)), units=1)
      >>> measure([case], rounds=3, clock=lambda: next(ticks), sleep=lambda _: None).timings[0].seconds
      (2.0, 2.0, 2.0)
    """

    def sample(built: Built, calls: int = 1) -> float:
        sleep(pause)
        began = clock()
        for _ in range(calls):
            jax.block_until_ready(built.run())
        return (clock() - began) / calls

    def calls_of(built: Built, warm_up: float) -> int:
        if warm_up >= 50 * least:  # even if much of that was the first run's own, one run is long enough
            return 1
        return min(MOST_CALLS, max(1, math.ceil(least / max(sample(built), 1e-9))))

    built: dict[Callable[[], Built], Built] = {}
    build: dict[Callable[[], Built], float] = {}
    with contextlib.ExitStack() as stack:
        for case in cases:
            if case.build not in built:
                report(f"building: {case.name}")
                began = clock()
                built[case.build] = case.build()
                build[case.build] = clock() - began
                stack.callback(built[case.build].close)
        report("warming up")
        warm_up = [sample(built[case.build]) for case in cases]
        first = {case.build: took for case, took in zip(reversed(cases), reversed(warm_up), strict=True)}
        calls = {key: calls_of(ready, first[key]) for key, ready in built.items()}
        order = orders(len(cases), rounds, seed)
        seconds: list[list[float]] = [[] for _ in cases]
        for number, turns in enumerate(order):
            report(f"round {number + 1} of {rounds}")
            for turn in turns:
                key = cases[turn].build
                seconds[turn].append(sample(built[key], calls[key]))
    timings = (
        Timing(case.name, case.units, build[key], built[key].compile, warm, tuple(times), calls[key])
        for case, key, warm, times in zip(cases, (case.build for case in cases), warm_up, seconds, strict=True)
    )
    return Measurement(tuple(timings), order)
