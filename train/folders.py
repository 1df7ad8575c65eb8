"""Images in folders, a sub-folder a class: which files are held out, and how one is read."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xent.train.data import TEST_FRACTION, Split, stratified
from xent.train.errors import UsageError

KINDS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Endings of the files that are looked at, in either case."""


class Files(NamedTuple):
    """Images that have not been read: `paths`, and their labels, int32 `[n]`."""

    paths: tuple[Path, ...]
    label: np.ndarray


class Folder(NamedTuple):
    """What a folder holds; `classes` names label i at i, `source` says what is held out."""

    train: Files
    validation: Files
    test: Files
    classes: tuple[str, ...]
    source: str


def find(folder: Path, validation: float) -> Folder:
    """Find the images of a folder and say which are held out; none is opened.

    Where it has sub-folders `train` and `test`, these have the classes; else a fifth of all is for testing. What is
    cut is stratified by class, with a constant seed that belongs to the data.

    Args:
      folder: `folder/CLASS/*.png`, or `folder/train/CLASS/*.png` and `folder/test` likewise; deeper files count, too.
      validation: share of the training images to hold out, 0 for none.

    Raises:
      UsageError: if there are fewer than two classes, a class is empty, or too few images to cut.
    """
    divided = (folder / "train").is_dir() and (folder / "test").is_dir()
    root = folder / "train" if divided else folder
    classes = tuple(sorted(part.name for part in root.iterdir() if part.is_dir() and not part.name.startswith(".")))
    if len(classes) < 2:
        raise UsageError(f"{root} has {len(classes)} sub-folders: one for each class is needed, two or more")
    train = _files(root, classes)
    if divided:
        test = _files(folder / "test", classes)
    else:
        train, test = _cut(root, train, TEST_FRACTION)
    train, held = _cut(root, train, validation)
    origin = "its test" if divided else f"{TEST_FRACTION:.0%} of it"
    return Folder(train, held, test, classes, f"folder {folder}; test: {origin}; validation: {validation:g} of train")


def read(path: Path, size: int) -> np.ndarray:
    """Read one image: its middle square, scaled to uint8 `[size, size, 3]`.

    Raises:
      UsageError: if it is no image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} cannot be read as an image ({type(error).__name__}): mend or remove it") from error


def read_all(files: Files, size: int) -> Split:
    """Read every image into memory."""
    images = np.empty((len(files.paths), size, size, 3), np.uint8)
    for i, path in enumerate(files.paths):
        images[i] = read(path, size)
    return Split(images, files.label)


def _files(root: Path, classes: Sequence[str]) -> Files:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in KINDS)
        if not found:
            raise UsageError(f"{root / name} has no images ({', '.join(KINDS)}): add some, or remove it")
        paths += found
        labels += [label] * len(found)
    return Files(tuple(paths), np.array(labels, np.int32))


def _cut(root: Path, files: Files, fraction: float) -> tuple[Files, Files]:
    if not fraction:
        return files, Files((), files.label[:0])
    try:
        kept, cut = stratified(files.label, fraction)
    except ValueError as error:
        raise UsageError(
            f"{root}: {fraction:g} of its {len(files.label)} images cannot be cut by class "
            f"({str(error).splitlines()[0][:150]}): add images, or give another --validation"
        ) from error
    return tuple(Files(tuple(files.paths[row] for row in part), files.label[part]) for part in (kept, cut))  # type: ignore[return-value]
