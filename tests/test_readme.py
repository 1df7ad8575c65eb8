"""The README does what it says."""

import contextlib
import io
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest

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

    @jax.jit
    def loss(logits, label):
        return cross_entropy(jnp.asarray(logits)[None], jnp.asarray(label)[None])[0]

    noise = jax.random.normal(jax.random.key(0), (8192,)).astype(jnp.bfloat16)
    rows = [([30.0, 0.0, 0.0], 0), ([1000001.0, 1000000.0], 0), ([1.0, 2.0, 3.0], -1), ([1.0, 2.0, 3.0], 3), (noise, 5)]
    gradient = jax.grad(loss)(jnp.array([1.0, 2.0, 3.0]), 3)
    values = [loss(jnp.array(logits), label) for logits, label in rows]
    return [(f"{float(value):.8g}", value.dtype.name) for value in values], bool(jnp.isfinite(gradient).all())


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


def example_arrays():
    """What the README's tables call by name."""
    draw = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(draw.normal(size=shape), jnp.float32)

    def distributions():
        return jnp.asarray(draw.dirichlet(np.ones(3), 4), jnp.float32)

    p, q = distributions(), distributions()
    arrays = {
        "logits": normal(4, 3),
        "teacher": normal(4, 3),
        "vector": normal(4, 3),
        "labels": jnp.array([0, 2, 1, 1]),
        "targets": distributions(),
        "z": normal(4, 3),
        "yes": jnp.asarray(draw.random((4, 3)) < 0.5, jnp.float32),
        "w": jnp.array([0.5, 1.0, 2.0]),
        "hidden": normal(4, 5),
        "kernel": normal(5, 3),
        "teacher_hidden": normal(4, 7),
        "teacher_kernel": normal(7, 3),
        "token_logits": normal(2, 5, 3),
        "tokens": jnp.asarray(draw.integers(0, 3, (2, 5))),
        "frames": normal(2, 6, 3),
        "frame_paddings": jnp.zeros((2, 6)),
        "transcript": jnp.array([[1, 2], [2, 0]]),
        "transcript_paddings": jnp.array([[0, 0], [0, 1]]),
        "top_ids": jnp.array([[0, 1], [2, 0], [1, 2], [0, 2]]),
        "top_probabilities": jnp.full((4, 2), 0.4),
        "real": jnp.ones(4),
        "fake": -jnp.ones(4),
        "losses": jnp.arange(1.0, 5.0),
    }
    scalars = {"depth": jnp.array(1.0), "edges": jnp.array(2.0)}
    trees = {"tasks": scalars, "weights": {"depth": 0.5, "edges": 1.0}, "log_variances": scalars}
    return {**arrays, **trees, "p": p, "q": q, "log_p": jnp.log(p), "log_q": jnp.log(q)}


def rows_of(header):
    lines = README.split(header)[1].split("\n\n")[0].splitlines()[2:]
    return [[re.findall(r"`([^`]*\))`", cell) for cell in line.split("|")[1:-1]] for line in lines]


PUBLIC = {name: getattr(losses, name) for name in losses.__all__}


def test_every_loss_is_in_the_table_and_every_call_in_it_runs():
    calls = [call for row in rows_of("| I have | I call |") for call in row[1]]
    every = jax.jit(lambda arrays: [eval(call, {**PUBLIC, **arrays, "jnp": jnp}) for call in calls])  # compiled as one
    for call, values in zip(calls, every(example_arrays()), strict=True):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(values)), call
    named = {re.match(r"\w+", call).group() for call in calls}
    untold = re.compile(
        "sigmoid_binary_cross_entropy_.*|softmax_cross_entropy_gauss_newton_.*|next_token_targets|Auxiliary"
    )
    assert {name for name in losses.__all__ if not untold.fullmatch(name)} == named


def test_what_torch_users_call_is_the_same():
    functional = pytest.importorskip("torch").nn.functional
    import torch

    ours = example_arrays()
    theirs = {name: torch.tensor(np.array(value)) for name, value in ours.items() if isinstance(value, jax.Array)}
    theirs["labels"] = theirs["labels"].long()
    for (torchs,), (xents,) in rows_of("| torch | xent |"):
        expected = eval(torchs, {"F": functional, **theirs})
        np.testing.assert_allclose(eval(xents, {**PUBLIC, **ours}), expected.numpy(), rtol=2e-6, err_msg=torchs)
