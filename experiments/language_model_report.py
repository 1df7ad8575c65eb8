"""What `xent language_model` found: scores of every model on the same tokens, CSV, and one picture."""

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from xent.train.tables import write_csv

matplotlib.use("Agg")

Losses = Mapping[str, np.ndarray]
"""Model -> nats of each held-out token, `[tokens]`, all in one order."""


def score(losses: np.ndarray, size: int) -> dict[str, float]:
    """Sum up what a model paid for held-out text.

    Args:
      losses: nats of each token, ends of text included, `[tokens]`.
      size: bytes of the text, in UTF-8; the ends of text have none.

    Returns:
      `loss` in nats a token, `perplexity` a token, which depend on what the tokens are, and `bits per byte`, which does
      not.

    Example:
      >>> score(np.array([math.log(2)] * 8), size=4)
      {'loss': 0.6931471805599453, 'perplexity': 2.0, 'bits per byte': 2.0}
    """
    loss = float(losses.mean(dtype=np.float64))
    return {"loss": loss, "perplexity": math.exp(loss), "bits per byte": loss * len(losses) / math.log(2) / size}


def compare(losses: Losses, targets: np.ndarray, train: np.ndarray, sizes: Mapping[str, float], folder: Path) -> None:
    """Draw bits per byte of each model, and its loss by how often the token came in training.

    Args:
      losses: of each model, in nats.
      targets: the tokens that were predicted, integer `[tokens]`.
      train: the training stream, integer.
      sizes: bits per byte of each model.
      folder: gets comparison.png and comparison.csv.
    """
    seen = np.bincount(train, minlength=int(targets.max()) + 1)[targets]
    bins = np.where(seen > 0, 1 + np.log2(np.maximum(seen, 1)).astype(int) // 2, 0)
    names = {0: "0", **{b: f"{4 ** (b - 1)} - {4**b - 1}" for b in range(1, int(bins.max()) + 1)}}
    rows = [
        [name, int((bins == b).sum()), *(float(values[bins == b].mean()) for values in losses.values())]
        for b, name in names.items()
        if (bins == b).any()
    ]
    write_csv(folder / "comparison.csv", ["times in training", "held-out tokens", *losses], rows)
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    bars = left.barh([*losses], [sizes[name] for name in losses], color=[f"C{i}" for i in range(len(losses))])
    left.bar_label(bars, fmt="%.3f", padding=3)
    left.margins(x=0.2)
    left.invert_yaxis()
    left.set(title="held-out text", xlabel="bits per byte")
    for place, name in enumerate(losses):
        right.plot([row[0] for row in rows], [row[2 + place] for row in rows], marker="o", label=name)
    right.set(title="loss of a token", xlabel="times in the training text", ylabel="nats")
    right.tick_params(axis="x", rotation=30)
    right.grid(alpha=0.3)
    right.legend()
    figure.savefig(folder / "comparison.png", dpi=150)


def write_memory(temporary: Mapping[str, int], folder: Path) -> None:
    """Write memory.csv: what a training step holds besides its state and batch, by the path of the head."""
    rows = [[name, size, round(size / 2**20, 1)] for name, size in temporary.items()]
    write_csv(folder / "memory.csv", ["head", "temporary bytes", "MiB"], rows)
