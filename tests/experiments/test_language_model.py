"""The language model: what a run leaves, what its figures mean, that it goes on to the same bits, what it refuses."""

import contextlib
import csv
import io
import json
import math
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer

from xent.experiments import kneser_ney
from xent.experiments.__main__ import main
from xent.experiments.language_model import make_loss
from xent.experiments.language_model_report import score
from xent.experiments.language_model_sample import sample
from xent.experiments.scores import read_scores
from xent.models.functional import outline
from xent.models.transformer import head_of, transformer
from xent.train import text, tokens
from xent.train.journal import read_lines

TINY = (
    *("--vocabulary", "280", "--context", "8", "--units", "8", "--layers", "1", "--heads", "2", "--batch-size", "4"),
    *("--epochs", "2", "--warmup-steps", "0", "--steps-per-call", "10", "--sampled", "6", "--prompt", "The cat"),
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder of thirty short stories with accents, so that bytes are not characters."""
    folder = tmp_path_factory.mktemp("texts")
    draw = np.random.default_rng(0).choice
    for number in range(30):
        lines = [" ".join(["The", *draw(["cat", "dog", "naïve bird"], 2), *draw(["sat", "ran", "flew"], 2)]) + ".\n"
                 for _ in range(4)]  # fmt: skip
        (folder / f"{number}.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def run(texts, tmp_path_factory):
    """A run on that folder, and what it said."""
    folder, said = tmp_path_factory.mktemp("language_model") / "run", io.StringIO()
    often = ("--save-every", "1", "--keep", "9", "--out", str(folder))
    with contextlib.redirect_stdout(said):
        main(["language_model", "--dataset", str(texts), *TINY, *often])
    return folder, said.getvalue()


def rows_of(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def test_it_ends_with_scores_pictures_a_paragraph_and_both_memories(run):
    folder, out = run
    for part in ("24 documents", "Transformer, 1 x 8", "compile", "fused head", "dense head", "Kneser-Ney", "unigram"):
        assert part in out
    for picture in ("learning_curve", "comparison"):
        assert (folder / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "sample.txt").read_text().startswith("The cat")
    memory = {row["head"]: int(row["temporary bytes"]) for row in rows_of(folder / "memory.csv")}
    assert {*memory} == {"fused", "dense"}
    assert min(memory.values()) > 0
    lines = read_lines(folder / "metrics.jsonl")
    assert lines[0]["validation_loss"] == pytest.approx(math.log(280), abs=0.1)  # an untrained network knows nothing
    assert lines[-1]["validation_loss"] < lines[0]["validation_loss"] - 0.3
    assert sum(int(row["held-out tokens"]) for row in rows_of(folder / "comparison.csv")) > 50


def test_its_figures_count_every_byte_of_the_held_out_documents_once(run, texts):
    folder, _ = run
    held_out = text.load(str(texts)).test
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    count = sum(len(tokenizer.encode(document).ids) + 1 for document in held_out)  # and an end of text
    size = sum(len(document.encode()) for document in held_out)
    assert size > sum(map(len, held_out))
    scores = read_scores(folder / "results.csv")
    for values in scores.values():
        assert values["perplexity"] == pytest.approx(math.exp(values["loss"]))
        assert values["bits per byte"] == pytest.approx(values["loss"] * count / math.log(2) / size)
    stream = tokens.encode(tokenizer, held_out)
    model = kneser_ney.fit(tokens.encode(tokenizer, text.load(str(texts)).train), 280, 5)
    expected = score(-kneser_ney.log_probabilities(model, stream), size)
    assert scores["Kneser-Ney, 5 tokens"] == pytest.approx(expected)
    assert 0 <= scores["xent"]["accuracy"] <= 1


def test_a_run_goes_on_where_it_was_stopped_to_the_same_bits(run, xent, tmp_path, state_of):
    whole, _ = run
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run/results.csv").unlink()
    saved = sorted(int(folder.name) for folder in (tmp_path / "run/checkpoints").iterdir() if folder.name.isdigit())
    assert len(saved) > 3
    for step in saved[2:]:
        shutil.rmtree(tmp_path / "run/checkpoints" / str(step))
    outcome = xent("resume", "run")
    assert outcome.code == 0, outcome.err
    assert f"from step {saved[1]} of" in outcome.out
    assert state_of(tmp_path / "run") == state_of(whole)
    for name in ("results.csv", "sample.txt", "tokenizer.json"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_fused_head_gives_the_dense_heads_loss_and_gradient(tied):
    build = partial(transformer, vocabulary=300, units=8, layers=1, heads=2, dropout=0.2, tied=tied)
    apply, shapes = outline(build)
    draws = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: draws.normal(size=leaf.shape).astype(np.float32) / 3, shapes)
    batch = {
        "tokens": draws.integers(0, 300, (3, 6)),
        "scored": draws.random((3, 5)) < 0.8,
        "where": np.array([1, 1, 0]) > 0,
    }
    graded = [jax.value_and_grad(make_loss(apply, fused), has_aux=True) for fused in (True, False)]
    both = jax.jit(lambda *arguments: [function(*arguments) for function in graded])(params, batch, jax.random.key(1))
    ((value, metrics), gradient), ((expected, _), expected_gradient) = both
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    assert float(metrics["loss"][1]) == batch["scored"][:2].sum()
    jax.tree.map(partial(np.testing.assert_allclose, rtol=3e-5, atol=1e-6), gradient, expected_gradient)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))  # all of it learns


def test_a_cold_sample_is_the_likeliest_continuation():
    apply, params = transformer(jax.random.key(0), vocabulary=20, units=8, layers=1, heads=2)
    drawn = sample(apply, params, jnp.array([3, 4]), jax.random.key(1), length=6, context=4, temperature=1e-5)
    assert drawn[:2].tolist() == [3, 4]
    one = jax.jit(lambda window: apply(params, window)[0] @ head_of(params).kernel.T)
    for place in range(2, 8):
        before = drawn[max(0, place - 4) : place]
        logits = one(jnp.pad(before, (0, 4 - len(before)))[None])[len(before) - 1]
        assert int(logits.argmax()) == int(drawn[place])


@pytest.mark.slow
def test_a_mesh_of_eight_gives_what_one_device_gives(run, texts, xent_process, tmp_path):
    flags = ("--mesh", "data=4,model=2", "--fully-sharded", "--no-baselines")
    outcome = xent_process("language_model", "--dataset", texts, *TINY, *flags, limit=300)
    assert outcome.code == 0, outcome.err
    found = read_scores(tmp_path / "runs/language_model-1/results.csv")["xent"]
    assert found == pytest.approx(read_scores(run[0] / "results.csv")["xent"], rel=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--units", "10", "--heads", "4"], "--units 10: must be a multiple of 8, twice the --heads"),
        (["--vocabulary", "256"], "--vocabulary 256: must be from 257 to 2147483647"),
        (["--vocabulary", "9999"], "--vocabulary 9999: must be at most "),
        (["--context", "5000"], "--context 5000: must be at most "),
        (["--documents", "0"], "--documents 0: must be 1 or more"),
        (["--documents", "2"], "has too little text, 2 documents in train"),
        (["--dropout", "1"], "--dropout 1.0: must be from 0 to below 1"),
        (["--temperature", "0"], "--temperature 0.0: must be a number above 0"),
        (["--epochs", "0"], "--epochs 0: must be from 1 to 2147483647"),
        (["--warmup-steps", "5000"], "--warmup-steps 5000: must be below the run's"),
        (["--mesh", "data=4;model=2"], "--mesh data=4;model=2: must be axes of data, model"),
        (["--fully-sharded"], "must be given together with --mesh"),
        (["--units", "2000000"], "copies of the model's parameters need"),
        (["--dataset", "./nowhere"], "'./nowhere' is no folder"),
        (["--dataset", "empty"], "has no files in it"),
        (["--dataset", "mnist"], "has no feature `text`"),
        (["--dataset", "docstring"], "did you mean docstrings"),
        (["--optimizer", "adan"], "invalid choice 'adan'"),
    ],
)
def test_a_mistake_is_one_line(xent, texts, tmp_path, flags, message):
    (tmp_path / "empty").mkdir()
    outcome = xent("language_model", "--dataset", texts, *TINY, *flags)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_it_reaches_its_number(xent, tmp_path):
    assert xent("language_model").code == 0
    scores = read_scores(tmp_path / "runs/language_model-1/results.csv")
    config = json.loads((tmp_path / "runs/language_model-1/config.json").read_text())
    assert config["flags"]["vocabulary"] == 16384
    assert scores["xent"]["bits per byte"] < scores["Kneser-Ney, 5 tokens"]["bits per byte"] < 2.4
