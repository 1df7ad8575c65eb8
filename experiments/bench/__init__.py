"""`xent bench NAME [flags]`: how fast things are on this machine, with what a reader needs to believe it."""

import difflib
import importlib
from collections.abc import Sequence

from xent.train.errors import UsageError

# A benchmark is a module with `main(arguments)`, imported only when asked for: name -> (module, what it measures).
BENCHMARKS = {
    "all": ("xent.experiments.bench.everything", "losses, fused, train and peaks, into one file; the default"),
    "losses": ("xent.experiments.bench.losses", "our losses beside optax's, from ten classes to 262144"),
    "fused": ("xent.experiments.bench.fused", "cross-entropy over a large head without its logits: time and memory"),
    "train": ("xent.experiments.bench.train", "a training step of every experiment, beside PyTorch and plain optax"),
    "peaks": ("xent.experiments.bench.peaks", "the machine's own peaks: large products, and a copy"),
    "save": ("xent.experiments.bench.save", "what a checkpoint costs a run that goes on training"),
    "null": ("xent.experiments.bench.null", "how often the interval of a thing to itself holds 1"),
}


def usage() -> str:
    """Return what `xent bench --help` prints."""
    lines = ["usage: xent bench [NAME] [flags]      (xent bench NAME --help lists its flags)", "", "benchmarks"]
    return "\n".join([*lines, *(f"  {name:<10}{summary}" for name, (_, summary) in BENCHMARKS.items())])


def main(arguments: Sequence[str]) -> None:
    """Run the benchmark that is named first, or with flags alone all of them.

    Raises:
      UsageError: if there is none of that name.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    name, *rest = arguments if not arguments[0].startswith("-") else ("all", *arguments)
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(BENCHMARKS)}"
        raise UsageError(f"no benchmark {name!r}: {hint}")
    importlib.import_module(BENCHMARKS[name][0]).main(rest)
