"""`xent list`: the experiments, one line each, with the number to expect."""

from collections.abc import Sequence

from xent.experiments.table import EXPERIMENTS
from xent.train.errors import UsageError


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    if {"-h", "--help"} & {*arguments}:
        print(__doc__)
        return
    if arguments:
        raise UsageError(f"xent list takes no flags, but was given {' '.join(arguments)}")
    width = max(len(experiment.summary) for experiment in EXPERIMENTS.values())
    for name, (_, summary, expected) in EXPERIMENTS.items():
        print(f"{name:<16}{summary:<{width}}  {expected}")
