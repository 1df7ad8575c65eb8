"""`xent saturation`: the curves, and networks that die or do not."""

import csv

import numpy as np
import pytest

from xent.experiments import saturation_curves
from xent.experiments.scores import read_scores

TINY = float(np.finfo(np.float32).tiny)


@pytest.fixture(scope="module")
def curves():
    return saturation_curves.curves(401)


def test_the_truth_is_minus_log_sigmoid(curves):
    z = curves.logits.astype(np.float64)
    np.testing.assert_allclose(curves.truth[0], np.logaddexp(0, -z), rtol=1e-14)
    np.testing.assert_allclose(curves.truth[1], -np.exp(-np.logaddexp(0, z)), rtol=1e-13)


def test_logits_keep_every_digit_to_the_smallest_normal_float(curves):
    for got, true in zip(curves.ways["logits (xent)"], curves.truth, strict=True):
        np.testing.assert_allclose(got, true, rtol=8 * 2.0**-23, atol=2 * TINY)


def test_probabilities_are_lost_beyond_what_float32_holds(curves):
    z = curves.logits
    value, gradient = curves.ways["probabilities"]
    assert np.isinf(value[z < -90]).all()
    assert np.isnan(value[z > 18]).all()
    assert np.isnan(gradient[np.abs(z) > 90]).all()
    near = np.abs(z) < 5
    np.testing.assert_allclose(value[near], curves.truth[0][near], rtol=1e-4)


def test_clipped_probabilities_are_flat_without_a_gradient(curves):
    z = curves.logits
    value, gradient = curves.ways["clipped"]
    assert np.isfinite(value).all()
    np.testing.assert_allclose(value[z < -17], -np.log(1e-7), rtol=1e-6)
    assert (gradient[np.abs(z) > 17] == 0).all()


def test_a_saturated_network_learns_from_logits_only(xent, tmp_path):
    outcome = xent("saturation", "--epochs", "6", "--hidden", "64", "--seeds", "2")
    assert outcome.code == 0, outcome.err
    assert "±" in outcome.out
    run = tmp_path / "runs/saturation-1"
    for seed in (0, 1):
        inside = run / f"seed-{seed}"
        scores = read_scores(inside / "results.csv")
        usual = {way: scores[f"{way}, usual"] for way in saturation_curves.WAYS}
        saturated = {way: scores[f"{way}, saturated"] for way in saturation_curves.WAYS}
        accuracies = [values["accuracy"] for values in usual.values()]
        assert min(accuracies) > 0.85
        assert max(accuracies) - min(accuracies) < 0.02
        assert saturated["logits (xent)"]["accuracy"] > 0.75
        assert saturated["probabilities"]["accuracy"] < 0.25
        assert saturated["clipped"]["accuracy"] < 0.6
        assert saturated["probabilities"]["skipped"] == 1
        assert [values["skipped"] for values in usual.values()] == [0, 0, 0]
        assert saturated["clipped"]["no gradient"] > 0.9 > 0.3 > saturated["logits (xent)"]["no gradient"]
        assert (inside / "saturation.png").read_bytes().startswith(b"\x89PNG")
        rows = list(csv.DictReader((inside / "saturation.csv").read_text().splitlines()))
        assert len(rows) == 801
        assert (float(rows[0]["logit"]), float(rows[0]["truth, value"])) == (-100, pytest.approx(100))
        lines = list(csv.DictReader((inside / "training.csv").read_text().splitlines()))
        assert len(lines) == 2 * 3 * 7  # the start and six epochs
        assert int(lines[-1]["skipped_steps"]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scale", "0"], "--scale 0.0: must be from 1 to 1000000"),
        (["--epochs", "0"], "--epochs 0: must be from 1 to 1048575"),
        (["--batch-siz", "3"], "did you mean --batch-size?"),
        (["--out", "."], "--out . exists"),
    ],
)
def test_a_mistake_is_one_line(xent, tmp_path, flags, message):
    outcome = xent("saturation", *flags)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
