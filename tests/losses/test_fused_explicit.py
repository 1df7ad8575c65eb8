"""Fused losses where a mesh's axes are explicit: what is bound to a loss takes part, too."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from xent.losses import (
    distillation_kl_divergence,
    fused_linear,
    linear_distillation,
    linear_softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)

TOKENS, UNITS, CLASSES = 16, 6, 8
HIDDEN, KERNEL = (
    jax.random.normal(jax.random.key(0), (TOKENS, UNITS)),
    jax.random.normal(jax.random.key(1), (UNITS, CLASSES)),
)
LABELS = jnp.arange(TOKENS) % CLASSES
BY_CLASS = jnp.linspace(1, 2, CLASSES)
SPECS = {"hidden": P("data", None), "kernel": P(None, "model"), "labels": P("data"), "by_class": P("model"), "T": P()}
ARGUMENTS = {"hidden": HIDDEN, "kernel": KERNEL, "labels": LABELS, "by_class": BY_CLASS, "T": jnp.float32(2)}


def scaled(logits, labels, by_class):
    return (by_class[None] * logits).sum(-1) + softmax_cross_entropy_with_integer_labels(logits, labels)


def modified(hidden, kernel, labels, by_class, T):
    given = dict(class_weights=by_class, temperature=T, bias=by_class, ignore_index=3)
    return linear_softmax_cross_entropy(hidden, kernel, labels, chunk_size=4, **given)


def users(hidden, kernel, labels, by_class, T):
    return fused_linear(partial(scaled, by_class=T * by_class))(hidden, kernel, labels, chunk_size=4)


def distilled(hidden, kernel, labels, by_class, T):
    def divergence(student, teacher, T):
        return distillation_kl_divergence(student / T, teacher / T)

    given = dict(teacher_bias=by_class, divergence=partial(divergence, T=T), reduction=None, chunk_size=4)
    return linear_distillation(hidden, kernel, jnp.flip(hidden, 1), 2 * kernel, **given).sum()


def gradients(f, given):
    """By all floats."""
    floats, others = given | {}, {"labels": given["labels"]}
    del floats["labels"]
    return jax.jit(jax.value_and_grad(lambda floats: f(**floats, **others)))(floats)


def on_mesh(axes=(AxisType.Explicit,) * 2, shape=(1, 1)):
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=axes)
    return mesh, {name: jax.device_put(ARGUMENTS[name], NamedSharding(mesh, spec)) for name, spec in SPECS.items()}


@pytest.mark.parametrize("f", [modified, users, distilled])
def test_bound_arrays_have_their_gradients_and_keep_their_shardings(f):
    mesh, given = on_mesh()
    with jax.set_mesh(mesh):
        value, found = gradients(f, given)
    expected = gradients(f, ARGUMENTS)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), (value, found), expected)
    assert all(jax.typeof(found[name]).sharding.spec == jax.typeof(given[name]).sharding.spec for name in found)


def test_a_sharded_kernel_is_seen_beside_hidden_states_that_are_not_and_sharded_units_are_no_matter():
    mesh, given = on_mesh()
    given["hidden"] = HIDDEN
    with jax.set_mesh(mesh):
        value, _ = gradients(users, given)
        by_units = jax.device_put(HIDDEN, NamedSharding(mesh, P("data", "model")))
        distance = jax.jit(linear_distillation)(by_units, given["kernel"], by_units, given["kernel"])
    np.testing.assert_allclose(value, users(**ARGUMENTS), 1e-5)
    np.testing.assert_allclose(distance, 0, atol=1e-6)


def test_a_closed_over_array_is_refused_in_a_line_that_says_what_to_do():
    mesh, given = on_mesh()
    with jax.set_mesh(mesh), pytest.raises(ValueError, match=r"bind it there, functools\.partial\(loss,") as error:
        fused_linear(lambda z, y: scaled(z, y, given["by_class"]))(given["hidden"], given["kernel"], given["labels"])
    assert "\n" not in str(error.value)
