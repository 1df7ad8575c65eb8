"""A run is never lost: killed, interrupted and cut off, through the command line."""

import json
import random
import shutil
import signal
import time

import pytest


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=pytest.mark.slow)])
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
            if done == kills:
                return
            shutil.rmtree(run)
        else:
            assert process.returncode == -signal.SIGKILL, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_exits_within_five_seconds(whole, tmp_path, number, start, wait_for, state_of, job):
    process = start(tmp_path, *job, "--epochs", "3000", "--out", "run")
    wait_for(process, lambda: (tmp_path / "run/metrics.jsonl").exists())
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert process.returncode == 128 + number
    assert said.endswith("continue with: xent resume run\n")
    step, _, log = state_of(tmp_path / "run")
    lines = [json.loads(line) for line in log.splitlines()]
    assert lines[-1]["step"] == step  # everything that was done is saved


def test_a_signal_while_it_compiles_is_kept_until_the_first_step(whole, tmp_path, start, wait_for, state_of, job):
    process = start(tmp_path, *job, "--out", "run")
    wait_for(process, lambda: (tmp_path / "run/checkpoints").exists())  # opened just before compilation
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    again = start(tmp_path, "resume", "run")
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert state_of(tmp_path / "run") == state_of(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_training_ends_the_run_with_the_way_to_go_on(tmp_path, number, xent, start, wait_for):
    flags = ("digits", "--epochs", "400", "--hidden", "32")  # the baselines take as many epochs, and longer
    process = start(tmp_path, *flags, "--out", "run")
    wait_for(process, lambda: (tmp_path / "run/confusion_matrix.png").exists())
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said.endswith("continue with: xent resume run\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize("trials", [8, pytest.param(100, marks=pytest.mark.slow)])
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
