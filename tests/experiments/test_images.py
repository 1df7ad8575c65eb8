"""The convolutional networks, as a user runs them."""

import contextlib
import csv
import io
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from xent.experiments import images_report
from xent.experiments.__main__ import main
from xent.experiments.fits.images import outline
from xent.experiments.images import Config, load_images
from xent.experiments.images_data import load, on_canvas, scaled
from xent.experiments.scores import read_scores
from xent.train.journal import read_lines
from xent.train.sharding import one_device


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that learns more than nothing, and what it said."""
    folder, said = tmp_path_factory.mktemp("images") / "run", io.StringIO()
    with contextlib.redirect_stdout(said):
        flags = ("--epochs", "4", "--save-every", "21", "--keep", "9")
        main(["images", *flags, "--out", str(folder)])
    return folder, said.getvalue()


def test_a_run_ends_with_scores_and_pictures(run):
    folder, said = run
    assert "1293 train, 144 validation, 360 test, 32 x 32 x 1" in said
    for picture in ("learning_curve", "confusion_matrix", "mistakes"):
        assert (folder / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    lines = read_lines(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(4 * 21 + 1))
    assert lines[0]["validation_loss"] > 0.9 * math.log(10)  # an untrained network knows nothing
    scores = read_scores(folder / "results.csv")
    assert scores["xent"]["accuracy"] > 0.8
    assert scores["most frequent class"]["accuracy"] < 0.12 < scores["nearest neighbour"]["accuracy"]
    rows = list(csv.DictReader((folder / "mistakes.csv").read_text().splitlines()))
    wrong = [row["true"] != row["predicted"] for row in rows]
    assert wrong == sorted(wrong, reverse=True)
    assert 1 - np.mean(wrong) == pytest.approx(scores["xent"]["accuracy"], abs=1e-6)
    confidences = [float(row["confidence"]) for row in rows if row["true"] != row["predicted"]]
    assert confidences == sorted(confidences, reverse=True)


@pytest.mark.parametrize("model", ["lenet", "alexnet", "vgg"])
def test_the_built_in_digits_have_a_recipe_whatever_their_version(model):
    assert Config(model=model, dataset="digits:1.0.0").recipe == Config(model=model).recipe
    assert Config(model=model, dataset="mnist").recipe != Config(model=model).recipe


def unfinished(run, folder, kept):
    """A copy of a run as a kill leaves it: `kept` checkpoints, a log ahead of them, no results; its step."""
    shutil.copytree(run, folder)
    (folder / "results.csv").unlink()
    saved = sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
    for step in saved[kept:]:
        shutil.rmtree(folder / "checkpoints" / str(step))
    return saved[kept - 1]


@pytest.fixture
def small_pictures(monkeypatch):
    """Two mistakes a picture: they are what drawing takes its time for."""
    monkeypatch.setattr(images_report, "ROWS", 1)
    monkeypatch.setattr(images_report, "COLUMNS", 2)


def test_a_run_that_was_killed_is_resumed_to_the_same_end(run, xent, tmp_path, small_pictures):
    step = unfinished(run[0], tmp_path / "part", 3)
    outcome = xent("resume", "part")
    assert outcome.code == 0, outcome.err
    assert f"from step {step} of" in outcome.out
    for name in ("metrics.jsonl", "results.csv"):
        assert (tmp_path / "part" / name).read_bytes() == (run[0] / name).read_bytes()


@pytest.mark.parametrize("model", ["lenet", "alexnet", "vgg"])
def test_every_network_takes_the_step_with_every_augmentation(model):
    config = Config(model=model, width=1 / 64, batch_size=4, mixup=0.2, cutmix=1.0, label_smoothing=0.1)
    found = outline(config, load_images(config, Console(quiet=True)))
    after, metrics = jax.eval_shape(found.step, found.state, found.batch)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, found.state)
    assert metrics.keys() == {"loss", "accuracy"}


def test_a_scaled_picture_shows_the_same_in_every_channel():
    small = np.zeros((2, 8, 8, 2), np.uint8)
    small[0, :, 4:, 0] = 200
    small[1, :4, :, 1] = 100
    large = np.stack([scaled(image, 32) for image in small])
    assert large.shape == (2, 32, 32, 2)
    assert (large[0, :, 24:, 0] == 200).all()
    assert (large[1, :8, :, 1] == 100).all()
    assert not large[0, :, :8].any()
    assert not large[0, ..., 1].any()
    assert not large[1, 24:].any()
    framed = np.stack([on_canvas(image, 32) for image in small])
    assert (framed[0, 4:28, 22:28, 0] == 200).all()
    framed[:, 4:28, 4:28] = 0
    assert not framed.any()


@pytest.fixture
def folder(tmp_path):
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images[:200], digits.target[:200], strict=True)):
        place = tmp_path / "photos" / f"digit {label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).resize((20 + i % 3, 24)).save(place / f"{i}.png")
    return tmp_path / "photos"


FOLDER = ("--size", "16", "--epochs", "2", "--no-baselines", "--batch-size", "32")


@pytest.mark.parametrize("named", [True, False], ids=["a set", "a folder"])
def test_a_stream_has_the_images_that_memory_has(named, folder):
    flags = {"validation": 0.9 if named else 0.1, "data_dir": None, "size": 16}
    whole, streamed = (
        load("digits" if named else str(folder), Console(quiet=True), stream=stream, **flags)
        for stream in (False, True)
    )
    shape = (143, 16, 16, 1) if named else (144, 16, 16, 3)
    assert whole.train.image.shape == shape
    assert streamed.train is None
    assert (streamed.examples, streamed.classes) == (shape[0], whole.classes)
    np.testing.assert_array_equal(streamed.test.image, whole.test.image)
    source = streamed.source(shape[0], jax.random.key(0), one_device())
    batch = jax.device_get(source.batch(source.feed(0), np.int32(0)))
    found = (batch["image"], batch["label"]), streamed.validation
    seen, expected = (  # which of them are for validation is drawn where labels are not read first
        sorted((int(label), image.tobytes()) for part in parts for image, label in zip(*part, strict=True))
        for parts in (found, (whole.train, whole.validation))
    )
    assert seen == expected


def test_a_streamed_run_is_resumed_to_the_same_end(xent, tmp_path, folder, small_pictures):
    outcome = xent(
        "images", "--dataset", folder, *FOLDER, "--stream", "--save-every", "1", "--keep", "9", "--out", "run"
    )
    assert outcome.code == 0, outcome.err
    assert "144 train, 16 validation, 40 test, 16 x 16 x 3, streamed" in outcome.out
    assert len(read_lines(tmp_path / "run/metrics.jsonl")) == 11
    unfinished(tmp_path / "run", tmp_path / "part", 3)
    outcome = xent("resume", "part")
    assert outcome.code == 0, outcome.err
    for name in ("metrics.jsonl", "results.csv"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


@pytest.mark.slow
def test_a_mesh_changes_a_stream_by_rounding_only(xent_process, tmp_path, folder):
    flags = ("--dataset", folder, *FOLDER, "--stream", "--platform", "cpu")
    for mesh in ("data=1", "data=2"):
        outcome = xent_process("images", *flags, "--mesh", mesh, "--out", mesh)
        assert outcome.code == 0, outcome.err
    one, two = (read_lines(tmp_path / mesh / "metrics.jsonl") for mesh in ("data=1", "data=2"))
    assert [line["step"] for line in one] == [line["step"] for line in two]
    assert [line["loss"] for line in two[1:]] == pytest.approx([line["loss"] for line in one[1:]], rel=1e-4)
    refused = xent_process("images", *flags, "--mesh", "data=2", "--batch-size", "33")
    assert refused.code == 2
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--crop", "0"), "--crop 0.0: must be above 0, at most 1"),
        (("--mixup", "-1"), "--mixup -1.0: must be 0 or more"),
        (("--width", "0"), "--width 0.0: must be above 0"),
        (("--depth", "12"), "--depth"),
        (("--stream", "--steps-per-call", "2"), "--steps-per-call 2: must be 1 together with --stream"),
        (("--dataset", "."), "--size None: must be given together with a folder"),
        (("--size", "8"), "inputs must be height, width (both 16 or more)"),
    ],
)
def test_what_cannot_be_is_one_line(xent, flags, message):
    outcome = xent("images", *flags)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("model", "least"), [("lenet", 0.985), ("alexnet", 0.98), ("vgg", 0.98)])
def test_five_seeds_reach_the_number(xent, tmp_path, model, least):
    assert xent("images", "--model", model, "--seeds", "5", "--no-baselines").code == 0
    table = csv.DictReader((tmp_path / "runs/images-1/results.csv").read_text().splitlines())
    rows = {(row["held out"], row["metric"]): row for row in table}
    assert float(rows["xent", "accuracy"]["mean"]) >= least
