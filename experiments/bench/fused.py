"""Time and memory of cross-entropy over a large linear head: optax on full logits, and ours without them.

    xent bench fused                                              two heads, some ten minutes on two cores
    xent bench fused --quick                                      a small head, half a minute
    xent bench fused --tokens 32768 --units 4096 --classes 131072 --dtype bfloat16        for a large GPU

Each line is a measurement of its own: optax on `hidden @ kernel`, ours, the product `hidden @ kernel` alone (its sum;
nothing that needs logits can be faster) and optax a second time take turns in random order in one process. `ratio` is
ours to optax's, formed within rounds, with its interval; `null` is that of optax to itself, noise alone. Memory is what
the compiled programs need beside arguments and results. What we hold ourselves to on a CPU is, of optax's time, 1.0 for
the value, 1.1 for value and both gradients, 1.2 for a Hessian-vector product; of its memory 0.1, 0.3 (0.7 where the
kernel's gradient is as large as the logits) and 0.35. Elsewhere it is 1.05 of its time and a quarter of its memory.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from rich.table import Table

from xent.experiments.bench.engine import Built, Case, Measurement, measure, staged
from xent.experiments.bench.estimate import estimate, ratio
from xent.experiments.bench.record import cores, refuse, to_record, write
from xent.experiments.device import device_name, use_device
from xent.experiments.flags import DeviceConfig, parse
from xent.losses import linear_softmax_cross_entropy
from xent.train.errors import require
from xent.train.progress import make_console, say

What = Literal["value", "gradients", "hessian product"]


@dataclass(frozen=True)
class Config:
    """Time cross-entropy over a linear head, with and without its logits."""

    tokens: tuple[int, ...] = (2048, 1024)
    """Rows of hidden states."""
    units: tuple[int, ...] = (512, 1024)
    """Hidden units, one number for each of --tokens."""
    classes: tuple[int, ...] = (32768, 131072)
    """Classes, one number for each of --tokens."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of hidden states and kernel; optax's logits are float32 either way."""
    chunk_size: int | None = None
    """Tokens at a time; by default, what the loss itself takes."""
    rounds: int = 5
    """Samples of each case."""
    quick: bool = False
    """Only the first head, with an eighth of its classes."""
    seed: int = 0
    """Seed of all arrays and of the order of the cases."""
    out: Path | None = None
    """JSON file to write, which must not exist yet."""
    device: DeviceConfig = field(default_factory=DeviceConfig)

    def __post_init__(self) -> None:
        """Check every range."""
        require("--rounds", self.rounds, self.rounds >= 1, "1 or more")
        require("--seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 4294967295")
        require("--chunk-size", self.chunk_size, self.chunk_size is None or self.chunk_size >= 1, "1 or more")
        for name in ("tokens", "units", "classes"):
            values = getattr(self, name)
            shown = " ".join(map(str, values))
            require(f"--{name}", shown, bool(values) and min(values) >= 1, "numbers of 1 or more")
            pairs = f"as many numbers as --tokens has, {len(self.tokens)}"
            require(f"--{name}", shown, len(values) == len(self.tokens), pairs)


class Head(NamedTuple):
    """The shapes of one problem."""

    tokens: int
    units: int
    classes: int


class Row(NamedTuple):
    """A line of the table."""

    head: Head
    what: What
    measured: Measurement


def heads(config: Config) -> Iterator[Head]:
    """List the problems."""
    shapes = itertools.starmap(Head, zip(config.tokens, config.units, config.classes, strict=True))
    for head in itertools.islice(shapes, 1 if config.quick else None):
        yield head._replace(classes=max(head.classes // 8, 1)) if config.quick else head


def program(loss: Callable[[jax.Array, jax.Array], jax.Array], what: What) -> Callable[..., Any]:
    """The loss, with what is derived from it; the Hessian's product is with the hidden states and kernel themselves."""
    if what == "value":
        return loss
    if what == "gradients":
        return jax.value_and_grad(loss, (0, 1))
    return lambda hidden, kernel: jax.jvp(jax.grad(loss, (0, 1)), (hidden, kernel), (hidden, kernel))


def make_cases(config: Config, head: Head, what: What) -> list[Case]:
    """List what to time for a head; ratios are to the first, optax's."""
    keys = jax.random.split(jax.random.key(config.seed), 3)
    hidden = jax.random.normal(keys[0], (head.tokens, head.units), config.dtype)
    kernel = jax.random.normal(keys[1], (head.units, head.classes), config.dtype) / jnp.sqrt(head.units).astype(
        config.dtype
    )
    labels = jax.random.randint(keys[2], (head.tokens,), 0, head.classes)
    product = partial(jnp.dot, preferred_element_type=jnp.float32)

    def dense(hidden: jax.Array, kernel: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(product(hidden, kernel), labels).mean()

    def fused(hidden: jax.Array, kernel: jax.Array) -> jax.Array:
        result: jax.Array = linear_softmax_cross_entropy(hidden, kernel, labels, chunk_size=config.chunk_size)
        return result

    def case(name: str, function: Callable[..., Any]) -> Case:
        def build() -> Built:
            compiled, took = staged(jax.jit(function), hidden, kernel)
            return Built(lambda: compiled(hidden, kernel), took)

        return Case(name, build, units=head.tokens)

    first = case("optax", program(dense, what))
    alone = case("product", lambda hidden, kernel: product(hidden, kernel).sum())
    return [first, case("ours", program(fused, what)), alone, first._replace(name="optax, again")]


def bounds(head: Head, what: What, backend: str) -> tuple[float, float]:
    """The largest shares of optax's time and of its memory that we hold ourselves to."""
    if backend != "cpu":
        return 1.05, 0.25
    narrow = head.tokens > head.units
    return {"value": (1.0, 0.1), "gradients": (1.1, 0.3 if narrow else 0.7), "hessian product": (1.2, 0.35)}[what]


def table(rows: Sequence[Row], backend: str) -> Table:
    """Lay the measurements out for people."""
    title = f"medians of {len(rows[0].measured.order)} rounds in ms, with intervals; memory in MiB"
    result = Table(title=title, box=None, header_style="bold", padding=(0, 2, 0, 0), title_justify="left")
    result.add_column("of", no_wrap=True)
    for header in ("tokens x units x classes", "product", "optax", "ours", "ratio", "interval", "null", "bound"):
        result.add_column(header, justify="right", no_wrap=True)
    for header in ("memory\noptax", "memory\nours", "ratio", "bound"):
        result.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        theirs, ours, product, again = row.measured.timings
        times = [f"{estimate(timing.seconds).median * 1e3:.0f}" for timing in (product, theirs, ours)]
        against, null = ratio(ours.seconds, theirs.seconds), ratio(again.seconds, theirs.seconds)
        memory = [timing.compile.temporary if timing.compile else None for timing in (theirs, ours)]
        shown = ["-" if size is None else f"{size / 2**20:.0f}" for size in memory]
        share = f"{memory[1] / memory[0]:.2f}" if memory[0] and memory[1] is not None else "-"
        limits = bounds(row.head, row.what, backend)
        result.add_row(
            row.what, " x ".join(map(str, row.head)), *times, f"{against.median:.2f}",
            f"{against.low:.2f}-{against.high:.2f}", f"{null.low:.2f}-{null.high:.2f}", f"{limits[0]:.2f}",
            *shown, share, f"{limits[1]:.2f}",
        )  # fmt: skip
    return result


def record(config: Config, rows: Sequence[Row]) -> dict[str, Any]:
    """Make the JSON-able record: what all measurements share, and under `cells` what was measured of each."""
    shared: dict[str, Any] = {}
    measured = []
    for row in rows:
        whole = to_record("fused", "token", dataclasses.asdict(config), row.measured)
        own = {name: whole.pop(name) for name in ("ratios_to", "cases", "order")}
        shared = whole
        limits = dict(zip(("bound", "memory_bound"), bounds(row.head, row.what, jax.default_backend()), strict=True))
        measured.append({**row.head._asdict(), "what": row.what, **limits, **own})
    return {**shared, "cells": measured}


def main(arguments: Sequence[str]) -> None:
    """Measure, show a table, write the record."""
    config = parse(Config, arguments, prog="xent bench fused", about=__doc__)
    refuse(config.out)
    use_device(config.device)
    console = make_console()
    say(console, "device", f"{device_name()}, jax {jax.__version__}, {cores()} threads")
    say(console, "data", "hidden states and kernel drawn from normal distributions, labels at random")
    rows: list[Row] = []
    with console.status("drawing") as status:

        def show(name: str, text: str) -> None:
            status.update(f"{name}: {text}")

        for head in heads(config):
            whats: tuple[What, ...] = ("value", "gradients", "hessian product")
            for what in whats:
                name = f"{what}, {' x '.join(map(str, head))}"
                cases = make_cases(config, head, what)
                rows.append(
                    Row(head, what, measure(cases, rounds=config.rounds, seed=config.seed, report=partial(show, name)))
                )
    console.width = max(console.width, 140)  # a table cut off says nothing
    console.print(table(rows, jax.default_backend()))
    if config.out is not None:
        write(config.out, record(config, rows))
        say(console, "wrote", str(config.out))
