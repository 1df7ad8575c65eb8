"""`xent rerun RUN [flags]`: repeat a run in a new folder; flags given here replace its own."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from xent.experiments import resume
from xent.experiments.table import EXPERIMENTS
from xent.experiments.versions import differences
from xent.train.errors import UsageError


def main(arguments: Sequence[str]) -> None:
    """Repeat the run whose folder is given first."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    if not arguments or arguments[0].startswith("-"):
        raise UsageError("xent rerun takes the folder of a run, then flags: xent rerun runs/digits-1 --epochs 3")
    experiment, flags, made_with = resume.load(Path(arguments[0]))
    if other := differences(made_with):
        print(f"note     {arguments[0]} was made with {other}: the last bits may differ")
    importlib.import_module(EXPERIMENTS[experiment].module).main([*flags, *arguments[1:]])
