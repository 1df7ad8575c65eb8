"""What a fused loss closes over and adds up, and what masked tokens hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from xent.losses import fused_linear, linear_distillation, linear_softmax_cross_entropy
from xent.losses import softmax_cross_entropy_with_integer_labels as cross_entropy


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


HIDDEN, KERNEL, TARGET = normal(0, 16, 5), normal(1, 5, 7), normal(2, 16, 7)


def test_arrays_used_in_another_order_at_another_number_of_tokens_are_not_swapped():
    hidden, kernel = np.tile(HIDDEN, (16, 1)), np.tile(KERNEL, (1, 10000)) / 100  # 128 tokens at a time, or 64

    def total(factors):
        a, b = factors

        def loss(logits):
            product = b * 3 + a if len(logits) < 128 else 1 * a + b * 3
            return product * jnp.square(logits).sum(-1)

        return fused_linear(loss)(hidden, kernel)

    value, _ = jax.jit(lambda factors: jax.jvp(total, (factors,), (factors,)))((2.0, 5.0))
    plain = jax.jit(total)((jnp.float32(2), jnp.float32(5)))
    np.testing.assert_allclose([value, plain], 17 * np.square(hidden @ kernel).sum(-1).mean(), 1e-5)


@pytest.mark.parametrize("reduction", ["mean", None])
def test_nan_in_a_masked_target_poisons_no_gradient(reduction):
    @jax.jit
    def gradient(target, where):
        def total(kernel):
            squared = fused_linear(lambda z, t: jnp.square(z - t).sum(-1))
            return squared(HIDDEN, kernel, target, where=where, chunk_size=4, reduction=reduction).sum()

        return jax.grad(total)(jnp.asarray(KERNEL))

    bad, where = TARGET.copy(), np.arange(16) != 3
    bad[3] = np.nan
    np.testing.assert_array_equal(gradient(bad, where), gradient(TARGET, where))


@pytest.mark.parametrize("reduction", ["mean", "sum", None])
def test_half_precision_is_added_up_over_chunks_in_float32_and_rounded_once(reduction):
    """Terms of one sign, 64 times: added up in bfloat16 they come out more than 1 % off."""
    tokens, classes = 256, 16
    hidden = (1 + normal(0, tokens, 8)).astype(jnp.bfloat16)
    kernel = normal(1, 8, classes).astype(jnp.bfloat16)
    factors = (1 + np.arange(classes) / classes).astype(jnp.bfloat16)

    def gradients(chunk_size, *arguments):
        def total(hidden, kernel, factors, bias):
            loss = fused_linear(lambda z: jax.nn.softplus(factors.astype(jnp.float32)[None] * z).sum(-1))
            return loss(hidden, kernel, bias=bias, chunk_size=chunk_size, reduction=reduction).sum()

        return jax.jit(jax.grad(total, (0, 1, 2, 3)))(*arguments)

    given = hidden, kernel, factors, factors
    found = gradients(4, *given)
    expected = gradients(tokens, *(array.astype(np.float32) for array in given))
    for rounded, exact in zip(*jax.device_get((found, expected)), strict=True):
        assert rounded.dtype == jnp.bfloat16
        np.testing.assert_allclose(rounded.astype(np.float32), exact, atol=2**-8 * np.abs(exact).max())


@pytest.mark.parametrize("weight", [1e-6, 1e6])
def test_float16_has_room_for_slopes_of_any_weight(weight):
    labels, weights = np.arange(16) % 7, np.full(16, weight, np.float32)

    @jax.jit
    def gradients(hidden, kernel):
        def loss(hidden, kernel):
            given = dict(weights=weights, reduction="sum", chunk_size=4)
            return linear_softmax_cross_entropy(hidden, kernel, labels, **given) / weight

        return jax.grad(loss, (0, 1))(hidden, kernel)

    half = HIDDEN.astype(np.float16), KERNEL.astype(np.float16)
    exact = gradients(*(array.astype(np.float32) for array in half))
    for found, expected in zip(*jax.device_get((gradients(*half), exact)), strict=True):
        np.testing.assert_allclose(found.astype(np.float32), expected, atol=1e-3 * np.abs(expected).max())


def test_small_arguments():
    labels = jnp.arange(16) % 7
    a = linear_softmax_cross_entropy(HIDDEN, KERNEL, labels, temperature=2, chunk_size=np.int64(4))
    b = linear_softmax_cross_entropy(HIDDEN, KERNEL, labels, temperature=2.0, chunk_size=4)
    assert a == b
    with pytest.raises(ValueError, match="class_weights must be an array"):
        linear_softmax_cross_entropy(HIDDEN, KERNEL, labels, class_weights="a")
    with pytest.raises(ValueError, match="teacher_hidden must be"):
        linear_distillation(HIDDEN, KERNEL, 1.0, KERNEL)


def test_inside_of_shard_map_a_loss_closes_over_arrays_that_vary_as_the_tokens_do_or_says_what_to_do():
    mesh = jax.make_mesh((1, 1), ("tokens", "classes"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    labels, specs = np.arange(16) % 7, (P("tokens"), P(None, "classes"), P("tokens"), P())

    def gradient(prepare):
        """Of the summed loss in a factor that the loss closes over."""

        def of_shard(hidden, kernel, labels, factor):
            def total(factor):
                factor = prepare(factor)
                scaled = fused_linear(lambda z, y, axis_name: factor * cross_entropy(z, y, axis_name=axis_name))
                return scaled(hidden, kernel, labels, axis_name="classes", reduction="sum")

            return jax.lax.psum(jax.grad(total)(factor), "tokens")

        mapped = jax.shard_map(of_shard, mesh=mesh, in_specs=specs, out_specs=P())
        return jax.jit(mapped)(HIDDEN, KERNEL, labels, np.float32(2))

    with pytest.raises(ValueError, match=r'must vary over .*: jax\.lax\.pcast\(array, \(\'tokens\',\), to="varying"\)'):
        gradient(lambda factor: factor)
    varying = gradient(lambda factor: jax.lax.pcast(factor, ("tokens",), to="varying"))
    plain = jax.jit(lambda hidden, kernel: cross_entropy(hidden @ kernel, labels).sum())(HIDDEN, KERNEL)
    np.testing.assert_allclose(varying, plain, 1e-5)
