"""Run by test_fused_sharded.py with eight forced CPU devices: inside `shard_map`, classes and tokens are split.

Prints, for each case, the largest difference from one device and the shapes that are gathered.
"""

import itertools
import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

from xent.losses import linear_softmax_cross_entropy, mean, softmax_cross_entropy

TOKENS, UNITS, CLASSES = 24, 6, 40  # the last four classes are padding
RANDOM = np.random.default_rng(0)
HIDDEN = RANDOM.normal(size=(TOKENS, UNITS)).astype(np.float32)
KERNEL = RANDOM.normal(size=(UNITS, CLASSES)).astype(np.float32)
LABELS = np.arange(TOKENS) * 5 % (CLASSES - 4)
BIAS = np.where(np.arange(CLASSES) < CLASSES - 4, np.float32(0.5), -np.float32(np.inf))
BY_CLASS = np.linspace(1, 2, CLASSES, dtype=np.float32)
SOFT = RANDOM.dirichlet(np.ones(CLASSES), TOKENS).astype(np.float32)
MESHES = {"tokens x classes": ((4, 2), ("data", "model")), "classes": ((2, 4), ("a", "b"))}


def plain(hidden, kernel, bias, by_class, labels, soft, axis_name=None):
    """Each token's loss."""
    given = dict(chunk_size=4, reduction=None, z_loss=0.1, logit_soft_cap=8.0, class_weights=by_class, bias=bias)
    return linear_softmax_cross_entropy(hidden, kernel, labels, axis_name=axis_name, **given)


def reduced(hidden, kernel, bias, by_class, labels, soft, axis_name=None):
    """The sum, by the rule of three products, of tokens that are not ignored; smoothed over all classes."""
    given = dict(chunk_size=4, reduction="sum", label_smoothing=0.1, class_weights=by_class, ignore_index=5)
    return linear_softmax_cross_entropy(hidden, kernel, labels, axis_name=axis_name, **given)


def soft(hidden, kernel, bias, by_class, labels, soft, axis_name=None):
    """Soft labels on logits that are there."""
    given = dict(label_smoothing=0.1, class_weights=by_class, z_loss=0.1, axis_name=axis_name)
    return softmax_cross_entropy(hidden @ kernel, soft, **given)


def report(hidden, kernel, bias, by_class, labels, soft, axis_name=None):
    """What is known of each token; ties, and a label that no shard has."""
    given = dict(bias=bias, chunk_size=4, auxiliary=True, axis_name=axis_name)
    _, found = linear_softmax_cross_entropy(
        hidden * (labels != 10)[:, None], kernel, labels + (labels == 15) * 99, **given
    )
    return jnp.stack([jnp.nan_to_num(field.astype(jnp.float32), nan=-1) for field in found], -1)


def total(f, over, arguments, axis_name=None):
    """The mean over all tokens of all shards, or what is made of their sum."""
    losses = f(*arguments, axis_name=axis_name)
    if losses.ndim:
        return mean(losses, axis_name=over)
    count = (arguments[4] != 5).sum()
    return losses / count if over is None else lax.psum(losses, over) / lax.psum(count, over)


def total_of_shard(f, over, classes, *arguments):
    return total(f, over, arguments, classes)


def everything(value):
    """The value, both gradients, and a Hessian product."""

    def of(*arguments):
        def f(*first):
            return value(*first, *arguments[4:])

        first = arguments[:4]
        along = jax.tree.map(jnp.cos, first)
        along = (*along[:2], jnp.zeros_like(along[2]), along[3])
        gradient = jax.grad(f, (0, 1, 3))
        return jax.value_and_grad(f, (0, 1, 3))(*first), jax.jvp(gradient, first, along)

    return of


CHECKED = ("Auto", True)
RUNS = {plain: [CHECKED], reduced: [CHECKED, ("Explicit", True), ("Auto", False)], soft: [CHECKED], report: [CHECKED]}
ARGUMENTS = HIDDEN, KERNEL, BIAS, BY_CLASS, LABELS, SOFT
EXPECTED = {
    f: jax.jit(report if f is report else everything(lambda *a, f=f: total(f, None, a)))(*ARGUMENTS) for f in RUNS
}
for f, (name, (shape, axes)) in itertools.product(RUNS, MESHES.items()):
    classes = axes if name == "classes" else "model"
    over = None if name == "classes" else "data"
    specs = P(over), P(None, classes), P(classes), P(classes), P(over), P(over, classes)
    for axis_type, check in RUNS[f] if over else [CHECKED]:
        mesh = jax.make_mesh(shape, axes, axis_types=(jax.sharding.AxisType[axis_type],) * 2)
        given = [jax.device_put(a, jax.NamedSharding(mesh, spec)) for a, spec in zip(ARGUMENTS, specs, strict=True)]
        of_shard = partial(f, axis_name=classes) if f is report else partial(total_of_shard, f, over, classes)
        of_mesh = jax.shard_map(
            of_shard, mesh=mesh, in_specs=specs, out_specs=P(over) if f is report else P(), check_vma=check
        )
        with jax.set_mesh(mesh):
            compiled = jax.jit(of_mesh if f is report else everything(of_mesh)).lower(*given).compile()
            found = compiled(*given)
        errors = [
            float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(b).max())
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(EXPECTED[f]), strict=True)
        ]
        gathers = re.findall(r"(?:all-gather|all-to-all|collective-permute)\(.*", compiled.as_text())
        print(json.dumps(dict(case=[f.__name__, name, axis_type, check], error=max(errors), gathers=gathers)))
