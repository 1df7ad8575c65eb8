"""What several files have in common, what only one has, and in what they differ before any number is compared."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from xent.experiments.bench.record import Measured
from xent.experiments.compare.reading import Key, Machine
from xent.experiments.formats import short_commit


class Row(NamedTuple):
    """A measurement that two machines or more have."""

    key: Key
    on: Mapping[str, Measured]
    """By label, in the order of the files."""


class Joined(NamedTuple):
    """All measurements of all files."""

    rows: tuple[Row, ...]
    alone: tuple[tuple[Key, str], ...]
    """Those that only one file has, and its label."""
    unequal: tuple[tuple[Key, str], ...]
    """Those whose name is the same on several machines and whose work is not, and in what they differ."""


def join(machines: Sequence[Machine]) -> Joined:
    """Bring together what was measured under the same name."""
    keys = dict.fromkeys(key for machine in machines for key in machine.measurements)
    rows, alone, unequal = [], [], []
    for key in keys:
        on = {machine.label: machine.measurements[key] for machine in machines if key in machine.measurements}
        if len(on) == 1:
            alone.append((key, next(iter(on))))
        elif differing := _unequal(on):
            unequal.append((key, differing))
        else:
            rows.append(Row(key, on))
    return Joined(tuple(rows), tuple(alone), tuple(unequal))


def _unequal(on: Mapping[str, Measured]) -> str:
    """In what the work of one name differs between machines."""
    described = {label: {"unit": m.unit, "dtype": m.dtype, **flat(m.of)} for label, m in on.items()}
    return "; ".join(_differing(described))


def flat(values: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    """Turn nested objects into one, with the path to a value as its name.

    Example:
      >>> flat({"rounds": 3, "bench": {"seed": 0}})
      {'rounds': 3, 'bench.seed': 0}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{inside}{name}.")
        else:
            found[inside + name] = value
    return found


def _differing(described: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Name what is not the same for all labels, with who has what."""
    names = dict.fromkeys(name for values in described.values() for name in values)
    for name in names:
        values = {label: _shown(named.get(name)) for label, named in described.items()}
        if len({*values.values()}) > 1:
            groups = itertools.groupby(sorted(values, key=lambda label: values[label]), key=lambda label: values[label])
            said = {value: list(labels) for value, labels in groups}
            ordered = sorted(said, key=lambda value: list(values).index(said[value][0]))
            yield f"{name}: " + ", ".join(f"{value} ({', '.join(said[value])})" for value in ordered)


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "none"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


_NOT_WHAT_IS_MEASURED = ("out", "platform")


def cautions(machines: Sequence[Machine]) -> list[str]:
    """Say in sentences what else than the machine differs between files, and what is not as it seems."""
    by_label = {machine.label: machine for machine in machines}
    said = [
        f"{machine.label} is unfinished: its run was stopped, and what it did not come to is missing."
        for machine in machines if not machine.record["finished"]
    ]  # fmt: skip
    commits = {label: machine.environment["commit"] for label, machine in by_label.items()}
    short = {label: {"Commit": commit and short_commit(commit)} for label, commit in commits.items()}
    said += [f"{text}. Different code was measured." for text in _differing(short)]
    said += [
        f"{label} was measured with {'code that no commit names' if commit is None else 'changes beside its commit'}."
        for label, commit in commits.items() if commit is None or commit.endswith("+")
    ]  # fmt: skip
    versions = {
        label: {**m.environment["versions"], "Python": m.environment["python"]} for label, m in by_label.items()
    }
    if differing := list(_differing(versions)):
        said.append(f"Versions differ. {'; '.join(differing)}.")
    said += _of_precision(by_label)
    flags = {
        label: {
            name: value
            for name, value in flat(machine.record["flags"]).items()
            if name.rpartition(".")[2] not in _NOT_WHAT_IS_MEASURED
        }
        for label, machine in by_label.items()
    }
    if differing := list(_differing(flags)):
        said.append(f"Flags of xent bench differ. {'; '.join(differing)}.")
    return said


def _of_precision(machines: Mapping[str, Machine]) -> Iterator[str]:
    asked = {label: {"--matmul-precision": m.environment["matmul_precision"]} for label, m in machines.items()}
    xla = {label: {"XLA_FLAGS": m.environment["xla_flags"]} for label, m in machines.items()}
    yield from (f"{text}." for text in itertools.chain(_differing(asked), _differing(xla)))
    rough = [label for label, m in machines.items() if _rough(m.environment)]
    if rough and len(rough) < len(machines):
        yield (
            f"float32 is not the same everywhere: on {', '.join(rough)} a product of float32 matrices may be computed "
            "with fewer bits (TF32 on NVIDIA's GPUs, bfloat16 on TPUs), since xent bench was not given "
            "--matmul-precision highest; the others compute it whole. That is part of the speed-up."
        )


def _rough(environment: Mapping[str, Any]) -> bool:
    return environment["backend"] != "cpu" and environment["matmul_precision"] in (None, "default", "high")
