"""How exact our losses are, and optax's and torch's: the largest error of each, in every regime that breaks losses.

    xent precision                        a million inputs for each cross-entropy: five minutes of a CPU
    xent precision --quick                one minute, most of it compilation
    xent precision --only focal poly      the losses whose name contains one of these
    xent precision --inputs 100000000     a night

An input is a row: one vector of logits with its label, or of probabilities, or two vectors. Rows are drawn in regimes
(ties, confident, hopeless, offsets to a million, infinities, near the smallest normal float, masked, smoothed, soft
labels, nearly equal, unnormalised, up to 262144 classes), and a search goes on from those that we do worst on. The
softmax and sigmoid cross-entropies get a million rows each over three dtypes, the others a twentieth in float32 and a
hundredth, of one width, in each other dtype, CTC less. The truth is computed in float64, in a form where nothing
cancels; the worst rows of each loss and dtype, a thousand in most, are computed again by mpmath in 80 digits (none of
262144 classes).

Errors are in units of the last place (ulp) of float32; a gradient's in ulp of its own dtype, if that is smaller, being
the float32 gradient rounded once. The bound is that of the loss's docstring, in ulp of the magnitude and beyond the
absolute slack that it names: for cross-entropies the contract's 8 ulp to 1000 classes and 32 to 262144, beyond one
smallest normal float a class. A gradient whose bound no docstring states is held to that of the value, in ulp of its
largest term, or to none where that is not kept. The closed forms of derivatives stand in the gradient's column. NaN or
inf where there should be none, or the other way round, is counted as wrong. Expect: the cross-entropies below 8 ulp,
optax's and torch's up to 2e7. If a bound of ours is broken the exit code is 1, and lines at the end say which. The
contract is about CPUs; on a GPU or TPU, whose exp differs, the figures are for information.

Left out, since they are thin sums of these: next_token_cross_entropy, the losses of several tasks, mean and sum; and
the fused losses of a linear head, whose logits are a matrix product.
"""

import importlib.util
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from xent.experiments.device import device_name, use_device
from xent.experiments.flags import DeviceConfig, parse
from xent.experiments.folder import create, only_writer, refuse_existing
from xent.experiments.precision.families import make_losses
from xent.experiments.precision.loss import Loss, torch_installed
from xent.experiments.precision.measure import Found, Plan, measure
from xent.experiments.precision.oracle import FORMATS
from xent.train.errors import UsageError, require
from xent.train.progress import make_console, say

AGREES = 1e-4
"""Ulp that the float64 truth may be from 80 digits: far from every error worth reporting."""


@dataclass(frozen=True)
class Config:
    """Measure the largest errors of the losses."""

    inputs: int = 1_000_000
    """Rows for each softmax or sigmoid cross-entropy, shared among dtypes and regimes; others get a share of it."""
    quick: bool = False
    """20000 rows instead, and ten classes only, however many --inputs says; other losses in float32 only."""
    only: tuple[str, ...] = ()
    """Measure only the losses whose names contain one of these; all others are left out."""
    torch: bool = True
    """Measure torch too, if it is installed."""
    seed: int = 0
    """Seed of the rows."""
    out: Path | None = None
    """Folder to write, which must not exist yet; by default the next free one under runs/."""
    device: DeviceConfig = field(default_factory=DeviceConfig)

    def __post_init__(self) -> None:
        """Check every range."""
        require("--inputs", self.inputs, 1000 <= self.inputs <= 10**12, "from 1000 to 1000000000000")
        if self.only and not make_losses(False, self.only):
            names = ", ".join(loss.name for loss in make_losses(False))
            raise UsageError(f"--only {' '.join(self.only)}: no name contains any of these; there are: {names}")
        require("--seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 4294967295")


def make_plan(config: Config) -> Plan:
    """Say how much to do."""
    if config.quick:
        return Plan(20_000, narrow=True, checked=100, checked_numbers=2000)
    return Plan(config.inputs, narrow=False, checked=1000, checked_numbers=50_000)


def measure_all(losses: Sequence[Loss], plan: Plan, seed: int, console: Console) -> list[Found]:
    """Measure each loss in each dtype and print what was found."""
    from xent.experiments.precision import report

    every = []
    for loss in losses:
        # By name, so that a loss gets the same rows whichever others are measured.
        of_name = zlib.crc32(loss.name.encode())
        for dtype in plan.dtypes(loss):
            with console.status(f"{loss.name}, {dtype}"):
                found = measure(loss, dtype, plan, np.random.default_rng([seed, of_name, list(FORMATS).index(dtype)]))
            console.print(report.table(found))
            every.append(found)
    console.print(report.summary(every))
    return every


def write(every: Sequence[Found], folder: Path) -> None:
    """Write the tables and pictures of a run."""
    from xent.experiments.precision import report

    cells = [cell for found in every for cell in found.cells]
    report.write_errors(folder / "errors.csv", cells)
    report.write_worst(folder / "worst.csv", [worst for found in every for worst in found.worst])
    report.write_checks(folder / "mpmath.csv", [found.check for found in every])
    for family, dtype in dict.fromkeys((cell.family, cell.dtype) for cell in cells):
        file = f"{family}.png" if dtype == "float32" else f"{family}-{dtype}.png"
        report.draw([cell for cell in cells if cell.family == family], dtype, folder / file)


def verdict(every: Sequence[Found]) -> list[str]:
    """Say what is broken, a line each; nothing if all holds."""
    lines = [
        f"{check.loss}, {check.dtype}: the truth differs from mpmath's by {check.differ:.1g} ulp"
        for check in (found.check for found in every)
        if not check.differ <= AGREES
    ]
    broken = [cell for found in every for cell in found.cells if not cell.holds]
    return lines + [
        f"{cell.loss}, {cell.dtype}, {cell.regime}: the {cell.of} is off by {cell.errors['xent'].largest:.4g} ulp "
        f"(bound {cell.bound:.4g}), {cell.errors['xent'].wrong} rows wrong"
        for cell in broken
    ]


def main(arguments: Sequence[str]) -> None:
    """Measure, print, write; exit with code 1 if a bound of ours is broken."""
    config = parse(Config, arguments, prog="xent precision", about=__doc__)
    if importlib.util.find_spec("mpmath") is None:
        raise UsageError("mpmath is not installed: pip install mpmath brings the many digits that this command needs")
    refuse_existing(config.out)
    use_device(config.device)
    console = make_console()
    console.width = max(console.width, 180)  # a table cut off says nothing
    say(console, "device", f"{device_name()}, jax {jax.__version__}")
    torch = config.torch and torch_installed()
    if config.torch and not torch:
        say(console, "left out", "torch, which is not installed")
    folder = create(config.out, "precision", config)
    say(console, "run", str(folder))
    with only_writer(folder):
        losses = make_losses(torch, config.only)
        if config.only:
            say(console, "left out", "every loss but " + "; ".join(loss.name for loss in losses))
        every = measure_all(losses, make_plan(config), config.seed, console)
        write(every, folder)
    inside = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
    say(console, "wrote", f"{folder}: {', '.join(inside)}")
    broken = verdict(every)
    for line in broken:
        say(console, "BROKEN", line)
    if broken and jax.default_backend() == "cpu":
        sys.exit(1)
