"""Several processes that are one program: each runs the same code on the same data and holds a share of the devices.

What they decide, they must decide alike, or they wait for each other for ever: where the run's folder is, when to save,
when to stop. The first one writes the folder. When a process dies, the others are ended by JAX, after 100 seconds
without a sign of life, and the run goes on from its last checkpoint when all are started again.
"""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from xent.train.errors import UsageError, require

ADDRESS, COUNT, PLACE = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_LONGEST = 4096
"""Bytes of a text that `from_first` hands around: the longest path there is."""


def processes_named() -> int | None:
    """How many processes there are, if the environment names a number.

    Raises:
      UsageError: if it is none.
    """
    text = os.environ.get(COUNT)
    require(f"${COUNT}", text, text is None or (text.isdecimal() and int(text) > 0), "1 or more")
    return None if text is None else int(text)


def join() -> None:
    """Join the other processes, before JAX computes anything; returns when all are there.

    The environment says who they are. What SLURM, Open MPI, Kubernetes and the TPU runtime set is understood; anybody
    else sets `JAX_COORDINATOR_ADDRESS` (host:port of the first process), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.

    Raises:
      UsageError: if the environment does not say, or they cannot be joined.
    """
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    try:
        place = int(os.environ[PLACE]) if PLACE in os.environ else None
        jax.distributed.initialize(num_processes=processes_named(), process_id=place)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0][:150]
        raise UsageError(
            f"--distributed: the other processes cannot be joined ({reason}): start all with a launcher that JAX knows "
            f"(SLURM, Open MPI, Kubernetes, TPU), or set {ADDRESS}=HOST:PORT, {COUNT} and, for each its own, {PLACE}"
        ) from None


def is_first() -> bool:
    """Whether this is the process that writes the run's folder and speaks to the user."""
    return jax.process_index() == 0


def from_first(make: Callable[[], str]) -> str:
    """Do something in the first process alone, and tell all the others what came of it.

    Args:
      make: called in the first process; gives a text of at most 4 kB.

    Returns:
      What it gave, in every process.

    Raises:
      UsageError: in every process, if `make` raises one.

    Example:
      >>> from_first(lambda: "runs/digits-1")
      'runs/digits-1'
    """
    said = b""
    if is_first():
        try:
            said = b"+" + make().encode()
        except UsageError as error:
            said = b"-" + str(error).encode()[: _LONGEST - 1]
    padded = np.frombuffer(said.ljust(_LONGEST), np.uint8)
    text = np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes().decode(errors="replace").rstrip()
    if text.startswith("-"):
        raise UsageError(text[1:])
    return text[1:]


def make_agree() -> Callable[[int], int]:
    """Make `agree(number)`, to be called by all processes equally often, which gives all of them the same number.

    Returns:
      A function that returns the largest number that any process gave. One process agrees with itself at once; several
      hear what was said in the call before, so that nobody waits for what the devices are doing now.

    Example:
      >>> make_agree()(3)
      3
    """
    if jax.process_count() == 1:
        return lambda number: number
    mesh = Mesh(np.asarray(jax.devices()), ("all",), axis_types=(AxisType.Auto,))
    largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))
    pending: list[jax.Array] = []

    def agree(number: int) -> int:
        mine = np.full(jax.local_device_count(), number, np.int32)
        pending.append(largest(jax.make_array_from_process_local_data(NamedSharding(mesh, P("all")), mine)))
        return int(pending.pop(0)) if len(pending) > 1 else 0

    return agree
