"""The README does what it says."""

import contextlib
import io
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import mpmath
import optax

from xent import losses

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


def table(xent_or_optax):
    """The cells of the table of edges that can be computed."""
    cross_entropy = xent_or_optax.softmax_cross_entropy_with_integer_labels

    def loss(logits, label):
        return cross_entropy(jnp.asarray(logits)[None], jnp.array([label]))[0]

    noise = jax.random.normal(jax.random.key(0), (8192,)).astype(jnp.bfloat16)
    rows = [([30.0, 0.0, 0.0], 0), ([1000001.0, 1000000.0], 0), ([1.0, 2.0, 3.0], -1), ([1.0, 2.0, 3.0], 3), (noise, 5)]
    gradient = jax.grad(loss)(jnp.array([1.0, 2.0, 3.0]), 3)
    return [(f"{float(loss(*row)):.8g}", loss(*row).dtype.name) for row in rows], bool(jnp.isfinite(gradient).all())


def test_the_table_of_edges_is_what_happens():
    rows = [line.split("|")[1:-1] for line in README.split("| optax 0.2.8 | xent |")[1].splitlines()[2:7]]
    true = {0: mpmath.log1p(2 * mpmath.exp(-30)), 1: mpmath.log1p(mpmath.exp(-1))}
    for column, package in ((1, optax), (2, losses)):
        values, finite_gradient = table(package)
        for row, (value, dtype) in zip(rows, values, strict=True):
            said = row[column].split(",")[0].strip()
            assert said == value or abs(float(said) - float(value)) <= 1e-7 * abs(float(value))
            assert "in " not in row[column] or row[column].strip().endswith(dtype)
        assert finite_gradient == (package is optax)
    for number, value in true.items():
        assert abs(float(rows[number][0].rsplit(" ", 2)[1]) - value) <= 1e-7 * value
