"""What small networks see of an image."""

from typing import Any


def from_bytes(images: Any, dtype: Any = "float32") -> Any:
    """Bytes to [-1, 1], of NumPy or JAX as they are given, in the dtype that a network computes in.

    Example:
      >>> import numpy as np
      >>> from_bytes(np.array([0, 51, 255], np.uint8)).tolist()
      [-1.0, -0.6000000238418579, 1.0]
    """
    return images.astype(dtype) / 127.5 - 1
