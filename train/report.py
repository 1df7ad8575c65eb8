"""Pictures of a run, each with its numbers as CSV beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from xent.train.tables import write_csv

matplotlib.use("Agg")


def learning_curve(
    lines: Sequence[dict[str, Any]], folder: Path, *, metric: str = "accuracy", unit: str = "share correct"
) -> Path:
    """Draw training and validation loss, and a metric, against epochs.

    Args:
      lines: the lines of metrics.jsonl; several calls of an epoch are several points.
      folder: gets learning_curve.png and learning_curve.csv.
      metric: the name of what is drawn beside the loss.
      unit: its unit.

    Returns:
      The picture's file.
    """
    names = ["epoch", "loss", metric, "validation_loss", f"validation_{metric}"]
    write_csv(folder / "learning_curve.csv", names, [[entry.get(name, "") for name in names] for entry in lines])
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, name, its in zip(figure.subplots(1, 2), ("loss", metric), ("nats", unit), strict=True):
        for key, label in ((name, "training"), (f"validation_{name}", "validation")):
            points = [(entry["epoch"], entry[key]) for entry in lines if entry.get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 60 else "")
        axes.set(xlabel="epoch", ylabel=f"{name} ({its})", title="cross-entropy" if name == "loss" else name)
        if name == "loss":
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(folder / "learning_curve.png", dpi=150)
    return folder / "learning_curve.png"


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: Sequence[str], folder: Path) -> Path:
    """Draw how often each class was taken for each other.

    Args:
      truth: `[examples]` integer labels.
      predicted: `[examples]` integer predictions.
      classes: the name of each label.
      folder: gets confusion_matrix.png and confusion_matrix.csv.

    Returns:
      The picture's file.
    """
    from sklearn.metrics import confusion_matrix as count

    counts = count(truth, predicted, labels=range(len(classes)))
    rows = [[name, *row] for name, row in zip(classes, counts.tolist(), strict=True)]
    write_csv(folder / "confusion_matrix.csv", ["true \\ predicted", *classes], rows)
    size = min(3 + 0.35 * len(classes), 14)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    if len(classes) <= 25:
        for (row, column), number in np.ndenumerate(counts):
            if number:
                axes.text(column, row, str(number), ha="center", va="center", fontsize=8,
                          color="white" if shares[row, column] > 0.5 else "black")  # fmt: skip
        axes.set_xticks(range(len(classes)), classes, rotation=90 if max(map(len, classes)) > 2 else 0)
        axes.set_yticks(range(len(classes)), classes)
    wrong = int((truth != predicted).sum())
    axes.set(xlabel="predicted", ylabel="true", title=f"{len(truth) - wrong} of {len(truth)} right, {wrong} wrong")
    figure.savefig(folder / "confusion_matrix.png", dpi=150)
    return folder / "confusion_matrix.png"
