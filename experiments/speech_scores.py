"""Word and character error rates: edits over words, sums over sums, and no mean of clips' own rates."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import jiwer

from xent.train.metrics import Metrics


def errors(truth: Sequence[str], heard: Sequence[str]) -> Metrics:
    r"""Count the least edits that turn what was said into what was heard, by words and by characters.

    .. math:: \mathrm{WER} = \frac{\text{substitutions} + \text{deletions} + \text{insertions}}{\text{words said}}

    Args:
      truth: what was said, a text a clip, none empty.
      heard: what was understood.

    Returns:
      `WER` and `CER` as pairs (edits, words or characters said), which add up over sets of clips.

    Example:
      >>> from xent.train.metrics import divide
      >>> divide(errors(["two seven", "one"], ["two eleven", "one"]))
      {'CER': 0.1666666716337204, 'WER': 0.3333333432674408}

    Source: jiwer, https://github.com/jitsi/jiwer
    """
    words, characters = jiwer.process_words([*truth], [*heard]), jiwer.process_characters([*truth], [*heard])
    found: dict[str, Any] = {"WER": words, "CER": characters}
    return {
        name: (
            jnp.float32(counts.substitutions + counts.deletions + counts.insertions),
            jnp.float32(counts.substitutions + counts.deletions + counts.hits),
        )
        for name, counts in found.items()
    }
