"""A part of the comparison: words, a picture, a table for people, and the picture's numbers for machines."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Table(NamedTuple):
    """Rows of cells under a header."""

    header: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    words: int = 1
    """How many of the first columns hold words; the others hold numbers, which are set flush right."""


class Part(NamedTuple):
    """What the page shows under one heading."""

    name: str
    """Of its CSV, without .csv."""
    title: str
    says: tuple[str, ...]
    """Paragraphs."""
    csv: Table
    picture: str = ""
    """SVG to stand in HTML, if there is something to draw."""
    alt: str = ""
    """What the picture shows, for those who do not see it."""
    shown: Table | None = None
    folded: bool = False
    """Whether the table is long, and opened when asked for."""
