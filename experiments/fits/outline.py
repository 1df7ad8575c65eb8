"""A training step from shapes alone: nothing is computed and no array is made, so the chips need not be here."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from xent.train.compiled import abstract, compile_for
from xent.train.sharding import Rules, over_data, require_shares, state_shardings
from xent.train.step import Batch, Step, TrainState


class Outline(NamedTuple):
    """What a step is made of, for some mesh."""

    step: Step
    state: TrainState
    """Shapes."""
    batch: Batch
    """Shapes of the whole batch, of all devices together."""
    rules: Rules
    """Which parameters are split, and how."""
    work: str
    """What a step takes, in words: 32,768 tokens."""

    @property
    def parameters(self) -> int:
        """Numbers that are trained."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))


def batch_of(size: int, **arrays: tuple[Sequence[int], str]) -> Batch:
    """Shapes of a batch: of each array, by name, the shape of an example and the dtype; `where` is added.

    Example:
      >>> batch_of(64, label=((), "int32"))["label"]
      ShapeDtypeStruct(shape=(64,), dtype=int32)
    """
    named = {**arrays, "where": ((), "bool")}
    return {name: jax.ShapeDtypeStruct((size, *shape), dtype) for name, (shape, dtype) in named.items()}


def compile_step(outline: Outline, mesh: Mesh) -> jax.stages.Compiled:
    """Compile a step as a run on this mesh does it, its state donated.

    Args:
      outline: of the step on this mesh.
      mesh: of devices that are here, or of `devices_of`.

    Returns:
      What `peak_memory` and `collectives` read.

    Raises:
      jax.errors.JaxRuntimeError: if it does not fit in a TPU's memory.
      UsageError: if batch or parameters cannot be split so.
    """
    require_shares(mesh, jax.tree.leaves(outline.batch)[0].shape[0])
    shardings: Any = state_shardings(outline.state, mesh, outline.rules)
    batch = abstract(outline.batch, jax.tree.map(lambda _: over_data(mesh), outline.batch))
    state = abstract(outline.state, shardings)
    return compile_for(outline.step, state, batch, donate_argnums=0, out_shardings=(shardings, None))
