"""`xent compare`: what it refuses, what it claims and what it does not, and the page in a real browser.

All files compared here are SIMULATED by `simulated.py`; nothing in them was measured.
"""

import copy
import csv
import importlib.util
import json
import random
import re
import shutil
import statistics
import subprocess
from pathlib import Path

import jsonschema
import pytest

from xent.experiments.__main__ import main as xent
from xent.experiments.bench.estimate import Estimate
from xent.experiments.bench.schema import RECORD
from xent.experiments.chip_peaks import CHIPS, peaks_of
from xent.experiments.compare.joining import cautions, join
from xent.experiments.compare.reading import read_machines
from xent.experiments.compare.roofline import measured_roof, points
from xent.experiments.compare.speed import Line, crossing, differences, speed_up, verdict
from xent.experiments.compare.speed_ups import compare
from xent.experiments.compare.training import ahead

spec = importlib.util.spec_from_file_location("simulated", Path(__file__).with_name("simulated.py"))
simulated = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulated)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """cpu.json, h200.json and v5e.json, simulated."""
    return simulated.write(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def compared(files, tmp_path_factory):
    """The folder of a comparison of all three, made by the command."""
    folder = tmp_path_factory.mktemp("out") / "page"
    xent(["compare", *map(str, files), "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def html(compared):
    return (compared / "comparison.html").read_text()


def changed(file, folder, change, name=None):
    """A copy of a file with something else in it."""
    record = json.loads(file.read_text())
    change(record)
    new = folder / (name or file.name)
    new.write_text(json.dumps(record))
    return new


def refused(arguments, capsys):
    """The one line that is said on stderr by a command that exits with code 2."""
    with pytest.raises(SystemExit) as stop:
        xent(["compare", *map(str, arguments)])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_simulated_files_are_as_the_schema_says(files):
    for file in files:
        jsonschema.validate(json.loads(file.read_text()), RECORD)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ('{"schema": 3, "benchm', "is no whole JSON (line 1"),
        ("[1, 2]", "was not written by xent bench"),
        ('{"a": 1}', "was not written by xent bench"),
        ('{"schema": 2}', "has schema '2', and this xent reads 3"),
        ('{"schema": 1, "kind": "compiled"}', "was written by xent fits, which measures nothing"),
        ('{"schema": 3}', "is no file of xent bench"),
        (b"\xff\xfe\x00", "cannot be read (not text)"),
        ("[" * 100_000, "is no whole JSON"),
    ],
)
def test_a_file_that_is_none_of_ours_is_one_line(content, message, files, tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = refused([files[0], other], capsys)
    assert f"{other} {message}" in said


def test_what_is_wrong_inside_a_file_is_named(files, tmp_path, capsys):
    def set_rounds(record):
        record["measurements"][3]["cases"][1]["seconds"] = []

    broken = changed(files[1], tmp_path, set_rounds)
    assert "measurements.3.cases.1.seconds" in refused([files[0], broken], capsys)

    def set_zero(record):
        record["measurements"][3]["cases"][1]["seconds"][0] = 0.0

    assert "its clock was too coarse" in refused([files[0], changed(files[1], tmp_path, set_zero)], capsys)

    def drop_sample(record):
        record["measurements"][3]["cases"][1]["seconds"].pop()

    assert "as many samples" in refused([files[0], changed(files[1], tmp_path, drop_sample)], capsys)
    twice = changed(files[1], tmp_path, lambda record: record["measurements"].append(record["measurements"][0]))
    assert "of losses twice" in refused([files[0], twice], capsys)


def test_two_different_files_are_needed(files, tmp_path, capsys):
    assert "no file is given: compare two files or more" in refused([], capsys)
    assert f"only {files[0]} is given" in refused(files[:1], capsys)
    assert "is given twice" in refused([files[0], files[1], files[0].parent / "." / files[0].name], capsys)
    again = shutil.copy(files[0], tmp_path / "again.json")
    assert f"{again} is a copy of {files[0]}" in refused([files[0], again], capsys)
    assert "cannot be read (No such file or directory)" in refused([files[0], tmp_path / "none.json"], capsys)
    assert "cannot be read (Is a directory)" in refused([files[0], tmp_path], capsys)


def test_an_existing_folder_is_left_alone(files, tmp_path, capsys):
    (tmp_path / "precious").write_text("kept")
    assert "exists: name a new folder" in refused([*files, f"--out={tmp_path}"], capsys)
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]


def lognormal(draw, median, spread, count):
    return [median * draw.lognormvariate(0, spread) for _ in range(count)]


@pytest.mark.parametrize(("counts", "spreads"), [((7, 7), (0.3, 0.3)), ((11, 22), (0.5, 0.05)), ((30, 11), (0.1, 0.4))])
def test_the_interval_of_a_speed_up_holds_the_truth_95_times_in_100(counts, spreads):
    """Of two machines measured apart, whose distributions have nothing in common but that they are continuous."""
    draw, held, trials = random.Random(0), 0, 2000
    for _ in range(trials):
        base = lognormal(draw, 3.0, spreads[0], counts[0])
        other = [0.5 + draw.expovariate(1.0) * spreads[1] for _ in range(counts[1])]
        truth = 3.0 / (0.5 + 0.6931471805599453 * spreads[1])
        found = speed_up(base, other)
        held += found.low <= truth <= found.high
    assert held / trials >= 0.95


def test_a_difference_is_claimed_where_there_is_one_and_not_where_there_is_none():
    draw, trials = random.Random(1), 500
    wrong = sum(
        verdict(speed_up(lognormal(draw, 1.0, 0.2, 11), lognormal(draw, 1.0, 0.2, 11))) != "no difference shown"
        for _ in range(trials)
    )
    right = sum(
        verdict(speed_up(lognormal(draw, 1.6, 0.1, 11), lognormal(draw, 1.0, 0.1, 11))) == "faster"
        for _ in range(trials)
    )
    assert wrong <= 0.05 * trials
    assert right >= 0.95 * trials
    assert verdict(speed_up([1.0] * 11, [2.0] * 11)) == "slower"
    assert verdict(speed_up([2.0] * 5, [1.0] * 5)) == "too few samples"
    assert verdict(speed_up([2.0] * 7, [1.0] * 7)) == "faster"


def test_lines_cross_where_compilation_has_paid():
    def line(start, step, error=0.0):
        return Line(start, Estimate(step, step - error, step + error, 0.97))

    after = crossing(line(1.0, 0.010, 0.001), line(11.0, 0.005, 0.001))
    assert (after.kind, after.steps) == ("after", 2000)
    assert 1.0 + after.steps * 0.010 == pytest.approx(11.0 + after.steps * 0.005)
    assert after.low < 2000 < after.high
    assert crossing(line(5.0, 0.010), line(1.0, 0.005)).kind == "at once"
    assert crossing(line(1.0, 0.005), line(5.0, 0.010)).kind == "never"
    until = crossing(line(11.0, 0.005), line(1.0, 0.010))
    assert (until.kind, until.steps) == ("until", 2000)
    assert crossing(line(1.0, 0.010, 0.004), line(11.0, 0.009, 0.004)).kind == "open"
    assert ahead(until) == ("for 2,000 steps, no longer", "2,000 – 2,000")


def test_loss_curves_are_compared_over_what_both_have():
    nan, inf = float("nan"), float("inf")
    assert differences([2.0, 4.0, 8.0], [2.0, 5.0]) == [0.0, 0.25]
    assert differences([nan, 1.0, 0.0], [nan, nan, 1.0]) == [0.0, inf, inf]


def test_measurements_are_joined_by_name_and_none_is_dropped(files):
    machines = read_machines(files)
    joined = join(machines)
    names = {key for machine in machines for key in machine.measurements}
    assert names == {row.key for row in joined.rows} | {key for key, _ in (*joined.alone, *joined.unequal)}
    assert {key[0] for key, _ in joined.unequal} == {"peaks"}  # other sizes on chips than on a CPU
    assert all("size: 2048 (cpu), 16384 (h200, v5e)" in how for (_, name), how in joined.unequal if "product" in name)
    row = next(row for row in joined.rows if row.key == ("train", "digits, batch 64"))
    h200, v5e = compare(row)
    medians = [
        statistics.median(second / case.units for second in case.seconds)
        for case in (row.on[label].cases[0] for label in ("cpu", "h200", "v5e"))
    ]
    assert h200.found.median == pytest.approx(medians[0] / medians[1])
    assert v5e.found.median == pytest.approx(medians[0] / medians[2])


def test_what_one_file_alone_has_is_listed(files, tmp_path, capsys):
    def less(record):
        record["measurements"] = [m for m in record["measurements"] if m["name"] == "digits, batch 64"]

    few = changed(files[1], tmp_path, less)
    xent(["compare", str(files[0]), str(few), "--out", str(tmp_path / "page")])
    said, page = capsys.readouterr().out, (tmp_path / "page" / "comparison.html").read_text()
    for measured in json.loads(files[0].read_text())["measurements"]:
        assert measured["name"] in said
        assert measured["name"] in page
    assert "Only cpu has: integer, 65536 x 10, float32, value (losses)" in said


def test_files_without_anything_in_common_are_said_to_be(files, tmp_path, capsys):
    def keep(benchmark):
        def change(record):
            record["measurements"] = [m for m in record["measurements"] if m["benchmark"] == benchmark]

        return change

    pair = [changed(files[0], tmp_path, keep("train")), changed(files[1], tmp_path, keep("losses"))]
    xent(["compare", *map(str, pair), "--out", str(tmp_path / "page")])
    assert "h200 and cpu have no measurement in common" in capsys.readouterr().out
    assert "no measurement in common" in (tmp_path / "page" / "comparison.html").read_text()


def test_differences_between_files_are_said_plainly(files, tmp_path):
    def change(record):
        record["finished"] = False
        record["environment"]["commit"] = "fedcba9876543210+"
        record["environment"]["matmul_precision"] = "highest"
        record["environment"]["xla_flags"] = "--xla_fast"
        record["flags"]["bench"]["rounds"] = 5

    said = cautions(read_machines([files[0], changed(files[1], tmp_path, change)]))
    assert "h200 is unfinished: its run was stopped, and what it did not come to is missing." in said
    assert "Commit: 0123456789 (cpu), fedcba9876+ (h200). Different code was measured." in said
    assert "h200 was measured with changes beside its commit." in said
    assert "Versions differ. jax: 0.10.2 (cpu), 0.12.0 (h200)." in said
    assert "--matmul-precision: none (cpu), highest (h200)." in said
    assert "XLA_FLAGS: none (cpu), --xla_fast (h200)." in said
    assert "Flags of xent bench differ. bench.rounds: none (cpu), 5 (h200)." in said
    assert not any("float32 is not the same" in line for line in said)
    assert any("float32 is not the same everywhere: on h200" in line for line in cautions(read_machines(files[:2])))


def test_rooflines_hold_what_was_simulated(files):
    for machine in read_machines(files):
        float32, bfloat16, bandwidth, *_ = simulated.MACHINES[machine.label]
        roof = measured_roof(machine)
        assert roof.flops["float32, default"] == pytest.approx(float32, rel=0.15)
        assert roof.flops["bfloat16, default"] == pytest.approx(bfloat16, rel=0.15)
        assert roof.bandwidth == pytest.approx(bandwidth / 1.4, rel=0.15)
        found = points(machine)
        assert len(found) == sum(m.benchmark != "peaks" for m in machine.measurements.values())
        assert max(point.achieved for point in found) < 1.2 * bfloat16


def test_chips_are_known_by_what_jax_calls_them_and_each_has_a_source():
    assert peaks_of("NVIDIA H100 80GB HBM3").flops["bfloat16"] == 989.5e12
    assert peaks_of("TPU v5 lite").name == "TPU v5e"
    assert peaks_of("cpu") is None
    kinds = [kind for chip in CHIPS for kind in chip.kinds]
    assert len(kinds) == len({*kinds})
    for chip in CHIPS:
        assert chip.sources
        assert all(source.startswith("https://") for source in chip.sources)
        assert 1e9 < chip.memory < 1e12
        assert 1e11 < chip.bandwidth < 1e13
        assert all(1e12 < flops < 1e16 for flops in chip.flops.values())


def test_the_folder_holds_the_page_and_the_numbers_of_each_picture(compared, html):
    pictures = re.findall(r'download="([\w-]+\.csv)"', html)
    assert {"speed-up-train.csv", "roofline.csv", "throughput.csv", "steps-until-ahead.csv", "memory.csv",
            "loss-curves.csv"} <= set(pictures)  # fmt: skip
    for name in pictures:
        rows = list(csv.DictReader((compared / name).read_text().splitlines()))
        assert rows, name
    assert html.count("<figure>") == len(pictures)
    row = next(csv.DictReader((compared / "speed-up-train.csv").read_text().splitlines()))
    assert row["shows"] == "faster"
    assert float(row["low"]) < float(row["speed_up"]) < float(row["high"])


def test_the_page_refers_to_nothing_outside_itself(html):
    assert not re.findall(r"<(?:link|script|img|iframe|object)\b", html)
    targets = re.findall(r'(?:href|src|xlink:href|data)="([^"]*)"', html)
    assert targets
    assert all(target.startswith(("#", "data:")) for target in targets)
    assert not re.findall(r"url\((?!#)", html)
    assert "default-src 'none'" in html
    assert "@import" not in html


def test_the_page_can_be_read_without_seeing_it(html):
    assert html.startswith('<!doctype html>\n<html lang="en">')
    pictures = re.findall(r'<svg [^>]*role="img" aria-label="([^"]*)"', html)
    assert len(pictures) == html.count("<svg ")
    assert all(len(alt) > 60 for alt in pictures)
    assert "digits, batch 64 on h200: " in pictures[0]
    assert all('<th scope="col"' in table and "<caption>" in table for table in html.split("<table")[1:])
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_what_files_say_is_text_and_not_markup(files, tmp_path):
    def change(record):
        record["environment"]["device"] = '<script>alert("x")</script> $\\alpha$'
        for measured in record["measurements"]:
            measured["name"] += " <b>$&"

    pair = [changed(file, tmp_path, change, f"{file.stem} <i>.json") for file in files[:2]]
    xent(["compare", *map(str, pair), "--out", str(tmp_path / "page")])
    page = (tmp_path / "page" / "comparison.html").read_text()
    assert "<script>" not in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;" in page


def test_the_table_in_the_terminal_is_whole(files, tmp_path, capsys):
    def same(record):
        record["measurements"] = copy.deepcopy(json.loads(files[0].read_text())["measurements"])
        for case in record["measurements"][0]["cases"]:
            case["seconds"] = case["seconds"][:4]

    xent(["compare", str(files[0]), str(changed(files[1], tmp_path, same)), "--out", str(tmp_path / "page")])
    said = capsys.readouterr().out
    assert "…" not in said
    assert "too few samples" in said
    assert "no difference shown" in said
    assert re.search(r"digits, batch 64 +step +1\.\d+ ms +1\.\d+ ms +no difference shown +0\.\d+ – 1\.\d+", said)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """`browser(*flags)`: what a real headless browser prints."""
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if found is None:
        pytest.skip("there is no chromium here")
    folder = tmp_path_factory.mktemp("browser")

    def run(*flags):
        command = [
            found, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", f"--user-data-dir={folder}", *flags,
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    return run


def test_a_browser_shows_the_page(compared, browser, tmp_path):
    address = (compared / "comparison.html").as_uri()
    shown = browser("--dump-dom", address)
    assert "Cross-entropy on cpu, h200 and v5e" in shown
    assert "NVIDIA H200" in shown
    assert "How to read this" in shown
    assert len(re.findall("<svg ", shown)) == len(re.findall("<figure>", shown)) >= 7
    for width, height in ((1200, 1600), (500, 900)):
        picture = tmp_path / f"{width}.png"
        browser(f"--window-size={width},{height}", f"--screenshot={picture}", address)
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size > 30_000  # an empty page of this size takes a tenth of that
