"""Every mesh that some chips make, each compiled once, and their order."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from xent.experiments.fits.verdict import Verdict
from xent.train.interrupt import Interrupted, saves_on_signals


def meshes(devices: int) -> list[dict[str, int]]:
    """All ways to lay devices out as data x model, most of the data first.

    Example:
      >>> meshes(4)
      [{'data': 4, 'model': 1}, {'data': 2, 'model': 2}, {'data': 1, 'model': 4}]
    """
    return [{"data": devices // n, "model": n} for n in range(1, devices + 1) if devices % n == 0]


def ranked(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those that fit by peak memory, then by what a chip receives; then those that do not, as they came."""
    return sorted(verdicts, key=lambda one: (not one.fits, one.fits and (one.peak or 0, one.received)))


def sweep(
    judge: Callable[[Mapping[str, int]], Verdict], axes: Sequence[Mapping[str, int]], show: Callable[[Verdict], None]
) -> tuple[list[Verdict], int | None]:
    """Judge meshes one after another; a signal ends that at once, with what there is.

    Args:
      judge: compiles for a mesh.
      axes: the meshes.
      show: called with each verdict as it comes.

    Returns:
      The verdicts, and the signal that came, if one did: its compiler still runs, so end the process with `end`.
    """
    found: list[Verdict] = []
    pool = ThreadPoolExecutor(1)  # Python answers no signal while a compiler runs in its own thread
    try:
        with saves_on_signals() as received:
            for mesh in axes:
                waiting = pool.submit(judge, mesh)
                while not waiting.done() and received() is None:
                    time.sleep(0.05)
                if received() is not None:
                    break
                found.append(waiting.result())
                show(found[-1])
    except Interrupted as stopped:
        return found, stopped.code - 128
    pool.shutdown()
    return found, None
