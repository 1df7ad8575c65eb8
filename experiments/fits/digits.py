"""The training step of `xent digits`, for images and classes as the dataset has them."""

import math
from collections.abc import Callable
from functools import partial

import jax
from jax.sharding import Mesh
from rich.console import Console

from xent.experiments.digits import RULES, Config, load, make_loss
from xent.experiments.fits.outline import Outline, batch_of
from xent.models import functional
from xent.models.mlp import mlp
from xent.train.data import Dataset
from xent.train.optimizers import make_optimizer
from xent.train.step import init_state, make_train_step


def prepare(config: Config, console: Console) -> Callable[[Mesh], Outline]:
    """Load the data, for its shapes; then of each mesh the step, which is the same."""
    found = outline(config, load(config, console))
    return lambda mesh: found


def outline(config: Config, images: Dataset) -> Outline:
    """Describe one training step; the images that a run keeps on each device besides are not part of it."""
    shape = images.train.image.shape[1:]
    outputs = 1 if config.task == "binary" else len(images.classes)
    build = partial(mlp, inputs=math.prod(shape), hidden=config.hidden, outputs=outputs, dtype=config.run.dtype)
    apply, params = functional.outline(build)
    optimizer = make_optimizer(config.optimizer, 10**6)
    state = jax.eval_shape(lambda params: init_state(params, optimizer, jax.random.key(0)), params)
    batch = batch_of(config.batch_size, image=(shape, "uint8"), label=((), "int32"))
    step = make_train_step(make_loss(config, apply), optimizer)
    return Outline(step, state, batch, RULES, f"{config.batch_size:,} images")
