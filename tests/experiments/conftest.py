"""The command line as a user types it, in this process or in one of its own."""

import shutil
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
import pytest

from xent.experiments.__main__ import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def xent(tmp_path, monkeypatch, capsys):
    """`xent("digits", "--epochs", "1")`: run a command in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return run


@pytest.fixture
def xent_process(tmp_path):
    """The same in a process of its own, with a limit in seconds."""

    def run(*arguments, limit=120, **environment):
        import os

        command = [sys.executable, "-m", "xent.experiments", *(str(argument) for argument in arguments)]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=limit, env={**os.environ, **environment}
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


JOB = ("digits", "--epochs", "4", "--steps-per-call", "4", "--save-every", "1", "--no-baselines", "--hidden", "32")


@pytest.fixture(scope="session")
def job():
    """Flags of a run that is over soon and saves often."""
    return JOB


@pytest.fixture(scope="session")
def start():
    """`start(folder, *arguments)`: a command in a process of its own, in that folder."""

    def run(folder, *arguments):
        command = [sys.executable, "-m", "xent.experiments", *(str(argument) for argument in arguments)]
        return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return run


@pytest.fixture(scope="session")
def wait_for():
    """`wait_for(process, condition)`: until it holds or the process has ended."""

    def wait(process, condition, limit=60):
        began = time.monotonic()
        while process.poll() is None and not condition() and time.monotonic() - began < limit:
            time.sleep(0.002)

    return wait


@pytest.fixture(scope="session")
def state_of():
    """`state_of(run)`: the arrays of its last checkpoint, and its log, as bytes."""

    def read(run):
        import jax
        import orbax.checkpoint as ocp

        with ocp.CheckpointManager(run.absolute() / "checkpoints") as manager:
            step = manager.latest_step()
            state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore())).state
        arrays = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
        return step, arrays, (run / "metrics.jsonl").read_bytes()

    return read


@pytest.fixture(scope="session")
def whole(tmp_path_factory, dataset_cache, start):
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder, *JOB, "--out", "run")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return folder / "run"


@pytest.fixture
def copy(whole, tmp_path):
    """A finished run to do harm to, made unfinished."""
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "results.csv").unlink()
    return tmp_path / "run"


@pytest.fixture
def mount(tmp_path):
    """`mount(size)`: a file system of a few bytes; skipped where that is not allowed."""
    mounted = []

    def make(options):
        folder = tmp_path / "mounted"
        folder.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip("mounting is not allowed here")
        mounted.append(folder)
        return folder

    if shutil.which("mount") is None:
        pytest.skip("there is no mount here")
    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)
