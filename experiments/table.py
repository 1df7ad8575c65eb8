"""Every experiment and every other command: a name, where it lives, what to expect. Nothing heavy is imported here."""

from typing import NamedTuple


class Experiment(NamedTuple):
    """A line of `xent list`."""

    module: str
    summary: str
    expected: str
    """The number a reader should see, on the built-in data, and where it comes from."""


EXPERIMENTS = {
    "digits": Experiment(
        "xent.experiments.digits",
        "a multilayer perceptron learns handwritten digits, ten classes or one bit",
        "97.8 ± 0.2 % of held-out digits, five seeds",
    ),
}

COMMANDS = {
    "list": ("xent.experiments.listing", "the experiments, one line each, with the number to expect"),
    "doctor": ("xent.experiments.doctor", "versions, backend, devices, memory, dataset cache"),
    "resume": ("xent.experiments.resume", "continue a run that was stopped: xent resume runs/digits-1"),
    "rerun": (
        "xent.experiments.rerun",
        "repeat a run in a new folder, with other flags: xent rerun runs/digits-1 --epochs 3",
    ),
    "bench": ("xent.experiments.bench", "measure on this machine: xent bench train"),
}
