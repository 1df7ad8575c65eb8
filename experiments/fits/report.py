"""What a verdict is for people (labelled lines, a table of a sweep) and for machines (one JSON file)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from xent.experiments.bench.record import software
from xent.experiments.fits.verdict import Verdict
from xent.experiments.formats import size
from xent.train.chips import GPUS, Chips
from xent.train.progress import say

SCHEMA = 1
"""Changes when a reader of older files would misread a newer one."""
PREALLOCATED = 0.75
"""Of a GPU's memory, what JAX takes unless it is told otherwise: https://docs.jax.dev/en/latest/gpu_memory_allocation.html"""


def _bytes(count: float) -> str:
    """To the digits in which makers tell memories, 15.75 GiB."""
    return size(count, digits=4)


def mesh_in_words(verdict: Verdict) -> str:
    """As --mesh takes it."""
    return ",".join(f"{axis}={count}" for axis, count in verdict.mesh.items())


def tell(console: Console, verdict: Verdict, chips: Chips, config: Any) -> None:
    """Say whether it fits, and what of."""
    say(console, "memory", _memory(verdict, chips))
    if verdict.fits:
        say(console, "fits", "yes" + _share_note(verdict, chips))
    else:
        say(console, "fits", f"does not fit: {verdict.reason}")
        say(console, "try", advice(config))
    for number, total in enumerate(verdict.collectives):
        where = f"{total.kind:<19}{total.times:>6} times ({total.instructions} instructions)"
        say(console, "sends" if number == 0 else "", f"{where:<50}{_bytes(total.received):>12} a chip")
    if verdict.fits and not verdict.collectives:
        say(console, "sends", "nothing")
    say(console, "compiled", f"in {verdict.seconds:.1f} s")


def _memory(verdict: Verdict, chips: Chips) -> str:
    peak, limit = verdict.peak, chips.memory
    if peak is None:
        return f"more than the {_bytes(limit) if limit else 'memory'} of a chip"
    share = f", {_percent(peak / limit)} of {_bytes(limit)}" if limit else ""
    return f"{_bytes(peak)} a chip {'at least' if verdict.refused else 'at the peak'}{share}"


def _percent(share: float) -> str:
    return f"{share * 100:.{3 if share < 10 else 6}g} %"


def _share_note(verdict: Verdict, chips: Chips) -> str:
    gpu = any(chips.name == known.name for known in GPUS.values())
    if gpu and chips.memory and (verdict.peak or 0) > PREALLOCATED * chips.memory:
        return f", with XLA_PYTHON_CLIENT_MEM_FRACTION above JAX's own {PREALLOCATED}"
    return ""


def advice(config: Any) -> str:
    """What may make a step fit: flags of the experiment that save memory and are not set, then what always helps.

    Example:
      >>> advice(object())
      "more on --mesh's model axis (--sweep tries all), a smaller --batch"
    """
    off = [f"--{name.replace('_', '-')}" for name in _SAVERS if getattr(config, name, True) is False]
    return ", ".join([*off, "more on --mesh's model axis (--sweep tries all)", "a smaller --batch"])


_SAVERS = ("fused", "fully_sharded", "recompute")


def table(verdicts: Sequence[Verdict], chips: Chips) -> Table:
    """Lay a sweep out, in the order given; `reasons` are for below."""
    result = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    result.add_column("mesh", no_wrap=True)
    for header in ("peak", "of a chip", "received a step", "compile s"):
        result.add_column(header, justify="right", no_wrap=True)
    result.add_column("", no_wrap=True)
    for one in verdicts:
        share = _percent(one.peak / chips.memory) if one.peak is not None and chips.memory else "-"
        received = _bytes(one.received) if one.fits else "-"
        peak = _bytes(one.peak) if one.peak is not None else "-"
        result.add_row(mesh_in_words(one), peak, share, received, f"{one.seconds:.1f}", in_a_word(one))
    return result


def in_a_word(verdict: Verdict) -> str:
    """Whether it fits, or was not even tried."""
    return "fits" if verdict.fits else "does not fit" if verdict.seconds else "cannot be split so"


def reasons(verdicts: Sequence[Verdict]) -> list[str]:
    """A line for each mesh that does not do."""
    return [f"{mesh_in_words(one)}: {one.reason}" for one in verdicts if not one.fits]


def to_record(
    experiment: str, topology: str, config: Any, parameters: int | None, chips: Chips, verdicts: Sequence[Verdict],
    finished: bool,
) -> dict[str, Any]:  # fmt: skip
    """Make the JSON-able record.

    Args:
      experiment: its name.
      topology: as it was asked for.
      config: the experiment's flags.
      parameters: numbers that are trained; None if no mesh could be outlined.
      chips: what was compiled for.
      verdicts: one a mesh, best first.
      finished: false if a sweep was stopped.
    """
    return {
        "schema": SCHEMA,
        "kind": "compiled",
        "experiment": experiment,
        "topology": topology,
        "device": chips.name,
        "devices": len(chips.devices),
        "memory": chips.memory,
        "flags": dataclasses.asdict(config),
        "parameters": parameters,
        "finished": finished,
        "meshes": [
            {
                "mesh": dict(one.mesh),
                "fits": one.fits,
                "refused": one.refused,
                "peak": one.peak,
                "reason": one.reason,
                "collectives": [total._asdict() for total in one.collectives],
                "received": one.received,
                "compile_seconds": round(one.seconds, 2),
            }
            for one in verdicts
        ],
        "environment": software("libtpu", "jax-cuda13-pjrt"),
    }
