"""The device that a run computes on: chosen by flags, named for people."""

import os
import platform
from pathlib import Path

import jax

from xent.experiments.flags import RunConfig
from xent.train.errors import UsageError


def use_device(run: RunConfig) -> None:
    """Set platform and precision before the first computation.

    Raises:
      UsageError: if the platform asked for is not here.
    """
    jax.config.update("jax_default_matmul_precision", run.matmul_precision)
    if run.platform == "cpu":
        jax.config.update("jax_platforms", "cpu")  # leaves the memory of any GPU alone
    found = jax.default_backend()
    if run.platform not in (None, found):
        extra = {"gpu": "cuda", "tpu": "tpu"}.get(run.platform, "experiments")
        raise UsageError(
            f"--platform {run.platform}: JAX finds only {found} here; pip install 'xent[{extra}]' on a machine "
            "that has one, or leave the flag out"
        )


def device_name() -> str:
    """Name the chip JAX computes on; on a CPU, as the operating system names it."""
    device = jax.devices()[0]
    kind = cpu_model() if device.platform == "cpu" else device.device_kind
    return f"{kind} ({device.platform} x {jax.device_count()})"


def cpu_model() -> str:
    """Name the processor, which JAX calls just "cpu"."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
