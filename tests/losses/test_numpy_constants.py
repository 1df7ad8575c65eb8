"""A program may close over arrays of NumPy's, labels or directions: every derivative is what JAX's own arrays give."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xent.losses import linear_distillation, linear_softmax_cross_entropy, softmax_cross_entropy_with_integer_labels

draw = np.random.default_rng(0)
HIDDEN, KERNEL, TEACHER, ALONG = (draw.normal(size=(n, 5)).astype(np.float32) for n in (6, 5, 5, 5))
LABELS = np.array([0, 4, 1, 2, 3, 0])
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.1}], ids=str)
def test_hessians_of_each_example_by_its_label(options):
    loss = partial(softmax_cross_entropy_with_integer_labels, **options)

    def hessians(logits, labels):
        return jax.vmap(jax.hessian(loss))(logits, labels)

    close(jax.jit(lambda x: hessians(x, LABELS))(HIDDEN), jax.jit(hessians)(HIDDEN, LABELS))


@pytest.mark.parametrize("reduction", ["mean", "sum", None])
@pytest.mark.parametrize("teacher", [False, True])
def test_a_hessian_product_of_a_head_along_a_direction(reduction, teacher):
    def loss(kernel):
        if teacher:
            values = linear_distillation(HIDDEN, kernel, HIDDEN, TEACHER, reduction=reduction)
        else:
            values = linear_softmax_cross_entropy(HIDDEN, kernel, LABELS, reduction=reduction)
        return jnp.sum(values**2)

    def product(kernel, along):
        return jax.jvp(jax.grad(loss), (kernel,), (along,))[1]

    close(jax.jit(lambda k: product(k, ALONG))(KERNEL), jax.jit(product)(KERNEL, ALONG))
