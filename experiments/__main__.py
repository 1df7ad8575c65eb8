"""The `xent` command: finds what was asked for and turns errors that a user can mend into one line and exit code 2."""

import difflib
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Sequence

from xent.experiments.table import COMMANDS, EXPERIMENTS
from xent.train.errors import UsageError, extra
from xent.train.interrupt import ends_on_signals

_NEEDED = ("tyro", "rich", "tensorflow_datasets", "sklearn", "matplotlib", "orbax", "tokenizers", "jsonschema", "jiwer")


def usage() -> str:
    """Return what `xent --help` prints."""
    rows = {name: experiment.summary for name, experiment in EXPERIMENTS.items()}
    lines = ["usage: xent COMMAND [flags]      (xent COMMAND --help lists its flags)", "", "experiments"]
    lines += [f"  {name:<16}{summary}" for name, summary in rows.items()]
    lines += ["", "commands", *(f"  {name:<16}{summary}" for name, (_, summary) in COMMANDS.items())]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, by default the process's own."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # a terminal that knows no ± gets a ?
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace", line_buffering=True)  # what was said is out, however it ends
    try:
        with ends_on_signals():
            _dispatch(arguments[0] if arguments else "--help", arguments[1:])
    except UsageError as error:
        sys.stderr.write(f"xent: {error}\n")  # in one piece, whatever other threads print
        sys.exit(2)
    except BrokenPipeError:  # `xent list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its exit
        sys.exit(128 + 13)


def _dispatch(name: str, rest: list[str]) -> None:
    if name in ("-h", "--help"):
        print(usage())
        return
    if name == "--version":
        from xent.experiments.versions import versions

        print(", ".join(f"{package} {version}" for package, version in versions().items()))
        return
    modules = {key: experiment.module for key, experiment in EXPERIMENTS.items()}
    modules |= {key: module for key, (module, _) in COMMANDS.items()}
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(modules)}"
        raise UsageError(f"no command {name!r}: {hint}")
    missing = [package for package in _NEEDED if importlib.util.find_spec(package) is None]
    if missing and name != "list":
        raise UsageError(f"{missing[0]} is not installed: {extra('experiments')}")
    importlib.import_module(modules[name]).main(rest)


if __name__ == "__main__":
    main()
