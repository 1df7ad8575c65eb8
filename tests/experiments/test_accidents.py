"""A run is never lost: what happens to users, done to the real loop through the command line."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

JOB = ("digits", "--epochs", "6", "--steps-per-call", "4", "--save-every", "1", "--no-baselines", "--hidden", "32")
XENT = (sys.executable, "-m", "xent.experiments")


def start(folder, *arguments):
    command = [*XENT, *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process, condition, limit=60):
    began = time.monotonic()
    while process.poll() is None and not condition() and time.monotonic() - began < limit:
        time.sleep(0.002)


def state_of(run):
    """The arrays of the last checkpoint, and the log, as bytes."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(run.absolute() / "checkpoints") as manager:
        step = manager.latest_step()
        state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore())).state
    import jax

    return step, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)], (run / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, dataset_cache):
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


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_changes_nothing(whole, tmp_path, kills):
    expected, chance, done = state_of(whole), random.Random(0), 0
    run = tmp_path / "run"
    log = run / "metrics.jsonl"
    while True:
        before = log.stat().st_size if log.exists() else 0
        process = start(tmp_path, *JOB, "--out", "run", "--resume", "auto")
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
def test_a_signal_saves_and_exits_within_five_seconds(whole, tmp_path, number):
    process = start(tmp_path, *JOB, "--epochs", "3000", "--out", "run")
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


def test_a_signal_while_it_compiles_is_kept_until_the_first_step(whole, tmp_path):
    process = start(tmp_path, *JOB, "--out", "run")
    wait_for(process, lambda: (tmp_path / "run/checkpoints").exists())  # opened just before compilation
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    again = start(tmp_path, "resume", "run")
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert state_of(tmp_path / "run") == state_of(whole)


def steps_of(run):
    return sorted(int(folder.name) for folder in (run / "checkpoints").iterdir() if folder.name.isdecimal())


def last_checkpoint(run):
    return run / "checkpoints" / str(steps_of(run)[-1])


def truncate(checkpoint):
    data = max((file for file in checkpoint.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def flip_a_bit(checkpoint):
    data = max((file for file in checkpoint.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)


def delete_half(checkpoint):
    for file in sorted(file for file in checkpoint.rglob("*") if file.is_file())[::2]:
        file.unlink()


def empty(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def lose_lines(checkpoint):
    log = checkpoint.parents[1] / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]))


@pytest.mark.parametrize("harm", [truncate, flip_a_bit, delete_half, empty, lose_lines])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(whole, copy, xent, harm):
    checkpoint = last_checkpoint(copy)
    harm(checkpoint)
    outcome = xent("resume", copy)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("cannot be used") == 1
    assert "falling back to the one before" in outcome.out
    assert "Traceback" not in outcome.err
    assert (checkpoint.parent / f"{checkpoint.name}.unusable").exists()
    assert state_of(copy) == state_of(whole)


def test_a_lost_clock_is_no_loss(whole, copy, xent):
    (copy / "timing.jsonl").unlink()
    outcome = xent("resume", copy)
    assert outcome.code == 0, outcome.err
    assert "cannot be used" not in outcome.out
    assert state_of(copy) == state_of(whole)


def test_with_no_good_checkpoint_left_a_run_starts_over(whole, copy, xent):
    for step in steps_of(copy):
        truncate(copy / "checkpoints" / str(step))
    outcome = xent("resume", copy)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("cannot be used") == 2
    assert "there is none before it" in outcome.out
    assert "resume   from the start, there is no checkpoint to go on from" in outcome.out
    assert state_of(copy) == state_of(whole)


def test_a_checkpoint_of_another_model_is_refused(copy, xent):
    other = copy.parent / "other"
    assert xent(*JOB, "--hidden", "48", "--out", other).code == 0
    shutil.rmtree(copy / "checkpoints")
    (other / "checkpoints").rename(copy / "checkpoints")
    outcome = xent("resume", copy)
    assert outcome.code == 2
    assert "was made with --hidden=48, now it is --hidden=32" in outcome.err
    assert outcome.err.count("\n") == 1
    assert steps_of(copy)  # still there


@pytest.mark.parametrize(
    ("name", "value", "then", "now"),
    [
        ("hidden", 48, "--hidden=32", "--hidden=48"),
        ("batch_size", 32, "--batch-size=64", "--batch-size=32"),
        ("epochs", 1, "--epochs=6", "--epochs=1"),
        ("label_smoothing", 0.1, "--label-smoothing=0.0", "--label-smoothing=0.1"),
        ("optimizer", None, "--optimizer=adam, --learning-rate=0.001", "fewer"),
    ],
)
def test_a_run_is_not_continued_with_other_flags(copy, xent, name, value, then, now):
    config = json.loads((copy / "config.json").read_text())
    config["flags"][name] = value
    (copy / "config.json").write_text(json.dumps(config))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    outcome = xent("resume", copy)
    if value is None:  # every flag at its default: the same run
        assert outcome.code == 0
        return
    assert outcome.code == 2
    assert f"was made with {then}, now it is {now}: restore the run's config.json" in outcome.err
    assert outcome.err.count("\n") == 1
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: None, "is not the folder of a run, it has no config.json"),
        (lambda text: text[:50], "config.json cannot be read"),
        (lambda text: text.replace('"batch_size": 64', '"batch_size": "many"'), "--batch-size"),
        (
            lambda text: text.replace('"batch_size": 64', '"batch_size": -1'),
            "--batch-size -1: must be from 1 to 2147483647",
        ),
        (lambda text: text.replace("batch_size", "batch_sise"), "did you mean --batch-size?"),
        (lambda text: '{"experiment": "digits", "flags": [], "versions": {}}', "its flags are no object"),
        (lambda text: '{"experiment": "digits", "flags": {}, "versions": 3}', "its versions are no object"),
    ],
)
def test_a_config_gone_or_edited_is_one_line(copy, xent, edit, message):
    text = edit((copy / "config.json").read_text())
    (copy / "config.json").unlink()
    if text is not None:
        (copy / "config.json").write_text(text)
    outcome = xent("resume", copy)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_folder_has_one_writer(whole, copy, xent):
    process = start(copy.parent, *JOB, "--epochs", "3000", "--out", "busy")
    wait_for(process, lambda: (copy.parent / "busy/metrics.jsonl").exists())
    try:
        outcome = xent("resume", copy.parent / "busy")
        assert outcome.code == 2
        assert "is being written by another process" in outcome.err
        assert outcome.err.count("\n") == 1
    finally:
        process.kill()
        process.communicate()


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


@pytest.mark.parametrize("kilobytes", [150, 300, 700])
def test_a_full_disk_is_one_line_and_nothing_before_it_is_lost(whole, mount, kilobytes):
    folder = mount(f"size={kilobytes}k")
    process = start(folder, *JOB, "--keep", "100", "--out", "run")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "No space left on device" in said
    assert "xent resume run" in said
    assert said.count("\n") == 1
    subprocess.run(["mount", "-o", "remount,size=100m", folder], check=True)
    again = start(folder, "resume", "run")
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
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


def test_resume_auto_starts_continues_and_then_has_nothing_to_do(whole, tmp_path, xent):
    flags = (*JOB, "--out", "run", "--resume", "auto")
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
    alone = xent(*JOB, "--resume", "auto")
    assert alone.code == 2
    assert "--resume auto: must be given together with --out" in alone.err


def test_two_runs_of_one_seed_are_bitwise_equal_in_one_process_and_across(whole, tmp_path, xent):
    for name in ("a", "b"):
        assert xent(*JOB, "--out", name).code == 0
    assert state_of(tmp_path / "a") == state_of(tmp_path / "b") == state_of(whole)


def test_a_rerun_says_which_versions_differ(copy, xent):
    config = json.loads((copy / "config.json").read_text())
    config["versions"]["optax"] = "0.0.1"
    (copy / "config.json").write_text(json.dumps(config))
    outcome = xent("rerun", copy, "--epochs", "1")
    assert outcome.code == 0
    assert "was made with optax 0.0.1 (here " in outcome.out


def test_keep_and_save_every_do_what_they_say(tmp_path, xent):
    flags = ("digits", "--epochs", "4", "--no-baselines", "--steps-per-call", "7", "--save-every", "20", "--keep", "3")
    assert xent(*flags, "--out", "run").code == 0
    assert steps_of(tmp_path / "run") == [42, 63, 84]


def test_no_run_is_left_half_made(tmp_path, xent):
    """A run's folder has its config.json from the first moment it can be seen."""
    process = start(tmp_path, *JOB, "--out", "run")
    seen = []
    wait_for(process, lambda: (tmp_path / "run").exists() and not seen.append((tmp_path / "run/config.json").exists()))
    process.kill()
    process.communicate()
    assert seen == [True]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".making")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_training_ends_the_run_with_the_way_to_go_on(tmp_path, number, xent):
    flags = ("digits", "--epochs", "400", "--hidden", "32")  # the baselines take as many epochs, and longer
    process = start(tmp_path, *flags, "--out", "run")
    wait_for(process, lambda: (tmp_path / "run/confusion_matrix.png").exists())
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said.endswith("continue with: xent resume run\n")
    assert said.count("\n") == 1


def test_what_ctrl_c_saved_is_checked_before_it_is_believed(whole, tmp_path, xent):
    process = start(tmp_path, *JOB, "--out", "run")
    wait_for(process, lambda: (tmp_path / "run/checkpoints/8").exists())
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    flip_a_bit(last_checkpoint(tmp_path / "run"))
    outcome = xent("resume", "run")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("cannot be used") == 1
    assert state_of(tmp_path / "run") == state_of(whole)


@pytest.mark.parametrize("trials", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_a_signal_at_any_moment_is_one_line_and_the_right_code(whole, tmp_path, trials):
    """While Python imports, data is read, XLA compiles, steps run, pictures are drawn."""
    chance = random.Random(1)
    for trial in range(trials):
        number = chance.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        process = start(tmp_path, *JOB, "--epochs", "200", "--out", f"run-{trial}")
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


def test_a_reader_that_leaves_stops_a_run_which_saves(whole, tmp_path):
    process = start(tmp_path, *JOB, "--epochs", "3000", "--out", "run")
    while "run" not in process.stdout.readline():
        pass
    process.stdout.close()
    process.stdout = None
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGPIPE
    assert said.endswith("continue with: xent resume run\n")
    assert "Traceback" not in said


def test_resume_auto_starts_in_an_empty_folder(tmp_path, xent):
    (tmp_path / "run").mkdir()
    assert xent(*JOB, "--epochs", "1", "--out", "run", "--resume", "auto").code == 0
    assert (tmp_path / "run/results.csv").exists()


def test_seeds_are_the_ones_that_were_asked_for(tmp_path, xent):
    flags = (*JOB, "--epochs", "1", "--seeds", "2", "--out", "run")
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


def test_an_output_that_cannot_be_written_costs_no_run(whole, mount):
    folder = mount("size=4k")
    command = [*XENT, *JOB, "--out", str(folder.parent / "run")]
    with (folder / "log").open("w") as log:
        log.write("x" * 4000)
        log.flush()
        done = subprocess.run(command, stdout=log, stderr=subprocess.PIPE, text=True, timeout=120, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "xent: standard output cannot be written (No space left on device): going on in silence\n"
    assert state_of(folder.parent / "run") == state_of(whole)


def test_a_limit_on_the_size_of_files_is_said_and_costs_no_run(whole, tmp_path):
    script = 'ulimit -f 20; exec "$@"'
    command = ["sh", "-c", script, "sh", *XENT, *JOB, "--hidden", "256", "--out", "run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("xent: run cannot be written (") == 1  # between what tensorstore's threads print
    assert done.stderr.count("mend that, then continue with xent resume run\n") == 1
    again = start(tmp_path, "resume", "run")
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said


def test_a_lost_log_keeps_its_checkpoints(whole, copy, xent):
    log = (copy / "metrics.jsonl").read_bytes()
    before = steps_of(copy)
    (copy / "metrics.jsonl").unlink()
    outcome = xent("resume", copy)
    assert outcome.code == 2
    assert "metrics.jsonl has lost lines that every checkpoint counts on: restore it, or repeat" in outcome.err
    assert steps_of(copy) == before
    (copy / "metrics.jsonl").write_bytes(log)
    assert xent("resume", copy).code == 0
    assert state_of(copy) == state_of(whole)


def test_a_shortened_log_falls_back_to_the_checkpoint_it_covers(whole, copy, xent):
    with (copy / "metrics.jsonl").open("rb+") as log:
        log.truncate((copy / "metrics.jsonl").stat().st_size - 1)
    outcome = xent("resume", copy)
    assert outcome.code == 0, outcome.err
    assert "metrics.jsonl has lost lines that it counts on" in outcome.out
    assert state_of(copy) == state_of(whole)


def test_brackets_in_a_path_are_no_markup(tmp_path, xent):
    outcome = xent(*JOB, "--epochs", "1", "--out", "m [bold][/] x")
    assert outcome.code == 0
    assert "wrote    m [bold][/] x: " in outcome.out
