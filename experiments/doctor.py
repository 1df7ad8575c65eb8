"""`xent doctor`: what this machine has for an experiment, in one look."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from xent.experiments.device import backend, cpu_model, host_memory
from xent.experiments.versions import commit, versions
from xent.train.errors import UsageError

EXTRAS = ("tensorflow", "torch")  # not needed; said where found, since some commands use them


def main(arguments: Sequence[str]) -> None:
    """Print versions, devices with their memory, and the prepared datasets."""
    if {"-h", "--help"} & {*arguments}:
        print(__doc__)
        return
    if arguments:
        raise UsageError(f"xent doctor takes no flags, but was given {' '.join(arguments)}")
    for title, rows in (("versions", _versions()), ("devices", _devices()), ("datasets", _datasets())):
        print(title)
        for name, text in rows:
            print(f"  {name:<24}{text}")


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", f"{platform.python_version()}, {sys.executable}"
    yield from versions(*EXTRAS).items()
    yield "commit", commit() or "installed, not a checkout"


def _devices() -> Iterator[tuple[str, str]]:
    yield "host", f"{cpu_model()}, {_gigabytes(host_memory())} memory, {platform.platform()}"
    try:
        yield "backend", backend()
    except UsageError as error:
        yield "backend", f"none: {error}"
        return
    for device in jax.devices():
        memory = device.memory_stats() or {}
        used, limit = memory.get("bytes_in_use"), memory.get("bytes_limit")
        text = f"{_gigabytes(used)} of {_gigabytes(limit)} in use" if limit else "shares the host's memory"
        yield str(device), f"{device.device_kind}, {text}"
    for name in ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES"):
        if name in os.environ:
            yield name, os.environ[name]


def _datasets() -> Iterator[tuple[str, str]]:
    root = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    there = root.is_dir()
    free = _gigabytes(shutil.disk_usage(root).free) + " free" if there else "not there yet: the first run makes it"
    yield "cache", f"{root}, {free}"
    for info in sorted(root.glob("**/dataset_info.json")) if there else []:
        size = sum(file.stat().st_size for file in info.parent.rglob("*") if file.is_file())
        yield str(info.parent.relative_to(root)), f"{size / 1e6:.1f} MB"


def _gigabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e9:.1f} GB"
