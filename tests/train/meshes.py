"""Run by test_sharding.py with eight forced CPU devices: prints what a few steps give on each mesh, by each rule."""

import io
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P
from rich.console import Console

from xent.losses import mean, softmax_cross_entropy_with_integer_labels
from xent.train.checkpoint import open_checkpoints, restore
from xent.train.evaluate import make_evaluate, make_predict
from xent.train.journal import read_lines, sizes
from xent.train.loop import make_call
from xent.train.metrics import divide
from xent.train.session import Saving, compile_call, train
from xent.train.sharding import make_mesh, one_device, parse_mesh, place, state_shardings
from xent.train.source import array_source
from xent.train.step import init_state, make_train_step

FSDP = (("kernel", P("data", None)),)
VOCABULARY = (("head/kernel", P(None, "model")),)
CASES = {"fully sharded": ("data=8", FSDP), "data and vocabulary": ("data=2,model=4", VOCABULARY)}
OPTIMIZER = optax.adam(0.01)
RANDOM = np.random.default_rng(0)
ARRAYS = {"x": RANDOM.normal(size=(50, 16)).astype(np.float32), "label": RANDOM.integers(0, 64, 50).astype(np.int32)}
PARAMS = {
    "inner": {"kernel": jax.random.normal(jax.random.key(0), (16, 32)) / 4, "bias": jnp.zeros(32)},
    "head": {"kernel": jax.random.normal(jax.random.key(1), (32, 64)) / 6},
}


def hidden(params, batch):
    return jnp.tanh(batch["x"] @ params["inner"]["kernel"] + params["inner"]["bias"][None])


def loss(params, batch, key):
    where = batch["where"]
    logits = hidden(params, batch) @ params["head"]["kernel"]
    value = mean(softmax_cross_entropy_with_integer_labels(logits, batch["label"]), where=where)
    return value, {"loss": (value * where.sum(), where.sum(dtype=jnp.float32))}


def run(mesh, rules, folder, epochs):
    """Train as an experiment does; the state, its first sharding, and scores of it."""
    folder.mkdir(exist_ok=True)
    console = Console(file=io.StringIO())
    state = init_state(PARAMS, OPTIMIZER, jax.random.key(2))
    shardings = state_shardings(state, mesh, rules)
    state, source = place(state, shardings), array_source(ARRAYS, 16, jax.random.key(1), mesh)
    evaluate = make_evaluate(loss, ARRAYS, mesh)
    call = make_call(make_train_step(loss, OPTIMIZER), source, 5, shardings=shardings)
    state = train(
        lambda: compile_call(call, state, source, evaluate, console), state, source, epochs=epochs, steps_per_call=3,
        patience=5, evaluate=evaluate, folder=folder, flags=(), console=console, saving=Saving(),
    )  # fmt: skip
    kept = jax.tree.all(jax.tree.map(lambda leaf, of: leaf.sharding.is_equivalent_to(of, leaf.ndim), state, shardings))
    predict = make_predict(hidden, ARRAYS, mesh)
    return state, kept, {**divide(evaluate(state.params)), "hidden": float(np.abs(predict(state.params)).sum())}


def difference(state, expected):
    pairs = zip(jax.tree.leaves((state.params, state.opt_state)), jax.tree.leaves(expected), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


def main(folder):
    """Each case trains, stops after the first epoch and goes on, and is read again on one device."""
    single, _, expected = run(one_device(), (), folder / "one", 3)
    expected_log = read_lines(folder / "one" / "metrics.jsonl")
    single = (single.params, single.opt_state)
    for name, (text, rules) in CASES.items():
        mesh = make_mesh(parse_mesh(text))
        whole, kept, scores = run(mesh, rules, folder / f"{name} whole", 3)
        run(mesh, rules, folder / f"{name} parts", 1)
        parts, _, _ = run(mesh, rules, folder / f"{name} parts", 3)
        log = read_lines(folder / f"{name} whole" / "metrics.jsonl")
        with open_checkpoints(folder / f"{name} whole" / "checkpoints", 2) as checkpoints:
            like = init_state(PARAMS, OPTIMIZER, jax.random.key(0))
            elsewhere = restore(checkpoints, like, (), sizes(folder / f"{name} whole"), print).state
        found = dict(
            case=name,
            kept=kept,
            shares=[leaf.addressable_shards[0].data.size / leaf.size
                    for leaf in (whole.params["head"]["kernel"], whole.opt_state[0].mu["head"]["kernel"])],
            error=difference(whole, single),
            resumed=difference(parts, (whole.params, whole.opt_state)),
            restored=difference(elsewhere, (whole.params, whole.opt_state)),
            scores=max(abs(scores[key] / expected[key] - 1) for key in expected),
            log=max(abs(a["loss"] - b["loss"]) for a, b in zip(log[1:], expected_log[1:], strict=True)),
        )  # fmt: skip
        print(json.dumps(found))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
