"""A run's folder: it appears whole, is never overwritten, describes itself, and has one writer at a time."""

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from xent.experiments.versions import commit, differences, versions
from xent.train.errors import UsageError

CONFIG = "config.json"


def refuse_existing(out: Path | None) -> None:
    """Refuse a folder that exists, before any work is done for it.

    Raises:
      UsageError: if it does.
    """
    if out is not None and (out.exists() or out.is_symlink()):
        go_on = f", or continue that run with xent resume {out}" if (out / CONFIG).exists() else ""
        raise UsageError(f"--out {out} exists: name a new folder{go_on}")


def refuse_unwritable(out: Path | None) -> None:
    """Refuse a folder that could not be made, before any work is done for it.

    Raises:
      UsageError: if nothing can be written where it would be.
    """
    parent = _parent(out)
    existing = next(folder for folder in (parent, *parent.absolute().parents) if folder.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise _cannot_be_made(out, error) from None


def create(out: Path | None, experiment: str, config: Any) -> Path:
    """Make the folder of a new run, `out` or the next free `runs/EXPERIMENT-N`, with its config.json in it.

    It is made under another name and renamed, so there is never a run's folder without its config.

    Raises:
      UsageError: if `out` exists with anything in it, or cannot be made.
    """
    parent = _parent(out)
    making = parent / f".making-{secrets.token_hex(8)}"
    try:
        making.mkdir(parents=True)
        with (making / CONFIG).open("w") as file:
            file.write(_describe(experiment, config))
            file.flush()
            os.fsync(file.fileno())
        return _rename_to_free(making, parent, experiment) if out is None else making.rename(out)
    except OSError as error:
        if out is not None and out.exists():
            raise UsageError(f"--out {out} has just been made by another process: wait for it, or stop it") from None
        raise _cannot_be_made(out, error) from None
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _parent(out: Path | None) -> Path:
    return Path("runs") if out is None else out.parent


def _cannot_be_made(out: Path | None, error: OSError) -> UsageError:
    name = f"--out {out}" if out else str(_parent(out))
    return UsageError(f"{name} cannot be made ({error.strerror}): name a folder that can be written")


def _rename_to_free(making: Path, parent: Path, experiment: str) -> Path:
    taken = [folder.name.removeprefix(f"{experiment}-") for folder in parent.glob(f"{experiment}-*")]
    number = max((int(name) for name in taken if name.isdecimal()), default=0)
    while True:
        number += 1
        with contextlib.suppress(OSError):  # another process took this number
            return making.rename(parent / f"{experiment}-{number}")
        if not (parent / f"{experiment}-{number}").exists():
            return making.rename(parent / f"{experiment}-{number}")  # it was something else: let it be raised


def _describe(experiment: str, config: Any) -> str:
    text = {
        "experiment": experiment,
        "flags": dataclasses.asdict(config),
        "versions": versions(),
        "device": _device(),
        "commit": commit(),
    }
    return json.dumps(text, indent=2, default=str) + "\n"


def _device() -> dict[str, str | int]:
    device = jax.devices()[0]
    return {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()}


def begun_elsewhere(found: Mapping[str, Any]) -> str:
    """Say in words what a run was begun with that is another thing here: its device, versions of packages."""
    device = found.get("device")
    other = [] if device in (None, _device()) else [" ".join(map(str, device.values()))]
    return ", ".join([*other, *filter(None, [differences(found["versions"])])])


def read_config(folder: Path) -> dict[str, Any]:
    """Read a run's config.json: `experiment` and `flags`, and what it was made with.

    Raises:
      UsageError: if this is no run's folder, or its config.json cannot be read.
    """
    file = folder / CONFIG
    if not file.exists():
        there = sorted(str(found.parent) for found in Path("runs").glob(f"*/{CONFIG}"))
        hint = f"there are {', '.join(there[-5:])}" if there else "there are no runs here"
        raise UsageError(f"{folder} is not the folder of a run, it has no {CONFIG}: {hint}")
    try:
        text = json.loads(file.read_text())
        wrong = [name for name in ("flags", "versions") if not isinstance(text[name], dict)]
        if wrong:
            raise ValueError(f"its {wrong[0]} are no object")
        return {**text, "experiment": str(text["experiment"])}
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UsageError(f"{file} cannot be read ({reason}): restore it, or start a new run") from None


@contextlib.contextmanager
def private_copy(folder: Path) -> Iterator[Path]:
    """A copy of a run's folder for a process that is not its writer: its own logs and pictures, the same checkpoints.

    What is written there goes with it; checkpoints are shared, since each process holds a part of them.
    """
    with tempfile.TemporaryDirectory() as name:
        mine = Path(name)
        for file in folder.iterdir():
            if file.is_file():
                shutil.copy(file, mine)
        (mine / "checkpoints").symlink_to((folder / "checkpoints").absolute())
        yield mine


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a run's folder against other processes; the system lets go of it when the process ends, however it ends.

    Raises:
      UsageError: if another process holds it, or it cannot be written.
    """
    try:
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written ({error.strerror}): make it writable, or start a new run"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{folder} is being written by another process: wait for it, or stop it first") from None
        yield
