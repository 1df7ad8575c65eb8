"""Datasets as arrays: what is held out, what is refused, and that every refusal is one line."""

import io
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from xent.train import data, network
from xent.train.errors import UsageError

ONE_CLASS = tfds.features.ClassLabel(num_classes=1)
BYTE_IMAGE = tfds.features.Tensor(shape=(2, 3, 1), dtype=np.uint8)
made = 0


def make(splits, *, features=None, keys=("image", "label"), **attributes):
    """Registers a dataset with TFDS and returns its name; `splits` lists each split's examples."""
    global made
    made += 1
    features = features or {"image": BYTE_IMAGE, "label": tfds.features.ClassLabel(num_classes=3)}

    def info(self):
        description = {"description": "Made up for a test.", "supervised_keys": keys}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), **description)

    def generate(self, examples):
        yield from enumerate(examples() if callable(examples) else examples)

    def split_generators(self, dl_manager):
        return {split: self._generate_examples(examples) for split, examples in splits.items()}

    methods = {"_info": info, "_split_generators": split_generators, "_generate_examples": generate}
    here = tfds.core.Path(__file__)
    members = {"VERSION": tfds.core.Version("1.0.0"), "code_path": here, "pkg_dir_path": here.parent}
    return type(f"MadeUp{made}", (tfds.core.GeneratorBasedBuilder,), members | methods | attributes).name


def examples(count, *, start=0, label=None):
    """`count` examples, each with its own pixels; labels go round 0, 1, 2 unless given."""
    for i in range(start, start + count):
        yield {"image": np.full((2, 3, 1), i, np.uint8), "label": i % 3 if label is None else label}


def load(name, folder, **options):
    return data.load(name, data_dir=folder, **options)


def refusal(name, folder, **options):
    """The message of the UsageError, which must be one readable line."""
    with pytest.raises(UsageError) as caught:
        load(name, folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def ids(split):
    """The number each picture was drawn with."""
    return split.image[:, 0, 0, 0].tolist()


def test_import_is_light():
    code = "import sys, xent.train.data; print([m for m in sys.modules if m in sys.argv[1:]])"
    heavy = ["tensorflow_datasets", "sklearn", "tensorflow", "PIL", "jax"]
    assert subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True).stdout == "[]\n"


def test_splits_are_disjoint_stratified_and_fixed(tmp_path):
    name = make({"train": list(examples(60)), "test": list(examples(12, start=100))})
    loaded = load(name, tmp_path, validation=0.2)
    assert loaded.name == name
    assert loaded.classes == ("0", "1", "2")
    assert loaded.train.image.shape == (48, 2, 3, 1)
    for split in (loaded.train, loaded.validation, loaded.test):
        assert (split.image.dtype, split.label.dtype) == (np.uint8, np.int32)
        assert [i % 3 for i in ids(split)] == split.label.tolist()
        np.testing.assert_array_equal(split.image, np.broadcast_to(split.image[:, :1, :1], split.image.shape))
    assert np.bincount(loaded.validation.label).tolist() == [4, 4, 4]
    assert sorted(ids(loaded.train) + ids(loaded.validation)) == list(range(60))
    assert sorted(ids(loaded.test)) == list(range(100, 112))
    assert "test: its test" in loaded.source
    assert str(tmp_path) in loaded.source
    again = load(name, tmp_path, validation=0.2)
    assert ids(again.validation) == ids(loaded.validation)
    assert ids(again.train) == ids(loaded.train)


def test_validation_split_is_held_out_where_there_is_no_test(tmp_path):
    name = make({"train": list(examples(30)), "validation": list(examples(6, start=50))})
    assert sorted(ids(load(name, tmp_path).test)) == list(range(50, 56))


def test_a_fifth_of_train_is_held_out_where_there_is_nothing_else(tmp_path):
    loaded = load(make({"train": list(examples(90))}), tmp_path, validation=0.125)
    sizes = [np.bincount(split.label).tolist() for split in (loaded.train, loaded.validation, loaded.test)]
    assert sizes == [[21, 21, 21], [3, 3, 3], [6, 6, 6]]
    assert sorted(ids(loaded.train) + ids(loaded.validation) + ids(loaded.test)) == list(range(90))
    assert "20% of its train" in loaded.source


def test_no_validation(tmp_path):
    loaded = load(make({"train": list(examples(9)), "test": list(examples(3))}), tmp_path, validation=0)
    assert loaded.validation.image.shape == (0, 2, 3, 1)
    assert sorted(ids(loaded.train)) == list(range(9))


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction, tmp_path):
    assert "from 0 to below 1" in refusal("mnist", tmp_path, validation=fraction)


def test_compressed_images_are_decoded_to_the_channels_declared(tmp_path):
    pixels = np.arange(120, dtype=np.uint8).reshape(2, 5, 4, 3)
    grey = np.arange(20, dtype=np.uint8).reshape(5, 4)

    def drawn():
        for i, array in enumerate([*pixels, grey]):
            Image.fromarray(array).save(buffer := io.BytesIO(), "PNG")
            yield {"image": io.BytesIO(buffer.getvalue()), "label": i}

    features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
    loaded = load(make({"train": drawn, "test": drawn}, features=features), tmp_path, validation=0)
    by_label = loaded.train.image[np.argsort(loaded.train.label)]
    np.testing.assert_array_equal(by_label, [*pixels, np.repeat(grey[..., None], 3, axis=-1)])


def test_labels_out_of_range_are_counted(tmp_path):
    name = make({"train": list(examples(9)), "test": [*examples(4), *examples(3, label=-1)]})
    message = refusal(name, tmp_path)
    assert "split test: label -1 occurs 3 times" in message
    assert "0 to 2" in message


def test_plain_integer_labels_name_their_classes(tmp_path):
    features = {"image": BYTE_IMAGE, "label": tfds.features.Scalar(dtype=np.int64)}
    held = list(examples(1, label=4))
    assert load(make({"train": list(examples(30)), "test": held}, features=features), tmp_path).classes == tuple(
        "01234"
    )
    far = make({"train": list(examples(30)), "test": list(examples(1, label=10**9))}, features=features)
    assert "labels up to 1000000000" in refusal(far, tmp_path)


def test_features_are_found_by_type(tmp_path):
    features = {
        "number": tfds.features.Scalar(dtype=np.int64),
        "picture": BYTE_IMAGE,
        "kind": tfds.features.ClassLabel(names=["cat", "dog"]),
        "caption": tfds.features.Text(),
    }
    rows = [{"number": i, "picture": np.full((2, 3, 1), i, np.uint8), "kind": i % 2, "caption": "x"} for i in range(8)]
    loaded = load(make({"train": rows, "test": rows}, features=features, keys=None), tmp_path, validation=0)
    assert loaded.classes == ("cat", "dog")
    assert [i % 2 for i in ids(loaded.train)] == loaded.train.label.tolist()


@pytest.mark.parametrize(
    ("features", "keys", "found"),
    [
        ({"a": BYTE_IMAGE, "b": BYTE_IMAGE, "label": tfds.features.ClassLabel(num_classes=3)}, None, "b uint8[2"),
        ({"image": BYTE_IMAGE, "label": tfds.features.Text()}, ("image", "label"), "label"),
        ({"image": BYTE_IMAGE, "label": tfds.features.Scalar(dtype=np.float32)}, None, "label float32[]"),
        ({"image": tfds.features.Tensor(shape=(2, 3, 1), dtype=np.float32), "label": ONE_CLASS}, None, "image float32"),
    ],
)  # fmt: skip
def test_another_kind_of_dataset_is_refused_with_what_was_found(features, keys, found, tmp_path):
    row = {
        key: "x" if isinstance(f, tfds.features.Text) else np.zeros(f.shape, f.np_dtype) for key, f in features.items()
    }
    name = make({"train": [row]}, features=features, keys=keys)
    message = refusal(name, tmp_path)
    assert name in message
    assert found in message


def test_differing_shapes_are_refused(tmp_path):
    features = {
        "image": tfds.features.Tensor(shape=(None, 3, 1), dtype=np.uint8),
        "label": ONE_CLASS,
    }
    rows = [{"image": np.zeros((height, 3, 1), np.uint8), "label": 0} for height in (2, 2, 5)]
    message = refusal(make({"train": rows}, features=features), tmp_path)
    assert "[2, 3, 1]" in message
    assert "[5, 3, 1]" in message
    split = make({"train": rows[:2], "test": rows[2:]}, features=features)
    assert "differing shapes" in refusal(split, tmp_path, validation=0)


def test_no_train_split_and_classes_too_small_to_cut(tmp_path):
    assert "no train split (found: test)" in refusal(make({"test": list(examples(3))}), tmp_path)
    lone = make({"train": [*examples(10, label=0), *examples(1, label=1)], "test": list(examples(3))})
    assert "cannot be cut by class" in refusal(lone, tmp_path)
    assert len(load(lone, tmp_path, validation=0).train.label) == 11


def test_unknown_names_get_the_closest(tmp_path):
    message = refusal("minst", tmp_path, builtin=("digits",))
    assert "mnist" in message
    assert "built-in digits" in message
    assert len(refusal("x" * 5000, tmp_path)) < 200
    assert "unknown" in refusal("", tmp_path)
    assert "mnist/foo" in refusal("mnist/foo", tmp_path)
    assert "3.0.1" in refusal("mnist:9.9.9", tmp_path)
    assert not list(tmp_path.iterdir())


def test_stock_datasets_name_the_extra_where_tensorflow_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    for name in ("mnist", "coco/2017"):
        message = refusal(name, tmp_path, builtin=("digits",))
        assert "pip install -c .ci/constraints.txt -e '.[tensorflow]'" in message
        assert "built-in digits" in message


def test_hosts_that_do_not_answer_are_named_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"127.0.0.1:{server.getsockname()[1]}"
    checksum = f"http://{closed}/a.bin\t1\t{'0' * 64}\ta.bin\n"
    (tmp_path / "checksums.tsv").write_text(checksum)
    name = make({"train": list(examples(30))}, code_path=tfds.core.Path(tmp_path / "here.py"))
    begin = time.monotonic()
    message = refusal(name, tmp_path / "data", builtin=("digits",))
    assert time.monotonic() - begin < network.PATIENCE + 2
    assert "127.0.0.1" in message
    assert os.path.join("data", "downloads", "manual") in message
    assert "built-in digits" in message
    manual = tmp_path / "data" / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "a.bin").write_bytes(b"x")
    assert len(load(name, tmp_path / "data").train.label) > 0  # all its files are there: the network is not asked


def test_a_host_that_answers_is_not_blamed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        assert network.unreachable([address, "http://nosuch.invalid/y"]) == []
    assert network.unreachable([address, "http://nosuch.invalid/y"]) == ["127.0.0.1", "nosuch.invalid"]
    assert network.unreachable([]) == []


def test_damaged_folders_are_named(tmp_path):
    name = make({"train": list(examples(30)), "test": list(examples(9))})
    load(name, tmp_path)
    folder = tmp_path / name / "1.0.0"
    info, records = folder / "dataset_info.json", next(folder.glob("*train*"))
    kept, whole = info.read_text(), records.read_bytes()

    records.write_bytes(whole[: len(whole) // 2])
    assert "split train, cannot be read" in refusal(name, tmp_path)
    records.unlink()
    assert f"delete the folder {folder}" in refusal(name, tmp_path)
    records.write_bytes(whole)
    info.write_text("{")
    assert f"delete the folder {folder}" in refusal(name, tmp_path)
    info.write_text(json.dumps(json.loads(kept) | {"fileFormat": "tfrecord"}))
    assert f"prepared as tfrecord in {folder}" in refusal(name, tmp_path)
    info.unlink()
    assert f"half built: delete the folder {folder}" in refusal(name, tmp_path)
    info.write_text(kept)
    assert len(load(name, tmp_path, validation=0).train.label) == 30


def test_folders_that_cannot_be_written_are_named(tmp_path):
    name = make({"train": list(examples(9))})
    (tmp_path / "file").write_text("")
    message = refusal(name, tmp_path / "file" / "under")
    assert str(tmp_path / "file" / "under") in message
    assert "data_dir" in message
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.geteuid() != 0:
        assert "cannot be prepared" in refusal(name, tmp_path / "locked")


def test_a_builder_that_fails_leaves_one_line_and_no_folder(tmp_path):
    def failing():
        yield from examples(1)
        raise OSError("the disk is full\nand more")

    name = make({"train": failing})
    assert "OSError: the disk is full" in refusal(name, tmp_path)
    assert not list((tmp_path / name).glob("*1.0.0*"))


def test_another_process_may_finish_first(tmp_path):
    def overtaken():
        """While this writer is at work another one finishes, so that it may not rename its own folder."""
        if finished.exists():
            shutil.copytree(finished, tmp_path / name / "1.0.0")
        yield from examples(30)

    name = make({"train": overtaken})
    finished = tmp_path / "elsewhere" / name / "1.0.0"
    load(name, tmp_path / "elsewhere")
    assert len(load(name, tmp_path, validation=0).train.label) == 24
    assert [entry.name for entry in (tmp_path / name).iterdir()] == ["1.0.0"]


def test_one_line_is_reported_and_nothing_else_is_said(tmp_path, capfd):
    lines, handlers, environment = [], logging.getLogger().handlers[:], dict(os.environ)
    name = make({"train": list(examples(30))})
    load(name, tmp_path, report=lines.append)
    load(name, tmp_path, report=lines.append)
    assert lines == [f"preparing {name} in {tmp_path / name / '1.0.0'}"]
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers
    assert dict(os.environ) == environment
