"""The comparison as one page of HTML that needs nothing else, for somebody who has never seen this project."""

from collections.abc import Sequence

from xent.experiments.chip_peaks import peaks_of
from xent.experiments.compare.document import document, notes, section
from xent.experiments.compare.html import (
    bullets,
    download,
    element,
    facts,
    paragraphs,
    scrolled,
    table,
    text,
    turned,
)
from xent.experiments.compare.joining import Joined, cautions
from xent.experiments.compare.part import Part, Table
from xent.experiments.compare.reading import Machine
from xent.experiments.compare.summary import left_out, machine_table, sentences, version_table
from xent.experiments.formats import listed, size, with_unit

_WORDS = (
    ("speed-up", "The median time on the first machine, divided by that on another: 2× is twice as fast."),
    (
        "95 % interval",
        "Where the true ratio of the medians lies, whatever the distribution of the times: each median is between two "
        "of its own samples with a probability that makes both hold at once 95 times in 100 or more, and the interval "
        "is made of their ends. Where it holds 1, no speed-up is claimed. It covers the noise within each run; another "
        "day, driver or cooling is not in it. Of many intervals, a few are wrong.",
    ),
    ("faster, slower", "The whole interval is above 1, or below."),
    ("median", "Half of the samples took less. One sample is one call, or for very short ones the mean of several."),
    (
        "a case beside itself",
        "On each machine one case is measured twice, taking turns with itself: how many of the intervals "
        "for that ratio hold 1, as they should 19 times in 20. It says how far that machine's times can be trusted.",
    ),
    ("FLOP", "A floating-point operation: an addition or a multiplication."),
    ("logits, classes", "What a model gives each class before the softmax; cross-entropy compares them to the answer."),
)

_HOW = (
    "Every sample waits until the device has finished; the first call, compilation, and moving data to the device are "
    "not in it. On one machine all cases take turns in random order in one process, so that drift meets all of them. "
    "Machines are measured on their own, with the same shapes, seeds and code.",
    "xent is a library of cross-entropy losses for JAX, and experiments that train with them. The same program ran on "
    "every machine below; xent bench measured, xent compare made this page from its files.",
)


def page(joined: Joined, machines: Sequence[Machine], speed: Sequence[Part], others: Sequence[Part]) -> str:
    """Write the page.

    Args:
      joined: what was measured.
      machines: on what; the first is what the others are compared to.
      speed: the parts that show speed-ups.
      others: the other parts, in order.
    """
    names = listed([machine.label for machine in machines])
    title = f"Cross-entropy on {names}"
    sections = [("machines", "The machines"), *([("speed-ups", "Speed-ups")] if speed else [])]
    sections += [(part.name, part.title) for part in others]
    missing = left_out(joined, machines)
    sections += [("left-out", "Not compared")] if missing else []
    sections += [("reading", "How to read this")]
    first = machines[0].label
    body = [
        section("machines", "The machines", _machines(machines)),
        section("speed-ups", "Speed-ups", _intro(first), *(_part(part, "h3") for part in speed)) if speed else "",
        *(section(part.name, part.title, _inside(part)) for part in others),
        section("left-out", "Not compared", _left_out(missing)) if missing else "",
        section("reading", "How to read this", facts(_WORDS), element("h3", "How it was measured"), paragraphs(_HOW)),
    ]
    links = [element("li", element("a", text(words), href=f"#{name}")) for name, words in sections]
    top = element(
        "header",
        element("h1", text(title)),
        paragraphs([_lede(machines)], class_="lede"),
        paragraphs(sentences(joined, machines), class_="said"),
        notes("Before you compare", cautions(machines)),
        element("nav", element("ul", *links), aria_label="Contents"),
    )
    return document(title, top, body, "Made by xent compare.", skip=("Skip to the results", "machines"))


def _lede(machines: Sequence[Machine]) -> str:
    devices = listed([f"{machine.label} ({machine.environment['device']})" for machine in machines])
    return f"How fast the same losses and training steps run on {devices}."


def _intro(first: str) -> str:
    says = (
        f"How many times as fast as on {first}, with the 95 % interval as a bar, often shorter than the marker. "
        f"Right of the line: faster than {first}. Hollow: no difference shown, or too few samples to say. What {first} "
        "did not measure is in the table alone, beside the first machine that did.",
    )
    return paragraphs(says)


def _part(part: Part, tag: str) -> str:
    return element(tag, text(part.title)) + _inside(part)


def _inside(part: Part) -> str:
    link = download(part.csv, part.name)
    picture = element("p", link)
    if part.picture:
        picture = element("figure", scrolled(part.picture, part.title), element("figcaption", link))
    shown = table(part.shown, part.title, class_="results") if part.shown else ""
    if part.folded:
        shown = element("details", element("summary", f"All {len(part.shown.rows) if part.shown else 0} rows"), shown)
    return paragraphs(part.says) + picture + shown


def _machines(machines: Sequence[Machine]) -> str:
    laid_out = turned(machine_table(machines))
    versions = table(version_table(machines), "Versions and settings", class_="facts")
    sheets = _datasheets(machines)
    return (
        table(laid_out, "What was measured on", class_="facts")
        + element("details", element("summary", "Versions and settings"), versions)
        + sheets
    )


def _datasheets(machines: Sequence[Machine]) -> str:
    """Show what makers say of the chips that are known."""
    rows, sources = [], []
    for machine in machines:
        chip = peaks_of(machine.environment["device"])
        if chip is None:
            continue
        flops = ", ".join(f"{dtype} {with_unit(value, 'FLOP/s')}" for dtype, value in chip.flops.items())
        rows.append([machine.label, chip.name, flops, with_unit(chip.bandwidth, "B/s"), size(chip.memory)])
        sources += [f"{chip.name}: {source}" for source in chip.sources]
    if not rows:
        return ""
    header = ("", "chip", "products", "memory speed", "memory")
    inside = table(Table(header, rows, len(header)), "Datasheets, per device") + bullets(dict.fromkeys(sources))
    return element("details", element("summary", "What the makers say"), inside)


def _left_out(missing: Sequence[str]) -> str:
    return paragraphs(["Measured, and shown nowhere above as a speed-up:"]) + bullets(missing)
