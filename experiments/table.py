"""Every experiment and every other command: a name, where it lives, what to expect. Nothing heavy is imported here."""

from typing import NamedTuple


class Experiment(NamedTuple):
    """A line of `xent list`."""

    module: str
    summary: str
    expected: str
    """The number a reader should see, on the built-in data, and where it comes from."""


EXPERIMENTS = {
    "digits": Experiment(
        "xent.experiments.digits",
        "a multilayer perceptron learns handwritten digits, ten classes or one bit",
        "97.8 ± 0.2 % of held-out digits, five seeds",
    ),
    "images": Experiment(
        "xent.experiments.images",
        "LeNet-5, AlexNet and VGG classify images, augmented and mixed, by soft targets",
        "99.1 ± 0.2 % of held-out digits, LeNet-5; 98.7 ± 0.6 % VGG; 98.9 ± 0.7 % AlexNet; nearest neighbour 98.3 %",
    ),
    "language_model": Experiment(
        "xent.experiments.language_model",
        "a decoder-only Transformer learns the standard library's docstrings, without ever holding its logits",
        "2.197 ± 0.007 bits per byte of held-out docstrings, Kneser-Ney 2.319, five seeds",
    ),
    "gan": Experiment(
        "xent.experiments.gan",
        "a generator against a discriminator: two networks and one cross-entropy learn to draw digits",
        "Frechet distance 1.52 ± 0.19 from real digits, held-out ones 0.64, noise 16.3, five seeds",
    ),
    "speech": Experiment(
        "xent.experiments.speech",
        "Deep Speech, or convolutions and a GRU, write down spoken digits by the CTC loss",
        "6.0 ± 0.4 % of words wrong in voices never trained on, Deep Speech 6.6 ± 0.9 %, nearest templates 38.5 %",
    ),
    "saturation": Experiment(
        "xent.experiments.saturation",
        "why losses take logits: probabilities, clipped or not, saturate and stop learning",
        "from saturated weights 93.2 ± 1.3 % on logits, 39 ± 13 % clipped, 11 ± 2 % on probabilities, three seeds",
    ),
}

COMMANDS = {
    "list": ("xent.experiments.listing", "the experiments, one line each, with the number to expect"),
    "doctor": ("xent.experiments.doctor", "versions, backend, devices, memory, dataset cache"),
    "resume": ("xent.experiments.resume", "continue a run that was stopped: xent resume runs/digits-1"),
    "rerun": (
        "xent.experiments.rerun",
        "repeat a run in a new folder, with other flags: xent rerun runs/digits-1 --epochs 3",
    ),
    "precision": (
        "xent.experiments.precision",
        "the largest errors of every loss in every regime, beside optax and torch",
    ),
    "fits": (
        "xent.experiments.fits",
        "whether a training step fits on chips that are not here: xent fits language_model --topology v5e:16x16",
    ),
    "bench": ("xent.experiments.bench", "measure on this machine: xent bench train"),
    "gallery": ("xent.experiments.gallery", "the last run of each experiment on one page: pictures, scores, commands"),
    "compare": ("xent.experiments.compare", "machines beside each other: xent compare cpu.json h200.json"),
}
