"""`xent bench fused`: what it measures, writes and refuses."""

import json

import jax
import jax.numpy as jnp
import optax
import pytest

from xent.experiments.bench import fused
from xent.experiments.bench.frame import BenchConfig


def test_it_measures_time_and_memory_beside_optax(xent, tmp_path):
    flags = ["--tokens", "512", "--units", "8", "--classes", "2000", "--rounds=2", "--chunk-size=64"]
    outcome = xent("bench", "fused", *flags, "--out", str(tmp_path / "fused.json"))
    assert outcome.code == 0, outcome.err
    record = json.loads((tmp_path / "fused.json").read_text())
    assert (record["schema"], record["benchmark"], record["finished"]) == (3, "fused", True)
    cells = record["measurements"]
    assert [cell["of"]["what"] for cell in cells] == ["value", "gradients", "hessian product"]
    assert cells[1]["name"] == "fused gradients, 512 x 8 x 2000, float32"
    for cell in cells:
        assert (cell["of"]["tokens"], cell["of"]["units"], cell["of"]["classes"]) == (512, 8, 2000)
        assert (cell["ratios_to"], cell["null"], cell["unit"]) == ("optax", "optax, again", "token")
        theirs, ours, product, again = cell["cases"]
        assert [case["name"] for case in cell["cases"]] == ["optax", "ours", "product", "optax, again"]
        assert all(len(case["seconds"]) == 2 and min(case["seconds"]) > 0 for case in cell["cases"])
        assert theirs["compile"]["temporary"] == again["compile"]["temporary"] >= 512 * 2000 * 4
        assert ours["compile"]["temporary"] < 0.5 * theirs["compile"]["temporary"]
        assert product["compile"]["flops"] == pytest.approx(2 * 512 * 8 * 2000, rel=0.1)
        assert ours["compile"]["flops"] == pytest.approx(theirs["compile"]["flops"], rel=0.5)  # in all of its chunks
        assert cell["of"]["what"] in outcome.out


def test_no_product_of_what_is_timed_is_left_out_by_the_compiler():
    """Nine make a Hessian product; were two of them the same, it would do fewer, and their count would say too much."""
    head = fused.Head(64, 128, 512)
    shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((64, 128), (128, 512)) * 2]

    def loss(hidden, kernel):
        return optax.softmax_cross_entropy_with_integer_labels(hidden @ kernel, jnp.arange(64)).mean()

    compiled = jax.jit(fused.program(loss, "hessian product")).lower(*shapes).compile()
    assert compiled.cost_analysis()["flops"] == pytest.approx(9 * 2 * 64 * 128 * 512, rel=0.1)
    first, *_ = fused.make_cases(fused.Config(), head, "hessian product")
    assert first.build().compile.moved >= 2 * 2 * 4 * (64 * 128 + 128 * 512)  # both directions in, and both results out


def test_the_second_head_is_that_whose_kernel_is_as_large_as_its_logits():
    heads = list(fused.heads(fused.Config()))
    assert heads == [(2048, 512, 32768), (1024, 1024, 131072)]
    assert [fused.bounds(head, "gradients", "cpu") for head in heads] == [(1.1, 0.3), (1.1, 0.7)]
    assert fused.bounds(heads[0], "value", "gpu") == (1.05, 0.25)
    assert list(fused.heads(fused.Config(bench=BenchConfig(quick=True)))) == [(1024, 512, 4096)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rounds=0"], "--rounds 0: must be 1 or more"),
        (["--classes", "0", "--units", "1", "--tokens", "1"], "--classes 0: must be numbers of 1 or more"),
        (["--classes", "5"], "--classes 5: must be as many numbers as --tokens has, 2"),
        (["--chunk-size=0"], "--chunk-size 0: must be 1 or more"),
    ],
)
def test_what_cannot_be_done_is_one_line(xent, flags, message):
    outcome = xent("bench", "fused", *flags)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
