"""A set of images in memory, by name: what every experiment on small images begins with."""

from functools import partial
from pathlib import Path

from rich.console import Console

from xent.experiments import datasets
from xent.train import data
from xent.train.progress import say


def load(dataset: str, console: Console, *, validation: float, data_dir: Path | None) -> data.Dataset:
    """Load a set by its name.

    Args:
      dataset: a built-in one or a TFDS name.
      console: is told what was found.
      validation: share of the training images to hold out.
      data_dir: where TFDS keeps prepared datasets.

    Raises:
      UsageError: if there is no such dataset, or it is not of this kind.
    """
    report = partial(say, console, "data")
    builtin = datasets.register("images")
    found = data.load(dataset, data_dir=data_dir, validation=validation, builtin=builtin, report=report)
    sizes = f"{len(found.train.label)} train, {len(found.validation.label)} validation, {len(found.test.label)} test"
    report(f"{dataset}: {sizes}\n         {found.source}")
    return found
