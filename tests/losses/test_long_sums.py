"""Sums over classes lose no digits, whatever the shape: XLA:CPU adds up in one way few rows, in others long ones."""

import itertools

import jax
import numpy as np
import pytest

from xent import losses

SHAPES = [(1, 1000), (64, 1000), (1024, 1000), (1, 20000), (1, 65536), (3, 262144), (64, 65536)]


@pytest.fixture(params=itertools.product(SHAPES, (0, 3)), ids=str)
def rows(request):
    """Logits, a smoothed target, and the losses in float64; where all logits but one are equal, all terms err alike."""
    (n, classes), spread = request.param
    logits = (0.1234 + np.random.default_rng(0).standard_normal((n, classes)) * spread).astype(np.float32)
    logits[:, 0] = 9
    target = np.full((n, classes), 0.1 / classes, np.float32)
    target[:, 0] += np.float32(0.9)
    x = logits.astype(float)
    log_normaliser = np.log(np.exp(x).sum(-1))
    return logits, target, (target * (log_normaliser[:, None] - x)).sum(-1), log_normaliser - x[:, 0]


def ulp(found, expected):
    return np.max(np.abs(found - expected) / np.spacing(expected.astype(np.float32)))


def test_of_soft_labels(rows):
    logits, target, expected, _ = rows
    assert ulp(jax.jit(losses.softmax_cross_entropy)(logits, target), expected) <= 8


def test_of_integer_labels(rows):
    logits, _, _, expected = rows
    labels = np.zeros(len(logits), np.int32)
    assert ulp(jax.jit(losses.softmax_cross_entropy_with_integer_labels)(logits, labels), expected) <= 8
