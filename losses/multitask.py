"""One loss out of several tasks': with fixed weights, or with weights learned from each task's uncertainty.

Losses, weights and log-variances are dicts, or any other pytrees, of scalars. A task's name is the path to it, and all
of them must name the same tasks.
"""

import difflib
from typing import Any

import jax
import jax.numpy as jnp

from xent.losses import _checks, reductions
from xent.losses._information import exp

Scalars = Any
"""A pytree of scalars, `{"depth": ..., "segmentation": ...}` in the common case."""


def weighted_multitask_loss(losses: Scalars, weights: Scalars) -> jax.Array:
    r"""The sum of several tasks' losses, each times a weight.

    .. math:: \sum_t w_t l_t

    Args:
      losses: `l`, one scalar per task, float. bfloat16 and float16 are added up in float32.
      weights: `w`, one number or scalar array per task, float or integer, in a pytree of the same names. The loss is
        differentiable in them too.

    Returns:
      A scalar, float32 (float64 if one of the losses is), within 8 ulp of the sum of `|w_t l_t|`. A task of weight 0
      adds nothing and gets a gradient of exactly 0, even if its loss is NaN or inf.

    Raises:
      ValueError: for names that differ, no task at all, or an argument of the wrong dtype or shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from xent.losses import weighted_multitask_loss
      >>> losses = {"depth": jnp.array(2.0), "edges": jnp.array(jnp.nan), "segmentation": jnp.array(1.5)}
      >>> print(weighted_multitask_loss(losses, {"depth": 0.25, "edges": 0, "segmentation": 1.0}))
      2.0

    Source:
      Caruana, Multitask Learning, 1997
    """
    names, terms = _stacked("losses", losses)
    factors = _aligned("weights", weights, names, terms.dtype, jnp.floating, jnp.integer)
    return reductions.sum(terms, weights=factors)


def uncertainty_weighted_multitask_loss(
    losses: Scalars, log_variances: Scalars, *, weights: Scalars | None = None
) -> jax.Array:
    r"""The sum of several tasks' losses, each divided by a learned variance, and of what a large variance costs.

    .. math:: \sum_t w_t \left(e^{-s_t} l_t + \tfrac{1}{2} s_t\right), \qquad s_t = \log \sigma_t^2

    With a loss held, `s_t` has its optimum at `e^{s_t} = 2 l_t`: no task can be silenced for nothing.

    Args:
      losses: `l`, one scalar per task, float: a cross-entropy for a classification, and for a regression half the
        squared error (`optax.l2_loss`), which makes `e^{-s} l + s / 2` the Gaussian's negative log-likelihood but for a
        constant. The whole squared error comes to the same, with `s` larger by log 2.
      log_variances: `s`, the trained parameters, one scalar per task, float, in a pytree of the same names; 0 to start
        from equal weights. The loss is differentiable in both.
      weights: `w`, fixed weights as for `weighted_multitask_loss`; 1 if not given. With 0, a task that has no examples
        in the batch keeps its log-variance as it is, too.

    Returns:
      A scalar, float32 (float64 if one of the losses is), within 8 ulp of the sum of `|w_t| (e^{-s_t} |l_t| + |s_t|)`.
      A task of weight 0 adds nothing, and it and its log-variance get a gradient of exactly 0, even if they are NaN or
      inf.

    Raises:
      ValueError: for names that differ, no task at all, or an argument of the wrong dtype or shape.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from xent.losses import uncertainty_weighted_multitask_loss
      >>> losses = {"depth": jnp.array(0.5), "segmentation": jnp.array(2.0)}
      >>> log_variances = {"depth": jnp.array(0.0), "segmentation": jnp.log(4.0)}
      >>> print(uncertainty_weighted_multitask_loss(losses, log_variances).round(4))
      1.6931
      >>> print(jax.grad(uncertainty_weighted_multitask_loss, argnums=1)(losses, log_variances)["depth"])
      0.0

    Source:
      Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, 2018, equations 7 and 10,
      https://arxiv.org/abs/1705.07115
    """
    names, terms = _stacked("losses", losses)
    s = _aligned("log_variances", log_variances, names, terms.dtype, jnp.floating)
    factors = jnp.ones_like(terms)
    if weights is not None:
        factors = _aligned("weights", weights, names, terms.dtype, jnp.floating, jnp.integer)
    return reductions.sum(reductions.weighted_or_dropped(exp(-s), terms) + s / 2, weights=factors)


def _leaves(argument: str, tree: Scalars, *kinds: type[Any]) -> dict[str, jax.Array]:
    """The scalars by their names: `a` for `{"a": x}`, `a/b` for `{"a": {"b": x}}`."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        array = _checks.array_of(f"{argument}[{name!r}]", leaf, *kinds)
        _checks.same_shape(f"{argument}[{name!r}]", array, (), "the shape of a scalar")
        if name in leaves:
            raise ValueError(f"{argument} must name each task once, got {name!r} twice")
        leaves[name] = array
    return leaves


def _stacked(argument: str, tree: Scalars) -> tuple[list[str], jax.Array]:
    leaves = _leaves(argument, tree, jnp.floating)
    if not leaves:
        raise ValueError(f"{argument} must name at least one task, got {tree!r}")
    return list(leaves), jnp.stack([_checks.computed(x) for x in leaves.values()])


def _aligned(argument: str, tree: Scalars, names: list[str], dtype: jnp.dtype, *kinds: type[Any]) -> jax.Array:
    """The scalars of `tree` in the order of `names`, if these are its names."""
    leaves = _leaves(argument, tree, *kinds)
    rule = f"{argument} must name the tasks of losses"
    for name in leaves:
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
            raise ValueError(f"{rule}, got {name!r}; the nearest is {nearest!r}")
    for name in names:
        if name not in leaves:
            raise ValueError(f"{rule}, got none for {name!r}")
    return jnp.stack([leaves[name].astype(dtype) for name in names])
