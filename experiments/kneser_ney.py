"""Interpolated modified Kneser-Ney: the n-gram model to beat, in numpy, every count of an order in one sorted array."""

from typing import NamedTuple

import numpy as np

MISSING = -1
"""The number of an n-gram that the training text does not have."""


class Order(NamedTuple):
    """The n-grams of one length: context (the number of an n-gram one shorter) and last token, in one sorted key."""

    keys: np.ndarray
    """int64 `[n-grams]`: `context * vocabulary + token`; an n-gram's number is its place here."""
    discounted: np.ndarray
    """float64 `[n-grams]`: count less discount, over the context's total."""
    backoff: np.ndarray
    """float64 `[contexts]`: what the discounts leave for the shorter n-gram; 1 where nothing follows a context."""


class KneserNey(NamedTuple):
    """An n-gram model: the orders from 1 to n."""

    vocabulary: int
    orders: tuple[Order, ...]


def fit(stream: np.ndarray, vocabulary: int, order: int) -> KneserNey:
    r"""Count the n-grams of a stream of tokens.

    .. math::
      p(w|h) = \frac{\max(c(hw) - D(c(hw)), 0)}{\sum_v c(hv)} + \gamma(h) \, p(w|h')

    c counts occurrences at the highest order, and below it the different tokens that an n-gram follows; h' is h without
    its first token, below one token stands the uniform distribution, and gamma makes the sum over w equal 1. The three
    discounts of an order, for counts of 1, 2 and more, follow from how many n-grams occur 1, 2, 3 and 4 times.

    Args:
      stream: integer `[tokens]`; documents follow one another with an end of text between them, and n-grams reach over
        it, as the attention of a packed Transformer does.
      vocabulary: tokens that there are.
      order: n, the tokens of the longest n-gram.

    Example:
      >>> model = fit(np.array([0, 1, 2, 0, 1, 2, 0, 1]), vocabulary=4, order=2)
      >>> np.exp(log_probabilities(model, np.array([0, 1]))).round(2)
      array([0.62])

    Source: Chen and Goodman, An Empirical Study of Smoothing Techniques for Language Modeling, 1998, section 4.1.6;
      where the text is too small for the formula of the discounts, 0.5, 1 and 1.5, as in KenLM (Heafield et al. 2013).
    """
    keys, numbers, firsts = [], [np.zeros(len(stream) + 1, np.int64)], []
    for _ in range(order):
        context = numbers[-1][:-1]  # of the n-gram that ends at each token, all but its last
        key = context * vocabulary + stream[-len(context) :]
        found, first, number = np.unique(key, return_index=True, return_inverse=True)
        keys.append(found)
        firsts.append(first)
        numbers.append(number)
    counts = [np.bincount(numbers[-1])]
    for n in range(order - 1, 0, -1):
        # Each n-gram one longer is one more token that its end follows; the stream's first follows the beginning.
        suffixes = numbers[n][1:][firsts[n]]
        count = np.bincount(suffixes, minlength=len(keys[n - 1]))
        count[numbers[n][0]] += 1
        counts.append(count)
    contexts = [1, *map(len, keys[:-1])]
    orders = (_order(*each, vocabulary) for each in zip(keys, reversed(counts), contexts, strict=True))
    return KneserNey(vocabulary, tuple(orders))


def _order(keys: np.ndarray, counts: np.ndarray, contexts: int, vocabulary: int) -> Order:
    discount = _discounts(counts)[np.minimum(counts, 3)]
    context = keys // vocabulary
    totals = np.bincount(context, counts, minlength=contexts)
    left = np.bincount(context, discount, minlength=contexts)
    backoff = np.divide(left, totals, out=np.ones(contexts), where=totals > 0)
    return Order(keys, (counts - discount) / totals[context], backoff)


def _discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken from a count of 0, 1, 2, and 3 or more."""
    of = np.bincount(np.minimum(counts, 5), minlength=6)[:5].astype(float)  # how many n-grams have each count
    if of[1:].all():
        found = [k - (k + 1) * of[1] / (of[1] + 2 * of[2]) * of[k + 1] / of[k] for k in (1, 2, 3)]
        if all(0 < discount <= k for k, discount in enumerate(found, 1)):
            return np.array([0.0, *found])
    return np.array([0.0, 0.5, 1.0, 1.5])


def log_probabilities(model: KneserNey, stream: np.ndarray) -> np.ndarray:
    """The log-probability of each token of a stream but the first, given those before it, in nats: float64."""
    probability = np.full(len(stream), 1 / model.vocabulary)
    context = np.zeros(len(stream), np.int64)  # of the tokens before each: none yet, which every n-gram begins with
    for order in model.orders:
        number = _find(order.keys, np.where(context == MISSING, MISSING, context * model.vocabulary + stream))
        known = context != MISSING
        backoff = np.where(known, order.backoff[context], 1)
        probability = np.where(number == MISSING, 0, order.discounted[number]) + backoff * probability
        context = np.concatenate([[MISSING], number[:-1]])
    return np.log(probability[1:])


def _find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The place of each wanted key, or `MISSING`."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, MISSING)
