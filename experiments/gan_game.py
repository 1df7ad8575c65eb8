"""One step of a game of two networks: first the discriminator moves, then the generator, each by its own loss.

Neither minimises what the other does, so there is no single loss to take a gradient of; each loss is differentiated in
one player's parameters alone, and each player has its own optimiser. The step is otherwise like any other: pure, from a
`TrainState` to a `TrainState`, and the loop that runs it does not know that it is a game.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xent import losses
from xent.experiments.pixels import from_bytes
from xent.models.functional import Apply
from xent.train.guard import update_if_finite
from xent.train.metrics import Metrics, weighted
from xent.train.step import Batch, Loss, Step, TrainState

DISCRIMINATOR, GENERATOR, AVERAGE, SAMPLES = "discriminator", "generator", "average", "samples"
"""What the parameters of a game are: the players', the generator's averaged over steps, and samples of that so far."""
PLAYERS = (DISCRIMINATOR, GENERATOR)
COLUMNS = 12
"""Noise vectors whose samples are kept over time."""
FIXED, JUDGED, NOTHING = (np.uint32(2**32 - i) for i in (1, 2, 3))
"""Numbers of draws beside those of steps, which are less: of samples over time, of the judged, of pixels at random."""

GENERATOR_LOSSES: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "minimax": losses.minimax_generator_loss,
    "non-saturating": losses.non_saturating_generator_loss,
}


class Game(NamedTuple):
    """The networks, and the rules they play by."""

    generate: Apply
    """`generate(params, noise [batch, latent]) -> images [batch, h, w, c]` from -1 to 1."""
    discriminate: Apply
    """`discriminate(params, images) -> logits [batch]`: the log-odds that an image is real."""
    latent: int
    name: str
    """minimax or non-saturating: what the generator minimises."""
    label_smoothing: float
    """By how much the target of a real image falls short of 1."""
    decay: float
    """Of the average of the generator's parameters, a step."""
    moments: tuple[int, ...]
    """Steps after which samples are taken, the first of them 0; ascending."""


def logits(game: Game, params: Any, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The discriminator's logits `[batch]` of the batch's images and of as many generated ones; no key: no dropout."""
    noise, *its = jax.random.split(jax.random.key(0) if key is None else key, 3)
    real = from_bytes(batch["image"])
    fake = game.generate(params[GENERATOR], jax.random.normal(noise, (len(real), game.latent)))
    first, second = (None, None) if key is None else its
    own = params[DISCRIMINATOR]
    return game.discriminate(own, real, key=first), game.discriminate(own, fake, key=second)


def discriminator_loss(game: Game) -> Loss:
    """Cross-entropy of telling real from generated, in nats a pair; log 4 where that cannot be told."""

    def loss(params: Any, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, Metrics]:
        real, fake = logits(game, params, batch, key)
        smoothing, where = 0.0 if key is None else game.label_smoothing, batch["where"]
        values = losses.discriminator_loss(real, fake, one_sided_label_smoothing=smoothing)
        right = ((real > 0).astype(jnp.float32) + (fake <= 0)) / 2
        metrics = {"loss": weighted(values, where), "accuracy": weighted(right, where)}
        return losses.mean(values, where=where), metrics

    return loss


def generator_loss(game: Game) -> Loss:
    """What the generator minimises, in nats an image."""

    def loss(params: Any, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, Metrics]:
        values = GENERATOR_LOSSES[game.name](logits(game, params, batch, key)[1])
        return losses.mean(values, where=batch["where"]), {"generator_loss": weighted(values, batch["where"])}

    return loss


def move(
    player: str, loss: Loss, optimizer: optax.GradientTransformation, params: Any, opt_state: Any, batch: Batch,
    key: jax.Array,
) -> tuple[Any, Any, Metrics, jax.Array]:  # fmt: skip
    """Let one player take a step down its loss, all else as it is.

    Args:
      player: its name in `params` and `opt_state`.
      loss: of all parameters; it is differentiated in the player's.
      optimizer: the player's.
      params: of the game.
      opt_state: of each player.
      batch: `image` uint8 `[batch, h, w, c]`, and `where` `[batch]`.
      key: PRNG key of the noise.

    Returns:
      `(params, opt_state, metrics, finite)`, where a gradient that is not finite changes nothing.
    """

    def of_its_own(own: Any) -> tuple[jax.Array, Metrics]:
        return loss({**params, player: own}, batch, key)

    gradients, metrics = jax.grad(of_its_own, has_aux=True)(params[player])
    own, its, finite = update_if_finite(optimizer, gradients, opt_state[player], params[player])
    return {**params, player: own}, {**opt_state, player: its}, metrics, finite


def init_game(game: Game, networks: Any, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """Make the state before the first step, with the samples of a generator that knows nothing.

    Args:
      game: whose moments say how often samples are taken.
      networks: parameters of both players. They are copied, since a jitted step donates its state.
      optimizer: the rule that each player has a state of its own for.
      key: PRNG key of the noise.
    """
    networks = jax.tree.map(jnp.copy, networks)
    params = {**networks, AVERAGE: jax.tree.map(jnp.copy, networks[GENERATOR])}
    first = sample(game, params, fixed_noise(game, key))
    params[SAMPLES] = jnp.zeros((len(game.moments), *first.shape)).at[0].set(first)
    opt_state = {player: optimizer.init(networks[player]) for player in PLAYERS}
    return TrainState(jnp.int32(0), params, opt_state, jnp.copy(key), jnp.int32(0), jnp.int32(0))


def make_game_step(game: Game, optimizer: optax.GradientTransformation) -> Step:
    """Make the pure step `(state, batch) -> (state, metrics)`: the discriminator's move, then the generator's.

    Where a gradient of either is not finite, nothing of the step counts. Samples are part of the state, so that a run
    that is resumed has those that were taken before.
    """
    told, made = discriminator_loss(game), generator_loss(game)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        first, second = jax.random.split(jax.random.fold_in(state.key, state.step))
        params, opt_state, telling, fine = move(
            DISCRIMINATOR, told, optimizer, state.params, state.opt_state, batch, first
        )
        params, opt_state, making, good = move(GENERATOR, made, optimizer, params, opt_state, batch, second)
        decay = jnp.minimum(game.decay, (1 + state.step) / (10 + state.step))  # or the first steps would stay in it
        average = optax.incremental_update(params[GENERATOR], params[AVERAGE], 1 - decay)
        finite = fine & good
        params, opt_state = jax.lax.cond(
            finite, lambda: ({**params, AVERAGE: average}, opt_state), lambda: (state.params, state.opt_state)
        )
        done = state.step + 1
        params = {**params, SAMPLES: _taken(game, params, state.key, done)}
        skipped_steps, bad_steps = state.skipped_steps + ~finite, jnp.where(finite, 0, state.bad_steps + 1)
        return TrainState(done, params, opt_state, state.key, skipped_steps, bad_steps), {**telling, **making}

    return step


def _taken(game: Game, params: Any, key: jax.Array, done: jax.Array) -> jax.Array:
    """The samples, with those of this moment among them if it is one."""
    now = jnp.array(game.moments) == done
    return jax.lax.cond(
        now.any(),
        lambda: params[SAMPLES].at[now.argmax()].set(sample(game, params, fixed_noise(game, key))),
        lambda: params[SAMPLES],
    )


def noise_of(game: Game, key: jax.Array, draw: np.uint32, count: int) -> jax.Array:
    """What `count` images are made of, `[count, latent]`; `draw` tells it from all else that comes of a run's key."""
    return jax.random.normal(jax.random.fold_in(key, draw), (count, game.latent))


def fixed_noise(game: Game, key: jax.Array) -> jax.Array:
    """The noise `[COLUMNS, latent]` that samples over time are made of, the same at every moment of a run."""
    return noise_of(game, key, FIXED, COLUMNS)


def sample(game: Game, params: Any, noise: jax.Array) -> jax.Array:
    """Images of the averaged generator, float32 `[batch, h, w, c]` from -1 to 1."""
    return game.generate(params[AVERAGE], noise).astype(jnp.float32)
