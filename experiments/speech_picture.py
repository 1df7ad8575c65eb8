"""Pictures of what was heard: clips with the probabilities of characters along time, and the errors of each voice."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xent.experiments.speech_data import ALPHABET, STRIDE, Part
from xent.experiments.speech_scores import errors
from xent.models.frames import output_lengths
from xent.train.log_mel import HOP
from xent.train.metrics import divide
from xent.train.tables import write_csv

matplotlib.use("Agg")

SHOWN = 3
"""Clips."""
NAMED = 0.3
"""The least probability of a peak that has its character written on it."""


def chosen(wrong: Sequence[int], part: Part) -> list[int]:
    """The clip with the most wrong words, then the longest transcripts, of one voice each, that have none."""
    rows = sorted(range(len(part.texts)), key=lambda row: (-wrong[row], -len(part.texts[row]), row))
    rows = rows[:1] + sorted(rows[1:], key=lambda row: (wrong[row] > 0, -len(part.texts[row]), row))
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(part.voices[row] or str(row), row)
    return list(first.values())[:SHOWN]


def alignments(part: Part, rows: Sequence[int], probabilities: np.ndarray, heard: Sequence[str], folder: Path) -> Path:
    """Draw clips: their log-mel frames, and under them when each character is heard.

    Args:
      part: the clips.
      rows: which of them.
      probabilities: float `[n, outputs, 1 + characters]` of all clips.
      heard: their transcripts.
      folder: gets alignments.png, and alignments.csv with the probabilities.

    Returns:
      The picture's file.
    """
    lengths = output_lengths(part.arrays["frames"], STRIDE).tolist()
    names = ["blank", *(character.replace(" ", "space") for character in ALPHABET)]
    write_csv(
        folder / "alignments.csv",
        ["clip", "voice", "said", "heard", "seconds", *names],
        (
            [row, part.voices[row], part.texts[row], heard[row], round(t * STRIDE * HOP, 4), *frame]
            for row in rows
            for t, frame in enumerate(probabilities[row, : lengths[row]].round(4).tolist())
        ),
    )
    figure = Figure(figsize=(11, 3.1 * len(rows)), layout="constrained")
    grid = figure.subplots(2 * len(rows), 1, height_ratios=[1.2, 1] * len(rows), squeeze=False)[:, 0]
    for i, row in enumerate(rows):
        above, below = grid[2 * i], grid[2 * i + 1]
        frames = part.arrays["features"][row, : part.arrays["frames"][row]]
        end = len(frames) * HOP
        above.imshow(frames.T, origin="lower", aspect="auto", cmap="magma", vmin=-2, vmax=2.5,
                     extent=(0, end, 0, frames.shape[1]))  # fmt: skip
        right = part.texts[row] == heard[row]
        said = f"{part.voices[row]}: “{part.texts[row]}”"
        text = f"{said}, heard as said" if right else f"{said}, heard “{heard[row]}”"
        above.set_title(text, loc="left", fontsize=10, color="black" if right else "crimson")
        above.set(ylabel="mel band", xticks=[])
        _peaks(below, probabilities[row, : lengths[row]])
        below.set(xlim=(0, end), ylim=(0, 1.25), ylabel="probability", yticks=[0, 0.5, 1])
    grid[-1].set_xlabel("seconds; coloured: characters, named where each is likeliest; gray: none that is new")
    figure.savefig(folder / "alignments.png", dpi=150)
    return folder / "alignments.png"


def _peaks(axes: Axes, probabilities: np.ndarray) -> None:
    """Lines of characters over time, their names at the peaks; the blank is gray."""
    times = np.arange(len(probabilities)) * STRIDE * HOP
    axes.fill_between(times, probabilities[:, 0], color="0.88", linewidth=0)
    colours = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
    for label in np.flatnonzero(probabilities[:, 1:].max(0) > 0.05):
        line, colour = probabilities[:, 1 + label], colours[(7 * label) % 20]
        axes.plot(times, line, color=colour, linewidth=1.2)
        before, after = np.append(0, line[:-1]), np.append(line[1:], 0)
        for t in np.flatnonzero((line > NAMED) & (line >= before) & (line > after)):
            axes.text(times[t], line[t] + 0.03, ALPHABET[label].replace(" ", "␣"), color=colour, ha="center",
                      fontsize=9, weight="bold", family="DejaVu Sans")  # fmt: skip


def voices(part: Part, heard: Sequence[str], folder: Path) -> Path:
    """Draw the word error rate of each voice.

    Args:
      part: the clips.
      heard: what was heard in each.
      folder: gets voices.png and voices.csv.

    Returns:
      The picture's file.
    """
    rates = {}
    for voice in sorted({*part.voices}):
        rows = [row for row, its in enumerate(part.voices) if its == voice]
        found = divide(errors([part.texts[row] for row in rows], [heard[row] for row in rows]))
        rates[voice] = len(rows), found["WER"], found["CER"]
    order = sorted(rates, key=lambda voice: -rates[voice][1])
    write_csv(folder / "voices.csv", ["voice", "clips", "WER", "CER"], ([voice, *rates[voice]] for voice in order))
    shown = order[:40]
    figure = Figure(figsize=(min(3 + 0.45 * len(shown), 16), 3.6), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(shown)), [100 * rates[voice][1] for voice in shown], color="tab:blue")
    axes.set_xticks(range(len(shown)), shown, rotation=60, ha="right", fontsize=8)
    axes.set(ylabel="WER, %", title="word error rate of the test clips, voice by voice")
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(folder / "voices.png", dpi=150)
    return folder / "voices.png"
