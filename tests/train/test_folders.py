"""A folder with a sub-folder a class becomes splits of files, and what is wrong with it is one line."""

import numpy as np
import pytest
from PIL import Image

from xent.train.errors import UsageError
from xent.train.folders import find, read, read_all


def fill(folder, classes, each, side=(12, 20)):
    for label, name in enumerate(classes):
        (folder / name / "deeper").mkdir(parents=True)
        for i in range(each):
            pixels = np.full((*side, 3), 40 * label + i, np.uint8)
            Image.fromarray(pixels).save(folder / name / "deeper" / f"{i}.png")


def test_a_plain_folder_is_cut_by_class(tmp_path):
    fill(tmp_path, ("cat", "dog"), 10)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    found = find(tmp_path, 0.25)
    assert found.classes == ("cat", "dog")
    assert [np.bincount(part.label).tolist() for part in (found.train, found.validation, found.test)] == [
        [6, 6],
        [2, 2],
        [2, 2],
    ]
    assert len({*found.train.paths, *found.validation.paths, *found.test.paths}) == 20
    split = read_all(found.test, 8)
    assert split.image.shape == (4, 8, 8, 3)
    assert (split.image[:, 0, 0, 0] // 40).tolist() == split.label.tolist()


def test_a_divided_folder_keeps_its_test(tmp_path):
    fill(tmp_path / "train", ("a", "b"), 4)
    fill(tmp_path / "test", ("a", "b"), 3)
    found = find(tmp_path, 0.0)
    assert [len(part.label) for part in (found.train, found.validation, found.test)] == [8, 0, 6]
    assert all("test" in path.parts for path in found.test.paths)


def test_the_middle_square_is_what_is_read(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (read(tmp_path / "wide.png", 10) == 200).all()


def test_what_cannot_be_used_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="has 0 sub-folders"):
        find(tmp_path, 0.0)
    fill(tmp_path, ("a", "b"), 1)
    with pytest.raises(UsageError, match="cannot be cut by class"):
        find(tmp_path, 0.0)
    (tmp_path / "c").mkdir()
    with pytest.raises(UsageError, match="has no images"):
        find(tmp_path, 0.0)
    (tmp_path / "broken.png").write_bytes(b"no image at all")
    with pytest.raises(UsageError, match="cannot be read as an image"):
        read(tmp_path / "broken.png", 8)
