"""Cross-entropy losses for JAX: pure functions of arrays, exact to the last bits."""

from xent.losses.binary import sigmoid_binary_cross_entropy
from xent.losses.categorical import softmax_cross_entropy_with_integer_labels
from xent.losses.reductions import mean, sum

__all__ = [
    "mean",
    "sigmoid_binary_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "sum",
]
