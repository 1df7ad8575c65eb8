"""`xent precision`: its truth against mpmath, its judgement against losses that are wrong, and its files."""

import csv
import math

import jax.numpy as jnp
import numpy as np
import pytest

from xent.experiments import precision
from xent.experiments import precision_oracle as oracle
from xent.experiments.precision_losses import make_losses
from xent.experiments.precision_measure import OURS, Plan, bound, judge, measure, sizes, take
from xent.experiments.precision_regimes import REGIMES, Rows, sigmoid_rows, softmax_rows

inf, nan = np.inf, np.nan
ULP = 2.0**-23
LOSSES = {loss.name: loss for loss in make_losses(torch=False)}
INTEGER = LOSSES["softmax, integer labels"]
SMALL = Plan(rows=200, widths={10: 1.0}, wide={}, searched=400, checked=20, checked_logits=1000)


def draw(loss, regime, rows, dtype, classes=7, seed=0):
    random = np.random.default_rng(seed)
    if loss.kind == "sigmoid":
        return sigmoid_rows(REGIMES[regime], random, rows, dtype, soft=loss.soft)
    return softmax_rows(REGIMES[regime], random, rows, classes, dtype, masked=loss.masked)


# The truth.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", list(LOSSES))
def test_the_truth_is_that_of_80_digits(name, dtype):
    loss = LOSSES[name]
    for regime in REGIMES.keys() - ({"undefined"} if loss.masked else set()):
        rows = draw(loss, regime, 25, dtype)
        truth = loss.truth(rows)
        for row in range(len(rows.labels)):
            if not np.isfinite(truth.value[row]):
                continue
            value, gradient = loss.exact(rows, row)
            tiny = oracle.TINY * 2**-20
            assert oracle.ulps(truth.value[row], value, value, tiny, "float32")[0] < 1e-6, regime
            assert oracle.ulps(truth.gradient[row], gradient, truth.scale[row], tiny, "float32")[0].max() < 1e-6, regime


def test_the_truth_of_a_thousand_classes_is_that_of_80_digits():
    rows = draw(INTEGER, "equal others", 3, "float32", classes=1000)
    truth = INTEGER.truth(rows)
    for row in range(3):
        value, gradient = INTEGER.exact(rows, row)
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


def test_the_bound_is_the_contracts():
    assert [bound("value", "float32", classes) for classes in (2, 1000, 1001, 262144)] == [8, 8, 32, 32]
    assert bound("value", "bfloat16", 10) == 8
    assert 0.5 < bound("gradient", "bfloat16", 10) < 0.5002
    assert 0.5 < bound("gradient", "float16", 10) < 0.501


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


def test_a_truth_that_is_off_is_found():
    class Off(type(INTEGER)):
        def exact(self, rows, row):
            value, gradient = super().exact(rows, row)
            return value * (1 + 2e-11), gradient

    found = measure(Off(*INTEGER), "float32", SMALL, np.random.default_rng(0))
    assert found.check.rows == 20
    assert found.check.differ > precision.AGREES
    assert any("mpmath" in line for line in precision.verdict([found]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", list(LOSSES))
def test_ours_hold(name, dtype):
    """The contract, in small; thousands of rows at once, since XLA compiles them otherwise than a few."""
    loss = LOSSES[name]._replace(runs={OURS: LOSSES[name].runs[OURS]})
    found = measure(loss, dtype, SMALL._replace(rows=1200, searched=2400), np.random.default_rng(0))
    assert precision.verdict([found]) == []
    assert found.check.differ < 1e-6


def test_a_search_goes_on_from_the_worst(monkeypatch):
    """A fault that one logit in a thousand has is found by regimes, and driven on by the search."""
    run = INTEGER.runs[OURS]

    def faulty(rows):
        value, gradient = run(rows)
        return value * (1 + np.float32(100 * ULP) * np.clip(rows.logits[:, 3].astype("f4"), 0, 50) / 50), gradient

    plan = SMALL._replace(searched=2000)
    found = measure(INTEGER._replace(runs={OURS: faulty}), "float32", plan, np.random.default_rng(0))
    by_regime = {cell.regime: cell.errors[OURS].largest for cell in found.cells if cell.of == "value"}
    assert by_regime["searched"] >= 0.9 * max(by_regime.values()) > 40


# The inputs.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("regime", list(REGIMES))
def test_a_regime_is_what_it_says(regime, dtype):
    rows = draw(INTEGER, regime, 400, dtype)
    x, y = rows.logits.astype(np.float64), rows.labels
    assert rows.logits.dtype == jnp.dtype(dtype)
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
    targets = rows.targets.astype(np.float64)
    assert (targets >= 0).all()
    assert ((targets == 0) | (targets >= oracle.TINY) | (dtype == "float16")).all()


def test_masked_rows_hold_garbage_and_some_hold_nothing():
    rows = draw(LOSSES["softmax, masked"], "ordinary", 2000, "float32")
    assert not np.isfinite(rows.logits[~rows.where]).all()
    assert np.isfinite(rows.logits[rows.where]).all()
    assert 0 < (~rows.where.any(-1)).sum() < 100


def test_rows_add_up_to_what_was_asked_for():
    for inputs in (1000, 1_000_000):
        plan = precision.make_plan(precision.Config(inputs=inputs))
        shares = sum(sum(sizes(plan.rows * share, width)) for width, share in plan.widths.items())
        assert (shares * (len(REGIMES) - 1) + plan.searched) * 3 >= inputs  # masked: one regime less
    assert max(plan.wide) == 262144


# The command.


@pytest.fixture
def few(monkeypatch):
    """Two losses instead of all."""
    names = ("softmax, soft labels", "sigmoid, yes or no")
    monkeypatch.setattr(precision, "make_losses", lambda torch: [LOSSES[name] for name in names])
    return names


def test_it_ends_with_tables_and_a_picture_and_inputs_that_reproduce(xent, tmp_path, few):
    outcome = xent("precision", "--quick", "--no-torch")
    run = tmp_path / "runs/precision-1"
    cells = list(csv.DictReader((run / "errors.csv").read_text().splitlines()))
    assert {cell["loss"] for cell in cells} == set(few)
    assert {cell["dtype"] for cell in cells} == {"float32", "bfloat16", "float16"}
    assert {cell["regime"] for cell in cells} == {*REGIMES, "searched"}
    assert len(cells) == 2 * 3 * (len(REGIMES) + 1) * 2
    assert sum(int(cell["inputs"]) for cell in cells if cell["of"] == "value") >= 2 * 20_000
    holds = all(cell["xent_holds"] == "True" for cell in cells)
    assert outcome.code == (0 if holds else 1)
    assert ("BROKEN" in outcome.out) != holds
    for picture in ("errors", "errors-bfloat16", "errors-float16"):
        assert (run / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    checks = list(csv.DictReader((run / "mpmath.csv").read_text().splitlines()))
    assert all(float(row["truth_differs_from_mpmath_by_ulp"]) < 1e-4 for row in checks)
    worst = list(csv.DictReader((run / "worst.csv").read_text().splitlines()))
    assert {row["library"] for row in worst} == {"xent", "optax"}
    for row in worst[::17]:
        reproduce(row)


def reproduce(row):
    """The error of a line of worst.csv, from nothing but that line."""
    dtype = jnp.dtype(row["dtype"])
    logits, targets = (np.array([row[name].split()], float).astype(dtype) for name in ("logits", "targets"))
    rows = Rows(logits, np.array([int(row["label"])], np.int32), targets)
    loss = LOSSES[row["loss"]]
    truth = loss.truth(rows)
    true = truth.value[0] if row["of"] == "value" else truth.gradient[0, int(row["position"])]
    np.testing.assert_array_equal(true, float(row["true"]))
    many = take(rows, np.zeros(556, int))  # as it was run: XLA compiles one row otherwise than many
    errors = judge(loss.truth(many), loss.runs[row["library"]](many), row["dtype"])[row["of"] == "gradient"][0]
    error = float(row["error_ulp"])
    assert errors.max() == pytest.approx(error, rel=0.5, abs=1.5) or math.isinf(error) == math.isinf(errors.max())


def test_a_broken_bound_is_exit_code_1(xent, monkeypatch):
    broken = WRONG_LOSSES["a value that is a little off"]
    monkeypatch.setattr(precision, "make_losses", lambda torch: [broken])
    outcome = xent("precision", "--quick")
    assert outcome.code == 1
    assert "BROKEN" in outcome.out
    assert "the value is off by" in outcome.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--inputs", "10"], "--inputs 10: must be from 1000 to"),
        (["--seed", "-1"], "--seed -1: must be from 0"),
        (["--input", "3"], "did you mean --inputs?"),
        (["--out", "."], "--out . exists"),
    ],
)
def test_a_mistake_is_one_line(xent, tmp_path, flags, message):
    outcome = xent("precision", *flags)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_without_mpmath_it_says_so_in_one_line(xent, monkeypatch):
    find = precision.importlib.util.find_spec
    monkeypatch.setattr(precision.importlib.util, "find_spec", lambda name: None if name == "mpmath" else find(name))
    outcome = xent("precision")
    assert outcome.code == 2
    assert "mpmath is not installed" in outcome.err


def test_torch_is_measured_where_it_is_installed():
    pytest.importorskip("torch")
    loss = next(loss for loss in make_losses(torch=True) if loss.name == "softmax, smoothed by 0.1")
    rows = draw(loss, "ordinary", 50, "float32")
    for got, true in zip(loss.runs["torch"](rows), loss.truth(rows)[:2], strict=True):
        np.testing.assert_allclose(got, true, rtol=1e-3, atol=1e-6)
