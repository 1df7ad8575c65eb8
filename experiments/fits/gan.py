"""The training step of `xent gan`, both players' moves, for images as the dataset has them."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh
from rich.console import Console

from xent.experiments.fits.outline import Outline, batch_of
from xent.experiments.gan import Config, game_of, load, moments_of
from xent.experiments.gan_game import init_game, make_game_step
from xent.train.data import Dataset
from xent.train.optimizers import make_optimizer


def prepare(config: Config, console: Console) -> Callable[[Mesh], Outline]:
    """Load the data, for its shapes; then of each mesh the step, which is the same."""
    found = outline(config, load(config, console))
    return lambda mesh: found


def outline(config: Config, images: Dataset) -> Outline:
    """Describe one training step; the images that a run keeps on each device besides are not part of it."""
    shape, optimizer = images.train.image.shape[1:], make_optimizer(config.optimizer, 10**6)
    game, networks = game_of(config, shape, moments_of(10**6))
    state = jax.eval_shape(lambda key: init_game(game, networks(key), optimizer, key), jax.random.key(0))
    batch = batch_of(config.batch_size, image=(shape, "uint8"))
    work = f"{config.batch_size:,} images and as many generated"
    return Outline(make_game_step(game, optimizer), state, batch, (), work)
