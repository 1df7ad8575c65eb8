"""Commands answer fast, and whatever a user gets wrong is one line that says how to mend it."""

import json
import resource

import pytest

from xent.experiments.flags import parse, to_arguments
from xent.experiments.table import EXPERIMENTS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit"], "no command 'digit': did you mean digits?"),
        (["zzz"], "no command 'zzz': there are digits,"),
        (["list", "now"], "xent list takes no flags, but was given now"),
        (["digits", "--epoch", "3"], "Unrecognized options: --epoch, 3 (did you mean --epochs?)"),
        (["digits", "--learning-rat=3"], "did you mean --learning-rate?"),
        (["digits", "--epochs", "three"], "--epochs: three is no INT"),
        (["digits", "--epochs", "0"], "--epochs 0: must be from 1 to 2147483647"),
        (["digits", "--seeds", "0"], "--seeds 0: must be from 1 to 4294967296"),
        (["digits", "--seed", "4294967295", "--seeds", "2"], "--seeds 2: must be from 1 to 1, seeds end at 4294967295"),
        (["digits", "--seed", "-1"], "--seed -1: must be from 0 to"),
        (["digits", "--batch-size", "0"], "--batch-size 0: must be from 1 to 2147483647"),
        (["digits", "--patience", "9999999999"], "--patience 9999999999: must be from 1 to 2147483647"),
        (["digits", "--epochs", "999999999"], "--epochs 999999999: must be fewer"),
        (["digits", "--optimizer", "adan"], "invalid choice 'adan' for argument '--optimizer'"),
        (["digits", "--learning-rate", "0"], "--learning-rate 0.0: must be a number above 0"),
        (["digits", "--label-smoothing", "1"], "--label-smoothing 1.0: must be from 0 to below 1"),
        (["digits", "--validation", "1"], "--validation 1.0: must be from 0 to below 1"),
        (["digits", "--task", "binary", "--positive", "10"], "--positive 10: must be one of the 10 classes, 0 to 9"),
        (["digits", "--task", "binary", "--positive", "-1"], "--positive -1: must be"),
        (["digits", "--warmup-steps", "840"], "--warmup-steps 840: must be below the run's 840 updates"),
        (["digits", "--dataset", "digitz"], "digits"),
        (["digits", "--dataset", "mnisst"], "mnist"),
        (["digits", "--platform", "tpu"], "--platform tpu: JAX finds only"),
        (["digits", "--positive", "3"], "--positive 3: must be given together with --task binary"),
        (["digits", "--accumulate", "1000", "--epochs", "1"], "--accumulate 1000: must be at most the run's 21 steps"),
        (["digits", "--hidden", "2000000000"], "copies of the model's parameters need 2,4"),
        (["digits", "--out", "~/run"], "--out ~/run: must be a path without ~"),
        (["digits", "--dataset", "../digits"], "unknown dataset '../digits'"),
        (["gan", "--dataset", "nothing"], "any TFDS name is allowed; use the built-in digits\n"),
        (["images", "--dataset", "no/photos"], "use the built-in digits, or a folder of images\n"),
        (["digits", "--dataset", "imdb_reviews"], "is not one uint8 image [h, w, c] with one integer label"),
        (["digits", "--out", "/proc/run"], "--out /proc/run cannot be made ("),
        (["digits", "--out", "."], "--out . exists: name a new folder"),
        (["digits", "--out", "file/run"], "--out file/run cannot be made"),
        (["resume", "nowhere"], "nowhere is not the folder of a run"),
        (["resume"], "xent resume takes one thing"),
        (["rerun"], "xent rerun takes the folder of a run"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(xent, tmp_path, arguments, message):
    (tmp_path / "file").write_text("not a folder")
    outcome = xent(*arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("xent: ")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert len(outcome.err) < 500
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "edit", ["{", "[]", '{"experiment": "digits"}', '{"experiment": "cats", "flags": {}}', "\udcff"]
)
def test_a_config_that_cannot_be_read_is_one_line(xent, tmp_path, edit):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(edit, errors="surrogateescape")
    outcome = xent("resume", "run")
    assert outcome.code == 2
    assert "config.json" in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_config_with_a_bad_value_is_one_line(xent, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(
        json.dumps({"experiment": "digits", "flags": {"epochs": "many"}, "versions": {}})
    )
    outcome = xent("resume", "run")
    assert outcome.code == 2
    assert "--epochs" in outcome.err


def processor_seconds():
    """Of the processes started so far: what a command takes on a machine that does nothing else."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_and_list_answer_within_a_second(xent_process):
    for arguments in (["--help"], ["list"]):
        began = processor_seconds()
        outcome = xent_process(*arguments)
        assert processor_seconds() - began < 1
        assert outcome.code == 0
        for name, experiment in EXPERIMENTS.items():
            assert name in outcome.out
            assert experiment.summary in outcome.out
    assert "%" in outcome.out  # the number to expect


def test_a_bad_flag_answers_within_three_seconds(xent_process):
    began = processor_seconds()
    outcome = xent_process("digits", "--epoch", "3")
    assert processor_seconds() - began < 3
    assert outcome.code == 2


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_messages_are_the_same_in_any_terminal(xent_process, encoding):
    outcome = xent_process("digits", "--optimizer", "adan", PYTHONIOENCODING=encoding)
    assert outcome.err.startswith("xent: invalid choice 'adan' for argument '--optimizer'. Expected one of ('adam',")


def test_a_terminal_without_unicode_still_gets_the_list(xent_process):
    outcome = xent_process("list", PYTHONIOENCODING="ascii")
    assert outcome.code == 0
    assert "97.8 ? 0.2 %" in outcome.out


def test_list_imports_nothing_heavy(xent_process):
    outcome = xent_process("list", PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rsplit("|", 1)[-1].strip() for line in outcome.err.splitlines()}
    assert not loaded & {"jax", "numpy", "flax", "optax", "tyro", "rich", "tensorflow_datasets"}


def test_doctor_says_what_is_here(xent, dataset_cache):
    outcome = xent("doctor")
    assert outcome.code == 0
    for part in ("jaxlib", "python", "backend", "cpu", "memory", str(dataset_cache)):
        assert part in outcome.out


def test_help_explains_every_flag(xent):
    outcome = xent("digits", "--help")
    assert outcome.code == 0
    for flag in (
        "--epochs",
        "--optimizer",
        "--learning-rate",
        "--seeds",
        "--platform",
        "--dtype",
        "--matmul-precision",
    ):
        assert flag in outcome.out


def test_flags_survive_the_way_through_json():
    from xent.experiments.digits import Config

    given = ["--epochs=3", "--no-baselines", "--optimizer=lion", "--clip=0.5", "--learning-rate=3e-05", "--seed=7"]
    config = parse(Config, given, prog="test")
    assert parse(Config, to_arguments(config), prog="test") == config
    assert parse(Config, [*to_arguments(config), "--epochs=4"], prog="test").epochs == 4


@pytest.mark.parametrize("command", ["list", "doctor", "resume", "rerun", "bench", "fits"])
def test_every_command_explains_itself(xent, command):
    outcome = xent(command, "--help")
    assert outcome.code == 0
    assert f"xent {command}" in outcome.out


def test_versions_are_one_line(xent):
    outcome = xent("--version")
    assert outcome.out.startswith("xent 0.1.0, jax ")
    assert outcome.out.count("\n") == 1


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_platform_that_is_not_here_is_one_line(xent_process, platform):
    outcome = xent_process("digits", JAX_PLATFORMS=platform)
    assert outcome.code == 2
    assert outcome.err.startswith(f"xent: JAX_PLATFORMS={platform} cannot be had here (")
    assert outcome.err.count("\n") == 1
    doctor = xent_process("doctor", JAX_PLATFORMS=platform)
    assert doctor.code == 0
    assert f"none: JAX_PLATFORMS={platform}" in doctor.out
