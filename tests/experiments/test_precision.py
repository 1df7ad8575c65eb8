"""What `xent precision` measures by: its truth against mpmath, its judgement against losses that are wrong."""

import itertools
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from xent.experiments import precision
from xent.experiments.precision import ctc, oracle
from xent.experiments.precision.families import FAMILIES, make_losses
from xent.experiments.precision.logits import REGIMES
from xent.experiments.precision.loss import OURS, take
from xent.experiments.precision.measure import Plan, bounds, distance, measure, sizes

inf, nan = np.inf, np.nan
ULP = 2.0**-23
LOSSES = {loss.name: loss for loss in make_losses(torch=False)}
CORE = [loss.name for loss in LOSSES.values() if loss.share["float32"] > 0.3]
INTEGER = LOSSES["softmax, integer labels"]
SLOPES = [name for name in LOSSES if "value" in LOSSES[name].of and name != "ctc, 60 frames"]
SMALL = Plan(inputs=7200, narrow=True, checked=20, checked_numbers=1000)


def draw(loss, regime, rows, dtype, classes=None, seed=0):
    width = classes or max(loss.widths, key=lambda width: loss.widths[width])
    return loss.regimes[regime](np.random.default_rng(seed), rows, width, dtype)


# The truth.


@pytest.mark.parametrize("name", list(LOSSES))
def test_the_truth_is_that_of_80_digits(name):
    loss = LOSSES[name]
    for regime, dtype in zip(loss.regimes, itertools.cycle(("float32", "bfloat16", "float16")), strict=False):
        rows = draw(loss, regime, 2 if name == "ctc, 60 frames" else 6, dtype)
        truth = loss.truth(rows)
        for row in np.flatnonzero(np.isfinite(truth.value)):
            assert distance(loss, "float32", take(rows, np.array([row]))) < 1e-4, (regime, dtype)


@pytest.mark.parametrize("name", SLOPES)
def test_the_gradient_is_the_slope_of_the_value(name):
    """In many digits, by moving each number a little: neither the truth nor its check has a sign wrong."""
    loss = LOSSES[name]
    rows = draw(loss, next(iter(loss.regimes)), 1, "float32", seed=3)
    value, gradient = loss.exact(rows)
    fields = [field for field in loss.moved if field in rows]
    places = [(field, at) for field in fields for at in np.ndindex(rows[field].shape)]
    for (field, at), true in zip(places, gradient, strict=False):
        found = []
        for way in (1, -1):
            array = rows[field].astype(np.float64)
            array[at] *= 1 + way * 2.0**-14
            found.append((array[at], loss.exact(rows | {field: array})[0]))
        (x, above), (y, below) = found
        if np.isfinite(x) and x != y:
            slope = (above - below) / (x - y)
            assert slope == pytest.approx(true, rel=1e-3, abs=1e-12 + 1e-15 * abs(value) / abs(x - y)), (field, at)


def test_ctc_is_the_sum_over_all_alignments():
    loss = LOSSES["ctc, 6 frames"]
    for regime in ("ordinary", "repeats", "padding anywhere"):
        for row in range(3):
            rows = take(draw(loss, regime, 3, "float32", seed=1), np.array([row]))
            there = rows["logit_paddings"][0] == 0
            y = rows["labels"][0][rows["label_paddings"][0] == 0].tolist()
            x = rows["logits"][0][there].astype(float)
            p = np.exp(x - x.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            total = sum(
                np.prod([p[t, k] for t, k in enumerate(path)])
                for path in itertools.product(range(ctc.CLASSES), repeat=len(x))
                if [k for k, _ in itertools.groupby(path) if k] == y
            )
            if total:
                assert loss.exact(rows)[0] == pytest.approx(-np.log(total), rel=1e-9)
            else:
                assert loss.truth(rows).value[0] == inf


def test_the_truth_of_a_thousand_classes_is_that_of_80_digits():
    rows = draw(INTEGER, "equal others", 3, "float32", classes=1000)
    truth = INTEGER.truth(rows)
    for row in range(3):
        value, gradient = INTEGER.exact(take(rows, np.array([row])))
        np.testing.assert_allclose(truth.value[row], value, rtol=1e-12)
        np.testing.assert_allclose(truth.gradient[row], gradient, rtol=1e-12)


def test_the_truth_of_what_is_known():
    logits = np.log([[0.8, 0.2], [0.5, 0.5]])
    found = oracle.softmax(logits, np.array([[1.0, 0.0], [0.25, 0.5]]), None, None)
    np.testing.assert_allclose(found.value, [-math.log(0.8), 0.75 * math.log(2)], rtol=1e-14)
    np.testing.assert_allclose(found.gradient, [[-0.2, 0.2], [0.125, -0.125]], rtol=1e-14)
    value, gradient = oracle.exact_softmax(np.array([30.0, 0.0]), [1.0, 0.0], None)
    assert value == pytest.approx(math.log1p(math.exp(-30)), rel=1e-15)
    assert gradient[0] == -gradient[1] == pytest.approx(-math.exp(-30) / (1 + math.exp(-30)), rel=1e-15)
    assert oracle.exact_sigmoid(0.0, 1.0, 0.0)[0] == pytest.approx(math.log(2), rel=1e-15)


def test_the_truth_of_rows_that_have_none():
    x = np.array([[nan, 0.0], [inf, 0.0], [-inf, -inf], [0.0, 1.0], [0.0, -inf]])
    found = oracle.softmax(x, np.ones_like(x), np.array([0, 1, 0, 2, 1]), None)
    np.testing.assert_array_equal(np.isnan(found.value), [True, True, True, True, False])
    np.testing.assert_array_equal(np.isnan(found.gradient).all(-1), [True, True, True, True, False])
    assert found.value[4] == inf
    np.testing.assert_array_equal(found.gradient[4], [1, -1])
    masked = oracle.softmax(x, np.ones_like(x), np.zeros(5, int), np.zeros_like(x, bool))
    assert not masked.value.any()
    assert not masked.gradient.any()


# The judgement.


def test_errors_are_counted_in_units_of_the_last_place():
    true = np.array([1.0, 1.0, 1.5, 2.0, 1e-45, 0.0])
    got = np.array([1 + ULP, 1.0, 1.5 - 2 * ULP, 2 + ULP, 0.0, oracle.TINY])
    errors, wrong = oracle.ulps(got, true, true, 0.0, "float32")
    np.testing.assert_allclose(errors, [1, 0, 2, 0.5, 1e-45 / 2.0**-149, 2.0**23], rtol=1e-3)
    assert not wrong.any()
    assert oracle.ulps(got, true, true, oracle.TINY, "float32")[0][5] == 0  # the slack
    assert oracle.ulps(np.array(1 + 2.0**-7), np.array(1.0), np.array(1.0), 0.0, "bfloat16")[0] == 1
    assert oracle.ulps(np.array(1e-3), np.array(0.0), np.array(1.0), 0.0, "float16")[0] == pytest.approx(1.024)


def test_what_is_not_finite_at_the_wrong_place_is_wrong():
    got = np.array([nan, inf, -inf, inf, 1.0, 1.0, nan])
    true = np.array([1.0, 1.0, inf, inf, inf, nan, nan])
    errors, wrong = oracle.ulps(got, true, true, 0.0, "float32")
    np.testing.assert_array_equal(wrong, [True, True, True, False, True, True, False])
    assert np.isinf(errors[wrong]).all()
    assert (errors[~wrong] == 0).all()


def test_what_a_dtype_has_no_room_for_is_inf():
    errors, wrong = oracle.ulps(np.array([inf, inf, -inf]), np.array([7e4, 6e4, 7e4]), np.ones(3), 0.0, "float16")
    np.testing.assert_array_equal(wrong, [False, True, True])
    assert errors[0] == 0


def test_the_bound_is_the_contracts():
    assert [bounds(INTEGER, "float32", classes)[0] for classes in (2, 1000, 1001, 262144)] == [8, 8, 32, 32]
    assert bounds(INTEGER, "bfloat16", 10)[0] == 8
    assert 0.5 < bounds(INTEGER, "bfloat16", 10)[1] < 0.5002
    assert 0.5 < bounds(INTEGER, "float16", 10)[1] < 0.501
    assert bounds(LOSSES["softmax focal, gamma 2"], "float32", 10) == (24, 24)


def changed(change):
    """Ours, except that `change(value, gradient)` has a hand in it."""
    run = INTEGER.runs[OURS]
    return INTEGER._replace(runs={OURS: lambda rows: change(*map(np.array, run(rows)))})


WRONG_LOSSES = {
    "optax's": INTEGER._replace(runs={OURS: INTEGER.runs["optax"]}),
    "a value that is a little off": changed(lambda v, g: (v * np.float32(1 + 10 * ULP), g)),
    "a gradient that is a little off": changed(lambda v, g: (v, g * np.float32(1 + 18 * ULP))),
    "NaN turned into a number": changed(lambda v, g: (np.nan_to_num(v, posinf=inf), g)),
    "one NaN too many": changed(lambda v, g: (v, np.where(np.arange(g.size).reshape(g.shape) == 13, nan, g))),
    "inf made finite": changed(lambda v, g: (np.minimum(v, np.float32(3e38)), g)),
}


@pytest.mark.parametrize("name", list(WRONG_LOSSES))
def test_a_wrong_loss_is_found(name):
    found = measure(WRONG_LOSSES[name], "float32", SMALL, np.random.default_rng(0))
    assert precision.verdict([found])
    broken = [cell for cell in found.cells if not cell.holds]
    of = {cell.of for cell in broken}
    assert ("value" in of) == (name not in ("a gradient that is a little off", "one NaN too many"))
    if "NaN" in name or "inf" in name:
        assert any(cell.errors[OURS].wrong for cell in broken)


@pytest.mark.parametrize("family", sorted({loss.family for loss in LOSSES.values()}))
def test_a_fault_in_any_family_is_found(family):
    """Off by twice the bound, or a number where there should be NaN."""
    loss = next(loss for loss in LOSSES.values() if loss.family == family)
    value_bound, gradient_bound = loss.bounds(10)
    of_value, of_gradient = (np.float32(1 + (2 * b + 4) * ULP) for b in (value_bound, gradient_bound))

    def off(rows):
        value, gradient = map(np.array, loss.runs[OURS](rows))
        return (value * of_value, gradient) if "value" in loss.of else (value, gradient * of_gradient)

    def bold(rows):
        value, gradient = map(np.array, loss.runs[OURS](rows))
        return (np.nan_to_num(value, posinf=inf, neginf=-inf), np.nan_to_num(gradient))

    for run in (off, bold):
        found = measure(loss._replace(runs={OURS: run}), "float32", SMALL, np.random.default_rng(0))
        assert precision.verdict([found]), run


def test_a_truth_that_is_off_is_found():
    def off(row):
        value, gradient = INTEGER.exact(row)
        return value * (1 + 2e-11), gradient

    found = measure(INTEGER._replace(exact=off), "float32", SMALL, np.random.default_rng(0))
    assert found.check.rows == 20
    assert found.check.differ > precision.AGREES
    assert any("mpmath" in line for line in precision.verdict([found]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", CORE)
def test_ours_hold(name, dtype):
    """The contract, in small; thousands of rows at once, since XLA compiles them otherwise than a few."""
    loss = LOSSES[name]._replace(runs={OURS: LOSSES[name].runs[OURS]})
    found = measure(loss, dtype, SMALL._replace(inputs=43_000), np.random.default_rng(0))
    assert precision.verdict([found]) == []
    assert found.check.differ < 1e-6


def test_a_search_goes_on_from_the_worst(monkeypatch):
    """A fault that one logit in a thousand has is found by regimes, and driven on by the search."""
    run = INTEGER.runs[OURS]

    def faulty(rows):
        value, gradient = run(rows)
        return value * (1 + np.float32(100 * ULP) * np.clip(rows["logits"][:, 3].astype("f4"), 0, 50) / 50), gradient

    plan = SMALL._replace(inputs=36_000)
    found = measure(INTEGER._replace(runs={OURS: faulty}), "float32", plan, np.random.default_rng(0))
    by_regime = {cell.regime: cell.errors[OURS].largest for cell in found.cells if cell.of == "value"}
    assert by_regime["searched"] >= 0.9 * max(by_regime.values()) > 40


# The inputs.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("regime", list(REGIMES))
def test_a_regime_is_what_it_says(regime, dtype):
    rows = draw(INTEGER, regime, 400, dtype, classes=7)
    x, y = rows["logits"].astype(np.float64), rows["labels"]
    assert rows["logits"].dtype == jnp.dtype(dtype)
    assert x.shape == (400, 7)
    assert np.isfinite(x).all() == (regime not in ("-inf", "undefined"))
    assert (((y >= 0) & (y < 7)).all()) == (regime != "undefined")
    label = x[np.arange(400), np.clip(y, 0, 6)]
    if regime == "confident":
        assert (label == x.max(-1)).all()
    if regime == "hopeless":
        assert (label < x.max(-1)).mean() > 0.9
    if regime == "ties":
        assert np.mean([len(set(row)) < 7 for row in x]) > 0.9
    if regime == "offset to 1e6" and dtype != "float16":
        assert np.abs(x).max() > 3e5
    targets = rows["targets"].astype(np.float64)
    assert (targets >= 0).all()
    assert ((targets == 0) | (targets >= oracle.TINY) | (dtype == "float16")).all()


def test_masked_rows_hold_garbage_and_some_hold_nothing():
    rows = draw(LOSSES["softmax, masked"], "ordinary", 2000, "float32")
    assert not np.isfinite(rows["logits"][~rows["where"]]).all()
    assert np.isfinite(rows["logits"][rows["where"]]).all()
    assert 0 < (~rows["where"].any(-1)).sum() < 100


def test_rows_add_up_to_what_was_asked_for():
    for inputs in (1000, 1_000_000):
        plan = precision.make_plan(precision.Config(inputs=inputs))
        for loss in LOSSES.values():
            for dtype in ("float32", "bfloat16"):
                each = plan.rows(loss, dtype)
                shares = sum(sum(sizes(each * share, width)) for width, share in loss.widths.items())
                assert shares * len(loss.regimes) + 2 * each >= inputs * loss.share[dtype] - 1e-6
    assert all(262144 in LOSSES[name].wide for name in CORE if LOSSES[name].wide)


def test_every_loss_is_measured():
    """All that is public but for sums of others, also those over a linear head."""
    from xent import losses

    sums = {"mean", "sum", "next_token_cross_entropy", "next_token_targets"}
    sums |= {"uncertainty_weighted_multitask_loss", "weighted_multitask_loss"}
    sums |= {"fused_linear", "linear_distillation", "linear_softmax_cross_entropy", "Auxiliary"}
    folder = Path(precision.__file__).parent
    code = "".join((folder / f"{family}.py").read_text() for family in FAMILIES)
    assert {name for name in losses.__all__ if f"losses.{name}" not in code} == sums


def test_torch_is_measured_where_it_is_installed():
    pytest.importorskip("torch")
    loss = next(loss for loss in make_losses(torch=True) if loss.name == "softmax, smoothed by 0.1")
    rows = draw(loss, "ordinary", 50, "float32")
    for got, true in zip(loss.runs["torch"](rows), loss.truth(rows)[:2], strict=True):
        np.testing.assert_allclose(got, true, rtol=1e-3, atol=1e-6)
