"""A run is never lost: what is found damaged, edited or gone is said, and the last good state is used."""

import json
import shutil
import signal

import pytest


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
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(whole, copy, xent, harm, state_of):
    checkpoint = last_checkpoint(copy)
    harm(checkpoint)
    outcome = xent("resume", copy)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("cannot be used") == 1
    assert "falling back to the one before" in outcome.out
    assert "Traceback" not in outcome.err
    assert (checkpoint.parent / f"{checkpoint.name}.unusable").exists()
    assert state_of(copy) == state_of(whole)


def test_a_lost_clock_is_no_loss(whole, copy, xent, state_of):
    (copy / "timing.jsonl").unlink()
    outcome = xent("resume", copy)
    assert outcome.code == 0, outcome.err
    assert "cannot be used" not in outcome.out
    assert state_of(copy) == state_of(whole)


def test_with_no_good_checkpoint_left_a_run_starts_over(whole, copy, xent, state_of):
    for step in steps_of(copy):
        truncate(copy / "checkpoints" / str(step))
    outcome = xent("resume", copy)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("cannot be used") == 2
    assert "there is none before it" in outcome.out
    assert "resume   from the start, there is no checkpoint to go on from" in outcome.out
    assert state_of(copy) == state_of(whole)


def test_a_checkpoint_of_another_model_is_refused(copy, xent, job):
    other = copy.parent / "other"
    assert xent(*job, "--hidden", "48", "--save-every", "20", "--out", other).code == 0
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
        ("epochs", 1, "--epochs=4", "--epochs=1"),
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


def test_what_ctrl_c_saved_is_checked_before_it_is_believed(whole, tmp_path, xent, start, wait_for, state_of, job):
    process = start(tmp_path, *job, "--out", "run")
    wait_for(process, lambda: (tmp_path / "run/checkpoints/8").exists())
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    flip_a_bit(last_checkpoint(tmp_path / "run"))
    outcome = xent("resume", "run")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("cannot be used") == 1
    assert state_of(tmp_path / "run") == state_of(whole)


def test_a_lost_log_keeps_its_checkpoints(whole, copy, xent, state_of):
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


def test_a_shortened_log_falls_back_to_the_checkpoint_it_covers(whole, copy, xent, state_of):
    with (copy / "metrics.jsonl").open("rb+") as log:
        log.truncate((copy / "metrics.jsonl").stat().st_size - 1)
    outcome = xent("resume", copy)
    assert outcome.code == 0, outcome.err
    assert "metrics.jsonl has lost lines that it counts on" in outcome.out
    assert state_of(copy) == state_of(whole)
