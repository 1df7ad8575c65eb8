"""Probe what this machine can do at best: a large product of square matrices, and a copy.

    xent bench peaks            a minute on two cores
    xent bench peaks --quick    smaller matrices

A product counts 2 n^3 operations; `default` is the platform's own way with float32, which may be rougher (TF32 on
NVIDIA, bfloat16 on TPU), and `highest` is float32 throughout. A copy counts each byte twice: read, and written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from rich.table import Table

from xent.experiments.bench import tables
from xent.experiments.bench.engine import Built, Case, staged
from xent.experiments.bench.frame import BenchConfig, Benchmark, Plan
from xent.experiments.bench.frame import main as run
from xent.experiments.bench.record import Measured
from xent.train.errors import require

Precision = Literal["default", "highest"]
PRODUCTS: tuple[tuple[str, Precision], ...] = (
    ("float32", "default"),
    ("float32", "highest"),
    ("bfloat16", "default"),
    ("bfloat16", "highest"),
)


@dataclass(frozen=True)
class Config:
    """Probe the peaks of this machine."""

    size: int | None = None
    """Rows and columns of the matrices; by default 2048 on a CPU (1024 with --quick), 16384 on chips."""
    mebibytes: int | None = None
    """To copy; by default 256 on a CPU, 1024 on chips."""
    bench: BenchConfig = field(default_factory=BenchConfig)

    def __post_init__(self) -> None:
        """Check every range."""
        for name in ("size", "mebibytes"):
            value = getattr(self, name)
            require(f"--{name}", value, value is None or 1 <= value < 2**20, "from 1 to 1048575")


def product(size: int, dtype: str, precision: Precision, seed: int) -> list[Case]:
    """Multiply two square matrices."""

    def build() -> Built:
        keys = jax.random.split(jax.random.key(seed))
        x, y = (jax.random.normal(key, (size, size), dtype) for key in keys)
        compiled, took = staged(jax.jit(partial(jnp.dot, precision=precision)), x, y)
        return Built(lambda: compiled(x, y), took)

    return [Case("product", build, units=1)]


def copy(mebibytes: int) -> list[Case]:
    """Read and write so many bytes."""

    def build() -> Built:
        x = jnp.ones(mebibytes * 2**18, jnp.float32)
        compiled, took = staged(jax.jit(jnp.copy), x)
        return Built(lambda: compiled(x), took)

    return [Case("copy", build, units=2 * mebibytes * 2**20)]


def plans(config: Config) -> Iterator[Plan]:
    """List the measurements."""
    cpu = jax.default_backend() == "cpu"
    size = config.size or ((1024 if config.bench.quick else 2048) if cpu else 16384)
    mebibytes = config.mebibytes or (256 if cpu else 1024)
    for dtype, precision in PRODUCTS:
        of = {"what": "product", "size": size, "precision": precision}
        cases = partial(product, size, dtype, precision, config.bench.seed)
        yield Plan(f"product, {dtype}, {precision}", of, dtype, "product", cases)
    of = {"what": "copy", "bytes": mebibytes * 2**20}
    yield Plan("copy, float32", of, "float32", "byte", partial(copy, mebibytes))


def says(config: Config) -> list[tuple[str, str]]:
    """What is timed."""
    return [("data", "matrices drawn from a normal distribution")]


def table(rows: Sequence[Measured]) -> Table:
    """Lay the peaks out: GFLOP/s and GB/s."""
    confidence = tables.median(rows[0], rows[0].ratios_to).confidence
    title = f"medians of {len(rows[0].order)} rounds, with {confidence:.0%} intervals"
    result = tables.blank(title, ["", "of"], ["a second", "interval", ""])
    for row in rows:
        time = tables.median(row, row.ratios_to)
        work, unit = (2 * row.of["size"] ** 3, "GFLOP/s") if row.of["what"] == "product" else (1, "GB/s")
        best = [f"{work / seconds / 1e9:.4g}" for seconds in (time.median, time.high, time.low)]
        of = f"{row.of['size']}^2" if row.of["what"] == "product" else f"{row.of['bytes'] / 2**20:.0f} MiB"
        result.add_row(row.name, of, best[0], f"{best[1]}-{best[2]}", unit)
    return result


BENCHMARK = Benchmark("peaks", __doc__, Config, says, plans, table)
main = partial(run, BENCHMARK)
