"""What each experiment contributes to `xent bench train`: its step, batch sizes, and what stands beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from xent.experiments import gan, images, language_model, saturation, speech
from xent.experiments.bench import torch_peer, train_start
from xent.experiments.bench.engine import Case
from xent.experiments.bench.train_cases import (
    CLASSES,
    SIDE,
    digits_parts,
    one_step_a_call,
    plain,
    products,
    random_images,
    random_job,
)
from xent.experiments.bench.train_start import Parts
from xent.experiments.bench.train_torch import pytorch
from xent.experiments.gan_game import init_game, make_game_step
from xent.experiments.saturation_curves import WAYS
from xent.experiments.speech_data import CLASSES as SPOKEN
from xent.models.functional import outline
from xent.models.mlp import mlp
from xent.train.optimizers import make_optimizer

SEQUENCES = 512
CLIPS, FRAMES, CHARACTERS = 512, 100, 12
"""Of speech: clips, and the most frames and characters that one has."""
SCHEDULE_STEPS = 1000
"""That the learning rates follow."""


class Asked(NamedTuple):
    """One experiment at one batch size."""

    hidden: int
    """Units, where the experiment has such a layer."""
    batch_size: int
    steps: int
    """A sample."""
    seed: int
    against: torch_peer.Against
    first: bool
    """Whether it is the first of the batch sizes."""


@dataclass(frozen=True)
class Contribution:
    """An experiment's part."""

    parts: Callable[[Asked], Parts]
    sizes: Callable[[int], dict[str, Any]]
    """From the number of hidden units, the sizes by name."""
    batches: tuple[int, ...]
    """Examples a step, each a measurement."""
    quick: tuple[int, ...]
    """Those of --quick."""
    slower: int = 1
    """How many times as long its step takes as that of digits, roughly: a sample has as many times fewer steps."""
    curve: int = 50
    """First steps whose losses are kept."""
    beside: Callable[[Asked], list[Case]] = lambda _: []
    """What takes turns with it."""


def _digits(asked: Asked) -> Parts:
    return digits_parts(random_job(hidden=asked.hidden, batch_size=1, steps=1, seed=asked.seed))


def _beside_digits(asked: Asked) -> list[Case]:
    """All there is at the first batch size, and a plain script at the others."""
    job = random_job(hidden=asked.hidden, batch_size=asked.batch_size, steps=asked.steps, seed=asked.seed)
    script = [plain(job, "plain optax script")] if asked.against in ("all", "optax") else []
    if not asked.first:
        return script
    peers = [
        pytorch(job, "PyTorch"),
        pytorch(job, "PyTorch, fused Adam", fused=True),
        pytorch(job, "the same, one thread", fused=True, threads=1),
    ]
    peers = peers if torch_peer.takes_part(asked.against) else []
    return [one_step_a_call(job, "ours, one step a call"), *script, *peers, products(job, "two large products")]


SMALL = language_model.Config(vocabulary=4096, context=64, units=64, layers=2, heads=4)
"""A smaller model than the experiment's own."""


def _language_model(asked: Asked, *, fused: bool = True) -> Parts:
    """On tokens of which low ones are likelier, and nothing else is to be learnt."""
    build = language_model.model_of(SMALL)
    draw = np.random.default_rng(asked.seed)
    first, second = draw.integers(0, SMALL.vocabulary, (2, SEQUENCES, SMALL.context + 1))
    tokens = (first * second // SMALL.vocabulary).astype(np.int32)
    arrays = {"tokens": tokens, "scored": np.ones((SEQUENCES, SMALL.context), bool)}
    apply = outline(build).apply
    loss, alike = (language_model.make_loss(apply, way) for way in (fused, False))
    optimizer = make_optimizer(SMALL.optimizer, SCHEDULE_STEPS)
    return Parts(loss, lambda key: build(key).params, optimizer, arrays, SMALL.steps_per_call, alike)


def _beside_language_model(asked: Asked) -> list[Case]:
    begin = partial(train_start.start, _language_model(asked, fused=False), asked.batch_size, asked.steps, asked.seed)
    return [train_start.case(begin, "ours, logits held", asked.steps)]


def _saturation(asked: Asked) -> Parts:
    """Its step on logits, on as many images as the built-in digits have for training."""
    images, labels = random_images(1293, 8, asked.seed)
    config = saturation.Config(hidden=asked.hidden)
    build = partial(mlp, inputs=64, hidden=asked.hidden, outputs=CLASSES)
    loss = saturation.make_loss(WAYS["logits (xent)"], outline(build).apply, config.run.dtype)
    optimizer, arrays = make_optimizer(config.optimizer, SCHEDULE_STEPS), {"image": images, "label": labels}
    return Parts(loss, lambda key: build(key).params, optimizer, arrays, saturation.STEPS_PER_CALL)


def _images(asked: Asked) -> Parts:
    """LeNet-5, with the experiment's own augmentation, on as many images as the built-in digits have for training."""
    drawn, labels = random_images(1293, 32, asked.seed)
    config = images.Config()
    build = images.model_of(config, drawn.shape[1:], CLASSES)
    loss = images.make_loss(config, outline(build).apply, CLASSES)
    optimizer, arrays = make_optimizer(config.optimizer, SCHEDULE_STEPS), {"image": drawn, "label": labels}
    return Parts(loss, lambda key: build(key).params, optimizer, arrays, config.steps_per_call)


def _gan(asked: Asked) -> Parts:
    """Both players' moves, on as many images as the built-in digits have for training."""
    drawn, _ = random_images(1293, 8, asked.seed)
    config = gan.Config()
    moments = gan.moments_of(SCHEDULE_STEPS)
    game, networks = gan.game_of(config, drawn.shape[1:], moments)
    optimizer = make_optimizer(config.optimizer, SCHEDULE_STEPS)
    init = partial(init_game, game)
    return Parts(
        game, networks, optimizer, {"image": drawn}, config.steps_per_call, init=init, make_step=make_game_step
    )


def _speech(asked: Asked) -> Parts:
    """Convolutions and a GRU on clips of about a second, of noise, with random transcripts.

    Its operations are counted too low: those of its loops over frames count once.
    """
    draw, config = np.random.default_rng(asked.seed), speech.Config()
    noise = draw.integers(-(2**7), 2**7, (CLIPS, FRAMES, config.bands)) / 2**6
    arrays = {
        "features": noise.astype(np.float32),
        "frames": draw.integers(FRAMES // 2, FRAMES + 1, CLIPS).astype(np.int32),
        "labels": draw.integers(1, SPOKEN, (CLIPS, CHARACTERS)).astype(np.int32),
        "characters": draw.integers(1, CHARACTERS + 1, CLIPS).astype(np.int32),
    }
    build = speech.model_of(config)
    loss, optimizer = speech.make_loss(config, outline(build).apply), make_optimizer(config.optimizer, SCHEDULE_STEPS)
    return Parts(loss, lambda key: build(key).params, optimizer, arrays, config.steps_per_call)


CONTRIBUTIONS = {
    "digits": Contribution(
        _digits,
        lambda hidden: {"inputs": SIDE**2, "hidden": hidden},
        (64, 256, 1024),
        (64, 1024),
        beside=_beside_digits,
    ),
    "images": Contribution(_images, lambda _: {"pixels": 32 * 32}, (64,), (64,), slower=20),
    "language_model": Contribution(
        _language_model,
        lambda _: {name: getattr(SMALL, name) for name in ("vocabulary", "context", "units", "layers")},
        (4, 16),
        (4,),
        slower=10,
        beside=_beside_language_model,
    ),
    "gan": Contribution(_gan, lambda _: {"inputs": 64, "hidden": gan.Config().hidden}, (64,), (64,), slower=2),
    "speech": Contribution(
        _speech, lambda _: {"frames": FRAMES, "characters": CHARACTERS}, (32,), (32,), slower=200, curve=10
    ),
    "saturation": Contribution(_saturation, lambda hidden: {"inputs": 64, "hidden": hidden}, (64,), (64,)),
}
