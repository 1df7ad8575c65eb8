"""PyTorch's losses, on the same numbers, with as many threads as JAX has."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xent.experiments.bench import torch_peer
from xent.experiments.bench.engine import Built
from xent.experiments.bench.record import cores

FUNCTIONS = {
    "integer": "cross_entropy",
    "soft": "cross_entropy",
    "sigmoid": "binary_cross_entropy_with_logits",
}
"""Of `torch.nn.functional`; each gives the mean."""


def build(loss: str, gradient: bool, logits: jax.Array, labels: jax.Array) -> Callable[[], Built]:
    """Make what builds the mean loss, alone or with its gradient in the logits, eagerly."""

    def make() -> Built:
        torch = torch_peer.load()
        z, y = _tensor(torch, logits), _tensor(torch, labels)
        y = y.long() if loss == "integer" else y
        function = getattr(torch.nn.functional, FUNCTIONS[loss])

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
