"""The exact parts that the softmax losses are sums of: the cost of a class, that of a soft target, the normaliser.

Every cost is a sum of terms that are not negative, and every probability a quotient of sums of positive terms, so
nothing cancels: neither a loss nor its gradient loses digits when the model is confident, right or wrong.

A cost, its gradient and the probabilities carry each other's derivatives: forward and reverse mode, of any order,
follow. Each takes the row apart for itself, and under `jit` the compiler makes one of them. Their own `jit` is for
calls from outside of one: their many operations are then compiled together, not one by one.

`axis_name` is the axis of a mesh over which the classes of each row are split: [..., V] is then the part of a shard,
and [...] what all shards share.
"""

from functools import partial

import jax
import jax.numpy as jnp

from xent.losses import _shards, _softmax, _top
from xent.losses._floats import huge, nan_if_used
from xent.losses._shards import AxisName


@partial(jax.custom_jvp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def of_class(x: jax.Array, y: jax.Array, axis_name: AxisName | None = None) -> jax.Array:
    """-log p_y [...], of logits [..., V] and labels [...]."""
    row = _softmax.row(x, y, axis_name)
    loss = row.log_total + (row.top - row.label)
    return jnp.where(row.defined, loss, jnp.nan)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def _gradient_of_class(x: jax.Array, y: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """p minus the one-hot label. At the label, p_y - 1 is the others' share, negated."""
    row = _softmax.row(x, y, axis_name)
    gradient = _softmax.with_label(row.exp * (1 / row.total)[..., None], y, -row.others / row.total, axis_name)
    # Any finite number but 0: the loss's rule makes NaN of it.
    return jnp.where(row.defined[..., None], gradient, 1)


_Pair = tuple[jax.Array, jax.Array]


@of_class.defjvp
def _(axis_name: AxisName | None, primals: _Pair, tangents: _Pair) -> _Pair:
    x, y = primals
    loss: jax.Array = of_class(x, y, axis_name)
    tangent = _shards.total(jnp.sum(_gradient_of_class(x, y, axis_name) * tangents[0], -1), axis_name)
    return loss, nan_if_used(tangent, ~jnp.isnan(loss))


@_gradient_of_class.defjvp
def _(axis_name: AxisName | None, primals: _Pair, tangents: _Pair) -> _Pair:
    tangent = _softmax.probabilities_tangent(*primals, tangents[0], axis_name)
    return _gradient_of_class(*primals, axis_name), tangent


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


@partial(jax.custom_jvp, nondiff_argnums=(3,))
@partial(jax.jit, static_argnums=3)
def of_target(x: jax.Array, target: jax.Array, valid: jax.Array, axis_name: AxisName | None = None) -> jax.Array:
    """sum_j t_j (-log p_j) [...], of logits and weights t, both [..., V]; NaN where not `valid` [...]."""
    of, total = _top.top_of(x, axis_name), _weight_of(target, axis_name)
    # A target's weight on a logit of -inf costs inf, and no weight there costs nothing. By arithmetic: XLA:CPU does
    # not vectorise a sum with a comparison in it. The least weight, times this twice, is inf.
    large = 2.0 ** (jnp.finfo(x.dtype).maxexp - 1)
    # With abs between the two: XLA would make one factor of them, which is inf, and 0 times it is NaN.
    blocks = _softmax.blocks(target)
    terms = blocks * jnp.minimum(_top.gap_of(_softmax.blocks(x), of), jnp.abs(blocks * large) * large)
    # NaN if a target is infinite; it is NaN for a row that has no softmax.
    loss = _shards.total(_softmax.sum_rows(terms, x.ndim - 1), axis_name) + total * of.log_total + total * 0
    return jnp.where(valid, loss, jnp.nan)


def _weight_of(target: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """sum_j t_j [...]."""
    return _shards.total(_softmax.sum_last(target), axis_name)


def _is_defined(x: jax.Array, target: jax.Array, valid: jax.Array, axis_name: AxisName | None) -> jax.Array:
    return _top.top_of(x, axis_name).defined & jnp.isfinite(_weight_of(target, axis_name)) & valid


_Triple = tuple[jax.Array, jax.Array, jax.Array]


@of_target.defjvp
def _(axis_name: AxisName | None, primals: _Triple, tangents: _Triple) -> _Pair:
    x, (dx, dt, _) = primals[0], tangents
    slope = jnp.sum(_gradient_of_target(*primals, axis_name) * dx + _costs(x, axis_name) * dt, -1)
    tangent = nan_if_used(_shards.total(slope, axis_name), _is_defined(*primals, axis_name))
    return of_target(*primals, axis_name), tangent


@partial(jax.custom_jvp, nondiff_argnums=(3,))
@partial(jax.jit, static_argnums=3)
def _gradient_of_target(x: jax.Array, target: jax.Array, valid: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """p sum(t) - t [..., V]."""
    gradient = _top.softmax(x, axis_name) * _weight_of(target, axis_name)[..., None] - target
    return jnp.where(_is_defined(x, target, valid, axis_name)[..., None], gradient, 1)


@_gradient_of_target.defjvp
def _(axis_name: AxisName | None, primals: _Triple, tangents: _Triple) -> _Pair:
    x, target, _ = primals
    dx, dt, _ = tangents
    total = jnp.where(_is_defined(*primals, axis_name), _weight_of(target, axis_name), 1)[..., None]
    by_target = _top.softmax(x, axis_name) * _shards.total(jnp.sum(dt, -1, keepdims=True), axis_name) - dt
    by_x = _softmax.probabilities_tangent(x, _top.top_index(x, axis_name), dx, axis_name)
    return _gradient_of_target(*primals, axis_name), total * by_x + by_target


@partial(jax.custom_jvp, nondiff_argnums=(1,))
@partial(jax.jit, static_argnums=1)
def _costs(x: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """-log p_j [..., V], or a huge number for what costs inf: a derivative, and as such it is finite."""
    of = _top.top_of(x, axis_name)
    costs = jnp.minimum(_top.gap_of(x, of), huge(x.dtype)) + of.log_total[..., None]
    return jnp.where(of.defined[..., None], costs, 1)


@_costs.defjvp
def _(axis_name: AxisName | None, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> _Pair:
    (x,), (dx,) = primals, tangents
    mean = _shards.total(jnp.sum(_top.softmax(x, axis_name) * dx, -1, keepdims=True), axis_name)
    return _costs(x, axis_name), mean - dx


@partial(jax.custom_jvp, nondiff_argnums=(1,))
@partial(jax.jit, static_argnums=1)
def log_normaliser(x: jax.Array, axis_name: AxisName | None = None) -> jax.Array:
    """log sum_j exp(x_j) [...]; 1, not NaN, where it is undefined: it is to be added to a cost that is NaN there."""
    of = _top.top_of(x, axis_name)
    return jnp.where(of.defined, of.top + of.log_total, 1)


@log_normaliser.defjvp
def _(axis_name: AxisName | None, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> _Pair:
    (x,), (dx,) = primals, tangents
    tangent = _shards.total(jnp.sum(_top.softmax(x, axis_name) * dx, -1), axis_name)
    return log_normaliser(x, axis_name), tangent
