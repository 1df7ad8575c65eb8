"""Pictures of a game: samples over time, one noise vector a column, and how often each class comes up."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from xent.train.tables import write_csv

matplotlib.use("Agg")


def samples_over_time(samples: np.ndarray, moments: Sequence[int], classes: np.ndarray, folder: Path) -> Path:
    """Draw what each noise vector became, moment after moment.

    Args:
      samples: float `[moments, columns, height, width, channels]` from -1 to 1.
      moments: steps done by then.
      classes: `[moments, columns]`, the class that the judge takes each for, by name.
      folder: gets samples.png and samples.csv, which has a row for each image and a column for each value.

    Returns:
      The picture's file.
    """
    rows, columns, *shape = samples.shape
    names = [f"value {i}" for i in range(int(np.prod(shape)))]
    flat = samples.reshape(rows, columns, -1).round(4).tolist()
    write_csv(
        folder / "samples.csv",
        ["step", "noise vector", "taken for", *names],
        ([moments[i], j, classes[i, j], *flat[i][j]] for i in range(rows) for j in range(columns)),
    )
    figure = Figure(figsize=(0.62 * columns + 1.2, 0.62 * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for (i, j), axes in np.ndenumerate(grid):
        image = (samples[i, j] + 1) / 2
        image = image if image.shape[-1] in (3, 4) else image[..., 0]
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_color("lightgray")
        if j == 0:
            axes.set_ylabel(f"{moments[i]:,}", rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle("samples of the averaged generator, one noise vector a column", fontsize=10)
    figure.supylabel("steps", fontsize=9)
    figure.savefig(folder / "samples.png", dpi=150)
    return folder / "samples.png"


def class_shares(names: Sequence[str], data: np.ndarray, samples: np.ndarray, folder: Path) -> Path:
    """Draw the share of each class in the data and among the samples.

    Args:
      names: of the classes.
      data: `[classes]` shares in the training data.
      samples: `[classes]` shares of the samples, as the judge takes them.
      folder: gets classes.png and classes.csv.

    Returns:
      The picture's file.
    """
    rows = zip(names, data.tolist(), samples.tolist(), strict=True)
    write_csv(folder / "classes.csv", ["class", "share of the data", "share of the samples"], rows)
    figure = Figure(figsize=(min(2.5 + 0.5 * len(names), 14), 3.4), layout="constrained")
    axes, places = figure.subplots(), np.arange(len(names))
    axes.bar(places - 0.2, data, 0.4, label="training data", color="lightgray")
    axes.bar(places + 0.2, samples, 0.4, label="samples, as the judge takes them", color="tab:blue")
    if len(names) <= 25:
        axes.set_xticks(places, names, rotation=90 if max(map(len, names)) > 2 else 0)
    axes.set(xlabel="class", ylabel="share", ylim=(0, 1.3 * max(data.max(), samples.max())))  # room for the legend
    axes.legend(loc="upper center", ncols=2)
    figure.savefig(folder / "classes.png", dpi=150)
    return folder / "classes.png"
