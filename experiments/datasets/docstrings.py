"""English about Python, in every install: a TFDS builder over the docstrings of the standard library's own source."""

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

HELD_OUT = {"test": 0.1, "validation": 0.1}
"""Share of the packages in each split; the rest is to train on. Chosen before any training and never changed."""
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test"}

_DESCRIPTION = """
The docstrings of Python's standard library (version {version}, the one that prepared the set), read from its source
without importing it, tests left out: one record a docstring, in the order of modules and lines, indentation removed
as `inspect.cleandoc` does. `module` and `name` say whose docstring it is; a module's own has the name "". A text that
occurs several times is kept once, where it comes first. Splits are by top-level module or package: a hash of its name
decides, so that nothing of a package that is held out is trained on, in any version of Python.
"""

_CITATION = """
@misc{python,
  title        = {The Python Standard Library},
  author       = {{Python Software Foundation}},
  howpublished = {https://docs.python.org/3/library/}
}
"""


class Docstrings(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # TFDS has no types
    """`text`, `module` and `name`; splits train, validation and test, by package. The version is Python's.

    Source: the standard library, https://docs.python.org/3/library/.
    """

    VERSION = tfds.core.Version(".".join(map(str, sys.version_info[:3])))
    # Said outright, since TFDS infers both from the top package, and `xent` has no folder of its own when editable.
    code_path = tfds.core.Path(__file__)
    pkg_dir_path = code_path.parent

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=_DESCRIPTION.format(version=self.VERSION),
            features=tfds.features.FeaturesDict({name: tfds.features.Text() for name in ("text", "module", "name")}),
            homepage="https://docs.python.org/3/library/",
            citation=_CITATION,
            disable_shuffling=True,  # neighbours are of one module
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        documents: dict[str, dict[str, str]] = {}
        for found in docstrings(Path(sysconfig.get_path("stdlib"))):
            documents.setdefault(found["text"], found)
        splits: dict[str, list[dict[str, str]]] = {"train": [], **{split: [] for split in HELD_OUT}}
        for document in documents.values():
            splits[split_of(document["module"])].append(document)
        return {split: self._generate_examples(found) for split, found in splits.items()}

    def _generate_examples(self, documents: list[dict[str, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from enumerate(documents)


def split_of(module: str) -> str:
    """The split that a module belongs to, by a hash of its top-level name.

    Example:
      >>> split_of("json.decoder") == split_of("json")
      True
    """
    digest = hashlib.sha256(f"docstrings/{module.partition('.')[0].lstrip('_')}".encode()).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    for split, share in HELD_OUT.items():
        if place < share:
            return split
        place -= share
    return "train"


def docstrings(root: Path) -> Iterator[dict[str, str]]:
    """Yields each docstring of the modules below a folder, in the order of their names and lines."""
    for file in sorted(root.rglob("*.py"), key=lambda file: file.relative_to(root).parts):
        parts = file.relative_to(root).with_suffix("").parts
        if _LEFT_OUT & {*parts}:
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, OSError):  # lib2to3 has a file that is none of Python 3
            continue
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield from ({"text": text, "module": module, "name": name} for name, text in _inside(tree, ""))


def _inside(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Yields the qualified name and docstring of a module, class or function, and of those defined in it."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        try:
            text = (ast.get_docstring(node) or "").strip()
            text.encode()
        except UnicodeEncodeError:  # an escape of half a character
            text = ""
        if text:
            yield name, text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            inner = getattr(child, "name", None) if isinstance(child, ast.stmt) else None
            yield from _inside(child, ".".join(filter(None, [name, inner])))
