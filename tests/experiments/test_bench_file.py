"""The file that `xent bench --out` writes: its form, what is in it when a run is stopped, and how the run goes on."""

import json
import math
import signal
from dataclasses import replace

import jsonschema
import pytest

from xent.experiments import language_model
from xent.experiments.bench import everything, frame, fused, losses, peaks, train, train_experiments
from xent.experiments.bench.schema import RECORD

PEAKS = ("bench", "peaks", "--rounds=2", "--size=8", "--mebibytes=1")
TRAIN = ("bench", "train", "--rounds=2", "--steps=3", "--batch-size=4", "--hidden=8", "--against=optax")
TINY = {
    "peaks": PEAKS,
    "losses": ("bench", "losses", "--rounds=2", "--batch=8", "--classes=3", "--loss=integer", "--dtype=float32"),
    "fused": ("bench", "fused", "--rounds=2", "--tokens=8", "--units=4", "--classes=5"),
    "train": (*TRAIN, "--experiment=digits"),
    "save": ("bench", "save", "--rounds=2", "--steps=300", "--hidden=8"),
}
MEASURED = {"peaks": 5, "losses": 2, "fused": 3, "train": 1, "save": 1}


@pytest.fixture(autouse=True)
def precision():
    """What the command sets for its own process."""
    import jax

    before = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", before)


def read(file):
    record = json.loads(file.read_text())
    jsonschema.validate(record, RECORD)
    return record


@pytest.mark.parametrize("name", list(TINY))
def test_each_benchmark_writes_the_form_that_the_schema_says(name, xent, tmp_path):
    outcome = xent(*TINY[name], "--out=one.json")
    assert outcome.code == 0, outcome.err
    record = read(tmp_path / "one.json")
    assert (record["benchmark"], record["finished"]) == (name, True)
    rows = record["measurements"]
    assert len(rows) == len({row["name"] for row in rows}) == MEASURED[name]
    for row in rows:
        names = [case["name"] for case in row["cases"]]
        assert row["ratios_to"] == names[0]
        assert row["null"] == (None if name == "peaks" else f"{names[0]}, again")
        assert all(sorted(turns) == list(range(len(names))) for turns in row["order"])
        for case in row["cases"]:
            assert len(case["seconds"]) == len(row["order"]) == 2
            assert min(case["seconds"]) > 0
            assert case["compile"]["moved"] > 0
            assert case["name"] == "copy" or case["compile"]["flops"] > 0
    assert outcome.out.endswith("xent compare one.json OTHER.json\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "one.json"]  # and no half of one


def test_training_is_written_with_its_curve(xent, tmp_path, monkeypatch):
    """The smallest of language models, alone: most of the time that this takes is compilation."""
    smallest = language_model.Config(vocabulary=300, context=4, units=4, layers=1, heads=1)
    alone = replace(train_experiments.CONTRIBUTIONS["language_model"], beside=lambda _: [])
    monkeypatch.setattr(train_experiments, "SMALL", smallest)
    monkeypatch.setitem(train_experiments.CONTRIBUTIONS, "language_model", alone)
    assert xent(*TRAIN, "--steps=30", "--experiment", "language_model", "saturation", "--out=one.json").code == 0
    model, network = read(tmp_path / "one.json")["measurements"]
    assert (model["name"], network["name"], model["unit"]) == ("language_model, batch 4", "saturation, batch 4", "step")
    assert [case["units"] for case in (*model["cases"], *network["cases"])] == [3, 3, 30, 30]
    assert len(model["curve"]) == len(network["curve"]) == 50
    assert max(model["curve"]) < 2 * math.log(300)


class Cut(Exception):
    """A power cut, where a test wants it."""


def fail_at(monkeypatch, number):
    """Have the measurement of that number fail, and count those that begin."""
    begun, measure = [], frame.measure

    def counting(cases, **options):
        begun.append(cases[0].name)
        if len(begun) == number:
            raise Cut
        return measure(cases, **options)

    monkeypatch.setattr(frame, "measure", counting)
    return begun


def test_a_run_that_was_stopped_keeps_what_it_measured_and_goes_on_with_the_rest(xent, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fail_at(patch, 4)
        with pytest.raises(Cut):
            xent(*PEAKS, "--out=one.json")
    before = read(tmp_path / "one.json")
    assert (before["finished"], len(before["measurements"])) == (False, 3)
    begun = fail_at(monkeypatch, 100)
    outcome = xent(*PEAKS, "--out=one.json")
    assert outcome.code == 0, outcome.err
    assert "one.json has 3 measurements already" in outcome.out
    assert len(begun) == 2
    after = read(tmp_path / "one.json")
    assert (after["finished"], after["began"], len(after["measurements"])) == (True, before["began"], 5)
    assert after["measurements"][:3] == before["measurements"]
    assert all(row["name"] in outcome.out for row in after["measurements"])


def test_nothing_is_lost_to_kill_9(start, wait_for, tmp_path, xent):
    file, arguments = tmp_path / "one.json", ("bench", "peaks", "--rounds=20", "--size=64", "--mebibytes=8")

    def measured():
        return len(json.loads(file.read_text())["measurements"]) if file.exists() else 0

    process = start(tmp_path, *arguments, "--out=one.json")
    wait_for(process, lambda: measured() >= 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = read(file)
    assert before["measurements"]
    assert xent(*arguments, "--out=one.json").code == 0
    after = read(file)
    assert after["finished"]
    assert after["measurements"][: len(before["measurements"])] == before["measurements"]


@pytest.fixture
def stopped(xent, tmp_path, monkeypatch):
    """A file that holds one measurement of five."""
    with monkeypatch.context() as patch:
        fail_at(patch, 2)
        with pytest.raises(Cut):
            xent(*PEAKS, "--out=one.json")
    return tmp_path / "one.json"


@pytest.mark.parametrize(
    ("arguments", "difference"),
    [
        ((*PEAKS[:2], "--rounds=3", *PEAKS[3:]), "rounds 2 (now 3)"),
        ((*PEAKS, "--matmul-precision=highest"), "matmul_precision default (now highest)"),
        (("bench", "all", "--rounds=2"), "benchmark peaks (now all)"),
    ],
)
def test_a_beginning_of_something_else_is_refused(arguments, difference, stopped, xent):
    before = stopped.read_bytes()
    outcome = xent(*arguments, "--out=one.json")
    assert outcome.code == 2
    assert difference in outcome.err
    assert outcome.err.count("\n") == 1
    assert stopped.read_bytes() == before


def test_another_machine_does_not_go_on_with_it(stopped, xent):
    record = read(stopped)
    record["environment"] |= {"device": "another chip", "clock_mhz": 1.0}
    stopped.write_text(json.dumps(record))
    outcome = xent(*PEAKS, "--out=one.json")
    assert outcome.code == 2
    assert "was begun with device another chip (now" in outcome.err
    assert "clock" not in outcome.err  # which differs from minute to minute


@pytest.mark.parametrize("text", ["precious", "", "[]", '{"finished": false}', '{"finished": true}'])
def test_any_other_file_is_refused_before_any_work(text, xent, tmp_path):
    out = tmp_path / "one.json"
    out.write_text(text)
    outcome = xent(*TRAIN, f"--out={out}")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == f"xent: --out {out} exists: name a new file\n"
    assert out.read_text() == text


def test_a_finished_file_is_refused(stopped, xent):
    assert xent(*PEAKS, "--out=one.json").code == 0
    assert xent(*PEAKS, "--out=one.json").err == "xent: --out one.json exists: name a new file\n"


def test_all_is_the_four_into_one_file(xent, tmp_path, monkeypatch):
    """With the parts made small: which flags they take on their own is the parts' own affair."""

    class Small:
        def __init__(self, part, **flags):
            self.BENCHMARK, self.Config = part.BENCHMARK, lambda bench: part.Config(bench=bench, **flags)

    assert (losses, fused, train, peaks) == everything.PARTS
    parts = (
        Small(losses, loss=("integer",), batch=(8,), classes=(3,), dtype="float32", against="none"),
        Small(peaks, size=8, mebibytes=1),
    )
    monkeypatch.setattr(everything, "PARTS", parts)
    outcome = xent("bench", "--rounds=2", "--out=all.json")
    assert outcome.code == 0, outcome.err
    record = read(tmp_path / "all.json")
    assert record["benchmark"] == "all"
    assert [row["benchmark"] for row in record["measurements"]] == ["losses"] * 2 + ["peaks"] * 5
    assert [case["name"] for case in record["measurements"][0]["cases"]] == ["ours", "copy", "ours, again"]
    assert "GFLOP/s" in outcome.out


def test_without_a_file_the_last_line_says_how_to_write_one(xent):
    outcome = xent(*PEAKS, "--quick")
    assert outcome.out.endswith("xent bench peaks --quick --out cpu.json, and then xent compare cpu.json OTHER.json\n")


def test_the_null_test_counts(xent):
    outcome = xent("bench", "null", "--times=3", "--rounds=7", "--batch=4", "--classes=3")
    assert outcome.code == 0, outcome.err
    assert "of 3 intervals of 98.4%" in outcome.out
    assert xent("bench", "null", "--times=0").err.startswith("xent: --times 0: must be 1 or more")


def test_torch_asked_for_by_name_and_not_here_is_one_line(xent, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("xent.experiments.__main__._NEEDED", ())
    outcome = xent(*TINY["losses"], "--against=torch")
    assert outcome.code == 2
    assert outcome.err == "xent: --against torch: PyTorch is not installed (pip install torch): take --against optax\n"
