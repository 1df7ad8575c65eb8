"""A loss of logits over a linear head, some tokens at a time: its value, its gradients, and the rule that joins them.

The gradients are formed together with the value, while the logits of a chunk are there: three products of the size of
the head, and no logits kept. The derivative of the loss is their inner product with the tangents. From that one rule
follow forward and reverse mode, and from the rule's own derivative, chunk by chunk, Hessian products.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero, zero_from_primal
from jax.typing import ArrayLike

from xent.losses import _shards, _wide
from xent.losses._rules import settled
from xent.losses._shards import AxisName


class Plan(NamedTuple):
    """How to go about it: nothing that is differentiated."""

    loss: Callable[..., jax.Array]  # loss(logits [tokens, V], *targets, *constants) -> [tokens]
    report: Callable[..., Any]  # report(logits, losses, *targets) -> arrays [tokens], without derivatives
    chunks: int  # the tokens are cut into so many
    transposed: bool  # whether the kernel is [V, D]
    axis_name: AxisName | None  # what the classes are split over, inside of `shard_map`


class Head(NamedTuple):
    """What all tokens share; or a flag for each of these, or the gradient in it."""

    kernel: Any  # [D, V]
    bias: Any  # [V], or [0] for none
    constants: tuple[Any, ...]  # what the loss closes over and is differentiated in


class Tokens(NamedTuple):
    """What each token has; or a flag for each of these, or the gradient in it."""

    hidden: Any  # [tokens, D]
    weights: Any  # [tokens]
    kept: Any  # [tokens], bool: whether it counts
    targets: tuple[Any, ...]  # [tokens, ...]


def losses_of(plan: Plan, head: Head, tokens: Tokens) -> tuple[jax.Array, Any]:
    """Each token's weighted loss, [tokens], and the report. Its derivatives compute the logits again."""
    wide = jax.tree.map(_widened, head)

    @partial(jax.checkpoint, prevent_cse=False)
    def chunk(piece: Tokens) -> tuple[jax.Array, Any]:
        losses, report = _losses(plan, _as_given(wide, head), piece)
        return _weighted(piece, losses), report

    return _join(lax.map(chunk, _cut(tokens, plan.chunks)), len(tokens.kept))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def total_of(plan: Plan, differentiated: Plan, head: Head, tokens: Tokens) -> tuple[jax.Array, Any]:
    """The sum of the weighted losses, and the report; by the second plan where there are derivatives to be taken."""

    def of_chunk(piece: Tokens) -> tuple[jax.Array, Any]:
        losses, report = _losses(plan, head, piece)
        return jnp.sum(_weighted(piece, losses)), report

    def step(total: jax.Array, piece: Tokens) -> tuple[jax.Array, Any]:
        more, report = of_chunk(piece)
        return total + more, report

    pieces = _cut(tokens, plan.chunks)
    total, report = lax.scan(step, _start(lambda piece: of_chunk(piece)[0], pieces), pieces)
    return total, _join(report, len(tokens.kept))


@partial(total_of.defjvp, symbolic_zeros=True)
def _(_: Plan, plan: Plan, primals: tuple[Head, Tokens], tangents: tuple[Head, Tokens]) -> tuple[Any, Any]:
    given, structure = jax.tree.flatten(tangents, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero))
    by_head, by_tokens = jax.tree.unflatten(structure, [not isinstance(tangent, SymbolicZero) for tangent in given])

    # Without a checkpoint JAX takes constants of the size of a chunk's logits out of the loop, and so keeps them.
    @partial(jax.checkpoint, prevent_cse=False)
    def found(head: Head, tokens: Tokens) -> Any:
        return _with_gradients(plan, head, tokens, by_head, by_tokens)

    total, report, of_head, of_tokens = found(*settled(primals))
    tangent = jnp.zeros_like(total)
    gradients = jax.tree.leaves((of_head, of_tokens), is_leaf=lambda leaf: leaf is None)
    for gradient, along in zip(gradients, given, strict=True):
        if gradient is not None:  # no vdot: it flattens, and flattening a sharded array gathers it
            part = jnp.sum(gradient * along.astype(gradient.dtype))
            tangent += _shards.whole(part, total, plan.axis_name)
    return (total, report), (tangent, jax.tree.map(partial(zero_from_primal, symbolic_zeros=True), report))


def _with_gradients(plan: Plan, head: Head, tokens: Tokens, by_head: Head, by_tokens: Tokens) -> Any:
    """The sum, the report, and the sum's gradient in what the flags of `by_head` and `by_tokens` ask for, else None."""
    targets = len(tokens.targets)
    flags = (True, *by_tokens.targets, *by_head.constants)  # of the loss's arguments
    places = [place for place, flag in enumerate(flags) if flag]
    shards = _shards.uncounted(plan.axis_name)

    @partial(jax.checkpoint, prevent_cse=False)
    def of_chunk(piece: Tokens) -> tuple[jax.Array, Any, Head, Tokens]:
        hidden = _shown(piece)

        def cost(*arguments: jax.Array) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            constants = _as_given(arguments[1 + targets :], head.constants)
            losses = plan.loss(*arguments[: 1 + targets], *constants)
            report = plan.report(arguments[0], losses, *piece.targets)
            return jnp.sum(_weighted(piece, losses)) / shards, (losses, report)

        arguments = (logits_of(plan.transposed, head, hidden), *piece.targets, *map(_widened, head.constants))
        for place in places:
            _check_varies(arguments[place], _shards.axes_of_tokens((head, piece), plan.axis_name))
        (total, (losses, report)), found = jax.value_and_grad(cost, places, has_aux=True)(*arguments)
        slopes: list[Any] = [None] * len(flags)
        for place, slope in zip(places, found, strict=True):
            slopes[place] = slope
        # The products take the dtype of what they multiply, as those of a dense head do, and add up in float32.
        slope, scale = _in_range(slopes[0], hidden.dtype)
        of_kernel, of_hidden = ("nv,nd->vd", "nv,vd->nd") if plan.transposed else ("nv,nd->dv", "nv,dv->nd")
        of_head = Head(
            _product(of_kernel, slope, hidden) * scale if by_head.kernel else None,
            slopes[0].sum(0) if by_head.bias else None,
            tuple(slopes[1 + targets :]),
        )
        of_tokens = Tokens(
            _product(of_hidden, slope, head.kernel) * scale if by_tokens.hidden else None,
            jnp.where(_counted(piece, losses), losses, 0) / shards if by_tokens.weights else None,
            None,
            tuple(slopes[1 : 1 + targets]),
        )
        return total * shards, report, of_head, of_tokens

    def step(sums: Any, piece: Tokens) -> tuple[Any, Any]:
        total, report, of_head, of_tokens = of_chunk(piece)
        return jax.tree.map(jnp.add, sums, (total, of_head)), (report, of_tokens)

    pieces = _cut(tokens, plan.chunks)
    (total, of_head), each = lax.scan(step, _start(lambda piece: of_chunk(piece)[::2], pieces), pieces)
    report, of_tokens = _join(each, len(tokens.kept))
    return total, report, of_head, of_tokens


def _check_varies(argument: jax.Array, axes: frozenset[str]) -> None:
    """Else its gradient would be summed over shards of tokens, where the sum's derivative asks for the shard's own."""
    missing = tuple(sorted(axes - _shards.varying(argument)))
    if missing:
        raise ValueError(
            f"loss is differentiated in an array, {jax.typeof(argument)}, that must vary over {missing} as the tokens "
            f'do: jax.lax.pcast(array, {missing}, to="varying") before the loss closes over it'
        )


def _widened(array: jax.Array) -> jax.Array:
    """In at least float32, to add up what the chunks find and round once."""
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32)) if floating else array


def _in_range(slope: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, ArrayLike]:
    """Rounded to `dtype`, and what to multiply by: a power of two, where the dtype has not the range of a float32.

    A float16 would lose what weights of 1e-6 make of a slope, and have none for what weights of 1e6 do.
    """
    if jnp.finfo(dtype).maxexp >= jnp.finfo(slope.dtype).maxexp:
        return slope.astype(dtype), 1
    size = lax.stop_gradient(jnp.abs(slope).max())
    normal = (size >= jnp.finfo(size.dtype).tiny) & jnp.isfinite(size)
    exponent = jnp.where(normal, _wide.exponent_of(jnp.where(normal, size, 1)), 0)
    return (slope * _wide.power_of_two(-exponent)).astype(dtype), _wide.power_of_two(exponent)


def _as_given(wide: Any, given: Any) -> Any:
    """In the dtypes that were given, what `_widened` made of it: derivatives by it are then added up in float32."""
    return jax.tree.map(lambda array, like: array.astype(like.dtype), wide, given)


def _start(sums_of: Callable[[Tokens], Any], pieces: Tokens) -> Any:
    """Zeros, for what is found of each piece to be added to."""
    found = jax.eval_shape(lambda: sums_of(jax.tree.map(lambda array: array[0], pieces)))
    return jax.tree.map(_shards.zeros, found)


def _losses(plan: Plan, head: Head, piece: Tokens) -> tuple[jax.Array, Any]:
    logits = logits_of(plan.transposed, head, _shown(piece))
    losses = plan.loss(logits, *piece.targets, *head.constants)
    return losses, plan.report(logits, losses, *piece.targets)


def logits_of(transposed: bool, head: Head, hidden: jax.Array) -> jax.Array:
    """[tokens, V], in at least float32."""
    logits = _product("nd,vd->nv" if transposed else "nd,dv->nv", hidden, head.kernel)
    return logits + head.bias.astype(logits.dtype)[None] if head.bias.size else logits


def _product(indices: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """A sum of products in at least float32, whatever the factors are."""
    dtype = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
    return jnp.einsum(indices, a, b, preferred_element_type=dtype)


def _shown(piece: Tokens) -> jax.Array:
    """The hidden states; zeros for tokens that do not count, since a NaN of theirs times no slope is NaN."""
    return jnp.where(piece.kept[:, None], piece.hidden, 0)


def _harmless(kept: jax.Array, target: jax.Array) -> jax.Array:
    """A target; where its token does not count, 0 for what is not finite: NaN times no slope is NaN."""
    if not jnp.issubdtype(target.dtype, jnp.floating):
        return target
    rows = kept.reshape(-1, *[1] * (target.ndim - 1))
    return jnp.where(rows | jnp.isfinite(target), target, 0)


def _weighted(piece: Tokens, losses: jax.Array) -> jax.Array:
    counted = _counted(piece, losses)
    return jnp.where(counted, piece.weights, 0) * jnp.where(counted, losses, 0)


def _counted(piece: Tokens, losses: jax.Array) -> jax.Array:
    """A weight of 0 on a loss that is no number counts for nothing, in the weight's own gradient too."""
    return piece.kept & ((piece.weights != 0) | jnp.isfinite(losses))


def _cut(tokens: Tokens, chunks: int) -> Tokens:
    """Each array [tokens, ...] as [chunks, tokens of a chunk, ...].

    A chunk takes every so many-th token, not a run of them: where tokens are sharded, it has some of every device. What
    the last tokens of the chunks lack, they repeat from the first, without weight: hidden states of zeros would give
    logits that no token has, where a loss may have no slope.
    """
    tokens = tokens._replace(targets=tuple(_harmless(tokens.kept, target) for target in tokens.targets))
    count = len(tokens.kept)
    missing = -count % chunks

    def one(array: jax.Array) -> jax.Array:
        array = jnp.concatenate([array, array[:missing]]) if missing else array
        return array.reshape(-1, chunks, *array.shape[1:]).swapaxes(0, 1)

    pieces: Tokens = jax.tree.map(one, tokens)
    if missing:
        position = jnp.arange(count + missing).reshape(-1, chunks).swapaxes(0, 1)
        pieces = pieces._replace(weights=jnp.where(position < count, pieces.weights, 0))
    return pieces


def _join(pieces: Any, count: int) -> Any:
    """Back to [tokens, ...]: the inverse of `_cut`."""
    return jax.tree.map(lambda array: array.swapaxes(0, 1).reshape(-1, *array.shape[2:])[:count], pieces)
