"""`xent bench losses`: what is timed is comparable, and what was measured is written down. No time is asserted."""

import io
import json

import jax
import numpy as np
import optax
import pytest
from rich.console import Console

import xent.losses
from xent.experiments.bench import losses, losses_cases, losses_torch
from xent.experiments.bench.engine import Timing
from xent.experiments.bench.frame import BenchConfig
from xent.experiments.bench.losses_cases import Cell
from xent.experiments.bench.losses_table import CORE, LOSSES, NOT_TIMED
from xent.experiments.bench.record import Measured

TINY = ("bench", "losses", "--rounds=2", "--against=optax", "--batch", "8", "4", "--classes", "3", "5")


def test_the_command_measures_every_point_and_writes_every_sample(xent, tmp_path):
    outcome = xent(*TINY, "--loss", "integer", "--out", "losses.json")
    assert outcome.code == 0, outcome.err
    record = json.loads((tmp_path / "losses.json").read_text())
    cells = record["measurements"]
    points = {tuple(cell["of"][name] for name in ("loss", "batch", "classes", "dtype", "what")) for cell in cells}
    assert len(points) == len(cells) == 2 * 2 * 2
    assert {point[1:3] for point in points} == {(8, 3), (4, 5)}
    assert cells[0]["name"] == "integer, 8 x 3, float32, value"
    for cell in cells:
        assert [case["name"] for case in cell["cases"]] == ["optax", "ours", "copy", "optax, again"]
        assert all(len(case["seconds"]) == 2 and min(case["seconds"]) > 0 for case in cell["cases"])
        assert (cell["ratios_to"], cell["null"], cell["unit"]) == ("optax", "optax, again", "example")
        assert len(cell["order"]) == 2
    assert (record["schema"], record["benchmark"], record["finished"]) == (3, "losses", True)
    assert {"versions", "device", "cores", "commit"} <= set(record["environment"])
    assert record["flags"]["batch"] == [8, 4]
    for part in ("integer", "float32", "bfloat16", "gradient", "null", "bound"):
        assert part in outcome.out
    assert "…" not in outcome.out  # no column is cut off


def test_one_loss_and_one_dtype(xent, tmp_path):
    assert xent(*TINY, "--loss", "sigmoid", "--dtype", "float32", "--quick", "--out", "losses.json").code == 0
    cells = [cell["of"] for cell in json.loads((tmp_path / "losses.json").read_text())["measurements"]]
    points = [(cell["loss"], cell["batch"], cell["classes"], cell["dtype"]) for cell in cells]
    assert points == [("sigmoid", 1, 3, "float32")] * 2 + [("sigmoid", 1, 5, "float32")] * 2


@pytest.mark.parametrize(
    ("loss", "dtype"),
    [*((loss, "float32") for loss in LOSSES if LOSSES[loss].optax), *((loss, "bfloat16") for loss in CORE)],
)
def test_ours_and_optax_compute_the_same(loss, dtype):
    """Else their times would not be comparable."""
    logits, labels = losses_cases.make_inputs(loss, 16, 10, dtype, seed=0)
    assert logits.dtype == dtype
    ours, theirs = (losses_cases.program(f, "gradient") for f in (LOSSES[loss].ours, LOSSES[loss].optax))
    results = jax.jit(lambda *inputs: (ours(*inputs), theirs(*inputs)))(logits, labels)
    rough = 1e-5 if dtype == "float32" else 0.02
    np.testing.assert_allclose(results[0][0], results[1][0], rough)
    np.testing.assert_allclose(*(result[1].astype("float32") for result in results), rough, rough / 10)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("loss", list(losses_torch.FUNCTIONS))
def test_pytorch_computes_the_same_where_it_is_installed(loss, dtype):
    pytest.importorskip("torch")
    inputs = losses_cases.make_inputs(loss, 16, 10, dtype, seed=0)
    value, gradient = jax.jit(losses_cases.program(LOSSES[loss].ours, "gradient"))(*inputs)
    theirs = [losses_torch.build(loss, gradient, *inputs)().run().float().numpy() for gradient in (False, True)]
    rough = 1e-5 if dtype == "float32" else 0.02
    np.testing.assert_allclose(theirs[0], value, rough)
    np.testing.assert_allclose(theirs[1], gradient.astype("float32"), rough, rough / 10)


def test_the_grid_goes_from_many_short_rows_to_few_long_ones():
    shapes = [(cell.batch, cell.classes) for cell in losses.cells(losses.Config())]
    assert (shapes[0], shapes[-1]) == ((65536, 10), (256, 262144))
    assert {cell.loss for cell in losses.cells(losses.Config())} == set(LOSSES)
    quick = list(losses.cells(losses.Config(bench=BenchConfig(quick=True))))
    assert {(cell.batch, cell.classes) for cell in quick} == {(4096, 10), (16, 262144)}
    assert {cell.loss for cell in quick} == set(CORE)


def test_every_public_loss_is_timed_or_it_is_said_why_not():
    timed = {peers.name for peers in LOSSES.values()}
    assert not timed & {*NOT_TIMED}
    assert timed | {*NOT_TIMED} == {*xent.losses.__all__}


def test_a_loss_is_timed_beside_optax_wherever_optax_has_one_of_that_name():
    beside = {peers.name for peers in LOSSES.values() if peers.optax}
    assert {peers.name for peers in LOSSES.values() if hasattr(optax.losses, peers.name)} <= beside


@pytest.mark.parametrize("loss", [loss for loss, peers in LOSSES.items() if not peers.optax])
def test_losses_that_optax_lacks_are_given_what_they_are_meant_for(loss):
    """A gradient that is finite and not zero, so that what is timed is the usual work."""
    logits, labels = losses_cases.make_inputs(loss, 16, 10, "float32", seed=0)
    value, gradient = jax.jit(losses_cases.program(LOSSES[loss].ours, "gradient"))(logits, labels)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert abs(gradient).max() > 1e-4


def test_a_loss_that_optax_lacks_is_timed_beside_itself(xent):
    longest = max((loss for loss, peers in LOSSES.items() if not peers.optax), key=len)
    outcome = xent(*TINY, "--loss", longest, "--dtype", "float32")
    assert outcome.code == 0, outcome.err
    assert longest in outcome.out
    assert "…" not in outcome.out
    assert "broken" not in outcome.out


@pytest.mark.parametrize(("slower", "verdict"), [(1.0, "holds"), (1.45, "broken")])
def test_the_bound_is_judged_by_the_interval(slower, verdict):
    optax, noise = (1.0, 2.0, 1.5), (1.0, 1.01, 0.99)

    def timing(name, factor):
        return Timing(name, 1, 0.0, None, 0.0, tuple(factor * a * b for a, b in zip(optax, noise, strict=True)))

    timings = (Timing("optax", 1, 0.0, None, 0.0, optax), timing("ours", slower), timing("copy", 0.5), timing("", 1))
    of = Cell("integer", 1, 10, "float32", "gradient")._asdict()
    row = Measured("losses", "one", of, "float32", "example", "optax", "", ((0, 1, 2, 3),) * 3, None, timings)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(losses.table([row]))
    assert verdict in console.export_text()
    assert losses.bound("gradient", "gpu") == 1.05


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rounds=0"], "--rounds 0: must be 1 or more"),
        (["--batch", "8", "--classes", "3", "5"], "--classes 3 5: must be as many numbers as --batch has, 1"),
        (["--batch", "0", "--classes", "3"], "--batch 0: must be numbers of 1 or more"),
        (["--loss", "soft-max"], "--loss soft-max: must be some of integer, soft, sigmoid,"),
        (["--round=2"], "did you mean --rounds?"),
        (["--out=no/such/x.json"], "no/such is no folder that can be written"),
    ],
)
def test_what_cannot_be_done_is_one_line(xent, flags, message):
    outcome = xent("bench", "losses", *flags)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
