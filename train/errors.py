"""The one error that means: what was asked for cannot be done, and this line says what to do instead."""


class UsageError(ValueError):
    """A request that cannot be met: one line with what was given, what is allowed and what to do.

    Commands print it and exit with code 2, without a traceback; any other exception is a fault of ours and shows one.
    """


def require(name: str, value: object, condition: bool, allowed: str) -> None:
    """Refuse a value that does not fit.

    Args:
      name: what was given, as the user wrote it (`--epochs`).
      value: its value.
      condition: whether it is good.
      allowed: what is, in words.

    Raises:
      UsageError: if `condition` is false.

    Example:
      >>> require("--epochs", 3, True, "1 or more")
      >>> require("--epochs", 0, False, "1 or more")
      Traceback (most recent call last):
      xent.train.errors.UsageError: --epochs 0: must be 1 or more
    """
    if not condition:
        raise UsageError(f"{name} {value}: must be {allowed}")


def extra(name: str) -> str:
    """Say how to install one of the extras, as the README does."""
    return f"in a checkout of xent, pip install -c .ci/constraints.txt -e '.[{name}]'"
