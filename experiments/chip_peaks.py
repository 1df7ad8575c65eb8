"""What chips can do at best by their makers' word: operations a second per dtype, bytes a second, bytes of memory.

Dense figures; what NVIDIA prints "with sparsity" is twice that and is halved here. Numbers are of one JAX device. That
is a chip, except for TPU v2, v3 and 7x, where each of a chip's two TensorCores is a device: half the chip, then.
"""

from collections.abc import Mapping
from typing import NamedTuple


class ChipPeaks(NamedTuple):
    """The datasheet of one JAX device."""

    name: str
    """What people call it."""
    kinds: tuple[str, ...]
    """What `jax.Device.device_kind` says."""
    flops: Mapping[str, float]
    """Floating-point operations a second of large products, by what is multiplied: `float32`, `tensorfloat32` (which
    NVIDIA's chips take for float32 unless a higher precision is asked for), `bfloat16`, `float16`. What no source
    gives is left out."""
    bandwidth: float
    """Of the main memory, bytes a second."""
    memory: int
    """Bytes."""
    sources: tuple[str, ...]
    """URLs: of the operations, then of bandwidth and memory where those come from another one."""


_TPU = "https://docs.cloud.google.com/tpu/docs"
_JAX = "https://github.com/jax-ml/jax/blob/main/jax/_src/pallas/mosaic/tpu_info.py"
_NVIDIA = "https://www.nvidia.com/en-us/data-center"
_SHEETS = "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center"
_XLA = "https://github.com/openxla/xla/blob/main/xla/backends/gpu/target_config/specs"
_A100 = {"float32": 19.5e12, "tensorfloat32": 156e12, "bfloat16": 312e12, "float16": 312e12}
_A100_SHEET = f"{_SHEETS}/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"
_HOPPER = {"float32": 67e12, "tensorfloat32": 494.5e12, "bfloat16": 989.5e12, "float16": 989.5e12}

CHIPS = (
    ChipPeaks(
        "V100 SXM2 16 GB",
        ("Tesla V100-SXM2-16GB",),
        {"float32": 15.7e12, "float16": 125e12},
        898.048e9,
        16_935_682_048,
        (
            "https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf",
            f"{_XLA}/v100.txtpb",
        ),
    ),
    ChipPeaks(
        "T4",
        ("Tesla T4",),
        {"float32": 8.1e12, "float16": 65e12},
        320e9,
        16_000_000_000,
        (f"{_SHEETS}/tesla-t4/t4-tensor-core-datasheet-951643.pdf", f"{_NVIDIA}/tesla-t4/"),
    ),
    ChipPeaks(
        "L4",
        ("NVIDIA L4",),
        {"float32": 30.3e12, "tensorfloat32": 60e12, "bfloat16": 121e12, "float16": 121e12},
        300e9,
        24_000_000_000,
        (f"{_NVIDIA}/l4/",),
    ),
    ChipPeaks(
        "RTX 4090",
        ("NVIDIA GeForce RTX 4090",),
        {"float32": 82.6e12, "tensorfloat32": 82.6e12, "bfloat16": 165.2e12, "float16": 165.2e12},
        1008e9,
        24_000_000_000,
        (
            "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/ada-lovelace-architecture/"
            "nvidia-ada-gpu-architecture-whitepaper-1.03.pdf",
        ),
    ),
    ChipPeaks(
        "A100 SXM 40 GB",
        ("NVIDIA A100-SXM4-40GB",), _A100, 1555.2e9, 42_331_013_120, (_A100_SHEET, f"{_XLA}/a100_sxm_40.txtpb")
    ),
    ChipPeaks(
        "A100 SXM 80 GB",
        ("NVIDIA A100-SXM4-80GB",), _A100, 2039.04e9, 85_100_068_864, (_A100_SHEET, f"{_XLA}/a100_sxm_80.txtpb")
    ),
    ChipPeaks(
        "H100 SXM",
        ("NVIDIA H100 80GB HBM3",),
        _HOPPER,
        3352.32e9,
        84_942_979_072,
        (
            "https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet",
            f"{_XLA}/h100_sxm.txtpb",
        ),
    ),
    ChipPeaks(
        "H200",
        ("NVIDIA H200", "NVIDIA H200 141GB HBM3e"),
        _HOPPER,
        4800e9,
        151_397_597_184,
        (f"{_NVIDIA}/h200/", f"{_XLA}/h200.txtpb"),
    ),
    ChipPeaks(
        "B200",
        ("NVIDIA B200",),
        {"float32": 80e12, "tensorfloat32": 1100e12, "bfloat16": 2250e12, "float16": 2250e12},
        7672.32e9,
        191_514_411_008,
        ("https://www.glennklockwood.com/garden/processors/B200", f"{_XLA}/b200.txtpb"),
    ),
    ChipPeaks("TPU v2", ("TPU v2",), {"bfloat16": 46e12 / 2}, 716e9 / 2, 16_000_000_000 // 2, (_JAX,)),
    ChipPeaks("TPU v3", ("TPU v3",), {"bfloat16": 123e12 / 2}, 900e9 / 2, 32 * 2**30 // 2, (f"{_TPU}/v3",)),
    ChipPeaks("TPU v4", ("TPU v4",), {"bfloat16": 275e12}, 1200e9, 32 * 2**30, (f"{_TPU}/v4",)),
    ChipPeaks(
        "TPU v5e",
        ("TPU v5 lite", "TPU v5e"), {"bfloat16": 197e12}, 819e9, 16_000_000_000, (f"{_TPU}/v5e",)
    ),
    ChipPeaks("TPU v5p", ("TPU v5", "TPU v5p"), {"bfloat16": 459e12}, 2765e9, 95_000_000_000, (f"{_TPU}/v5p",)),
    ChipPeaks(
        "TPU v6e",
        ("TPU v6 lite", "TPU v6e"), {"bfloat16": 918e12}, 1638e9, 32_000_000_000, (f"{_TPU}/v6e",)
    ),
    ChipPeaks(
        "TPU 7x",
        ("TPU7x",), {"bfloat16": 2307e12 / 2}, 7400e9 / 2, 192 * 2**30 // 2, (f"{_TPU}/tpu7x", _JAX)
    ),
)  # fmt: skip
"""All that are known."""


def peaks_of(device_name: str) -> ChipPeaks | None:
    """Look a chip up.

    Args:
      device_name: as `jax.Device.device_kind` gives it.

    Returns:
      Its datasheet, and None for a chip that the table does not have, as for every CPU.

    Example:
      >>> peaks_of("NVIDIA H200").bandwidth / 1e12
      4.8
      >>> peaks_of("AMD EPYC 7B13") is None
      True
    """
    return next((chip for chip in CHIPS if device_name in chip.kinds), None)
