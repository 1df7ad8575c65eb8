"""Who holds what: meshes and rules as a user writes them, and runs on eight devices that give what one device gives."""

from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from xent.train.errors import UsageError
from xent.train.sharding import AXES, make_mesh, one_device, parse_mesh, state_shardings
from xent.train.source import array_source
from xent.train.step import init_state

MESH = AbstractMesh((4, 2), AXES)


@pytest.mark.parametrize(
    "text", ["", "data", "data=", "data=0", "data=-1", "data=2.5", "date=2", "data=2,data=2", "data=2;model=2"]
)
def test_a_mesh_that_is_none_is_refused_in_one_line(text):
    with pytest.raises(UsageError, match=r"^--mesh .*: must be axes of data, model, .* like data=4,model=2$"):
        parse_mesh(text)


def test_the_axes_of_a_mesh_come_in_any_order():
    assert parse_mesh("model=2,data=4") == {"data": 4, "model": 2}


def test_a_mesh_takes_all_devices():
    with pytest.raises(UsageError, match=r"--mesh data=4,model=2 is of 8 devices, cpu has 1: "):
        make_mesh({"data": 4, "model": 2}, jax.devices()[:1])


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    class Three:
        shape = {"data": 3}  # noqa: RUF012

    with pytest.raises(UsageError, match=r"^--batch-size 8: must be a multiple of 3, the mesh's data axis$"):
        array_source({"x": jnp.zeros(9)}, 8, jax.random.key(0), Three())


def specs(params, optimizer, rules):
    state = jax.eval_shape(lambda: init_state(params, optimizer, jax.random.key(0)))
    return jax.tree.map(lambda sharding: sharding.spec, state_shardings(state, MESH, rules))


@pytest.mark.parametrize("optimizer", [optax.adam(1.0), optax.chain(optax.clip(1.0), optax.lion(1.0)), optax.sm3(1.0)])
def test_what_an_optimiser_keeps_for_a_parameter_lies_as_it_does(optimizer):
    params = {"head": {"kernel": jnp.zeros((256, 128))}, "deep": {"head": {"kernel": jnp.zeros((128, 256))}}}
    found = specs(params, optimizer, [("^head/kernel", P(None, "model")), ("head/kernel", P("data", None))])
    assert found.params == {"head": {"kernel": P(None, "model")}, "deep": {"head": {"kernel": P("data", None)}}}
    shapes = jax.eval_shape(lambda: optimizer.init(params))
    for leaf, spec in zip(jax.tree.leaves(shapes), jax.tree.leaves(found.opt_state), strict=True):
        assert spec == {(256, 128): P(None, "model"), (128, 256): P("data", None)}.get(leaf.shape, P())
    assert (found.step, found.key) == (P(), P())


@pytest.mark.parametrize("spec", [P("model"), P(None, "data"), P(("data", "model")), P(None, None, "data")])
def test_a_rule_that_does_not_fit_its_parameter_is_named(spec):
    with pytest.raises(UsageError, match=r"^parameter head/kernel \[7, 6\] cannot be split as .* of the rule 'kernel'"):
        specs({"head": {"kernel": jnp.zeros((7, 6))}}, optax.sgd(1.0), [("kernel", spec)])


def test_one_device_is_a_mesh_like_any_other():
    assert dict(one_device().shape) == {"data": 1, "model": 1}


@pytest.fixture(scope="module")
def cases(on_eight_devices):
    return {case.pop("case"): case for case in on_eight_devices(Path(__file__).parent / "meshes.py")}


def test_a_run_on_a_mesh_is_that_of_one_device_to_rounding(cases):
    """Not to the bit: gradients are added up in another order."""
    assert len(cases) == 2
    for name, case in cases.items():
        assert case["error"] < 1e-6, name
        assert max(case["scores"], case["log"]) < 1e-5, name


def test_each_device_holds_its_share_and_keeps_it(cases):
    shares = {name: case["shares"] for name, case in cases.items()}
    assert shares == {
        "fully sharded": [1 / 8, 1 / 8],
        "data and vocabulary": [1 / 4, 1 / 4],
    }
    assert all(case["kept"] for case in cases.values())


def test_a_run_that_is_resumed_on_its_mesh_ends_bitwise_the_same(cases):
    assert {case["resumed"] for case in cases.values()} == {0}


def test_a_checkpoint_of_a_mesh_can_be_read_on_one_device(cases):
    assert {case["restored"] for case in cases.values()} == {0}
