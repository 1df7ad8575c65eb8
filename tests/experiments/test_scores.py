"""Tables of scores: written, read, averaged over seeds, shown."""

import io

import pytest
from rich.console import Console

from xent.experiments.scores import read_scores, show, spread, table, write_scores

SCORES = {"xent": {"accuracy": 0.5, "loss": 1.25}, "nearest": {"accuracy": 0.25}}


def shown(scores):
    console = Console(file=io.StringIO(), width=100)
    console.print(table(scores))
    return console.file.getvalue()


def test_what_is_written_is_read(tmp_path):
    write_scores(tmp_path / "results.csv", SCORES)
    assert (tmp_path / "results.csv").read_text().splitlines() == [
        "held out,loss,accuracy",
        "xent,1.25,0.5",
        "nearest,,0.25",
    ]
    assert read_scores(tmp_path / "results.csv") == SCORES


def test_the_spread_is_the_sample_standard_deviation():
    found = spread([{"xent": {"loss": value}} for value in (1.0, 2.0, 6.0)])["xent"]["loss"]
    assert found == (3.0, pytest.approx(7**0.5), 1.0, 6.0, 3)


def test_shares_are_shown_in_per_cent_and_gaps_as_dashes():
    assert [show(name, 0.031) for name in ("WER", "CER", "confidence")] == ["3.10 %", "3.10 %", "0.0310"]
    lines = shown(SCORES).splitlines()
    assert lines[0].split() == ["held", "out", "loss", "accuracy"]
    assert lines[1].split() == ["xent", "1.2500", "50.00", "%"]
    assert lines[2].split() == ["nearest", "-", "25.00", "%"]
    assert "37.50 ± 17.68 %" in shown(spread([{"xent": {"accuracy": 0.25}}, {"xent": {"accuracy": 0.5}}]))
