"""Compiled for chips that are not here: with the fused loss a training step fits, and the plain loss alone does not.

Skipped where the compilers are not installed: the extra `compile` has TPUs', and `.ci/run` shows how to have CUDA's.
"""

import importlib.util
import json
import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from xent.experiments.fits.language_model import outline
from xent.experiments.fits.outline import compile_step
from xent.experiments.flags import RunConfig
from xent.experiments.language_model import Config, chunk_size
from xent.losses import mean, softmax_cross_entropy_with_integer_labels
from xent.train.chips import device_count, devices_of
from xent.train.collectives import collectives, count
from xent.train.compiled import compile_for, holds, peak_memory
from xent.train.errors import UsageError
from xent.train.sharding import make_mesh, parse_mesh

TPU = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
GPU = pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="no CUDA plugin is installed")
RUN = RunConfig(dtype="bfloat16", mesh="data=1")
V5E, H200 = 16 * 2**30, 141 * 10**9
"""Bytes of memory."""

# 2.5 billion parameters. The block is one, as a TPU's compiler takes seconds for each product; embedding and head have
# nine tenths of them.
LARGE = dict(vocabulary=262144, units=4352, layers=1, heads=34, context=256, tied=False, dropout=0.0, run=RUN,
             recompute=True, fully_sharded=True)  # fmt: skip
ONE = Config(vocabulary=131072, units=1024, layers=1, heads=8, context=256, batch_size=128, dropout=0.0, run=RUN)
CASES = {
    "v5e": ("v5e:1x1", "data=1", ONE),
    "256 v5e": ("v5e:16x16", "data=128,model=2", Config(batch_size=128 * 128, **LARGE)),
    "256 h200": ("h200:1x32x8", "data=256", Config(batch_size=256 * 512, **LARGE)),
}


def compiled_step(name):
    chips, mesh, config = CASES[name]
    mesh = make_mesh(parse_mesh(mesh), devices_of(chips))
    return compile_step(outline(config, mesh), mesh)


def compiled_plain_loss(name):
    """Of the same hidden states, head and labels: value and gradients by way of all logits."""
    chips, mesh, config = CASES[name]
    mesh = make_mesh(parse_mesh(mesh), devices_of(chips))

    def shape(*sizes, over, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=NamedSharding(mesh, over))

    tokens = config.batch_size * config.context
    hidden, kernel = (
        shape(tokens, config.units, over=P("data")),
        shape(config.units, config.vocabulary, over=P(None, "model")),
    )

    def loss(hidden, kernel, labels):
        logits = jnp.dot(hidden, kernel, preferred_element_type=jnp.float32)
        return mean(softmax_cross_entropy_with_integer_labels(logits, labels))

    gradients = jax.grad(loss, (0, 1))
    labels = shape(tokens, over=P("data"), dtype=jnp.int32)
    return compile_for(gradients, hidden, kernel, labels, out_shardings=(hidden.sharding, kernel.sharding))


def local(name):
    """Tokens and classes of one device."""
    _, mesh, config = CASES[name]
    sizes = parse_mesh(mesh)
    return config.batch_size * config.context // sizes["data"], config.vocabulary // sizes["model"]


def check_collectives(name, compiled):
    """Parameters and their gradients are what devices exchange, and never logits."""
    tokens, classes = local(name)
    found, units = collectives(compiled), CASES[name][2].units
    rows = chunk_size(tokens, units, 1)
    assert units % rows
    assert {"all-gather", "all-reduce"} <= count(found).keys()
    assert not holds(compiled, (tokens, classes))
    assert max(one.largest for one in found) <= 1.5 * max(units * classes, tokens * units)  # a TPU pads what it gathers
    for one in found:
        for shape in one.shapes:
            assert rows not in shape or math.prod(shape) <= rows * units, one


@TPU
def test_one_v5e_trains_what_it_could_not_by_way_of_logits():
    compiled = compiled_step("v5e")
    assert peak_memory(compiled) < 0.6 * V5E
    assert collectives(compiled) == []
    assert not holds(compiled, local("v5e"))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"RESOURCE_EXHAUSTED.*HBM|Ran out of memory"):
        compiled_plain_loss("v5e")


@TPU
def test_256_v5e_train_over_data_and_vocabulary():
    compiled = compiled_step("256 v5e")
    assert peak_memory(compiled) < V5E
    check_collectives("256 v5e", compiled)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"RESOURCE_EXHAUSTED.*HBM|Ran out of memory"):
        compiled_plain_loss("256 v5e")


@GPU
def test_256_h200_train_fully_sharded():
    compiled = compiled_step("256 h200")
    assert peak_memory(compiled) < H200 / 2
    check_collectives("256 h200", compiled)
    assert peak_memory(compiled_plain_loss("256 h200")) > H200


@TPU
@pytest.mark.parametrize("name", ["v5e:4x4", "v6e:2x2", "v5p:2x2x2", "tpu7x:2x2x1"])
def test_devices_are_counted_without_a_compiler_as_the_compiler_counts_them(name):
    assert device_count(name) == len(devices_of(name))


@TPU
@pytest.mark.parametrize("name", ["v5e:3x", "v5e:32x32"])
def test_chips_that_do_not_lie_so_are_one_line(name):
    with pytest.raises(UsageError, match=f"^--topology {name} .*: must be like v5e:16x16, or h100 or h200") as refusal:
        devices_of(name)
    assert "\n" not in str(refusal.value)


def test_a_chip_without_its_compiler_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, how in (
        ("v5e:2x2", "pip install"),
        ("h200:1x1x8", "pip install -c .ci/constraints.txt --no-deps jax-cuda13-pjrt"),
    ):
        with pytest.raises(UsageError, match=f"^--topology {name} needs a compiler that is not installed: .*{how}"):
            devices_of(name)


@TPU
def test_the_command_tries_all_meshes_and_leaves_out_those_that_do_not_divide(xent, tmp_path):
    outcome = xent("fits", "digits", "--topology", "v5e:2x2", "--sweep", "--batch=66", "--out", "fits.json")
    assert outcome.code == 0, outcome.err
    record = json.loads((tmp_path / "fits.json").read_text())
    assert record["memory"] == 15.75 * 2**30
    assert {"libtpu", "jax"} <= record["environment"]["versions"].keys()
    by_mesh = {tuple(one["mesh"].values()): one for one in record["meshes"]}
    assert by_mesh.keys() == {(4, 1), (2, 2), (1, 4)}
    assert by_mesh[4, 1]["reason"].startswith("--batch-size 66: must be a multiple of 4")
    fitting = [one for one in record["meshes"] if one["fits"]]
    assert fitting == record["meshes"][:2]
    assert fitting[0]["peak"] <= fitting[1]["peak"]
    assert all({"all-reduce"} <= {total["kind"] for total in one["collectives"]} for one in fitting)


@TPU
def test_an_axis_that_splits_nothing_is_refused_and_not_tried(xent, tmp_path):
    refused = xent("fits", "gan", "--topology", "v5e:2x2", "--mesh", "data=2,model=2")
    message = "xent: --mesh data=2,model=2: must be of data here, where model would split nothing\n"
    assert (refused.code, refused.err) == (2, message)
    swept = xent("fits", "gan", "--topology", "v5e:2x2", "--sweep", "--out", "fits.json")
    assert swept.code == 0, swept.err
    [only] = json.loads((tmp_path / "fits.json").read_text())["meshes"]
    assert only["mesh"] == {"data": 4, "model": 1}


@TPU
def test_the_command_says_how_much_of_how_much_a_refused_step_wanted(xent):
    large = ("--vocabulary=262144", "--units=4352", "--layers=1", "--heads=34", "--context=256", "--no-fused")
    outcome = xent("fits", "language_model", "--topology", "v5e:2x2", "--batch=1024", *large)
    assert outcome.code == 1
    assert re.search(r"memory   [\d.]+ GiB a chip at least, [\d.]+ % of 15.75 GiB", outcome.out)
    assert "fits     does not fit: Ran out of memory" in outcome.out
    assert "try      --fused, --fully-sharded, --recompute" in outcome.out


@GPU
def test_the_command_compares_with_a_gpus_memory_and_mentions_what_jax_takes(xent):
    outcome = xent("fits", "digits", "--topology", "h200:1x1x2")
    assert outcome.code == 0, outcome.err
    assert "of 141.0 GiB" in outcome.out
    assert "all-reduce" in outcome.out
    wide = xent("fits", "digits", "--topology", "h200:1x1x1", "--hidden=62000000", "--batch=8")
    assert wide.code == 0, wide.err
    assert "fits     yes, with XLA_PYTHON_CLIENT_MEM_FRACTION above JAX's own 0.75" in wide.out
