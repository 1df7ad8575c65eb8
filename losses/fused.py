"""Any loss of logits over any linear head, without ever holding the logits of more than some tokens."""

import math
from collections.abc import Callable
from functools import cache, partial
from operator import index
from typing import Any, Literal, NamedTuple, Protocol, SupportsIndex

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from xent.losses import _automatic, _checks, _chunks, _cross_entropy, _shards, _top
from xent.losses._shards import AxisName

Reduction = Literal["mean", "sum"] | None


class Auxiliary(NamedTuple):
    """What is known of each token while its logits are there, of the shape of the tokens; no gradient flows from it.

    Tokens that do not count, by `where` or `ignore_index`, are seen with hidden states of 0, whatever theirs hold, and
    their loss may be NaN: select those that count before anything is made of these.
    """

    loss: jax.Array
    """The loss, not weighted."""
    log_normaliser: jax.Array
    """`log sum_j exp(z_j)`, in nats."""
    arg_max: jax.Array
    """int32: the class of the largest logit, the first of several."""
    correct: jax.Array
    """bool: whether that is the first target, if that is an integer, or its largest entry, if it has one a class."""
    entropy: jax.Array
    """That of the softmax, in nats."""


class Fused(Protocol):
    """A loss of hidden states and a linear head."""

    def __call__(
        self,
        hidden: ArrayLike,
        kernel: ArrayLike,
        *targets: ArrayLike,
        bias: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        where: ArrayLike | None = None,
        reduction: Reduction = "mean",
        chunk_size: int | None = None,
        transpose_kernel: bool = False,
        auxiliary: bool = False,
        axis_name: AxisName | None = None,
    ) -> Any:
        """See `fused_linear`."""


def fused_linear(loss: Callable[..., jax.Array]) -> Fused:
    r"""Turn a loss of logits into one of hidden states and a linear head that never holds all logits.

    .. math:: \frac{\sum_n w_n \, \ell(h_n K + b, t_n)}{\sum_n w_n}

    Tokens go through the head some at a time, and the gradients are formed together with the value, while the logits of
    a chunk are there: three products of the size of the head, as without chunks, and two where the head or the hidden
    states are frozen. Forward and reverse mode, Hessian products, `vmap`, `scan` and `jax.checkpoint` compose with it.

    Args:
      loss: `loss(logits, *targets) -> [tokens]`, of logits [tokens, V] in at least float32 and targets [tokens, ...]:
        one of `xent.losses`, with its options bound by `functools.partial`, or one's own. It may close over arrays,
        and is differentiated in them; those on a mesh with explicit axes must be bound by `functools.partial`.

    Returns:
      `fused(hidden, kernel, *targets, ...)`, with these arguments:

      - hidden: `h`, float [..., D]. The axes before the last are of tokens; all of them together are `[tokens]`.
      - kernel: `K`, float [D, V].
      - targets: what the loss takes after the logits, each [..., and whatever the loss asks for].
      - bias: `b`, float [V], added to the logits.
      - weights: `w`, float or integer [...]; 1 if not given. The result is differentiable in them. Weight 0 counts for
        nothing, even on NaN.
      - where: the tokens that count, bool [...]; whatever the others hold, gradients there are exactly 0.
      - reduction: "mean", "sum", or None for each token's `w l`, [...], which honours any cotangent and takes a fourth
        product in its gradient.
      - chunk_size: tokens at a time. If None, for a gradient, as many as have 32 MiB of logits, and at least 128 and a
        quarter of the number of hidden units: the logits of so many are a quarter of the kernel's gradient, which has
        to be there anyway, and a chunk's products take much longer than adding its share to that gradient. For a value
        alone, where nothing is added up and nothing else has to be there, 16 MiB, at least 64 and a sixteenth; but with
        `reduction=None` the value's chunks are those of the gradient. Where `jit` shares the tokens among devices,
        these are tokens of all devices together: give as many times more.
      - transpose_kernel: whether the kernel is [V, D], as an embedding is.
      - auxiliary: whether to return `(loss, Auxiliary)`.
      - axis_name: the mapped axis of `shard_map`, or several, that the classes are split over: given to the loss, which
        must take it. Kernel and bias are then a shard's part, and the gradient of hidden states is whole. Tokens may be
        split over other axes; the mean is then a shard's, and the sum its part of all shards' sum.

      The result is in nats if the loss is, float32; float64 if, under `jax_enable_x64`, hidden states or kernel are.
      Over nothing (no token, none that counts, or all weights 0) the mean and the sum are 0 with zero gradients. Hidden
      states and kernel may have different dtypes: each gradient has the dtype of what it is of. For bfloat16 and
      float16 the logits, and all sums, are float32, and the logits' gradient is rounded once, to the dtype of the
      hidden states, before its products, as that of a dense head is; for float16, in units of its largest number.
      Any chunk size gives the same to the rounding of the sums.
      Call it under `jax.jit`: each eager call compiles its loops anew.

    Raises:
      ValueError: for an argument of the wrong dtype, shape or range, and a loss that gives no value a token.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from xent.losses import fused_linear, softmax_focal_loss
      >>> hidden, kernel = jnp.eye(3, 2), jnp.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
      >>> labels = jnp.array([2, 1, 0])
      >>> loss, gradient = jax.value_and_grad(fused_linear(softmax_focal_loss))(hidden, kernel, labels, chunk_size=2)
      >>> print(f"{loss:.4f}")
      0.2110

    Source:
      Hsu et al., Liger Kernel, 2024, section 3.2, https://arxiv.org/abs/2410.10989, for cross-entropy; here for any
      loss, by one derivative rule.
    """

    def fused(
        hidden: ArrayLike,
        kernel: ArrayLike,
        *targets: ArrayLike,
        bias: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        where: ArrayLike | None = None,
        reduction: Reduction = "mean",
        chunk_size: int | None = None,
        transpose_kernel: bool = False,
        auxiliary: bool = False,
        axis_name: AxisName | None = None,
    ) -> Any:
        def run(loss: Callable[..., jax.Array], hidden: jax.Array, arrays: dict[str, Any]) -> Any:
            head, tokens, shape = _arguments(hidden, **arrays, transposed=transpose_kernel)
            classes = head.kernel.shape[0 if transpose_kernel else 1]
            named = loss if axis_name is None else partial(loss, axis_name=axis_name)
            report = partial(_report, axis_name) if auxiliary else _nothing

            @cache
            def plan_of(chunks: int) -> tuple[_chunks.Plan, tuple[jax.Array, ...]]:
                examples = _examples(head, tokens, -(-len(tokens.kept) // chunks), transpose_kernel)
                converted, constants = _converted(named, tokens.weights.dtype, examples)
                return _chunks.Plan(converted, report, chunks, transpose_kernel, axis_name), tuple(constants)

            def in_order(chunks: int, order: dict[int, int]) -> _chunks.Plan:
                # By identity: a loss may use what it closes over in another order at another number of tokens.
                plan, constants = plan_of(chunks)
                picks, count = [order[id(constant)] for constant in constants], len(order)

                def picked(*arguments: jax.Array) -> jax.Array:
                    given = arguments[len(arguments) - count :] if count else ()
                    return plan.loss(*arguments[: len(arguments) - count], *(given[place] for place in picks))

                return plan._replace(loss=picked)

            of_gradient, of_value = _chunk_counts(chunk_size, tokens.hidden, classes)
            constants = plan_of(of_gradient)[1]
            if reduction is not None:
                constants += plan_of(of_value)[1]
            distinct = {id(constant): constant for constant in constants}
            order = {name: place for place, name in enumerate(distinct)}
            head = head._replace(constants=tuple(distinct.values()))
            plan = in_order(of_gradient, order)
            if reduction is None:
                result, found = _chunks.losses_of(plan, head, tokens)
                result = result.reshape(shape)
            else:
                result, found = _chunks.total_of(in_order(of_value, order), plan, head, tokens)
                result = _mean(result, tokens) if _reduction(reduction) == "mean" else result
            return result, jax.tree.map(lambda array: lax.stop_gradient(array).reshape(shape), found)

        def specs_of(tokens: PartitionSpec) -> tuple[Any, Any]:
            report = Auxiliary._make([tokens] * len(Auxiliary._fields)) if auxiliary else ()
            return (tokens if reduction is None else PartitionSpec()), report

        hidden = _checks.array_of("hidden", hidden, jnp.floating)
        arrays = dict(kernel=kernel, targets=targets, bias=bias, weights=weights, where=where)
        result, report = _automatic.call(run, loss, hidden, arrays, specs_of)
        return (result, report) if auxiliary else result

    return fused


def _arguments(
    h: jax.Array,
    kernel: ArrayLike,
    targets: tuple[ArrayLike, ...],
    bias: ArrayLike | None,
    weights: ArrayLike | None,
    where: ArrayLike | None,
    transposed: bool,
) -> tuple[_chunks.Head, _chunks.Tokens, tuple[int, ...]]:
    """All arrays, checked, with the axes of the tokens made one; and what those were."""
    k = _checks.array_of("kernel", kernel, jnp.floating)
    if h.ndim < 1 or k.ndim != 2 or k.shape[1 if transposed else 0] != h.shape[-1] or not k.size:
        form = "[V, D], since transpose_kernel is True," if transposed else "[D, V]"
        raise ValueError(f"kernel must be {form} for hidden [..., D], got {k.shape} for {h.shape}")
    batch, units = h.shape[:-1], h.shape[-1]
    count = math.prod(batch)
    dtype = jnp.result_type(h, k, jnp.float32)
    offset = jnp.zeros(0, dtype)
    if bias is not None:
        offset = _checks.array_of("bias", bias, jnp.floating)
        _checks.same_shape("bias", offset, k.shape[:1] if transposed else k.shape[1:], "one number for each class")
    kept = jnp.ones(batch, bool)
    if where is not None:
        kept = _checks.array_of("where", where, jnp.bool_)
        _checks.same_shape("where", kept, batch, "one entry for each token")
    factors = jnp.ones(batch, dtype)
    if weights is not None:
        factors = _checks.array_of("weights", weights, jnp.floating, jnp.integer).astype(dtype)
        _checks.same_shape("weights", factors, batch, "one weight for each token")
        # A weight of 0 on a finite token is differentiated in, but on NaN it counts for nothing.
        kept &= (factors != 0) | jnp.isfinite(h).all(-1)
    flat = []
    for place, target in enumerate(targets):
        array = _checks.array_of(f"targets[{place}]", target, jnp.floating, jnp.integer, jnp.bool_)
        if array.shape[: len(batch)] != batch:
            raise ValueError(f"targets[{place}] must have the axes of the tokens, {batch}, first, got {array.shape}")
        flat.append(array.reshape(count, *array.shape[len(batch) :]))
    tokens = _chunks.Tokens(h.reshape(count, units), factors.reshape(count), kept.reshape(count), tuple(flat))
    return _chunks.Head(k, offset, ()), tokens, batch


def _chunk_counts(size: int | None, hidden: jax.Array, classes: int) -> tuple[int, int]:
    """How many chunks the tokens [tokens, D] are cut into, for a gradient and for a value alone."""
    if not isinstance(size, (bool, jax.Array)) and isinstance(size, SupportsIndex):
        size = index(size)  # numpy's integers too
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"chunk_size must be None or a Python int of at least 1, got {_checks.shown(size)}")
    (count, units), logits = hidden.shape, classes * max(4, hidden.dtype.itemsize)
    defaults = max(128, units // 4, 2**25 // logits), max(64, units // 16, 2**24 // logits)
    of_gradient, of_value = (max(1, -(-count // (size or default))) for default in defaults)
    return of_gradient, of_value


def _reduction(given: object) -> str:
    if given not in ("mean", "sum"):
        raise ValueError(f'reduction must be "mean", "sum" or None, got {_checks.shown(given)}')
    return str(given)


def _examples(head: _chunks.Head, tokens: _chunks.Tokens, count: int, transposed: bool) -> Any:
    """The types of what the loss is called with: logits and targets of so many tokens."""

    def arguments() -> list[jax.Array]:
        logits = _chunks.logits_of(transposed, head, tokens.hidden[:count])
        return [logits, *(target[:count] for target in tokens.targets)]

    return jax.eval_shape(arguments)


def _converted(
    loss: Callable[..., jax.Array], dtype: jnp.dtype, examples: Any
) -> tuple[Callable[..., jax.Array], list[jax.Array]]:
    """The loss, and the arrays that it closes over and is differentiated in, which follow its targets then."""

    def checked(logits: jax.Array, *targets: jax.Array) -> jax.Array:
        losses = loss(logits, *targets)
        if not isinstance(losses, jax.Array) or losses.shape != logits.shape[:1]:
            raise ValueError(
                f"loss must give a value for each of {logits.shape[0]} tokens, got {_checks.shown(losses)}"
            )
        return losses.astype(jnp.promote_types(losses.dtype, dtype))

    converted, constants = jax.closure_convert(checked, *examples)
    return converted, constants


def _nothing(*_: jax.Array) -> tuple[()]:
    return ()


def _report(axis_name: AxisName | None, logits: jax.Array, losses: jax.Array, *targets: jax.Array) -> Auxiliary:
    """What `Auxiliary` says of each token."""
    logits, losses = lax.stop_gradient((logits, losses))
    arg_max = _arg_max(logits, axis_name)
    label = jnp.full_like(arg_max, -1)
    if targets and targets[0].shape == logits.shape:
        label = _arg_max(targets[0], axis_name)
    elif targets and targets[0].ndim == 1 and jnp.issubdtype(targets[0].dtype, jnp.integer):
        label = targets[0]
    log_normaliser = _cross_entropy.log_normaliser(logits, axis_name)
    p = _top.softmax(logits, axis_name)
    entropy = _cross_entropy.of_target(logits, p, jnp.ones(len(logits), bool), axis_name)
    return Auxiliary(losses, log_normaliser, arg_max, arg_max == label, entropy)


def _arg_max(x: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """The first index of the largest of each row [tokens, V], int32."""
    place = x.argmax(-1).astype(jnp.int32) + _shards.first(x.shape[-1], axis_name)
    if axis_name is None:
        return place
    top = x.max(-1)
    others = jnp.where(top < lax.pmax(top, axis_name), jnp.iinfo(jnp.int32).max, place)
    return lax.pmin(others, axis_name)


def _mean(total: jax.Array, tokens: _chunks.Tokens) -> jax.Array:
    """The total over the sum of the weights; 0 over nothing."""
    counted = jnp.where(tokens.kept, tokens.weights, 0)
    empty = ~(counted != 0).any()
    return jnp.where(empty, 0, total / jnp.where(empty, 1, counted.sum()))
