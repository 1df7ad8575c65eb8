"""The exact parts that the softmax losses are sums of: the cost of a class, that of a soft target, the normaliser.

Every cost is a sum of terms that are not negative, and every probability a quotient of sums of positive terms, so
nothing cancels: neither a loss nor its gradient loses digits when the model is confident, right or wrong.

A cost, its gradient and the probabilities carry each other's derivatives: forward and reverse mode, of any order,
follow. Each takes the row apart for itself, and under `jit` the compiler makes one of them. Their own `jit` is for
calls from outside of one: their many operations are then compiled together, not one by one.
"""

import jax
import jax.numpy as jnp

from xent.losses import _softmax, _top
from xent.losses._floats import huge, nan_if_used


@jax.custom_jvp
@jax.jit
def of_class(x: jax.Array, y: jax.Array) -> jax.Array:
    """-log p_y [...], of logits [..., V] and labels [...]."""
    row = _softmax.row(x, y)
    loss = row.log_total + (row.top - row.label)
    return jnp.where(row.defined, loss, jnp.nan)


@jax.custom_jvp
@jax.jit
def _gradient_of_class(x: jax.Array, y: jax.Array) -> jax.Array:
    """p minus the one-hot label. At the label, p_y - 1 is the others' share, negated."""
    row = _softmax.row(x, y)
    gradient = _softmax.with_label(row.exp * (1 / row.total)[..., None], y, -row.others / row.total)
    # Any finite number but 0: the loss's rule makes NaN of it.
    return jnp.where(row.defined[..., None], gradient, 1)


_Pair = tuple[jax.Array, jax.Array]


@of_class.defjvp
def _(primals: _Pair, tangents: _Pair) -> _Pair:
    x, y = primals
    loss: jax.Array = of_class(x, y)
    tangent = jnp.sum(_gradient_of_class(x, y) * tangents[0], -1)
    return loss, nan_if_used(tangent, ~jnp.isnan(loss))


@_gradient_of_class.defjvp
def _(primals: _Pair, tangents: _Pair) -> _Pair:
    return _gradient_of_class(*primals), _softmax.probabilities_tangent(*primals, tangents[0])


@jax.custom_jvp
def weighted(weight: jax.Array, cost: jax.Array) -> jax.Array:
    """weight * cost, except that no weight on an infinite cost is nothing."""
    return jnp.where((weight == 0) & (cost == jnp.inf), 0, weight * cost)


@weighted.defjvp
def _(primals: _Pair, tangents: _Pair) -> _Pair:
    weight, cost = primals
    defined = ~jnp.isnan(weight * jnp.minimum(cost, 1))
    # Finite at an infinite cost too, so that a cotangent of 0 gives 0.
    by_weight = jnp.where(defined, jnp.minimum(cost, huge(cost.dtype)), 1)
    tangent = jnp.where(defined, weight, 1) * tangents[1] + by_weight * tangents[0]
    return weighted(weight, cost), nan_if_used(tangent, defined)


@jax.custom_jvp
@jax.jit
def of_target(x: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """sum_j t_j (-log p_j) [...], of logits and weights t, both [..., V]; NaN where not `valid` [...]."""
    of, total = _top.top_of(x), _top.sum_of(target)
    # A target's weight on a logit of -inf costs inf, and no weight there costs nothing. By arithmetic: XLA:CPU does
    # not vectorise a sum with a comparison in it. The least weight, times this twice, is inf.
    large = 2.0 ** (jnp.finfo(x.dtype).maxexp - 1)
    # With abs between the two: XLA would make one factor of them, which is inf, and 0 times it is NaN.
    terms = target * jnp.minimum(_top.gap_of(x, of), jnp.abs(target * large) * large)
    # NaN if a target is infinite; it is NaN for a row that has no softmax.
    loss = _top.sum_of(terms) + total * of.log_total + total * 0
    return jnp.where(valid, loss, jnp.nan)


def _is_defined(x: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    return _top.top_of(x).defined & jnp.isfinite(_top.sum_of(target)) & valid


_Triple = tuple[jax.Array, jax.Array, jax.Array]


@of_target.defjvp
def _(primals: _Triple, tangents: _Triple) -> _Pair:
    x, (dx, dt, _) = primals[0], tangents
    tangent = jnp.sum(_gradient_of_target(*primals) * dx + _costs(x) * dt, -1)
    return of_target(*primals), nan_if_used(tangent, _is_defined(*primals))


@jax.custom_jvp
@jax.jit
def _gradient_of_target(x: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """p sum(t) - t [..., V]."""
    gradient = _top.softmax(x) * _top.sum_of(target)[..., None] - target
    return jnp.where(_is_defined(x, target, valid)[..., None], gradient, 1)


@_gradient_of_target.defjvp
def _(primals: _Triple, tangents: _Triple) -> _Pair:
    x, target, _ = primals
    dx, dt, _ = tangents
    total = jnp.where(_is_defined(*primals), _top.sum_of(target), 1)[..., None]
    by_target = _top.softmax(x) * jnp.sum(dt, -1, keepdims=True) - dt
    by_x = _softmax.probabilities_tangent(x, _top.top_index(x), dx)
    return _gradient_of_target(*primals), total * by_x + by_target


@jax.custom_jvp
@jax.jit
def _costs(x: jax.Array) -> jax.Array:
    """-log p_j [..., V], or a huge number for what costs inf: a derivative, and as such it is finite."""
    of = _top.top_of(x)
    costs = jnp.minimum(_top.gap_of(x, of), huge(x.dtype)) + of.log_total[..., None]
    return jnp.where(of.defined[..., None], costs, 1)


@_costs.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> _Pair:
    (x,), (dx,) = primals, tangents
    return _costs(x), jnp.sum(_top.softmax(x) * dx, -1, keepdims=True) - dx


@jax.custom_jvp
@jax.jit
def log_normaliser(x: jax.Array) -> jax.Array:
    """log sum_j exp(x_j) [...]; 1, not NaN, where it is undefined: it is to be added to a cost that is NaN there."""
    of = _top.top_of(x)
    return jnp.where(of.defined, of.top + of.log_total, 1)


@log_normaliser.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> _Pair:
    (x,), (dx,) = primals, tangents
    return log_normaliser(x), jnp.sum(_top.softmax(x) * dx, -1)
