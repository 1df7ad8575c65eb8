"""`--mesh` and `--distributed`: a run on two devices, of one process or two, and stopped by a signal to either."""

import os
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from xent.models.mlp import mlp
from xent.train.checkpoint import open_checkpoints, restore
from xent.train.journal import read_lines, sizes
from xent.train.optimizers import OptimizerConfig, make_optimizer
from xent.train.step import init_state

JOB = ["digits", "--epochs", "2", "--hidden", "16", "--no-baselines", "--steps-per-call", "1", "--mesh", "data=2"]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def begin(folder, *arguments, **environment):
    command = [sys.executable, "-m", "xent.experiments", *JOB, *arguments]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def begin_two(folder, *arguments):
    """Two processes of one device each."""
    address = f"127.0.0.1:{free_port()}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [begin(folder, "--distributed", *arguments, **shared, JAX_PROCESS_ID=str(place)) for place in range(2)]


def end(process, code=0):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == code, said
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory, dataset_cache, wait_for):
    """Three runs: on one device, in one process on two, and in two processes, stopped and begun again."""
    folder = tmp_path_factory.mktemp("mesh")
    end(begin(folder, "--out", "one", "--mesh", "data=1"))  # prepares the digits, too
    alone = begin(folder, "--out", "alone")
    first, second = begin_two(folder, "--out", "both")
    log = folder / "both" / "metrics.jsonl"
    wait_for(second, lambda: log.exists() and log.read_bytes().count(b"\n") > 3, limit=150)
    second.send_signal(signal.SIGTERM)
    for process in (first, second):
        assert "stopped by SIGTERM; continue with: xent resume both" in end(process, 143)
    lines = read_lines(log)
    assert 3 < len(lines) < 40
    assert lines[-1]["step"] == max(int(file.name) for file in (log.parent / "checkpoints").iterdir() if file.is_dir())
    first, second = begin_two(folder, "--out", "both", "--resume", "auto")
    assert f"from step {lines[-1]['step']} of 42" in end(first)
    assert "loss" not in end(second)  # the first one speaks for both
    end(alone)
    return folder


def state(run):
    """The last checkpoint of a run, read on one device."""
    weights, noise = jax.random.split(jax.random.key(0))
    params = mlp(weights, inputs=64, hidden=16, outputs=10).params
    like = init_state(params, make_optimizer(OptimizerConfig(), 42), noise)
    with open_checkpoints(run / "checkpoints", 2) as checkpoints:
        flags = checkpoints.restore(42, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run["flags"]
        found = restore(checkpoints, like, flags, sizes(run), pytest.fail).state
    return [np.asarray(leaf) for leaf in jax.tree.leaves(found._replace(key=jax.random.key_data(found.key)))]


@pytest.mark.parametrize(("run", "like"), [("alone", "one"), ("both", "alone")])
def test_a_mesh_gives_what_one_device_gives_and_two_processes_what_one_gives(folder, run, like):
    logs = [read_lines(folder / name / "metrics.jsonl") for name in (run, like)]
    assert [line.keys() for line in logs[0]] == [line.keys() for line in logs[1]]
    for here, there in zip(*logs, strict=True):
        assert list(here.values()) == pytest.approx(list(there.values()), rel=1e-6, abs=1e-6)
    for here, there in zip(state(folder / run), state(folder / like), strict=True):
        np.testing.assert_allclose(here, there, rtol=0, atol=1e-6)


def test_only_the_first_process_writes_the_folder(folder):
    assert {file.name for file in (folder / "both").iterdir()} == {file.name for file in (folder / "alone").iterdir()}
    assert (folder / "both" / "results.csv").read_text() == (folder / "alone" / "results.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mesh", "rows=2"], "--mesh rows=2: must be axes of data, model"),
        (["--distributed"], "--distributed True: must be given together with --mesh, and with one seed"),
    ],
)
def test_what_cannot_be_is_one_line(xent, arguments, said):
    outcome = xent("digits", *arguments)
    assert outcome.code == 2
    assert outcome.err.startswith(f"xent: {said}")
    assert outcome.err.count("\n") == 1
