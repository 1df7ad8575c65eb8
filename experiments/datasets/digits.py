"""1797 real handwritten digits of 8 x 8 pixels, in every install: a TFDS builder over scikit-learn's `load_digits`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

SPLIT_SEED = 0
"""Chosen before any training and never changed: another seed is another test set."""
TEST_EXAMPLES = 360

_DESCRIPTION = """
Handwritten digits, 8 x 8 pixels: the 1797 examples of the test part of the UCI optical recognition of handwritten
digits set, as scikit-learn ships them. 43 people wrote them; each pixel counts the ink dots in a 4 x 4 block of a
32 x 32 bitmap, 0 to 16. Here they are rescaled to 0..255, exactly invertibly: pixel = (255 * count + 8) // 16 and
count = (16 * pixel + 127) // 255. `id` is the row in scikit-learn's arrays. The held-out split of 360 is stratified
by label, with a fixed seed; writers are not told apart, so it may share writers with the train split.
"""

_CITATION = """
@misc{alpaydin1998optical,
  title        = {Optical Recognition of Handwritten Digits},
  author       = {Alpaydin, Ethem and Kaynak, Cenk},
  year         = {1998},
  howpublished = {UCI Machine Learning Repository},
  doi          = {10.24432/C50P49}
}
"""


class Digits(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # TFDS has no types
    """`image` uint8 [8, 8, 1], `label` 0..9, `id` int32; splits train (1437) and test (360).

    Source: E. Alpaydin, C. Kaynak (1998), https://archive.ics.uci.edu/dataset/80, via `sklearn.datasets.load_digits`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012  # TFDS reads a plain dict
    # Said outright, since TFDS infers both from the top package, and `xent` has no folder of its own when editable.
    code_path = tfds.core.Path(__file__)
    pkg_dir_path = code_path.parent

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    # Not features.Image, which encodes PNG with TensorFlow.
                    "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                    "id": tfds.features.Scalar(dtype=np.int32),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            citation=_CITATION,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        image = to_bytes(digits.images)[..., None]
        rows = np.arange(len(image))
        train, test = train_test_split(
            rows, test_size=TEST_EXAMPLES, stratify=digits.target, random_state=SPLIT_SEED, shuffle=True
        )
        return {
            "train": self._generate_examples(image, digits.target, np.sort(train)),
            "test": self._generate_examples(image, digits.target, np.sort(test)),
        }

    def _generate_examples(
        self, image: np.ndarray, label: np.ndarray, rows: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for row in rows.tolist():
            yield row, {"image": image[row], "label": int(label[row]), "id": row}


def to_bytes(count: np.ndarray) -> np.ndarray:
    """Ink counts 0..16 to pixels 0..255, the nearest whole number: 0 to 0, 8 to 128, 16 to 255."""
    return ((255 * count.astype(np.int32) + 8) // 16).astype(np.uint8)


def to_counts(pixel: np.ndarray) -> np.ndarray:
    """The inverse of `to_bytes`: pixels to the ink counts 0..16 they came from, int32."""
    return (16 * pixel.astype(np.int32) + 127) // 255
