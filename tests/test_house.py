"""The house stands as it was drawn: arrows between rooms, what is installed, what it weighs, and examples that run."""

import ast
import doctest
import importlib
import importlib.metadata
import pkgutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {
    "losses": {"losses"},
    "models": {"models"},
    "train": {"train", "losses"},
    "experiments": {"experiments", "train", "models", "losses"},
}
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import statement, wherever it stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("xent.")}
    assert rooms <= ROOMS[room], f"{room} may not import {rooms - ROOMS[room]}"


def test_the_losses_need_jax_and_the_standard_library_only():
    allowed = {"jax", "xent", *sys.stdlib_module_names}
    for path in (ROOT / "losses").rglob("*.py"):
        assert {name.split(".")[0] for name in imports(path)} <= allowed, path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 400


def test_every_package_is_installed_and_typed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = sorted({path.parent for path in FILES})
    names = ["xent." + ".".join(folder.relative_to(ROOT).parts) for folder in folders]
    assert sorted(settings["packages"]) == names
    assert settings["package-dir"] == {
        name: str(folder.relative_to(ROOT)) for name, folder in zip(names, folders, strict=True)
    }
    for room in ROOMS:
        assert (ROOT / room / "py.typed").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy of the sources, so that nothing is left behind in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, folder / "source"]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_a_wheel_holds_xent_and_nothing_else(wheel):
    files = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in files if ".dist-info/" not in name} == {"xent"}
    expected = {"xent/" + str(path.relative_to(ROOT)) for path in FILES} | {f"xent/{room}/py.typed" for room in ROOMS}
    assert {name for name in files if name.startswith("xent/") and not name.endswith("/")} == expected


def test_importing_the_losses_imports_jax_and_nothing_else_of_weight():
    code = (
        "import sys, jax, jax.numpy; before = set(sys.modules); import xent.losses; print(*set(sys.modules) - before)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    new = {name.split(".")[0] for name in out.split()} - set(sys.stdlib_module_names)
    assert new <= {"xent", "jax"}, new


def test_the_root_holds_what_it_should():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = {name.split("/")[0] for name in listed.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= {
        "pyproject.toml", "README.md", "LICENSE", "losses", "models", "train", "experiments", "tests"
    }  # fmt: skip


def modules():
    for room in ROOMS:
        package = importlib.import_module(f"xent.{room}")
        for found in pkgutil.walk_packages(package.__path__, f"xent.{room}."):
            if not found.name.endswith("__main__"):
                yield found.name


@pytest.mark.parametrize("name", list(modules()))
def test_examples_in_docstrings_run(name):
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert results.failed == 0
