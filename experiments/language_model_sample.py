"""Text from a language model: one token after the other, drawn from what the model expects."""

from functools import partial

import jax
import jax.numpy as jnp

from xent.models.functional import Apply, Params
from xent.models.transformer import head_of


@partial(jax.jit, static_argnames=("apply", "length", "context"))
def sample(
    apply: Apply, params: Params, prompt: jax.Array, key: jax.Array, *, length: int, context: int, temperature: float
) -> jax.Array:
    r"""Continue a prompt by `length` tokens.

    .. math:: x_{t+1} \sim \mathrm{softmax}(z_t / \tau)

    Each token is drawn after a pass over the last `context` tokens, all of it anew: simple, and quick enough for a
    paragraph of a small model.

    Args:
      apply: of `transformer`.
      params: its parameters.
      prompt: integer `[tokens]`, one at least.
      key: PRNG key.
      length: tokens to draw.
      context: the most tokens that the model looks back on.
      temperature: tau, above 0; less than 1 prefers what is likely.

    Returns:
      The prompt and what follows, int32 `[tokens + length]`.

    Example:
      >>> from xent.models.transformer import transformer
      >>> apply, params = transformer(jax.random.key(0), vocabulary=9, units=8, layers=1, heads=1)
      >>> sample(apply, params, jnp.array([3]), jax.random.key(1), length=4, context=3, temperature=1.0).shape
      (5,)
    """
    begun = len(prompt)
    width = min(context, begun + length)
    head = head_of(params)

    def draw(place: jax.Array, tokens: jax.Array) -> jax.Array:
        start = jnp.maximum(place - width, 0)
        window = jax.lax.dynamic_slice_in_dim(tokens, start, width)  # what lies behind `place` cannot be seen before it
        hidden = apply(params, window[None])[0, place - 1 - start]
        kernel = head.kernel.T if head.transposed else head.kernel
        logits = jnp.dot(hidden, kernel, preferred_element_type=jnp.float32)
        return tokens.at[place].set(jax.random.categorical(jax.random.fold_in(key, place), logits / temperature))

    tokens = jnp.pad(prompt.astype(jnp.int32), (0, length))
    return jax.lax.fori_loop(begun, begun + length, draw, tokens)
