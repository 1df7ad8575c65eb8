"""`xent bench`: the stopwatch against clocks that are known, and the command line at its smallest."""

import contextlib
import importlib
import json
import math
import random
import statistics
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental.compilation_cache import compilation_cache

from xent.experiments.__main__ import main as xent
from xent.experiments.bench import engine, train_cases, train_start
from xent.experiments.bench.engine import Built, Case, Compile, counted, measure, staged
from xent.experiments.bench.estimate import estimate, ratio
from xent.experiments.bench.record import Measured, from_json, to_json
from xent.experiments.bench.train_experiments import CONTRIBUTIONS, Asked
from xent.experiments.table import EXPERIMENTS
from xent.models.mlp import mlp
from xent.train.step import init_state, make_train_step


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


def test_of_any_two_cases_each_comes_first_in_half_of_the_rounds():
    """So that what a place in a round does to a time, it does to both."""
    order = engine.orders(4, 10, seed=0)
    for a, b in ((0, 1), (0, 3), (2, 1)):
        assert sum(turns.index(a) < turns.index(b) for turns in order) == 5
    assert len(engine.orders(4, 7, seed=0)) == 7


def test_a_call_too_short_to_be_timed_alone_is_repeated_within_a_sample():
    time = FakeTime()
    short, long = timed(time, time.case("short", 0.003), time.case("long", 2.0), rounds=3, least=0.02).timings
    assert (short.calls, long.calls) == (7, 1)
    assert short.seconds == pytest.approx((0.003,) * 3)
    assert time.log.count("short") == 2 + 3 * 7  # to warm up, to see how long it takes, and the samples
    assert time.log.count("long") == 1 + 3


def test_a_case_that_is_listed_twice_is_built_once_and_called_as_often():
    """Else the null test would find the luck of a second build."""
    time = FakeTime()
    case = time.case("a", 0.03, *(0.004 + 0.001 * (i % 3) for i in range(50)))
    one, again = timed(time, case, case._replace(name="again"), rounds=2).timings
    assert time.log.count("build a") == 1
    assert one.calls == again.calls > 1
    assert again.name == "again"


def test_what_a_case_holds_is_given_back_however_it_ends():
    closed = []

    def fails():
        raise ArithmeticError

    for run in (lambda: None, fails):
        case = Case("one", lambda run=run: Built(run, close=lambda: closed.append(run)), units=1)
        with contextlib.suppress(ArithmeticError):
            measure([case], rounds=1, pause=0.0, least=0.0)
    assert len(closed) == 2


@pytest.fixture
def cache_folder(tmp_path):
    """Where JAX keeps compiled programs during this test."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation_cache.reset_cache()
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def test_a_benchmark_compiles_anew_where_compiled_programs_are_kept(cache_folder):
    def program():
        return jax.jit(lambda x: x + 1234.5)

    x = np.ones(5, np.float32)
    staged(program(), x)
    assert not [*cache_folder.iterdir()]
    program()(x)
    assert [*cache_folder.iterdir()]


def test_operations_are_counted_before_compilation_and_bytes_after():
    x, y = jnp.ones((8, 16)), jnp.ones((16, 4))
    _, took = staged(jax.jit(jnp.dot), x, y)
    assert took.flops == 2 * 8 * 16 * 4
    assert took.moved == 4 * (8 * 16 + 16 * 4 + 8 * 4)
    assert took.peak >= took.moved


def test_a_loop_is_counted_as_often_as_it_runs():
    powers = jax.jit(lambda x: jax.lax.scan(lambda y, _: (y @ x, None), x, length=5)[0])
    x = jax.ShapeDtypeStruct((8, 8), "float32")
    assert counted(powers, x, times=5) == pytest.approx(5 * 2 * 8**3, rel=0.01)  # and five counts of the loop


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
    measure([case], rounds=2, pause=0.0, least=0.0)
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


def wandering(draw: random.Random, rounds: int, seed: int) -> tuple[engine.Timing, ...]:
    """Time a case, another and the first again on a machine that gets slower by a tenth a sample, more or less."""
    time, seconds = FakeTime(), 1.0

    def work() -> None:
        nonlocal seconds
        seconds *= draw.lognormvariate(0.1, 0.1)
        time.work("a", seconds)

    case, other = (Case(name, lambda: Built(work), units=1) for name in "ab")
    return timed(time, case, other, case._replace(name="again"), rounds=rounds, seed=seed).timings


@pytest.mark.parametrize("rounds", [7, 11, 22])
def test_the_null_test_holds_however_a_machine_drifts(rounds):
    """In one order throughout, what comes last would look slower every time."""
    held = []
    for seed in range(200):
        timings = wandering(random.Random(f"{rounds} {seed}"), rounds, seed)
        null = ratio(timings[2].seconds, timings[0].seconds)
        held.append(null.low <= 1 <= null.high)
    assert np.mean(held) >= 0.95


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
    timings, order = timed(time, a, b, rounds=3)
    row = Measured("train", "one", {}, "float32", "step", "a", None, order, (1.0, 0.5), timings)
    assert [row.time(name, 1e6).median for name in "ab"] == [1e6, 0.25e6]
    assert [row.ratio(name).median for name in "ab"] == [1.0, 0.25]
    assert row.ratio("c") is row.ratio(row.null) is None
    assert from_json(json.loads(json.dumps(to_json(row)))) == row


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


def test_every_experiment_has_its_step_timed():
    assert set(CONTRIBUTIONS) == set(EXPERIMENTS)


@pytest.mark.parametrize("name", list(CONTRIBUTIONS))
def test_a_step_is_timed_as_the_experiment_runs_it(name):
    """On a CPU convolutions in a loop take four times as long, and nobody's run has them there."""
    experiment = importlib.import_module(EXPERIMENTS[name].module)
    default = experiment.STEPS_PER_CALL if name == "saturation" else experiment.Config().steps_per_call
    assert CONTRIBUTIONS[name].parts(Asked(8, 4, 1, 0, "none", True)).steps_per_call == default


SUMS = {
    "digits": 1628034887,
    "gan": 3623935454,
    "images": 2415977660,
    "language_model": 861530797,
    "saturation": 4046924892,
    "speech": 2280391080,
}


@pytest.mark.parametrize("name", list(SUMS))
def test_a_curve_begins_with_the_same_bits_on_every_machine(name):
    """Whatever device draws: these sums were written down once."""
    parts = CONTRIBUTIONS[name].parts(Asked(8, 4, 1, 0, "none", True))
    begun = train_start.same_everywhere(parts.params, 0), dict(parts.arrays)
    sums = [zlib.crc32(np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(begun)]
    assert zlib.crc32(repr(sums).encode()) == SUMS[name]


def test_a_curve_is_the_loss_of_each_step():
    job = train_cases.random_job(hidden=8, batch_size=64, steps=1, seed=0)
    started = train_cases.start_ours(job)
    found = train_start.curve(started, steps=30)
    assert len(found) == 30
    assert found[0] == pytest.approx(math.log(10), abs=0.5)
    assert np.mean(found[-5:]) < np.mean(found[:5]) - 0.1
    assert train_start.curve(started, steps=3) == found[:3]  # from the start again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "trian"], "no benchmark 'trian': did you mean train?"),
        (["bench", "xyz"], "no benchmark 'xyz': there are all, losses, fused, train"),
        (["bench", "train", "--experiment", "digit"], "--experiment digit: must be some of digits, images"),
        (["bench", "train", "--rounds=0"], "--rounds 0: must be 1 or more"),
        (["bench", "train", "--batch-size=60001"], "--batch-size 60001: must be from 1 to 512"),
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
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in ("all", "losses", "fused", "train", "peaks", "save", "null"))


def refused(arguments: list[str], capsys) -> str:
    """What is said on stderr by a command that exits with code 2."""
    with pytest.raises(SystemExit) as stop:
        xent(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_a_save_happens_half_way_and_only_there():
    job = train_cases.random_job(hidden=4, batch_size=8, steps=200, seed=0)
    started, saved = train_cases.start_ours(job), []
    train_start.run_on(
        started, started.state, pause=lambda step: step == 100, save=lambda state: saved.append(int(state.step))
    )
    assert saved == [100, 200]
