"""`xent fits`: what it says and how it ends, with this machine's processor as the chip that is not here."""

import importlib.util
import json
import os
import signal
import threading

import jax
import pytest

from xent.experiments import fits
from xent.experiments.fits.sweep import meshes, ranked, sweep
from xent.experiments.fits.verdict import Verdict
from xent.experiments.table import EXPERIMENTS
from xent.train.chips import Chips
from xent.train.collectives import Total

SMALL = ("language_model", "--topology", "one", "--vocabulary=300", "--units=16", "--layers=1", "--heads=2",
         "--context=8", "--batch=2")  # fmt: skip


@pytest.fixture
def memory(monkeypatch):
    """`memory(bytes)`: the only chip there is has so much."""

    def have(size):
        monkeypatch.setattr(fits, "device_count", lambda name: 1)
        monkeypatch.setattr(fits, "chips_of", lambda name: Chips("a chip", jax.local_devices()[:1], size))

    return have


def test_a_step_that_fits_is_told_and_saved(xent, tmp_path, memory):
    memory(2**30)
    outcome = xent("fits", *SMALL, "--out", "fits.json")
    assert outcome.code == 0, outcome.err
    assert "fits     yes" in outcome.out
    assert "16 tokens, 2 x 8" in outcome.out
    record = json.loads((tmp_path / "fits.json").read_text())
    assert (record["kind"], record["topology"], record["memory"], record["finished"]) == (
        "compiled",
        "one",
        2**30,
        True,
    )
    assert record["flags"]["batch_size"] == 2
    [mesh] = record["meshes"]
    assert mesh["fits"]
    assert 4 * 3 * record["parameters"] < mesh["peak"] < 2**30  # parameters and two moments at least
    again = xent("fits", *SMALL, "--out", "fits.json")
    assert (again.code, again.err) == (2, "xent: --out fits.json exists: name a new file\n")


@pytest.mark.parametrize("how", [(), ("--sweep",)])
def test_a_step_that_does_not_fit_is_exit_code_1(xent, memory, how):
    memory(1000)
    outcome = xent("fits", *SMALL, *how)
    assert outcome.code == 1
    assert "does not fit" in outcome.out
    assert "more than a chip has" in outcome.out
    assert how or "try      --fully-sharded, --recompute, more on --mesh's model axis" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "xent fits takes an experiment first"),
        (["language_modl"], "no experiment 'language_modl' to compile: did you mean language_model?"),
        (["saturation", "--topology", "v5e:2x2"], "xent fits saturation: it takes no mesh"),
        (["digits"], "--topology"),
        (["digits", "--topology", "v5f:2x2"], "--topology v5f:2x2: no chip v5f; did you mean v5"),
        (["digits", "--topology", "zzz"], "no chip zzz; there are v5e, v6e, v5p, tpu7x, h100, h200"),
        (
            ["digits", "--topology", "v5e"],
            "(its sides are whole numbers above 0): must be like v5e:16x16",
        ),
        (["digits", "--topology", "v5e:0x4"], "--topology v5e:0x4 (its sides are whole numbers above 0)"),
        (["digits", "--topology", "v5e:99x9"], "--topology v5e:99x9 (no more than 16 chips lie in a row)"),
        (["digits", "--topology", "h200:1x8"], "--topology h200:1x8 (too few or too many numbers)"),
        (["digits", "--topology", "v5e:2x2", "--mesh", "date=4"], "--mesh date=4: must be axes of data, model"),
        (["digits", "--topology", "v5e:2x2", "--mesh", "data=4", "--sweep"], "must be given without --mesh"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(xent, arguments, message):
    outcome = xent("fits", *arguments)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith("xent: ")
    assert message in outcome.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--unit", "3"], "Unrecognized options: --unit, 3 (did you mean --units?); xent language_model --help"),
        (["--batch", "x"], "--batch: x is no INT"),
    ],
)
def test_so_is_one_about_the_experiment(xent, memory, more, message):
    memory(2**30)
    outcome = xent("fits", *SMALL, *more)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert message in outcome.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--mesh", "data=3,model=8"],
            "--mesh data=3,model=8: must be of 256 devices, as v5e:16x16 has, and not",
        ),
        (["--mesh", "data=32,model=8", "--batch=100"], "--batch 100: must be a multiple of 32, the devices of --mesh"),
        (["--batch=100"], "--batch 100: must be a multiple of 256, the devices of --mesh data=256 that"),
    ],
)
def test_a_mesh_that_does_not_divide_needs_no_compiler_to_be_refused(xent, monkeypatch, flags, message):
    """Wherever one is installed, it is not asked for."""
    monkeypatch.setattr(fits, "chips_of", lambda name: pytest.fail("the compiler was asked for"))
    outcome = xent("fits", "language_model", "--topology", "v5e:16x16", *flags)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert message in outcome.err


def test_a_missing_compiler_is_one_line(xent, monkeypatch):
    found = importlib.util.find_spec
    absent = ("libtpu", "jax_cuda13_plugin")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in absent else found(name, *more))
    for chips, how in (
        ("v5e:2x2", "-e '.[compile]'"),
        ("h200:1x1x8", "-c .ci/constraints.txt --no-deps jax-cuda13-pjrt"),
    ):
        outcome = xent("fits", "digits", "--topology", chips)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert how in outcome.err


def test_every_experiment_is_compiled_or_said_not_to_be():
    assert {*fits.STEPS, *fits.MESHLESS} == {*EXPERIMENTS}


def verdict(data, model, fits=True, peak=10, received=0):
    return Verdict({"data": data, "model": model}, fits, peak, [Total("all-reduce", 1, 1, received)], 1.0)


def test_all_meshes_are_tried_and_ranked_by_memory_then_by_what_is_sent():
    assert [tuple(mesh.values()) for mesh in meshes(12)] == [(12, 1), (6, 2), (4, 3), (3, 4), (2, 6), (1, 12)]
    large, lean, chatty, no = (
        verdict(8, 1, peak=20),
        verdict(4, 2),
        verdict(2, 4, received=5),
        verdict(1, 8, fits=False),
    )
    assert ranked([no, large, chatty, lean]) == [lean, chatty, large, no]


def test_ctrl_c_ends_a_sweep_at_once_with_what_there_is():
    forever, shown = threading.Event(), []

    def judge(mesh):
        if mesh["model"] == 2:
            os.kill(os.getpid(), signal.SIGINT)
            forever.wait(60)
        return verdict(**mesh)

    found, stopped = sweep(judge, meshes(4), shown.append)
    assert not forever.is_set()
    assert found == shown == [verdict(4, 1)]
    assert stopped == signal.SIGINT
    forever.set()
