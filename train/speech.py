"""Speech with its transcripts: any TFDS set with one sequence of samples and a text, read clip by clip.

Which clips are held out is fixed: a set's own `test` split, else its `validation`; where none is left for validation,
a tenth of `train`, drawn with a seed that belongs to the data and not to a run.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xent.train.datasets import prepared, readable
from xent.train.errors import UsageError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

SPLIT_SEED = 0
"""Chosen before any training and never changed: another seed is another held-out set."""
HELD_OUT = 0.1
"""Share of the training clips that is drawn for a validation split that a set lacks."""
_NAMES = {
    "train": ("train", "train_clean100"),
    "validation": ("validation", "dev_clean"),
    "test": ("test", "test_clean"),
}
"""Of splits; the second ones are LibriSpeech's."""


class Clip(NamedTuple):
    """Somebody says something."""

    samples: np.ndarray
    """Integer `[samples]`."""
    sample_rate: int
    """Samples a second."""
    text: str
    voice: str
    """Whose; empty where the set does not tell."""


class Clips(NamedTuple):
    """A split: `read(row)` gives the clip of a row below `examples`, from any thread; `read_all()`, all of them."""

    read: Callable[[int], Clip]
    examples: int
    read_all: Callable[[], list[Clip]]


class Speech(NamedTuple):
    """A dataset that stays where it is; `source` says where that is."""

    name: str
    train: Clips
    validation: Clips
    test: Clips
    source: str


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    builtin: Sequence[str] = (),
    report: Callable[[str], None] | None = None,
) -> Speech:
    """Opens a speech dataset by its TFDS name, preparing it first where it must be.

    Args:
      name: as TFDS takes it: `digit_strings`, `librispeech`.
      data_dir: the folder of prepared datasets; by default `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      builtin: names that errors offer instead, as `xent.experiments.datasets.register()` gives them.
      report: is given one line before anything is prepared.

    Returns:
      The three splits; nothing is read yet.

    Raises:
      UsageError: the dataset cannot be had (see `prepared`), is not of this kind, or has no split to be held out.

    Example:
      >>> load("digit_strings", builtin=datasets.register()).test.read(0).text  # doctest: +SKIP
      'zero two four two six'

    Source:
      https://www.tensorflow.org/datasets
    """
    builder = prepared(name, data_dir=data_dir, builtin=builtin, check=partial(_keys, name), report=report)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items() if info.num_examples}
    found = {ours: next((split for split in theirs if split in sizes), None) for ours, theirs in _NAMES.items()}
    train, held = found["train"], found["test"] or found["validation"]
    if train is None or held is None:
        raise UsageError(
            f"dataset {name!r} has no train split with a test or validation split (found: {', '.join(sizes)}): "
            "choose another"
        )
    test, training = _clips(name, builder, held), _clips(name, builder, train)
    if found["test"] and found["validation"]:
        validation, origin = _clips(name, builder, found["validation"]), f"its {found['validation']}"
    else:
        rows = np.random.default_rng(SPLIT_SEED).permutation(training.examples)
        cut = max(1, round(HELD_OUT * len(rows)))
        validation, training = _rows(training, np.sort(rows[:cut])), _rows(training, np.sort(rows[cut:]))
        origin = f"{HELD_OUT:.0%} of its {train}"
    source = f"TFDS {builder.info.full_name} in {builder.data_dir}; test: its {held}; validation: {origin}"
    return Speech(name, training, validation, test, source)


def _clips(name: str, builder: "DatasetBuilder", split: str) -> Clips:
    speech, text = _keys(name, builder)
    with readable(name, builder, split):
        source = builder.as_data_source(split)
    rate = getattr(builder.info.features[speech], "sample_rate", None)
    if not rate and "sample_rate" not in builder.info.features:
        raise UsageError(f"dataset {name!r} does not say how many samples a second are: choose another")

    def clip(record: dict[str, Any]) -> Clip:
        voice = record.get("voice", record.get("speaker_id", b""))
        voice = voice.decode() if isinstance(voice, bytes) else str(voice)
        return Clip(record[speech], int(rate or record["sample_rate"]), record[text].decode(), voice)

    def read_all() -> list[Clip]:
        with readable(name, builder, split):  # not around `read`: what it does to standard output, threads share
            return [clip(record) for record in source.__getitems__(range(len(source)))]

    return Clips(lambda row: clip(source[row]), len(source), read_all)


def _rows(clips: Clips, rows: np.ndarray) -> Clips:
    def read(row: int) -> Clip:
        return clips.read(int(rows[row]))

    return Clips(read, len(rows), lambda: [*map(read, range(len(rows)))])


def _keys(name: str, builder: "DatasetBuilder") -> tuple[str, str]:
    """The keys of the samples and of the text: the supervised ones, else the only ones of a fitting type."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    texts = [key for key, feature in features.items() if isinstance(feature, tfds.features.Text)]
    shaped = {key: feature for key, feature in features.items() if hasattr(feature, "shape")}
    samples = [
        key for key, feature in shaped.items()
        if feature.shape == (None,) and np.issubdtype(getattr(feature, "np_dtype", object), np.integer)
    ]  # fmt: skip
    keys = builder.info.supervised_keys
    if keys and len(keys) == 2 and keys[0] in samples and keys[1] in texts:
        return keys
    if len(samples) == len(texts) == 1:
        return samples[0], texts[0]
    found = ", ".join(features)
    raise UsageError(
        f"dataset {name!r} is not one sequence of samples with one text (found: {found[:300]}): choose another"
    )
