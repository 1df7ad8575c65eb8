"""Neighbours as fixtures: under importlib import mode a test cannot import the file beside it."""

import importlib.util
from pathlib import Path

import pytest


def beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def oracle():
    return beside("oracle")


@pytest.fixture(scope="session")
def check_derivatives():
    return beside("derivatives").check
