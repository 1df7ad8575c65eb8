"""Every loss under test, family by family."""

import importlib
from collections.abc import Sequence

from xent.experiments.precision.loss import Loss

FAMILIES = (
    "softmax",
    "modifiers",
    "focal",
    "sigmoid",
    "binary",
    "divergences",
    "distributions",
    "distillation",
    "top_k",
    "products",
    "ctc",
)
"""The modules that list them, in the order of the tables."""


def make_losses(torch: bool, only: Sequence[str] = ()) -> list[Loss]:
    """List the losses; `torch` says whether to run torch's too, `only` what their names contain."""
    modules = [importlib.import_module(f"xent.experiments.precision.{family}") for family in FAMILIES]
    every: list[Loss] = [loss for module in modules for loss in module.losses_of(torch)]
    return [loss for loss in every if not only or any(text in loss.name for text in only)]
