"""A run on disk: logs, checkpoints, stopping and going on."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from rich.console import Console

from xent.train.checkpoint import open_checkpoints, restore
from xent.train.evaluate import make_evaluate
from xent.train.interrupt import Interrupted, saves_on_signals
from xent.train.journal import METRICS, open_journal, read_lines, sizes
from xent.train.loop import Diverged, Record, make_call
from xent.train.progress import progress
from xent.train.session import Saving, compile_call, train
from xent.train.source import array_source
from xent.train.step import init_state, make_train_step

SAVING = Saving()


def run(loss, params, arrays, folder, *, epochs=4, evaluate=None, saving=SAVING, flags=()):
    folder.mkdir(exist_ok=True)
    console = Console(file=io.StringIO())
    optimizer = optax.adam(0.05)
    source = array_source(arrays, 8, jax.random.key(1))
    state = init_state(params, optimizer, jax.random.key(2))
    call = make_call(make_train_step(loss, optimizer), source, 5)
    held_out = make_evaluate(loss, arrays)
    end = train(
        lambda: compile_call(call, state, source, held_out, console), state, source, epochs=epochs, steps_per_call=3,
        patience=5, evaluate=evaluate or held_out, folder=folder, flags=flags, console=console, saving=saving,
    )  # fmt: skip
    return end, console.file.getvalue()


def same(left, right):
    left, right = (state._replace(key=jax.random.key_data(state.key)) for state in (left, right))
    return jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), left, right))


def test_a_finished_run_is_on_disk(loss, params, arrays, tmp_path):
    end, said = run(loss, params, arrays, tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [0, 3, 6, 7, 10, 13, 14, 17, 20, 21, 24, 27, 28]
    assert set(lines[-1]) == {"step", "epoch", "loss", "accuracy", "validation_loss", "validation_accuracy", "skipped"}
    assert "seconds" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert [line["step"] for line in read_lines(tmp_path / "run" / "timing.jsonl")] == [line["step"] for line in lines]
    with open_checkpoints(tmp_path / "run" / "checkpoints", 2) as checkpoints:
        like = init_state(params, optax.adam(0.05), jax.random.key(0))
        found = restore(checkpoints, like, [], sizes(tmp_path / "run"), pytest.fail)
    assert same(found.state, end)
    assert found.lengths == sizes(tmp_path / "run")
    assert "compile" in said
    assert "step 28/28" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_stopped_run_goes_on_to_the_same_end(loss, params, arrays, tmp_path, number, epoch):
    whole, _ = run(loss, params, arrays, tmp_path / "whole")
    held_out, asked = make_evaluate(loss, arrays), []

    def evaluate_and_stop(params):
        asked.append(None)
        if len(asked) == epoch + 2:  # once before the first step, then after each epoch
            os.kill(os.getpid(), number)
            time.sleep(0.5)  # the thread that answers needs its turn
        return held_out(params)

    with pytest.raises(Interrupted) as stop:
        run(loss, params, arrays, tmp_path / "parts", evaluate=evaluate_and_stop)
    assert stop.value.code == 128 + number
    assert read_lines(tmp_path / "parts" / "metrics.jsonl")[-1]["step"] == 7 * (epoch + 1)
    end, said = run(loss, params, arrays, tmp_path / "parts")
    assert same(end, whole)
    assert "step 28/28" in said
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_a_run_killed_before_its_first_save_starts_over(loss, params, arrays, tmp_path):
    class Killed(BaseException):
        pass

    def kill(params):
        if asked:
            raise Killed
        asked.append(None)
        return make_evaluate(loss, arrays)(params)

    asked = []
    with pytest.raises(Killed):
        run(loss, params, arrays, tmp_path / "parts", evaluate=kill)
    whole, _ = run(loss, params, arrays, tmp_path / "whole")
    end, _ = run(loss, params, arrays, tmp_path / "parts")
    assert same(end, whole)
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_a_run_that_diverges_names_the_metric_and_the_last_good_checkpoint(loss, params, arrays, tmp_path):
    def cliff(params, batch, key):
        value, metrics = loss(params, batch, key)
        value = value + 0 * jnp.sqrt(0.3 - jnp.abs(params["w"]).max())  # NaN from some step on, whatever the batch
        return value, {**metrics, "loss": (value, jnp.float32(1))}

    with pytest.raises(Diverged) as error:
        run(cliff, params, arrays, tmp_path / "run", saving=Saving(every=3))
    assert "5 steps in a row up to step" in str(error.value)
    assert "(loss nan)" in str(error.value)
    named = Path(str(error.value).split("the last good checkpoint is ")[1])
    assert int(named.name) > 0
    assert named.exists()
    assert read_lines(tmp_path / "run" / METRICS)[-1]["skipped"] == 5


def test_the_journal_drops_what_came_after_the_checkpoint_and_what_is_half_written(tmp_path):
    with open_journal(tmp_path, {}) as journal:
        for step in (3, 6):
            journal.append(Record(step, step / 3, {"loss": 1.0 / step}, None, 0))
        lengths = journal.lengths()
        journal.append(Record(9, 3.0, {"loss": 1.0 / 9}, None, 0))
    whole = (tmp_path / METRICS).read_text()
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 12, "lo')
    with open_journal(tmp_path, lengths) as journal:
        journal.append(Record(9, 3.0, {"loss": 1.0 / 9}, None, 0))
    assert (tmp_path / METRICS).read_text() == whole


def test_the_first_signal_is_a_wish():
    def loop():
        with saves_on_signals() as received:
            assert received() is None
            os.kill(os.getpid(), signal.SIGTERM)
            began = time.monotonic()
            while received() is None and time.monotonic() - began < 5:
                time.sleep(0.001)
            assert received() == signal.SIGTERM

    with pytest.raises(Interrupted) as stop:
        loop()
    assert stop.value.code == 143  # nobody looked in time: it is not forgotten
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_the_process_even_in_compiled_code(number):
    code = (
        "import ctypes, xent.train.interrupt as i\n"
        "with i.saves_on_signals(), i.advising('go on'):\n"
        "    print('ready', flush=True)\n"
        "    [ctypes.CDLL(None).sleep(30) for _ in range(9)]\n"  # a call into C: Python's handlers wait for its end
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    process.send_signal(number)
    time.sleep(0.2)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    name = signal.Signals(number).name
    assert said == f"xent: {name}: saving, then ending; once more ends at once\nxent: stopped by {name}; go on\n"
    assert time.monotonic() - began < 5


def test_a_terminal_gets_a_bar_and_a_log_gets_lines():
    said = {}
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
        with progress(console, 10) as show:
            for step in (5, 10):
                show(Record(step, step / 5, {"loss": 0.5, "accuracy": 0.75}, None, 2))
        said[terminal] = console.file.getvalue()
    assert "━" in said[True]
    assert "\x1b" not in said[False]
    assert (
        said[False].splitlines()[-1].startswith("epoch 2.0, step 10/10, loss 0.5000, accuracy 0.7500, 2 steps skipped")
    )


def test_a_log_line_is_strict_json(tmp_path):
    with open_journal(tmp_path, {}) as journal:
        journal.append(Record(1, 0.5, {"loss": float("nan")}, {"loss": 2.0}, 1))
    line = json.loads((tmp_path / METRICS).read_text(), parse_constant=pytest.fail)
    assert line == {"step": 1, "epoch": 0.5, "loss": None, "validation_loss": 2.0, "skipped": 1}
