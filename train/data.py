"""Image classification data as arrays: any TFDS set of images of one shape with one integer label each.

A split is read once into memory, where batches are cheap to gather. Which examples are held out is fixed: TFDS's
`test` split, else its `validation`, else a fifth of `train`; what is cut from `train` is stratified by label, with a
constant seed that belongs to the data and not to a run.
"""

import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xent.train.datasets import prepared, readable
from xent.train.errors import UsageError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder
    from tensorflow_datasets.features import FeatureConnector

SPLIT_SEED = 0
"""Chosen before any training and never changed: another seed is another held-out set."""
TEST_FRACTION = 0.2
CHUNK = 1000
"""Records read at a time: enough to keep the reader busy, little beside the arrays."""


class Split(NamedTuple):
    """Examples in the order of the records: `image` uint8 [n, h, w, c], `label` int32 [n]."""

    image: np.ndarray
    label: np.ndarray


class Dataset(NamedTuple):
    """A dataset in memory; `validation` may be empty, `classes` names label i at i, `source` says where it is from."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    source: str


class Stream(NamedTuple):
    """A dataset whose training images stay where they are: `read(row)` gives one, uint8 [h, w, c], and its label."""

    read: Callable[[int], tuple[np.ndarray, int]]
    examples: int
    validation: Split
    test: Split
    classes: tuple[str, ...]
    source: str


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    validation: float = 0.1,
    builtin: Sequence[str] = (),
    report: Callable[[str], None] | None = None,
) -> Dataset:
    """Loads an image classification dataset by its TFDS name, preparing it first where it must be.

    Args:
      name: as TFDS takes it: `digits`, `mnist`, `cifar10`, `mnist:3.0.1`.
      data_dir: the folder of prepared datasets; by default `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      validation: the fraction of the train split to cut for validation, 0 for none.
      builtin: names that errors offer instead, as `xent.experiments.datasets.register()` gives them.
      report: is given one line before anything is prepared.

    Returns:
      The three splits, disjoint: images uint8 [n, h, w, c], labels int32 [n] in 0..len(classes) - 1.

    Raises:
      UsageError: the dataset cannot be had (see `prepared`) or is not of this kind, or its labels are out of range.

    Example:
      >>> load("digits", builtin=datasets.register()).train.image.shape  # doctest: +SKIP
      (1293, 8, 8, 1)

    Source:
      https://www.tensorflow.org/datasets
    """
    if not 0 <= validation < 1:
        raise UsageError(f"validation is {validation}: give a fraction of the train split, from 0 to below 1")
    check = partial(_features, name)
    builder = prepared(name, data_dir=data_dir, builtin=builtin, check=check, report=report)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items() if info.num_examples}
    if "train" not in sizes:
        raise UsageError(f"dataset {name!r} has no train split (found: {', '.join(sizes) or 'none'}): choose another")
    image, label = _features(name, builder)
    held_out = next((split for split in ("test", "validation") if split in sizes), None)
    read = {split: _read(name, builder, split, image, label) for split in ("train", held_out) if split}
    classes = _classes(name, builder.info.features[label], read)
    train, test = (read["train"], read[held_out]) if held_out else _cut(name, read["train"], TEST_FRACTION)
    if train.image.shape[1:] != test.image.shape[1:]:
        raise _differing(name, train.image.shape[1:], test.image.shape[1:])
    train, held = _cut(name, train, validation)
    origin = f"its {held_out}" if held_out else f"{TEST_FRACTION:.0%} of its train"
    source = f"TFDS {builder.info.full_name} in {builder.data_dir}; test: {origin}; validation: {validation:g} of train"
    train, held, test = (Split(part.image, part.label.astype(np.int32)) for part in (train, held, test))
    return Dataset(name, train, held, test, classes, source)


def stream(
    name: str,
    *,
    fit: Callable[[np.ndarray], np.ndarray],
    data_dir: str | os.PathLike[str] | None = None,
    validation: float = 0.1,
    builtin: Sequence[str] = (),
    report: Callable[[str], None] | None = None,
) -> Stream:
    """Opens the same datasets without reading their training images, for those that do not fit in memory.

    Held-out images are read. What is cut from `train` is drawn, not stratified: nobody has seen the labels.

    Args:
      name: as in `load`.
      fit: makes each image [h, w, c] one of the shape that all are to have.
      data_dir, validation, builtin, report: as in `load`.

    Raises:
      UsageError: as in `load`; and if the dataset does not say how many classes it has.

    Example:
      >>> stream("digits", fit=lambda image: image, builtin=datasets.register()).examples  # doctest: +SKIP
      1293
    """
    check = partial(_features, name)
    builder = prepared(name, data_dir=data_dir, builtin=builtin, check=check, report=report)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items() if info.num_examples}
    image, label = _features(name, builder)
    if "train" not in sizes or not getattr(builder.info.features[label], "num_classes", None):
        raise UsageError(f"dataset {name!r} cannot be streamed: it needs a train split and named classes")
    with readable(name, builder, "train"):
        source, decode = _opened(builder, "train", image, label)
    held_out = next((split for split in ("test", "validation") if split in sizes), None)
    rows = np.random.default_rng(SPLIT_SEED).permutation(sizes["train"])
    tested = 0 if held_out else round(TEST_FRACTION * len(rows))
    cut = tested + math.ceil(validation * (len(rows) - tested))  # as scikit-learn cuts what is in memory
    kept = np.sort(rows[cut:])

    def read(row: int) -> tuple[np.ndarray, int]:
        pixels, value = decode(source[int(row)])
        return fit(pixels), value

    def gathered(pairs: Iterable[tuple[np.ndarray, int]]) -> Split:
        found = list(pairs)
        images = [pixels for pixels, _ in found] or [np.zeros_like(read(0)[0])]
        return Split(np.stack(images)[: len(found)], np.array([value for _, value in found], np.int32))

    with readable(name, builder, held_out or "train"):
        if held_out:
            test = gathered((fit(pixels), value) for pixels, value in _records(builder, held_out, image, label))
        else:
            test = gathered(map(read, np.sort(rows[:tested])))
        held = gathered(map(read, np.sort(rows[tested:cut])))
    classes = _classes(name, builder.info.features[label], {"test": test, "validation": held})
    origin = f"its {held_out}" if held_out else f"{TEST_FRACTION:.0%} of its train"
    text = f"TFDS {builder.info.full_name} in {builder.data_dir}; test: {origin}; validation: {validation:g} of train"
    return Stream(lambda row: read(kept[row]), len(kept), held, test, classes, text)


def _features(name: str, builder: "DatasetBuilder") -> tuple[str, str]:
    """The keys of the one image and the one label: the supervised ones, else the only ones of a fitting type."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    typed = {key: f for key, f in features.items() if hasattr(f, "shape") and hasattr(f, "np_dtype")}
    images = [key for key, f in typed.items() if f.np_dtype == np.uint8 and len(f.shape) == 3]
    whole = [key for key, f in typed.items() if f.shape == () and np.issubdtype(f.np_dtype, np.integer)]
    labels = [key for key in whole if isinstance(typed[key], tfds.features.ClassLabel)] or whole
    keys = builder.info.supervised_keys
    if keys and len(keys) == 2:
        images, labels = [key for key in images if key == keys[0]], [key for key in whole if key == keys[1]]
    if len(images) == len(labels) == 1:
        return images[0], labels[0]
    found = ", ".join(f"{key} {getattr(f.np_dtype, '__name__', f.np_dtype)}{list(f.shape)}" for key, f in typed.items())
    raise UsageError(
        f"dataset {name!r} is not one uint8 image [h, w, c] with one integer label "
        f"(found: {found[:300]}): choose another"
    )


def _read(name: str, builder: "DatasetBuilder", split: str, image: str, label: str) -> Split:
    """Every record of a split; images of differing shapes are refused at the first that differs."""
    size = builder.info.splits[split].num_examples
    images, labels = np.empty((0,), np.uint8), np.empty(size, np.int64)  # int32 once they are checked
    with readable(name, builder, split):
        for i, (pixels, value) in enumerate(_records(builder, split, image, label)):
            if i == 0:
                images = np.empty((size, *pixels.shape), np.uint8)
            if pixels.shape != images.shape[1:]:
                raise _differing(name, images.shape[1:], pixels.shape)
            images[i], labels[i] = pixels, value
    return Split(images, labels)


def _records(builder: "DatasetBuilder", split: str, image: str, label: str) -> Iterator[tuple[np.ndarray, int]]:
    """Yields pixels [h, w, c] and label of each record."""
    source, decode = _opened(builder, split, image, label)
    for start in range(0, len(source), CHUNK):
        for record in source.__getitems__(range(start, min(start + CHUNK, len(source)))):
            yield decode(record)


def _opened(
    builder: "DatasetBuilder", split: str, image: str, label: str
) -> tuple[Any, Callable[[Any], tuple[np.ndarray, int]]]:
    """The records of a split, with random access, and what makes pixels [h, w, c] and label of one.

    Compressed images are parsed and decoded here: TFDS's own decoding takes three times as long, and threads do not
    help, since for small images the interpreter's lock is what is waited for.
    """
    import tensorflow_datasets as tfds
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    feature = builder.info.features[image]
    compressed = isinstance(feature, tfds.features.Image)
    method = tfds.decode.DeserializeMethod
    source = builder.as_data_source(
        split, deserialize_method=method.RAW_BYTES if compressed else method.DESERIALIZE_AND_DECODE
    )
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(feature.shape[-1])

    def decode(record: Any) -> tuple[np.ndarray, int]:
        if not compressed:
            return record[image], record[label]
        fields = tf_example_pb2.Example.FromString(record).features.feature
        picture = Image.open(io.BytesIO(fields[image].bytes_list.value[0]))
        pixels = np.asarray(picture if mode in (None, picture.mode) else picture.convert(mode))
        return pixels.reshape(*pixels.shape[:2], -1), fields[label].int64_list.value[0]

    return source, decode


def _classes(name: str, feature: "FeatureConnector", found: dict[str, Split]) -> tuple[str, ...]:
    """The names of the classes, after checking that every label is one of them."""
    count = getattr(feature, "num_classes", None)
    if not count:  # a plain integer: as many classes as labels say, if they are class numbers at all
        count = max(1, *(1 + int(split.label.max()) for split in found.values()))
        if count > sum(len(split.label) for split in found.values()):
            raise UsageError(f"dataset {name!r} has labels up to {count - 1}, more than examples: choose another")
    for key, split in found.items():
        wrong = split.label[(split.label < 0) | (split.label >= count)]
        if len(wrong):
            values, counts = np.unique(wrong, return_counts=True)
            raise UsageError(
                f"dataset {name!r}, split {key}: label {values[0]} occurs {counts[0]} times, "
                f"only 0 to {count - 1} are allowed: choose a dataset with labels in every split"
            )
    return tuple(getattr(feature, "names", None) or map(str, range(count)))


def stratified(label: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Cut a fraction of the rows off, of each class alike, with the seed of the data.

    Args:
      label: integer labels `[n]`.
      fraction: above 0 and below 1.

    Returns:
      The rows that are kept and those that are cut off, each ascending.

    Raises:
      ValueError: scikit-learn's, if there are too few rows of a class.

    Example:
      >>> [len(rows) for rows in stratified(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 0.25)]
      [6, 2]
    """
    from sklearn.model_selection import train_test_split

    kept, cut = train_test_split(np.arange(len(label)), test_size=fraction, stratify=label, random_state=SPLIT_SEED)
    return np.sort(kept), np.sort(cut)


def _cut(name: str, split: Split, fraction: float) -> tuple[Split, Split]:
    """Cuts a stratified fraction off a split; both parts keep the order of the records. 0 gives an empty part."""
    if not fraction:
        return split, Split(split.image[:0], split.label[:0])
    try:
        kept, cut = stratified(split.label, fraction)
    except ValueError as error:
        raise UsageError(
            f"dataset {name!r}: {fraction:g} of {len(split.label)} train examples cannot be cut by class, "
            "with some of each on either side: give another fraction, or 0 for no validation"
        ) from error
    return Split(split.image[kept], split.label[kept]), Split(split.image[cut], split.label[cut])


def _differing(name: str, one: tuple[int, ...], other: tuple[int, ...]) -> UsageError:
    return UsageError(
        f"dataset {name!r} has images of differing shapes, {list(one)} and {list(other)}: "
        "choose a dataset where all are alike"
    )
