"""Who holds what: a mesh of devices, and by rules on the names of parameters, the sharding of a whole training state.

A mesh always has the axes of `AXES`; one that nobody asked for has one device. So a run on a chip and a run on a
thousand are the same program, and differ in a mesh and in rules, which are data:

    data parallelism        (): every device holds all parameters
    fully sharded           (("kernel", P("data")),): each holds its share, and gathers what it computes with
    vocabulary parallelism  (("head/kernel", P(None, "model")),): each holds all units of some classes
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from xent.train.errors import UsageError, require
from xent.train.step import Batch, TrainState

AXES = ("data", "model")
"""Batches are split over `data`; what is split over `model`, and what over both, is for rules to say."""
Rules = Sequence[tuple[str, P]]
"""(regular expression, partition): the first that is found in a parameter's path (`block/0/kernel`) holds; none: each
device holds the whole parameter."""


def parse_mesh(text: str) -> dict[str, int]:
    """Read a mesh as a user writes it.

    Args:
      text: `data=4,model=2`, in any order; an axis that is not named has one device.

    Returns:
      Axis -> devices, in the order of `AXES`.

    Raises:
      UsageError: for an unknown axis, one that is named twice, and a size that is no whole number above 0.

    Example:
      >>> parse_mesh("model=2")
      {'data': 1, 'model': 2}
    """
    pairs = [part.partition("=")[::2] for part in text.split(",")]
    names = [name for name, _ in pairs]
    form = f"axes of {', '.join(AXES)}, each once and with its devices, like data=4,model=2"
    require("--mesh", text, {*names} <= {*AXES} and len({*names}) == len(names), form)
    require("--mesh", text, all(re.fullmatch("[1-9][0-9]{0,6}", size) for _, size in pairs), form)
    return {axis: int(dict(pairs).get(axis, 1)) for axis in AXES}


def make_mesh(axes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """Arrange devices in a mesh, neighbours where the hardware has neighbours.

    Args:
      axes: axis -> devices, as `parse_mesh` gives it.
      devices: by default all that JAX has, of all processes.

    Raises:
      UsageError: if that is another number of devices.
    """
    there = jax.devices() if devices is None else devices
    sizes = [axes.get(axis, 1) for axis in AXES]
    if math.prod(sizes) != len(there):
        given = ",".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        raise UsageError(
            f"--mesh {given} is of {math.prod(sizes)} devices, {there[0].platform} has {len(there)}: "
            "make the product of the axes that"
        )
    grid = mesh_utils.create_device_mesh(sizes, there, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def one_device() -> Mesh:
    """The mesh of a run that asks for none: the first device."""
    return make_mesh({}, jax.local_devices()[:1])


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def over_data(mesh: Mesh) -> NamedSharding:
    """The first axis, that of a batch's examples, is split over `data`."""
    return NamedSharding(mesh, P("data"))


def place(tree: Any, shardings: Any) -> Any:
    """Move arrays to the devices of a mesh.

    Args:
      tree: a pytree of arrays, NumPy's or on devices of this process; every process gives the same.
      shardings: one for each array or for a whole subtree.

    Returns:
      A pytree of `jax.Array`; `jax.device_put` does not reach the devices of other processes.

    Example:
      >>> place({"x": jax.numpy.arange(3)}, replicated(one_device()))["x"].tolist()
      [0, 1, 2]
    """

    def one(sharding: NamedSharding, leaf: Any) -> jax.Array:
        if jnp.issubdtype(jax.typeof(leaf).dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(sharding, jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(lambda sharding, part: jax.tree.map(lambda leaf: one(sharding, leaf), part), shardings, tree)


def require_shares(mesh: Mesh, batch_size: int) -> None:
    """Refuse batches that cannot be split evenly.

    Raises:
      UsageError: if `batch_size` is no multiple of the mesh's `data` axis.
    """
    shares = mesh.shape["data"]
    require("--batch-size", batch_size, batch_size % shares == 0, f"a multiple of {shares}, the mesh's data axis")


def split(batch: Batch, mesh: Mesh) -> Batch:
    """Inside a jitted function: give each device its share of a batch, a pytree of arrays `[batch, ...]`.

    Example:
      >>> split({"x": jax.numpy.arange(3)}, one_device())["x"].tolist()
      [0, 1, 2]
    """
    return jax.lax.with_sharding_constraint(batch, over_data(mesh))


def state_shardings(state: TrainState, mesh: Mesh, rules: Rules) -> TrainState:
    """Say how each array of a state lies on a mesh.

    Args:
      state: a training state, or the shapes of one (`jax.eval_shape`).
      mesh: from `make_mesh`.
      rules: which parameters are split, and how.

    Returns:
      A state of shardings, for `place(state, ...)` and for `jax.jit(init, out_shardings=...)`, which makes a state that
      no single device could hold. What an optimiser keeps for a parameter, under its path and of its shape,
      lies as the parameter does; everything else is replicated.

    Raises:
      UsageError: if a rule does not fit its parameter; it names both.

    Example:
      >>> params = {"head": {"kernel": jax.numpy.ones((4, 8))}}
      >>> import optax
      >>> from xent.train.step import init_state
      >>> state = init_state(params, optax.adam(0.1), jax.random.key(0))
      >>> of = state_shardings(state, one_device(), [("head/kernel", P(None, "model"))])
      >>> [tuple(leaf.spec) for leaf in jax.tree.leaves((of.params, of.opt_state[0].mu, of.step))]
      [(None, 'model'), (None, 'model'), ()]

    Source: the rules are t5x's and big_vision's; https://arxiv.org/abs/2203.17189, section 2.
    """
    whole: Any = replicated(mesh)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, _spec(_name(path), leaf.shape, mesh, rules)), state.params
    )
    known = {
        _name(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(state.params), jax.tree.leaves(params), strict=True
        )
    }

    def of_optimizer(path: Any, leaf: Any) -> NamedSharding:
        for start in range(len(path)):
            shape, sharding = known.get(_name(path[start:]), (None, whole))
            if shape == leaf.shape:
                return sharding
        return whole

    opt_state = jax.tree_util.tree_map_with_path(of_optimizer, state.opt_state)
    return TrainState(whole, params, opt_state, whole, whole, whole)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _spec(name: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules) -> P:
    """The partition of the first rule found in a parameter's name, if it fits the parameter's shape."""
    pattern, spec = next((rule for rule in rules if re.search(rule[0], name)), ("", P()))
    fits = len(spec) <= len(shape)
    for size, axes in zip(shape, spec, strict=False):
        names = (axes,) if isinstance(axes, str) else axes or ()
        fits = fits and size % math.prod(mesh.shape[axis] for axis in names) == 0
    if not fits:
        text = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
        raise UsageError(
            f"parameter {name} {[*shape]} cannot be split as {spec} of the rule {pattern!r} says over {text}: "
            "choose sizes that are multiples of the mesh's axes, or another mesh"
        )
    return spec
