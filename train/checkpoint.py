"""Checkpoints: the state of a run on disk, whole or not there at all, and checked before it is believed.

Each holds the state and `run`: the run's flags, and how long its logs were when it was taken. Beside it,
`STEP.checksums` is written when the next save begins or the run ends, since a flipped bit would otherwise be read as a
number like any other. Only a process killed before then leaves one without; orbax's own checks must do for it.
"""

import contextlib
import errno
import json
import os
import shutil
import textwrap
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging

from xent.train.errors import UsageError
from xent.train.journal import METRICS, Lengths
from xent.train.processes import from_first, is_first

OVERHEAD = 256 * 1024
"""Bytes that a checkpoint takes on disk beyond its arrays, at most."""


class Restored(NamedTuple):
    """What a checkpoint held."""

    state: Any
    lengths: Lengths
    """Bytes of each log that belong to it."""


@contextmanager
def open_checkpoints(folder: Path, keep: int) -> Iterator[ocp.CheckpointManager]:
    """Open a folder of checkpoints for saving and restoring; leaving waits for the last save.

    Saves are written beside the others and renamed when whole, in the background; the newest `keep` stay.
    """
    folder = folder.resolve()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=True,
        cleanup_tmp_directories=True,  # what a kill inside a save left
    )
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)  # orbax logs pages about what it then raises
    try:
        with _disk_errors():
            manager = ocp.CheckpointManager(folder, options=options)
        try:
            yield manager
        finally:
            with _disk_errors():
                manager.close()
    finally:
        with contextlib.suppress(OSError):  # no room: orbax's own checks must do
            _seal(folder)  # also when Ctrl-C ends the run: its last save is what most resumes start from
        logging.set_verbosity(verbosity)


def save(manager: ocp.CheckpointManager, step: int, state: Any, flags: Sequence[str], lengths: Lengths) -> None:
    """Copy the state to the host and write it in the background, named by its step; each process writes its share.

    Args:
      manager: from `open_checkpoints`.
      step: steps done.
      state: a pytree of arrays; a PRNG key is stored as the integers it holds, which any version can read.
      flags: what the run was asked for, which `restore` holds it to.
      lengths: bytes of each log up to this step.

    Raises:
      OSError: if there is no room for it; the checkpoints before it are as they were.
    """
    plain = _plain(state)
    with _disk_errors():
        manager.wait_until_finished()
    _seal(Path(manager.directory))
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(plain)) + OVERHEAD
    if shutil.disk_usage(manager.directory).free < needed:
        raise OSError(
            errno.ENOSPC, os.strerror(errno.ENOSPC)
        )  # asked first: orbax would leave half of it, and pages of text
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(plain),
        run=ocp.args.JsonSave({"flags": [*flags], "lengths": dict(lengths), "shapes": _shapes(plain)}),
    )
    with _disk_errors():
        manager.save(step, args=items, force=True)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """What orbax and tensorstore say in many ways and pages, where a quota, a limit or a disk ends: one OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, _first_line(error)) from None


def restore(
    manager: ocp.CheckpointManager, like: Any, flags: Sequence[str], sizes: Lengths, report: Callable[[str], None]
) -> Restored | None:
    """Read the newest checkpoint that is whole, on whatever devices it was made.

    One that is damaged, or whose logs have since lost lines, is set aside as `STEP.unusable` and said to be.

    Args:
      manager: from `open_checkpoints`.
      like: a state of the same shapes, whose values do not matter; what is read lies on its devices as it does.
      flags: what the run is asked for now.
      sizes: bytes of each log as they are now.
      report: told of each checkpoint that is passed over.

    Returns:
      The newest good one, or None where there is none.

    Raises:
      UsageError: if the checkpoint is of another model, or was made with other flags.
    """
    steps = sorted(manager.all_steps(), reverse=True)
    _refuse_lost_logs(manager, steps, sizes)
    for step in steps:
        folder = Path(manager.directory) / str(step)
        try:
            _check_files(folder)
            run = manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
            _check_logs(run["lengths"], sizes)
            _refuse_other_flags(folder, run["flags"], flags)
            plain = _plain(like)
            _refuse_another_model(folder, run["shapes"], _shapes(plain))
            target = jax.tree.map(ocp.utils.to_shape_dtype_struct, plain)
            state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))).state
            return Restored(_with_keys(state, like), run["lengths"])
        except (UsageError, MemoryError, PermissionError):
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds, each pages long
            aside = _set_aside(folder)
            manager.reload()
            then = "there is none before it" if step == steps[-1] else "falling back to the one before"
            report(f"checkpoint {folder} cannot be used ({_first_line(error)}): moved to {aside.name}, {then}")
    return None


def _seal(folder: Path) -> None:
    """Write the checksums of every complete checkpoint that has none yet, and drop those of checkpoints gone."""
    if not is_first():
        return
    for file in folder.glob("*.checksums"):
        if not file.with_suffix("").exists():
            file.unlink()
    for step in (path for path in folder.iterdir() if path.name.isdecimal()):
        seal = step.with_suffix(".checksums")
        if not seal.exists():
            making = seal.with_suffix(".making")
            making.write_text(json.dumps(_checksums(step)))
            making.rename(seal)


def _checksums(step: Path) -> dict[str, int]:
    files = (file for file in sorted(step.rglob("*")) if file.is_file())
    return {str(file.relative_to(step)): zlib.crc32(file.read_bytes()) for file in files}


def _check_files(step: Path) -> None:
    seal = step.with_suffix(".checksums")
    if not seal.exists():
        return
    expected, found = json.loads(seal.read_text()), _checksums(step)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(f"its file {name} is {'changed' if name in found else 'missing'}")


def _refuse_lost_logs(manager: ocp.CheckpointManager, steps: Sequence[int], sizes: Lengths) -> None:
    """If no checkpoint has all of its log, the log was lost and not the checkpoints: they are kept for it."""
    if not steps:
        return
    for step in steps:
        try:
            run = manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
            _check_logs(run["lengths"], sizes)
            return
        except _LostLog:
            continue
        except Exception:  # damaged: `restore` will say so
            return
    folder = Path(manager.directory).parent
    raise UsageError(
        f"{folder / METRICS} has lost lines that every checkpoint counts on: restore it, or repeat the run with "
        f"xent rerun {folder}"
    )


class _LostLog(ValueError):
    pass


def _first_line(error: Exception) -> str:
    return textwrap.shorten((str(error).splitlines() or [""])[0], 100) or type(error).__name__


def _check_logs(lengths: Lengths, sizes: Lengths) -> None:
    if sizes.get(METRICS, 0) < lengths.get(METRICS, 0):  # the clock of timing.jsonl is nobody's result
        raise _LostLog(f"{METRICS} has lost lines that it counts on")


def _refuse_other_flags(folder: Path, there: Sequence[str], here: Sequence[str]) -> None:
    names = {flag.partition("=")[0] for flag in {*there} ^ {*here}}
    if names:
        then, now = (", ".join(flag for flag in flags if flag.partition("=")[0] in names) for flags in (there, here))
        raise UsageError(
            f"checkpoint {folder} was made with {then or 'fewer flags'}, now it is {now or 'fewer'}: restore the "
            "run's config.json, or start a new run with xent rerun"
        )


def _refuse_another_model(folder: Path, there: dict[str, str], here: dict[str, str]) -> None:
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise UsageError(
                f"checkpoint {folder} is of another model: {name} is {there.get(name, 'missing')} there and "
                f"{here.get(name, 'missing')} here; restore the run's config.json, or start a new run"
            )


def _shapes(state: Any) -> dict[str, str]:
    name = partial(jax.tree_util.keystr, simple=True, separator="/")
    return {name(path): jax.typeof(leaf).str_short() for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(state: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)


def _with_keys(state: Any, like: Any) -> Any:
    return jax.tree.map(lambda leaf, old: jax.random.wrap_key_data(leaf) if _is_key(old) else leaf, state, like)


def _set_aside(folder: Path) -> Path:
    """Rename a checkpoint, so that the run can save that step again and nothing is thrown away."""

    def rename() -> str:
        number = 0
        while (aside := folder.with_name(f"{folder.name}.unusable" + (f"-{number}" if number else ""))).exists():
            number += 1
        folder.with_suffix(".checksums").unlink(missing_ok=True)
        return str(folder.rename(aside))

    return Path(from_first(rename))
