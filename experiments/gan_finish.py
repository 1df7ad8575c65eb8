"""The end of a run of `xent gan`: pictures, and what its samples are worth beside real images and noise."""

from functools import partial
from pathlib import Path

import jax
import numpy as np

from xent.experiments.gan_game import SAMPLES, Game, sample
from xent.experiments.gan_judge import Judge, score, shares_of, to_range
from xent.experiments.scores import Scores
from xent.train.data import Dataset
from xent.train.journal import read_lines
from xent.train.step import TrainState

DRAWN = 10_000
"""Samples that are judged."""


def finish(game: Game, state: TrainState, judge: Judge, images: Dataset, seed: int, folder: Path) -> Scores:
    """Draw the pictures and score the samples, beside real images and noise."""
    from xent.experiments import gan_picture as picture  # matplotlib: not for a run that ends at a bad flag
    from xent.train import report

    params = jax.device_get(state.params)
    noise, pixels = jax.random.split(jax.random.key(seed))
    drawn = np.asarray(jax.jit(partial(sample, game))(params, jax.random.normal(noise, (DRAWN, game.latent))))
    nothing = np.asarray(jax.random.uniform(pixels, drawn.shape, minval=-1.0))
    over_time = params[SAMPLES]
    taken = judge.tell(over_time.reshape(-1, *over_time.shape[2:]))[1].argmax(-1).reshape(over_time.shape[:2])
    report.learning_curve(read_lines(folder / "metrics.jsonl"), folder)
    picture.samples_over_time(over_time, game.moments, np.array(images.classes)[taken], folder)
    picture.class_shares(images.classes, judge.shares, shares_of(judge, drawn), folder)
    return {
        "xent": score(judge, drawn),
        "held-out images": score(judge, to_range(images.test.image)),
        "uniform noise": score(judge, nothing),
    }
