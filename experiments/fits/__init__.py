"""`xent fits EXPERIMENT --topology CHIPS [flags]`: does a training step fit on chips that are not here?

    xent fits language_model --topology v5e:16x16 --mesh data=32,model=8 --batch 256
    xent fits language_model --topology h200:1x32x8 --sweep --batch 256 --out fits.json

The step is compiled for them as a run compiles it, from shapes alone, and the program says what memory a chip needs and
what chips send each other. It does not run, so this says nothing of its speed. All other flags are the experiment's
(`xent language_model --help`). Chips are a TPU's generation and how they lie, v5e:16x16, v6e:4x4, v5p:4x4x4,
tpu7x:2x2x1, or h100 or h200 with slices x hosts x GPUs, h200:1x32x8. Bytes received are those of a ring, and loops are
counted, where the program says how long they are.

The exit code is 0 if it fits, with --sweep on some mesh; 1 if it does not; 2 if it could not be asked.
"""

import difflib
import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console

from xent.experiments.bench.store import refuse, write
from xent.experiments.device import idle_axes, require_split, use_device
from xent.experiments.fits.outline import Outline
from xent.experiments.fits.report import in_a_word, mesh_in_words, reasons, table, tell, to_record
from xent.experiments.fits.sweep import meshes, ranked, sweep
from xent.experiments.fits.verdict import Verdict, judge, judge_or_refuse
from xent.experiments.flags import parse, parse_known
from xent.train.chips import Chips, chips_of, device_count
from xent.train.errors import UsageError, require
from xent.train.interrupt import end
from xent.train.progress import make_console, say
from xent.train.sharding import make_mesh, parse_mesh

# An experiment is a module with its `Config` and `prepare(config, console)`, which gives its outline on each mesh.
STEPS = {
    "digits": "xent.experiments.fits.digits",
    "gan": "xent.experiments.fits.gan",
    "images": "xent.experiments.fits.images",
    "language_model": "xent.experiments.fits.language_model",
    "speech": "xent.experiments.fits.speech",
}
MESHLESS = ("saturation",)


@dataclass(frozen=True)
class Request:
    """What to compile an experiment's step for."""

    topology: str
    """The chips: v5e:16x16, h200:1x32x8 (slices x hosts x GPUs)."""
    mesh: str | None = None
    """How they share the work, data=32,model=8; not given: all split the batch."""
    batch: int | None = None
    """Examples a step, all chips together; the experiment's --batch-size."""
    sweep: bool = False
    """Try all meshes that the chips make, but for axes that split nothing, and rank those that fit by peak memory, then
    by bytes received."""
    out: Path | None = None
    """JSON file to write, which must not exist yet."""

    def __post_init__(self) -> None:
        """Check every range."""
        require("--sweep", True, not (self.sweep and self.mesh), "given without --mesh, since it tries them all")
        if self.mesh is not None:
            parse_mesh(self.mesh)


def main(arguments: Sequence[str]) -> None:
    """Compile, say what it takes, write the record."""
    if arguments and arguments[0] in ("-h", "--help"):
        arguments = [next(iter(STEPS)), "--help"]
    name, rest = _experiment(arguments)
    request, flags = parse_known(Request, rest, prog="xent fits EXPERIMENT", about=__doc__)
    refuse(request.out)
    module = importlib.import_module(STEPS[name])
    jax.config.update("jax_platforms", "cpu")  # otherwise JAX looks for the chips themselves
    devices = device_count(request.topology)
    mesh = request.mesh or f"data={devices}"
    axes = parse_mesh(mesh)
    whole = f"of {devices} devices, as {request.topology} has, and not of {math.prod(axes.values())}"
    require("--mesh", mesh, math.prod(axes.values()) == devices, whole)
    batch = [] if request.batch is None else [f"--batch-size={request.batch}"]
    config = parse(module.Config, [*flags, *batch, f"--mesh={mesh}"], prog=f"xent {name}")
    if not request.sweep:
        shares = f"a multiple of {axes['data']}, the devices of --mesh {mesh} that batches are split over"
        require("--batch", config.batch_size, config.batch_size % axes["data"] == 0, shares)
    chips = chips_of(request.topology)
    use_device(replace(config.run.device, platform="cpu"))
    console = make_console()
    say(console, "chips", f"{len(chips.devices)} x {chips.name} ({request.topology})")
    _compile(name, request, config, chips, axes, module.prepare(config, console), console)


def _experiment(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The name that comes first, and the rest."""
    if not arguments or arguments[0].startswith("-"):
        raise UsageError("xent fits takes an experiment first: xent fits language_model --topology v5e:16x16")
    name, *rest = arguments
    if name in MESHLESS:
        raise UsageError(f"xent fits {name}: it takes no mesh and runs on any device; there are {', '.join(STEPS)}")
    if name not in STEPS:
        near = difflib.get_close_matches(name, STEPS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(STEPS)}"
        raise UsageError(f"no experiment {name!r} to compile: {hint}")
    return name, rest


def _compile(
    name: str, request: Request, config: Any, chips: Chips, axes: Mapping[str, int],
    step: Callable[[Mesh], Outline], console: Console,
) -> None:  # fmt: skip
    outline = step(make_mesh(axes, chips.devices))
    if request.mesh is not None:
        require_split(request.mesh, outline.rules)
    say(console, "step", f"{name}: {outline.parameters:,} parameters, {outline.work}, {config.run.dtype}")
    stopped = None
    if request.sweep:
        with console.status("compiling"):
            tried = [each for each in meshes(len(chips.devices)) if not idle_axes(each, outline.rules)]
            judged, stopped = sweep(partial(judge_or_refuse, step, chips=chips), tried, partial(_line, console))
        verdicts = ranked(judged)
        console.print(table(verdicts, chips))
        for line in reasons(verdicts):
            console.print(line)
    else:
        with console.status("compiling"):
            verdicts = [judge(step, axes, chips)]
        say(console, "mesh", mesh_in_words(verdicts[0]))
        tell(console, verdicts[0], chips, config)
    if request.out is not None:
        finished = stopped is None
        write(request.out, to_record(name, request.topology, config, outline.parameters, chips, verdicts, finished))
        say(console, "wrote", str(request.out))
    if stopped is not None:
        end(stopped)
    if not any(one.fits for one in verdicts):
        sys.exit(1)


def _line(console: Console, verdict: Verdict) -> None:
    say(console, "tried", f"{mesh_in_words(verdict)}: {in_a_word(verdict)}, {verdict.seconds:.1f} s")
