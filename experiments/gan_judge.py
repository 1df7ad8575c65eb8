"""What generated images are worth: a LeNet that was trained on real ones names their classes and measures a distance.

The distance is Fréchet's between two clouds of its penultimate features, each taken for a normal distribution, as with
Inception's features for photographs: 0 for the same cloud. What it is of real images that the judge has not seen, and
of noise, says what a number means.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from xent import losses
from xent.experiments.pixels import from_bytes
from xent.models.functional import Apply, outline
from xent.models.lenet import lenet, lenet_features
from xent.train.data import Dataset
from xent.train.loop import make_call
from xent.train.metrics import Metrics, weighted
from xent.train.progress import say
from xent.train.source import array_source, padded
from xent.train.step import Batch, init_state, make_train_step

STEPS, BATCH_SIZE, LEARNING_RATE, SEED = 600, 64, 1e-3, 0
"""Of the judge: the same for every run, whatever that trains with."""


SIDE = 16
"""Pixels a side that LeNet needs: of smaller images each pixel is repeated."""
CHUNK = 1000
"""Images that the judge looks at together."""

Tell = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""`tell(images) -> (features [examples, 84], probabilities [examples, classes])` of images `[examples, h, w, c]`."""


class Judge(NamedTuple):
    """A network that knows the training images, and what is to be compared with."""

    tell: Tell
    features: np.ndarray
    """Of the training images."""
    shares: np.ndarray
    """`[classes]`: of the training images, by their labels."""
    held_out: int
    """Images that a distance is taken of, as many as are held out: fewer would be farther, more nearer."""


def enlarged(images: jax.Array) -> jax.Array:
    """Small images with each pixel repeated, up and across, until they have SIDE pixels a side or more."""
    for axis in (1, 2):
        images = jnp.repeat(images, -(-SIDE // images.shape[axis]), axis)
    return images


def train_judge(images: Dataset, console: Console) -> Judge:
    """Train a LeNet on the training images, in seconds."""
    began = time.perf_counter()
    first, order, noise = jax.random.split(jax.random.key(SEED), 3)
    height, width, channels = jax.eval_shape(enlarged, from_bytes(images.train.image[:1])).shape[1:]
    inputs, classes = (height, width, channels), len(images.classes)
    apply, params = lenet(first, inputs=inputs, outputs=classes)

    def loss(params: Any, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, Metrics]:
        logits = apply(params, enlarged(from_bytes(batch["image"])), key=key)
        values = losses.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses.mean(values, where=batch["where"]), {"loss": weighted(values, batch["where"])}

    source, optimizer = array_source(images.train._asdict(), BATCH_SIZE, order), optax.adam(LEARNING_RATE)
    call = make_call(make_train_step(loss, optimizer), source, patience=1, single=True)  # it has convolutions
    state, epochs = init_state(params, optimizer, noise), -(-STEPS // source.steps_per_epoch)
    for step in range(epochs * source.steps_per_epoch):
        state, _, _ = call(state, source.feed(step), np.int32(1))
    tell = _make_tell(apply, outline(partial(lenet_features, inputs=inputs)).apply, state.params)
    right = (tell(from_bytes(images.test.image))[1].argmax(-1) == images.test.label).mean()
    seconds = time.perf_counter() - began
    say(console, "judge", f"LeNet, {right:.1%} of held-out images right, trained in {seconds:.1f} s")
    shares = np.bincount(images.train.label, minlength=classes) / len(images.train.label)
    return Judge(tell, tell(from_bytes(images.train.image))[0], shares, len(images.test.label))


def _make_tell(logits: Apply, features: Apply, params: Any) -> Tell:
    @jax.jit
    def one(params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        large = enlarged(images)
        return features(params["features"], large), jax.nn.softmax(logits(params, large))

    def tell(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for rows in np.asarray(padded(jnp.arange(len(images), dtype=jnp.int32), CHUNK)):
            told = jax.device_get(one(params, images[np.maximum(rows, 0)]))
            parts.append([values[rows >= 0] for values in told])
        found, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
        return found, probabilities

    return tell


def shares_of(probabilities: np.ndarray) -> np.ndarray:
    """The share `[classes]` of images that are taken for each class, of the probabilities `[examples, classes]`."""
    return np.bincount(probabilities.argmax(-1), minlength=probabilities.shape[-1]) / len(probabilities)


def score(judge: Judge, features: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Score images by what the judge tells of them, as many as are held out or more.

    Args:
      judge: who told.
      features: float `[examples, features]`.
      probabilities: float `[examples, classes]`.

    Returns:
      `Frechet distance`: of the first of them, as many as are held out, from the training images. `confidence`: the
      mean probability of the class that an image is taken for. `rarest class` and `commonest class`: of all classes'
      shares, each divided by its share of the training images, the smallest and the largest; 1 would be balance.
    """
    ratios = shares_of(probabilities) / judge.shares
    return {
        "Frechet distance": frechet_distance(features[: judge.held_out], judge.features),
        "confidence": float(probabilities.max(-1).mean(dtype=np.float64)),
        "rarest class": float(ratios.min()),
        "commonest class": float(ratios.max()),
    }


def frechet_distance(left: np.ndarray, right: np.ndarray) -> float:
    r"""Fréchet's distance of the normal distributions that have the means and covariances of two sets of features.

    .. math:: |m_1 - m_2|^2 + \\mathrm{tr}(C_1 + C_2 - 2 (C_1^{1/2} C_2 C_1^{1/2})^{1/2})

    Args:
      left: float `[examples, features]`, two examples or more; computed in float64.
      right: the same, of as many features.

    Returns:
      The distance, 0 or more. Few examples make it larger, so compare those of as many.

    Raises:
      ValueError: for arrays of other shapes.

    Example:
      >>> frechet_distance(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]]))
      9.0

    Source: Heusel et al. 2017, https://arxiv.org/abs/1706.08500, equation 6, after Dowson and Landau 1982.
    """
    for name, features in (("left", left), ("right", right)):
        if features.ndim != 2 or len(features) < 2 or features.shape[1:] != left.shape[1:]:
            raise ValueError(
                f"{name} has shape {[*features.shape]}: must be two examples or more of as many features as the other"
            )
    (first, one), (second, other) = (_moments(features.astype(np.float64)) for features in (left, right))
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    between = np.linalg.eigvalsh(root @ other @ root)  # symmetric, so that no root is complex
    distance = ((first - second) ** 2).sum() + np.trace(one) + np.trace(other)
    return float(max(distance - 2 * np.sqrt(np.maximum(between, 0)).sum(), 0.0))


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return features.mean(0), np.atleast_2d(np.cov(features.T))
