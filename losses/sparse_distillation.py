"""Distillation from a teacher of whom only the likeliest classes are kept, and the mass of the others."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from xent.losses import _checks, _rows
from xent.losses._floats import difference
from xent.losses._log_softmax import parts, softmax
from xent.losses._softmax import has_softmax, sum_last


def distillation_top_k(
    student_logits: ArrayLike,
    teacher_classes: ArrayLike,
    teacher_probabilities: ArrayLike,
    where: ArrayLike | None = None,
    *,
    tail: Literal["bucket", "spread"] = "bucket",
    temperature: float = 1.0,
) -> jax.Array:
    r"""Kullback-Leibler divergence of the student's softmax from a teacher known by k of its classes.

    .. math:: T^2 \left(\sum_{i=1}^k t_i \log \frac{t_i}{p_{c_i}} + r \log \frac{r}{\sum_{j \notin c} p_j}\right),
        \qquad r = 1 - \sum_i t_i, \quad p = \mathrm{softmax}(z / T)

    What the teacher gave to all other classes, `r`, is compared as one class more (`tail="bucket"`), which asks nothing
    of how the student shares out its own rest; or it is spread evenly over them (`tail="spread"`), which pulls the
    student's rest towards uniform. For the third practice, no tail, divide the probabilities by their sum; likewise
    for classes that were sampled from the teacher.

    Args:
      student_logits: `z`, unnormalised log-probabilities, float [..., V]. bfloat16 and float16 are computed in float32.
        -inf is a class of probability 0.
      teacher_classes: `c`, the teacher's classes, each at most once, integer [..., k].
      teacher_probabilities: `t`, of these classes at temperature T, float [..., k]; their sum is at most 1. A class of
        probability 0 is one of the others, whatever its index: so rows of fewer than k classes are filled up. The loss
        is differentiable in it.
      where: what takes part, bool. Of the shape of `student_logits` it selects classes; without V, examples.
      tail: what becomes of `r`.
      temperature: `T`, a Python float from 1e-9 to 1e9; see `distillation_kl_divergence`.

    Returns:
      The divergence of each example in nats, float32 (float64 for float64 logits), of the shape of `student_logits`
      without V, within 16 ulp of `T**2 (1 + sum_i t_i (|log t_i| + |log p_i|))` over the k classes and the tail. An `r`
      of no more than k roundings of 1 is 0. A class of probability 0 for the student but not for the teacher costs inf.
      Where nothing is selected it is 0 and its gradient is 0. A class outside of [0, V), a probability that is negative
      or above 1, and a row of logits that holds NaN, +inf or nothing above -inf, gives NaN in the loss and in its
      gradients; but these are exactly 0, whatever the row holds, where the cotangent is 0.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import distillation_top_k
      >>> jnp.set_printoptions(precision=4)
      >>> student = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]]))
      >>> print(distillation_top_k(student, jnp.array([[1, 0]]), jnp.array([[0.5, 0.25]])))
      [0.0923]

    Source:
      Hinton, Vinyals and Dean, 2015, https://arxiv.org/abs/1503.02531, over k + 1 classes; that truncation alone biases
      the student: Anshumann et al., Sparse Logit Sampling, 2025, https://arxiv.org/abs/2503.16870; spread evenly:
      Szegedy et al., 2016, section 7, https://arxiv.org/abs/1512.00567
    """
    scale = _checks.exact_temperature("temperature", temperature)
    if tail not in ("bucket", "spread"):
        raise ValueError(f"tail must be 'bucket' or 'spread', got {_checks.shown(tail)}")
    z = _checks.array_of("student_logits", student_logits, jnp.floating)
    classes = _checks.array_of("teacher_classes", teacher_classes, jnp.integer)
    t = _checks.array_of("teacher_probabilities", teacher_probabilities, jnp.floating)
    (z,), selection = _rows.of({"student_logits": z}, -1, where)
    if classes.ndim != z.ndim or classes.shape[:-1] != selection.batch or classes.shape[-1] < 1:
        raise ValueError(f"teacher_classes must have the shape {(*selection.batch, 'k')}, got {classes.shape}")
    _checks.same_shape("teacher_probabilities", t, classes.shape, "the shape of teacher_classes")
    z, t = selection.fill(z, -jnp.inf), t.astype(z.dtype)

    classes = _checks.signed(classes)
    in_range = ((classes >= 0) & (classes < z.shape[-1])).all(-1)
    defined = has_softmax(z) & ((t >= 0) & (t <= 1)).all(-1) & in_range
    poison = _rows.poison(defined, z, t)
    z, t = _rows.harmless(defined, z, t)
    losses = _divergence(z, jnp.clip(classes, 0, z.shape[-1] - 1), t, scale, tail == "bucket")
    return selection.losses(scale**2 * losses + poison)


def _divergence(z: jax.Array, classes: jax.Array, t: jax.Array, temperature: float, bucket: bool) -> jax.Array:
    log_p = softmax(z, temperature).log_p
    # A class of probability 0 is written past the end, where it is dropped.
    listed = jnp.put_along_axis(
        jnp.zeros(z.shape, bool), jnp.where(t > 0, classes, z.shape[-1]), True, -1, inplace=False, mode="drop"
    )
    rest = _rest(t)
    rest = jnp.where(rest > t.shape[-1] * jnp.finfo(t.dtype).eps, rest, 0)
    terms = _term(t, jnp.take_along_axis(log_p, classes, -1), jnp.take_along_axis(z, classes, -1) > -jnp.inf)
    # Of the others, only those that are there: by where=, or by a logit above -inf.
    others = ~listed & (z > -jnp.inf)
    count = others.sum(-1)
    if bucket:
        tail = _term(rest, _log_sum_exp(jnp.where(others, log_p, -jnp.inf)), count > 0)
    else:
        share = rest / jnp.maximum(count, 1)
        mean_log_p = sum_last(jnp.where(others, log_p, 0)) / jnp.maximum(count, 1)
        tail = _term(rest, mean_log_p, count > 0) + rest * (_log(share) - _log(rest))
    return sum_last(terms) + tail


@jax.custom_jvp
def _rest(t: jax.Array) -> jax.Array:
    """1 - sum(t), the sum with what its additions round off: where little is left of 1, that counts."""
    error = jnp.zeros_like(t)
    while (length := t.shape[-1]) > 1:
        half = length // 2
        one, other, odd = slice(half), slice(half, 2 * half), slice(2 * half, length)
        total, rounded = difference(t[..., one], -t[..., other])
        t = jnp.concatenate([total, t[..., odd]], -1)
        error = jnp.concatenate([rounded + (error[..., one] + error[..., other]), error[..., odd]], -1)
    return ((1 - t) - error)[..., 0]


@_rest.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _rest(*primals), -jnp.sum(tangents[0], -1)


def _log(x: jax.Array) -> jax.Array:
    """0 at 0, where nothing is multiplied by it."""
    return jnp.log(jnp.where(x > 0, x, 1))


def _term(t: jax.Array, log_p: jax.Array, possible: jax.Array) -> jax.Array:
    """t log(t / p); 0 where t is 0, inf where it is not, but p is."""
    cost = jnp.where(t > 0, t * (_log(t) - jnp.where(possible, log_p, 0)), 0)
    return cost + jnp.where((t > 0) & ~possible, jnp.inf, 0).astype(t.dtype)


@jax.custom_jvp
@jax.jit
def _log_sum_exp(x: jax.Array) -> jax.Array:
    """Of rows [..., V]; of nothing but -inf, 0."""
    top = x.max(-1)
    x = jnp.where(jnp.isfinite(top)[..., None], x, 0)
    return jnp.where(jnp.isfinite(top), top + jnp.log1p(parts(x, 1.0).tail[..., 0]), 0)


@_log_sum_exp.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    there = x > -jnp.inf
    p = softmax(jnp.where(there.any(-1, keepdims=True), x, 0), 1.0).p
    return _log_sum_exp(x), jnp.sum(jnp.where(there, p * dx, 0), -1)
