"""What a result was made with: versions of packages, and the commit of the code."""

import importlib.metadata
import subprocess
from collections.abc import Mapping
from pathlib import Path

PACKAGES = (
    "xent",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "tensorflow-datasets",
    "tokenizers",
    "orbax-checkpoint",
    "scikit-learn",
)


def versions(*more: str) -> dict[str, str]:
    """Return the installed version of each package that a result depends on, and of `more` where they are installed."""
    installed = {distribution.name.lower(): distribution.version for distribution in importlib.metadata.distributions()}
    return {name: installed[name] for name in (*PACKAGES, *more) if name in installed}


def differences(made_with: Mapping[str, str]) -> str:
    """Say in words which versions differ from those here; nothing if none does.

    Example:
      >>> differences({"xent": "0.0"})
      'xent 0.0 (here 0.1.0)'
    """
    here = versions()
    return ", ".join(
        f"{name} {version} (here {here.get(name, 'missing')})"
        for name, version in made_with.items()
        if here.get(name) != version
    )


def commit() -> str | None:
    """Return the commit of the code that runs, with a + if Python files differ; None outside a checkout of it."""
    try:
        _git("ls-files", "--error-unmatch", __file__)  # a site-packages inside somebody else's checkout is not ours
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "--", ":(top)*.py") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
