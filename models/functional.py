"""The door between Flax NNX modules and pure functions: a module goes in, `(apply, params)` comes out."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
from flax import nnx

Params = Any
"""A nested dict of arrays."""


class Apply(Protocol):
    """`apply(params, *inputs, key=None)`: a pure function; without a key it evaluates (no dropout)."""

    def __call__(self, params: Params, *inputs: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Return the model's outputs for `inputs`."""
        ...


class Model(NamedTuple):
    """A network as a pure function and its first parameters; unpacks to `(apply, params)`."""

    apply: Apply
    params: Params


def functional(module: nnx.Module) -> Model:
    """Split a module into a pure `apply` and its parameters.

    The module is taken apart once, here; `apply` puts it together inside the caller's own `jax.jit`, which costs
    nothing at run time. Only `nnx.Param` survives: a module that keeps other state (a BatchNorm mean, a dropout
    counter) would lose its changes in silence under `jax.jit`, so it is refused.

    Args:
      module: called as `module(*inputs, key=key)`.

    Returns:
      The pair `(apply, params)`; params is a nested dict of arrays.

    Raises:
      ValueError: if the module holds variables other than `nnx.Param`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from xent.models.mlp import mlp
      >>> apply, params = mlp(jax.random.key(0), inputs=4, hidden=8, outputs=3)
      >>> apply(params, jnp.ones((2, 4))).shape
      (2, 3)

    Source: Flax NNX functional API, `nnx.split` and `nnx.merge`.
    """
    graph, variables, rest = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]  # three, since two filters
    if jax.tree.leaves(rest):
        names = ", ".join(nnx.to_pure_dict(rest))
        raise ValueError(f"{type(module).__name__} holds state besides its parameters ({names}): keep models stateless")

    def apply(params: Params, *inputs: jax.Array, key: jax.Array | None = None) -> jax.Array:
        outputs: jax.Array = nnx.merge(graph, params)(*inputs, key=key)
        return outputs

    return Model(apply, nnx.to_pure_dict(variables))


def outline(build: Callable[[jax.Array], Model]) -> Model:
    """The model that a builder would give, without computing its parameters.

    Args:
      build: `build(key) -> (apply, params)`.

    Returns:
      The pair `(apply, shapes)`; shapes is a nested dict of `jax.ShapeDtypeStruct`, which take no memory.

    Example:
      >>> from functools import partial
      >>> from xent.models.mlp import mlp
      >>> outline(partial(mlp, inputs=4, hidden=10**9, outputs=3)).params["hidden"]["kernel"].shape
      (4, 1000000000)
    """
    found = []

    def params(key: jax.Array) -> Params:
        model = build(key)
        found.append(model.apply)
        return model.params

    shapes = jax.eval_shape(params, jax.random.key(0))
    return Model(found[0], shapes)
