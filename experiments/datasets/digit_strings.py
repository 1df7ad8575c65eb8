"""Strings of spoken digits, synthesised by espeak-ng, whole voices held out: a TFDS builder that needs no network."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from xent.experiments.datasets.espeak import SAMPLE_RATE, Line, speak

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = (
    "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us", "en-us-nyc",
)  # fmt: skip
LONGEST = 5
"""Digits a string."""

# Drawn once, by families of voices that are alike (klatt, klatt2, ...), before any training, and never changed. Left
# out are espeak-ng's effects: whispers, croaks and robots.
VOICES = {
    "train": (
        "Alex", "Alicia", "Andy", "AnxiousAndy", "Diogo", "Gene", "Gene2", "Hugo", "Lee", "Marco", "Mario", "Michael",
        "Mike", "Nguyen", "Reed", "Tweaky", "adam", "announcer", "antonio", "aunty", "belinda", "boris", "david", "ed",
        "edward", "edward2", "f1", "f2", "f5", "grandma", "grandpa", "gustave", "ian", "iven", "iven2", "iven3",
        "iven4", "kaukovalta", "klatt", "klatt2", "klatt3", "klatt4", "klatt5", "klatt6", "linda", "m1", "m2", "m5",
        "m8", "max", "michel", "miguel", "mike2", "norbert", "pablo", "paul", "pedro", "quincy", "sandro", "steph",
        "steph2", "steph3", "travis",
    ),
    "validation": ("Andrea", "Jacky", "Storm", "anika", "benjamin", "john", "m3", "m6", "m7", "marcelo"),
    "test": (
        "Annie", "Denis", "Henrique", "Mr serious", "RicishayMax", "RicishayMax2", "RicishayMax3", "caleb", "f3", "f4",
        "m4", "rob", "robert", "shelby", "victor", "zac",
    ),
}  # fmt: skip
CLIPS = {"train": 40, "validation": 30, "test": 30}
"""Of each voice."""
SEED = 0
"""Of what is said, and how fast and how high: chosen before any training and never changed."""

_DESCRIPTION = """
Strings of one to five English digits, synthesised by espeak-ng: no human speaks here. `text` is what is said, in
words, `speech` the samples, int16, `sample_rate` of them a second, `voice` one of espeak-ng's variants, `accent` the
language it speaks, `rate` words a minute and `pitch` from 0 to 100, both drawn for each clip. A voice is in one split
only: train has 63, validation 10, test 16 others; all splits share the seven accents. What is said and how is fixed;
the samples are those of the espeak-ng that prepared the set (espeakng-loader {version}), said in one sequence.
"""

_CITATION = """
@misc{espeakng,
  title        = {eSpeak NG Text-to-Speech},
  author       = {Dunn, Reece H. and Vitolins, Valdis and Duddington, Jonathan},
  howpublished = {https://github.com/espeak-ng/espeak-ng}
}
"""


class DigitStrings(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # TFDS has no types
    """`speech` int16 [samples], `text`, `voice` and how it spoke; splits train, validation and test, by voice.

    Source: synthesised by espeak-ng, https://github.com/espeak-ng/espeak-ng.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012  # TFDS reads a plain dict
    # Said outright, since TFDS infers both from the top package, and `xent` has no folder of its own when editable.
    code_path = tfds.core.Path(__file__)
    pkg_dir_path = code_path.parent

    def _info(self) -> tfds.core.DatasetInfo:
        import importlib.metadata

        return self.dataset_info_from_configs(
            description=_DESCRIPTION.format(version=importlib.metadata.version("espeakng-loader")),
            features=tfds.features.FeaturesDict(
                {
                    # Not features.Audio, which asks for TensorFlow.
                    "speech": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes"),
                    "sample_rate": tfds.features.Scalar(dtype=np.int32),
                    "text": tfds.features.Text(),
                    "voice": tfds.features.Text(),
                    "accent": tfds.features.Text(),
                    "rate": tfds.features.Scalar(dtype=np.int32),
                    "pitch": tfds.features.Scalar(dtype=np.int32),
                }
            ),
            supervised_keys=("speech", "text"),
            homepage="https://github.com/espeak-ng/espeak-ng",
            citation=_CITATION,
            disable_shuffling=True,  # neighbours are of one voice
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        lines = [(split, line) for split in VOICES for line in lines_of(split)]
        said = zip(lines, speak([line for _, line in lines]), strict=True)
        clips: dict[str, list[tuple[Line, np.ndarray]]] = {split: [] for split in VOICES}
        for (split, line), samples in said:
            clips[split].append((line, samples))
        return {split: self._generate_examples(found) for split, found in clips.items()}

    def _generate_examples(self, clips: list[tuple[Line, np.ndarray]]) -> Iterator[tuple[int, dict[str, Any]]]:
        for row, (line, samples) in enumerate(clips):
            accent, _, voice = line.voice.partition("+")
            how = {"rate": line.rate, "pitch": line.pitch, "sample_rate": SAMPLE_RATE}
            yield row, {"speech": samples, "text": line.text, "voice": voice, "accent": accent, **how}


def lines_of(split: str) -> list[Line]:
    """What is said in a split, voice after voice.

    Example:
      >>> len(lines_of("test")), lines_of("test")[0]
      (480, Line(text='zero two four two six', voice='en-us-nyc+Annie', rate=141, pitch=48))
    """
    draw = np.random.default_rng((SEED, list(VOICES).index(split)))
    lines = []
    for voice in (voice for voice in VOICES[split] for _ in range(CLIPS[split])):
        digits = draw.integers(10, size=draw.integers(1, LONGEST + 1)).tolist()
        accent = ACCENTS[draw.integers(len(ACCENTS))]
        rate, pitch = int(draw.integers(130, 211)), int(draw.integers(35, 66))
        lines.append(Line(" ".join(DIGITS[digit] for digit in digits), f"{accent}+{voice}", rate, pitch))
    return lines
