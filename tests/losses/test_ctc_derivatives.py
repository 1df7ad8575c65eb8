"""Derivatives of ctc_loss of order 2 and 3, and where a class has no probability."""

import itertools
import math
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np

from xent import losses


@jax.jit
def loss(x, y):
    """Without padding."""
    return losses.ctc_loss(x, np.zeros(x.shape[:-1]), y, np.zeros(y.shape))


value_and_gradient = jax.jit(jax.value_and_grad(loss))
inf, nan = np.inf, np.nan


def sines(*shape):
    return 3 * np.sin(np.arange(math.prod(shape)) * 1.7).reshape(shape)


def test_a_zero_cotangent_gives_zero_to_the_second_order():
    x, y = sines(2, 3, 3).astype(np.float32), np.array([[1], [2]])
    x[0, 1, 1] = nan
    hessian = np.asarray(jax.jit(jax.hessian(lambda x: loss(x, y)[1]))(x))
    assert (hessian[0] == 0).all()
    assert np.isfinite(hessian).all()
    assert (hessian[1, :, :, 1] != 0).all()


def test_derivatives_of_order_2_and_3_are_those_of_all_alignments():
    x, y = sines(3, 3).astype(np.float32), np.array([1])
    paths = [p for p in itertools.product(range(3), repeat=3) if [k for k, _ in itertools.groupby(p) if k] == [1]]

    def plain(x):
        p = jax.nn.log_softmax(x)
        return -jax.nn.logsumexp(jnp.stack([sum(p[t, k] for t, k in enumerate(path)) for path in paths]))

    def ours(x):
        return loss(x, y)

    modes = [(jax.jacfwd, jax.jacrev), (jax.jacrev, jax.jacfwd), (jax.jacrev, jax.jacfwd, jax.jacrev)]

    @jax.jit
    def derivatives(x):
        of_plain = {2: jax.hessian(plain)(x), 3: jax.jacfwd(jax.hessian(plain))(x)}
        of_ours = [reduce(lambda g, jacobian: jacobian(g), each, ours)(x) for each in modes]
        return of_ours, [of_plain[len(each)] for each in modes]

    got, true = derivatives(x)
    for order, (each, expected) in enumerate(zip(got, true, strict=True)):
        np.testing.assert_allclose(each, expected, atol=3e-6, err_msg=str(modes[order]))


def test_a_class_of_no_probability_has_finite_derivatives():
    x, y = sines(4, 4).astype(np.float32), np.array([2, 1])
    x[:, 3] = x[1, 2] = -inf
    value, gradient = value_and_gradient(x, y)
    lowest_value, lowest_gradient = value_and_gradient(np.maximum(x, np.float32(-1e4)), y)
    np.testing.assert_allclose(value, lowest_value, rtol=3e-7)
    np.testing.assert_allclose(gradient, lowest_gradient, atol=1e-6)
    assert np.isfinite(jax.jit(jax.hessian(loss))(x, y)).all()
