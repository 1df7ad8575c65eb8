"""The devices that a run computes on: chosen by flags, named for people."""

import contextlib
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from xent.experiments.flags import DeviceConfig, RunConfig
from xent.train.errors import UsageError, extra, require
from xent.train.processes import join, processes_named
from xent.train.sharding import Rules, make_mesh, one_device, parse_mesh


def use_mesh(run: RunConfig) -> None:
    """Set platform and precision, join the other processes, and see that a CPU has the devices that a mesh asks for.

    The devices of a CPU are threads: there are as many as somebody says, and the mesh says it. A GPU or TPU is not
    changed by that.

    Raises:
      UsageError: if the platform or the other processes are not here.
    """
    processes = processes_named() if run.distributed else 1
    if run.mesh is not None and processes is not None:
        with contextlib.suppress(RuntimeError):  # JAX has begun to compute: it has the devices that it has
            jax.config.update("jax_num_cpu_devices", math.prod(parse_mesh(run.mesh).values()) // processes)
    if run.distributed:
        join()
    use_device(run.device)


def mesh_of(run: RunConfig, rules: Rules = ()) -> Mesh:
    """The mesh that `--mesh` asks for, and one device if it asks for none.

    Args:
      run: the flags.
      rules: the experiment's, of what is split over axes besides `data`, which splits batches.

    Raises:
      UsageError: if there is another number of devices, or an axis that splits nothing and would only repeat the work.
    """
    if run.mesh is None:
        return one_device()
    require_split(run.mesh, rules)
    return make_mesh(parse_mesh(run.mesh))


def require_split(mesh: str, rules: Rules) -> None:
    """Check that every axis of more than one device splits something.

    Raises:
      UsageError: if not.
    """
    idle = idle_axes(parse_mesh(mesh), rules)
    allowed = f"of {' and '.join(sorted(split_axes(rules)))} here, where {', '.join(idle)} would split nothing"
    require("--mesh", mesh, not idle, allowed)


def idle_axes(axes: Mapping[str, int], rules: Rules) -> list[str]:
    """Axes of more than one device that split nothing: devices along them would all do the same."""
    return [name for name, size in axes.items() if size > 1 and name not in split_axes(rules)]


def split_axes(rules: Rules) -> set[str]:
    """The axes that something is split over: batches over `data`, parameters over those of the rules."""
    return {"data", *jax.tree.leaves([tuple(spec) for _, spec in rules])}


def use_device(asked: DeviceConfig) -> None:
    """Set platform and precision before the first computation.

    Raises:
      UsageError: if the platform asked for is not here.
    """
    jax.config.update("jax_default_matmul_precision", asked.matmul_precision)
    if asked.platform == "cpu":
        jax.config.update("jax_platforms", "cpu")  # leaves the memory of any GPU alone
    found = backend()
    if asked.platform not in (None, found):
        needed = {"gpu": "cuda", "tpu": "tpu"}.get(asked.platform, "experiments")
        raise UsageError(
            f"--platform {asked.platform}: JAX finds only {found} here; leave the flag out, or use a "
            f"machine that has one and, {extra(needed)}"
        )


def backend() -> str:
    """Name the platform JAX computes on.

    Raises:
      UsageError: if $JAX_PLATFORMS asks for one that is not here.
    """
    try:
        return jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # the latter where a plugin finds none of its devices
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = (str(error).splitlines() or ["no such devices"])[0]
        raise UsageError(
            f"JAX_PLATFORMS={asked} cannot be had here ({reason[:150]}): unset it, or name another"
        ) from None


def require_memory(arrays: Any, copies: int) -> None:
    """Refuse a model that cannot fit, which a CPU would find out by swapping or being killed.

    Args:
      arrays: a pytree of arrays or of their shapes: the parameters.
      copies: how many of it are held at once, gradients and optimiser state included.

    Raises:
      UsageError: if they take more than the memory of the device.
    """
    needed = copies * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays))
    there = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit") or host_memory()
    if there is not None and needed > there:
        raise UsageError(
            f"{copies} copies of the model's parameters need {needed / 1e9:,.0f} GB, {device_name()} has "
            f"{there / 1e9:,.0f} GB: make the model smaller"
        )


def host_memory() -> int | None:
    """Bytes of memory of this machine, where the operating system says."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return None


def device_name() -> str:
    """Name what JAX computes on: chip, platform, number."""
    return f"{chip_name()} ({jax.devices()[0].platform} x {jax.device_count()})"


def chip_name() -> str:
    """Name the chip JAX computes on; on a CPU, as the operating system names it."""
    device = jax.devices()[0]
    return cpu_model() if device.platform == "cpu" else str(device.device_kind)


def clock_mhz() -> float | None:
    """The clock of the chip now, where it can be read: of an NVIDIA GPU, or of the fastest core of a CPU on Linux."""
    try:
        if jax.default_backend() == "cpu":
            lines = Path("/proc/cpuinfo").read_text().splitlines()
        else:
            command = ["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"]
            said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
            lines = [f"cpu MHz: {line}" for line in said.splitlines()]
        return max(float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz"))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def cpu_model() -> str:
    """Name the processor, which JAX calls just "cpu"."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
