"""The clips of `xent speech` as padded arrays: log-mel frames, and their transcripts as classes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from xent.experiments import datasets
from xent.train import speech
from xent.train.errors import UsageError
from xent.train.log_mel import HOP, log_mel
from xent.train.progress import say
from xent.train.source import Source, array_source
from xent.train.speech import Clip, Clips
from xent.train.stream import Example, stream_source

ALPHABET = " 'abcdefghijklmnopqrstuvwxyz"
"""Character i is class 1 + i; class 0 is the loss's blank."""
CLASSES = 1 + len(ALPHABET)
STRIDE = 2
"""Frames that make one of a model's outputs."""


class Part(NamedTuple):
    """A split in memory."""

    arrays: dict[str, np.ndarray]
    """`features` float32 [n, T, bands] and `labels` int32 [n, N], padded with 0; `frames` and `characters` int32 [n]
    say how many of them there are."""
    texts: tuple[str, ...]
    voices: tuple[str, ...]


class Data(NamedTuple):
    """`train` is None where its clips are streamed."""

    source: Callable[[int, jax.Array, Mesh], Source]
    """(batch size, key of the order, mesh) -> shuffled training batches."""
    examples: int
    """For training."""
    shapes: dict[str, tuple[tuple[int, ...], str]]
    """Name -> shape and dtype of one training example."""
    train: Part | None
    validation: Part
    test: Part


def encode(text: str) -> np.ndarray:
    """Text as classes, int32 `[characters]`.

    Raises:
      UsageError: for text with a character that is not in `ALPHABET`, or with none.

    Example:
      >>> encode("A b").tolist(), decode([3, 1, 4])
      ([3, 1, 4], 'a b')
    """
    known = [ALPHABET.find(character) for character in text.lower()]
    if not known or min(known) < 0:
        wrong = next((character for character, place in zip(text, known, strict=True) if place < 0), "")
        raise UsageError(
            f"transcript {text[:80]!r} has {f'a {wrong!r}' if wrong else 'no character'}: only letters a to z, spaces "
            "and apostrophes are allowed, choose another dataset"
        )
    return 1 + np.array(known, np.int32)


def decode(labels: list[int]) -> str:
    """Classes as text."""
    return "".join(ALPHABET[label - 1] for label in labels)


def load(dataset: str, console: Console, *, bands: int, longest: float, stream: bool, data_dir: Path | None) -> Data:
    """Load a dataset by name.

    Args:
      dataset: `digit_strings`, or a TFDS name.
      console: is told what was found.
      bands: of the mel scale.
      longest: seconds that no clip may exceed; streamed ones are padded to it.
      stream: leave the training clips where they are, to be read when they are needed.
      data_dir: where TFDS keeps prepared datasets.

    Raises:
      UsageError: if there is no such dataset, it is not of this kind, or a clip is too long, or too short for its text.
    """
    report = partial(say, console, "data")
    found = speech.load(dataset, data_dir=data_dir, builtin=datasets.register("speech"), report=report)
    example = partial(_example, dataset, bands, longest)
    validation, test = (_in_memory(part, example) for part in (found.validation, found.test))
    if stream:
        width, clips = max(map(len, validation.texts + test.texts)), found.train

        def read(row: int) -> Example:
            return _padded(example(clips.read(row)), round(longest / HOP), max(width, round(30 * longest)))

        def source(batch_size: int, key: jax.Array, mesh: Mesh) -> Source:
            return stream_source(read, clips.examples, batch_size, key, mesh)

        shapes = _shapes(read(0))
        data = Data(source, clips.examples, shapes, None, validation, test)
    else:
        train = _in_memory(found.train, example)

        def source(batch_size: int, key: jax.Array, mesh: Mesh) -> Source:
            return array_source(train.arrays, batch_size, key, mesh)

        shapes = _shapes({name: array[0] for name, array in train.arrays.items()})
        data = Data(source, found.train.examples, shapes, train, validation, test)
    voices = len({*test.voices})
    sizes = f"{data.examples} train, {len(validation.texts)} validation, {len(test.texts)} test of {voices} voices"
    say(console, "data", f"{dataset}: {sizes}{', streamed' if stream else ''}\n         {found.source}")
    return data


def _example(dataset: str, bands: int, longest: float, clip: Clip) -> Example:
    """One clip, as long as it is."""
    seconds = len(clip.samples) / clip.sample_rate
    if seconds > longest:
        raise UsageError(
            f"dataset {dataset!r} has a clip of {seconds:.1f} s: give --longest {seconds + 1:.0f}, or more"
        )
    features, labels = log_mel(clip.samples, clip.sample_rate, bands), encode(clip.text)
    needed, outputs = len(labels) + int((labels[1:] == labels[:-1]).sum()), -(-len(features) // STRIDE)
    if needed > outputs:
        raise UsageError(
            f"dataset {dataset!r} has a clip that is too short for its transcript {clip.text[:80]!r}: "
            f"{outputs} outputs of {STRIDE * HOP:g} s, and {needed} are needed: choose another"
        )
    return {
        "features": features, "frames": np.int32(len(features)), "labels": labels, "characters": np.int32(len(labels))
    }  # fmt: skip


def _padded(example: Example, frames: int, characters: int) -> Example:
    """The same, filled up with 0."""
    short = {"features": frames - len(example["features"]), "labels": characters - len(example["labels"])}
    if short["labels"] < 0:
        raise UsageError(f"a transcript has {len(example['labels'])} characters, {characters} fit: give more --longest")
    return example | {
        name: np.pad(example[name], ((0, more), *[(0, 0)] * (example[name].ndim - 1))) for name, more in short.items()
    }


def _shapes(example: Example) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (array.shape, str(array.dtype)) for name, array in example.items()}


def _in_memory(clips: Clips, example: Callable[[Clip], Example]) -> Part:
    found = clips.read_all()
    examples = [example(clip) for clip in found]
    frames, characters = (max(int(each[name]) for each in examples) for name in ("frames", "characters"))
    filled = [_padded(each, frames, characters) for each in examples]
    arrays = {name: np.stack([each[name] for each in filled]) for name in filled[0]}
    return Part(arrays, tuple(clip.text.lower() for clip in found), tuple(clip.voice for clip in found))
