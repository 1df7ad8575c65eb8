"""What a benchmark's JSON file holds, as JSON Schema: `xent bench --out` writes it and `xent compare` reads it."""

from typing import Any

VERSION = 3
"""Changes when a reader of older files would misread a newer one."""


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_SECONDS = {"type": "number", "minimum": 0}
_FREE = {"type": "object"}

_COMPILE = _object(
    {
        "trace": {**_SECONDS, "description": "seconds, as all times here"},
        "lower": _SECONDS,
        "compile": _SECONDS,
        "temporary": {**_or_null(_COUNT), "description": "bytes that the program needs beside arguments and results"},
        "peak": {**_or_null(_COUNT), "description": "bytes of all that a device holds at most while it runs"},
        "moved": {**_or_null(_COUNT), "description": "bytes of arguments and results: what must move at least"},
        "flops": {
            **_or_null({"type": "number", "minimum": 0}),
            "description": "floating-point operations of one call, counted before compilation; a loop's body counts "
            "once there, and this is already multiplied",
        },
    }
)

_CASE = _object(
    {
        "name": {**_TEXT, "description": "within its measurement: ours, optax, PyTorch, copy, again"},
        "units": {"type": "integer", "minimum": 1, "description": "what a call does, in the measurement's unit"},
        "build": {**_SECONDS, "description": "making arrays and programs, transfers and compilation included"},
        "compile": _or_null(_COMPILE),
        "warm_up": {**_SECONDS, "description": "the first call, which is no sample"},
        "seconds": {"type": "array", "items": _SECONDS, "minItems": 1, "description": "entry r is round r's call"},
        "calls": {
            "type": "integer",
            "minimum": 1,
            "description": "calls that a sample is the mean of: one, but for those too short to be timed alone",
        },
    },
    optional=("calls",),
)

_MEASUREMENT = _object(
    {
        "benchmark": {"enum": ["losses", "fused", "train", "peaks", "save"]},
        "name": {**_TEXT, "description": "the same on every machine, so that files can be joined by it"},
        "of": {
            **_FREE,
            "description": "what the name says, for machines: loss, batch, classes, units, tokens, dtype, what, ...",
        },
        "dtype": {**_TEXT, "description": "of the arrays, float32 or bfloat16"},
        "unit": {**_TEXT, "description": "what `units` counts: example, token, step, byte, product"},
        "ratios_to": {**_TEXT, "description": "the name of the case that ratios within this measurement are to"},
        "null": {
            **_or_null(_TEXT),
            "description": "the name of the case that is that one a second time: their ratio is noise alone",
        },
        "order": {
            "type": "array",
            "items": {"type": "array", "items": _COUNT},
            "description": "of each round, the numbers of the cases as they took their turns",
        },
        "curve": {
            **_or_null({"type": "array", "items": {"type": "number"}}),
            "description": "training only: our loss of each step, in nats, from seeds that do not depend on the device",
        },
        "cases": {"type": "array", "items": _CASE, "minItems": 1},
    }
)

_ENVIRONMENT = _object(
    {
        "versions": {"type": "object", "additionalProperties": _TEXT},
        "python": _TEXT,
        "system": _TEXT,
        "device": {**_TEXT, "description": "the chip's name; on a CPU, as the operating system names it"},
        "backend": {"enum": ["cpu", "gpu", "tpu"]},
        "devices": {"type": "integer", "minimum": 1},
        "cores": {"type": "integer", "minimum": 1, "description": "processors that this process may use"},
        "clock_mhz": {**_or_null({"type": "number"}), "description": "of the chip now, where it can be read"},
        "matmul_precision": {**_or_null(_TEXT), "description": "--matmul-precision; null is the platform's own"},
        "xla_flags": _TEXT,
        "commit": {**_or_null(_TEXT), "description": "a + behind it: files differed; null outside of a checkout"},
    }
)

RECORD: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "a run of xent bench",
    **_object(
        {
            "schema": {"const": VERSION},
            "benchmark": {"enum": ["losses", "fused", "train", "peaks", "save", "all"]},
            "flags": _FREE,
            "began": {**_TEXT, "description": "date and time, ISO 8601, UTC"},
            "finished": {"type": "boolean", "description": "false in a file that was saved as it went and never ended"},
            "environment": _ENVIRONMENT,
            "measurements": {"type": "array", "items": _MEASUREMENT},
        }
    ),
}
