"""Time a training step of the article's job (784-256-10, ReLU, Adam, batches of 64), as ours and as others run it.

    xent bench train                      about a minute on two cores
    xent bench train --out train.json     with every sample

The 60000 images are random bytes. "again" is the first case a second time: its ratio to the first is noise alone.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax

from xent.experiments.bench.engine import Case, measure
from xent.experiments.bench.record import cores, refuse, table, to_record, write
from xent.experiments.bench.train_cases import EXAMPLES, Job, ours, plain, products, random_job
from xent.experiments.bench.train_torch import installed, pytorch
from xent.experiments.device import device_name, use_device
from xent.experiments.flags import DeviceConfig, parse
from xent.train.errors import require
from xent.train.progress import make_console, say


@dataclass(frozen=True)
class Config:
    """Time a training step of the default job."""

    rounds: int = 20
    """Samples of each case."""
    steps: int = 200
    """Steps a sample."""
    batch_size: int = 64
    """Examples a step."""
    hidden: int = 256
    """Units of the hidden layer."""
    seed: int = 0
    """Seed of data, weights and the order of the cases."""
    torch: bool = True
    """Time PyTorch too, if it is installed; on a CPU only."""
    out: Path | None = None
    """JSON file to write, which must not exist yet."""
    device: DeviceConfig = field(default_factory=DeviceConfig)

    def __post_init__(self) -> None:
        """Check every range."""
        for name in ("rounds", "steps", "hidden"):
            require(f"--{name}", getattr(self, name), 1 <= getattr(self, name) < 2**31, "from 1 to 2147483647")
        require("--batch-size", self.batch_size, 1 <= self.batch_size <= EXAMPLES, f"from 1 to {EXAMPLES}")
        require("--seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 4294967295")


def make_cases(job: Job, torch: bool) -> list[Case]:
    """List what to time; ratios are to the first."""
    peers = [
        pytorch(job, "PyTorch"),
        pytorch(job, "PyTorch, fused Adam", fused=True),
        pytorch(job, "the same, one thread", fused=True, threads=1),
    ]
    return [
        ours(job, "ours"),
        ours(job, "ours, one step a call", single=True),
        plain(job, "plain optax script"),
        *(peers if torch else []),
        products(job, "two large products"),
        ours(job, "ours, again"),
    ]


def main(arguments: Sequence[str]) -> None:
    """Measure, show a table, write the record."""
    config = parse(Config, arguments, prog="xent bench train", about=__doc__)
    refuse(config.out)
    use_device(config.device)
    console = make_console()
    say(console, "device", f"{device_name()}, jax {jax.__version__}, {cores()} threads")
    say(console, "data", f"{EXAMPLES} x 784 random bytes, ten labels, generated")
    torch = config.torch and installed() and jax.default_backend() == "cpu"
    if config.torch and not torch:
        reason = "is timed on a CPU only" if installed() else "is not installed"
        say(console, "left out", f"PyTorch, which {reason}")
    job = random_job(hidden=config.hidden, batch_size=config.batch_size, steps=config.steps, seed=config.seed)
    with console.status("building") as status:
        measured = measure(make_cases(job, torch), rounds=config.rounds, seed=config.seed, report=status.update)
    console.print(table("step", measured))
    if config.out is not None:
        write(config.out, to_record("train", "step", dataclasses.asdict(config), measured))
        say(console, "wrote", str(config.out))
