"""The one error that means: what was asked for cannot be done, and this line says what to do instead."""


class UsageError(ValueError):
    """A request that cannot be met: one line with what was given, what is allowed and what to do.

    Commands print it and exit with code 2, without a traceback; every other exception is a fault of ours and keeps its own.
    """
