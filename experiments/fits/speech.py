"""The training step of `xent speech`, for clips as long as the dataset has them."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh
from rich.console import Console

from xent.experiments.fits.outline import Outline, batch_of
from xent.experiments.speech import RULES, Config, load_clips, make_loss, model_of
from xent.experiments.speech_data import Data
from xent.models import functional
from xent.train.log_mel import HOP
from xent.train.optimizers import make_optimizer
from xent.train.step import init_state, make_train_step


def prepare(config: Config, console: Console) -> Callable[[Mesh], Outline]:
    """Load the data, for its shapes; then of each mesh the step, which is the same."""
    found = outline(config, load_clips(config, console))
    return lambda mesh: found


def outline(config: Config, data: Data) -> Outline:
    """Describe one training step; the clips that a run keeps on each device besides are not part of it."""
    apply, params = functional.outline(model_of(config))
    optimizer = make_optimizer(config.optimizer, 10**6)
    state = jax.eval_shape(lambda params: init_state(params, optimizer, jax.random.key(0)), params)
    batch = batch_of(config.batch_size, **data.shapes)
    seconds = data.shapes["features"][0][0] * HOP
    work = f"{config.batch_size:,} clips of up to {seconds:g} s"
    return Outline(make_train_step(make_loss(config, apply), optimizer), state, batch, RULES, work)
