"""The datasets that come with us: TFDS builders that need neither a network nor TensorFlow.

Importing this package costs nothing; `register` imports TFDS and makes the names known to it:

    from xent.experiments import datasets
    from xent.train import data

    digits = data.load("digits", builtin=datasets.register())

A command offers those of its own kind where a set cannot be had: `builtin=datasets.IMAGES`.
"""

import importlib

IMAGES, TEXTS, SPEECH = ("digits",), ("docstrings",), ("digit_strings",)
NAMES = IMAGES + TEXTS + SPEECH
"""The built-in datasets, each a TFDS builder in the module of its name."""


def register() -> tuple[str, ...]:
    """Makes the built-in datasets known to TFDS, which registers a builder when its module is imported.

    Returns:
      Their names, `NAMES`, as `xent.train.data.load(..., builtin=...)` takes them.
    """
    for name in NAMES:
        importlib.import_module(f"xent.experiments.datasets.{name}")
    return NAMES


def is_digits(name: str) -> bool:
    """Whether a dataset is the built-in digits, of whatever version: `digits`, `digits:1.0.0`."""
    return name.partition(":")[0] == "digits"
