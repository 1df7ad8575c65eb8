"""The README does what it says."""

import contextlib
import io
import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_quick_start_is_two_commands_of_one_line():
    section = README.split("## Quick start")[1].split("\n## ")[0]
    blocks = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 2
    assert all(block.count("\n") == 1 for block in blocks)


def test_the_example_runs_and_prints_what_it_says():
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(example, "README.md", "exec"), {})
    expected = float(example.rstrip().rpartition("#")[2])
    assert abs(float(said.getvalue()) - expected) < 1e-6
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
