"""`xent gallery`: the last run of each experiment on one page, pictures and scores, that can be sent to anybody.

    xent gallery                        of the runs under runs/
    xent gallery --runs old --out page  of those under old/, into a folder of your choice

Writes a folder with gallery.html, which needs nothing else: of each experiment its last finished run, scores beside
baselines, the command that gives it again, date and versions; where there is no run, the command to type.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import jax

from xent.experiments.compare.document import document, notes, section
from xent.experiments.compare.html import element, facts, paragraphs, scrolled, table, text
from xent.experiments.compare.part import Table
from xent.experiments.flags import parse
from xent.experiments.folder import create, only_writer, refuse_existing, refuse_unwritable
from xent.experiments.formats import short_commit
from xent.experiments.gallery_reading import Found, Run, find
from xent.experiments.scores import metrics_of, show
from xent.experiments.table import EXPERIMENTS
from xent.train.errors import require
from xent.train.progress import make_console, say

PAGE = "gallery.html"


@dataclass(frozen=True)
class Config:
    """Show the last run of each experiment."""

    runs: Path = Path("runs")
    """Folder that the runs are in."""
    out: Path | None = None
    """Folder to write, which must not exist yet; by default the next free one under runs/."""

    def __post_init__(self) -> None:
        """Check that it is there."""
        require("--runs", self.runs, self.runs.is_dir() or self.runs == Path("runs"), "a folder that exists")


def main(arguments: Sequence[str]) -> None:
    """Read, say what is missing, write."""
    config = parse(Config, arguments, prog="xent gallery", about=__doc__)
    refuse_existing(config.out)
    refuse_unwritable(config.out)
    jax.config.update("jax_platforms", "cpu")  # nothing is computed: leave the chips to those who compute
    console = make_console()
    found = find(config.runs)
    for line in found.unreadable:
        say(console, "left out", line)
    for name in EXPERIMENTS:
        run = found.runs.get(name)
        say(console, *(("missing", f"no run yet: xent {name}") if run is None else ("shown", _in_a_line(run))))
    folder = create(config.out, "gallery", config)
    with only_writer(folder):
        (folder / PAGE).write_text(page(found), encoding="utf-8")
    say(console, "wrote", str(folder / PAGE))


def page(found: Found) -> str:
    """Write the page."""
    title = "What cross-entropy learns"
    links = [element("li", element("a", text(name), href=f"#{name}")) for name in EXPERIMENTS]
    there = sum(name in found.runs for name in EXPERIMENTS)
    lede = (
        "The last run of each of xent's experiments, with its score beside its baselines; "
        f"{there} of {len(EXPERIMENTS)} have one."
    )
    top = element(
        "header",
        element("h1", text(title)),
        paragraphs([lede], class_="lede"),
        notes("Left out", found.unreadable),
        element("nav", element("ul", *links), aria_label="Contents"),
    )
    body = [
        section(name, name, _shown(found.runs[name]) if name in found.runs else _missing(name)) for name in EXPERIMENTS
    ]
    return document(title, top, body, "Made by xent gallery.", skip=("Skip to the runs", next(iter(EXPERIMENTS))))


def _in_a_line(run: Run) -> str:
    state = "" if run.finished else f", not finished: xent resume {run.folder}"
    return f"{run.folder}, {run.began}{state}"


def _about(name: str) -> str:
    summary = EXPERIMENTS[name].summary
    return paragraphs([f"{summary[0].upper()}{summary[1:]}."], class_="said")


def _missing(name: str) -> str:
    return _about(name) + element(
        "p", text("There is no run of it yet. Type "), element("code", text(f"xent {name}")),
        text(f" and expect: {EXPERIMENTS[name].expected}."), class_="muted",
    )  # fmt: skip


def _shown(run: Run) -> str:
    says = _about(run.experiment)
    if not run.finished:
        says += element("p", text("This run is not finished; continue it with "),
                        element("code", text(f"xent resume {run.folder}")), text("."))  # fmt: skip
    scores = table(_scores(run), run.title, class_="results") if run.finished else ""
    said = [
        ("command", run.command), ("expected, with no flags", EXPERIMENTS[run.experiment].expected),
        ("began", run.began),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
        ("commit", short_commit(run.commit or "unknown")), ("device", run.device), ("folder", str(run.folder)),
    ]  # fmt: skip
    return says + scores + "".join(_picture(run, file) for file in run.pictures) + facts(said)


def _scores(run: Run) -> Table:
    metrics = metrics_of(run.scores)
    rows = [[row, *(show(metric, values.get(metric)) for metric in metrics)] for row, values in run.scores.items()]
    return Table(("held out", *metrics), rows)


def _picture(run: Run, file: Path) -> str:
    words = file.stem.replace("_", " ")
    inside = base64.b64encode(file.read_bytes()).decode()
    image = f'<img src="data:image/png;base64,{inside}" alt="{escape(f"{run.experiment}: {words}")}">'
    return element("figure", scrolled(image, words), element("figcaption", text(words)))
