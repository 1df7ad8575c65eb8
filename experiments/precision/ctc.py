"""Connectionist temporal classification: few rows, each of many numbers."""

from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from xent import losses
from xent.experiments.precision import oracle
from xent.experiments.precision.logits import rounded
from xent.experiments.precision.loss import LOGITS, Loss, Random, Rows, Run, by_jax, by_torch, floats, within
from xent.experiments.precision.oracle import Truth, in_many_digits

CLASSES = 5
"""Blank, which is 0, and four labels."""
NAMES = (
    "ordinary", "ties", "planted", "hopeless", "repeats", "offset to 1e6", "-inf", "padded", "padding anywhere",
    "undefined",
)  # fmt: skip
ARGUMENTS = ("logits", "logit_paddings", "labels", "label_paddings")


def losses_of(torch: bool) -> list[Loss]:
    """List them; `torch` says whether to run torch's too."""
    return [_loss("ctc, 6 frames", 6, 3, 0.003, torch), _loss("ctc, 60 frames", 60, 10, 0.0005, torch)]


def _loss(name: str, frames: int, labels: int, share: float, torch: bool) -> Loss:
    def optaxs(**arguments: jax.Array) -> jax.Array:
        return optax.losses.ctc_loss(*(arguments[name] for name in ARGUMENTS))

    def torchs(functional: Any, logits: Any, logit_paddings: Any, labels: Any, label_paddings: Any) -> Any:
        gone, no_label = logit_paddings > 0, label_paddings > 0
        order = gone.float().argsort(dim=-1, stable=True)[..., None].expand_as(logits)
        y = labels.gather(-1, no_label.float().argsort(dim=-1, stable=True))
        log_p = functional.log_softmax(logits.float().gather(1, order).transpose(0, 1), -1)
        return functional.ctc_loss(log_p, y, (~gone).sum(-1), (~no_label).sum(-1), reduction="none")

    runs: dict[str, Run] = {"xent": by_jax(lambda **arguments: losses.ctc_loss(*(arguments[n] for n in ARGUMENTS)))}
    runs["optax"] = by_jax(optaxs)
    return Loss(
        name, "ctc", {regime: partial(_rows, regime, labels) for regime in NAMES},
        runs | ({"torch": by_torch(torchs)} if torch else {}), _truth, _exact,
        within(2, (8 + frames) / 2),
        moved={"logits": LOGITS}, widths={frames: 1.0}, share={"float32": share, "bfloat16": share / 3,
                                                              "float16": share / 3},
    )  # fmt: skip


def _rows(regime: str, most: int, random: Random, rows: int, frames: int, dtype: str) -> Rows:
    shape = (rows, frames, CLASSES)
    z = random.standard_normal(shape) * 10 ** random.uniform(-2, 1.5, (rows, 1, 1))
    labels = random.integers(1, CLASSES, (rows, most))
    gone, no_label = np.zeros((rows, frames), bool), np.arange(most) >= random.integers(0, most + 1, (rows, 1))
    if regime == "ties":
        z = random.choice([0.0, 1.0, -30.0], (rows, 1, 1)) + random.choice([0.0, 0.0, 0.1, 20.0], shape)
    elif regime in ("planted", "hopeless"):
        path = np.repeat(labels, -(-frames // most), -1)[:, :frames]
        path = np.where(random.random(path.shape) < 0.3, 0, path)
        if regime == "hopeless":
            path = (path + 1) % CLASSES
        z += (np.arange(CLASSES) == path[..., None]) * 10 ** random.uniform(0, 3, (rows, 1, 1))
    elif regime == "repeats":
        labels[:] = labels[:, :1]  # each repetition takes a frame more, so that some have too few
    elif regime == "offset to 1e6":
        z += 10 ** random.uniform(0, 6, (rows, frames, 1)) * random.choice([-1, 1], (rows, 1, 1))
    elif regime == "-inf":
        z = np.where(random.random(shape) < random.uniform(0, 0.3, (rows, 1, 1)), -np.inf, z)
        z[..., 0] = np.where(np.isneginf(z).all(-1), 0, z[..., 0])
    elif regime == "padded":
        gone = np.arange(frames) >= random.integers(0, frames + 1, (rows, 1))
    elif regime == "padding anywhere":
        gone = random.random((rows, frames)) < random.uniform(0, 0.5, (rows, 1))
        no_label = random.random((rows, most)) < random.uniform(0, 1, (rows, 1))
    elif regime == "undefined":
        kind = random.integers(2, size=rows)
        no_label[:, 0] = False
        labels[:, 0] = np.where(kind == 0, random.choice([0, -1, CLASSES, 2**31 - 1], rows), labels[:, 0])
        z[:, 0, 1] = np.where(kind == 1, random.choice([np.nan, np.inf], rows), z[:, 0, 1])
    z = np.where(gone[..., None], random.choice([np.nan, np.inf, -np.inf, 0.0], shape), z)
    labels = np.where(no_label, random.choice([0, -1, CLASSES, 1], labels.shape), labels)
    if regime not in ("padded", "padding anywhere"):
        labels = np.where(no_label, 0, labels)
    return {
        "logits": rounded(z, dtype), "logit_paddings": gone.astype(np.float32),
        "labels": labels.astype(np.int32), "label_paddings": no_label.astype(np.float32),
    }  # fmt: skip


def _states(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Blank, label, blank, ... `[rows, 2 N + 1]`; how many of them there are; which may skip a blank; what is wrong."""
    no_label = rows["label_paddings"] > 0
    y = np.take_along_axis(rows["labels"], np.argsort(no_label, -1, kind="stable"), -1)
    there = np.arange(y.shape[1]) < (~no_label).sum(-1, keepdims=True)
    wrong = (there & ((y < 1) | (y >= CLASSES))).any(-1)
    states = np.zeros((len(y), 2 * y.shape[1] + 1), int)
    states[:, 1::2] = np.where(there & ~wrong[:, None], y, 0)
    skips = np.zeros(states.shape, bool)
    skips[:, 3::2] = states[:, 3::2] != states[:, 1:-2:2]
    skips[:, 3::2] &= states[:, 3::2] > 0
    return states, 2 * (~no_label).sum(-1) + 1, skips, wrong


def _walk(log_p: np.ndarray, gone: np.ndarray, state: np.ndarray, step: int, skips: np.ndarray) -> list[np.ndarray]:
    """The logarithm of the probability of each state, before the first frame and after each; or, by -1, from behind.

    Before the first frame it is as after a blank: what comes is that blank again, or the first label.
    """
    every, frames = [state], range(log_p.shape[1])[::step]
    for t in frames:
        once, twice = np.full_like(state, -np.inf), np.full_like(state, -np.inf)
        if step == 1:
            once[:, 1:], twice[:, 2:] = state[:, :-1], np.where(skips[:, 2:], state[:, :-2], -np.inf)
        else:
            once[:, :-1], twice[:, :-2] = state[:, 1:], np.where(skips[:, 2:], state[:, 2:], -np.inf)
        after = np.logaddexp(np.logaddexp(state, once), twice) + log_p[:, t]
        state = np.where(gone[:, t, None], state, after)
        every.append(state)
    return every[::step]


def _truth(rows: Rows) -> Truth:
    """By the recursions over logarithms, in the longest floats that there are: those are large, and it is few rows."""
    states, length, skips, wrong = _states(rows)
    gone = rows["logit_paddings"] > 0
    number, frames, _ = rows["logits"].shape
    z = np.where(gone[..., None], 0, floats(rows, "logits")).astype(np.longdouble)
    of = oracle.softmax_of(z.reshape(-1, CLASSES))
    outside = wrong | ~of.defined.reshape(number, frames).all(-1)
    p, cost = (a.reshape(z.shape) for a in (of.p, of.cost))
    log_p = -np.take_along_axis(cost, np.repeat(states[:, None], frames, 1), -1)
    place = np.arange(states.shape[1])
    first, last = (
        np.where(place == at, np.longdouble(0), -np.inf) for at in (0 * length[:, None], length[:, None] - 1)
    )
    forwards, backwards = _walk(log_p, gone, first, 1, skips), _walk(log_p, gone, last, -1, skips)
    ends = np.where((place == length[:, None] - 1) | (place == length[:, None] - 2), forwards[-1], -np.inf)
    value = -np.logaddexp.reduce(ends, -1)
    occupied = np.zeros(z.shape)
    with np.errstate(invalid="ignore"):
        for t in range(frames):
            both = np.exp(forwards[t + 1] + backwards[t] - log_p[:, t] + value[:, None])
            both = np.where(np.isfinite(both) & ~gone[:, t, None], both, 0)
            for s in range(states.shape[1]):
                occupied[np.arange(number), t, states[:, s]] += both[:, s]
    # What padding holds has no gradient, even where nothing else has one.
    here, nothing = np.repeat(~gone, CLASSES, -1), (np.isinf(value) | outside)[:, None]
    gradient, scale = ((a).reshape(number, -1).astype(np.float64) for a in (p - occupied, np.maximum(p, occupied)))
    gradient = np.where(here, np.where(nothing, np.nan, gradient), 0)
    return Truth(
        np.where(outside, np.nan, np.maximum(value, 0)).astype(np.float64), gradient, np.where(here, scale, 0),
        np.full(number, frames * 2.0**-23), slope_slack=np.full_like(gradient, CLASSES * oracle.TINY), relative=True,
    )  # fmt: skip


@in_many_digits
def _exact(row: Rows) -> tuple[Any, list[Any]]:
    """By the sums and products of the definition: nothing needs a logarithm where digits are many."""
    import mpmath

    states, skips = _states(row)[0][0].tolist(), _states(row)[2][0]
    length, zero = int(_states(row)[1][0]), mpmath.mpf(0)
    there = [t for t, gone in enumerate(row["logit_paddings"][0]) if not gone]
    p = [oracle.exact_softmax_of(oracle.numbers(floats(row, "logits")[0, t]))[0] for t in there]

    def walk(state: list[Any], step: int) -> list[list[Any]]:
        every = [state]
        for of in p[::step]:
            before = [*([zero] * 2), *state, *([zero] * 2)]
            state = [
                (before[s + 2] + before[s + 2 - step]
                 + (before[s + 2 - 2 * step] if (skips[s] and step == 1)
                    or (step == -1 and s + 2 < len(states) and skips[s + 2]) else zero)) * of[states[s]]
                for s in range(len(states))
            ]  # fmt: skip
            every.append(state)
        return every[::step]

    places = range(len(states))
    forwards = walk([mpmath.mpf(int(s == 0)) for s in places], 1)
    backwards = walk([mpmath.mpf(int(s == length - 1)) for s in places], -1)
    total = mpmath.fsum(forwards[-1][max(0, length - 2) : length])
    gradient = [zero] * row["logits"].size
    for place, (t, of) in enumerate(zip(there, p, strict=True)):
        for k in range(CLASSES):
            occupied = mpmath.fsum(
                forwards[place + 1][s] * backwards[place][s] / of[k] for s in places if states[s] == k and of[k]
            )
            gradient[t * CLASSES + k] = of[k] - occupied / total
    return -mpmath.log(total), gradient
