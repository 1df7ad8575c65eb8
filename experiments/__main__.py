"""The `xent` command: finds what was asked for and turns errors that a user can mend into one line and exit code 2."""

import difflib
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Sequence

from xent.experiments.table import COMMANDS, EXPERIMENTS
from xent.train.errors import UsageError

_NEEDED = ("tyro", "rich", "tensorflow_datasets", "sklearn", "matplotlib", "orbax")


def usage() -> str:
    """Return what `xent --help` prints."""
    rows = {name: experiment.summary for name, experiment in EXPERIMENTS.items()}
    lines = ["usage: xent COMMAND [flags]      (xent COMMAND --help lists its flags)", "", "experiments"]
    lines += [f"  {name:<10}{summary}" for name, summary in rows.items()]
    lines += ["", "commands", *(f"  {name:<10}{summary}" for name, (_, summary) in COMMANDS.items())]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, by default the process's own."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # a terminal that knows no ± gets a ?
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    try:
        _dispatch(arguments[0], arguments[1:])
    except UsageError as error:
        print(f"xent: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # before there is a run: nothing to save
        print("xent: stopped by SIGINT", file=sys.stderr, flush=True)
        os._exit(130)  # an orderly exit ends in a fault where threads of XLA were cut short


def _dispatch(name: str, rest: list[str]) -> None:
    modules = {key: experiment.module for key, experiment in EXPERIMENTS.items()}
    modules |= {key: module for key, (module, _) in COMMANDS.items()}
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(modules)}"
        raise UsageError(f"no command {name!r}: {hint}")
    missing = [package for package in _NEEDED if importlib.util.find_spec(package) is None]
    if missing and name != "list":
        raise UsageError(
            f"{missing[0]} is not installed: pip install 'xent[experiments]' brings all that this command needs"
        )
    importlib.import_module(modules[name]).main(rest)


if __name__ == "__main__":
    main()
