"""`xent bench`: the stopwatch against clocks that are known, and the command line at its smallest."""

import json
import math
import random
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xent.experiments.__main__ import main as xent
from xent.experiments.bench import engine, record, train_cases
from xent.experiments.bench.engine import Built, Case, Compile, measure
from xent.experiments.bench.estimate import estimate, ratio
from xent.models.mlp import mlp
from xent.train.step import init_state, make_train_step

TINY = ["bench", "train", "--rounds=2", "--steps=3", "--batch-size=4", "--hidden=8", "--no-torch"]


class FakeTime:
    """A clock that moves only when a case works or rests."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, []

    def work(self, name: str, seconds: float) -> None:
        self.now += seconds
        self.log.append(name)

    def sleep(self, seconds: float) -> None:
        self.work("rest", seconds)

    def case(self, name: str, *seconds: float) -> Case:
        """A case whose run number i takes seconds[i], over and over; building it takes 100."""
        times = iter(seconds * 1000)

        def build() -> Built:
            self.work(f"build {name}", 100.0)
            return Built(lambda: self.work(name, next(times)), Compile(1.0, 2.0, 3.0))

        return Case(name, build, units=2)


def timed(time: FakeTime, *cases: Case, **options) -> engine.Measurement:
    return measure(cases, clock=lambda: time.now, sleep=time.sleep, **options)


def test_every_case_runs_once_a_round_after_one_warm_up():
    time = FakeTime()
    measured = timed(time, *(time.case(name, 1.0) for name in "abc"), rounds=20, seed=1)
    ran = [name for name in time.log if name in "abc"]
    assert time.log[:3] == ["build a", "build b", "build c"]
    assert ran[:3] == ["a", "b", "c"]
    rounds = [tuple("abc".index(name) for name in ran[i : i + 3]) for i in range(3, len(ran), 3)]
    assert tuple(rounds) == measured.order
    assert len(rounds) == 20
    assert all(sorted(turn) == [0, 1, 2] for turn in rounds)
    assert len(set(rounds)) > 3  # interleaved at random, not in one order throughout
    assert all(len(timing.seconds) == 20 for timing in measured.timings)


def test_order_depends_on_the_seed_and_on_nothing_else():
    random.seed(0)
    first = engine.orders(5, 10, seed=3)
    random.seed(1)
    assert engine.orders(5, 10, seed=3) == first
    assert engine.orders(5, 10, seed=4) != first


def test_samples_are_filed_by_round_and_hold_neither_rest_nor_warm_up_nor_building():
    time = FakeTime()
    a, b = timed(time, time.case("a", 50.0, 1.0, 2.0, 3.0), time.case("b", 7.0), rounds=3, pause=10.0).timings
    assert (a.warm_up, a.seconds, a.build) == (50.0, (1.0, 2.0, 3.0), 100.0)
    assert (b.warm_up, b.seconds, b.units, b.compile) == (7.0, (7.0, 7.0, 7.0), 2, Compile(1.0, 2.0, 3.0))
    assert time.log.count("rest") == 8


def test_a_run_is_over_when_its_arrays_are_computed(monkeypatch):
    waited = []
    monkeypatch.setattr(engine.jax, "block_until_ready", waited.append)
    case = Case("one", lambda: Built(lambda: "arrays"), units=1)
    measure([case], rounds=2, pause=0.0)
    assert waited == ["arrays"] * 3


def test_drift_that_all_cases_share_cancels_from_ratios():
    time = FakeTime()
    drift = [1.0, 1.0, 5.0, 2.0, 9.0, 3.0, 1.0, 4.0]
    slow = time.case("slow", *(3 * factor for factor in drift))
    a, again, slow = timed(time, time.case("a", *drift), time.case("again", *drift), slow, rounds=7).timings
    null = ratio(again.seconds, a.seconds)
    assert (null.low, null.median, null.high) == (1.0, 1.0, 1.0)
    assert ratio(slow.seconds, a.seconds)[:3] == pytest.approx((3.0, 3.0, 3.0))


def test_noise_between_equal_cases_is_within_the_interval_of_their_ratio():
    time, draw = FakeTime(), random.Random(0)
    noisy = [time.case(name, *(draw.lognormvariate(0, 0.3) for _ in range(51))) for name in ("a", "again")]
    a, again = timed(time, *noisy, rounds=50).timings
    null = ratio(again.seconds, a.seconds)
    assert null.low < 1 < null.high
    assert null.low < null.high  # noise is seen, not hidden


@pytest.mark.parametrize(("count", "k"), [(1, 1), (5, 1), (6, 1), (8, 1), (9, 2), (20, 6), (30, 10), (100, 40)])
def test_interval_is_the_pair_of_order_statistics_that_tables_give(count, k):
    """Conover 1999, table A3 (n <= 20); for larger n, the binomial tail."""
    samples = list(range(1, count + 1))
    random.Random(0).shuffle(samples)
    found = estimate(samples)
    assert found.median == statistics.median(samples)
    assert (found.low, found.high) == (k, count + 1 - k)
    tail = sum(math.comb(count, i) for i in range(k)) / 2**count
    assert found.confidence == pytest.approx(1 - 2 * tail)
    assert found.confidence >= 0.95 or k == 1


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=80))
def test_interval_holds_the_median_and_is_as_narrow_as_allowed(samples):
    found = estimate(samples)
    assert min(samples) <= found.low <= found.median <= found.high <= max(samples)
    own = ratio(samples, samples)
    assert own[:3] == (1.0, 1.0, 1.0)


def test_estimates_refuse_what_they_cannot_use():
    with pytest.raises(ValueError, match="samples is empty"):
        estimate([])
    with pytest.raises(ValueError, match="argument 2"):
        ratio([1.0, 2.0], [1.0])


def test_ratios_are_per_unit_and_to_the_first_case():
    time = FakeTime()
    a, b = time.case("a", 2.0), time.case("b", 2.0)._replace(units=8)
    text = record.to_record("train", "step", {}, timed(time, a, b, rounds=3))
    assert [case["microseconds_per_unit"]["median"] for case in text["cases"]] == [1e6, 0.25e6]
    assert [case["ratio"]["median"] for case in text["cases"]] == [1.0, 0.25]
    assert text["ratios_to"] == "a"


def test_the_plain_script_and_ours_train_the_same_network():
    """Else their times would not be comparable: one step from the same parameters on the same rows."""
    job = train_cases.Job(
        images=np.random.default_rng(0).integers(0, 256, (32, 28, 28, 1), dtype=np.uint8),
        labels=np.random.default_rng(1).integers(0, 10, 32, dtype=np.int32),
        hidden=16, batch_size=8, steps=1, seed=0,
    )  # fmt: skip
    apply, params = mlp(jax.random.key(0), inputs=784, hidden=16, outputs=10)
    optimizer, rows = optax.sgd(0.1), jnp.arange(8)
    batch = {"image": job.images[:8], "label": job.labels[:8], "where": np.ones(8, bool)}
    loss = train_cases.digits.make_loss(train_cases.digits.Config(), apply)
    ours, step = jax.jit(make_train_step(loss, optimizer)), jax.jit(train_cases.plain_step(optimizer))
    state, metrics = ours(init_state(params, optimizer, jax.random.key(1)), batch)
    plain, _, value = step(params, optimizer.init(params), jnp.asarray(job.images), jnp.asarray(job.labels), rows)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.params, plain)
    assert float(metrics["loss"][0] / metrics["loss"][1]) == pytest.approx(float(value), rel=1e-5)


def test_batches_of_an_epoch_hold_every_row_at_most_once():
    job = train_cases.random_job(hidden=1, batch_size=7000, steps=1, seed=0)
    batches = train_cases.shuffled(job)
    rows = np.concatenate([next(batches) for _ in range(60_000 // 7000)])
    assert len(set(rows.tolist())) == len(rows) == 56_000


@pytest.mark.parametrize(("batch_size", "hidden"), [(64, 256), (1, 3), (1000, 2)])
def test_products_stay_finite_for_ever(batch_size, hidden):
    job = train_cases.Job(np.empty(0), np.empty(0), hidden, batch_size, steps=50, seed=0)
    w = train_cases.products(job, "products").build().run()
    assert w.shape == (784, hidden)
    assert 0.1 < float(jnp.abs(w).max()) < 100


@pytest.fixture
def precision():
    """What the command sets for its own process."""
    before = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", before)


@pytest.mark.usefixtures("precision")
def test_the_command_measures_and_writes_every_sample(tmp_path, capsys):
    out = tmp_path / "train.json"
    xent([*TINY, f"--out={out}"])
    said = capsys.readouterr().out
    text = json.loads(out.read_text())
    names = [case["name"] for case in text["cases"]]
    assert names == ["ours", "ours, one step a call", "plain optax script", "two large products", "ours, again"]
    assert all(name in said for name in names)
    for case in text["cases"]:
        assert case["units"] == 3
        assert len(case["seconds"]) == 2
        assert min(case["seconds"]) > 0
        assert case["ratio"]["low"] <= case["ratio"]["median"] <= case["ratio"]["high"]
        assert set(case["compile"]) == {"trace", "lower", "compile", "temporary"}
    assert text["cases"][0]["ratio"]["median"] == 1
    assert sorted(text["order"][0]) == [0, 1, 2, 3, 4]
    assert (text["schema"], text["benchmark"], text["unit"]) == (2, "train", "step")
    assert text["flags"]["batch_size"] == 4
    assert {"versions", "device", "cores", "commit", "xla_flags"} <= set(text["environment"])


def test_an_existing_file_is_refused_before_any_work(tmp_path, capsys):
    out = tmp_path / "train.json"
    out.write_text("precious")
    assert refused([*TINY, f"--out={out}"], capsys) == f"xent: --out {out} exists: name a new file\n"
    assert out.read_text() == "precious"
    with pytest.raises(ValueError, match="exists"):
        record.write(out, {})
    assert out.read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "trian"], "no benchmark 'trian': did you mean train?"),
        (["bench", "xyz"], "no benchmark 'xyz': there are train"),
        (["bench", "train", "--rounds=0"], "--rounds 0: must be from 1 to 2147483647"),
        (["bench", "train", "--batch-size=60001"], "--batch-size 60001: must be from 1 to 60000"),
        (["bench", "train", "--round=2"], "did you mean --rounds?"),
        (["bench", "train", "--out=no/such/folder/x.json"], "no/such/folder is no folder that can be written"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, message, capsys):
    said = refused(arguments, capsys)
    assert message in said
    assert said.count("\n") == 1


def test_help_names_the_benchmarks(capsys):
    xent(["bench", "--help"])
    assert "train" in capsys.readouterr().out


def refused(arguments: list[str], capsys) -> str:
    """What is said on stderr by a command that exits with code 2."""
    with pytest.raises(SystemExit) as stop:
        xent(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_saving_is_measured_with_a_save_in_every_sample(tmp_path, capsys):
    file = tmp_path / "save.json"
    xent(["bench", "save", "--rounds", "2", "--steps", "300", "--hidden", "8", "--out", str(file)])
    assert "a save" in capsys.readouterr().out
    record = json.loads(file.read_text())
    assert [len(case["seconds"]) for case in record["cases"]] == [2, 2, 2]


def test_a_save_happens_half_way_and_only_there():
    job = train_cases.random_job(hidden=4, batch_size=8, steps=200, seed=0)
    started, saved = train_cases.start_ours(job), []
    train_cases.run_ours(
        job, started, started.state, pause=lambda step: step == 100, save=lambda state: saved.append(int(state.step))
    )
    assert saved == [100, 200]
