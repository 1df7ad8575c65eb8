"""The command line as a user types it, in this process or in one of its own."""

import subprocess
import sys
from typing import NamedTuple

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
