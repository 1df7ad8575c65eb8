"""Measure a thing against itself, again and again: how often does the interval of their ratio hold 1?

    xent bench null            half a minute on two cores

It should in 98 of 100 and more, on a machine however busy. The thing is the gradient of a small loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import jax

from xent.experiments.bench.engine import measure
from xent.experiments.bench.estimate import Estimate, ratio
from xent.experiments.bench.losses_cases import Cell, make_cases
from xent.experiments.device import device_name, use_device
from xent.experiments.flags import DeviceConfig, parse
from xent.train.errors import require
from xent.train.progress import make_console, say


@dataclass(frozen=True)
class Config:
    """Count how often the null test holds."""

    times: int = 40
    """Measurements."""
    rounds: Literal[7, 11, 22] = 11
    """Samples of each case in a measurement: as with --quick, as usual, as of training."""
    batch: int = 512
    """Rows of logits."""
    classes: int = 1000
    """Logits a row."""
    seed: int = 0
    """Of the order of the cases."""
    device: DeviceConfig = field(default_factory=DeviceConfig)

    def __post_init__(self) -> None:
        """Check every range."""
        for name in ("times", "batch", "classes"):
            require(f"--{name}", getattr(self, name), getattr(self, name) >= 1, "1 or more")
        require("--seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 4294967295")


def main(arguments: Sequence[str]) -> None:
    """Measure, and say how often it held."""
    config = parse(Config, arguments, prog="xent bench null", about=__doc__)
    use_device(config.device)
    console = make_console()
    say(console, "device", f"{device_name()}, jax {jax.__version__}")
    cell = Cell("integer", config.batch, config.classes, "float32", "gradient")
    ours = next(case for case in make_cases(cell, config.seed, "none") if case.name == "ours")
    found: list[Estimate] = []
    with console.status("measuring") as status:
        for number in range(config.times):
            status.update(f"{number + 1} of {config.times}")
            pair = [ours, ours._replace(name="ours, again")]
            one, again = measure(pair, rounds=config.rounds, seed=f"{config.seed} {number}").timings
            found.append(ratio(again.seconds, one.seconds))
    held = [null.low <= 1 <= null.high for null in found]
    widest, least = max(null.high - null.low for null in found), min(null.high - null.low for null in found)
    say(console, "held 1", f"{sum(held)} of {len(held)} intervals of {found[0].confidence:.1%}")
    say(console, "widths", f"{least:.1%} to {widest:.1%}")
    missed = ", ".join(f"{null.low:.3f}-{null.high:.3f}" for null, held in zip(found, held, strict=True) if not held)
    if missed:
        say(console, "missed", missed)
