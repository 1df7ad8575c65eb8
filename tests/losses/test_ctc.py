"""ctc_loss against all alignments counted one by one, float64, torch, its own laws, and the faults of others."""

import itertools
import math
from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from hypothesis import given, settings

from xent import losses

inf, nan = np.inf, np.nan
ULP = 2.0**-24
# Compiled as a whole, for time's sake; without is tested where that may differ.
ctc_loss = jax.jit(losses.ctc_loss, static_argnames=("blank_id", "zero_infinity"))


def loss(x, y, ctc_loss=ctc_loss, **kwargs):
    """Without padding."""
    return ctc_loss(x, np.zeros(np.shape(x)[:-1]), y, np.zeros(np.shape(y)), **kwargs)


@partial(jax.jit, static_argnames="blank")
def optax_loss(x, frame_paddings, y, label_paddings, blank=0):
    with jax.numpy_rank_promotion("allow"):
        return optax.ctc_loss(x, frame_paddings, y, label_paddings, blank_id=blank)


value_and_gradient = jax.jit(jax.value_and_grad(loss))


def all_alignments(x, y, blank=0):
    """Loss and gradient in 40 digits, from every path there is."""
    frames, classes = x.shape
    with mpmath.workdps(40):
        e = [[mpmath.exp(mpmath.mpf(float(v))) for v in row] for row in x]
        p = [[v / mpmath.fsum(row) for v in row] for row in e]
        total, occupied = mpmath.mpf(0), [[mpmath.mpf(0)] * classes for _ in range(frames)]
        for path in itertools.product(range(classes), repeat=frames):
            if [k for k, _ in itertools.groupby(path) if k != blank] == list(y):
                probability = mpmath.fprod(p[t][k] for t, k in enumerate(path))
                total += probability
                for t, k in enumerate(path):
                    occupied[t][k] += probability
        if total == 0:
            return inf, None, None
        p, occupied = np.array(p, float).reshape(x.shape), np.array([[v / total for v in row] for row in occupied])
        occupied = occupied.astype(float).reshape(x.shape)
        return float(-mpmath.log(total)), p - occupied, np.maximum(p, occupied)


def in_float64(x, y):
    """Loss and gradient by the forward-backward recursion over logarithms in float64: some 1e-12 of each."""
    x = np.asarray(x, np.float64)
    p = x - x.max(-1, keepdims=True)
    p -= np.log(np.exp(p).sum(-1, keepdims=True))
    states = np.zeros(2 * len(y) + 1, int)
    states[1::2] = y

    def run(p, states):
        skips = np.concatenate([[False] * 2, states[2:] != states[:-2]])
        a = np.full((len(p), len(states)), -inf)
        a[0, :2] = p[0, states[:2]]
        for t in range(1, len(p)):
            once, twice = np.append(-inf, a[t - 1, :-1]), np.append([-inf] * 2, a[t - 1, :-2])
            a[t] = np.logaddexp(np.logaddexp(a[t - 1], once), np.where(skips, twice, -inf)) + p[t, states]
        return a

    forwards, backwards = run(p, states), run(p[::-1], states[::-1])[::-1, ::-1]
    both = forwards + backwards - p[:, states]
    both = np.exp(both - np.logaddexp.reduce(both, 1, keepdims=True))
    occupied = np.zeros_like(x)
    np.add.at(occupied.T, states, both.T)
    p = np.exp(p)
    return -np.logaddexp(*forwards[-1, -2:]), p - occupied, np.maximum(p, occupied)


def hold(got, true, frames, name=None):
    """The bounds of the docstring."""
    (value, gradient), (true_value, true_gradient, larger) = got, true
    assert abs(float(value) - true_value) <= 2 * np.spacing(np.float32(true_value)) + frames * ULP, name
    error = np.abs(np.asarray(gradient, float) - true_gradient)
    assert (error <= (8 + frames) * ULP * larger + 1e-37).all(), name


def padded(x, y, frames=5, labels=4):
    """In one shape, so that it is compiled once: x [T, 3] and y [N]."""
    x_there, y_there = np.arange(frames) < len(x), np.arange(labels) < len(y)
    filled = np.full((frames, 3), nan, np.float32)
    filled[: len(x)] = x
    target = np.full(labels, -1)
    target[: len(y)] = y
    value, gradient = of_padded(filled, ~x_there, target, ~y_there)
    return value, gradient[: len(x)]


of_padded = jax.jit(jax.value_and_grad(ctc_loss))


@pytest.mark.parametrize("labels", [[], [1], [1, 1], [1, 2], [2, 1, 2], [2, 2, 1], [1, 1, 1, 1]])
def test_it_is_the_sum_over_all_alignments(labels):
    for frames, scale in itertools.product((1, 2, 3, 5), (0, 0.5, 4, 40)):
        x = (np.random.default_rng(frames).normal(size=(frames, 3)) * scale).astype(np.float32)
        value, gradient = padded(x, labels)
        true = all_alignments(x, labels)
        if true[0] == inf:
            assert value == inf
            assert np.isnan(gradient).all()
        else:
            hold((value, gradient), true, frames, (frames, scale))


def test_the_float64_oracle_is_the_sum_over_all_alignments():
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32) * 3
    for fast, exact in zip(in_float64(x, [1, 1, 2]), all_alignments(x, [1, 1, 2]), strict=True):
        np.testing.assert_allclose(fast, exact, rtol=1e-12)


def planted(rng, frames, classes, y, gap):
    """Logits that say the target, each label in a frame of its own, `gap` above the others."""
    path = np.zeros(frames, int)
    path[np.arange(len(y)) * (frames // len(y)) + 3] = y
    x = rng.normal(size=(frames, classes)) * 0.1
    x[np.arange(frames), path] += gap
    return x.astype(np.float32)


def test_1500_frames_and_200_labels():
    rng = np.random.default_rng(1)
    y = rng.integers(1, 30, size=200)
    for scale in (0, 1, 5, 30, 300):
        for offset in (0, 1000):
            x = (rng.normal(size=(1500, 30)) * scale + offset).astype(np.float32)
            hold(value_and_gradient(x, y), in_float64(x, y), 1500, scale)
    for gap in (2, 5, 10, 15, 30):
        x = planted(rng, 1500, 30, y, gap)
        hold(value_and_gradient(x, y), in_float64(x, y), 1500, gap)


def test_gradients_of_long_sequences_keep_five_digits_where_log_space_keeps_two():
    rng = np.random.default_rng(2)
    x, y = (rng.normal(size=(1500, 30)) * 5).astype(np.float32), rng.integers(1, 30, size=200)
    _, true, larger = in_float64(x, y)
    _, ours = value_and_gradient(x, y)
    theirs = jax.jit(jax.grad(lambda x: optax_loss(x[None], np.zeros((1, 1500)), y[None], np.zeros((1, 200)))[0]))(x)
    error, log_space = (np.max(np.abs(g - true) / larger) for g in (ours, theirs))
    assert error < 1e-5
    assert log_space > 1e-3


def sines(*shape):
    return 3 * np.sin(np.arange(math.prod(shape)) * 1.7).reshape(shape)


def ends(lengths, size):
    return np.arange(size) >= np.array(lengths)[:, None]


Y = (np.arange(27) * np.arange(27) // 3 % 5 + 1).reshape(3, 9)
PADDINGS = ends([40, 25, 13], 40), ends([9, 4, 0], 9)


def test_it_is_that_of_torch():
    """torch 2.13, torch.nn.functional.ctc_loss in float64."""
    x = sines(3, 40, 6).astype(np.float32)
    values, gradient = jax.jit(of_batch)(x, Y)
    np.testing.assert_allclose(values, [83.20857892981, 65.40789232029, 44.032602394509], rtol=3e-7)
    some = [
        [-0.135350421391, -0.569753409596, 0.140098072069, 0.001870993071, 0.011839655762, 0.55129511011],
        [-0.543701747792, 0.358274548994, 0.083884403931, 0.001469031904, -0.43418979333, 0.534263556294],
        [0, 0, 0, 0, 0, 0],
        [-0.9790339424, 0.532549591416, 0.015607014626, 0.001525893207, 0.094793288558, 0.334558154594],
    ]
    np.testing.assert_allclose(gradient[np.array([0, 1, 1, 2]), np.array([3, 24, 25, 5])], some, atol=3e-6)
    np.testing.assert_allclose(np.sum(np.square(gradient)), 47.280873410644, rtol=1e-5)


def of_batch(x, y):
    values, pull = jax.vjp(lambda x: losses.ctc_loss(x, PADDINGS[0], y, PADDINGS[1]), x)
    return values, pull(jnp.ones_like(values))[0]


def test_it_is_that_of_optax_where_an_alignment_exists():
    x = sines(3, 40, 6).astype(np.float32)
    as_numbers = [p.astype(np.float32) for p in PADDINGS]
    for blank, y in ((0, Y), (5, Y - 1)):
        theirs = optax_loss(x, as_numbers[0], y, as_numbers[1], blank)
        np.testing.assert_allclose(ctc_loss(x, as_numbers[0], y, as_numbers[1], blank_id=blank), theirs, rtol=1e-6)


def test_a_target_that_nothing_spells_costs_inf_or_by_request_nothing():
    """optax gives about 1e5 for the first three."""
    good, too_long, repeats, impossible = [1, 0, 0], [1, 2, 1], [1, 1, 0], [2, 0, 0]
    y, label_paddings = np.array([good, too_long, repeats, impossible]), ends([1, 3, 2, 1], 3)
    x = sines(4, 2, 3).astype(np.float32)
    x[3, :, 2] = -inf
    f = partial(losses.ctc_loss, logit_paddings=np.zeros((4, 2)), labels=y, label_paddings=label_paddings)

    def with_gradient(x, **kwargs):
        values, pull = jax.vjp(partial(f, **kwargs), x)
        return values, pull(jnp.ones(4))[0]

    found = jax.jit(
        lambda x: (
            with_gradient(x),
            with_gradient(x, zero_infinity=True),
            jax.hessian(lambda x: f(x, zero_infinity=True).sum())(x),
        )
    )(x)
    (values, gradient), (values_or_zero, gradient_or_zero), hessian = jax.device_get(found)
    assert np.isfinite(values[0])
    assert (values[1:] == inf).all()
    np.testing.assert_array_equal(np.isnan(gradient).all((1, 2)), [False, True, True, True])
    np.testing.assert_array_equal(np.isnan(gradient).any((1, 2)), [False, True, True, True])
    np.testing.assert_array_equal(values_or_zero, [values[0], 0, 0, 0])
    np.testing.assert_array_equal(gradient_or_zero[0], gradient[0])
    assert (gradient_or_zero[1:] == 0).all()
    assert np.isfinite(hessian).all()
    theirs = optax_loss(x[:3], np.zeros((3, 2)), y[:3], label_paddings[:3].astype(float))
    assert (np.asarray(theirs)[1:] < 1e6).all()


def test_as_improbable_as_can_be_is_still_not_impossible():
    """Where probabilities underflow, 1500 frames long: exp(-2e6)."""
    x = np.zeros((1500, 3), np.float32)
    x[:, 0] = -2000
    x[:, 1] = -1000
    value, gradient = value_and_gradient(x, np.array([1]))
    # Every alignment but the one of ones alone is more than 1000 nats less probable.
    assert value == 1.5e6
    np.testing.assert_allclose(gradient, np.tile([0, -1, 1], (1500, 1)), atol=2e-6)
    assert loss(jnp.array([[3e38, -3e38], [0, 0]]), jnp.array([1])) == np.float32(np.log(2))
    assert loss(jnp.array([[1e30, 0.0]]), jnp.array([1])) == np.float32(1e30)


@pytest.mark.parametrize(
    ("jit", "x", "y", "paddings"),
    [
        pytest.param(jax.jit, sines(3, 40, 6), Y, PADDINGS, id="jit"),
        # In the shapes of the invalid ones: what these have compiled, one operation after the other, serves both.
        pytest.param(
            lambda f: f,
            sines(8, 4, 5),
            np.arange(16).reshape(8, 2) % 4 + 1,
            (ends([4, 3] * 4, 4), ends([2, 1, 0, 2] * 2, 2)),
            id="eager",
        ),
    ],
)
def test_what_padding_holds_has_no_influence_on_any_bit(jit, x, y, paddings):
    def derived(x, y):
        def f(x):
            return losses.ctc_loss(x, paddings[0], y, paddings[1])

        values, pull = jax.vjp(f, x)
        return f(x), values, pull(jnp.ones_like(values))[0]

    found = []
    for filler, label in ((0, 0), (1e4, 5), (nan, -7), (inf, 100), (-inf, 3)):
        filled = np.where(paddings[0][..., None], filler, x).astype(np.float32)
        found.append(jax.device_get(jit(derived)(jnp.asarray(filled), np.where(paddings[1], label, y))))
        assert (found[-1][2][paddings[0]] == 0).all()
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, found[0])


def test_padding_may_be_anywhere():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(9, 4)).astype(np.float32), np.array([3, 3, 1, 2])
    frames, places = np.array([0, 1, 3, 4, 5, 7, 9, 10, 11]), np.array([1, 2, 4, 6])
    long_x, long_y = np.full((12, 4), nan, np.float32), np.full(7, 2)
    long_x[frames], long_y[places] = x, y
    frame_paddings, label_paddings = np.ones(12), np.ones(7)
    frame_paddings[frames], label_paddings[places] = 0, 0
    value, gradient = of_padded(long_x, frame_paddings, long_y, label_paddings)
    short_value, short_gradient = value_and_gradient(x, y)
    np.testing.assert_allclose(value, short_value, rtol=2e-7)
    np.testing.assert_allclose(np.asarray(gradient)[frames], short_gradient, atol=1e-6)


def test_what_is_all_but_certain_costs_next_to_nothing_and_never_less():
    y = np.array([1, 2, 3])
    value, gradient = value_and_gradient(planted(np.random.default_rng(4), 300, 10, y, 40), y)
    assert 0 <= value <= 300 * ULP
    assert np.abs(gradient).max() < 1e-12


BAD_Y = [([1, 0], "blank"), ([1, 5], "K"), ([-1, 1], "negative")]


@pytest.mark.parametrize("jit", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_invalid_is_nan_and_poisons_only_whom_it_counts_for(jit):
    y = np.array([*(y for y, _ in BAD_Y), [1, 2], [1, 2], [1, 2], [1, 1], [1, 2]])
    x = sines(8, 4, 5).astype(np.float32)
    x[3, 1, 4], x[4, 2, 0], x[5, 3], x[6, :, 1] = nan, inf, -inf, -inf

    def derived(x, w):
        """The losses, and the gradient of the sum of those that have a weight."""
        given = partial(loss, y=y, ctc_loss=losses.ctc_loss)
        weighted = jax.grad(lambda x: jnp.sum(jnp.where(w > 0, w * given(x), 0)))
        return given(x), weighted(x)

    values, poisoned = jax.device_get(jit(derived)(jnp.asarray(x), jnp.ones(8)))
    np.testing.assert_array_equal(np.isnan(values), [True] * 6 + [False] * 2)
    assert values[6] == inf
    np.testing.assert_array_equal(np.isnan(poisoned).all((1, 2)), [True] * 7 + [False])
    for weight in (1, 2):
        _, gradient = jax.device_get(jit(derived)(jnp.asarray(x), jnp.asarray(np.float32(np.eye(8)[7] * weight))))
        assert (gradient[:7] == 0).all()
        np.testing.assert_allclose(gradient[7], weight * poisoned[7], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x, y = sines(9, 4).astype(dtype), np.array([1, 2, 2, 3])
    value, gradient = value_and_gradient(x, y)
    value32, gradient32 = value_and_gradient(x.astype(np.float32), y)
    assert value.dtype == jnp.float32
    assert value == value32
    assert gradient.dtype == dtype
    assert (np.asarray(gradient) == np.asarray(gradient32).astype(dtype)).all()


def test_float64():
    with jax.enable_x64(True):
        x, y = sines(300, 7), np.resize([1, 2, 2, 5, 6], 60)
        true = in_float64(x, y)
        value, gradient = value_and_gradient(x, y)
        assert value.dtype == gradient.dtype == jnp.float64
        np.testing.assert_allclose(value, true[0], rtol=1e-13)
        np.testing.assert_allclose(gradient, true[1], atol=1e-11)


def test_jit_vmap_leading_axes_and_eager_agree():
    # In the shapes of the invalid ones: much of it is compiled already.
    x, y = sines(2, 4, 4, 5).astype(np.float32), (np.arange(16) % 4 + 1).reshape(2, 4, 2)
    without_jit = partial(loss, ctc_loss=losses.ctc_loss)

    def both(x, y):
        values, pull = jax.vjp(lambda x: without_jit(x, y), x)
        return values, pull(jnp.ones_like(values))[0]

    eager = jax.device_get(both(x, y))
    *others, alone = jax.jit(lambda x, y: (both(x, y), jax.vmap(jax.vmap(both))(x, y), both(x[1, 0], y[1, 0])))(x, y)
    for other in others:
        for got, expected in zip(other, eager, strict=True):
            np.testing.assert_allclose(got, expected, rtol=5e-7, atol=2e-6)
    for got, expected in zip(alone, eager, strict=True):
        np.testing.assert_allclose(got, expected[1, 0], rtol=5e-7, atol=2e-6)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(c=st.integers(-(10**6), 10**6), seed=st.integers(0, 10**6))
def test_a_shift_of_a_frame_changes_nothing(c, seed):
    rng = np.random.default_rng(seed)
    x = (np.round(rng.normal(size=(9, 4)) * 32) / 8).astype(np.float32)  # so that x + c is exact
    shifted = x.copy()
    shifted[rng.integers(9)] += c
    y = np.array([1, 1, 2, 3])
    for got, same in zip(value_and_gradient(shifted, y), value_and_gradient(x, y), strict=True):
        np.testing.assert_array_equal(got, same)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_backwards_it_is_the_same(seed):
    rng = np.random.default_rng(seed)
    x, y = (rng.normal(size=(9, 4)) * 4).astype(np.float32), rng.integers(1, 4, size=4)
    value, gradient = value_and_gradient(x, y)
    mirrored, mirrored_gradient = value_and_gradient(x[::-1], y[::-1])
    np.testing.assert_allclose(mirrored, value, rtol=4e-7, atol=9 * ULP)
    np.testing.assert_allclose(mirrored_gradient[::-1], gradient, atol=2e-6)


def test_all_targets_together_are_certain():
    x = sines(4, 3).astype(np.float32)
    targets = [y for n in range(5) for y in itertools.product((1, 2), repeat=n)]
    total = sum(np.exp(-np.float64(padded(x, y)[0])) for y in targets)
    np.testing.assert_allclose(total, 1, rtol=1e-6)


LABELS_OF_100 = np.array([100], np.int8), np.array([100])


def test_a_small_label_type_reaches_many_classes():
    x = sines(3, 1000).astype(np.float32)
    small, wide = jax.jit(lambda x: [losses.ctc_loss(x, np.zeros(3), y, np.zeros(1)) for y in LABELS_OF_100])(x)
    assert small == wide
