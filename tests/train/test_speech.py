"""Speech by the name of a set: LibriSpeech's splits, those that others have, and refusals in one line."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from xent.train import speech
from xent.train.errors import UsageError

SAMPLES = tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes")
FEATURES = {"speech": SAMPLES, "text": tfds.features.Text(), "speaker_id": np.int64, "sample_rate": np.int32}


def register(name, splits, features=FEATURES):
    """Makes a set known to TFDS, of as many clips in each split, of increasing length."""

    def info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def records(count):
        for row in range(count):
            every = {
                "speech": np.full(row + 1, row, np.int16),
                "text": f"CLIP {row}",
                "speaker_id": row,
                "id": str(row),
            }
            yield row, {key: value for key, value in (every | {"sample_rate": 8000}).items() if key in features}

    def generators(self, _):
        return {split: records(count) for split, count in splits.items()}

    attributes = {"VERSION": tfds.core.Version("1.0.0"), "_info": info, "_split_generators": generators}
    unused = {"_generate_examples": lambda self: iter(()), "pkg_dir_path": tfds.core.Path(__file__).parent}
    type(name, (tfds.core.GeneratorBasedBuilder,), {**attributes, **unused, "__module__": __name__})


def test_librispeech_s_splits_are_found_and_its_clips_read(tmp_path):
    register(
        "SpeechLikeLibri", {"train_clean100": 5, "train_clean360": 9, "dev_clean": 2, "dev_other": 4, "test_clean": 3}
    )
    found = speech.load("speech_like_libri", data_dir=tmp_path)
    assert [part.examples for part in (found.train, found.validation, found.test)] == [5, 2, 3]
    assert "test: its test_clean; validation: its dev_clean" in found.source
    clip = found.train.read(3)
    assert (clip.samples.tolist(), clip.sample_rate, clip.text, clip.voice) == ([3, 3, 3, 3], 8000, "CLIP 3", "3")
    assert [clip.text for clip in found.test.read_all()] == ["CLIP 0", "CLIP 1", "CLIP 2"]


@pytest.mark.parametrize("held", ["test", "validation"])
def test_what_lacks_a_split_has_some_of_its_training_clips_held_out(tmp_path, held):
    register(f"SpeechWith{held}", {"train": 20, held: 4})
    found = speech.load(f"speech_with{held}", data_dir=tmp_path)
    assert f"test: its {held}; validation: 10% of its train" in found.source
    assert found.test.examples == 4
    parts = [[clip.text for clip in part.read_all()] for part in (found.train, found.validation)]
    assert [len(part) for part in parts] == [18, 2]
    assert {*parts[0], *parts[1]} == {f"CLIP {row}" for row in range(20)}
    assert found.validation.read(0).text == parts[1][0]


@pytest.mark.parametrize(
    ("name", "splits", "features", "message"),
    [
        ("SpeechAlone", {"train": 3}, FEATURES, "has no train split with a test or validation split (found: train)"),
        ("SpeechMute", {"train": 3, "test": 1}, {"text": tfds.features.Text()}, "is not one sequence of samples with"),
        (
            "SpeechTimeless",
            {"train": 3, "test": 1},
            {"speech": SAMPLES, "text": tfds.features.Text()},
            "does not say how many samples a second are",
        ),
        (
            "SpeechTwice",
            {"train": 3, "test": 1},
            {"speech": SAMPLES, "text": tfds.features.Text(), "id": tfds.features.Text()},
            "is not one sequence of samples with one text (found: speech, text, id)",
        ),
    ],
)
def test_what_is_not_of_this_kind_is_refused_in_a_line(tmp_path, name, splits, features, message):
    register(name, splits, features)
    with pytest.raises(UsageError) as refused:
        speech.load(tfds.core.naming.camelcase_to_snakecase(name), data_dir=tmp_path)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
