"""Whether the language model's training step fits: compiled for any mesh, of chips that need not be here."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from xent.experiments.language_model import Config, make_loss, model_of
from xent.models.functional import outline
from xent.models.transformer import partitions
from xent.train.compiled import abstract, compile_for
from xent.train.optimizers import make_optimizer
from xent.train.sharding import over_data, require_shares, state_shardings
from xent.train.step import init_state, make_train_step


def compile_step(config: Config, mesh: Mesh) -> jax.stages.Compiled:
    """Compile one training step of `xent language_model`, from shapes alone.

    Args:
      config: its flags; `run.mesh` is not looked at.
      mesh: of devices that are here, or of `devices_of`.

    Returns:
      What `xent.train.compiled` reads memory and collectives from.

    Raises:
      jax.errors.JaxRuntimeError: if it does not fit in a TPU's memory.
      UsageError: if batch or parameters cannot be split so.

    Example:
      >>> from xent.train.compiled import peak_memory
      >>> from xent.train.sharding import one_device
      >>> small = Config(vocabulary=300, units=16, layers=1, heads=2, context=8, batch_size=2)
      >>> peak_memory(compile_step(small, one_device())) < 2**20
      True
    """
    require_shares(mesh, config.batch_size)
    apply, params = outline(model_of(config, mesh))
    optimizer = make_optimizer(config.optimizer, 10**6)
    state = jax.eval_shape(lambda params: init_state(params, optimizer, jax.random.key(0)), params)
    shardings = state_shardings(state, mesh, partitions(config.fully_sharded))
    shapes = {
        "tokens": jax.ShapeDtypeStruct((config.batch_size, config.context + 1), jnp.int32),
        "scored": jax.ShapeDtypeStruct((config.batch_size, config.context), jnp.bool_),
        "where": jax.ShapeDtypeStruct((config.batch_size,), jnp.bool_),
    }
    batch = abstract(shapes, jax.tree.map(lambda _: over_data(mesh), shapes))
    step = make_train_step(make_loss(apply, config.fused, mesh.shape["data"]), optimizer)
    return compile_for(step, abstract(state, shardings), batch, donate_argnums=0, out_shardings=(shardings, None))
