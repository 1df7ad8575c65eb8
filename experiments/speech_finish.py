"""The end of a run of `xent speech`: transcripts of the test clips by both searches, their errors, and pictures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from xent.experiments.scores import Scores
from xent.experiments.speech_data import STRIDE, Part, decode
from xent.experiments.speech_decoding import beam, greedy
from xent.experiments.speech_scores import errors
from xent.models.frames import output_lengths
from xent.train.journal import read_lines
from xent.train.metrics import Metrics, divide
from xent.train.tables import write_csv


class Heard(NamedTuple):
    """What a network makes of clips."""

    log_probabilities: Any
    """float `[n, outputs, 1 + characters]`."""
    nats: Any
    """CTC loss of each, float `[n]`."""

    def loss(self, part: Part) -> Metrics:
        """Nats a character of all transcripts together, as a metric."""
        return {"loss": (jnp.float32(self.nats.sum()), jnp.float32(part.arrays["characters"].sum()))}


def best_path(heard: Heard, part: Part) -> list[str]:
    """What is heard where each output's likeliest character is taken."""
    return [decode(greedy(each, length)) for each, length in _outputs(heard, part)]


def _outputs(heard: Heard, part: Part) -> Iterator[tuple[np.ndarray, int]]:
    return zip(heard.log_probabilities, output_lengths(part.arrays["frames"], STRIDE).tolist(), strict=True)


def finish(found: Heard, part: Part, width: int, folder: Path) -> Scores:
    """Write transcripts and pictures of the test clips, `part`, and score both searches, one by a beam of a width."""
    from xent.experiments import speech_picture as picture  # matplotlib: not for a run that ends at a bad flag
    from xent.train import report

    simple = best_path(found, part)
    heard = [decode(beam(each, length, width)) for each, length in _outputs(found, part)]
    wrong = [int(errors([said], [text])["WER"][0]) for said, text in zip(part.texts, heard, strict=True)]
    lines = zip(part.voices, part.texts, heard, simple, wrong, strict=True)
    header = ["clip", "voice", "said", "heard", "heard by best path", "wrong words"]
    write_csv(folder / "transcripts.csv", header, ([row, *line] for row, line in enumerate(lines)))
    report.learning_curve(read_lines(folder / "metrics.jsonl"), folder, metric="WER", unit="errors a word")
    picture.alignments(part, picture.chosen(wrong, part), np.exp(found.log_probabilities), heard, folder)
    picture.voices(part, heard, folder)
    return {
        "xent": divide(found.loss(part) | errors(part.texts, heard)),
        "xent, best path": divide(found.loss(part) | errors(part.texts, simple)),
    }
