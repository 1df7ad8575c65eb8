"""PyTorch as a peer: no dependency of ours, imported where it is installed, and timed on CPUs only."""

import importlib
import importlib.util
from typing import Any, Literal

import jax

from xent.train.errors import UsageError

Against = Literal["all", "optax", "torch", "none"]
"""Peers that a benchmark may be asked for."""


def reason_against() -> str | None:
    """Why PyTorch cannot be timed here; nothing if it can."""
    if importlib.util.find_spec("torch") is None:
        return "is not installed (pip install torch)"
    return None if jax.default_backend() == "cpu" else "is timed on a CPU only"


def takes_part(against: Against) -> bool:
    """Whether PyTorch is wanted and here.

    Raises:
      UsageError: if it was asked for by name and is not.
    """
    reason = reason_against()
    if against == "torch" and reason is not None:
        raise UsageError(f"--against torch: PyTorch {reason}: take --against optax")
    return against in ("all", "torch") and reason is None


def left_out(against: Against) -> list[tuple[str, str]]:
    """The line that says so, where it is wanted and not here.

    Raises:
      UsageError: if it was asked for by name.
    """
    wanted = against in ("all", "torch")
    return [("left out", f"PyTorch, which {reason_against()}")] if wanted and not takes_part(against) else []


def load() -> Any:
    """Import PyTorch, whose types are known where it is installed and unknown where it is not."""
    return importlib.import_module("torch")
