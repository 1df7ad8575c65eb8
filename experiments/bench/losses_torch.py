"""PyTorch's losses, on the same numbers, with as many threads as JAX has."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xent.experiments.bench import torch_peer
from xent.experiments.bench.engine import Built
from xent.experiments.bench.record import cores

FUNCTIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "integer": lambda functional, z, y: functional.cross_entropy(z, y),
    "soft": lambda functional, z, p: functional.cross_entropy(z, p),
    "sigmoid": lambda functional, z, y: functional.binary_cross_entropy_with_logits(z, y),
    "smoothed": lambda functional, z, y: functional.cross_entropy(z, y, label_smoothing=0.1),
    "kl": lambda functional, z, p: functional.kl_div(functional.log_softmax(z, -1), p, reduction="batchmean"),
    "kl-log-targets": lambda functional, z, log_p: functional.kl_div(
        functional.log_softmax(z, -1), log_p, reduction="batchmean", log_target=True
    ),
}
"""From `torch.nn.functional`, logits and labels, the same mean as ours: for sigmoid over elements, else over rows."""


def build(loss: str, gradient: bool, logits: jax.Array, labels: jax.Array) -> Callable[[], Built]:
    """Make what builds the mean loss, alone or with its gradient in the logits, eagerly."""

    def make() -> Built:
        torch = torch_peer.load()
        z, y = _tensor(torch, logits), _tensor(torch, labels)
        y = y if y.is_floating_point() else y.long()
        function = partial(FUNCTIONS[loss], torch.nn.functional)

        def value() -> Any:
            torch.set_num_threads(cores())
            with torch.no_grad():
                return function(z, y)

        def both() -> Any:
            torch.set_num_threads(cores())
            return torch.autograd.grad(function(z, y), z)[0]

        z.requires_grad_(gradient)
        return Built(both if gradient else value)

    return make


def _tensor(torch: Any, array: jax.Array) -> Any:
    if array.dtype == jnp.bfloat16:  # numpy's bfloat16 is none that PyTorch knows, but its bits are
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))
