"""Pieces of HTML: text is escaped, tables say what their headers are, nothing refers to anything outside the page."""

import base64
import csv
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from xent.experiments.compare.part import Table


def element(tag: str, *inside: str, **attributes: str | None) -> str:
    """Put HTML inside an element; a trailing _ of an attribute is dropped, and a None leaves the attribute out.

    Example:
      >>> element("p", text("1 < 2"), class_="lede")
      '<p class="lede">1 &lt; 2</p>'
    """
    kept = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    start = "".join(f' {name}="{escape(value)}"' for name, value in kept.items())
    return f"<{tag}{start}>{''.join(inside)}</{tag}>"


def text(words: object) -> str:
    """Escape text.

    Example:
      >>> text("a & b")
      'a &amp; b'
    """
    return escape(str(words), quote=False)


def paragraphs(says: Iterable[str], **attributes: str | None) -> str:
    """Make a paragraph of each."""
    return "".join(element("p", text(words), **attributes) for words in says)


def bullets(lines: Iterable[str]) -> str:
    """Make a list."""
    return element("ul", *(element("li", text(line)) for line in lines))


def table(content: Table, caption: str, **attributes: str | None) -> str:
    """Make a table whose first column names its rows."""

    def kind(column: int) -> str | None:
        return None if column < content.words else "number"

    head = [element("th", text(name), scope="col", class_=kind(i)) for i, name in enumerate(content.header)]
    rows = [
        element("tr", element("th", text(first), scope="row"),
                *(element("td", text(cell), class_=kind(i)) for i, cell in enumerate(rest, 1)))
        for first, *rest in content.rows
    ]  # fmt: skip
    inside = element("caption", text(caption)), element("thead", element("tr", *head)), element("tbody", *rows)
    return scrolled(element("table", *inside, **attributes), caption)


def turned(content: Table) -> Table:
    """Swap rows and columns.

    Example:
      >>> turned(Table(("", "a"), [["x", 1], ["y", 2]]))
      Table(header=('', 'x', 'y'), rows=[['a', 1, 2]], words=3)
    """
    header, *rows = [list(column) for column in zip(content.header, *content.rows, strict=True)]
    return Table(tuple(header), rows, len(header))


def scrolled(inside: str, label: str) -> str:
    """Let something wide scroll by itself, with the keyboard too."""
    return element("div", inside, class_="scroll", tabindex="0", role="region", aria_label=label)


def to_csv(content: Table) -> str:
    """Write a table as CSV."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(content.header)
    writer.writerows(content.rows)
    return out.getvalue()


def download(content: Table, name: str) -> str:
    """Make a link that carries its CSV with it."""
    inside = base64.b64encode(to_csv(content).encode()).decode()
    words = f"numbers as CSV ({len(content.rows):,} rows)"
    return element("a", text(words), href=f"data:text/csv;base64,{inside}", download=f"{name}.csv", class_="download")


def facts(pairs: Sequence[tuple[str, Any]]) -> str:
    """Make a list of terms, each with what it means."""
    return element("dl", *(element("dt", text(a)) + element("dd", text(b)) for a, b in pairs))
