"""A run's folder: made once, never overwritten, and self-describing through its config.json."""

import dataclasses
import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

import jax

from xent.train.errors import UsageError


def create(out: Path | None, experiment: str) -> Path:
    """Make the folder of a new run: `out`, or the next free `runs/EXPERIMENT-N`.

    Raises:
      UsageError: if `out` exists, or cannot be made.
    """
    if out is not None:
        return _make(out)
    taken = [folder.name.removeprefix(f"{experiment}-") for folder in Path("runs").glob(f"{experiment}-*")]
    number = max((int(name) for name in taken if name.isdecimal()), default=0) + 1
    while (folder := Path("runs") / f"{experiment}-{number}").exists():
        number += 1
    return _make(folder)


def refuse_existing(out: Path | None) -> None:
    """Refuse a folder that exists, before any work is done for it.

    Raises:
      UsageError: if it does.
    """
    if out is not None and out.exists():
        raise UsageError(f"--out {out} exists: name a new folder, or continue that run with xent resume {out}")


def _make(folder: Path) -> Path:
    refuse_existing(folder)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(
            f"--out {folder} cannot be made ({error.strerror}): name a folder that can be written"
        ) from None
    return folder


def write_config(folder: Path, experiment: str, config: Any) -> None:
    """Write config.json: what repeats the run (flags) and what it ran on (versions, device, commit)."""
    device = jax.devices()[0]
    text = {
        "experiment": experiment,
        "flags": dataclasses.asdict(config),
        "versions": versions(),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "commit": commit(),
    }
    (folder / "config.json").write_text(json.dumps(text, indent=2, default=str) + "\n")


def read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    """Read a run's experiment and flags.

    Raises:
      UsageError: if this is no run's folder, or its config.json cannot be read.
    """
    file = folder / "config.json"
    if not file.exists():
        there = sorted(str(found.parent) for found in Path("runs").glob("*/config.json"))
        hint = f"there are {', '.join(there)}" if there else "there are no runs here"
        raise UsageError(f"{folder} is not the folder of a run, it has no config.json: {hint}")
    try:
        text = json.loads(file.read_text())
        return str(text["experiment"]), dict(text["flags"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{file} cannot be read ({error}): restore it, or start a new run") from None


def versions(*more: str) -> dict[str, str]:
    """Return the installed version of each package that a result depends on, and of `more` where they are installed."""
    names = (
        "xent",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "numpy",
        "tensorflow-datasets",
        "orbax-checkpoint",
        "scikit-learn",
    )
    installed = {distribution.name.lower(): distribution.version for distribution in importlib.metadata.distributions()}
    return {name: installed[name] for name in (*names, *more) if name in installed}


def commit() -> str | None:
    """Return the commit of the code that runs, with a + if files differ from it; None outside a checkout of it."""
    try:
        _git("ls-files", "--error-unmatch", __file__)  # a site-packages inside somebody else's checkout is not ours
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
