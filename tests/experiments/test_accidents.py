"""A run is never lost: what happens to users, done to the real loop through the command line."""

import json
import os
import shutil
import subprocess
import sys

import pytest

XENT = (sys.executable, "-m", "xent.experiments")


def steps_of(run):
    return sorted(int(folder.name) for folder in (run / "checkpoints").iterdir() if folder.name.isdecimal())


@pytest.mark.parametrize("kilobytes", [300, *(pytest.param(size, marks=pytest.mark.slow) for size in (150, 700))])
def test_a_full_disk_is_one_line_and_nothing_before_it_is_lost(whole, mount, kilobytes, xent, start, state_of, job):
    folder = mount(f"size={kilobytes}k")
    process = start(folder, *job, "--keep", "100", "--out", "run")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "No space left on device" in said
    assert "xent resume run" in said
    assert said.count("\n") == 1
    subprocess.run(["mount", "-o", "remount,size=100m", folder], check=True)
    again = xent("resume", folder / "run")
    assert again.code == 0, again.err
    assert state_of(folder / "run") == state_of(whole)


def test_a_read_only_folder_is_one_line(copy, mount, xent):
    folder = mount("size=50m")
    shutil.copytree(copy, folder / "run")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    outcome = xent("resume", folder / "run")
    assert outcome.code == 2
    assert "cannot be written (Read-only file system)" in outcome.err
    assert outcome.err.count("\n") == 1
    new = xent("digits", "--out", folder / "new")
    assert new.code == 2
    assert "cannot be made (Read-only file system)" in new.err


def test_resume_auto_starts_continues_and_then_has_nothing_to_do(whole, tmp_path, xent, start, wait_for, state_of, job):
    flags = (*job, "--out", "run", "--resume", "auto")
    process = start(tmp_path, *flags)
    wait_for(process, lambda: (tmp_path / "run/checkpoints/4").exists())
    process.kill()
    process.communicate()
    assert xent(*flags).code == 0
    assert state_of(tmp_path / "run") == state_of(whole)
    finished = xent(*flags)
    assert finished.code == 0
    assert "is finished" in finished.out
    other = xent(*flags, "--hidden", "48")
    assert other.code == 2
    assert "holds a run with other flags (--hidden=32)" in other.err
    alone = xent(*job, "--resume", "auto")
    assert alone.code == 2
    assert "--resume auto: must be given together with --out" in alone.err


def test_two_runs_of_one_seed_are_bitwise_equal_in_one_process_and_across(whole, tmp_path, xent, state_of, job):
    for name in ("a", "b"):
        assert xent(*job, "--out", name).code == 0
    assert state_of(tmp_path / "a") == state_of(tmp_path / "b") == state_of(whole)


def test_a_rerun_says_which_versions_differ(copy, xent):
    config = json.loads((copy / "config.json").read_text())
    config["versions"]["optax"] = "0.0.1"
    (copy / "config.json").write_text(json.dumps(config))
    outcome = xent("rerun", copy, "--epochs", "1")
    assert outcome.code == 0
    assert "was made with optax 0.0.1 (here " in outcome.out


def test_keep_and_save_every_do_what_they_say(tmp_path, xent):
    flags = (
        *("digits", "--epochs", "4", "--no-baselines", "--hidden", "32"),
        *("--steps-per-call", "7", "--save-every", "20", "--keep", "3"),
    )
    assert xent(*flags, "--out", "run").code == 0
    assert steps_of(tmp_path / "run") == [42, 63, 84]


def test_no_run_is_left_half_made_and_a_folder_has_one_writer(tmp_path, xent, start, wait_for, job):
    """A run's folder has its config.json from the first moment it can be seen."""
    process = start(tmp_path, *job, "--epochs", "3000", "--out", "run")
    seen = []
    wait_for(process, lambda: (tmp_path / "run").exists() and not seen.append((tmp_path / "run/config.json").exists()))
    wait_for(process, lambda: (tmp_path / "run/checkpoints").exists())  # it has long begun to write
    outcome = xent("resume", "run")
    process.kill()
    process.communicate()
    assert seen == [True]
    assert outcome.code == 2
    assert "is being written by another process" in outcome.err
    assert outcome.err.count("\n") == 1
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".making")]


def test_resume_auto_starts_in_an_empty_folder(tmp_path, xent, job):
    (tmp_path / "run").mkdir()
    assert xent(*job, "--epochs", "1", "--out", "run", "--resume", "auto").code == 0
    assert (tmp_path / "run/results.csv").exists()


def test_seeds_are_the_ones_that_were_asked_for(tmp_path, xent, job):
    flags = (*job, "--epochs", "1", "--seeds", "2", "--out", "run")
    assert xent(*flags).code == 0
    table = (tmp_path / "run/results.csv").read_bytes()
    (tmp_path / "run/results.csv").write_text("")  # emptied, as by a full disk: not finished
    (tmp_path / "run/seed-1/results.csv").write_text("not,ours\n1,2\n")
    assert xent("resume", "run").code == 0
    assert (tmp_path / "run/results.csv").read_bytes() == table
    (tmp_path / "run/results.csv").unlink()
    config = tmp_path / "run/seed-1/config.json"
    config.write_text(config.read_text().replace('"hidden": 32', '"hidden": 33'))
    outcome = xent("resume", "run")
    assert outcome.code == 2
    assert "run/seed-1 holds a run with other flags (--hidden=33)" in outcome.err


def test_an_output_that_cannot_be_written_costs_no_run(whole, mount, state_of, job):
    folder = mount("size=4k")
    command = [*XENT, *job, "--out", str(folder.parent / "run")]
    with (folder / "log").open("w") as log:
        log.write("x" * 4000)
        log.flush()
        done = subprocess.run(command, stdout=log, stderr=subprocess.PIPE, text=True, timeout=120, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "xent: standard output cannot be written (No space left on device): going on in silence\n"
    assert state_of(folder.parent / "run") == state_of(whole)


def test_a_limit_on_the_size_of_files_is_said_and_costs_no_run(whole, tmp_path, xent, state_of, job):
    script = 'ulimit -f 20; exec "$@"'
    command = ["sh", "-c", script, "sh", *XENT, *job, "--out", "run"]
    # What it compiles is cut off at that size, too: the cache is other tests', and stays as it is.
    environment = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "999"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("xent: run cannot be written (") == 1  # between what tensorstore's threads print
    assert done.stderr.count("mend that, then continue with xent resume run\n") == 1
    again = xent("resume", "run")
    assert again.code == 0, again.err
    assert state_of(tmp_path / "run") == state_of(whole)


def test_brackets_in_a_path_are_no_markup(tmp_path, xent, job):
    outcome = xent(*job, "--epochs", "1", "--out", "m [bold][/] x")
    assert outcome.code == 0
    assert "wrote    m [bold][/] x: " in outcome.out
