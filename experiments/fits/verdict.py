"""Whether a step fits on a mesh: it is compiled, and the program says what it takes and what it sends."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from xent.experiments.fits.outline import Outline, compile_step
from xent.train.chips import Chips
from xent.train.collectives import Total, collectives, totals
from xent.train.compiled import peak_memory, refusal
from xent.train.errors import UsageError
from xent.train.sharding import make_mesh


class Verdict(NamedTuple):
    """What compiling a step for a mesh told."""

    mesh: Mapping[str, int]
    fits: bool
    peak: int | None
    """Bytes that a chip holds at most, or, of what the compiler refused, wanted at least; None if it did not say."""
    collectives: Sequence[Total]
    seconds: float
    """That compilation took, tracing included; 0 if it was not tried."""
    reason: str = ""
    """Why it does not fit, in the compiler's words or in ours."""
    refused: bool = False
    """Whether there is no program: the compiler gave up, so that `peak` is what it wanted at least."""

    @property
    def received(self) -> int:
        """Bytes that reach a chip from others in a step."""
        return sum(total.received for total in self.collectives)


def judge(step: Callable[[Mesh], Outline], axes: Mapping[str, int], chips: Chips) -> Verdict:
    """Compile a step for a mesh of chips.

    Args:
      step: its outline, by the mesh.
      axes: of the mesh, axis -> chips.
      chips: from `chips_of`.

    Raises:
      UsageError: if the chips make no such mesh, or batch or parameters cannot be split so.
    """
    mesh = make_mesh(axes, chips.devices)
    began = time.perf_counter()
    try:
        compiled = compile_step(step(mesh), mesh)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        wanted, _, reason = refusal(error)
        return Verdict(axes, False, wanted, [], time.perf_counter() - began, reason, refused=True)
    seconds, peak = time.perf_counter() - began, peak_memory(compiled)
    fits = chips.memory is None or peak <= chips.memory  # only TPUs' compiler refuses by itself
    return Verdict(axes, fits, peak, totals(collectives(compiled)), seconds, "" if fits else "more than a chip has")


def judge_or_refuse(step: Callable[[Mesh], Outline], axes: Mapping[str, int], chips: Chips) -> Verdict:
    """The same, with a mesh over which something cannot be split as one that does not fit."""
    try:
        return judge(step, axes, chips)
    except UsageError as error:
        return Verdict(axes, False, None, [], 0.0, str(error), refused=True)
