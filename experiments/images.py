"""Image classification: LeNet-5, AlexNet and VGG learn from augmented images and soft targets.

    xent images                                         LeNet-5 on 1797 real digits, scaled up to 32 x 32 pixels
    xent images --model vgg --depth 16                  or alexnet, or a deeper VGG
    xent images --model vgg --mixup 0.2 --cutmix 1      blend examples, and their targets with them
    xent images --model vgg --width 1 --dataset cifar10 the paper's widths, any TFDS image set with integer labels
    xent images --dataset photos --size 64 --stream     a folder with a sub-folder a class, read as it is needed

The loss is the cross-entropy of dense targets, since mixup and cutmix give an example two classes. Widths of AlexNet
and VGG are an eighth of the papers' by default, for two CPU cores; at --width 1 they are the papers' networks.
LeNet-5 takes a minute on two CPU cores, with its baselines, and reaches 99.1 ± 0.2 % on held-out digits
(`xent images --seeds 5`); the nearest neighbour, 98.3 %, scikit-learn's network, 97.5 ± 0.5 %.
VGG trains for half a minute and reaches 98.7 ± 0.6 % (`xent images --model vgg --seeds 5 --no-baselines`).
AlexNet, some two minutes, reaches 98.9 ± 0.7 % (`xent images --model alexnet --seeds 5 --no-baselines`).
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from rich.console import Console

from xent import losses
from xent.experiments import baselines as sklearn
from xent.experiments.device import mesh_of, require_memory
from xent.experiments.flags import parse, total_steps
from xent.experiments.images_config import Config as Config  # every experiment has its own
from xent.experiments.images_data import Images, load
from xent.experiments.launch import TrainOne, launch
from xent.experiments.scores import Scores
from xent.experiments.training import prepare_training
from xent.models import functional
from xent.models.alexnet import alexnet
from xent.models.functional import Apply, Model
from xent.models.lenet import lenet
from xent.models.vgg import vgg
from xent.train.augment import Augmentation, chain, crop, cutmix, mixup, one_of, shift
from xent.train.errors import UsageError
from xent.train.evaluate import make_evaluate, make_predict
from xent.train.journal import read_lines
from xent.train.metrics import Metrics, divide, weighted
from xent.train.optimizers import make_optimizer
from xent.train.progress import say
from xent.train.sharding import Rules, place, state_shardings
from xent.train.source import Source
from xent.train.step import Batch, Loss, TrainState, init_state, make_train_step

RULES: Rules = ()
"""Every device of a mesh holds all parameters."""
EVALUATED_PIXELS = 2**20
"""A call and a device, in whole images."""


def model_of(config: Config, shape: Sequence[int], outputs: int) -> partial[Model]:
    """The builder of the network, which is missing its key alone."""
    sizes: Any = {"inputs": tuple(shape), "outputs": outputs, "dtype": config.run.dtype}
    dropout = config.recipe.dropout
    if config.model == "lenet":
        return partial(lenet, **sizes)
    if config.model == "alexnet":
        return partial(alexnet, width=config.width, dropout=dropout, **sizes)
    return partial(vgg, depth=config.depth, width=config.width, dropout=dropout, **sizes)


def augmentation(config: Config) -> Augmentation:
    """What is done to a batch in training."""
    moves = [partial(crop, smallest=config.crop)] if config.crop < 1 else []
    moves += [partial(shift, pixels=config.shift)] if config.shift else []
    blends = [partial(mixup, alpha=config.mixup)] if config.mixup else []
    blends += [partial(cutmix, alpha=config.cutmix)] if config.cutmix else []
    return chain(*moves, one_of(*blends))


def ink(batch: Batch) -> jax.Array:
    """Bytes to [0, 1], where augmentations have black."""
    return batch["image"].astype(jnp.float32) / 255


def on_ink(apply: Apply, dtype: DTypeLike) -> Callable[..., jax.Array]:
    """The network on images from 0 to 1: it has them from -1 to 1."""

    def logits(params: Any, images: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return apply(params, (2 * images - 1).astype(dtype), key=key)

    return logits


def make_loss(config: Config, apply: Apply, classes: int) -> Loss:
    """Mean cross-entropy of dense targets, and its metrics; images are augmented where there is a key, in training."""
    augment, network = augmentation(config), on_ink(apply, config.run.dtype)

    def loss(params: Any, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, Metrics]:
        images, where = ink(batch), batch["where"]
        targets, smoothing = jax.nn.one_hot(batch["label"], classes), 0.0
        if key is not None:
            augment_key, key = jax.random.split(key)
            images, targets = augment(augment_key, images, targets)
            smoothing = config.label_smoothing
        logits = network(params, images, key=key)
        values = losses.softmax_cross_entropy(logits, targets, label_smoothing=smoothing)
        right = logits.argmax(-1) == targets.argmax(-1)
        metrics = {"loss": weighted(values, where), "accuracy": weighted(right, where)}
        return losses.mean(values, where=where), metrics

    return loss


def load_images(config: Config, console: Console) -> Images:
    """Load the images that the flags name."""
    return load(
        config.dataset, console, size=config.size, validation=config.validation, data_dir=config.run.data_dir,
        stream=config.stream,
    )  # fmt: skip


def prepare(config: Config, console: Console) -> TrainOne:
    """Load the data and compile the step once for all seeds; give the function that trains one."""
    images = load_images(config, console)
    epochs = config.recipe.epochs
    build = model_of(config, images.test.image.shape[1:], len(images.classes))
    try:
        apply, shapes = functional.outline(build)
    except ValueError as error:
        raise UsageError(f"--model {config.model}: {error}; give a larger --size") from None
    require_memory(shapes, copies=4)
    steps = total_steps(epochs, images.examples, config.batch_size)
    optimizer = make_optimizer(config.optimizer, steps)
    mesh = mesh_of(config.run, RULES)
    loss = make_loss(config, apply, len(images.classes))
    step = make_train_step(loss, optimizer)

    def start(seed: int) -> tuple[TrainState, Source]:
        weights, order, noise = jax.random.split(jax.random.key(seed), 3)
        state = init_state(build(weights).params, optimizer, noise)
        return place(state, state_shardings(state, mesh, RULES)), images.source(config.batch_size, order, mesh)

    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    say(console, "model", f"{config.model}, {count:,} parameters, epochs: {epochs}")
    height, width, _ = images.test.image.shape[1:]
    at_once = max(1, EVALUATED_PIXELS // (height * width))
    evaluate = make_evaluate(loss, images.validation._asdict(), mesh, batch_size=at_once)
    training = prepare_training(config, console, start=start, step=step, evaluate=evaluate, epochs=epochs)
    test = make_evaluate(loss, images.test._asdict(), mesh, batch_size=at_once)

    network = on_ink(apply, config.run.dtype)
    predict = make_predict(
        lambda params, batch: network(params, ink(batch)).astype(jnp.float32), images.test._asdict(), mesh,
        batch_size=at_once,
    )  # fmt: skip

    def train_one(config: Config, folder: Path) -> Scores:
        state = training.run(config, folder)
        from xent.experiments import images_report  # matplotlib: not for a run that ends at a bad flag
        from xent.train import report

        report.learning_curve(read_lines(folder / "metrics.jsonl"), folder)
        images_report.report(images.test.image, images.test.label, predict(state.params), images.classes, folder)
        return {"xent": divide(test(state.params)), **(baselines(config, images, epochs) if config.baselines else {})}

    return train_one


def baselines(config: Config, images: Images, epochs: int) -> Scores:
    """scikit-learn on the same images: a multilayer perceptron, the nearest neighbour, and no knowledge at all."""
    if images.train is None:
        return {}
    train, test = (
        (part.image.reshape(len(part.image), -1) / 127.5 - 1, part.label) for part in (images.train, images.test)
    )
    return {
        "scikit-learn MLP": sklearn.multilayer_perceptron(
            train, test, hidden=256, learning_rate=1e-3, batch_size=config.batch_size, epochs=min(epochs, 40),
            seed=config.run.seed,
        ),
        "nearest neighbour": sklearn.nearest_neighbour(train, test),
        "most frequent class": sklearn.most_frequent(train, test),
    }  # fmt: skip


def main(arguments: Sequence[str], resumed: Path | None = None) -> None:
    """Train as the command line says, or continue the run in `resumed`, whose flags these are."""
    launch("images", parse(Config, arguments, prog="xent images", about=__doc__), prepare, resumed)


if __name__ == "__main__":
    from xent.experiments.__main__ import main as xent

    xent(["images", *sys.argv[1:]])
