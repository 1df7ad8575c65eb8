"""Flags: a frozen dataclass becomes a command line, and a command line or a config.json becomes the dataclass again."""

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from xent.train.errors import UsageError, require
from xent.train.sharding import parse_mesh

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class DeviceConfig:
    """What computes; the same for everything that does."""

    platform: Literal["cpu", "gpu", "tpu"] | None = None
    """Where to compute; by default the best that JAX finds."""
    matmul_precision: Literal["default", "high", "highest"] = "default"
    """Precision of float32 products on chips that have faster, rougher ones (TF32 on NVIDIA, bfloat16 on TPU)."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where and how often to run; the same for every experiment."""

    seed: int = 0
    """Seed of weights, order and noise. The split of the data does not depend on it."""
    seeds: int = 1
    """Repeat with this many seeds, seed, seed + 1, ..., and report mean and spread."""
    out: Path | None = None
    """Folder to write, which must not exist yet; by default the next free one under runs/."""
    device: DeviceConfig = dataclasses.field(default_factory=DeviceConfig)
    mesh: str | None = None
    """Devices that share the work, all there are: data=4,model=2 splits batches in 4 and, where the experiment's rules
    say so, parameters in 2. On a CPU, any number; not given: one device."""
    distributed: bool = False
    """Be one of several processes that share a mesh, as SLURM, Open MPI, Kubernetes or a TPU pod start them; elsewhere
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say which one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the model computes in; parameters, losses and metrics stay float32."""
    save_every: int | None = None
    """Steps between checkpoints, rounded up to the end of a call; not given: one a minute. There is one at the end."""
    keep: int = 2
    """Checkpoints that stay on disk, the newest ones."""
    resume: Literal["never", "auto"] = "never"
    """auto: start the run in --out, or continue it if it is there, for schedulers that restart jobs."""
    data_dir: Path | None = None
    """Where TFDS keeps prepared datasets; by default its own choice, $TFDS_DATA_DIR or tensorflow_datasets at home."""

    def __post_init__(self) -> None:
        """Check every range."""
        require("--seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 4294967295")
        most = 2**32 - self.seed
        require("--seeds", self.seeds, 1 <= self.seeds <= most, f"from 1 to {most}, seeds end at 4294967295")
        if self.mesh is not None:
            parse_mesh(self.mesh)
        fits = not self.distributed or (self.mesh is not None and self.seeds == 1)
        require("--distributed", self.distributed, fits, "given together with --mesh, and with one seed")
        require("--keep", self.keep, self.keep >= 1, "1 or more")
        require("--save-every", self.save_every, self.save_every is None or self.save_every >= 1, "1 or more")
        for name, path in (("--out", self.out), ("--data-dir", self.data_dir)):
            require(name, path, not str(path).startswith("~"), "a path without ~, which only a shell expands")


def _count(value: Any) -> bool:
    return 1 <= value < 2**31


def _share(value: Any) -> bool:
    return 0 <= value < 1


_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("epochs", "batch_size", "steps_per_call", "patience", "hidden", "latent", "units", "layers"),
        (_count, "from 1 to 2147483647"),
    ),
    **dict.fromkeys(("dropout", "label_smoothing", "decay", "validation"), (_share, "from 0 to below 1")),
}
"""Of the flags that mean the same wherever they are."""


def require_ranges(config: Any) -> None:
    """Refuse a value out of the range that its flag has in every experiment; None is one that was not given.

    Raises:
      UsageError: with the first of them.
    """
    for name, (holds, allowed) in _RANGES.items():
        value = getattr(config, name, None)
        require(f"--{name.replace('_', '-')}", value, value is None or holds(value), allowed)


def total_steps(epochs: int, examples: int, batch_size: int) -> int:
    """Steps of a run, the last of each epoch perhaps a smaller one.

    Raises:
      UsageError: if they are more than an int32 counts.

    Example:
      >>> total_steps(epochs=3, examples=100, batch_size=64)
      6
    """
    steps = epochs * -(-examples // batch_size)
    require("--epochs", epochs, steps < 2**31, f"fewer: {steps} steps are more than the 2147483647 that are counted")
    return steps


def parse(cls: type[Config], arguments: Sequence[str], *, prog: str, about: str | None = None) -> Config:
    """Turn a command line into a config.

    Args:
      cls: a frozen dataclass; nested ones contribute their flags without a prefix.
      arguments: the command line, without the command.
      prog: what usage calls the command.
      about: text for --help, by default the docstring of `cls`.

    Raises:
      UsageError: for an unknown flag (with the nearest), a value of the wrong type or out of range, in one line.
      SystemExit: with code 0, after --help.
    """
    return _parse(cls, arguments, prog, about, return_unknown_args=False)[0]


def parse_known(
    cls: type[Config], arguments: Sequence[str], *, prog: str, about: str | None = None
) -> tuple[Config, list[str]]:
    """The same, for a command that hands flags on: returns also those that `cls` does not know, in their order."""
    return _parse(cls, arguments, prog, about, return_unknown_args=True)


def _parse(
    cls: type[Config], arguments: Sequence[str], prog: str, about: str | None, *, return_unknown_args: bool
) -> tuple[Config, list[str]]:
    said, width = io.StringIO(), _HELP_WIDTH if {"-h", "--help"} & set(arguments) else _ONE_LINE
    try:
        with contextlib.redirect_stderr(said), _columns(width):
            cli: Any = tyro.cli  # whose overloads want a literal
            found = cli(
                cls,
                args=list(arguments),
                prog=prog,
                description=about,
                config=(tyro.conf.OmitArgPrefixes,),
                return_unknown_args=return_unknown_args,
            )
            return found if return_unknown_args else (found, [])
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(_one_line(said.getvalue(), prog)) from None


_HELP_WIDTH = 110
_ONE_LINE = 10_000  # tyro frames its messages in a box as wide as the terminal: wide enough, each is one line


@contextlib.contextmanager
def _columns(width: int) -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _one_line(box: str, prog: str) -> str:
    """The message inside tyro's box, drawn with lines or (no UTF-8) with spaces, and the nearest flag it offers."""
    parts: list[list[str]] = [[]]
    for row in (row.strip("│ ") for row in box.splitlines()[1:]):  # the first one is a title
        if row.strip("─-╰╯"):
            parts[-1].append(row)
        elif parts[-1]:
            parts.append([])
    message = " ".join(parts[0]).partition("  Got errors")[0].rstrip(".")
    message = re.sub(r"no type matching {None}\|(\w+) could be instantiated from \['(.*?)'\]", r"\2 is no \1", message)
    if message.startswith("Error parsing "):  # "Error parsing GROUP: --flag 3: must be ...": the message names its flag
        group, _, rest = message.removeprefix("Error parsing ").partition(": ")
        message = f"{group}: {rest}" if group.startswith("-") else rest
    for part in parts[1:]:
        if part and part[0].startswith("Perhaps you meant"):
            message += f" (did you mean {part[1].split()[0].rstrip(',')}?)"
    return f"{message}; {prog} --help lists the flags"


def to_arguments(config: Any) -> list[str]:
    """Turn a config, or what JSON made of it, into the command line that gives it again."""
    values = config if isinstance(config, Mapping) else dataclasses.asdict(config)
    arguments: list[str] = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, Mapping):
            arguments += to_arguments(value)
        elif isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            arguments.append(f"--{flag}={value}")
    return arguments


_NOT_THE_RESULT = (
    "--out=", "--resume=", "--keep=", "--save-every=", "--platform=", "--mesh=", "--distributed", "--no-distributed",
    "--data-dir=",
)  # fmt: skip


def identity(config: Any) -> list[str]:
    """The flags that decide what a run computes: those that a run which is continued must have in common with itself.

    Example:
      >>> identity({"hidden": 32, "out": "runs/digits-1"})
      ['--hidden=32']
    """
    return [flag for flag in to_arguments(config) if not flag.startswith(_NOT_THE_RESULT)]
