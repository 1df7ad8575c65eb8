"""The end of a run of `xent gan`: pictures, and what its samples are worth beside real images and noise."""

from functools import partial
from pathlib import Path

import jax
import numpy as np

from xent.experiments.gan_game import JUDGED, NOTHING, SAMPLES, Game, noise_of, sample
from xent.experiments.gan_judge import Judge, score, shares_of
from xent.experiments.pixels import from_bytes
from xent.experiments.scores import Scores
from xent.train.data import Dataset
from xent.train.journal import read_lines
from xent.train.step import TrainState

DRAWN = 10_000
"""Samples that are judged."""


def finish(game: Game, state: TrainState, judge: Judge, images: Dataset, folder: Path) -> Scores:
    """Draw the pictures and score the samples, beside real images and noise."""
    from xent.experiments import gan_picture as picture  # matplotlib: not for a run that ends at a bad flag
    from xent.train import report

    params = jax.device_get(state.params)
    drawn = np.asarray(jax.jit(partial(sample, game))(params, noise_of(game, state.key, JUDGED, DRAWN)))
    nothing = np.asarray(jax.random.uniform(jax.random.fold_in(state.key, NOTHING), drawn.shape, minval=-1.0))
    told = judge.tell(drawn)
    over_time = params[SAMPLES]
    taken = judge.tell(over_time.reshape(-1, *over_time.shape[2:]))[1].argmax(-1).reshape(over_time.shape[:2])
    report.learning_curve(read_lines(folder / "metrics.jsonl"), folder)
    picture.samples_over_time(over_time, game.moments, np.array(images.classes)[taken], folder)
    picture.class_shares(images.classes, judge.shares, shares_of(told[1]), folder)
    return {
        "xent": score(judge, *told),
        "held-out images": score(judge, *judge.tell(from_bytes(images.test.image))),
        "uniform noise": score(judge, *judge.tell(nothing)),
    }
