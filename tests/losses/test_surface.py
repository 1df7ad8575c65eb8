"""What the room shows, what it imports, and that its examples run."""

import doctest
import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

import xent.losses

MODULES = [m.name for m in pkgutil.iter_modules(xent.losses.__path__, "xent.losses.")]


def test_importing_it_imports_jax_and_the_standard_library_only():
    program = (
        "import sys, jax, jax.numpy; before = set(sys.modules); import xent.losses; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    new = done.stdout.split()
    known = sys.stdlib_module_names | {"jax", "jaxlib"}
    assert {n for n in new if n.split(".")[0] not in known} == {"xent", "xent.losses", *MODULES}


@pytest.mark.parametrize("name", [n for n in xent.losses.__all__ if inspect.isfunction(getattr(xent.losses, n))])
def test_every_public_function_is_typed_documented_and_has_an_example(name):
    function = getattr(xent.losses, name)
    signature = inspect.signature(function)
    assert all(p.annotation is not p.empty for p in signature.parameters.values())
    assert signature.return_annotation is not signature.empty
    parts = [".. math::", "Args:", "Returns:", "Raises:", "Example:", "Source:"]
    places = [function.__doc__.find(part) for part in parts]
    assert min(places) > 0
    assert places == sorted(places)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(import_module(name)).failed == 0
