"""What the devices of a compiled program send each other in one run of it, read from the program's text."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import jax

from xent.train.compiled import arrays_in

_KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast"
_COLLECTIVE = re.compile(rf"= (\(?[^=]*?) ({_KINDS})(-start)?\(")
_COMMENT = re.compile(r"/\*index=\d+\*/")
"""In the type of a tuple of more than five arrays."""
_CALLED = re.compile(r"(?:calls|to_apply|condition|body|\w+_computation)=%([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations={([^}]*)}")
_SIZES = {"pred": 1, "s4": 0.5, "u4": 0.5}


class Collective(NamedTuple):
    """One instruction by which devices exchange something."""

    kind: str
    """`all-gather`, `all-reduce`, `reduce-scatter`, `all-to-all`, `collective-permute`, ..."""
    shapes: tuple[tuple[int, ...], ...]
    """Of the arrays of one device that come out of it; of a reduce-scatter that a TPU's compiler writes as an
    all-reduce and a slice, before the slice."""
    size: int = 0
    """Bytes of these arrays."""
    devices: int | None = None
    """How many exchange with each other; None if the text does not say."""
    times: int = 1
    """How often a run of the program comes by, loops counted; one whose length the text does not say counts once."""

    @property
    def largest(self) -> int:
        """Numbers in the largest of these arrays."""
        return max((math.prod(shape) for shape in self.shapes), default=0)

    @property
    def received(self) -> int:
        """Bytes that reach a device in a run of the program, if devices pass parts on in a ring, as they do at best."""
        share = 1.0 if self.devices is None else (self.devices - 1) / self.devices
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}.get(self.kind, share)
        return round(self.size * factor) * self.times


class Total(NamedTuple):
    """All collectives of a kind in a run of a program."""

    kind: str
    instructions: int
    """In the program's text."""
    times: int
    """That they run, loops counted."""
    received: int
    """Bytes that reach a device."""


def collectives(compiled: jax.stages.Compiled) -> list[Collective]:
    """Every instruction of a program by which devices exchange something."""
    return collectives_in(compiled.as_text() or "")


def collectives_in(text: str) -> list[Collective]:
    """The same of a program's text, in XLA's HLO.

    Example:
      >>> [found] = collectives_in("  %x = f32[8]{0} all-reduce(%y), replica_groups=[2,4]<=[8], to_apply=%add")
      >>> found.kind, found.size, found.devices, found.received
      ('all-reduce', 32, 4, 48)
    """
    bodies = dict(_computations(_COMMENT.sub("", text)))
    times = _times(bodies)
    found, chains = [], set()
    for name, lines in bodies.items():
        for line in lines:
            match = _COLLECTIVE.search(line)
            if match is None:
                continue
            chain = re.search(r'chain_id="(\d+)"', line)
            if chain:  # a TPU sends while it computes: one collective is then an instruction in each of some fusions
                key = (match[2], chain[1], _after("channel_id=", line))
                if key in chains:
                    continue
                chains.add(key)
            found.append(_read(name, line, match)._replace(times=times(name)))
    return found


def totals(found: Sequence[Collective]) -> list[Total]:
    """Add the collectives up by kind, the kind that sends most first.

    Example:
      >>> totals([Collective("all-gather", ((3,),), 12, 4, times=2), Collective("all-gather", ((4,),), 16, 4)])
      [Total(kind='all-gather', instructions=2, times=3, received=30)]
    """
    kinds = {one.kind for one in found}
    of = {kind: [one for one in found if one.kind == kind] for kind in kinds}
    sums = [Total(k, len(v), sum(one.times for one in v), sum(one.received for one in v)) for k, v in of.items()]
    return sorted(sums, key=lambda total: (-total.received, total.kind))


def count(found: Sequence[Collective]) -> Mapping[str, int]:
    """How many instructions of each kind.

    Example:
      >>> count([Collective("all-gather", ((2, 3),)), Collective("all-gather", ((3,),))])
      {'all-gather': 2}
    """
    return {total.kind: total.instructions for total in sorted(totals(found))}


def _read(computation: str, line: str, match: re.Match[str]) -> Collective:
    results, kind, start = match.groups()
    if start and kind != "all-reduce":  # (operands, results, ...)
        results = _second(results)
    arrays = arrays_in(results)
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    size = round(sum(_bytes(dtype) * math.prod(shape) for dtype, shape in arrays))
    devices = _devices(line)
    if kind == "reduce-scatter" and match[2] == kind:
        size *= devices or 1  # the arrays that go in
    return Collective(kind, tuple(shape for _, shape in arrays), size, devices)


def _second(types: str) -> str:
    """Of the type of a tuple, the second entry, a tuple itself or an array; the whole if there is none."""
    depth, begins = 0, [1]
    for place, sign in enumerate(types):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 1:
            begins.append(place + 1)
    return types[begins[1] : begins[2] - 1 if len(begins) > 2 else None] if len(begins) > 1 else types


def _bytes(dtype: str) -> float:
    width = re.search(r"\d+", dtype)
    return _SIZES.get(dtype, int(width[0]) / 8 if width else 1)


def _devices(line: str) -> int | None:
    """How many devices are in a group: XLA writes groups out, as an array, or as axes of a mesh."""
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return match[1].count(",") + 1
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        named = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match[2])  # an axis, or a part of one
        return math.prod(int(part or sizes[axis]) for axis, part in named)
    return None


def _after(label: str, line: str) -> str:
    return line.partition(label)[2].partition(",")[0]


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
    """The name and the instructions of each computation; the first of all programs is called ENTRY."""
    name, lines = "ENTRY", list[str]()
    for line in text.splitlines():
        if line[:1] in "%E" and line.endswith("{"):  # not indented: a computation begins
            yield name, lines
            name, lines = "ENTRY" if line.startswith("ENTRY") else line[1:].partition(" ")[0], []
        else:
            lines.append(line)
    yield name, lines


def _times(bodies: Mapping[str, Sequence[str]]) -> Callable[[str], int]:
    """How often each computation runs, as a function of its name."""
    calls = defaultdict[str, list[tuple[str, int]]](list)
    for caller, lines in bodies.items():
        for line in lines:
            if "=%" not in line and "branch_computations" not in line:
                continue
            body = _after("body=%", line) if " while(" in line else ""
            for called in _CALLED.findall(line) + re.findall(r"%([\w.-]+)", "".join(_BRANCHES.findall(line))):
                calls[called].append((caller, _trips(line, bodies) if called == body else 1))

    @cache
    def times(name: str) -> int:
        return 1 if name == "ENTRY" else sum(times(caller) * n for caller, n in calls[name]) or 1

    return times


def _trips(line: str, bodies: Mapping[str, Sequence[str]]) -> int:
    """How often a loop runs: a GPU's compiler notes it, else it is what a counter from 0 is compared with."""
    if noted := re.search(r'known_trip_count":\{"n":"(\d+)"', line):
        return int(noted[1])
    condition = bodies.get(_after("condition=%", line), ())
    constants = dict(re.findall(r"%([\w.-]+) = s32\[\]\S* constant\((\d+)\)", "\n".join(condition)))
    compared = re.search(r"compare\(%[\w.-]+, %([\w.-]+)\), direction=LT", "\n".join(condition))
    return int(constants.get(compared[1], 1)) if compared else 1
