"""Stock builders of TFDS, end to end without the internet: files of MNIST's and lm1b's formats, served from localhost.

Pixels, labels and sentences are generated, not theirs; the formats, the builders and the way through TensorFlow are
real. It asks for the `tensorflow` extra.
"""

import contextlib
import functools
import gzip
import http.server
import importlib.util
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds

from xent.experiments import datasets
from xent.train import data
from xent.train.errors import UsageError

if importlib.util.find_spec("tensorflow") is None:  # not importorskip: the import warns, and should stay in `quiet`
    pytest.skip("needs the tensorflow extra", allow_module_level=True)

SIZES = {"train": 60000, "t10k": 10000}  # the builder reads this many, whatever the files say

WITHOUT_TENSORFLOW = '''
import sys

class Without:
    """An import finder that does not find TensorFlow."""
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "tensorflow" else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
from xent.train import data

mnist = data.load("mnist", data_dir=sys.argv[1])
print(len(mnist.train.label), len(mnist.validation.label), mnist.test.image.sum(), mnist.test.label.sum())
'''


class Silent(http.server.SimpleHTTPRequestHandler):
    """A file server that does not log."""

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(folder):
    """The address where a folder's files can be had."""
    handler = functools.partial(Silent, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def generated():
    """File prefix -> (image [n, 28, 28], label [n]); no two images are alike."""
    rng = np.random.default_rng(0)
    made = {}
    for prefix, size in SIZES.items():
        image = np.zeros((size, 28, 28), np.uint8)
        image[:, 8:12, 8:12] = rng.integers(0, 256, (size, 4, 4), np.uint8)
        made[prefix] = image, rng.integers(0, 10, size, np.uint8)
    return made


@pytest.fixture(scope="module")
def address(generated, tmp_path_factory):
    """Where the four idx files are served: big-endian magic number and sizes, then bytes, gzipped."""
    folder = tmp_path_factory.mktemp("served")
    for prefix, (image, label) in generated.items():
        for kind, array in (("images-idx3", image), ("labels-idx1", label)):
            header = np.array([2048 + array.ndim, *array.shape], ">u4").tobytes()
            path = folder / f"{prefix}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=1))
    with served(folder) as url:
        yield url


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


def in_order(image, label):
    """Examples as bytes in a fixed order: TFDS stores them in another than it was given."""
    return sorted(pixels.tobytes() + bytes([number]) for pixels, number in zip(image, label, strict=True))


def test_a_dead_mirror_is_named(folder, monkeypatch):
    monkeypatch.setattr(tfds.builder_cls("mnist"), "URL", "http://127.0.0.1:9/")
    with pytest.raises(UsageError, match=r"'mnist' is not prepared and 127\.0\.0\.1 cannot be reached.*digits"):
        data.load("mnist", data_dir=folder, builtin=datasets.register())


def test_what_was_served_is_what_is_loaded(generated, address, folder, monkeypatch, capfd):
    monkeypatch.setattr(tfds.builder_cls("mnist"), "URL", address)
    lines = []
    mnist = data.load("mnist", data_dir=folder, validation=0, report=lines.append)
    assert lines == [f"preparing mnist in {folder}/mnist/3.0.1"]
    assert capfd.readouterr() == ("", "")
    assert mnist.train.image.shape == (60000, 28, 28, 1)
    assert mnist.classes == tuple("0123456789")
    for split, prefix in ((mnist.train, "train"), (mnist.test, "t10k")):
        assert in_order(*split) == in_order(*generated[prefix])


def test_once_prepared_tensorflow_is_not_needed(generated, folder):
    command = [sys.executable, "-W", "error", "-c", WITHOUT_TENSORFLOW, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    image, label = generated["t10k"]
    assert (done.stdout, done.stderr) == (f"54000 6000 {image.sum()} {label.sum()}\n", "")


def test_the_language_model_learns_from_lm1b(tmp_path, monkeypatch, xent):
    """The archive as it is published: one folder, in it one of training files and one of held-out ones."""
    name = "1-billion-word-language-modeling-benchmark-r13output"
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice([*"abcdefgh"], 4)) for _ in range(80)]
    for part, count in (("training-monolingual.tokenized.shuffled/news.en-00001-of-00100", 600),
                        ("heldout-monolingual.tokenized.shuffled/news.en.heldout-00000-of-00050", 60)):  # fmt: skip
        path = tmp_path / name / part
        path.parent.mkdir(parents=True)
        path.write_text("".join(" ".join(draw.choice(words, 12)) + "\n" for _ in range(count)))
    with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / name, name)
    builder = tfds.builder_cls("lm1b")
    sizes = ("--vocabulary=300", "--context=16", "--units=16", "--layers=1", "--heads=2", "--epochs=1", "--sampled=5")
    with served(tmp_path) as url:
        monkeypatch.setattr(builder, "URL", url, raising=False)
        monkeypatch.setattr(sys.modules[builder.__module__], "_DOWNLOAD_URL", f"{url}{name}.tar.gz")
        outcome = xent("language_model", "--dataset=lm1b", "--data-dir", tmp_path / "prepared", *sizes)
    assert outcome.code == 0, outcome.err
    assert "train 540 documents" in outcome.out  # a tenth is cut for validation
