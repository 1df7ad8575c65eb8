"""The training step of `xent images`, for images and classes as the dataset has them."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh
from rich.console import Console

from xent.experiments.fits.outline import Outline, batch_of
from xent.experiments.images import RULES, Config, load_images, make_loss, model_of
from xent.experiments.images_data import Images
from xent.models import functional
from xent.train.optimizers import make_optimizer
from xent.train.step import init_state, make_train_step


def prepare(config: Config, console: Console) -> Callable[[Mesh], Outline]:
    """Load the data, for its shapes; then of each mesh the step, which is the same."""
    found = outline(config, load_images(config, console))
    return lambda mesh: found


def outline(config: Config, images: Images) -> Outline:
    """Describe one training step; the images that a run keeps on each device besides are not part of it."""
    shape, classes = images.test.image.shape[1:], len(images.classes)
    apply, params = functional.outline(model_of(config, shape, classes))
    optimizer = make_optimizer(config.optimizer, 10**6)
    state = jax.eval_shape(lambda params: init_state(params, optimizer, jax.random.key(0)), params)
    batch = batch_of(config.batch_size, image=(shape, "uint8"), label=((), "int32"))
    step = make_train_step(make_loss(config, apply, classes), optimizer)
    return Outline(step, state, batch, RULES, f"{config.batch_size:,} images")
