"""What `xent saturation` found: CSV and one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xent.experiments.saturation_curves import Curves
from xent.train.tables import write_csv

matplotlib.use("Agg")

Logs = Mapping[str, Mapping[str, Sequence[dict[str, Any]]]]
"""Start -> way -> the lines of its metrics.jsonl."""

# The wider ones lie under the narrower ones, so that all are seen where they coincide.
_STYLES: dict[str, dict[str, Any]] = {
    "probabilities": {"color": "tab:red", "linewidth": 5.5},
    "clipped": {"color": "tab:orange", "linewidth": 3.5},
    "logits (xent)": {"color": "tab:blue", "linewidth": 1.5},
}


def write_curves(curves: Curves, folder: Path) -> None:
    """Write saturation.csv: value and gradient of each way, and the truth's, a row a logit."""
    columns = {"truth": curves.truth, **curves.ways}
    header = ["logit", *(f"{name}, {of}" for name in columns for of in ("value", "gradient"))]
    arrays = [curves.logits, *(array for pair in columns.values() for array in pair)]
    write_csv(folder / "saturation.csv", header, zip(*(array.tolist() for array in arrays), strict=True))


def write_training(logs: Logs, folder: Path) -> None:
    """Write training.csv: validation loss and accuracy of each network, a row an epoch."""
    header = ["start", "way", "epoch", "step", "validation_loss", "validation_accuracy", "skipped_steps"]
    rows = [
        [start, way, *(line.get(name, "") for name in header[2:6]), line.get("skipped", "")]
        for start, ways in logs.items() for way, lines in ways.items() for line in lines
        if line.get("validation_loss") is not None
    ]  # fmt: skip
    write_csv(folder / "training.csv", header, rows)


def draw(curves: Curves, logs: Logs, file: Path) -> None:
    """Draw the curves, twice each, and below them what they do to a network."""
    figure = Figure(figsize=(12, 12.5), layout="constrained")
    grid = figure.subplots(3, 2)
    of_value = (curves.truth[0], {name: value for name, (value, _) in curves.ways.items()})
    of_gradient = (curves.truth[1], {name: gradient for name, (_, gradient) in curves.ways.items()})
    _curve(grid[0, 0], curves.logits, *of_value, log=False)
    grid[0, 0].set(title="loss of the answer yes", ylabel="nats")
    _curve(grid[0, 1], curves.logits, *of_value, log=True)
    grid[0, 1].set(title="the same, logarithmic: where the answer is right", ylabel="nats")
    _curve(grid[1, 0], curves.logits, *of_gradient, log=False)
    grid[1, 0].set(title="its derivative in the logit", ylabel="nats a unit of logit")
    _curve(grid[1, 1], curves.logits, *((-of_gradient[0]), {n: -g for n, g in of_gradient[1].items()}), log=True)
    grid[1, 1].set(title="the same, negated and logarithmic", ylabel="nats a unit of logit")
    for axes in grid[:2].flat:
        axes.set_xlabel("logit (100: certain and right, -100: certain and wrong)")
    for axes, (start, ways) in zip(grid[2], logs.items(), strict=True):
        _training(axes, ways)
        axes.set(title=f"ten digits learnt from the {start} start", xlabel="epoch", ylabel="validation accuracy (%)")
    figure.suptitle("Cross-entropy on probabilities, on clipped probabilities and on logits, float32", fontsize=14)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=11)
    figure.savefig(file, dpi=120)


LOWEST = 1e-46
"""Where a logarithmic panel puts zero."""


def _curve(axes: Axes, z: np.ndarray, truth: np.ndarray, ways: Mapping[str, np.ndarray], *, log: bool) -> None:
    axes.plot(z, truth, color="black", linewidth=10, alpha=0.18, label="truth", solid_capstyle="butt")
    for name, values in ways.items():
        style = _STYLES[name]
        finite = np.where(np.isfinite(values), values, np.nan)
        axes.plot(z, np.where(finite == 0, LOWEST, finite) if log else finite, label=name, **style)
    low, high = (LOWEST, 1e4) if log else axes.get_ylim()
    if log:
        axes.set_yscale("log")
    axes.set_ylim(low, high)
    broken = [(name, ~np.isfinite(values)) for name, values in ways.items() if not np.isfinite(values).all()]
    for name, where in broken:
        for side, limits in (("left", z[where & (z < 0)]), ("right", z[where & (z > 0)])):
            if len(limits):
                axes.axvspan(limits.min(), limits.max(), color=_STYLES[name]["color"], alpha=0.10, linewidth=0)
                kinds = np.unique([str(v) for v in ways[name][where & ((z < 0) == (side == "left"))]])
                axes.text(
                    float(np.mean([limits.min(), limits.max()])), 0.7, f"{name}: {', '.join(kinds)}", rotation=90,
                    color=_STYLES[name]["color"], ha="center", va="center", fontsize=9,
                    transform=axes.get_xaxis_transform(),
                )  # fmt: skip
    if log:
        ticks = [10.0**power for power in range(-40, 5, 10)]
        axes.set_yticks([LOWEST, *ticks], ["0", *(f"$10^{{{power}}}$" for power in range(-40, 5, 10))])
        axes.minorticks_off()
    axes.set_xlim(-100, 100)
    axes.grid(alpha=0.3)


def _training(axes: Axes, ways: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    for name, lines in ways.items():
        points = [(line["epoch"], 100 * line["validation_accuracy"]) for line in lines
                  if line.get("validation_accuracy") is not None]  # fmt: skip
        axes.plot(*zip(*points, strict=True), label=name, **_STYLES[name])
    axes.axhline(10, color="black", linestyle=":", linewidth=1)
    axes.text(axes.get_xlim()[1], 8.5, "chance ", ha="right", va="top", fontsize=9)
    axes.set_ylim(0, 102)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
