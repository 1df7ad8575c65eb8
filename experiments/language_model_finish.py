"""What is done with a language model that is trained: scores beside n-grams on the same tokens, and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from xent.experiments import kneser_ney
from xent.experiments.language_model_text import Data
from xent.experiments.scores import Scores
from xent.train import tokens
from xent.train.journal import read_lines
from xent.train.progress import say

BASELINES = {"Kneser-Ney, 5 tokens": 5, "unigram": 1}
"""n-gram models by name: the tokens of their longest n-gram."""


def finish(
    told: np.ndarray,
    drawn: np.ndarray,
    calls: Mapping[str, Any],
    data: Data,
    vocabulary: int,
    baselines: bool,
    folder: Path,
    console: Console,
) -> Scores:
    """Score the model and its baselines, and write what there is to see.

    Args:
      told: of each held-out token its nats and whether it was the likeliest, float `[tokens, 2]`.
      drawn: tokens of a sampled paragraph, integer `[tokens]`.
      calls: compiled training steps (`jax.stages.Compiled`), by the path of the head.
      data: the text.
      vocabulary: tokens that there are.
      baselines: whether to fit and score n-gram models, too.
      folder: gets comparison.png and .csv, learning_curve.png and .csv, memory.csv, sample.txt and tokenizer.json.
      console: where memory and paragraph are shown.
    """
    from xent.experiments import language_model_report as report  # matplotlib: not for a run that ends at a bad flag
    from xent.train.report import learning_curve

    nats, right = told.T
    losses = {"xent": nats, **(ngram_losses(data, vocabulary) if baselines else {})}
    scores = {name: report.score(values, data.test_bytes) for name, values in losses.items()}
    report.compare(losses, data.test[1:], data.train, {n: row["bits per byte"] for n, row in scores.items()}, folder)
    learning_curve(read_lines(folder / "metrics.jsonl"), folder)

    analyses = {name: call.memory_analysis() for name, call in calls.items()}
    temporary = {name: found.temp_size_in_bytes for name, found in analyses.items() if found is not None}
    report.write_memory(temporary, folder)
    sizes = ", ".join(f"{size / 2**20:.3g} MiB with the {name} head" for name, size in temporary.items())
    say(console, "memory", f"of a step, besides state and batch: {sizes}")

    paragraph = "\n\n".join(tokens.decode(data.tokenizer, drawn.tolist()))
    (folder / "sample.txt").write_text(paragraph + "\n", encoding="utf-8")
    data.tokenizer.save(str(folder / "tokenizer.json"))
    say(console, "sample", paragraph)
    return {**scores, "xent": {**scores["xent"], "accuracy": float(right.mean())}}


def ngram_losses(data: Data, vocabulary: int) -> dict[str, np.ndarray]:
    """The nats of each held-out token for each of `BASELINES`, fitted to the training stream: float64 `[tokens]`."""
    return {
        name: -kneser_ney.log_probabilities(kneser_ney.fit(data.train, vocabulary, order), data.test)
        for name, order in BASELINES.items()
    }
