"""The convolutional networks, as a user runs them."""

import csv
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from xent.experiments.fits.images import outline
from xent.experiments.images import Config, load_images
from xent.experiments.images_data import on_canvas, scaled
from xent.experiments.scores import read_scores
from xent.train.journal import read_lines

SHORT = ("--epochs", "1", "--no-baselines", "--batch-size", "256")


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ("lenet", ("--mixup", "0.2", "--cutmix", "1")),
        pytest.param("alexnet", ("--width", "0.0625"), marks=pytest.mark.slow),
        pytest.param("vgg", ("--width", "0.0625"), marks=pytest.mark.slow),
    ],
)
def test_every_network_takes_its_steps_and_ends_with_pictures(xent, tmp_path, model, flags):
    outcome = xent("images", "--model", model, *flags, *SHORT)
    assert outcome.code == 0, outcome.err
    assert "1293 train, 144 validation, 360 test, 32 x 32 x 1" in outcome.out
    run = tmp_path / "runs/images-1"
    for picture in ("learning_curve", "confusion_matrix", "mistakes"):
        assert (run / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    lines = read_lines(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(7))
    assert lines[0]["validation_loss"] > 0.9 * math.log(10)  # an untrained network knows nothing
    rows = list(csv.DictReader((run / "mistakes.csv").read_text().splitlines()))
    wrong = [row["true"] != row["predicted"] for row in rows]
    assert wrong == sorted(wrong, reverse=True)
    accuracy = read_scores(run / "results.csv")["xent"]["accuracy"]
    assert 1 - np.mean(wrong) == pytest.approx(accuracy, abs=1e-6)
    confidences = [float(row["confidence"]) for row in rows if row["true"] != row["predicted"]]
    assert confidences == sorted(confidences, reverse=True)


@pytest.mark.parametrize("model", ["lenet", "alexnet", "vgg"])
def test_every_network_takes_the_step_with_every_augmentation(model):
    config = Config(model=model, width=1 / 64, batch_size=4, mixup=0.2, cutmix=1.0, label_smoothing=0.1)
    found = outline(config, load_images(config, Console(quiet=True)))
    after, metrics = jax.eval_shape(found.step, found.state, found.batch)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, found.state)
    assert metrics.keys() == {"loss", "accuracy"}


def test_a_few_epochs_learn_more_than_nothing(xent, tmp_path):
    assert xent("images", "--epochs", "6").code == 0
    scores = read_scores(tmp_path / "runs/images-1/results.csv")
    assert scores["xent"]["accuracy"] > 0.8
    assert scores["most frequent class"]["accuracy"] < 0.12 < scores["nearest neighbour"]["accuracy"]


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


FOLDER = ("--size", "32", "--epochs", "2", "--no-baselines", "--batch-size", "32")


def test_a_folder_of_images_is_a_dataset_in_memory_or_streamed(xent, tmp_path, folder):
    for stream in ("--no-stream", "--stream"):
        outcome = xent("images", "--dataset", folder, *FOLDER, stream)
        assert outcome.code == 0, outcome.err
        assert "144 train, 16 validation, 40 test, 32 x 32 x 3" in outcome.out
    first = [read_lines(tmp_path / f"runs/images-{n}/metrics.jsonl") for n in (1, 2)]
    assert first[0][0] == first[1][0]  # the same images are held out
    assert len(first[1]) == 11


def test_a_named_dataset_is_streamed_too(xent, tmp_path):
    outcome = xent("images", *SHORT, "--stream")
    assert outcome.code == 0, outcome.err
    assert "1293 train, 144 validation, 360 test, 32 x 32 x 1, streamed" in outcome.out
    assert len(read_lines(tmp_path / "runs/images-1/metrics.jsonl")) == 7


def test_a_stream_is_resumed_to_the_same_end(xent, tmp_path, folder):
    flags = ("--dataset", folder, *FOLDER, "--stream", "--save-every", "1")
    assert xent("images", *flags, "--out", "whole").code == 0
    assert xent("images", *flags, "--out", "parts").code == 0
    (tmp_path / "parts/results.csv").unlink()
    checkpoints = sorted(path for path in (tmp_path / "parts/checkpoints").iterdir() if path.name.isdigit())
    shutil.rmtree(checkpoints[-1])
    assert xent("resume", "parts").code == 0
    for name in ("metrics.jsonl", "results.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


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


def test_a_run_that_is_killed_is_resumed_to_the_same_end(xent, tmp_path):
    flags = ("--epochs", "3", "--no-baselines", "--save-every", "4", "--mixup", "0.2")
    assert xent("images", *flags, "--out", "whole").code == 0
    command = [sys.executable, "-m", "xent.experiments", "images", *flags, "--out", "parts"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "parts/metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") > 20):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    assert len(log.read_text().splitlines()) < 64
    assert xent("resume", "parts").code == 0
    for name in ("metrics.jsonl", "results.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


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


# By the loss on validation images, on which 1e-3 does worse in as many epochs.
ALEXNET = ("--learning-rate", "0.002", "--dropout", "0.25")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "flags", "least"), [("lenet", (), 0.985), ("alexnet", ALEXNET, 0.98), ("vgg", (), 0.98)]
)
def test_five_seeds_reach_the_number(xent, tmp_path, model, flags, least):
    assert xent("images", "--model", model, *flags, "--seeds", "5", "--no-baselines").code == 0
    table = csv.DictReader((tmp_path / "runs/images-1/results.csv").read_text().splitlines())
    rows = {(row["held out"], row["metric"]): row for row in table}
    assert float(rows["xent", "accuracy"]["mean"]) >= least
