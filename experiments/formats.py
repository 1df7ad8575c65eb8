"""Numbers as people read them: three significant digits, with a unit."""

import math

from xent.experiments.bench.estimate import Estimate

_PREFIXES = {1e-9: "n", 1e-6: "µ", 1e-3: "m", 1.0: "", 1e3: "k", 1e6: "M", 1e9: "G", 1e12: "T", 1e15: "P"}
_BINARY = {1: "B", 2**10: "KiB", 2**20: "MiB", 2**30: "GiB", 2**40: "TiB"}


def number(value: float, digits: int = 3) -> str:
    """Write so many significant digits, and all those before the point.

    Example:
      >>> [number(value) for value in (0.01234, 4.2, 1234.5, 0, float("inf"))]
      ['0.0123', '4.20', '1,234', '0', 'inf']
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    after = digits - 1 - math.floor(math.log10(abs(value)) + 1e-9)
    return f"{value:.{digits - 1}e}" if after > 6 else f"{value:,.{max(after, 0)}f}"


def with_unit(value: float, unit: str) -> str:
    """Write a number with a decimal prefix.

    Example:
      >>> with_unit(0.0000123, "s"), with_unit(9.895e14, "FLOP/s")
      ('12.3 µs', '990 TFLOP/s')
    """
    fits = [scale for scale in _PREFIXES if scale <= abs(value) * (1 + 1e-9)]
    scale = max(fits, default=min(_PREFIXES) if value else 1.0)
    return f"{number(value / scale)} {_PREFIXES[scale]}{unit}"


def size(value: float, digits: int = 3) -> str:
    """Write a number of bytes.

    Example:
      >>> size(3 * 2**20), size(15.75 * 2**30, digits=4), size(0)
      ('3.00 MiB', '15.75 GiB', '0 B')
    """
    scale = max((scale for scale in _BINARY if scale <= value), default=1)
    return f"{number(value / scale, digits) if scale > 1 else f'{value:.0f}'} {_BINARY[scale]}"


def times(found: Estimate) -> tuple[str, str]:
    """Write a speed-up and its interval.

    Example:
      >>> times(Estimate(2.05, 1.77, 2.26, 0.96))
      ('2.05', '1.77 – 2.26')
    """
    return number(found.median), f"{number(found.low)} – {number(found.high)}"


def short_commit(commit: str) -> str:
    """Write a commit as people do, with the + that says that files differed from it.

    Example:
      >>> short_commit("0123456789abcdef+")
      '0123456789+'
    """
    return commit[:10] + "+" * commit.endswith("+")


def listed(words: list[str]) -> str:
    """Join words as a sentence does.

    Example:
      >>> listed(["cpu", "h200", "v5e"]), listed(["cpu"])
      ('cpu, h200 and v5e', 'cpu')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def plural(count: int, word: str) -> str:
    """Write a count of things.

    Example:
      >>> plural(1, "row"), plural(2, "row")
      ('1 row', '2 rows')
    """
    return f"{count:,} {word}{'s' * (count != 1)}"
