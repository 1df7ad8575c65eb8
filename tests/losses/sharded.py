"""Run by test_fused_sharded.py with eight forced CPU devices: prints, for each case, its errors and its gathers."""

import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from xent.losses import linear_softmax_cross_entropy

TOKENS, UNITS, CLASSES, CHUNK = 128, 24, 65536, 32
RANDOM = np.random.default_rng(0)
HIDDEN = RANDOM.normal(size=(TOKENS, UNITS)).astype(np.float32)
KERNEL = RANDOM.normal(size=(UNITS, CLASSES)).astype(np.float32) / 10
LABELS = np.arange(TOKENS) * 5 % CLASSES
OPTIONS = dict(chunk_size=CHUNK, label_smoothing=0.1, class_weights=jnp.linspace(1, 2, CLASSES), ignore_index=5)
KERNELS = {"vocabulary": P(None, "model"), "fsdp": P("data", None), "both": P("data", "model")}


def value_and_gradients(hidden, kernel, labels, reduction):
    def total(hidden, kernel):
        losses = linear_softmax_cross_entropy(hidden, kernel, labels, reduction=reduction, **OPTIONS)
        return (losses * jnp.cos(labels)).sum() if reduction is None else losses

    return jax.value_and_grad(total, (0, 1))(hidden, kernel)


for (name, spec), axis_type, reduction in itertools.product(KERNELS.items(), ("Auto", "Explicit"), ("mean", None)):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType[axis_type],) * 2)
    given = [
        jax.device_put(array, NamedSharding(mesh, of))
        for array, of in ((HIDDEN, P("data", None)), (KERNEL, spec), (LABELS, P("data")))
    ]
    with jax.set_mesh(mesh):
        compiled = jax.jit(value_and_gradients, static_argnums=3).lower(*given, reduction).compile()
        found = compiled(*given)
    expected = jax.jit(value_and_gradients, static_argnums=3)(HIDDEN, KERNEL, LABELS, reduction)
    worst = [
        float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(b).max())
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    ]
    gathers = re.findall(r"= \(?(\w+\[[\d,]*\])[^=]*? (?:all-gather|all-to-all|collective-permute)", compiled.as_text())
    print(json.dumps(dict(case=[name, axis_type, reduction], error=max(worst), gathers=sorted(set(gathers)))))
