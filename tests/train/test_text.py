"""Text by the name of a set or of a folder: its splits never share a document, and refusals are one line."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from xent.train import text
from xent.train.errors import UsageError


@pytest.fixture
def folder(tmp_path):
    """Twenty files, two of them alike, in two folders, and three that are no text."""
    (tmp_path / "inner").mkdir()
    for number in range(20):
        name = f"inner/{number}.txt" if number % 2 else f"{number}.md"
        (tmp_path / name).write_text(f"Text {number if number != 7 else 8}.\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    (tmp_path / "zeros").write_bytes(bytes(8))
    (tmp_path / ".hidden").write_text("not this")
    (tmp_path / "blank.txt").write_text(" \n")
    return tmp_path


def test_a_folder_of_text_files_is_documents(folder):
    found = text.load(str(folder))
    every = [*found.train, *found.validation, *found.test]
    assert {*every} == {f"Text {number}.\n" for number in range(20) if number != 7}
    assert (len(found.test), len(found.validation)) == (2, 2)
    assert not {*found.train} & {*found.test, *found.validation}
    assert not {*found.test} & {*found.validation}
    assert "20 text files of 23" in found.source
    assert text.load(str(folder)) == found


def test_only_so_many_documents_are_read(folder):
    found = text.load(str(folder), documents=5)
    assert len(found.train) + len(found.validation) + len(found.test) == 5


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no files in it"),
        ({"a": b"\xff\xff", "b": b" "}, "has 2 files and no text in UTF-8 in any"),
        ({"a": b"one", "b": b"two"}, "has too little text, 2 documents in train"),
        ({"a": b"same", "b": b"same", "c": b"same"}, "has too little text, 3 documents in train"),
    ],
)
def test_a_folder_without_enough_text_is_refused(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        text.load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no folder"):
        text.load(str(tmp_path / "nowhere"))


def register(name, splits, features):
    """Makes a set of these records known to TFDS."""

    def info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def generators(self, _):
        return {split: enumerate(records) for split, records in splits.items()}

    attributes = {"VERSION": tfds.core.Version("1.0.0"), "_info": info, "_split_generators": generators}
    unused = {"_generate_examples": lambda self: iter(()), "pkg_dir_path": tfds.core.Path(__file__).parent}
    type(name, (tfds.core.GeneratorBasedBuilder,), {**attributes, **unused, "__module__": __name__})


def test_the_splits_of_a_set_are_kept_and_what_they_share_is_left_out(dataset_cache):
    of = lambda *texts: [{"text": each, "title": "no"} for each in texts]  # noqa: E731
    both = {"text": tfds.features.Text(), "title": tfds.features.Text()}
    splits = {"train": of("a", "b", " ", "c"), "validation": of("d", "e", "b"), "test": of("e", "f", "a")}
    register("ThreeSplitsOfText", splits, both)
    found = text.load("three_splits_of_text")
    assert (found.train, found.validation, found.test) == (["a", "b", "c"], ["d"], ["e", "f"])
    assert "3 held-out documents seen elsewhere left out" in found.source


def test_a_lone_validation_split_is_tested_on(dataset_cache):
    records = lambda *texts: [{"line": each} for each in texts]  # noqa: E731
    splits = {"train": records(*map(str, range(20))), "validation": records("x", "y")}
    register("TwoSplitsOfText", splits, {"line": tfds.features.Text()})
    found = text.load("two_splits_of_text", documents=10)
    assert found.test == ["x", "y"]
    assert len(found.validation) == 1
    assert {*found.train, *found.validation} == {*map(str, range(10))}


def test_a_set_without_text_is_refused(dataset_cache):
    register("NoTextAtAll", {"train": []}, {"number": tfds.features.Scalar(np.int32)})
    with pytest.raises(UsageError, match=r"has no feature `text`, nor a single one of that type \(found: number\)"):
        text.load("no_text_at_all")
