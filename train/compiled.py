"""Programs compiled from shapes alone, and the memory that they take."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

_ARRAY = re.compile(r"\b([a-z]+\d+\w*|pred)\[([\d,]*)\]")


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
      >>> peak_memory(compiled) < 100
      True
    """
    return jax.jit(function, **options).trace(*arguments).lower().compile()


def peak_memory(compiled: jax.stages.Compiled) -> int:
    """Bytes that one device holds at most while the program runs, arguments and results included."""
    analysis: Any = compiled.memory_analysis()
    return int(analysis.peak_memory_in_bytes)


def holds(compiled: jax.stages.Compiled, shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape occurs anywhere in a device's program, axes of size 1 left out."""
    wanted = tuple(size for size in shape if size != 1)
    return any(tuple(n for n in found if n != 1) == wanted for _, found in arrays_in(compiled.as_text() or ""))


def arrays_in(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """The dtype and shape of every array type in a program's text."""
    return [(dtype, tuple(int(n) for n in sizes.split(",") if n)) for dtype, sizes in _ARRAY.findall(text)]


class Refusal(NamedTuple):
    """What a TPU's compiler says of a program that does not fit."""

    wanted: int | None
    """Bytes, at least."""
    limit: int | None
    """Bytes that there are."""
    reason: str
    """The line that says so."""


def refusal(error: Exception) -> Refusal:
    """Read how much memory a program wanted of how much, from the error that refuses it.

    Args:
      error: a RESOURCE_EXHAUSTED of `compile_for`.

    Example:
      >>> refusal(ValueError("RESOURCE_EXHAUSTED: Ran out of memory. Used 31.50G of 15.75G hbm."))[:2]
      (33822867456, 16911433728)
    """
    text = str(error)
    match = re.search(r"Used ([\d.]+\w?) of ([\d.]+\w?)|\(([\d.]+\w?)\) exceeds available \w+ \(([\d.]+\w?)\)", text)
    wanted, limit = (_bytes(size) for size in match.groups() if size) if match else (None, None)
    return Refusal(wanted, limit, (text.splitlines() or [""])[0].removeprefix("RESOURCE_EXHAUSTED: ")[:200])


def _bytes(size: str) -> int:
    """1.5K is 1536 bytes, as XLA writes sizes."""
    number = float(size.rstrip("BKMGTP"))
    return round(number * 2 ** (10 * " KMGTP".find(size[-1]))) if size[-1] in "KMGTP" else round(number)
