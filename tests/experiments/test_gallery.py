"""`xent gallery`: the last run of each experiment on one page, and a word for what is missing or cannot be read."""

import base64
import json
import os
import re
import shutil
from html.parser import HTMLParser

import pytest

from xent.experiments.scores import spread, write_scores, write_spread
from xent.experiments.table import EXPERIMENTS

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")


@pytest.fixture
def run(tmp_path):
    """`run("digits-1", experiment=..., age=..., accuracy=..., flags=...)`: a run's folder as a run leaves it."""

    def make(name, experiment, *, age=0.0, accuracy=0.5, flags=None, pictures=("learning_curve",)):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        text = {
            "experiment": experiment, "flags": flags or {}, "versions": {"xent": "0.1.0", "jax": "0.10.2"},
            "device": {"platform": "cpu", "kind": "cpu", "count": 1}, "commit": "0123456789abcdef+",
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(text))
        os.utime(folder / "config.json", (1e9 - age, 1e9 - age))
        for picture in pictures:
            (folder / f"{picture}.png").write_bytes(PNG + name.encode())
        if accuracy is not None:
            write_scores(
                folder / "results.csv", {"xent": {"accuracy": accuracy}, "nearest neighbour": {"accuracy": 0.3}}
            )
        return folder

    return make


def written(tmp_path, number=1):
    return (tmp_path / f"runs/gallery-{number}/gallery.html").read_text()


def test_it_shows_the_last_finished_run_and_how_to_make_those_that_are_missing(run, xent, tmp_path):
    run("digits-1", "digits", age=200, accuracy=0.91)
    run("digits-2", "digits", age=100, accuracy=0.97, flags={"hidden": 32, "task": "classes", "run": {"seed": 3}})
    run("digits-3", "digits", age=50, accuracy=None)
    outcome = xent("gallery")
    assert outcome.code == 0, outcome.err
    html = written(tmp_path)
    assert "97.00 %" in html
    assert "30.00 %" in html
    assert "91.00 %" not in html
    assert "xent digits --hidden=32 --seed=3" in html  # and no flag that is the experiment's own choice
    assert "2001-09-09 01:45 UTC" in html
    assert "xent 0.1.0, jax 0.10.2" in html
    assert base64.b64encode(PNG + b"digits-2").decode() in html
    assert base64.b64encode(PNG + b"digits-1").decode() not in html
    assert "digits-3" not in html
    for name, (_, _, expected) in EXPERIMENTS.items():
        if name != "digits":
            assert f"There is no run of it yet. Type <code>xent {name}</code> and expect: {expected}." in html
            assert f"missing  no run yet: xent {name}\n" in outcome.out


def test_a_run_that_is_not_finished_is_shown_as_one(run, xent, tmp_path):
    run("digits-1", "digits", accuracy=None)
    outcome = xent("gallery", "--out", "page")
    assert "not finished: xent resume runs/digits-1" in outcome.out
    html = (tmp_path / "page/gallery.html").read_text()
    assert "continue it with <code>xent resume runs/digits-1</code>" in html
    assert "<table" not in html


def test_several_seeds_have_their_spread_and_the_first_ones_pictures(run, xent, tmp_path):
    folder = run("gan-1", "gan", accuracy=None, pictures=())
    write_spread(folder / "results.csv", spread([{"xent": {"confidence": value}} for value in (0.5, 0.6, 0.7)]))
    for seed in (10, 9):
        (folder / f"seed-{seed}").mkdir()
        (folder / f"seed-{seed}" / "samples.png").write_bytes(PNG + b"%d" % seed)
    assert xent("gallery").code == 0
    html = written(tmp_path)
    assert "0.6000 ± 0.1000" in html
    assert "3 seeds, mean ± standard deviation" in html
    assert base64.b64encode(PNG + b"9").decode() in html
    assert 'alt="gan: samples"' in html


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text('{"flags": {}, "versions": {}}'), "(no 'experiment')"),
        (lambda folder: (folder / "config.json").unlink(), "runs/digits-2 is not the folder of a run"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "config.json cannot be read"),
        (
            lambda folder: (folder / "results.csv").write_text("a,b\n1,2\n"),
            "runs/digits-2/results.csv: holds no scores",
        ),
        (lambda folder: (folder / "learning_curve.png").write_bytes(b""), "learning_curve.png: is no PNG"),
        (
            lambda folder: [(folder / "results.csv").unlink(), (folder / "results.csv").mkdir()],
            "cannot be read (IsADir",
        ),
    ],
)
def test_what_cannot_be_read_is_said_and_the_rest_is_shown(run, xent, tmp_path, harm, said):
    run("saturation-1", "saturation", accuracy=0.93)
    harm(run("digits-2", "digits"))
    outcome = xent("gallery")
    assert outcome.code == 0
    assert said in outcome.out
    html = written(tmp_path)
    assert "Left out" in html
    assert "93.00 %" in html


def test_nothing_refers_outside_and_what_files_say_is_text(run, xent, tmp_path):
    folder = run("digits-1", "digits", flags={"dataset": "<script>alert(1)</script>"})
    (folder / 'a" onload="x.png').write_bytes(PNG)
    assert xent("gallery").code == 0
    html = written(tmp_path)
    assert "<script" not in html
    images = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: images.append([*dict(attributes)]) if tag == "img" else None
    parser.feed(html)
    assert images == [["src", "alt"]] * 2
    assert set(re.findall(r'(?:src|href)="([^"]{4})', html)) <= {"data"} | {f"#{name[:3]}" for name in EXPERIMENTS}
    assert len(html) < 30_000


def test_without_any_run_it_is_a_list_of_commands(xent, tmp_path):
    outcome = xent("gallery")
    assert outcome.code == 0
    assert outcome.out.count("no run yet") == len(EXPERIMENTS)
    assert written(tmp_path).count("There is no run of it yet.") == len(EXPERIMENTS)
    again, nowhere = xent("gallery", "--out", "runs/gallery-1"), xent("gallery", "--runs", "nowhere")
    assert (again.code, nowhere.code) == (2, 2)
    assert again.err.startswith("xent: --out runs/gallery-1 exists: name a new folder")
    assert nowhere.err.startswith("xent: --runs nowhere: must be a folder that exists")
    assert again.err.count("\n") == nowhere.err.count("\n") == 1


def test_a_run_of_digits_comes_out_as_it_went_in(xent, tmp_path):
    assert xent("digits", "--epochs", "1", "--no-baselines", "--seed", "7").code == 0
    shutil.copytree(tmp_path / "runs", tmp_path / "elsewhere")
    outcome = xent("gallery", "--runs", "elsewhere", "--out", "page")
    assert outcome.code == 0, outcome.err
    html = (tmp_path / "page/gallery.html").read_text()
    assert "xent digits --epochs=1 --no-baselines --seed=7" in html
    assert html.count("<img ") == 2
    assert "left out" not in outcome.out
