"""A mesh's explicit axes made automatic, for a computation in chunks and for all that takes part in it.

Inside of the chunks the compiler knows better, and operations that are ambiguous with explicit axes abound. What is
explicit outside says how tokens are sharded, no more.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec


def call(
    run: Callable[..., Any],
    loss: Callable[..., jax.Array],
    hidden: jax.Array,
    arrays: Any,
    specs_of: Callable[[PartitionSpec], Any],
) -> Any:
    """`run(loss, hidden, arrays)`, where no array has an explicit axis.

    Nor have those that are bound to the loss by `functools.partial`; others that it closes over cannot be got at.
    `specs_of` gives those of the result, of that of the tokens.
    """
    leaves, structure = jax.tree.flatten(_opened(loss))
    bound = {place: leaf for place, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}
    if not any(map(_explicit, jax.tree.leaves((hidden, arrays, bound)))):
        return run(loss, hidden, arrays)

    def automatic(hidden: jax.Array, arrays: Any, bound: dict[int, jax.Array]) -> Any:
        given = [bound.get(place, leaf) for place, leaf in enumerate(leaves)]
        return run(jax.tree.unflatten(structure, given), hidden, arrays)

    specs = specs_of(PartitionSpec(*jax.typeof(hidden).sharding.spec[:-1]))
    try:
        return jax.sharding.auto_axes(automatic, out_sharding=specs)(hidden, arrays, bound)
    except ValueError as error:
        if "should match the aval mesh" not in str(error):
            raise
        raise ValueError(
            "loss closes over an array on a mesh with explicit axes, where it must be given each that it uses: "
            "make it an argument of the loss, and bind it there, functools.partial(loss, argument=array)"
        ) from error


def _explicit(array: Any) -> bool:
    return AxisType.Explicit in jax.typeof(array).sharding.mesh.axis_types


def _opened(value: Any) -> Any:
    """A tree with the arrays that are bound to a function by `partial`, or to functions bound to it."""
    if not isinstance(value, partial):
        return value
    args, keywords = jax.tree.map(_opened, (value.args, value.keywords))
    return jax.tree_util.Partial(value.func, *args, **keywords)
