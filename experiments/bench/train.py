"""Time a training step of every experiment, and of the article's job (784-256-10, ReLU, Adam) as others run it, too.

    xent bench train                                    some five minutes on two cores
    xent bench train --experiment digits --batch-size 64
    xent bench train --out train.json                   with every sample, and the loss of the first steps

Data are generated: 60000 images of random bytes, random tokens. At the first of the batch sizes of `digits` its step
stands beside PyTorch's, a plain optax script's, and the two products that it cannot avoid; "again" is the first case a
second time: its ratio to the first is noise alone. The losses of the first 50 steps, of speech ten, start from the
same bits on every machine. --quick takes fewer batch sizes, and half of the steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial

from xent.experiments.bench import tables, torch_peer, train_start
from xent.experiments.bench.engine import Case
from xent.experiments.bench.frame import BenchConfig, Benchmark, Plan
from xent.experiments.bench.frame import main as run
from xent.experiments.bench.train_cases import EXAMPLES
from xent.experiments.bench.train_experiments import CONTRIBUTIONS, SEQUENCES, Asked
from xent.train.errors import require


@dataclass(frozen=True)
class Config:
    """Time a training step of every experiment."""

    experiment: tuple[str, ...] = tuple(CONTRIBUTIONS)
    """Which."""
    batch_size: tuple[int, ...] = ()
    """Examples a step; not given: each experiment's own choice of several."""
    steps: int = 200
    """Steps a sample at the first batch size; at larger ones fewer, but a quarter; of language_model a tenth."""
    hidden: int = 256
    """Units of the hidden layer of digits and saturation."""
    against: torch_peer.Against = "all"
    """Peers that take turns with ours: a plain optax script, PyTorch (on a CPU), all that are installed, or none."""
    bench: BenchConfig = field(default_factory=BenchConfig)

    def __post_init__(self) -> None:
        """Check every range."""
        known = bool(self.experiment) and set(self.experiment) <= set(CONTRIBUTIONS)
        require("--experiment", " ".join(self.experiment), known, f"some of {', '.join(CONTRIBUTIONS)}")
        for name in ("steps", "hidden"):
            require(f"--{name}", getattr(self, name), 1 <= getattr(self, name) < 2**31, "from 1 to 2147483647")
        most = SEQUENCES if {"language_model", "speech"} & {*self.experiment} else EXAMPLES
        for size in self.batch_size:
            require("--batch-size", size, 1 <= size <= most, f"from 1 to {most}")


def plans(config: Config) -> Iterator[Plan]:
    """List the measurements."""
    for experiment in dict.fromkeys(config.experiment):
        part = CONTRIBUTIONS[experiment]
        sizes = tuple(dict.fromkeys(config.batch_size or (part.quick if config.bench.quick else part.batches)))
        most = max(1, config.steps // part.slower // (2 if config.bench.quick else 1))
        for size in sizes:
            steps, first = max(1, most // 4, most * sizes[0] // size), size == sizes[0]
            yield plan(experiment, Asked(config.hidden, size, steps, config.bench.seed, config.against, first))


def plan(experiment: str, asked: Asked) -> Plan:
    """One experiment at one batch size."""
    contribution = CONTRIBUTIONS[experiment]

    @cache  # for the case and for the curve
    def begin() -> train_start.Started:
        return train_start.start(contribution.parts(asked), asked.batch_size, asked.steps, asked.seed)

    def cases() -> list[Case]:
        own = train_start.case(begin, "ours", asked.steps)
        return [own, *contribution.beside(asked), own._replace(name="ours, again")]

    of = {"experiment": experiment, "what": "step", "batch": asked.batch_size, **contribution.sizes(asked.hidden)}
    name = f"{experiment}, batch {asked.batch_size}"
    return Plan(name, of, "float32", "step", cases, lambda: train_start.curve(begin(), contribution.curve))


def says(config: Config) -> list[tuple[str, str]]:
    """What is timed, and what is not."""
    data = f"generated: {EXAMPLES} x 784 random bytes and ten labels, half of them told by bright pixels; random tokens"
    return [("data", data), *torch_peer.left_out(config.against)]


BENCHMARK = Benchmark("train", __doc__, Config, says, plans, tables.cases, rounds=22)
main = partial(run, BENCHMARK)
