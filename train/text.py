"""Text as documents: any TFDS set with a text feature, or a folder of text files.

Which documents are held out is fixed: a set's own `test` split, else its `validation`, else a tenth of `train`. What is
cut from `train` is chosen by a hash of the documents, which belongs to the data and not to a run. No document that is
held out is trained on, wherever a set has it twice.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from xent.train.datasets import prepared, readable
from xent.train.errors import UsageError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

HELD_OUT = 0.1
"""Share of the training documents that is cut for a test or validation split that a set lacks."""
CHUNK = 1000
"""Records read at a time."""


class Texts(NamedTuple):
    """Documents in the order of the records or of the files' names, none empty; `source` says where they are from."""

    name: str
    train: list[str]
    validation: list[str]
    test: list[str]
    source: str


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    documents: int | None = None,
    builtin: Sequence[str] = (),
    report: Callable[[str], None] | None = None,
) -> Texts:
    """Loads documents by the name of a TFDS set, preparing it first where it must be, or from a folder of text files.

    Args:
      name: as TFDS takes it (`docstrings`, `lm1b`), or the path of a folder that exists.
      data_dir: the folder of prepared datasets; by default `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      documents: of the set's train split, or of the folder's files, only so many, the first ones.
      builtin: names that errors offer instead, as `xent.experiments.datasets.register()` gives them.
      report: is given one line before anything is prepared.

    Returns:
      The three splits; no text is in two of them, and none of them is empty.

    Raises:
      UsageError: the dataset cannot be had (see `prepared`), has no text feature, or too few documents.

    Example:
      >>> load("docstrings", builtin=datasets.register()).train[0][:14]  # doctest: +SKIP
      'Record of phas'

    Source:
      https://www.tensorflow.org/datasets
    """
    if os.path.isdir(name):
        splits, source = _of_folder(Path(name), documents)
    elif name.startswith((".", "/")):
        raise UsageError(f"dataset {name!r} is no folder: name one that holds text files, or a TFDS set")
    else:
        splits, source = _of_tfds(name, data_dir, documents, builtin, report)
    train = [text for text in splits["train"] if text.strip()]
    test, train = (splits["test"], train) if "test" in splits else _cut(train)
    validation, train = (splits["validation"], train) if "validation" in splits else _cut(train)
    seen = {*train}
    test, twice = _unseen(test, seen)
    validation, more = _unseen(validation, seen | {*test})
    if not (train and validation and test):
        count = len(splits["train"])
        raise UsageError(
            f"dataset {name!r} has too little text, {count} document{'s' * (count != 1)} in train, for three splits "
            "without a common one: choose another"
        )
    return Texts(name, train, validation, test, f"{source}; {twice + more} held-out documents seen elsewhere left out")


def _of_folder(folder: Path, documents: int | None) -> tuple[dict[str, list[str]], str]:
    """Every file below a folder that is text, in the order of their names; hidden ones are passed over."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not _hidden(file.relative_to(folder)))
    if not files:
        raise UsageError(f"folder {folder} has no files in it: name one that holds text files")
    found = [text for file in files if (text := _text_of(file)) is not None and text.strip()]
    if not found:
        raise UsageError(f"folder {folder} has {len(files)} files and no text in UTF-8 in any: name another")
    return {"train": found[:documents]}, f"{len(found)} text files of {len(files)} in {folder.absolute()}"


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _text_of(file: Path) -> str | None:
    """The text of a file, unless it is none."""
    try:
        text = file.read_bytes().decode()
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise UsageError(f"file {file} cannot be read ({error.strerror}): make it readable, or take it away") from None
    return None if "\0" in text else text


def _of_tfds(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    documents: int | None,
    builtin: Sequence[str],
    report: Callable[[str], None] | None,
) -> tuple[dict[str, list[str]], str]:
    check = partial(_feature, name)
    builder = prepared(name, data_dir=data_dir, builtin=builtin, check=check, report=report)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items() if info.num_examples}
    if "train" not in sizes:
        raise UsageError(f"dataset {name!r} has no train split (found: {', '.join(sizes) or 'none'}): choose another")
    key = _feature(name, builder)
    splits = {split: split for split in ("train", "validation", "test") if split in sizes}
    if "test" not in sizes and "validation" in sizes:
        splits = {"train": "train", "test": "validation"}
    read = {}
    for ours, theirs in splits.items():
        with readable(name, builder, theirs):
            read[ours] = list(_records(builder, theirs, key, documents if ours == "train" else None))
    return read, f"TFDS {builder.info.full_name} in {builder.data_dir}"


def _feature(name: str, builder: "DatasetBuilder") -> str:
    """The key of the text: `text`, else the only feature of that type."""
    import tensorflow_datasets as tfds

    texts = [key for key, feature in builder.info.features.items() if isinstance(feature, tfds.features.Text)]
    if "text" in texts:
        return "text"
    if len(texts) == 1:
        return texts[0]
    found = ", ".join(builder.info.features)
    raise UsageError(
        f"dataset {name!r} has no feature `text`, nor a single one of that type (found: {found[:300]}): choose another"
    )


def _records(builder: "DatasetBuilder", split: str, key: str, most: int | None) -> Iterator[str]:
    source = builder.as_data_source(split)
    size = len(source) if most is None else min(most, len(source))
    for start in range(0, size, CHUNK):
        for record in source.__getitems__(range(start, min(start + CHUNK, size))):
            text = record[key].decode(errors="replace")
            if text.strip():
                yield text


def _cut(documents: list[str]) -> tuple[list[str], list[str]]:
    """Cuts off the share that is held out, at least one; both parts keep their order."""
    order = sorted(range(len(documents)), key=lambda i: hashlib.sha256(documents[i].encode()).digest())
    cut = {*order[: max(1, round(HELD_OUT * len(documents)))]}
    return [documents[i] for i in sorted(cut)], [text for i, text in enumerate(documents) if i not in cut]


def _unseen(documents: list[str], seen: set[str]) -> tuple[list[str], int]:
    """The documents that are not among those seen, and how many were."""
    kept = [text for text in documents if text not in seen]
    return kept, len(documents) - len(kept)
