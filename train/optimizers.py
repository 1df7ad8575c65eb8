"""Optimisers by name: optax's update rules under one set of flags that mean the same for each of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import optax

from xent.train.errors import require

Name = Literal["adam", "adamw", "sgd", "nadam", "radam", "rmsprop", "adagrad", "adabelief", "lamb", "lion", "muon"]
Schedule = Literal["constant", "cosine", "linear"]


@dataclass(frozen=True)
class OptimizerConfig:
    """How the parameters move."""

    optimizer: Name = "adam"
    """Update rule, optax's with optax's own defaults."""
    learning_rate: float = 1e-3
    """Step size, the peak of the schedule."""
    schedule: Schedule = "constant"
    """What the learning rate does after warm-up; cosine and linear fall to zero at the last update."""
    warmup_steps: int = 0
    """Updates over which the learning rate rises from zero."""
    momentum: float = 0.9
    """Decay of the running mean of gradients: sgd's momentum, and beta 1 of adam, adamw, nadam, radam, adabelief, lamb
    and lion; rmsprop, adagrad and muon have none to set."""
    weight_decay: float | None = None
    """Decoupled decay of matrices, per unit of learning rate; not given: optax's, adamw 1e-4, lion 1e-3, others 0."""
    clip: float | None = None
    """Largest global norm of the gradient; longer ones are scaled down to it."""
    accumulate: int = 1
    """Batches whose gradients are averaged before each update; those left over at the end of a run are not used."""

    def __post_init__(self) -> None:
        """Check every range."""
        require("--learning-rate", self.learning_rate, 0 < self.learning_rate < float("inf"), "a number above 0")
        require("--warmup-steps", self.warmup_steps, 0 <= self.warmup_steps < 2**31, "from 0 to 2147483647")
        require("--momentum", self.momentum, 0 <= self.momentum < 1, "from 0 to below 1")
        decay = self.weight_decay
        require("--weight-decay", decay, decay is None or 0 <= decay < float("inf"), "0 or more, or not given")
        require("--clip", self.clip, self.clip is None or 0 < self.clip < float("inf"), "above 0, or not given")
        require("--accumulate", self.accumulate, 1 <= self.accumulate < 2**31, "from 1 to 2147483647")


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


# From gradient to direction. Decay and learning rate follow, the same for all, so that one flag has one meaning.
_DIRECTIONS: dict[str, Callable[[OptimizerConfig], optax.GradientTransformation]] = {
    "adam": lambda config: optax.scale_by_adam(config.momentum),
    "adamw": lambda config: optax.scale_by_adam(config.momentum),
    "sgd": lambda config: optax.trace(config.momentum),
    "nadam": lambda config: optax.scale_by_adam(config.momentum, nesterov=True),
    "radam": lambda config: optax.scale_by_radam(config.momentum),
    "rmsprop": lambda _: optax.scale_by_rms(),
    "adagrad": lambda _: optax.scale_by_rss(),
    "adabelief": lambda config: optax.scale_by_belief(config.momentum),
    "lamb": lambda config: optax.scale_by_adam(config.momentum, eps=1e-6),
    "lion": lambda config: optax.scale_by_lion(config.momentum),
    "muon": lambda _: optax.chain(optax.contrib.muon(1.0), optax.scale(-1.0)),  # Adam for what is no matrix
}


_OWN_DECAY = {"adamw": 1e-4, "lion": 1e-3}


def learning_rate_schedule(config: OptimizerConfig, updates: int) -> optax.Schedule:
    """Warm-up from zero, then the schedule down to the last of `updates` updates.

    Example:
      >>> schedule = learning_rate_schedule(OptimizerConfig(schedule="linear", warmup_steps=10), 110)
      >>> [round(float(schedule(update)), 6) for update in (0, 5, 10, 60, 110)]
      [0.0, 0.0005, 0.001, 0.0005, 0.0]
    """
    peak, rest = config.learning_rate, max(updates - config.warmup_steps, 1)
    after: dict[str, Callable[[], optax.Schedule]] = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
    }
    if not config.warmup_steps:
        return after[config.schedule]()
    warmup = optax.linear_schedule(0.0, peak, config.warmup_steps)
    return optax.join_schedules([warmup, after[config.schedule]()], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Chain clipping, the update rule, decay and learning rate; accumulate around them.

    `clip -> direction -> + weight_decay * w -> (lamb: trust ratio) -> * -learning_rate(update)`

    Args:
      config: the flags.
      steps: batches of the whole run, which the schedule spreads over.

    Returns:
      An optax transformation.

    Raises:
      UsageError: if warm-up would last the whole run.

    Example:
      >>> import jax.numpy as jnp
      >>> optimizer = make_optimizer(OptimizerConfig(optimizer="sgd", learning_rate=0.1), steps=10)
      >>> updates, _ = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)), jnp.ones(2))
      >>> updates.tolist() == [-0.10000000149011612] * 2
      True

    Source: Loshchilov and Hutter 2019 for decoupled decay; each rule's paper in optax.
    """
    most = max(steps, 1)
    require("--accumulate", config.accumulate, config.accumulate <= most, f"at most the run's {steps} steps")
    updates = steps // config.accumulate
    warmup = config.warmup_steps
    require("--warmup-steps", warmup, warmup < max(updates, 1), f"below the run's {updates} updates")
    decay = _OWN_DECAY.get(config.optimizer, 0.0) if config.weight_decay is None else config.weight_decay
    parts = [
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        _DIRECTIONS[config.optimizer](config),
        optax.add_decayed_weights(decay, _matrices) if decay else optax.identity(),
        optax.scale_by_trust_ratio() if config.optimizer == "lamb" else optax.identity(),
        optax.scale_by_learning_rate(learning_rate_schedule(config, updates)),
    ]
    chained = optax.chain(*parts)
    if config.accumulate == 1:
        return chained
    return optax.MultiSteps(chained, config.accumulate).gradient_transformation()
