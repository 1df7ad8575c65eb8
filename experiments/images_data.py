"""The images of `xent images`: the built-in digits scaled up, a TFDS set, or a folder with a sub-folder a class."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from xent.experiments import datasets
from xent.train import data, folders
from xent.train.errors import require
from xent.train.progress import say
from xent.train.source import Source, array_source
from xent.train.stream import stream_source

CANVAS = 32
"""Pixels a side that the built-in digits are put on: their own 8 x 8 are too few for a convolutional network."""


class Images(NamedTuple):
    """Images of one shape; `train` is None where they are streamed."""

    source: Callable[[int, jax.Array, Mesh], Source]
    """(batch size, key of the order, mesh) -> shuffled training batches of `image` and `label`."""
    examples: int
    """For training."""
    train: data.Split | None
    validation: data.Split
    test: data.Split
    classes: tuple[str, ...]


def load(
    dataset: str, console: Console, *, size: int | None, validation: float, data_dir: Path | None, stream: bool
) -> Images:
    """Load a dataset by name or folder.

    Args:
      dataset: `digits`, a TFDS name, or a folder.
      console: is told what was found.
      size: pixels a side; None: as they are, the built-in digits on canvases of 32.
      validation: share of the training images to hold out.
      data_dir: where TFDS keeps prepared datasets.
      stream: leave the training images where they are, to be read when they are needed.

    Raises:
      UsageError: if there is no such dataset, or it is not of this kind.
    """
    folder, report = Path(dataset), partial(say, console, "data")
    named: Any = {
        "data_dir": data_dir,
        "validation": validation,
        "builtin": (*datasets.register("images"), "or a folder of images"),
        "report": report,
    }
    fit = partial(on_canvas, side=size or CANVAS) if datasets.is_digits(dataset) else partial(scaled, side=size)
    if folder.is_dir():
        require("--size", size, size is not None, "given together with a folder, whose images may differ: --size 32")
        found, origin = _of_folder(folder, size or 0, validation, stream)
    elif stream:
        left = data.stream(dataset, fit=fit, **named)
        found, origin = _streamed(left.read, left.examples, left.validation, left.test, left.classes), left.source
    else:
        whole = data.load(dataset, **named)
        parts = (whole.train, whole.validation, whole.test)
        train, held, test = (data.Split(_each(fit, part.image), part.label) for part in parts)
        found, origin = _in_memory(train, held, test, whole.classes), whole.source
    shape = " x ".join(map(str, found.test.image.shape[1:]))
    sizes = f"{found.examples} train, {len(found.validation.label)} validation, {len(found.test.label)} test"
    say(console, "data", f"{dataset}: {sizes}, {shape}{', streamed' if stream else ''}\n         {origin}")
    return found


def _in_memory(train: data.Split, validation: data.Split, test: data.Split, classes: tuple[str, ...]) -> Images:
    def source(batch_size: int, key: jax.Array, mesh: Mesh) -> Source:
        return array_source(train._asdict(), batch_size, key, mesh)

    return Images(source, len(train.label), train, validation, test, classes)


def _of_folder(folder: Path, size: int, validation: float, stream: bool) -> tuple[Images, str]:
    found = folders.find(folder, validation)
    held, test = (folders.read_all(files, size) for files in (found.validation, found.test))
    if not stream:
        return _in_memory(folders.read_all(found.train, size), held, test, found.classes), found.source
    files = found.train

    def read(row: int) -> tuple[np.ndarray, int]:
        return folders.read(files.paths[row], size), int(files.label[row])

    return _streamed(read, len(files.label), held, test, found.classes), found.source


def _streamed(
    read: Callable[[int], tuple[np.ndarray, int]], examples: int, validation: data.Split, test: data.Split,
    classes: tuple[str, ...],
) -> Images:  # fmt: skip
    def example(row: int) -> dict[str, Any]:
        image, label = read(row)
        return {"image": image, "label": np.int32(label)}

    def source(batch_size: int, key: jax.Array, mesh: Mesh) -> Source:
        return stream_source(example, examples, batch_size, key, mesh)

    return Images(source, examples, None, validation, test, classes)


def _each(fit: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    shape = fit(np.zeros(images.shape[1:], np.uint8)).shape
    found = np.empty((len(images), *shape), np.uint8)
    for i, image in enumerate(images):
        found[i] = fit(image)
    return found


def scaled(image: np.ndarray, side: int | None) -> np.ndarray:
    """Scale an image [h, w, c] to `side` x `side` pixels, bicubic, each channel by itself; None leaves it."""
    from PIL import Image

    if side is None or image.shape[:2] == (side, side):
        return image
    planes = [Image.fromarray(image[..., channel]) for channel in range(image.shape[-1])]
    return np.stack([np.asarray(plane.resize((side, side), Image.Resampling.BICUBIC)) for plane in planes], axis=-1)


def on_canvas(image: np.ndarray, side: int) -> np.ndarray:
    """Scale an image that fills its frame to 3/4 of `side`, and leave a black margin: room to move, as MNIST has."""
    inner = scaled(image, max(1, 3 * side // 4))
    before = (side - len(inner)) // 2
    margin = (before, side - len(inner) - before)
    return np.pad(inner, (margin, margin, (0, 0)))
