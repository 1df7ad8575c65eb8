"""The pictures of `xent images`: what was taken for what, and the images that the network finds hardest."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from xent.train.report import confusion_matrix
from xent.train.tables import write_csv

matplotlib.use("Agg")

ROWS, COLUMNS = 4, 8


def report(images: np.ndarray, truth: np.ndarray, logits: np.ndarray, classes: Sequence[str], folder: Path) -> None:
    """Draw the confusion matrix and the hardest images.

    Args:
      images: uint8 `[examples, height, width, channels]`.
      truth: integer labels `[examples]`.
      logits: float `[examples, classes]`.
      classes: the name of each label.
      folder: gets confusion_matrix.png, mistakes.png, and their numbers as CSV.
    """
    confusion_matrix(truth, logits.argmax(-1), classes, folder)
    mistakes(images, truth, logits, classes, folder)


def hardest(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Every example's row: mistakes first, the most confident at their head, then what is right, the least sure first.

    Example:
      >>> hardest(np.array([0, 0, 0]), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])).tolist()
      [1, 2, 0]
    """
    predicted, confidence = probabilities.argmax(-1), probabilities.max(-1)
    right = predicted == truth
    return np.lexsort((np.where(right, confidence, -confidence), right))


def mistakes(images: np.ndarray, truth: np.ndarray, logits: np.ndarray, classes: Sequence[str], folder: Path) -> Path:
    """Draw the hardest images, each with what it is, what it was taken for and how surely.

    Args:
      images: uint8 `[examples, height, width, channels]`.
      truth: integer labels `[examples]`.
      logits: float `[examples, classes]`.
      classes: the name of each label.
      folder: gets mistakes.png, and mistakes.csv of every example, in that order.

    Returns:
      The picture's file.
    """
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probabilities = powers / powers.sum(-1, keepdims=True)
    order = hardest(truth, probabilities)
    lines = []
    for row in order:
        label, taken = int(truth[row]), int(probabilities[row].argmax())
        lines.append([int(row), classes[label], classes[taken], probabilities[row, taken], probabilities[row, label]])
    write_csv(folder / "mistakes.csv", ["row", "true", "predicted", "confidence", "probability of true"], lines)
    figure = Figure(figsize=(1.35 * COLUMNS, 1.6 * ROWS + 0.6), layout="constrained")
    wrong = int((probabilities.argmax(-1) != truth).sum())
    figure.suptitle(f"{wrong} of {len(truth)} wrong (red), the most confident first; then the least sure of the right")
    grid = figure.subplots(ROWS, COLUMNS).flat
    for axes in grid:
        axes.axis("off")
    for axes, (row, true, predicted, confidence, _) in zip(figure.axes, lines, strict=False):
        image = images[row]
        axes.imshow(image[..., 0] if image.shape[-1] == 1 else image[..., :3], cmap="gray", vmin=0, vmax=255)
        text = f"{true[:12]} ✓" if true == predicted else f"{true[:12]} as {predicted[:12]}"
        axes.set_title(f"{text}\n{confidence:.1%}", fontsize=8, color="black" if true == predicted else "crimson")
    figure.savefig(folder / "mistakes.png", dpi=150)
    return folder / "mistakes.png"
