"""A student's logits against a teacher's: the divergence of one softmax from another, exact where they nearly agree.

All are differentiable in both arguments. To hold the teacher fixed, pass `jax.lax.stop_gradient(teacher_logits)`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from xent.losses import _checks, _rows
from xent.losses._log_softmax import centred, pair
from xent.losses._softmax import has_softmax, sum_last


def distillation_kl_divergence(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
    *,
    temperature: float = 1.0,
) -> jax.Array:
    r"""Kullback-Leibler divergence of the student's softmax from the teacher's, at a temperature.

    .. math:: T^2 \sum_j t_j \log \frac{t_j}{p_j}, \qquad t = \mathrm{softmax}(u / T),\; p = \mathrm{softmax}(z / T)

    `T**2` keeps the gradient, `T (p - t)`, as large as that of a hard label's loss while T grows. For the reverse
    divergence, of the teacher from the student (MiniLLM), swap the arguments.

    Args:
      student_logits: `z`, unnormalised log-probabilities, float [..., V]. bfloat16 and float16 are computed in float32.
        -inf is a class of probability 0.
      teacher_logits: `u`, likewise, of the shape of `student_logits`. The loss is differentiable in both.
      axis: the axis of the classes, a tuple of axes, or None for all.
      where: what takes part, bool. Of the shape of the logits it selects classes; without `axis`, examples.
      temperature: `T`, a Python float from 1e-9 to 1e9.

    Returns:
      The divergence of each example in nats, float32 (float64 if an argument is), of the shape of the logits without
      `axis`, within 16 ulp, plus V times the smallest normal float times `max(1, T**2, T**2 max_j |log(t_j / p_j)|)`:
      what XLA flushes is less than one such float, be it a class's term, which `T**2` multiplies, or a probability,
      which the logarithm multiplies too; its gradient by `z_j` is within 16 ulp of `T (|p_j - t_j| + p_j sum(|p -
      t|))`, plus V times the smallest normal float times `max(1, T)`. Where student and teacher agree, up to a shift,
      both are exactly 0. A class of probability 0 for the student but not for the teacher costs inf. Where nothing is
      selected it is 0 and its gradient is 0. A row of either that holds NaN, +inf or nothing above -inf gives NaN in
      the loss and in its gradients; but these are exactly 0, whatever the row holds, where the cotangent is 0.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import distillation_kl_divergence
      >>> jnp.set_printoptions(precision=4)
      >>> student, teacher = jnp.array([[2.0, 0.0], [1.0, 3.0]]), jnp.array([[3.0, 0.0], [1.0, 3.0]])
      >>> print(distillation_kl_divergence(student, teacher, temperature=2.0))
      [0.0825 0.    ]

    Source:
      Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, section 2,
      https://arxiv.org/abs/1503.02531; reverse: Gu et al., MiniLLM, 2023, https://arxiv.org/abs/2306.08543
    """
    scale = _checks.exact_temperature("temperature", temperature)
    z, u, selection, poison = _logits(student_logits, teacher_logits, axis, where)
    impossible = (z == -jnp.inf) & (u > -jnp.inf)
    losses = scale**2 * _kl(u, z, scale) + _rows.infinite_where(impossible, z.dtype)
    return selection.losses(losses + poison)


def distillation_jensen_shannon_divergence(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
) -> jax.Array:
    r"""Generalised Jensen-Shannon divergence of the student's and the teacher's softmax: both from their mixture.

    .. math:: \beta\,\mathrm{KL}(t \,\|\, m) + (1 - \beta)\,\mathrm{KL}(p \,\|\, m), \quad m = \beta t + (1 - \beta) p

    It never exceeds log 2. Divided by beta it becomes `KL(t || p)` as beta falls to 0, and divided by `1 - beta` the
    reverse, `KL(p || t)`, as beta rises to 1: use `distillation_kl_divergence` for these. No factor of `T**2`: its
    source has none.

    Args:
      student_logits: as in `distillation_kl_divergence`, float [..., V]; `p` is the softmax of them over T.
      teacher_logits: likewise, of the shape of `student_logits`; `t` is their softmax. The loss is differentiable in
        both.
      axis: the axis of the classes, a tuple of axes, or None for all.
      where: what takes part, bool. Of the shape of the logits it selects classes; without `axis`, examples.
      beta: the teacher's share of the mixture, a Python float above 0 and below 1.
      temperature: `T`, a Python float from 1e-9 to 1e9.

    Returns:
      The divergence of each example in nats, float32 (float64 if an argument is), of the shape of the logits without
      `axis`, within 16 ulp (plus V times the smallest normal float). Where student and teacher agree, up to a shift,
      it and its gradients are exactly 0. Where nothing is selected it is 0 and its gradient is 0. A row of either that
      holds NaN, +inf or nothing above -inf gives NaN in the loss and in its gradients; but these are exactly 0,
      whatever the row holds, where the cotangent is 0.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import distillation_jensen_shannon_divergence
      >>> jnp.set_printoptions(precision=4)
      >>> student, teacher = jnp.array([[2.0, 0.0], [1.0, 3.0]]), jnp.array([[3.0, 0.0], [1.0, 3.0]])
      >>> print(distillation_jensen_shannon_divergence(student, teacher, beta=0.5))
      [0.0087 0.    ]

    Source:
      Agarwal et al., On-Policy Distillation of Language Models, 2024, section 2, https://arxiv.org/abs/2306.13649
    """
    share, scale = _checks.share("beta", beta), _checks.exact_temperature("temperature", temperature)
    z, u, selection, poison = _logits(student_logits, teacher_logits, axis, where)
    return selection.losses(_jensen_shannon(u, z, share, scale) + poison)


def distillation_total_variation(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
    *,
    temperature: float = 1.0,
) -> jax.Array:
    r"""Total variation distance of the student's and the teacher's softmax.

    .. math:: \frac{1}{2} \sum_j |p_j - t_j|

    Args:
      student_logits: as in `distillation_kl_divergence`, float [..., V]; `p` is the softmax of them over T.
      teacher_logits: likewise, of the shape of `student_logits`; `t` is their softmax. The loss is differentiable in
        both, except where `p_j = t_j`: there the derivative of `|p_j - t_j|` is taken to be 0.
      axis: the axis of the classes, a tuple of axes, or None for all.
      where: what takes part, bool. Of the shape of the logits it selects classes; without `axis`, examples.
      temperature: `T`, a Python float from 1e-9 to 1e9.

    Returns:
      The distance of each example, in [0, 1], float32 (float64 if an argument is), of the shape of the logits without
      `axis`, within 16 ulp (plus V times the smallest normal float). Where student and teacher agree, up to a shift,
      it and its gradients are exactly 0. Where nothing is selected it is 0 and its gradient is 0. A row of either that
      holds NaN, +inf or nothing above -inf gives NaN in the loss and in its gradients; but these are exactly 0,
      whatever the row holds, where the cotangent is 0.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import distillation_total_variation
      >>> jnp.set_printoptions(precision=4)
      >>> student, teacher = jnp.log(jnp.array([[0.8, 0.2], [0.5, 0.5]])), jnp.log(jnp.array([[0.6, 0.4], [0.5, 0.5]]))
      >>> print(distillation_total_variation(student, teacher))
      [0.2 0. ]

    Source:
      Wen et al., f-Divergence Minimization for Sequence-Level Knowledge Distillation, 2023,
      https://arxiv.org/abs/2307.15190
    """
    scale = _checks.exact_temperature("temperature", temperature)
    z, u, selection, poison = _logits(student_logits, teacher_logits, axis, where)
    gap = pair(u, z, scale).gap
    # Not abs, whose derivative at 0 JAX takes to be 1.
    return selection.losses(sum_last(jnp.sign(lax.stop_gradient(gap)) * gap) / 2 + poison)


def _logits(
    student: ArrayLike, teacher: ArrayLike, axis: _rows.Axis, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, _rows.Selection, jax.Array]:
    """Student's and teacher's rows [..., V], harmless; what is selected; and NaN to add for undefined rows."""
    z = _checks.array_of("student_logits", student, jnp.floating)
    u = _checks.array_of("teacher_logits", teacher, jnp.floating)
    (z, u), selection = _rows.of({"student_logits": z, "teacher_logits": u}, axis, where)
    z, u = selection.fill(z, -jnp.inf), selection.fill(u, -jnp.inf)
    defined = has_softmax(z) & has_softmax(u)
    poison = _rows.poison(defined, z, u)
    z, u = _rows.harmless(defined, z, u)
    return z, u, selection, poison


def _relative_entropy(a: jax.Array, b: jax.Array, log_ratio: jax.Array) -> jax.Array:
    """a log(a / b) - a + b, given log(a / b): not negative, and exact to a few ulp.

    Over a row, a and b have the same sum, so that this sums to the divergence. An error that all log_ratio of a row
    share is felt in second order only.
    """
    near = jnp.clip(log_ratio, -1, 1)
    # r - 1 + exp(-r) = r**2 / 2 - r**3 / 6 + ...
    series = jnp.ones_like(near)
    for n in range(12 if a.dtype == jnp.float32 else 20, 2, -1):
        series = 1 - near / n * series
    above, below = jnp.maximum(log_ratio, 1), jnp.minimum(log_ratio, -1)
    far = jnp.where(log_ratio > 0, a * (above - 1 + jnp.exp(-above)), b * (1 + jnp.exp(below) * (below - 1)))
    return jnp.where(jnp.abs(log_ratio) <= 1, a * (near * near / 2 * series), far)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def _kl(u: jax.Array, z: jax.Array, temperature: float) -> jax.Array:
    """KL(t || p), where a class that only p lacks costs much, but not inf."""
    of = pair(u, z, temperature)
    return sum_last(_relative_entropy(of.t, of.p, of.log_ratio))


@_kl.defjvp
def _(
    temperature: float, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    of = pair(*primals, temperature)
    divergence = _kl(*primals, temperature)
    by_u = of.t * centred(primals[0], of.log_ratio, temperature)
    tangent = jnp.sum(by_u * tangents[0], -1) + jnp.sum(of.gap * tangents[1], -1)
    return divergence, tangent / temperature


def _log_mixture(share: float, log_ratio: jax.Array) -> jax.Array:
    """log(1 - share + share exp(log_ratio)): near 0 from what it is made of, below from their sum, which is exact."""
    mixture = share * jnp.exp(log_ratio) + (1 - share)
    return jnp.where(mixture < 0.5, jnp.log(mixture), jnp.log1p(share * jnp.expm1(log_ratio)))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _mixture_ratios(log_ratio: jax.Array, share: float) -> tuple[jax.Array, jax.Array]:
    """log(t / m) and log(p / m) of the mixture m, given log(t / p)."""
    near = jnp.clip(log_ratio, -80, 80)
    of_t, of_p = -_log_mixture(1 - share, -near), -_log_mixture(share, near)
    return jnp.where(log_ratio < -80, log_ratio + of_p, of_t), jnp.where(log_ratio > 80, of_t - log_ratio, of_p)


@_mixture_ratios.defjvp
def _(
    share: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    of_t, of_p = _mixture_ratios(*primals, share)
    change = tangents[0]
    return (of_t, of_p), ((1 - share) * jnp.exp(of_p) * change, -share * jnp.exp(of_t) * change)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
@partial(jax.jit, static_argnums=(2, 3))
def _jensen_shannon(u: jax.Array, z: jax.Array, share: float, temperature: float) -> jax.Array:
    of = pair(u, z, temperature)
    of_t, of_p = _mixture_ratios(of.log_ratio, share)
    mixture = share * of.t + (1 - share) * of.p
    terms = share * _relative_entropy(of.t, mixture, of_t) + (1 - share) * _relative_entropy(of.p, mixture, of_p)
    return sum_last(terms)


@_jensen_shannon.defjvp
def _(
    share: float,
    temperature: float,
    primals: tuple[jax.Array, jax.Array],
    tangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    u, z = primals
    of = pair(u, z, temperature)
    of_t, of_p = _mixture_ratios(of.log_ratio, share)
    by_u = share * of.t * centred(u, of_t, temperature)
    by_z = (1 - share) * of.p * centred(z, of_p, temperature)
    tangent = jnp.sum(by_u * tangents[0], -1) + jnp.sum(by_z * tangents[1], -1)
    return _jensen_shannon(u, z, share, temperature), tangent / temperature
