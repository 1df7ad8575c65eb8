"""Every optimiser by name, and flags that mean what they say."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xent.train.errors import UsageError
from xent.train.optimizers import Name, OptimizerConfig, learning_rate_schedule, make_optimizer

PARAMS = {"kernel": jnp.arange(6.0).reshape(2, 3) / 6 + 0.1, "bias": jnp.ones(3)}


def gradients(number):
    random = np.random.default_rng(number)
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), jnp.float32), PARAMS)


def walk(optimizer, steps=3):
    params, state = PARAMS, optimizer.init(PARAMS)
    for number in range(steps):
        updates, state = optimizer.update(gradients(number), state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_close(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7), left, right)


MATRICES = {"kernel": True, "bias": False}
ALIASES = {
    "adam": optax.adam(0.01),
    "adamw": optax.adamw(0.01, mask=MATRICES),
    "sgd": optax.sgd(0.01, momentum=0.9),
    "nadam": optax.nadam(0.01),
    "radam": optax.radam(0.01),
    "rmsprop": optax.rmsprop(0.01),
    "adagrad": optax.adagrad(0.01),
    "adabelief": optax.adabelief(0.01),
    "lamb": optax.lamb(0.01),
    "lion": optax.lion(0.01, mask=MATRICES),
    "muon": optax.contrib.muon(0.01),
}


def test_every_name_is_tried():
    assert set(ALIASES) == set(get_args(Name))


@pytest.mark.parametrize("name", get_args(Name))
def test_each_name_is_optax_with_its_own_defaults(name):
    assert_close(walk(make_optimizer(OptimizerConfig(optimizer=name, learning_rate=0.01), 10)), walk(ALIASES[name]))


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("adam", optax.adam(0.01, b1=0.5)),
        ("nadam", optax.nadam(0.01, b1=0.5)),
        ("radam", optax.radam(0.01, b1=0.5)),
        ("adabelief", optax.adabelief(0.01, b1=0.5)),
        ("lamb", optax.lamb(0.01, b1=0.5)),
        ("lion", optax.lion(0.01, b1=0.5, mask=MATRICES)),
    ],
)
def test_momentum_is_the_first_decay_of_adam_and_its_kin(name, alias):
    config = OptimizerConfig(optimizer=name, learning_rate=0.01, momentum=0.5)
    assert_close(walk(make_optimizer(config, 10)), walk(alias))


@pytest.mark.parametrize("name", get_args(Name))
def test_weight_decay_shrinks_matrices_and_leaves_biases(name):
    def after(decay):
        return walk(make_optimizer(OptimizerConfig(optimizer=name, learning_rate=0.01, weight_decay=decay), 10), 1)

    plain, decayed = after(0.0), after(0.5)
    if name == "lamb":  # its trust ratio scales direction and decay together
        assert not np.allclose(plain["kernel"], decayed["kernel"])
    else:
        np.testing.assert_allclose(plain["kernel"] - decayed["kernel"], 0.01 * 0.5 * PARAMS["kernel"], rtol=1e-4)
    assert jnp.array_equal(plain["bias"], decayed["bias"])


def test_clipping_bounds_the_gradient():
    config = OptimizerConfig(optimizer="sgd", momentum=0.0, learning_rate=1.0, clip=0.5)
    optimizer = make_optimizer(config, 10)
    updates, _ = optimizer.update(gradients(0), optimizer.init(PARAMS), PARAMS)
    assert float(optax.tree.norm(updates)) == pytest.approx(0.5, rel=1e-5)


def test_accumulation_updates_after_every_nth_batch():
    optimizer = make_optimizer(OptimizerConfig(accumulate=3), 10)
    state = optimizer.init(PARAMS)
    moved = []
    for number in range(6):
        updates, state = optimizer.update(gradients(number), state, PARAMS)
        moved.append(bool(jnp.any(updates["bias"] != 0)))
    assert moved == [False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0, 0.5, 1, 1, 1]), ("linear", [0, 0.5, 1, 0.5, 0]), ("cosine", [0, 0.5, 1, 0.5, 0])],
)
def test_schedules_rise_and_fall(schedule, expected):
    rate = learning_rate_schedule(OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup_steps=10), 110)
    np.testing.assert_allclose([rate(update) for update in (0, 5, 10, 60, 110)], expected, atol=1e-6)


def test_the_schedule_counts_updates_not_batches():
    config = OptimizerConfig(optimizer="sgd", momentum=0.0, learning_rate=1.0, schedule="linear", accumulate=2)
    optimizer = make_optimizer(config, 8)
    state, sizes = optimizer.init(PARAMS), []
    for _ in range(8):
        updates, state = optimizer.update({"kernel": jnp.zeros((2, 3)), "bias": jnp.ones(3)}, state, PARAMS)
        sizes.append(float(-updates["bias"][0]))
    np.testing.assert_allclose(sizes, [0, 1, 0, 0.75, 0, 0.5, 0, 0.25], atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"learning_rate": 0.0}, "--learning-rate 0.0: must be a number above 0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan: must be a number above 0"),
        ({"momentum": 1.0}, "--momentum 1.0: must be from 0 to below 1"),
        ({"weight_decay": -1.0}, "--weight-decay -1.0: must be 0 or more, or not given"),
        ({"clip": 0.0}, "--clip 0.0: must be above 0, or not given"),
        ({"accumulate": 0}, "--accumulate 0: must be from 1 to 2147483647"),
    ],
)
def test_ranges_are_checked(flags, message):
    with pytest.raises(UsageError, match=f"^{message}$"):
        OptimizerConfig(**flags)


def test_warmup_must_end_within_the_run():
    with pytest.raises(UsageError, match=r"^--warmup-steps 10: must be below the run's 10 updates$"):
        make_optimizer(OptimizerConfig(warmup_steps=10), 10)
