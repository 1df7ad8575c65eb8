"""Checkpoints: the state of a run on disk, whole or not there at all."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from xent.train.step import TrainState


def _plain(state: TrainState) -> TrainState:
    """The same state with its PRNG key as the integers it holds, which any version can read."""
    return state._replace(key=jax.random.key_data(state.key))


def open_checkpoints(folder: Path, keep: int = 2) -> ocp.CheckpointManager:
    """Open a folder of checkpoints for saving and restoring.

    Saves are written beside the others and renamed when whole, in the background; the newest `keep` stay.
    Use it as a context manager: leaving waits for the last save.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, cleanup_tmp_directories=True)
    return ocp.CheckpointManager(folder.absolute(), options=options)


def save(manager: ocp.CheckpointManager, state: TrainState) -> None:
    """Copy the state to the host and write it in the background, named by its step."""
    manager.save(int(state.step), args=ocp.args.StandardSave(_plain(state)), force=True)


def restore(manager: ocp.CheckpointManager, like: TrainState) -> TrainState | None:
    """Read the newest checkpoint.

    Args:
      manager: from `open_checkpoints`.
      like: a state of the same shapes, whose values do not matter.

    Returns:
      The state, or None where nothing was saved yet.
    """
    step = manager.latest_step()
    if step is None:
        return None
    target: Any = jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain(like))
    found: TrainState = manager.restore(step, args=ocp.args.StandardRestore(target))
    return found._replace(key=jax.random.wrap_key_data(found.key))
