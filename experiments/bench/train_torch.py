"""The article's job in PyTorch, where it is installed: data in memory, no DataLoader, as many threads as JAX has."""

from collections.abc import Iterator
from typing import Any

from xent.experiments.bench import torch_peer
from xent.experiments.bench.engine import Built, Case
from xent.experiments.bench.record import cores
from xent.experiments.bench.train_cases import CLASSES, LEARNING_RATE, SIDE, Job


def pytorch(job: Job, name: str, *, fused: bool = False, threads: int | None = None) -> Case:
    """Train as the usual loop does, eagerly, on tensors in memory.

    It reads no loss and measures no accuracy: less work than ours.

    Args:
      job: what to train.
      name: of the case.
      fused: Adam in one kernel, which PyTorch has and does not choose by itself on a CPU.
      threads: by default as many as JAX has. Where other programs are busy too, two threads that wait for each other
        at every operation can be ten times slower than one.
    """

    def build() -> Built:
        torch = torch_peer.load()
        torch.manual_seed(job.seed)
        images = torch.from_numpy(job.images.reshape(len(job.images), -1))
        labels = torch.from_numpy(job.labels).long()
        model = torch.nn.Sequential(
            torch.nn.Linear(SIDE * SIDE, job.hidden), torch.nn.ReLU(), torch.nn.Linear(job.hidden, CLASSES)
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=fused)
        loss = torch.nn.CrossEntropyLoss()
        batches = _shuffled(torch, job)

        def run() -> None:
            torch.set_num_threads(threads or cores())
            for _ in range(job.steps):
                rows = next(batches)
                inputs = images[rows].float().div_(127.5).sub_(1)
                optimizer.zero_grad()
                loss(model(inputs), labels[rows]).backward()
                optimizer.step()

        return Built(run)

    return Case(name, build, job.steps)


def _shuffled(torch: Any, job: Job) -> Iterator[Any]:
    """Rows of each batch, anew each epoch; what fills no batch is left out."""
    while True:
        rows = torch.randperm(len(job.labels))
        for start in range(0, len(rows) - job.batch_size + 1, job.batch_size):
            yield rows[start : start + job.batch_size]
