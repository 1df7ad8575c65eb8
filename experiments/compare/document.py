"""The frame of a page that needs nothing else: head, style, headings that can be linked to, a word at the end."""

from collections.abc import Sequence

from xent.experiments.compare.html import bullets, element, paragraphs, text
from xent.experiments.compare.style import CSS

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def document(title: str, top: str, body: Sequence[str], made_by: str, *, skip: tuple[str, str]) -> str:
    """Put a page together.

    Args:
      title: of the window.
      top: HTML, the page's header.
      body: HTML, its sections.
      made_by: a sentence for its end.
      skip: words, and the section that they lead a keyboard to.
    """
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        element("title", text(title)),
        element("style", CSS),
    ]
    words, where = skip
    first = element("a", text(words), href=f"#{where}", class_="skip")
    footer = element("footer", paragraphs([f"{made_by} This file is whole: it loads nothing."]))
    inside = element("head", *head) + element("body", first, top, element("main", *body), footer)
    return "<!doctype html>\n" + element("html", inside, lang="en") + "\n"


def section(name: str, title: str, *inside: str) -> str:
    """Make a section with a heading of its own, which `#name` leads to."""
    heading = element("h2", text(title), id=f"{name}-title")
    return element("section", heading, *inside, id=name, aria_labelledby=f"{name}-title")


def notes(title: str, said: Sequence[str]) -> str:
    """Make a box of what is to be known first; nothing where there is nothing to say."""
    if not said:
        return ""
    return element("section", element("h2", text(title)), bullets(said), class_="notes")
