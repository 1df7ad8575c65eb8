"""The datasets that come with us: TFDS builders that need neither a network nor TensorFlow.

Importing this package costs nothing; `register` imports TFDS and makes the names known to it:

    from xent.experiments import datasets
    from xent.train import data

    digits = data.load("digits", builtin=datasets.register("images"))
"""

import importlib
from typing import Literal

Kind = Literal["images", "texts", "speech"]

BUILT_IN: dict[Kind, tuple[str, ...]] = {
    "images": ("digits",),
    "texts": ("docstrings",),
    "speech": ("digit_strings",),
}
"""The built-in datasets by kind, each a TFDS builder in the module of its name."""


def register(*kinds: Kind) -> tuple[str, ...]:
    """Makes all built-in datasets known to TFDS, which registers a builder when its module is imported.

    Args:
      kinds: what a command can use; not given: all.

    Returns:
      The names of those kinds, as `xent.train.data.load(..., builtin=...)` takes them: to be offered where a set
      cannot be had.
    """
    for name in sum(BUILT_IN.values(), ()):
        importlib.import_module(f"xent.experiments.datasets.{name}")
    return sum((BUILT_IN[kind] for kind in kinds or BUILT_IN), ())


def is_digits(name: str) -> bool:
    """Whether a dataset is the built-in digits, of whatever version: `digits`, `digits:1.0.0`."""
    return name.partition(":")[0] == "digits"
