"""Chips that are not here: the compilers for TPUs and NVIDIA's GPUs need none, and take their names.

What is compiled so cannot run, but it is what would run: whether it fits in a chip's memory and what it sends to others
can be read from it. The extra `compile` has TPUs' compiler; CUDA's comes by `CUDA_COMPILER`, without the gigabytes of
libraries that only running needs.
"""

import difflib
import importlib.util
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from xent.train.compiled import compile_for, refusal
from xent.train.errors import UsageError, extra


class Gpu(NamedTuple):
    """What XLA must know of a GPU to compile for it."""

    name: str
    memory: int
    """Bytes."""
    bandwidth: int
    """Of its memory, bytes a second."""
    cores: int
    """Streaming multiprocessors."""
    clock: float
    """GHz."""
    level_2_cache: int
    """Bytes."""


GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", 84_942_979_072, 3_352_320_000_000, 132, 1.98, 52_428_800),
    "h200": Gpu("NVIDIA H200 141GB HBM3e", 151_397_597_184, 4_800_000_000_000, 132, 1.98, 52_428_800),
}
"""Of the Hopper generation. Source: XLA, https://github.com/openxla/xla/tree/main/xla/backends/gpu/target_config/specs"""

TPUS = ("v5e", "v6e", "v5p", "tpu7x")
"""Generations whose compiler takes one device a chip for what it is; of a `tpu7x` a device is half a chip."""
_DEVICES = {"tpu7x": 2}
"""Devices a chip, where they are several."""
_SIDE = {"v5e": 16, "v6e": 16}
"""Chips in a row that there are at most; a wrong number here ends libtpu, and with it the process."""


class Chips(NamedTuple):
    """Devices to compile for."""

    name: str
    """What they call themselves."""
    devices: Sequence[Any]
    memory: int | None
    """Bytes of one that a program may take: of a GPU all, of a TPU what its compiler allows; None if unknown."""


def chips_of(name: str) -> Chips:
    """Devices to compile for, by their name, and the memory of one.

    Args:
      name: as of `devices_of`.

    Raises:
      UsageError: as `devices_of`.

    Example:
      >>> chips_of("v5e:16x16").memory / 2**30  # doctest: +SKIP
      15.75
    """
    devices = devices_of(name)
    gpu = GPUS.get(name.partition(":")[0])
    return Chips(devices[0].device_kind, devices, gpu.memory if gpu else _allowed(devices[0]))


def _allowed(device: Any) -> int | None:
    """What a TPU's compiler says a program may take, when it refuses one that wants 1 TiB: it says so nowhere else."""
    try:
        compile_for(lambda x: x + 1, jax.ShapeDtypeStruct((2**40,), "uint8", sharding=SingleDeviceSharding(device)))
    except jax.errors.JaxRuntimeError as error:
        return refusal(error).limit
    return None


def device_count(name: str) -> int:
    """How many devices chips of that name are, for which no compiler is needed.

    Args:
      name: as of `devices_of`.

    Raises:
      UsageError: if there is no such chip, or chips do not lie so.

    Example:
      >>> device_count("v5e:16x16"), device_count("h200:1x32x8"), device_count("tpu7x:2x2x1")
      (256, 256, 8)
    """
    kind, form = _parsed(name)
    return math.prod(map(int, form.split("x"))) * _DEVICES.get(kind, 1)


def devices_of(name: str) -> Sequence[Any]:
    """Devices to compile for, by their name.

    Args:
      name: a TPU's generation and how its chips lie (`v5e:1x1`, `v5e:16x16`, `v5p:4x4x4`), or a GPU of `GPUS` and how
        many slices x hosts x GPUs (`h200:1x32x8`).

    Returns:
      Devices for `make_mesh`. Set JAX_PLATFORMS=cpu first: otherwise JAX looks for the chips themselves.

    Raises:
      UsageError: if there is no such chip, or its compiler is not installed.

    Example:
      >>> len(devices_of("v5e:16x16"))  # doctest: +SKIP
      256
    """
    kind, form = _parsed(name)
    gpu = GPUS.get(kind)
    _require(*(("jax_cuda13_plugin", CUDA_COMPILER) if gpu else ("libtpu", extra("compile"))), name)
    try:
        return _of_gpu(gpu, form) if gpu else _of_tpu(name)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0][:150]
        raise UsageError(f"--topology {name} ({reason}): must be like {_FORM}") from None


def _parsed(name: str) -> tuple[str, str]:
    """Chip and form, as far as they can be judged without a compiler."""
    kind, _, form = name.partition(":")
    if kind not in (*GPUS, *TPUS):
        near = difflib.get_close_matches(kind, (*TPUS, *GPUS), n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(f'{one}:{form}' for one in near)}?" if near else f"there are {_KNOWN}"
        raise UsageError(f"--topology {name}: no chip {kind}; {hint}")
    if reason := _fault(kind, form):
        raise UsageError(f"--topology {name} ({reason}): must be like {_FORM}")
    return kind, form


def _fault(kind: str, form: str) -> str | None:
    """What is wrong with a form like 16x16, as far as can be said without a compiler."""
    sides = form.split("x")
    if not all(side.isdecimal() and int(side) for side in sides):
        return "its sides are whole numbers above 0"
    if len(sides) not in ((3,) if kind in GPUS else (2, 3)):
        return "too few or too many numbers"
    longest = _SIDE.get(kind, 2**16)
    return f"no more than {longest} chips lie in a row" if max(map(int, sides)) > longest else None


CUDA_COMPILER = "in a checkout of xent, pip install -c .ci/constraints.txt --no-deps jax-cuda13-pjrt jax-cuda13-plugin"
"""How to install it. Pinned: a plugin of another version than jax is refused when it is loaded."""
_FORM = f"v5e:16x16, or {' or '.join(GPUS)} with slices x hosts x GPUs, like h200:1x32x8"
_KNOWN = f"{', '.join((*TPUS, *GPUS))}, and the form is like {_FORM}"


def _of_gpu(gpu: Gpu, form: str) -> Sequence[Any]:
    return topologies.get_topology_desc("", "cuda", target_config=_target(gpu), topology=form).devices


def _of_tpu(name: str) -> Sequence[Any]:
    for variable, value in _AS_ON_A_TPU.items():
        os.environ.setdefault(variable, value)
    alone = {"chips_per_host_bounds": (1, 1, 1)} if {*name.partition(":")[2]} <= {*"1x"} else {}
    return topologies.get_topology_desc(name, "tpu", **alone).devices


_AS_ON_A_TPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several processes may compile at once
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
"""What libtpu asks the machine for, and waits for in vain where there is no TPU."""


def _require(module: str, how: str, name: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UsageError(f"--topology {name} needs a compiler that is not installed: {how}")


def _target(gpu: Gpu) -> str:
    """XLA's GpuTargetConfigProto, in the text form of protocol buffers."""
    return f"""
        gpu_device_info {{
          threads_per_block_limit: 1024
          threads_per_warp: 32
          shared_memory_per_block: 49152
          shared_memory_per_core: 233472
          shared_memory_per_block_optin: 232448
          threads_per_core_limit: 2048
          registers_per_core_limit: 65536
          registers_per_block_limit: 65536
          core_count: {gpu.cores}
          fpus_per_core: 128
          block_dim_limit_x: 2147483647
          block_dim_limit_y: 65535
          block_dim_limit_z: 65535
          memory_bandwidth: {gpu.bandwidth}
          l2_cache_size: {gpu.level_2_cache}
          clock_rate_ghz: {gpu.clock}
          device_memory_size: {gpu.memory}
          cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 }}
        device_description_str: "{gpu.name}"
    """
