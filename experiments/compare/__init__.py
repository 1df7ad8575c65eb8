"""Compare machines by what `xent bench` measured on them.

    xent bench all --out cpu.json                           on one machine
    xent bench all --out h200.json                          on another, with the same flags
    xent compare cpu.json h200.json                         anywhere: speed-ups are to the first file's machine
    xent compare cpu.json h200.json v5e.json --out page     into a folder of your choice

Prints a table, and writes a folder: comparison.html, which needs nothing else and can be sent to anybody, and the
numbers of each picture as CSV. A speed-up has a 95 % interval and is claimed only where that does not hold 1; files
that differ in commit, versions, flags or precision say so on top, and what only one file has is listed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import jax
import tyro

from xent.experiments.compare import curves, memory, roofline, speed_ups, training
from xent.experiments.compare.html import to_csv
from xent.experiments.compare.joining import cautions, join
from xent.experiments.compare.page import page
from xent.experiments.compare.part import Part
from xent.experiments.compare.reading import read_machines
from xent.experiments.compare.summary import left_out, sentences
from xent.experiments.compare.terminal import table
from xent.experiments.flags import parse
from xent.experiments.folder import create, only_writer, refuse_existing, refuse_unwritable
from xent.train.progress import make_console, say

PAGE = "comparison.html"


@dataclass(frozen=True)
class Config:
    """Compare machines."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional] = field(default=())
    """Two files or more that xent bench --out wrote, each on one machine; the first is what others are compared to."""
    out: Path | None = None
    """Folder to write, which must not exist yet; by default the next free one under runs/."""


def write(parts: Sequence[Part], html: str, folder: Path) -> None:
    """Write the page, and beside it the numbers of its pictures."""
    for part in parts:
        (folder / f"{part.name}.csv").write_text(to_csv(part.csv), newline="")
    (folder / PAGE).write_text(html, encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """Read, compare, print, write."""
    config = parse(Config, arguments, prog="xent compare", about=__doc__)
    machines = read_machines(config.files)
    refuse_existing(config.out)
    refuse_unwritable(config.out)
    jax.config.update("jax_platforms", "cpu")  # nothing is computed: leave the chips to those who compute
    joined = join(machines)
    console = make_console()
    console.width = 1000  # a table cut off says nothing
    for line in cautions(machines):
        say(console, "note", line)
    if joined.rows:
        console.print(table(joined, machines))
    for line in left_out(joined, machines):
        say(console, "left out", line)
    for line in sentences(joined, machines):
        say(console, "found", line)
    speed = speed_ups.parts(joined, machines)
    others = [
        *roofline.parts(machines), *training.parts(joined, machines), *memory.parts(machines),
        *curves.parts(joined, machines),
    ]  # fmt: skip
    html = page(joined, machines, speed, others)
    folder = create(config.out, "comparison", config)
    with only_writer(folder):
        write([*speed, *others], html, folder)
    inside = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
    say(console, "wrote", f"{folder}: {', '.join(inside)}")
