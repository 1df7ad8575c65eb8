"""SIMULATED files of `xent bench`, for tests alone: nothing in them was measured.

Times follow a roofline of each invented machine with lognormal noise, so that a comparison of them looks like a real
one. `write(folder)` writes cpu.json, h200.json and v5e.json.
"""

import json
import random
from pathlib import Path
from typing import Any

from xent.experiments.bench.schema import VERSION

# Operations a second of float32 and bfloat16, bytes a second, seconds to start a call, seconds to compile, noise.
MACHINES = {
    "cpu": (9e10, 1.1e11, 1.3e10, 2e-5, 0.35, 0.08),
    "h200": (4.2e14, 7.3e14, 4.1e12, 6e-6, 1.9, 0.02),
    "v5e": (6.1e13, 1.7e14, 6.9e11, 9e-6, 2.6, 0.01),
}
ENVIRONMENTS = {
    "cpu": {"device": "Imaginary EPYC 7B13 64-Core Processor", "backend": "cpu", "cores": 2, "clock_mhz": 2450.0},
    "h200": {"device": "NVIDIA H200", "backend": "gpu", "cores": 16, "clock_mhz": 1980.0},
    "v5e": {"device": "TPU v5 lite", "backend": "tpu", "cores": 112, "clock_mhz": None},
}


def seconds(label: str, flops: float, moved: float, dtype: str, draw: random.Random, rounds: int) -> list[float]:
    """Sample the time of a call."""
    float32, bfloat16, bandwidth, start, _, noise = MACHINES[label]
    best = max(flops / (float32 if dtype == "float32" else bfloat16), 1.4 * moved / bandwidth) + start
    return [best * draw.lognormvariate(0, noise) for _ in range(rounds)]


def case(label: str, name: str, draw: random.Random, *, dtype: str, flops: float, moved: float, units: int,
         temporary: int = 2**20, rounds: int = 11) -> dict[str, Any]:  # fmt: skip
    """Simulate one case."""
    slow = MACHINES[label][4] * draw.uniform(0.8, 1.3)
    compiled = {"trace": 0.1 * slow, "lower": 0.05 * slow, "compile": slow, "temporary": temporary,
                "peak": temporary + int(moved), "moved": int(moved), "flops": flops}  # fmt: skip
    times = seconds(label, flops, moved, dtype, draw, rounds)
    return {"name": name, "units": units, "build": 2 * slow, "compile": compiled, "warm_up": times[0], "seconds": times}


def measurement(benchmark: str, name: str, of: dict[str, Any], dtype: str, unit: str, cases: list[dict[str, Any]],
                curve: list[float] | None = None) -> dict[str, Any]:  # fmt: skip
    """Bring cases together; the first is what ratios are to."""
    first = cases[0]["name"]
    null = next((each["name"] for each in cases if each["name"] == f"{first}, again"), None)
    rounds = len(cases[0]["seconds"])
    order = [list(range(len(cases)))] * rounds
    return {"benchmark": benchmark, "name": name, "of": of, "dtype": dtype, "unit": unit, "ratios_to": first,
            "null": null, "order": order, "curve": curve, "cases": cases}  # fmt: skip


def losses(label: str, draw: random.Random) -> list[dict[str, Any]]:
    """Simulate `xent bench losses`."""
    found = []
    for loss in ("integer", "soft", "sigmoid"):
        for batch, classes in ((65536, 10), (8192, 1000), (512, 32768)):
            for dtype, what in (("float32", "value"), ("float32", "gradient"), ("bfloat16", "gradient")):
                held = batch * classes * (4 if dtype == "float32" else 2)
                moved = held * (2 if what == "gradient" else 1) * (2 if loss == "soft" else 1) + 4 * batch
                shared = {"dtype": "float32", "moved": moved, "units": batch}
                cases = [
                    case(label, name, draw, flops=factor * batch * classes, **shared)
                    for name, factor in (("optax", 7), ("ours", 9), ("copy", 1), ("optax, again", 7))
                ]
                of = {"loss": loss, "batch": batch, "classes": classes, "dtype": dtype, "what": what}
                name = f"{loss}, {batch} x {classes}, {dtype}, {what}"
                found.append(measurement("losses", name, of, dtype, "example", cases))
    return found


def fused(label: str, draw: random.Random) -> list[dict[str, Any]]:
    """Simulate `xent bench fused`; the chips do one head more than the CPU."""
    found = []
    for tokens, units, classes in ((2048, 512, 4096), (2048, 512, 32768), (2048, 512, 131072))[: 2 + (label != "cpu")]:
        for what, factor in (("value", 2), ("gradients", 6)):
            moved = 4 * (tokens * units + units * classes) * (2 if what == "gradients" else 1)
            cases = [
                case(label, name, draw, dtype="float32", flops=factor * tokens * units * classes * more, moved=moved,
                     units=tokens, temporary=temporary)
                for name, more, temporary in (
                    ("optax", 1.0, 8 * tokens * classes), ("ours", 1.05, 4 * tokens * 1024 + 4 * units * 2048),
                    ("optax, again", 1.0, 8 * tokens * classes),
                )
            ]  # fmt: skip
            of = {"tokens": tokens, "units": units, "classes": classes, "dtype": "float32", "what": what}
            found.append(measurement("fused", f"{what}, {tokens} x {units} x {classes}", of, "float32", "token", cases))
    return found


def train(label: str, draw: random.Random) -> list[dict[str, Any]]:
    """Simulate `xent bench train`."""
    found = []
    sizes = {"digits": ((64, 256, 1024), 2.4e6, 1.6e6), "language_model": ((4, 16), 2.5e8, 1.1e7)}
    rough = {"cpu": 0.0, "h200": 4e-5, "v5e": 6e-4}[label]
    for experiment, (batches, flops, parameters) in sizes.items():
        for batch in batches:
            steps = 200
            more = {"dtype": "float32", "flops": steps * batch * flops, "units": steps, "rounds": 22}
            moved = steps * (6 * parameters + batch * 3200)
            cases = [
                case(label, name, draw, moved=moved, **more) for name in ("ours", "plain optax script", "ours, again")
            ]
            curve = [2.3 * 0.985**step * (1 + rough * draw.gauss(0, 1) * step / 40) for step in range(60)]
            of = {"experiment": experiment, "what": "step", "batch": batch}
            found.append(measurement("train", f"{experiment}, batch {batch}", of, "float32", "step", cases, curve))
    return found


def peaks(label: str, draw: random.Random) -> list[dict[str, Any]]:
    """Simulate `xent bench peaks`; matrices are larger on chips."""
    size, mebibytes = (2048, 256) if label == "cpu" else (16384, 1024)
    found = []
    for dtype, precision in (("float32", "default"), ("float32", "highest"), ("bfloat16", "default")):
        slower = 7.0 if precision == "highest" and label != "cpu" else 1.0
        cases = [case(label, "product", draw, dtype=dtype, flops=slower * 2 * size**3, moved=12 * size**2, units=1)]
        of = {"what": "product", "size": size, "precision": precision}
        found.append(measurement("peaks", f"product, {dtype}, {precision}", of, dtype, "product", cases))
    moved = 2 * mebibytes * 2**20
    copied = [case(label, "copy", draw, dtype="float32", flops=0.0, moved=moved, units=moved)]
    of = {"what": "copy", "bytes": moved // 2}
    return [*found, measurement("peaks", "copy, float32", of, "float32", "byte", copied)]


def record(label: str, **environment: Any) -> dict[str, Any]:
    """Simulate a whole file."""
    draw = random.Random(label)
    versions = {"xent": "0.1.0", "jax": "0.10.2" if label == "cpu" else "0.12.0", "optax": "0.2.8"}
    its = {
        "versions": versions, "python": "3.11.7", "system": "SIMULATED", "devices": 1, "matmul_precision": None,
        "xla_flags": "", "commit": "0123456789abcdef0123456789abcdef01234567", **ENVIRONMENTS[label], **environment,
    }  # fmt: skip
    flags = {"bench": {"rounds": None, "quick": False, "seed": 0, "device": {"platform": label}}}
    return {
        "schema": VERSION, "benchmark": "all", "flags": flags, "began": "2026-01-05T09:30:00+00:00", "finished": True,
        "environment": its,
        "measurements": [*losses(label, draw), *fused(label, draw), *train(label, draw), *peaks(label, draw)],
    }  # fmt: skip


def write(folder: Path) -> list[Path]:
    """Write a file for each invented machine; gives their paths, the CPU's first."""
    files = []
    for label in MACHINES:
        files.append(folder / f"{label}.json")
        files[-1].write_text(json.dumps(record(label)))
    return files


if __name__ == "__main__":
    print(*write(Path.cwd()))
