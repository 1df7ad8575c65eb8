"""The flags of `xent images`."""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

from xent.experiments.datasets import is_digits
from xent.experiments.flags import RunConfig, require_ranges
from xent.models.vgg import Depth
from xent.train.errors import require
from xent.train.optimizers import OptimizerConfig


class Recipe(NamedTuple):
    """What a network is trained with where no flag says otherwise."""

    epochs: int = 10
    dropout: float = 0.5
    """The papers'."""


ON_DIGITS = {"lenet": Recipe(epochs=100), "alexnet": Recipe(epochs=80, dropout=0.25), "vgg": Recipe(epochs=40)}
"""For the built-in digits."""


@dataclass(frozen=True)
class Config:
    """Train a convolutional network on images."""

    model: Literal["lenet", "alexnet", "vgg"] = "lenet"
    """The network."""
    width: float = 0.125
    """Of the paper's maps and units, the share that AlexNet and VGG have; 1 is the paper's network."""
    depth: Depth = 11
    """Layers of VGG with weights."""
    dropout: float | None = None
    """Share of the dense layers' units that AlexNet and VGG drop in training; not given: 0.5, the papers', and of
    AlexNet on the built-in digits 0.25."""
    dataset: str = "digits"
    """The built-in digits, any TFDS image set with integer labels (mnist, cifar10, ...), or a folder with a sub-folder
    a class."""
    size: int | None = None
    """Pixels a side that images are scaled to; not given: as they are, the built-in digits 24 on
    canvases of 32."""
    stream: bool = False
    """Read the training images as they are needed, for sets that do not fit in memory; held-out images must."""
    shift: int = 2
    """Move images by up to so many pixels in training."""
    crop: float = 0.8
    """Cut windows of at least this share of each side out of images in training, scaled up again; 1 cuts none."""
    mixup: float = 0.0
    """Blend images of a batch in shares of Beta(a, a), with this a; 0: do not."""
    cutmix: float = 0.0
    """Put rectangles of images into others, of areas of Beta(a, a), with this a; with --mixup: either, a batch."""
    label_smoothing: float = 0.0
    """Share of each training target that is spread over all classes."""
    epochs: int | None = None
    """Passes over the training data; not given: the network's own on the built-in digits, 10 on other sets."""
    batch_size: int = 64
    """Examples a step."""
    steps_per_call: int = 1
    """Steps inside one jitted call; the log has a line a call. On a CPU, convolutions are slow in more than one."""
    validation: float = 0.1
    """Share of the training data held out for the learning curve."""
    patience: int = 20
    """Steps in a row with NaN or infinite gradients that end the run; fewer are skipped and counted."""
    baselines: bool = True
    """Score scikit-learn's models on the same split, too, where it fits in memory."""
    optimizer: OptimizerConfig = field(default_factory=partial(OptimizerConfig, learning_rate=2e-3, schedule="cosine"))
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def recipe(self) -> Recipe:
        """Epochs and dropout, as the flags say or as the network and the dataset have them."""
        own = ON_DIGITS[self.model] if is_digits(self.dataset) else Recipe()
        return Recipe(self.epochs or own.epochs, own.dropout if self.dropout is None else self.dropout)

    def __post_init__(self) -> None:
        """Check every range."""
        require_ranges(self)
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            require(f"--{name}", value, 0 <= value < float("inf"), "0 or more")
        require("--width", self.width, 0 < self.width <= 64, "above 0, at most 64")
        require("--crop", self.crop, 0 < self.crop <= 1, "above 0, at most 1")
        require("--shift", self.shift, 0 <= self.shift < 2**10, "from 0 to 1023")
        require("--size", self.size, self.size is None or 1 <= self.size < 2**14, "from 1 to 16383")
        single = self.steps_per_call == 1
        require("--steps-per-call", self.steps_per_call, single or not self.stream, "1 together with --stream")
