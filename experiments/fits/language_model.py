"""The training step of `xent language_model`, from its flags alone."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from rich.console import Console

from xent.experiments.fits.outline import Outline
from xent.experiments.language_model import Config, make_loss, model_of
from xent.models import functional
from xent.models.transformer import partitions
from xent.train.optimizers import make_optimizer
from xent.train.step import init_state, make_train_step


def prepare(config: Config, console: Console) -> Callable[[Mesh], Outline]:
    """Of each mesh the step; text and tokenizer are not needed for that, since the flags say all sizes."""
    del console
    return partial(outline, config)


def outline(config: Config, mesh: Mesh) -> Outline:
    """Describe one training step.

    Args:
      config: the experiment's flags; `run.mesh` is not looked at.
      mesh: of devices that are here, or of `devices_of`.

    Example:
      >>> from xent.experiments.fits.outline import compile_step
      >>> from xent.train.compiled import peak_memory
      >>> from xent.train.sharding import one_device
      >>> small = Config(vocabulary=300, units=16, layers=1, heads=2, context=8, batch_size=2)
      >>> peak_memory(compile_step(outline(small, one_device()), one_device())) < 2**20
      True
    """
    apply, params = functional.outline(model_of(config, mesh))
    optimizer = make_optimizer(config.optimizer, 10**6)
    state = jax.eval_shape(lambda params: init_state(params, optimizer, jax.random.key(0)), params)
    batch = {
        "tokens": jax.ShapeDtypeStruct((config.batch_size, config.context + 1), jnp.int32),
        "scored": jax.ShapeDtypeStruct((config.batch_size, config.context), jnp.bool_),
        "where": jax.ShapeDtypeStruct((config.batch_size,), jnp.bool_),
    }
    step = make_train_step(make_loss(apply, config.fused, mesh.shape["data"]), optimizer)
    tokens = f"{config.batch_size * config.context:,} tokens, {config.batch_size:,} x {config.context:,}"
    return Outline(step, state, batch, partitions(config.fully_sharded), tokens)
