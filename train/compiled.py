"""What a compiled program will do, read from the program: the memory it takes, and what its devices send each other."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

_KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast"
_COLLECTIVE = re.compile(rf"= (\(?[^=]*?) (?:({_KINDS})(?:-start)?)\(")
_ARRAY = re.compile(r"\b([a-z]+\d+\w*|pred)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One instruction by which devices exchange something."""

    kind: str
    """`all-gather`, `all-reduce`, `reduce-scatter`, `all-to-all`, `collective-permute`, ..."""
    shapes: tuple[tuple[int, ...], ...]
    """Of the arrays of one device that come out of it."""

    @property
    def largest(self) -> int:
        """Numbers in the largest of these arrays."""
        return max((math.prod(shape) for shape in self.shapes), default=0)


def abstract(shapes: Any, shardings: Any) -> Any:
    """Shapes of arrays that lie on a mesh: what a program can be compiled for without the arrays.

    Args:
      shapes: a pytree of arrays or of their shapes (`jax.eval_shape`).
      shardings: a pytree of the same structure.

    Example:
      >>> from xent.train.sharding import one_device, replicated
      >>> abstract({"x": jax.numpy.ones(3)}, {"x": replicated(one_device())})["x"].shape
      (3,)
    """
    return jax.tree.map(lambda s, of: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=of), shapes, shardings)


def compile_for(function: Callable[..., Any], *arguments: Any, **options: Any) -> jax.stages.Compiled:
    """Compile a function for the devices that its abstract arguments lie on.

    Args:
      function: pure.
      arguments: pytrees of `jax.ShapeDtypeStruct` with shardings, from `abstract`.
      options: what `jax.jit` takes: `donate_argnums`, `out_shardings`.

    Raises:
      jax.errors.JaxRuntimeError: with RESOURCE_EXHAUSTED, if it does not fit in a TPU's memory. For other devices
        `peak_memory` says what it takes.

    Example:
      >>> compiled = compile_for(lambda x: x + 1, jax.ShapeDtypeStruct((2,), "float32"))
      >>> collectives(compiled)
      []
    """
    return jax.jit(function, **options).trace(*arguments).lower().compile()


def peak_memory(compiled: jax.stages.Compiled) -> int:
    """Bytes that one device holds at most while the program runs, arguments and results included."""
    analysis: Any = compiled.memory_analysis()
    return int(analysis.peak_memory_in_bytes)


def collectives(compiled: jax.stages.Compiled) -> list[Collective]:
    """Every instruction of a program by which devices exchange something; one in a loop counts once."""
    return [
        Collective(kind, tuple(shape for _, shape in _arrays(results)))
        for results, kind in _COLLECTIVE.findall(compiled.as_text() or "")
    ]


def count(found: list[Collective]) -> Mapping[str, int]:
    """How many of each kind.

    Example:
      >>> count([Collective("all-gather", ((2, 3),)), Collective("all-gather", ((3,),))])
      {'all-gather': 2}
    """
    return {kind: sum(one.kind == kind for one in found) for kind in sorted({one.kind for one in found})}


def holds(compiled: jax.stages.Compiled, shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape occurs anywhere in a device's program, axes of size 1 left out."""
    wanted = tuple(size for size in shape if size != 1)
    return any(tuple(n for n in found if n != 1) == wanted for _, found in _arrays(compiled.as_text() or ""))


def _arrays(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """The dtype and shape of every array type in a program's text."""
    return [(dtype, tuple(int(n) for n in sizes.split(",") if n)) for dtype, sizes in _ARRAY.findall(text)]
