"""The main job, as a newcomer runs it."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from xent.experiments.__main__ import main
from xent.experiments.scores import read_scores
from xent.train.journal import read_lines

SHORT = ("--epochs", "2", "--no-baselines")


@pytest.fixture(scope="module")
def short(tmp_path_factory, dataset_cache):
    """The folder of a short run."""
    folder = tmp_path_factory.mktemp("short") / "run"
    main(["digits", *SHORT, "--out", str(folder)])
    return folder


def test_it_ends_with_scores_pictures_and_their_numbers(xent, tmp_path):
    outcome = xent("digits", "--epochs", "8")
    assert outcome.code == 0, outcome.err
    for part in ("device", "compile", "1293 train, 144 validation, 360 test", "runs/digits-1", "scikit-learn MLP"):
        assert part in outcome.out
    run = tmp_path / "runs" / "digits-1"
    for picture in ("learning_curve", "confusion_matrix"):
        assert (run / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
        assert (run / f"{picture}.csv").exists()
    scores = read_scores(run / "results.csv")
    assert scores["xent"]["accuracy"] > 0.93
    assert scores["most frequent class"]["accuracy"] < 0.12 < scores["nearest neighbour"]["accuracy"]
    rows = list(csv.reader((run / "confusion_matrix.csv").read_text().splitlines()))
    counts = np.array([row[1:] for row in rows[1:]], int)
    assert counts.sum() == 360
    assert counts.trace() / 360 == pytest.approx(scores["xent"]["accuracy"], abs=1e-6)
    config = json.loads((run / "config.json").read_text())
    assert config["flags"]["epochs"] == 8
    assert config["versions"]["jax"] == jax.__version__
    lines = read_lines(run / "metrics.jsonl")
    assert lines[0]["validation_loss"] == pytest.approx(np.log(10), abs=0.3)  # an untrained network knows nothing
    assert [line["step"] for line in lines] == [21 * epoch for epoch in range(9)]


def test_one_bit_is_learnt_from_one_logit(xent, tmp_path):
    outcome = xent("digits", "--task", "binary", "--positive", "8", "--epochs", "8", "--no-baselines")
    assert outcome.code == 0, outcome.err
    assert "MLP 64-256-1," in outcome.out
    rows = list(csv.reader((tmp_path / "runs/digits-1/confusion_matrix.csv").read_text().splitlines()))
    assert rows[0][1:] == ["not 8", "8"]
    wrong = int(rows[1][2]) + int(rows[2][1])
    assert wrong < 0.7 * (360 - sum(map(int, rows[1][1:])))  # better than to say "not 8" always


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion", "muon"])
def test_other_optimisers_learn_too(xent, tmp_path, optimizer):
    rate = {"sgd": "0.05", "lion": "0.0003", "muon": "0.02"}.get(optimizer, "0.001")
    flags = ("--optimizer", optimizer, "--learning-rate", rate, "--schedule", "cosine", "--warmup-steps", "20")
    outcome = xent("digits", "--epochs", "6", "--no-baselines", *flags, "--clip", "1", "--label-smoothing", "0.1")
    assert outcome.code == 0, outcome.err
    assert read_scores(tmp_path / "runs/digits-1/results.csv")["xent"]["accuracy"] > 0.85


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype_does_what_it_says(xent, tmp_path, short, dtype):
    outcome = xent("digits", *SHORT, "--dtype", dtype, "--out", dtype)
    assert outcome.code == 0, outcome.err
    losses = [read_scores(run / "results.csv")["xent"]["loss"] for run in (tmp_path / dtype, short)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_matmul_precision_reaches_the_products(xent):
    try:
        assert xent("digits", *SHORT, "--matmul-precision", "highest").code == 0
        assert jax.config.jax_default_matmul_precision == "highest"
    finally:
        jax.config.update("jax_default_matmul_precision", None)


def test_steps_per_call_changes_the_log_and_not_the_training(xent, tmp_path, short):
    assert xent("digits", *SHORT, "--steps-per-call", "5", "--out", "5").code == 0
    assert read_scores(tmp_path / "5/results.csv") == read_scores(short / "results.csv")
    assert len(read_lines(tmp_path / "5/metrics.jsonl")) == 11
    assert len(read_lines(short / "metrics.jsonl")) == 3


def test_a_run_that_diverges_ends_with_one_line(xent):
    outcome = xent("digits", *SHORT, "--learning-rate", "1e38", "--optimizer", "sgd", "--patience", "5")
    assert outcome.code == 1
    assert "5 steps in a row up to step" in outcome.err
    assert "xent rerun runs/digits-1 --learning-rate ..." in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_rerun_repeats_a_run_bitwise_and_takes_other_flags(xent, tmp_path):
    assert xent("digits", *SHORT, "--seed", "3").code == 0
    assert xent("rerun", "runs/digits-1").code == 0
    assert xent("rerun", "runs/digits-1", "--epochs", "3").code == 0
    logs = [(tmp_path / f"runs/digits-{number}/metrics.jsonl").read_bytes() for number in (1, 2, 3)]
    assert logs[0] == logs[1] != logs[2]
    assert logs[2].startswith(logs[0])
    finished = xent("resume", "runs/digits-1")
    assert finished.code == 0
    assert "is finished" in finished.out


def test_seeds_are_runs_of_their_own_with_a_summary(xent, tmp_path):
    outcome = xent("digits", *SHORT, "--seed", "4", "--seeds", "3")
    assert outcome.code == 0, outcome.err
    assert "±" in outcome.out
    run = tmp_path / "runs/digits-1"
    losses = [read_scores(run / f"seed-{seed}/results.csv")["xent"]["loss"] for seed in (4, 5, 6)]
    assert len(set(losses)) == 3
    summary = {row["metric"]: row for row in csv.DictReader((run / "results.csv").read_text().splitlines())}
    assert float(summary["loss"]["mean"]) == pytest.approx(np.mean(losses))
    assert float(summary["loss"]["std"]) == pytest.approx(np.std(losses, ddof=1))
    alone = xent("digits", *SHORT, "--seed", "5", "--out", "alone")
    assert alone.code == 0
    assert read_scores(tmp_path / "alone/results.csv") == read_scores(run / "seed-5/results.csv")


def test_seeds_that_are_done_are_not_done_again(xent, tmp_path):
    assert xent("digits", *SHORT, "--seeds", "3").code == 0
    run = tmp_path / "runs/digits-1"
    expected = (run / "results.csv").read_text()
    (run / "results.csv").unlink()
    (run / "seed-1/results.csv").unlink()
    shutil.rmtree(run / "seed-2")
    before = (run / "seed-0/timing.jsonl").read_text()
    assert xent("resume", run).code == 0
    assert (run / "results.csv").read_text() == expected
    assert (run / "seed-0/timing.jsonl").read_text() == before


def test_the_three_ways_to_start_are_one(tmp_path):
    file = Path(__file__).parents[2] / "experiments" / "digits.py"
    for start in ([str(file)], ["-m", "xent.experiments.digits"], ["-m", "xent.experiments", "digits"]):
        done = subprocess.run([sys.executable, *start, "--epoch"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith("xent: ")
        assert "did you mean --epochs?" in done.stderr


@pytest.mark.slow
def test_five_seeds_reach_the_number(xent, tmp_path):
    assert xent("digits", "--seeds", "5").code == 0
    table = csv.DictReader((tmp_path / "runs/digits-1/results.csv").read_text().splitlines())
    rows = {(row["held out"], row["metric"]): row for row in table}
    ours, theirs = (rows[name, "accuracy"] for name in ("xent", "scikit-learn MLP"))
    assert float(ours["mean"]) >= 0.965
    assert float(ours["mean"]) >= float(theirs["mean"]) - max(float(ours["std"]), float(theirs["std"]))
