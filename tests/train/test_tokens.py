"""Documents as tokens: nothing is lost, and every token is a target once."""

import numpy as np
import pytest

from xent.train import tokens
from xent.train.errors import UsageError

DOCUMENTS = ["the cat sat on the mat", "the dog sat on the cat\n\n    and  stayed", "naïve — 漢字 🐍"]


@pytest.fixture(scope="module")
def tokenizer():
    return tokens.train_tokenizer(DOCUMENTS * 3, 280)


def test_what_is_encoded_is_decoded(tokenizer):
    strange = ["", " ", "\x00\x7f", "never seen: Ωß\r\n\t", tokens.END_OF_TEXT, "a" * 50]
    for text in [*DOCUMENTS, *strange]:
        stream = tokens.encode(tokenizer, [text])
        assert tokens.decode(tokenizer, stream) == ([text] if text else [])
        assert (stream == tokens.END).sum() == 2  # also where the text spells it out


def test_a_stream_begins_and_ends_every_document_with_an_end_of_text(tokenizer):
    stream = tokens.encode(tokenizer, DOCUMENTS)
    assert stream.dtype == np.int32
    assert stream[0] == stream[-1] == tokens.END
    assert (stream == tokens.END).sum() == len(DOCUMENTS) + 1
    assert tokens.decode(tokenizer, stream) == DOCUMENTS


def test_a_tokenizer_follows_from_its_documents(tokenizer):
    assert tokenizer.get_vocab_size() == 280
    assert tokens.train_tokenizer(DOCUMENTS * 3, 280).to_str() == tokenizer.to_str()


@pytest.mark.parametrize(
    ("vocabulary", "message"), [(256, "must be 257 or more"), (10_000, "must be at most ")], ids=["few", "many"]
)
def test_a_vocabulary_that_cannot_be_had_is_refused(vocabulary, message):
    with pytest.raises(UsageError, match=message):
        tokens.train_tokenizer(DOCUMENTS, vocabulary)


@pytest.mark.parametrize("size", [2, 5, 6, 7, 17, 40])
@pytest.mark.parametrize(("context", "stride"), [(5, 5), (5, 2), (4, 1), (1, 1)])
def test_every_token_but_the_first_is_a_target_once(size, context, stride):
    stream = np.arange(100, 100 + size)
    cut = tokens.windows(stream, context, stride)
    assert cut["tokens"].shape == (len(cut["scored"]), context + 1)
    np.testing.assert_array_equal(cut["tokens"][:, 1:][cut["scored"]], stream[1:])
    for row, scored in zip(cut["tokens"], cut["scored"], strict=True):
        assert scored.any()
        held = row[row != tokens.END]
        np.testing.assert_array_equal(np.diff(held), 1)  # a piece of the stream
        if row[0] != stream[0]:
            assert scored.argmax() >= context - stride  # what was a target before comes first
