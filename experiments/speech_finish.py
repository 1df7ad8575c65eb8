"""The end of a run of `xent speech`: transcripts of the test clips by both searches, their errors, and pictures."""

from pathlib import Path

import numpy as np

from xent.experiments.scores import Scores
from xent.experiments.speech_data import STRIDE, Part, decode
from xent.experiments.speech_decoding import beam, greedy
from xent.experiments.speech_scores import errors
from xent.train.journal import read_lines
from xent.train.metrics import divide
from xent.train.tables import write_csv


def best_path(log_probabilities: np.ndarray, part: Part) -> list[str]:
    """What is heard where each output's likeliest character is taken."""
    lengths = (-(-part.arrays["frames"] // STRIDE)).tolist()
    return [decode(greedy(each, length)) for each, length in zip(log_probabilities, lengths, strict=True)]


def finish(log_probabilities: np.ndarray, loss: dict[str, float], part: Part, width: int, folder: Path) -> Scores:
    """Write transcripts and pictures, and score both searches.

    Args:
      log_probabilities: float `[n, outputs, 1 + characters]` of the test clips.
      loss: the network's, as a metric.
      part: the test clips.
      width: of the beam.
      folder: the run's.
    """
    from xent.experiments import speech_picture as picture  # matplotlib: not for a run that ends at a bad flag
    from xent.train import report

    lengths = (-(-part.arrays["frames"] // STRIDE)).tolist()
    simple = best_path(log_probabilities, part)
    heard = [decode(beam(each, length, width)) for each, length in zip(log_probabilities, lengths, strict=True)]
    wrong = [int(errors([said], [text])["WER"][0]) for said, text in zip(part.texts, heard, strict=True)]
    lines = zip(part.voices, part.texts, heard, simple, wrong, strict=True)
    header = ["clip", "voice", "said", "heard", "heard by best path", "wrong words"]
    write_csv(folder / "transcripts.csv", header, ([row, *line] for row, line in enumerate(lines)))
    report.learning_curve(read_lines(folder / "metrics.jsonl"), folder, metric="WER", unit="errors a word")
    picture.alignments(part, picture.chosen(wrong, part), np.exp(log_probabilities), heard, folder)
    picture.voices(part, heard, folder)
    return {
        "xent": loss | divide(errors(part.texts, heard)),
        "xent, best path": loss | divide(errors(part.texts, simple)),
    }
