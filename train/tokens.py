"""Documents as numbers: byte-pair tokens, one stream of them, and the windows of it that a model sees."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from xent.train.errors import UsageError, require

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
END = 0
"""The number of the token that ends a document."""
LEAST_VOCABULARY = 257
"""A token for every byte, so that nothing is unknown, and the end of text."""


def train_tokenizer(documents: Sequence[str], vocabulary: int) -> "Tokenizer":
    """Learn byte-pair tokens from documents: the most frequent pair becomes a token, again and again.

    Args:
      documents: of the training split alone.
      vocabulary: tokens to have, the 256 bytes and the end of text among them.

    Returns:
      A tokenizer of the `tokenizers` package. Whatever it encodes, it decodes to the same text; that a document has
      the words of the end-of-text token in it does not make them one.

    Raises:
      UsageError: if the documents have too few pairs for so many tokens, or there are fewer than `LEAST_VOCABULARY`.

    Example:
      >>> tokenizer = train_tokenizer(["low lower lowest"] * 2, 260)
      >>> tokenizer.encode("low slow").tokens
      ['low', 'Ġ', 's', 'low']

    Source: Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; on bytes, as in GPT-2.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    require("--vocabulary", vocabulary, vocabulary >= LEAST_VOCABULARY, f"{LEAST_VOCABULARY} or more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END_OF_TEXT], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer, length=len(documents))
    tokenizer.encode_special_tokens = True  # as text, where a document has them
    found = tokenizer.get_vocab_size()
    if found < vocabulary:
        raise UsageError(
            f"--vocabulary {vocabulary}: must be at most {found}, which is all that the text has pairs for"
        )
    return tokenizer


def encode(tokenizer: "Tokenizer", documents: Sequence[str]) -> np.ndarray:
    """Turn documents into one stream: an end of text, then each document and an end of text after it, int32.

    Example:
      >>> tokenizer = train_tokenizer(["abc"], 257)
      >>> encode(tokenizer, ["a", "b"])[[0, 2, 4]].tolist()
      [0, 0, 0]
    """
    parts = [np.array([END], np.int32)]
    for encoded in tokenizer.encode_batch_fast(list(documents), add_special_tokens=False):
        parts.append(np.array([*encoded.ids, END], np.int32))
    return np.concatenate(parts)


def decode(tokenizer: "Tokenizer", tokens: Sequence[int]) -> list[str]:
    """Turn tokens into the documents that they hold, the last one perhaps cut off.

    Example:
      >>> tokenizer = train_tokenizer(["abc"], 257)
      >>> decode(tokenizer, encode(tokenizer, ["ab", "c"]).tolist())
      ['ab', 'c']
    """
    documents: list[list[int]] = [[]]
    for token in tokens:
        if token == END:
            documents.append([])
        else:
            documents[-1].append(token)
    return [tokenizer.decode(document) for document in documents if document]


def windows(stream: np.ndarray, context: int, stride: int) -> dict[str, np.ndarray]:
    """Cut a stream into windows of one length, in which each of its tokens but the first is a target once.

    Windows are packed: a document may begin anywhere in one, and what is attended to there includes the documents
    before it, with an end of text between them; the first token of a document is a target like any other. Where the
    stride is less than the context, a window begins with tokens that were targets before, and every target but those
    of the first window has at least `context - stride` tokens before it.

    Args:
      stream: integer `[tokens]`.
      context: tokens that a model sees at once.
      stride: targets that each window adds, from 1 to `context`.

    Returns:
      `tokens`, int32 `[windows, context + 1]`: inputs, and one further, the targets; `scored`, bool
      `[windows, context]`: the targets that count there. The last window is filled up with ends of text.

    Example:
      >>> cut = windows(np.arange(8), context=4, stride=2)
      >>> print(cut["tokens"][:, 1:][cut["scored"]])
      [1 2 3 4 5 6 7]
    """
    targets = len(stream) - 1
    starts = np.arange(0, max(targets - context, 0) + stride, stride)
    places = starts[:, None] + np.arange(context + 1)[None]
    padded = np.pad(stream.astype(np.int32), (0, max(0, places[-1, -1] - targets)), constant_values=END)
    first = np.where(starts == 0, 0, context - stride)  # of the targets in a window, the first that is new
    scored = (np.arange(context)[None] >= first[:, None]) & (places[:, 1:] <= targets)
    return {"tokens": padded[places], "scored": scored}
