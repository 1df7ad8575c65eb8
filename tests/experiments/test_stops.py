"""A run is never lost: killed, interrupted and cut off, through the command line."""

import json
import random
import shutil
import signal
import time

import pytest

from xent.experiments.__main__ import main


@pytest.mark.parametrize("kills", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_changes_nothing(whole, tmp_path, kills, start, wait_for, state_of, job):
    expected, chance, done = state_of(whole), random.Random(0), 0
    run = tmp_path / "run"
    log = run / "metrics.jsonl"
    while True:
        before = log.stat().st_size if log.exists() else 0
        process = start(tmp_path, *job, "--out", "run", "--resume", "auto")
        if done < kills:
            if chance.random() < 0.25:  # anywhere: while it imports, reads data, compiles
                time.sleep(chance.uniform(0, 4))
            else:  # while it trains and saves
                wait_for(process, lambda size=before: log.exists() and log.stat().st_size > size)
                time.sleep(chance.uniform(0, 0.3))
            done += process.poll() is None
            process.kill()
        _, said = process.communicate(timeout=120)
        if process.returncode == 0:
            assert state_of(run) == expected
            assert (run / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
            if done == kills:
                return
            shutil.rmtree(run)
        else:
            assert process.returncode == -signal.SIGKILL, said


# It saves on no other ground: not by --save-every, and its end is far away.
LONG = ("digits", "--epochs", "100", "--hidden", "32", "--no-baselines", "--save-every", "999999")


@pytest.fixture(scope="module")
def long(tmp_path_factory, dataset_cache, state_of):
    """What a run of those flags ends with."""
    run = tmp_path_factory.mktemp("long") / "run"
    main([*LONG, "--out", str(run)])
    return state_of(run), (run / "results.csv").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_within_five_seconds_and_the_run_is_resumed_to_the_same_end(
    long, tmp_path, number, xent, start, wait_for, state_of
):
    process = start(tmp_path, *LONG, "--out", "run")
    log = tmp_path / "run/metrics.jsonl"
    wait_for(process, lambda: log.exists() and log.read_bytes().count(b"\n") > 3)
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert process.returncode == 128 + number
    assert said.endswith("continue with: xent resume run\n")
    steps = [json.loads(line)["step"] for line in log.read_bytes().splitlines()]
    assert state_of(tmp_path / "run")[0] == steps[-1]  # everything that was done is saved
    assert 3 < len(steps) < 100
    assert xent("resume", "run").code == 0
    assert (state_of(tmp_path / "run"), (tmp_path / "run/results.csv").read_bytes()) == long


def test_a_signal_while_it_compiles_is_kept_until_the_first_step(whole, tmp_path, xent, start, wait_for, state_of, job):
    process = start(tmp_path, *job, "--out", "run")
    wait_for(process, lambda: (tmp_path / "run/checkpoints").exists())  # opened just before compilation
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert xent("resume", "run").code == 0
    assert state_of(tmp_path / "run") == state_of(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_training_ends_the_run_with_the_way_to_go_on(tmp_path, number, xent, start, wait_for):
    flags = ("digits", "--epochs", "100", "--hidden", "32")  # the baselines take as many epochs, and longer
    process = start(tmp_path, *flags, "--out", "run")
    wait_for(process, lambda: (tmp_path / "run/confusion_matrix.png").exists())
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said.endswith("continue with: xent resume run\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize("trials", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_a_signal_at_any_moment_is_one_line_and_the_right_code(whole, tmp_path, trials, start, job):
    """While Python imports, data is read, XLA compiles, steps run, pictures are drawn."""
    chance = random.Random(1)
    for trial in range(trials):
        number = chance.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        process = start(tmp_path, *job, "--epochs", "200", "--out", f"run-{trial}")
        time.sleep(0.4 + 6 * chance.random() ** 2)  # before 0.4 s there may be no Python to ask
        process.send_signal(number)
        began = time.monotonic()
        _, said = process.communicate(timeout=60)
        assert process.returncode in (0, 128 + number), said
        if process.returncode:
            assert f"stopped by {number.name}" in said
            assert "Traceback" not in said
            assert said.count("\n") <= 2
            assert time.monotonic() - began < 15  # it may have had to compile first
        if (tmp_path / f"run-{trial}/.lock").exists() and process.returncode:
            assert said.endswith(f"continue with: xent resume run-{trial}\n")


def test_a_reader_that_leaves_stops_a_run_which_saves(whole, tmp_path, start, job):
    process = start(tmp_path, *job, "--epochs", "3000", "--out", "run")
    while "run" not in process.stdout.readline():
        pass
    process.stdout.close()
    process.stdout = None
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGPIPE
    assert said.endswith("continue with: xent resume run\n")
    assert "Traceback" not in said
