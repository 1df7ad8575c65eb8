"""Derivatives against finite differences, in one program. Knows nothing of xent."""

import jax
import jax.numpy as jnp
import numpy as np

ALLOWED = {4: 2e-3, 8: 1e-5}  # as jax.test_util.check_grads: by the bytes of a float, for each element


def check(f, arguments, step, orders=2):
    """What `jax.test_util.check_grads(f, arguments, orders, modes=["fwd", "rev"], eps=step)` holds `f` to.

    The jvp and the vjp of `f` along random directions are those of finite differences; at the second order so are the
    jvp and the vjp of both. That compiles a dozen programs; this, which shares what they have in common, one. `f` may
    return any tree, such as a dict of several losses: what differs is named by its path.
    """
    names = []

    def program(*arguments):
        compared = list(_compared(f, arguments, step, orders, ""))
        names.extend(name for name, *_ in compared)
        return [pair for _, *pair in compared]

    pairs = jax.jit(program)(*jax.tree.map(jnp.asarray, arguments))
    for name, (found, expected) in zip(names, pairs, strict=True):
        assert found.dtype == expected.dtype, name
        tolerance = ALLOWED[found.dtype.itemsize] * found.size
        np.testing.assert_allclose(found, expected, tolerance, tolerance, err_msg=name)


def _compared(f, arguments, step, orders, of):
    """(name, found, expected) of every value and derivative."""
    random = np.random.RandomState(0)

    def direction(tree):
        return jax.tree.map(lambda x: jnp.asarray(random.randn(*x.shape), x.dtype), tree)

    def moved(by):
        return f(*jax.tree.map(lambda x, d: x + by.astype(x.dtype) * d, arguments, along))

    along = direction(arguments)
    value, tangent = jax.jvp(f, arguments, along)
    by_vjp, pull_back = jax.vjp(f, *arguments)
    both = jax.lax.map(moved, jnp.array([step, -step]))  # in a loop, `f` is compiled once
    slope = jax.tree.map(lambda ends: (ends[0] - ends[1]) / (2 * step), both)
    for what, found, expected in (("value", value, by_vjp), ("jvp", tangent, slope)):
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
            yield what + of + jax.tree_util.keystr(path), a, b
    cotangent = direction(value)
    yield "vjp" + of, _dot(pull_back(cotangent), along), _dot(cotangent, slope)
    if orders > 1:
        yield from _compared(lambda a, t: jax.jvp(f, a, t), (arguments, arguments), step, orders - 1, " of jvp" + of)
        back = (arguments, value)
        yield from _compared(lambda a, c: jax.vjp(f, *a)[1](c), back, step, orders - 1, " of vjp" + of)


def _dot(a, b):
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
