"""A problem small enough to follow by hand: a linear classifier of random points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xent.train.metrics import weighted

CLASSES = 3


def linear_loss(params, batch, key):
    """Softmax cross-entropy of a linear model, written out."""
    logits = batch["x"] @ params["w"] + params["b"][None]
    values = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, batch["label"][:, None], -1)[:, 0]
    where = batch["where"]
    metrics = {"loss": weighted(values, where), "accuracy": weighted(logits.argmax(-1) == batch["label"], where)}
    return metrics["loss"][0] / metrics["loss"][1], metrics


@pytest.fixture
def loss():
    return linear_loss


@pytest.fixture
def params():
    return {"w": jnp.zeros((2, CLASSES)), "b": jnp.zeros(CLASSES)}


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    label = random.integers(0, CLASSES, 50).astype(np.int32)
    return {"x": random.normal(size=(50, 2)).astype(np.float32) + label[:, None], "label": label}
