"""`xent precision` as it is typed: its tables, files and pictures, its exit code, its mistakes."""

import csv
import math

import jax.numpy as jnp
import numpy as np
import pytest

from xent.experiments import precision
from xent.experiments.precision.families import make_losses
from xent.experiments.precision.loss import OURS, take
from xent.experiments.precision.measure import judge
from xent.experiments.precision.oracle import FORMATS

LOSSES = {loss.name: loss for loss in make_losses(torch=False)}
CORE = [loss.name for loss in LOSSES.values() if loss.share["float32"] > 0.3]
FEW = ("softmax, soft labels", "sigmoid, yes or no", "distillation, total variation", "softmax gradient")


@pytest.fixture
def few(monkeypatch):
    """Some losses instead of all."""
    monkeypatch.setattr(precision, "make_losses", lambda torch, only=(): [LOSSES[name] for name in FEW])


@pytest.mark.usefixtures("few")
def test_it_ends_with_tables_and_a_picture_and_inputs_that_reproduce(xent, tmp_path):
    outcome = xent("precision", "--quick", "--no-torch")
    run = tmp_path / "runs/precision-1"
    cells = list(csv.DictReader((run / "errors.csv").read_text().splitlines()))
    assert {cell["loss"] for cell in cells} == set(FEW)
    for name in FEW:
        of = [cell for cell in cells if cell["loss"] == name]
        assert {cell["dtype"] for cell in of} == (set(FORMATS) if name in CORE else {"float32"})
        assert {cell["regime"] for cell in of} == {*LOSSES[name].regimes, "searched"}
        assert len(of) == (3 if name in CORE else 1) * (len(LOSSES[name].regimes) + 1) * len(LOSSES[name].of)
    rows = sum(int(cell["inputs"]) for cell in cells if cell["of"] == "value" and cell["loss"] in FEW[:2])
    assert rows >= 2 * 20_000
    holds = all(cell["xent_holds"] == "True" for cell in cells)
    assert outcome.code == (0 if holds else 1)
    assert ("BROKEN" in outcome.out) != holds
    pictures = {"softmax", "sigmoid", "distillation", "products"}
    pictures |= {f"{family}-{dtype}" for family in ("softmax", "sigmoid") for dtype in ("bfloat16", "float16")}
    assert {file.stem for file in run.glob("*.png")} == pictures
    assert all((run / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in pictures)
    checks = list(csv.DictReader((run / "mpmath.csv").read_text().splitlines()))
    assert len(checks) == 3 * 2 + 2
    assert all(float(row["truth_differs_from_mpmath_by_ulp"]) < 1e-4 for row in checks)
    worst = list(csv.DictReader((run / "worst.csv").read_text().splitlines()))
    assert {row["library"] for row in worst} == {"xent", "optax"}
    assert {row["loss"] for row in worst} == set(FEW)
    for of in ("value", "gradient"):
        lines = {row["loss"]: row for row in worst if row["library"] == "xent" and row["of"] == of}
        for name in FEW:
            if of in LOSSES[name].of:
                reproduce(lines[name])


def reproduce(row):
    """The error of a line of worst.csv, from nothing but that line."""
    loss, dtype = LOSSES[row["loss"]], jnp.dtype(row["dtype"])
    of_regime = next(iter(loss.regimes.values()))
    like = of_regime(np.random.default_rng(0), 1, max(loss.widths, key=loss.widths.__getitem__), row["dtype"])
    rows = {
        name: np.array(row[name].split(), float).reshape(array.shape).astype(array.dtype if name != "logits" else dtype)
        for name, array in like.items()
    }
    truth = loss.truth(rows)
    true = truth.value[0] if row["of"] == "value" else truth.gradient[0, int(row["position"])]
    np.testing.assert_array_equal(true, float(row["true"]))
    many = take(rows, np.zeros(556, int))  # as it was run: XLA compiles one row otherwise than many
    errors = judge(loss.truth(many), loss.runs[row["library"]](many), row["dtype"])[row["of"] == "gradient"][0]
    error = float(row["error_ulp"])
    assert errors.max() == pytest.approx(error, rel=0.5, abs=1.5) or math.isinf(error) == math.isinf(errors.max())


def test_only_the_losses_whose_names_contain_it(xent, tmp_path):
    outcome = xent("precision", "--quick", "--no-torch", "--only", "minimax")
    assert outcome.code == 0
    assert "every loss but generator, minimax" in outcome.out
    assert "left out" in outcome.out
    cells = list(csv.DictReader((tmp_path / "runs/precision-1/errors.csv").read_text().splitlines()))
    assert {cell["loss"] for cell in cells} == {"generator, minimax"}
    assert (tmp_path / "runs/precision-1/games.png").exists()


def test_a_broken_bound_is_exit_code_1(xent, monkeypatch):
    loss = LOSSES["softmax, integer labels"]
    broken = loss._replace(runs={OURS: loss.runs["optax"]})
    monkeypatch.setattr(precision, "make_losses", lambda torch, only=(): [broken])
    outcome = xent("precision", "--quick")
    assert outcome.code == 1
    assert "BROKEN" in outcome.out
    assert "the value is off by" in outcome.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--inputs", "10"], "--inputs 10: must be from 1000 to"),
        (["--seed", "-1"], "--seed -1: must be from 0"),
        (["--input", "3"], "did you mean --inputs?"),
        (["--out", "."], "--out . exists"),
        (["--only", "nonesuch"], "--only nonesuch: no name contains"),
    ],
)
def test_a_mistake_is_one_line(xent, tmp_path, flags, message):
    outcome = xent("precision", *flags)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_without_mpmath_it_says_so_in_one_line(xent, monkeypatch):
    find = precision.importlib.util.find_spec
    monkeypatch.setattr(precision.importlib.util, "find_spec", lambda name: None if name == "mpmath" else find(name))
    outcome = xent("precision")
    assert outcome.code == 2
    assert "mpmath is not installed" in outcome.err
