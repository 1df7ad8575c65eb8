"""The text of `xent language_model` as tokens, by a tokenizer that has seen the training split only."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from xent.experiments import datasets
from xent.train import text, tokens
from xent.train.errors import require


class Data(NamedTuple):
    """Text as three streams of tokens, int32 `[tokens]`, each of which begins with an end of text."""

    tokenizer: Tokenizer
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    test_bytes: int
    """Of the test documents, in UTF-8."""


def load(
    name: str,
    *,
    vocabulary: int,
    context: int,
    documents: int | None,
    data_dir: Path | None,
    report: Callable[[str], None],
) -> Data:
    """Read documents, learn their tokens from the training split, and encode all of them.

    Args:
      name: see `text.load`, as for `documents` and `data_dir`.
      vocabulary: byte-pair tokens.
      context: tokens that each split must have at least.
      documents: training documents to read at most.
      data_dir: where prepared datasets are.
      report: is given a line of what was found.

    Raises:
      UsageError: if there is no such text, or too little of it for the vocabulary or the context.
    """
    found = text.load(name, data_dir=data_dir, documents=documents, builtin=datasets.register("texts"), report=report)
    tokenizer = tokens.train_tokenizer(found.train, vocabulary)
    parts = {"train": found.train, "validation": found.validation, "test": found.test}
    streams = {split: tokens.encode(tokenizer, part) for split, part in parts.items()}
    shortest = min(map(len, streams.values())) - 1
    require("--context", context, context <= shortest, f"at most {shortest}, the tokens of the smallest split")
    sizes = [
        f"{split} {len(parts[split]):,} documents, {len(stream) - 1:,} tokens" for split, stream in streams.items()
    ]
    report(f"{name}: {'; '.join(sizes)}\n{'':9}{found.source}")
    return Data(tokenizer, **streams, test_bytes=sum(len(document.encode()) for document in found.test))
