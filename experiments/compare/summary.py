"""The comparison in sentences and in one table of machines: what the terminal prints first and the page opens with."""

import statistics
from collections.abc import Sequence

from xent.experiments.compare.curves import agreements
from xent.experiments.compare.joining import Joined
from xent.experiments.compare.part import Table
from xent.experiments.compare.reading import Machine
from xent.experiments.compare.roofline import measured_roof
from xent.experiments.compare.speed_ups import compare
from xent.experiments.formats import listed, number, plural, short_commit, with_unit


def sentences(joined: Joined, machines: Sequence[Machine]) -> list[str]:
    """Say what was found, a sentence or two for each machine but the first."""
    first = machines[0].label
    every = [each for row in joined.rows for each in compare(row) if each.base == first]
    curves = agreements(joined)
    said = []
    for machine in machines[1:]:
        mine = [each for each in every if each.other == machine.label]
        if not mine:
            said.append(f"{machine.label} and {first} have no measurement in common.")
            continue
        count = {word: sum(each.verdict == word for each in mine) for word in (
            "faster", "slower", "no difference shown", "too few samples")}  # fmt: skip
        ups = [each.found.median for each in mine]
        unsaid = [f"{word} in {count[word]}" for word in ("no difference shown", "too few samples") if count[word]]
        counted = [f"{word} in {count[word]}" for word in ("faster", "slower") if count[word]]
        half = f"half of them at {number(statistics.median(ups))} times its speed or more"
        ends = f"(from {number(min(ups))} to {number(max(ups))})"
        said.append(
            f"{machine.label} is, beside {first}, {listed([*counted, *unsaid])} of "
            f"{plural(len(mine), 'measurement')} that both have, {half} {ends}."
        )
        largest = [one.largest for one in curves if one.other == machine.label and one.base == first]
        if largest:
            said.append(f"Its losses in training stay within {max(largest):.1e} of those of {first}, relatively.")
    return said


def machine_table(machines: Sequence[Machine]) -> Table:
    """Lay out what was measured on what, a row a machine."""
    header = ("", "device", "devices", "processor cores", "clock", "commit", "float32 products", "measured peaks",
              "a case beside itself", "measured")  # fmt: skip
    return Table(header, [_machine(machine) for machine in machines], len(header))


def _machine(machine: Machine) -> list[str]:
    its = machine.environment
    clock = f"{its['clock_mhz']:,.0f} MHz" if its["clock_mhz"] else "not readable"
    began = machine.record["began"].replace("T", " ")[:16]
    when = f"{began} UTC" + ("" if machine.record["finished"] else ", unfinished")
    roof = measured_roof(machine)
    peaks = [with_unit(max(roof.flops.values()), "FLOP/s")] if roof.flops else []
    peaks += [with_unit(roof.bandwidth, "B/s")] if roof.bandwidth else []
    return [
        machine.label, its["device"], f"{its['devices']} {its['backend']}", str(its["cores"]), clock,
        short_commit(its["commit"] or "unknown"), its["matmul_precision"] or "the platform's own",
        ", ".join(peaks) or "not measured", null_test(machine), when,
    ]  # fmt: skip


def null_test(machine: Machine) -> str:
    """Count how often the interval of a case beside itself holds 1: noise alone should leave it in 19 times of 20."""
    held = []
    for measured in machine.measurements.values():
        found = measured.ratio(measured.null)
        if found is not None:
            held.append(found.low <= 1 <= found.high)
    return f"1 is in {sum(held)} of {plural(len(held), 'interval')}" if held else "not measured"


def version_table(machines: Sequence[Machine]) -> Table:
    """Lay out versions, a row a package, and what else a machine ran with."""
    names = dict.fromkeys(name for machine in machines for name in machine.environment["versions"])
    rows = [[name, *(machine.environment["versions"].get(name, "") for machine in machines)] for name in names]
    rows.append(["Python", *(machine.environment["python"] for machine in machines)])
    rows.append(["system", *(machine.environment["system"] for machine in machines)])
    rows.append(["XLA_FLAGS", *(machine.environment["xla_flags"] or "none" for machine in machines)])
    return Table(("", *(machine.label for machine in machines)), rows, 1 + len(machines))


def left_out(joined: Joined, machines: Sequence[Machine]) -> list[str]:
    """List what no speed-up is given for, a line a machine or measurement."""
    lines = []
    for machine in machines:
        names = [f"{name} ({benchmark})" for (benchmark, name), label in joined.alone if label == machine.label]
        if names:
            lines.append(f"Only {machine.label} has: {'; '.join(names)}.")
    return lines + [
        f"{name} ({benchmark}) is not the same work everywhere: {differing}."
        for (benchmark, name), differing in joined.unequal
    ]
