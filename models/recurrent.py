"""Recurrent layers that read clips of different lengths in both directions, each from its own first or last frame."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from xent.models.frames import there

Step = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""`step(state, from_input, from_state)`: the next state, `[2, batch, units]`, of what is before the nonlinearities."""


def clipped_relu(x: jax.Array) -> jax.Array:
    """`min(max(x, 0), 20)`: a recurrence of rectified units can grow without end, this one cannot.

    Source: Hannun et al., Deep Speech, 2014, section 2, https://arxiv.org/abs/1412.5567
    """
    return jnp.clip(x, 0, 20)


def both_ways(
    step: Step, forwards: jax.Array, backwards: jax.Array, kernel: jax.Array, lengths: jax.Array
) -> jax.Array:
    """Run two recurrences along time, one from a clip's first frame on and one from its last frame back.

    The state is 0 before a clip's first frame and behind its last, in padding too; the way back meets the padding
    first, and so begins at the clip's last frame. What the inputs give is computed before, of all frames at once, so
    that only the product with the state is left for each step; both directions are one scan.

    Args:
      step: see `Step`.
      forwards, backwards: what the inputs give each direction, `[batch, T, K]`; padding must be finite.
      kernel: `[2, units, K]`: of each direction, by which the state is multiplied.
      lengths: frames of each clip, integer `[batch]`.

    Returns:
      The states of both directions, added: `[batch, T, units]`; 0 in padding.
    """
    kept = there(lengths, forwards.shape[1])
    inputs = jnp.stack([forwards, backwards[:, ::-1]]).transpose(2, 0, 1, 3)  # [T, 2, batch, K]
    kept = jnp.stack([kept, kept[:, ::-1]]).transpose(2, 0, 1)[..., None]

    def frame(state: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        from_input, is_there = now
        from_state = jnp.einsum("dbh,dhk->dbk", state, kernel)
        state = jnp.where(is_there, step(state, from_input, from_state), 0)
        return state, state

    initial = jnp.zeros((*inputs.shape[1:3], kernel.shape[1]), inputs.dtype)
    _, states = lax.scan(frame, initial, (inputs, kept))
    return (states[:, 0] + states[::-1, 1]).transpose(1, 0, 2)


def _orthogonal(units: int, gates: int, rngs: nnx.Rngs) -> jax.Array:
    """Of each direction and gate, a matrix that keeps a state's length."""
    matrix = nnx.initializers.orthogonal()
    keys = jax.random.split(rngs.params(), (2, gates))
    return jnp.stack([jnp.concatenate([matrix(key, (units, units)) for key in way], 1) for way in keys])


class BidirectionalReLU(nnx.Module):
    r"""Two simple recurrences of clipped rectified units, added; they share what they make of the inputs.

    .. math::
      h^f_t = g(W x_t + U^f h^f_{t-1} + b), \quad h^b_t = g(W x_t + U^b h^b_{t+1} + b), \quad h_t = h^f_t + h^b_t

    Called with `x`, `[batch, T, inputs]`, finite everywhere, and the clips' lengths, `[batch]`, it gives
    `[batch, T, units]`.

    Source: Hannun et al., Deep Speech, 2014, equations 2 to 4, https://arxiv.org/abs/1412.5567
    """

    def __init__(self, inputs: int, units: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        he = nnx.initializers.he_normal()
        self.input = nnx.Linear(inputs, units, dtype=dtype, kernel_init=he, rngs=rngs)
        self.kernel = nnx.Param(_orthogonal(units, 1, rngs))

    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return the sum of both directions."""
        inputs = self.input(x)
        return both_ways(_rectified, inputs, inputs, self.kernel[...].astype(inputs.dtype), lengths)


def _rectified(state: jax.Array, from_input: jax.Array, from_state: jax.Array) -> jax.Array:
    del state  # not but by its product
    return clipped_relu(from_input + from_state)


class BidirectionalGRU(nnx.Module):
    r"""Two layers of gated recurrent units, one in each direction, added.

    .. math::
      z, r = \sigma(W_{z,r} x_t + U_{z,r} h_{t-1} + b_{z,r}), \quad
      c = \tanh(W_c x_t + r \circ U_c h_{t-1} + b_c), \quad h_t = (1 - z) \circ h_{t-1} + z \circ c

    Called with `x`, `[batch, T, inputs]`, finite everywhere, and the clips' lengths, `[batch]`, it gives
    `[batch, T, units]`.

    Source: Amodei et al., Deep Speech 2, 2015, section 3.2 and its equation of the GRU, https://arxiv.org/abs/1512.02595;
      Cho et al. 2014, https://arxiv.org/abs/1406.1078
    """

    def __init__(self, inputs: int, units: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.input = nnx.Linear(inputs, 6 * units, dtype=dtype, rngs=rngs)  # three gates, two directions
        self.kernel = nnx.Param(_orthogonal(units, 3, rngs))

    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return the sum of both directions."""
        forwards, backwards = jnp.split(self.input(x), 2, -1)
        return both_ways(_gated, forwards, backwards, self.kernel[...].astype(forwards.dtype), lengths)


def _gated(state: jax.Array, from_input: jax.Array, from_state: jax.Array) -> jax.Array:
    split = partial(jnp.split, indices_or_sections=3, axis=-1)
    (update, reset, candidate), (of_update, of_reset, of_candidate) = split(from_input), split(from_state)
    update, reset = jax.nn.sigmoid(update + of_update), jax.nn.sigmoid(reset + of_reset)
    return (1 - update) * state + update * jnp.tanh(candidate + reset * of_candidate)
