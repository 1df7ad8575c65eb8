"""Time and memory of cross-entropy over a large linear head: optax on full logits, and ours without them.

    xent bench fused                                              two heads, some fifteen minutes on two cores
    xent bench fused --quick                                      a small head, half a minute
    xent bench fused --tokens 32768 --units 4096 --classes 131072 --dtype bfloat16        for a large GPU

Each line is a measurement of its own: optax on `hidden @ kernel`, ours, the product `hidden @ kernel` alone (its sum;
nothing that needs logits can be faster) and optax a second time take turns in random order in one process. `ratio` is
ours to optax's, formed within rounds, with its interval; `null` is that of optax to itself, noise alone. Memory is what
the compiled programs need beside arguments and results. What we hold ourselves to on a CPU is, of optax's time, 1.0 for
the value, 1.1 for value and both gradients, 1.2 for a Hessian-vector product; of its memory 0.1, 0.3 (0.7 where the
kernel's gradient is as large as the logits) and 0.35. Elsewhere it is 1.05 of its time and a quarter of its memory.
Those of memory are for 32768 classes and more: the logits of fewer are not what fills a machine. --quick takes
the first head only, with half of its tokens and an eighth of its classes.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from rich.table import Table

from xent.experiments.bench import tables
from xent.experiments.bench.engine import Built, Case, counted, staged
from xent.experiments.bench.frame import BenchConfig, Benchmark, Plan
from xent.experiments.bench.frame import main as run
from xent.experiments.bench.record import Measured
from xent.losses import linear_softmax_cross_entropy
from xent.train.errors import require

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
    against: Literal["optax", "none"] = "optax"
    """The peer that takes turns with ours."""
    bench: BenchConfig = field(default_factory=BenchConfig)

    def __post_init__(self) -> None:
        """Check every range."""
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


def heads(config: Config) -> Iterator[Head]:
    """List the problems."""
    shapes = itertools.starmap(Head, zip(config.tokens, config.units, config.classes, strict=True))
    for head in itertools.islice(shapes, 1 if config.bench.quick else None):
        smaller = Head(max(head.tokens // 2, 1), head.units, max(head.classes // 8, 1))
        yield smaller if config.bench.quick else head


def program(loss: Callable[[jax.Array, jax.Array], jax.Array], what: What) -> Callable[..., Any]:
    """The loss, with what is derived from it; the Hessian's product takes a direction in hidden states and in kernel.

    These are arrays of their own: of a product with the hidden states and kernel themselves the compiler leaves out a
    third, which it finds twice.
    """
    if what == "value":
        return loss
    if what == "gradients":
        return jax.value_and_grad(loss, (0, 1))
    return lambda hidden, kernel, *direction: jax.jvp(jax.grad(loss, (0, 1)), (hidden, kernel), direction)


def make_cases(config: Config, head: Head, what: What) -> list[Case]:
    """List what to time for a head; ratios are to the first, optax's if it takes part."""
    for_labels, *keys = jax.random.split(jax.random.key(config.bench.seed), 5)
    labels = jax.random.randint(for_labels, (head.tokens,), 0, head.classes)
    hidden, along_hidden = (jax.random.normal(key, (head.tokens, head.units), config.dtype) for key in keys[:2])
    scale = jnp.sqrt(head.units).astype(config.dtype)
    kernel, along_kernel = (
        jax.random.normal(key, (head.units, head.classes), config.dtype) / scale for key in keys[2:]
    )
    arrays = (hidden, kernel, *((along_hidden, along_kernel) if what == "hessian product" else ()))
    product = partial(jnp.dot, preferred_element_type=jnp.float32)

    def dense(hidden: jax.Array, kernel: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(product(hidden, kernel), labels).mean()

    def fused(hidden: jax.Array, kernel: jax.Array, chunk_size: int | None = config.chunk_size) -> jax.Array:
        result: jax.Array = linear_softmax_cross_entropy(hidden, kernel, labels, chunk_size=chunk_size)
        return result

    def case(name: str, function: Callable[..., Any], alike: Callable[..., Any] | None = None) -> Case:
        """Its operations are counted of `alike`, if that does the same without a loop."""

        def build() -> Built:
            compiled, took = staged(jax.jit(function), *arrays)
            flops = took.flops if alike is None else counted(jax.jit(alike), *arrays)
            return Built(lambda: compiled(*arrays), took._replace(flops=flops))

        return Case(name, build, units=head.tokens)

    cases = [
        case("ours", program(fused, what), program(partial(fused, chunk_size=head.tokens), what)),
        case("product", lambda hidden, kernel, *_: product(hidden, kernel).sum()),
    ]
    if config.against == "optax":
        cases = [case("optax", program(dense, what)), *cases]
    return [*cases, cases[0]._replace(name=f"{cases[0].name}, again")]


def plans(config: Config) -> Iterator[Plan]:
    """List the measurements."""
    for head, what in itertools.product(heads(config), get_args(What)):
        name = f"fused {what}, {' x '.join(map(str, head))}, {config.dtype}"
        of = {**head._asdict(), "dtype": config.dtype, "what": what}
        yield Plan(name, of, config.dtype, "token", partial(make_cases, config, head, what))


def says(config: Config) -> list[tuple[str, str]]:
    """What is timed."""
    return [("data", "hidden states and kernel drawn from normal distributions, labels at random")]


LARGE = 32768
"""Classes from which on the bound of memory is meant."""


def bounds(head: Head, what: What, backend: str) -> tuple[float, float]:
    """The largest shares of optax's time and of its memory that we hold ourselves to."""
    if backend != "cpu":
        return 1.05, 0.25
    narrow = head.tokens > head.units
    return {"value": (1.0, 0.1), "gradients": (1.1, 0.3 if narrow else 0.7), "hessian product": (1.2, 0.35)}[what]


def table(rows: Sequence[Measured]) -> Table:
    """Lay the measurements out, a row each, times in milliseconds."""
    title = f"medians of {len(rows[0].order)} rounds in ms, with intervals; memory in MiB; ratios are to {{}}"
    words, numbers = (
        ["of"],
        ["tokens x units x classes", "product", "optax", "ours", "ratio", "interval", "null", "bound"],
    )
    numbers += ["memory\noptax", "memory\nours", "ratio", "bound"]
    result = tables.blank(title.format(rows[0].ratios_to), words, numbers)
    for row in rows:
        head = Head(*(row.of[name] for name in Head._fields))
        times = [tables.shown(row.time(name, 1e3 * head.tokens), 0) for name in ("product", "optax", "ours")]
        compared = row.ratios_to == "optax"
        limits = [f"{limit:.2f}" if compared else "-" for limit in bounds(head, row.of["what"], jax.default_backend())]
        limits[1] = limits[1] if head.classes >= LARGE else "-"
        memory = [
            case.compile.temporary if case and case.compile else None for case in map(row.case, ("optax", "ours"))
        ]
        sizes = ["-" if size is None else f"{size / 2**20:.0f}" for size in memory]
        share = f"{memory[1] / memory[0]:.2f}" if memory[0] and memory[1] is not None else "-"
        result.add_row(
            row.of["what"], " x ".join(map(str, head)), *times, *tables.with_interval(row.ratio("ours"), 2),
            tables.interval(row.ratio(row.null), 2), limits[0], *sizes, share, limits[1],
        )  # fmt: skip
    return result


BENCHMARK = Benchmark("fused", __doc__, Config, says, plans, table)
main = partial(run, BENCHMARK)
