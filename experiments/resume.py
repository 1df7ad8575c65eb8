"""`xent resume RUN`: continue a run that was stopped, from its newest checkpoint, to the very end it would have had."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from xent.experiments.flags import to_arguments
from xent.experiments.folder import read_config
from xent.experiments.table import EXPERIMENTS
from xent.train.errors import UsageError


def main(arguments: Sequence[str]) -> None:
    """Continue the run whose folder is given."""
    if {"-h", "--help"} & {*arguments}:
        print(__doc__)
        return
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UsageError("xent resume takes one thing, the folder of a run: xent resume runs/digits-1")
    folder = Path(arguments[0])
    experiment, flags, _ = load(folder)
    importlib.import_module(EXPERIMENTS[experiment].module).main(flags, resumed=folder)


def load(folder: Path) -> tuple[str, list[str], Mapping[str, str]]:
    """Read a run's experiment, its command line without the folder, and the versions it was made with.

    Raises:
      UsageError: see `read_config`; or the experiment is none of ours.
    """
    config = read_config(folder)
    experiment = config["experiment"]
    if experiment not in EXPERIMENTS:
        raise UsageError(
            f"{folder / 'config.json'} names the experiment {experiment!r}; there are {', '.join(EXPERIMENTS)}"
        )
    flags = [flag for flag in to_arguments(config["flags"]) if not flag.startswith(("--out=", "--resume="))]
    return experiment, flags, config["versions"]
