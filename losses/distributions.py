"""Cross-entropy and its kin as they are defined, on probabilities.

For probabilities that are given. Those that a softmax or a sigmoid makes have lost digits, and a small one has become
0 and costs inf: train with the losses of logits, which are exact.

Values are never checked. What is not normalised is taken as it stands, and not divided by its sum; a probability that
is negative, infinite or NaN gives NaN in the result and in its gradient; and a zero cotangent a gradient of exactly 0.
A class that takes no part has probability 0 in every distribution.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from xent.losses import _checks, _information, _softmax, reductions


def cross_entropy(
    p: ArrayLike, q: ArrayLike, axis: int | tuple[int, ...] = -1, *, base: float | None = None
) -> jax.Array:
    r"""Cross-entropy of a true distribution and a predicted one.

    .. math:: H(p, q) = -\sum_j p_j \log q_j = H(p) + D(p \parallel q)

    Args:
      p: the true probabilities, float, integer or bool [..., V]. bfloat16 and float16 are computed in float32.
      q: the predicted probabilities, of the shape of `p`.
      axis: the axis of the classes, or a tuple of axes.
      base: of the logarithm, a number above 1: 2 for bits; e, for nats, if not given.

    Returns:
      One value per distribution, float32 (float64 if `p` or `q` is), of the shape of `p` without `axis`, within 8 ulp
      to 1000 classes and 32 to 262144, if no probability is above 1; beyond that, V times the smallest normal float in
      nats, whatever the unit: a class that costs less may be lost before the unit is changed. A class with p = 0 adds 0
      (0 log 0 too). One with p > 0 = q makes it inf, and so are its derivatives there. At p = q = 0 the derivative by
      p, -log q, is infinite as well: the value at the smallest normal float stands for it (87 for float32), and 0 for
      its own derivatives.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      Where the truth is the first class, only its logarithm counts: 0.316 for the first row adds 0.2 log 0.2 for
      an event of probability 0, and a negative cross-entropy like -0.306 for the second cannot be.

      >>> import jax
      >>> import jax.numpy as jnp
      >>> from xent.losses import cross_entropy
      >>> jnp.set_printoptions(precision=5)
      >>> p, q = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[0.8, 0.2], [0.9, 0.1]])
      >>> print(cross_entropy(p, q))
      [0.22314 0.10536]
      >>> print(cross_entropy(p, q, base=2))
      [0.32193 0.152  ]

      The gradient with respect to the logits is q - p, not [-0.1, 0.05]:

      >>> print(jax.grad(lambda z: cross_entropy(p[0], jax.nn.softmax(z)))(jnp.log(q[0])))
      [-0.2  0.2]

      Two classes cost -log q_1 or -log q_2, without a log 2 on top, and a batch the mean of +H:

      >>> print(cross_entropy(jnp.array([[1.0, 0.0], [0.0, 1.0]]), q))
      [0.22314 2.30259]
      >>> print(cross_entropy(p, q).mean().round(5))
      0.16425

    Source:
      Cover and Thomas, Elements of Information Theory, 2nd edition, 2006, theorem 5.4.3 (the cost of a wrong code).
    """
    return _total(p, q, axis, base, _information.CROSS)


def entropy(p: ArrayLike, axis: int | tuple[int, ...] = -1, *, base: float | None = None) -> jax.Array:
    r"""Entropy of a distribution: its cross-entropy with itself.

    .. math:: H(p) = -\sum_j p_j \log p_j

    Args:
      p: the probabilities, float, integer or bool [..., V]. bfloat16 and float16 are computed in float32.
      axis: the axis of the classes, or a tuple of axes.
      base: of the logarithm, a number above 1: 2 for bits; e, for nats, if not given.

    Returns:
      One value per distribution, float32 (float64 for float64), of the shape of `p` without `axis`, as exact as
      `cross_entropy`. 0 log 0 is 0. The derivative, -1 - log p, is infinite at p = 0: -log of the smallest normal float
      stands for it (87 for float32), and 0 for its own derivatives. Through a softmax, either makes the exact 0.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import entropy
      >>> print(entropy(jnp.array([0.5, 0.25, 0.25, 0.0]), base=2))
      1.5

    Source:
      Shannon, A Mathematical Theory of Communication, 1948, section 6
    """
    return _total(p, p, axis, base, _information.CROSS)


def relative_entropy(
    p: ArrayLike, q: ArrayLike, axis: int | tuple[int, ...] = -1, *, base: float | None = None
) -> jax.Array:
    r"""Relative entropy of a true distribution and a predicted one: the Kullback-Leibler divergence.

    .. math:: D(p \parallel q) = \sum_j p_j \log \frac{p_j}{q_j} - p_j + q_j

    The last two add up to nothing, if both sum to 1. With them no term is negative, and what p and q lost when they
    were rounded does not count: without them, it would outweigh the divergence of close distributions.

    Args:
      p: the true probabilities, float, integer or bool [..., V]. bfloat16 and float16 are computed in float32.
      q: the predicted probabilities, of the shape of `p`.
      axis: the axis of the classes, or a tuple of axes.
      base: of the logarithm, a number above 1: 2 for bits; e, for nats, if not given.

    Returns:
      One value per distribution, float32 (float64 if `p` or `q` is), of the shape of `p` without `axis`, within 8 ulp
      of the formula to 1000 classes and 32 to 262144, however close p and q are; beyond that, V times the smallest
      normal float in nats. It is 0 if they are equal, and inf if
      some p > 0 = q. The derivative by p, log(p / q), is infinite at p = 0 too: the value at the smallest normal float
      stands for it, and 0 for its own derivatives.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import relative_entropy
      >>> print(relative_entropy(jnp.array([0.5, 0.5]), jnp.array([0.75, 0.25]), base=2).round(4))
      0.2075

    Source:
      Kullback and Leibler, On Information and Sufficiency, 1951, section 2; with the last two terms: Csiszár, Why
      Least Squares and Maximum Entropy?, 1991, section 1
    """
    return _total(p, q, axis, base, _information.RELATIVE)


def jensen_shannon_divergence(
    p: ArrayLike, q: ArrayLike, axis: int | tuple[int, ...] = -1, *, base: float | None = None
) -> jax.Array:
    r"""Jensen-Shannon divergence: the mean relative entropy of two distributions and their mean.

    .. math:: \tfrac{1}{2} D(p \parallel m) + \tfrac{1}{2} D(q \parallel m), \qquad m = \tfrac{1}{2} (p + q)

    Args:
      p: one distribution's probabilities, float, integer or bool [..., V]. bfloat16 and float16 are computed in
        float32.
      q: the other's, of the shape of `p`. The two may be exchanged.
      axis: the axis of the classes, or a tuple of axes.
      base: of the logarithm, a number above 1: 2 for bits; e, for nats, if not given.

    Returns:
      One value per pair, float32 (float64 if `p` or `q` is), of the shape of `p` without `axis`, within 8 ulp to 1000
      classes and 32 to 262144, however close p and q are; beyond that, 2 V times the smallest normal float in nats,
      since a class's term is made of two. It goes from 0 if they are equal to log 2 (1 bit) if they never meet.
      Its square root is a metric. The derivative by p, log(p / m) / 2, is infinite at p = 0 < q: the value at the
      smallest normal float stands for it, and 0 for its own derivatives.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import jensen_shannon_divergence
      >>> print(jensen_shannon_divergence(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]), base=2))
      1.0

    Source:
      Lin, Divergence Measures Based on the Shannon Entropy, 1991, equation 4.1 with equal weights
    """
    return _total(p, q, axis, base, _information.JENSEN_SHANNON)


def log_likelihood(
    q: ArrayLike, labels: ArrayLike, axis: int | tuple[int, ...] = -1, *, base: float | None = None
) -> jax.Array:
    r"""Log-likelihood of the class that came out, given by its index.

    .. math:: \log q_y

    That of counts n is `-cross_entropy(n, q)`; this one is the case of a single outcome.

    Args:
      q: the predicted probabilities, float, integer or bool [..., V]. bfloat16 and float16 are computed in float32.
      labels: `y`, integer, of the shape of `q` without `axis`.
      axis: the axis of the classes, or a tuple of axes; a label then is the flat index in row-major order of them.
      base: of the logarithm, a number above 1: 2 for bits; e, for nats, if not given.

    Returns:
      One value per label, never above 0 for a probability, float32 (float64 for float64), of the shape of `labels`,
      within 4 ulp. Of `q` it reads the label's probability alone: where that is 0, value and derivative are infinite.
      A label outside of [0, V) gives NaN in both.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import log_likelihood
      >>> jnp.set_printoptions(precision=5)
      >>> print(log_likelihood(jnp.array([[0.8, 0.2], [0.9, 0.1]]), jnp.array([0, 1])))
      [-0.22314 -2.30259]

    Source:
      Bishop, Pattern Recognition and Machine Learning, 2006, equation 4.108, of one example
    """
    y = _checks.array_of("labels", labels, jnp.integer)
    unit = _log_of("base", base)
    (x,), batch = _distributions(axis, q=q)
    _checks.same_shape("labels", y, batch, f"the shape of q without axis {axis}")
    y = _checks.signed(y)
    defined = (y >= 0) & (y < x.shape[-1])
    of_label = jnp.take_along_axis(x, y[..., None], -1, mode="clip")
    certain = jnp.where(defined[..., None], 1, jnp.nan).astype(x.dtype)
    return -_information.total(certain, of_label, _information.CROSS) / unit


def perplexity(
    loss: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    base: float | None = None,
) -> jax.Array:
    r"""Perplexity: the number of equally likely classes that would cost as much.

    .. math:: \exp \frac{\sum_i w_i l_i}{\sum_i w_i}

    Args:
      loss: `l`, the cross-entropy of each token (or whatever is predicted), float [...]. An entropy does as well.
      where: the tokens that count, as for `mean`.
      weights: `w`, as for `mean`.
      axis_name: the mapped axis, or several, over which the mean runs too.
      base: of the logarithms in `loss`, a number above 1: 2 for bits; e, for nats, if not given. Then it is `base` to
        the power of the mean.

    Returns:
      A scalar without unit, float32 (float64 for a float64 loss), relatively as exact as the mean of `|l|` is
      absolutely: within 8 ulp of 1, times 1 plus that mean. Over nothing it is 1. It is inf above the largest float.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import entropy, perplexity
      >>> print(perplexity(jnp.log(jnp.array([2.0, 8.0]))).round(4), perplexity(entropy(jnp.full(6, 1 / 6))).round(4))
      4.0 6.0

    Source:
      Jelinek et al., Perplexity: a Measure of the Difficulty of Speech Recognition Tasks, 1977
    """
    unit = _log_of("base", base)
    return _information.exp(reductions.mean(loss, where=where, weights=weights, axis_name=axis_name) * unit)


def _total(
    p: ArrayLike, q: ArrayLike, axis: int | tuple[int, ...], base: float | None, term: _information.Term
) -> jax.Array:
    unit = _log_of("base", base)
    (x, y), _ = _distributions(axis, p=p, q=q)
    return _information.total(x, y, term) / unit


def _distributions(axis: int | tuple[int, ...], **named: ArrayLike) -> tuple[tuple[jax.Array, ...], tuple[int, ...]]:
    """Arrays [..., V] of one float dtype, and their shape without `axis`."""
    arrays = {n: _checks.array_of(n, v, jnp.floating, jnp.integer, jnp.bool_) for n, v in named.items()}
    first, shape = next((name, array.shape) for name, array in arrays.items())
    for name, array in arrays.items():
        _checks.same_shape(name, array, shape, f"the shape of {first}")
    axes = _checks.axes_of("axis", axis, shape)
    _checks.class_count(first, shape, axes)
    dtype = jnp.result_type(jnp.float32, *arrays.values())
    batch = tuple(size for a, size in enumerate(shape) if a not in axes)
    return tuple(_softmax.classes_last(array, axes).astype(dtype) for array in arrays.values()), batch


def _log_of(name: str, base: float | None) -> float:
    if base is None:
        return 1.0
    if isinstance(base, bool) or not isinstance(base, (int, float)) or not 1 < base < math.inf:
        raise ValueError(f"{name} must be None or a Python number above 1, got {_checks.shown(base)}")
    return math.log(base)
