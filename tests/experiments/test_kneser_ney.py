"""Kneser-Ney: a distribution, and the one of its definition."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from xent.experiments import kneser_ney

VOCABULARY = 9


@pytest.fixture(scope="module")
def stream():
    """Tokens with habits; the last one of the vocabulary never comes."""
    draws = np.random.default_rng(0)
    table = draws.dirichlet(np.full(VOCABULARY - 1, 0.3), VOCABULARY - 1)
    tokens = [0]
    for _ in range(600):
        tokens.append(draws.choice(VOCABULARY - 1, p=table[tokens[-1]]))
    return np.array(tokens)


def discounts(counts):
    n = [sum(count == k for count in counts.values()) for k in range(5)]
    if not all(n[1:]):
        return [0, 0.5, 1, 1.5]
    y = n[1] / (n[1] + 2 * n[2])
    found = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
    return [0, *found] if all(0 < d <= k for k, d in zip((1, 2, 3), found, strict=True)) else [0, 0.5, 1, 1.5]


def by_definition(stream, order):
    """p(word | context), from Chen and Goodman's formula and dictionaries."""
    tokens = stream.tolist()
    levels = {}
    for n in range(1, order + 1):
        if n == order:
            counts = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
        else:
            before = defaultdict(set)
            for i in range(len(tokens) - n + 1):
                before[tuple(tokens[i : i + n])].add(tokens[i - 1] if i else None)
            counts = Counter({gram: len(found) for gram, found in before.items()})
        follow = defaultdict(dict)
        for gram, count in counts.items():
            follow[gram[:-1]][gram[-1]] = count
        levels[n] = (follow, discounts(counts))

    def p(word, context):
        if len(context) == order:
            context = context[1:]
        follow, discount = levels[len(context) + 1]
        lower = p(word, context[1:]) if context else 1 / VOCABULARY
        counts = follow.get(context)
        if not counts:
            return lower
        total = sum(counts.values())
        taken = lambda count: discount[min(count, 3)]  # noqa: E731
        own = counts.get(word, 0)
        return (own - taken(own)) / total + sum(map(taken, counts.values())) / total * lower

    return p


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_it_is_the_formula(stream, order):
    model = kneser_ney.fit(stream, VOCABULARY, order)
    p = by_definition(stream, order)
    held_out = np.random.default_rng(1).integers(0, VOCABULARY, 60)
    held_out[20:50] = stream[100:130]
    found = kneser_ney.log_probabilities(model, held_out)
    words = held_out.tolist()
    expected = [np.log(p(words[i], tuple(words[max(0, i - order + 1) : i]))) for i in range(1, len(words))]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 3, 5])
def test_probabilities_add_up_to_one_after_any_context(stream, order):
    model = kneser_ney.fit(stream, VOCABULARY, order)
    contexts = [[8, 8, 8, 8], [0, 8, 1, 2], stream[:4], stream[50:54], stream[-4:], [3, 3, 0, 1]]
    for context in contexts:
        continued = [kneser_ney.log_probabilities(model, np.array([*context, word]))[-1] for word in range(VOCABULARY)]
        assert np.exp(continued).sum() == pytest.approx(1, abs=1e-12)
        assert np.isfinite(continued).all()


def test_longer_contexts_help_where_there_is_something_to_learn(stream):
    train, held_out = stream[:500], stream[500:]
    losses = [
        -kneser_ney.log_probabilities(kneser_ney.fit(train, VOCABULARY, order), held_out).mean() for order in (1, 2)
    ]
    assert losses[1] < losses[0] - 0.3
