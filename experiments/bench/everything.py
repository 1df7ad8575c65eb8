"""Measure losses, fused losses, training steps and the machine's peaks, into one file for `xent compare`.

    xent bench --out cpu.json             over an hour on two cores; stopped, the same command goes on
    xent bench --quick --out cpu.json     about two minutes there

It is `xent bench losses`, `fused`, `train` and `peaks`, one after the other, without flags of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from xent.experiments.bench import frame, fused, losses, peaks, train
from xent.experiments.bench.frame import BenchConfig
from xent.experiments.flags import parse

PARTS = (losses, fused, train, peaks)


@dataclass(frozen=True)
class Config:
    """Run every benchmark that machines are compared by."""

    bench: BenchConfig = field(default_factory=BenchConfig)


def main(arguments: Sequence[str]) -> None:
    """Measure, show the tables, write one record."""
    config = parse(Config, arguments, prog="xent bench all", about=__doc__)
    frame.run("all", config, [(part.BENCHMARK, part.Config(bench=config.bench)) for part in PARTS])
