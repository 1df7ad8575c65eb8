"""Derivative rules that outlive a `scan`."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp


@cache
def with_rule(function: Any, static: int) -> Callable[..., Any]:
    """A function made of ones with derivative rules of their own, whose argument number `static` is no array.

    Where jax 0.10 differentiates a loop in reverse, it sorts out what in its body does not change, and forgets on the
    way every rule: the next derivative is one of what the function is made of, where large logits overflow. (jax 0.12
    forgets none.) What is under `jax.checkpoint` is left out of that: it is done again in the loop of the reverse, from
    its arguments. Elsewhere the compiler makes one of both, and nothing is done twice.
    """
    kept = jax.checkpoint(function, prevent_cse=False, static_argnums=static)
    return lambda *arguments: kept(*(of if at == static else settled(of) for at, of in enumerate(arguments)))


def settled(arrays: Any) -> Any:
    """The same arrays, with nothing of NumPy's inside a tracer: a batch's labels under `vmap`, a user's tangent.

    jax 0.10 refuses such a "non-canonical constant" where it differentiates what is under `jax.checkpoint`. An
    operation turns it into JAX's own; these two cancel in the compiler.
    """

    def one(array: Any) -> Any:
        return jnp.expand_dims(array, 0).squeeze(0) if isinstance(array, jax.core.Tracer) else array

    return jax.tree.map(one, arrays)
