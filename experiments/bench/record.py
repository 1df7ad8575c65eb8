"""What a benchmark found, for machines: measurements with every sample, and what they depend on."""

import os
import platform
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from xent.experiments.bench.engine import Compile, Timing
from xent.experiments.bench.estimate import Estimate, estimate, ratio
from xent.experiments.device import chip_name, clock_mhz
from xent.experiments.versions import commit, versions


class Measured(NamedTuple):
    """One entry of a file's `measurements`, whose form `schema.py` fixes."""

    benchmark: str
    name: str
    """The same on every machine."""
    of: dict[str, Any]
    """What the name says, for machines."""
    dtype: str
    unit: str
    ratios_to: str
    """The name of a case."""
    null: str | None
    """The name of the case that is that one a second time."""
    order: tuple[tuple[int, ...], ...]
    curve: tuple[float, ...] | None
    cases: tuple[Timing, ...]

    def case(self, name: str) -> Timing | None:
        """The case of this name, if it was measured."""
        return next((case for case in self.cases if case.name == name), None)

    @property
    def own(self) -> Timing | None:
        """What machines are compared by: our own code, or where it takes no part what ratios are to."""
        return self.case("ours") or self.case(self.ratios_to)

    def time(self, name: str, scale: float = 1.0) -> Estimate | None:
        """Seconds that a unit takes, times `scale`."""
        case = self.case(name)
        return case and estimate([second * scale for second in case.per_unit])

    def ratio(self, name: str | None) -> Estimate | None:
        """How many times as long a unit takes as in the case that ratios are to."""
        case, base = self.case(name or ""), self.case(self.ratios_to)
        if case is None or base is None:
            return None
        return ratio(case.per_unit, base.per_unit)


def to_json(measured: Measured) -> dict[str, Any]:
    """Make the entry of a file."""
    cases = [
        {**case._asdict(), "compile": case.compile and case.compile._asdict(), "seconds": list(case.seconds)}
        for case in measured.cases
    ]
    curve = None if measured.curve is None else list(measured.curve)
    return {**measured._asdict(), "order": [list(turns) for turns in measured.order], "curve": curve, "cases": cases}


def from_json(entry: Mapping[str, Any]) -> Measured:
    """Read the entry of a file."""
    cases = tuple(
        Timing(**{**case, "compile": case["compile"] and Compile(**case["compile"]), "seconds": tuple(case["seconds"])})
        for case in entry["cases"]
    )
    curve = None if entry["curve"] is None else tuple(entry["curve"])
    order = tuple(tuple(turns) for turns in entry["order"])
    return Measured(**{**entry, "order": order, "curve": curve, "cases": cases})


def cores() -> int:
    """Processors that this process may use: as many threads as XLA:CPU starts."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def software(*packages: str) -> dict[str, Any]:
    """Return what a result depends on besides flags and machine: of `packages`, versions too, where installed."""
    return {
        "versions": versions(*packages),
        "python": platform.python_version(),
        "system": platform.platform(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "commit": commit(),
    }


def environment(precision: str) -> dict[str, Any]:
    """Return what a result depends on besides its flags; `precision` is that of float32 products, as asked for."""
    return {
        **software("torch"),
        "device": chip_name(),
        "backend": jax.default_backend(),
        "devices": jax.device_count(),
        "cores": cores(),
        "clock_mhz": clock_mhz(),
        "matmul_precision": None if precision == "default" else precision,
    }
