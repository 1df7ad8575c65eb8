"""Speech recognition, as a user runs it, and what padding holds, which has no influence."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from xent.experiments import datasets, speech, speech_data
from xent.experiments.datasets import digit_strings
from xent.experiments.fits.speech import outline
from xent.experiments.scores import read_scores
from xent.experiments.speech_augment import other_voices
from xent.experiments.speech_scores import errors
from xent.experiments.speech_templates import Templates, hear
from xent.train.datasets import prepared
from xent.train.errors import UsageError
from xent.train.journal import read_lines
from xent.train.metrics import add, divide
from xent.train.speech import Clip

MODELS = ("conv_gru", "deep_speech")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A folder with the built-in set, prepared with two clips of each voice."""
    folder = tmp_path_factory.mktemp("few")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digit_strings, "CLIPS", dict.fromkeys(digit_strings.CLIPS, 2))
        prepared("digit_strings", data_dir=folder, builtin=datasets.register())
    return folder


@pytest.fixture(scope="module")
def clips(few):
    """Them, as arrays of eight bands."""
    return speech_data.load(
        "digit_strings", Console(quiet=True), bands=8, longest=36, stream=False, data_dir=few
    )  # fmt: skip


@pytest.fixture
def tiny(few):
    """Flags of a run that is over soon."""
    return (
        "--data-dir",
        few,
        "--units",
        "8",
        "--bands",
        "8",
        "--mask",
        "2",
        "--batch-size",
        "63",
        "--warmup-steps",
        "1",
    )


def begun(model):
    """A small model's loss, and its first parameters."""
    config = speech.Config(model=model, units=8, bands=8, mask=2)
    apply, params = speech.model_of(config)(jax.random.key(0))
    return speech.make_loss(config, apply), params


def some(clips, count=6, **fill):
    """A batch of clips, its padding filled with something else."""
    rows = np.argsort(clips.train.arrays["frames"], stable=True)[-1 - count : -1]
    batch = {name: array[rows] for name, array in clips.train.arrays.items()}
    for name, length in (("features", "frames"), ("labels", "characters")):
        for row, its in zip(batch[name], batch[length], strict=True):
            row[its:] = fill.get(name, 0)
    return batch | {"where": np.ones(count, bool)}


@pytest.mark.parametrize("model", MODELS)
def test_what_padding_holds_changes_no_bit_and_its_length_only_the_rounding(clips, model):
    loss, params = begun(model)
    both = jax.jit(jax.value_and_grad(loss, has_aux=True))
    plain, key = some(clips), jax.random.key(1)
    assert (plain["frames"] < plain["features"].shape[1]).all()
    assert (plain["characters"] < plain["labels"].shape[1]).any()
    for its in (key, None):
        expected = jax.tree.leaves(both(params, plain, its))
        for features, labels in ((1e30, 3), (np.nan, -7), (np.inf, 2**30)):
            found = jax.tree.leaves(both(params, some(clips, features=features, labels=labels), its))
            for here, there in zip(found, expected, strict=True):
                assert here.tobytes() == there.tobytes()
                assert np.isfinite(there).all()
    longer = {
        name: np.pad(array, ((0, 0), (0, 13), (0, 0))[: array.ndim]) if name in ("features", "labels") else array
        for name, array in plain.items()
    }
    for here, there in zip(jax.tree.leaves(both(params, longer, None)), expected, strict=True):
        scale = max(1.0, float(jnp.abs(there).max()))
        np.testing.assert_allclose(here, there, rtol=0, atol=1e-6 * scale)


def test_the_loss_is_of_all_characters_and_of_those_clips_that_count(clips):
    loss, params = begun("deep_speech")
    batch = some(clips)
    half = batch | {"where": np.arange(6) < 3}
    swapped = {name: array[[3, 4, 5, 0, 1, 2]] for name, array in batch.items()} | {"where": np.arange(6) < 3}
    every, first, second = (jax.jit(loss)(params, each, None)[1] for each in (batch, half, swapped))
    assert divide(add(first, second))["loss"] == pytest.approx(divide(every)["loss"], rel=1e-6)
    assert first["loss"][1] == batch["characters"][:3].sum()


def test_error_rates_add_up_as_metrics_do():
    said, heard = ["one two", "three", "four five six", "one"], ["one", "three", "for five five six", ""]
    whole = errors(said, heard)
    assert [float(x) for x in whole["WER"]] == [4, 7]
    parts = add(errors(said[:1], heard[:1]), errors(said[1:], heard[1:]))
    assert divide(parts) == divide(whole)
    assert divide(errors(["two"], ["two"])) == {"WER": 0, "CER": 0}


def test_other_voices_move_along_the_bands_and_mask_a_few_of_them():
    vary, key = jax.jit(other_voices), jax.random.key(0)
    x = np.zeros((500, 2, 40), np.float32)
    x[:, 0, 20], x[:, 1] = 1, np.nan
    np.testing.assert_array_equal(vary(key, x, warp=0.0, mask=0)[:, 0], x[:, 0])
    moved = np.asarray(vary(key, x, warp=0.2, mask=0))
    places = moved[:, 0].argmax(-1)
    assert 14 <= places.min() < 18 < 22 < places.max() <= 26
    assert np.isnan(moved[:, 1]).all()  # no frame has anything of another
    masked = np.asarray(vary(key, np.ones_like(x), warp=0.2, mask=8))[:, 0]
    assert {*np.unique((masked == 0).sum(-1)).tolist()} == {*range(9)}
    np.testing.assert_allclose(masked[masked != 0], 1, rtol=1e-5)


def test_templates_warp_to_words():
    draw = np.random.default_rng(0)
    words = {word: draw.normal(size=(9, 5)).astype(np.float32) for word in ("one", "two", "three")}
    templates = Templates(np.concatenate([*words.values()]), np.array([0, 9, 18]), tuple(words))
    slow, fast = np.repeat(words["two"], 2, 0), words["one"][::2]
    for frames, heard in ((slow, "two"), (np.concatenate([words["three"], slow, fast]), "three two one")):
        assert hear(templates, frames + 0.01, penalty=1.0) == heard


def test_a_run_leaves_pictures_transcripts_and_scores(xent, tmp_path, tiny):
    outcome = xent("speech", *tiny, "--epochs", "2", "--out", "whole")
    assert outcome.code == 0, outcome.err
    assert "126 train, 20 validation, 32 test of 16 voices" in outcome.out
    whole = tmp_path / "whole"
    for picture in ("alignments", "voices", "learning_curve"):
        assert (whole / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    lines = read_lines(whole / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(5))
    assert {"validation_loss", "validation_WER", "validation_CER"} <= {*lines[-1]}
    scores = read_scores(whole / "results.csv")
    assert {*scores} == {"xent", "xent, best path", "nearest templates"}
    assert scores["nearest templates"]["WER"] < 0.9  # a clip or two of each word by each voice
    transcripts = list(csv.DictReader((whole / "transcripts.csv").read_text().splitlines()))
    again = divide(errors([row["said"] for row in transcripts], [row["heard"] for row in transcripts]))
    assert again["WER"] == pytest.approx(scores["xent"]["WER"], abs=1e-6)
    voices = list(csv.DictReader((whole / "voices.csv").read_text().splitlines()))
    assert {row["voice"] for row in voices} == {*digit_strings.VOICES["test"]}


def test_streamed_clips_are_the_same_ones(few, clips):
    streamed = speech_data.load(
        "digit_strings", Console(quiet=True), bands=8, longest=3, stream=True, data_dir=few
    )  # fmt: skip
    source = streamed.source(63, jax.random.key(0), None)
    batches = [source.batch(source.feed(step), jnp.int32(step)) for step in range(2)]
    assert batches[0]["features"].shape == (63, 300, 8)
    assert streamed.shapes["labels"] == (batches[0]["labels"].shape[1:], "int32")

    def frames(features, lengths):
        return sorted(np.asarray(its[:length]).tobytes() for its, length in zip(features, lengths, strict=True))

    every = [np.concatenate([batch[name] for batch in batches]) for name in ("features", "frames")]
    assert frames(*every) == frames(clips.train.arrays["features"], clips.train.arrays["frames"])


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_bits(xent_process, tmp_path, tiny, wait_for, state_of):
    flags = (
        "speech",
        "--model",
        "deep_speech",
        *map(str, tiny),
        "--epochs",
        "9",
        "--save-every",
        "2",
        "--no-baselines",
    )
    assert xent_process(*flags, "--out", "whole").code == 0
    command = [sys.executable, "-m", "xent.experiments", *flags, "--out", "part"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "part/metrics.jsonl"
    wait_for(process, lambda: log.exists() and log.read_bytes().count(b"\n") > 8)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    assert log.read_bytes().count(b"\n") < 19
    outcome = xent_process("resume", "part")
    assert outcome.code == 0, outcome.err
    assert state_of(tmp_path / "part") == state_of(tmp_path / "whole")
    for name in ("results.csv", "transcripts.csv", "alignments.csv", "voices.csv"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_a_mesh_changes_the_rounding_only(xent_process, tmp_path, tiny, stream):
    flags = (*tiny, "--batch-size", "42", "--epochs", "2", "--no-baselines", "--platform", "cpu", "--longest", "3")
    for mesh in ("data=1", "data=2"):
        outcome = xent_process("speech", *flags, stream, "--mesh", mesh, "--out", mesh)
        assert outcome.code == 0, outcome.err
    one, two = (read_lines(tmp_path / mesh / "metrics.jsonl") for mesh in ("data=1", "data=2"))
    assert [line["step"] for line in one] == [line["step"] for line in two]
    assert [line["loss"] for line in two[1:]] == pytest.approx([line["loss"] for line in one[1:]], rel=1e-4)


def test_what_is_compiled_for_absent_chips_is_the_step_that_runs(clips):
    config = speech.Config(units=8, bands=8, mask=2, batch_size=4)
    found = outline(config, clips)
    batch = some(clips, 4)
    assert jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), found.batch) == {
        name: (array.shape, str(array.dtype)) for name, array in batch.items()
    }
    after, metrics = jax.eval_shape(found.step, found.state, batch)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, found.state)
    assert {*metrics} == {"loss"}


def test_clips_that_do_not_fit_are_one_line():
    noise = np.random.default_rng(0).integers(-999, 999, 16000).astype(np.int16)
    for clip, message in (
        (Clip(noise, 16000, "Room 101", ""), "transcript 'Room 101' has a '1': only letters a to z, spaces"),
        (Clip(noise, 16000, "", ""), "transcript '' has no character"),
        (
            Clip(noise[:3200], 16000, "seven seven", ""),
            "too short for its transcript 'seven seven': 9 outputs of 0.02 s",
        ),
        (Clip(noise, 1000, "one", ""), "has a clip of 16.0 s: give --longest 17, or more"),
    ):
        with pytest.raises(UsageError) as refused:
            speech_data._example("set", 8, 2.0, clip)
        assert message in str(refused.value)
    enough = Clip(noise[:3600], 16000, "seven seven", "")
    assert speech_data._example("set", 8, 2.0, enough)["frames"] == 21
    assert speech_data.decode(speech_data.encode("It's ME").tolist()) == "it's me"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", "listener"), "invalid choice 'listener'"),
        (("--units", "0"), "--units 0: must be from 1"),
        (("--dropout", "1"), "--dropout 1.0: must be from 0 to below 1"),
        (("--warp", "1"), "--warp 1.0: must be from 0 to below 1"),
        (("--mask", "40"), "--mask 40: must be from 0 to below the --bands 40"),
        (("--beam", "0"), "--beam 0: must be from 1"),
        (("--longest", "0"), "--longest 0.0: must be above 0"),
        (("--stream", "--steps-per-call", "2"), "--steps-per-call 2: must be 1 together with --stream"),
        (("--dataset", "digits"), "dataset 'digits' is not one sequence of samples with one text"),
        (("--dataset", "digit_string"), "unknown dataset 'digit_string': did you mean"),
        (("--longest", "1", "--bands", "9"), "dataset 'digit_strings' has a clip of 1."),
    ],
)
def test_a_mistake_is_one_line(xent, tmp_path, few, flags, message):
    outcome = xent("speech", *flags, "--data-dir", few)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_five_seeds_understand_voices_that_they_never_heard(xent, tmp_path, model):
    outcome = xent("speech", "--model", model, "--seeds", "5")
    assert outcome.code == 0, outcome.err
    for seed in range(5):
        scores = read_scores(Path(tmp_path / f"runs/speech-1/seed-{seed}/results.csv"))
        assert scores["xent"]["WER"] <= 0.10
        assert scores["xent"]["WER"] < scores["nearest templates"]["WER"] / 2
