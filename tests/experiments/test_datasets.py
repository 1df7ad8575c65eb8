"""The built-in datasets: real data, the same splits for ever, prepared by any number of processes at once."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from xent.experiments import datasets
from xent.train import data
from xent.train.datasets import prepared


@pytest.fixture(scope="module")
def rows(dataset_cache):
    """Every record of `digits`: split -> (image, label, id)."""
    builder = prepared("digits", builtin=datasets.register())
    sources = {split: builder.as_data_source(split) for split in ("train", "test")}
    return {
        split: tuple(np.stack([record[key] for record in source]) for key in ("image", "label", "id"))
        for split, source in sources.items()
    }


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, xent.experiments.datasets as datasets\n"
        "print(*datasets.BUILT_IN, [module for module in sys.modules if module in sys.argv[1:]])"
    )
    heavy = ["tensorflow_datasets", "sklearn", "tensorflow", "jax"]
    shown = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True).stdout
    assert shown == "images texts speech []\n"


def test_every_builtin_dataset_has_its_own_module_and_name():
    import tensorflow_datasets as tfds

    assert datasets.register() == (*datasets.register("images", "texts"), *datasets.register("speech"))
    for name in datasets.register():
        builder = tfds.builder(name)
        assert type(builder).__module__ == f"xent.experiments.datasets.{name}"
        assert builder.info.citation
        assert builder.info.homepage.startswith("https://")
        assert builder.info.description


def test_digits_are_the_real_ones(rows):
    from xent.experiments.datasets.digits import to_counts

    digits = load_digits()
    for image, label, row in rows.values():
        assert image.dtype == np.uint8
        assert (image.min(), image.max()) == (0, 255)
        np.testing.assert_array_equal(to_counts(image)[..., 0], digits.images[row])
        np.testing.assert_array_equal(label, digits.target[row])


def test_rescaling_is_exactly_invertible():
    from xent.experiments.datasets.digits import to_bytes, to_counts

    count = np.arange(17)
    np.testing.assert_array_equal(to_counts(to_bytes(count)), count)
    assert to_bytes(count)[[0, 8, 16]].tolist() == [0, 128, 255]


def test_digits_splits_are_disjoint_stratified_and_never_change(rows):
    (_, _, train_rows), (_, test, test_rows) = rows["train"], rows["test"]
    assert sorted([*train_rows, *test_rows]) == list(range(1797))
    assert len(test) == 360
    expected = np.bincount(load_digits().target) * 360 / 1797
    assert np.abs(np.bincount(test) - expected).max() <= 1
    assert sorted(test_rows)[:8] == [21, 24, 28, 34, 35, 37, 39, 42]


def test_digits_load_by_name(rows):
    digits = data.load("digits", builtin=datasets.register())
    assert digits.train.image.shape == (1293, 8, 8, 1)
    assert digits.validation.image.shape == (144, 8, 8, 1)
    assert digits.test.image.shape == (360, 8, 8, 1)
    assert digits.classes == tuple("0123456789")
    np.testing.assert_array_equal(np.sort(digits.test.label), np.sort(rows["test"][1]))


def test_docstrings_are_read_in_the_order_of_names_and_lines(tmp_path):
    from xent.experiments.datasets.docstrings import docstrings

    (tmp_path / "b").mkdir()
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "c.py").write_text('"""Left out."""')
    (tmp_path / "b" / "__init__.py").write_text('"""A package."""\n')
    (tmp_path / "b" / "old.py").write_text("print 'no Python 3'")
    (tmp_path / "a.py").write_text(
        'class A:\n    """One.\n\n    Two.\n    """\n    if True:\n        async def f(self):\n            "Three."\n'
        'def g():\n    pass\ntry:\n    pass\nexcept OSError as error:\n    def h():\n        "Four."\n'
    )
    found = [tuple(document.values()) for document in docstrings(tmp_path)]
    assert found == [
        ("One.\n\nTwo.", "a", "A"), ("Three.", "a", "A.f"), ("Four.", "a", "h"), ("A package.", "b", "")
    ]  # fmt: skip


def test_docstrings_splits_share_no_package_and_no_text(dataset_cache):
    builder = prepared("docstrings", builtin=datasets.register())
    texts, packages = [], {}
    for split in ("train", "validation", "test"):
        source = builder.as_data_source(split)
        records = list(source.__getitems__(range(len(source))))
        texts += [record["text"] for record in records]
        packages[split] = [record["module"].decode().partition(".")[0] for record in records]
        assert packages[split] == sorted(packages[split])  # neighbours are of one module
    assert len(texts) == len({*texts}) > 5000
    assert {"asyncio", "unittest"} <= {*packages["train"]}
    assert {"json", "csv"} <= {*packages["test"]}
    assert {"pickle", "statistics"} <= {*packages["validation"]}
    assert not {*packages["train"]} & {*packages["validation"], *packages["test"]}
    assert not {*packages["validation"]} & {*packages["test"]}


def test_two_processes_prepare_at_once(tmp_path: Path):
    code = (
        "import logging, sys; from xent.train import data; from xent.experiments import datasets; "
        "d = data.load('digits', data_dir=sys.argv[1], builtin=datasets.register()); "
        "print(d.test.image.sum()); logging.warning('heard')"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for _ in range(2)]
    said = [process.communicate(timeout=50) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert len(set(said)) == 1
    assert said[0][1] == "WARNING:root:heard\n"  # TFDS said nothing, and left the caller's logging as it was
    assert [entry.name for entry in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_digit_strings_are_spoken_and_no_voice_is_in_two_splits(dataset_cache):
    from xent.experiments.datasets.digit_strings import ACCENTS, CLIPS, DIGITS, VOICES

    builder = prepared("digit_strings", builtin=datasets.register())
    assert "synthesised by espeak-ng: no human speaks here" in builder.info.description
    voices = {}
    for split in ("train", "validation", "test"):
        source = builder.as_data_source(split)
        records = list(source.__getitems__(range(len(source))))
        voices[split] = {record["voice"].decode() for record in records}
        assert voices[split] == {*VOICES[split]}
        assert len(records) == CLIPS[split] * len(voices[split])
        words = [record["text"].decode().split() for record in records]
        assert {*map(len, words)} == {1, 2, 3, 4, 5}
        counts = [sum(word == digit for line in words for word in line) for digit in DIGITS]
        assert min(counts) > 0.7 * max(counts)
        assert sum(counts) == sum(map(len, words))
        assert {record["accent"].decode() for record in records} == {*ACCENTS}
        seconds = np.array([len(record["speech"]) / record["sample_rate"] for record in records])
        assert 0.15 < seconds.min() < seconds.max() < 3
        assert np.corrcoef(seconds, [*map(len, words)])[0, 1] > 0.8
        assert all(np.abs(record["speech"]).max() > 1000 for record in records)
    assert len(voices["train"] | voices["validation"] | voices["test"]) == sum(map(len, voices.values())) == 89


def test_speech_is_the_same_each_time_and_every_voice_is_its_own():
    from xent.experiments.datasets.digit_strings import ACCENTS, VOICES
    from xent.experiments.datasets.espeak import Line, speak

    voices = [f"en-us+{voice}" for split in VOICES.values() for voice in split]
    voices += [f"{accent}+f2" for accent in ACCENTS if accent != "en-us"]
    lines = [Line("two seven", voice, 175, 50) for voice in voices]
    first, again = speak(lines), speak(lines)
    assert [samples.tobytes() for samples in first] == [samples.tobytes() for samples in again]
    assert len({samples.tobytes() for samples in first}) == len(lines)
    with pytest.raises(RuntimeError, match="espeak-ng: there is no voice en-nowhere"):
        speak([Line("two", "en-nowhere", 175, 50)])
