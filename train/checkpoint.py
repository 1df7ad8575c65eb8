"""Checkpoints: the state of a run on disk, whole or not there at all, and checked when it is read.

Beside the state each holds `run`: how long the run's logs were when it was taken, and a checksum of the state, since
a flipped bit is otherwise read as a number like any other.
"""

import gc
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from xent.train.errors import UsageError
from xent.train.journal import Lengths

KEEP = 2


class Restored(NamedTuple):
    """What a checkpoint held."""

    state: Any
    lengths: Lengths
    """Bytes of each log that belong to it."""


def open_checkpoints(folder: Path, keep: int = KEEP) -> ocp.CheckpointManager:
    """Open a folder of checkpoints for saving and restoring.

    Saves are written beside the others and renamed when whole, in the background; the newest `keep` stay.
    Use it as a context manager: leaving waits for the last save.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, cleanup_tmp_directories=True)
    return ocp.CheckpointManager(folder.absolute(), options=options)


def save(manager: ocp.CheckpointManager, step: int, state: Any, lengths: Lengths) -> None:
    """Copy the state to the host and write it in the background, named by its step.

    Args:
      manager: from `open_checkpoints`.
      step: steps done.
      state: a pytree of arrays; a PRNG key is stored as the integers it holds, which any version can read.
      lengths: bytes of each log up to this step.
    """
    plain = jax.device_get(_plain(state))
    run = {"lengths": dict(lengths), "shapes": _shapes(plain), "checksum": _checksum(plain)}
    items = ocp.args.Composite(state=ocp.args.StandardSave(plain), run=ocp.args.JsonSave(run))
    manager.save(step, args=items, force=True)


def restore(
    manager: ocp.CheckpointManager, like: Any, sizes: Lengths, report: Callable[[str], None]
) -> Restored | None:
    """Read the newest checkpoint that is whole.

    One that is damaged, or whose logs have since lost lines, is set aside as `STEP.damaged` and said to be.

    Args:
      manager: from `open_checkpoints`.
      like: a state of the same shapes, whose values do not matter.
      sizes: bytes of each log as they are now.
      report: told of each checkpoint that is passed over.

    Returns:
      The newest good one, or None where there is none.

    Raises:
      UsageError: if the checkpoint is of another model.
    """
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            with _stderr_dropped():
                return _read(manager, step, like, sizes)
        except UsageError:
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds, each pages long
            folder = Path(manager.directory) / str(step)
            aside = _set_aside(folder)
            reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
            manager.reload()
            report(f"checkpoint {folder} is damaged ({reason}): moved to {aside.name}, falling back to the one before")
    return None


def _read(manager: ocp.CheckpointManager, step: int, like: Any, sizes: Lengths) -> Restored:
    plain = _plain(like)
    run = manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
    _refuse_another_model(Path(manager.directory) / str(step), run["shapes"], _shapes(plain))
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, plain)
    state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))).state
    if _checksum(jax.device_get(state)) != run["checksum"]:
        raise ValueError("its checksum differs")
    for name, length in run["lengths"].items():
        if sizes.get(name, 0) < length:
            raise ValueError(f"{name} has lost lines that it counts on")
    return Restored(_with_keys(state, like), run["lengths"])


def _refuse_another_model(folder: Path, there: dict[str, str], here: dict[str, str]) -> None:
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise UsageError(
                f"checkpoint {folder} is of another model: {name} is {there.get(name, 'missing')} there and "
                f"{here.get(name, 'missing')} here; restore the run's config.json, or start a new run"
            )


def _shapes(state: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): jax.typeof(leaf).str_short() for path, leaf in leaves
    }


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(state: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)


def _with_keys(state: Any, like: Any) -> Any:
    return jax.tree.map(lambda leaf, old: jax.random.wrap_key_data(leaf) if _is_key(old) else leaf, state, like)


def _checksum(state: Any) -> int:
    total = 0
    for leaf in jax.tree.leaves(state):
        total = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, total)
    return total


def _set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, so that the run can save that step again and nothing is thrown away."""
    number = 0
    while (aside := folder.with_name(f"{folder.name}.damaged" + (f"-{number}" if number else ""))).exists():
        number += 1
    return folder.rename(aside)


@contextmanager
def _stderr_dropped() -> Iterator[None]:
    """A read that fails leaves coroutines and threads behind that print pages, some of them from C++."""
    sys.stderr.flush()
    before = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        gc.collect()
        sys.unraisablehook = hook
        os.dup2(before, 2)
        os.close(before)
