"""The game of two networks: whose step changes what, by which gradient, what a run leaves, and that it goes on."""

import csv
import shutil
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
import scipy.special
from rich.console import Console

from xent.experiments import gan, gan_game, gan_judge
from xent.experiments.fits.gan import outline
from xent.experiments.gan_game import AVERAGE, DISCRIMINATOR, GENERATOR, SAMPLES
from xent.experiments.pixels import from_bytes
from xent.experiments.scores import read_scores
from xent.models.lenet import FEATURES
from xent.train.journal import read_lines

TINY = ("--hidden", "8", "--epochs", "2", "--batch-size", "256", "--steps-per-call", "2", "--save-every", "1")


@pytest.fixture
def another_judge(monkeypatch):
    """One that is there at once: it goes by where the ink is."""

    def tell(images):
        ink = images.reshape(len(images), -1)
        return ink[:, :20], scipy.special.softmax(ink[:, 20:30], -1)

    def train_judge(images, console):
        features = tell(from_bytes(images.train.image))[0]
        return gan_judge.Judge(tell, features, np.full(10, 0.1), len(images.test.label))

    monkeypatch.setattr(gan, "train_judge", train_judge)


@cache
def begin(**flags):
    """A game, its optimiser, the state before the first step, and a batch."""
    config = gan.Config(hidden=8, latent=4, decay=0.8, **flags)
    optimizer = optax.adam(0.01)
    game, networks = gan.game_of(config, (4, 4, 1), (0, 2, 3))

    def start(weights, noise):
        return gan_game.init_game(game, networks(weights), optimizer, noise)

    state = jax.jit(start)(jax.random.key(0), jax.random.key(1))
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1), dtype=np.uint8)
    batch = {"image": images, "where": np.arange(6) < 5}
    return game, optimizer, state, batch


@cache
def step_of_both():
    game, optimizer, _, _ = begin()
    return jax.jit(gan_game.make_game_step(game, optimizer))


@cache
def moves():
    """The step of each player alone."""
    game, optimizer, _, _ = begin()
    losses = {DISCRIMINATOR: gan_game.discriminator_loss(game), GENERATOR: gan_game.generator_loss(game)}
    return {player: jax.jit(partial(gan_game.move, player, loss, optimizer)) for player, loss in losses.items()}


def same(left, right):
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


def test_the_step_of_one_player_leaves_the_other_alone():
    _, _, state, batch = begin()
    for player, other in ((DISCRIMINATOR, GENERATOR), (GENERATOR, DISCRIMINATOR)):
        params, opt_state, _, finite = moves()[player](state.params, state.opt_state, batch, jax.random.key(2))
        assert finite
        assert same(params[other], state.params[other])
        assert same(opt_state[other], state.opt_state[other])
        assert not same(params[player], state.params[player])
        assert not same(opt_state[player], state.opt_state[player])


@pytest.mark.parametrize("name", ["minimax", "non-saturating"])
def test_each_player_goes_down_the_gradient_of_the_closed_form(name):
    smoothing, count = 0.1, 5
    game, _, state, batch = begin(game=name, label_smoothing=smoothing)
    key, where = jax.random.key(3), batch["where"]

    def gradient(params, loss, player):
        return jax.grad(lambda own: loss({**params, player: own}, batch, key)[0])(params[player])

    def pulled_back(params, player, of_real, of_fake):
        (real, fake), pull = jax.vjp(
            lambda own: gan_game.logits(game, {**params, player: own}, batch, key), params[player]
        )
        return pull((of_real(real) * where / count, of_fake(fake) * where / count))[0]

    zero = jnp.zeros_like
    sigmoid = jax.nn.sigmoid
    making = {
        "minimax": lambda z: -sigmoid(z),
        "non-saturating": lambda z: -sigmoid(-z),
    }[name]

    @jax.jit
    def both(params):
        return (
            gradient(params, gan_game.discriminator_loss(game), DISCRIMINATOR),
            pulled_back(params, DISCRIMINATOR, lambda z: sigmoid(z) - (1 - smoothing), sigmoid),
        ), (
            gradient(params, gan_game.generator_loss(game), GENERATOR),
            pulled_back(params, GENERATOR, zero, making),
        )

    for found, expected in both(state.params):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), found, expected)
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(found))


def test_a_step_is_the_discriminators_then_the_generators_and_the_average_follows():
    _, _, state, batch = begin()
    first, second = jax.random.split(jax.random.fold_in(state.key, 0))
    expected = moves()[DISCRIMINATOR](state.params, state.opt_state, batch, first)[:2]
    expected = moves()[GENERATOR](*expected, batch, second)[:2]
    after, metrics = step_of_both()(state, batch)
    for player in gan_game.PLAYERS:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            after.params[player], expected[0][player],
        )  # fmt: skip
    jax.tree.map(
        lambda average, old, new: np.testing.assert_allclose(average, 0.1 * old + 0.9 * new, rtol=1e-5, atol=1e-6),
        after.params[AVERAGE], state.params[GENERATOR], after.params[GENERATOR],
    )  # fmt: skip
    assert float(metrics["loss"][1]) == float(metrics["generator_loss"][1]) == 5  # padding does not count
    assert int(after.step) == 1


def test_where_one_gradient_is_not_finite_neither_player_moves(monkeypatch):
    monkeypatch.setattr(gan_game, "GENERATOR_LOSSES", {"non-saturating": lambda logits: logits * jnp.nan})
    game, optimizer, state, batch = begin()
    after, _ = jax.jit(gan_game.make_game_step(game, optimizer))(state, batch)
    assert same((after.params, after.opt_state), (state.params, state.opt_state))
    assert (int(after.step), int(after.skipped_steps), int(after.bad_steps)) == (1, 1, 1)


def test_samples_are_taken_at_their_moments_from_noise_that_stays():
    game, _, state, batch = begin()
    noise, moments = gan_game.fixed_noise(game, state.key), {0: state.params}
    for _ in range(4):
        state, _ = step_of_both()(state, batch)
        moments[int(state.step)] = state.params
    for row, moment in enumerate(game.moments):
        expected = gan_game.sample(game, moments[moment], noise)
        np.testing.assert_allclose(state.params[SAMPLES][row], expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(state.params[SAMPLES][0], state.params[SAMPLES][2])


def test_the_distance_is_the_papers():
    draw = np.random.default_rng(0)
    left, right = draw.normal(size=(50, 4)), draw.normal(size=(30, 4)) @ draw.normal(size=(4, 4)) + 1
    one, other = np.cov(left.T), np.cov(right.T)
    expected = ((left.mean(0) - right.mean(0)) ** 2).sum() + np.trace(one + other - 2 * scipy.linalg.sqrtm(one @ other))
    assert gan_judge.frechet_distance(left, right) == pytest.approx(expected, rel=1e-9)
    assert gan_judge.frechet_distance(left, left + np.array([3, 0, 4, 0])) == pytest.approx(25)
    few = np.eye(3, 4)  # fewer examples than features: covariances without an inverse
    of_means, of_spreads = 1 / 3, 1
    assert gan_judge.frechet_distance(few, 2 * few) == pytest.approx(of_means + of_spreads)
    with pytest.raises(ValueError, match=r"right has shape \[3, 2\]: must be two examples or more of as many features"):
        gan_judge.frechet_distance(few, few[:, :2])


def test_the_scores_count_classes_beside_the_data():
    probabilities = np.eye(3)[[0, 0, 0, 1]]
    judge = gan_judge.Judge(lambda images: (images, probabilities), np.eye(4), np.array([0.5, 0.25, 0.25]), 4)
    scores = gan_judge.score(judge, *judge.tell(np.eye(4)))
    expected = {"Frechet distance": 0.0, "confidence": 1.0, "rarest class": 0.0, "commonest class": 1.5}
    assert scores == pytest.approx(expected, abs=1e-6)


def test_the_judge_knows_real_images_and_does_not_know_noise(monkeypatch):
    monkeypatch.setattr(gan_judge, "STEPS", 100)
    console = Console(quiet=True)
    images = gan.load(gan.Config(), console)
    judge = gan_judge.train_judge(images, console)
    assert judge.features.shape == (len(images.train.label), FEATURES)  # more than one chunk
    assert judge.shares == pytest.approx(0.1, abs=0.01)
    features, probabilities = judge.tell(from_bytes(images.test.image))
    assert features.shape == (len(images.test.label), FEATURES)
    assert (probabilities.argmax(-1) == images.test.label).mean() > 0.85
    noise = np.random.default_rng(0).uniform(-1, 1, images.test.image.shape).astype(np.float32)
    real, random = (gan_judge.score(judge, *told) for told in ((features, probabilities), judge.tell(noise)))
    assert 5 * real["Frechet distance"] < random["Frechet distance"]
    assert real["confidence"] > random["confidence"]
    assert real["commonest class"] < 1.3


def test_what_is_compiled_for_absent_chips_is_the_step_that_runs():
    config = gan.Config(hidden=8, batch_size=4)
    found = outline(config, gan.load(config, Console(quiet=True)))
    game, networks = gan.game_of(config, (8, 8, 1), gan.moments_of(10**6))
    state = gan_game.init_game(game, networks(jax.random.key(0)), optax.adam(1.0), jax.random.key(0))
    assert jax.tree.map(jnp.shape, found.state.params) == jax.tree.map(jnp.shape, state.params)
    assert found.work == "4 images and as many generated"
    after, _ = jax.eval_shape(found.step, found.state, found.batch)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, found.state)


def test_a_run_leaves_pictures_and_goes_on_to_the_same_bits(xent, tmp_path, state_of, another_judge, monkeypatch):
    monkeypatch.setattr(gan_game, "COLUMNS", 3)  # most of the time that a picture takes
    outcome = xent("gan", *TINY, "--keep", "9", "--out", "whole")
    assert outcome.code == 0, outcome.err
    for part in ("discriminator and generator of", "held-out images", "uniform noise"):
        assert part in outcome.out
    whole = tmp_path / "whole"
    for picture in ("samples", "classes", "learning_curve"):
        assert (whole / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    lines = read_lines(whole / "metrics.jsonl")
    assert all(0 < line["validation_loss"] < 3 for line in lines if "validation_loss" in line)
    rows = list(csv.DictReader((whole / "samples.csv").read_text().splitlines()))
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(steps)
    assert {steps[0], steps[-1]} == {0, lines[-1]["step"]}
    assert len(rows) == gan_game.COLUMNS * len({*steps})
    shares = [
        float(row["share of the samples"]) for row in csv.DictReader((whole / "classes.csv").read_text().splitlines())
    ]
    assert sum(shares) == pytest.approx(1)
    shutil.copytree(whole, tmp_path / "part")
    (tmp_path / "part/results.csv").unlink()
    saved = sorted(int(folder.name) for folder in (tmp_path / "part/checkpoints").iterdir() if folder.name.isdigit())
    assert len(saved) > 4
    for step in saved[3:]:
        shutil.rmtree(tmp_path / "part/checkpoints" / str(step))
    outcome = xent("resume", "part")
    assert outcome.code == 0, outcome.err
    assert f"from step {saved[2]} of" in outcome.out
    assert state_of(tmp_path / "part") == state_of(whole)
    for name in ("results.csv", "samples.csv", "classes.csv"):
        assert (tmp_path / "part" / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--game", "maximin"], "invalid choice 'maximin'"),
        (["--dropout", "1"], "--dropout 1.0: must be from 0 to below 1"),
        (["--decay", "-0.1"], "--decay -0.1: must be from 0 to below 1"),
        (["--label-smoothing", "1"], "--label-smoothing 1.0: must be from 0 to below 1"),
        (["--latent", "0"], "--latent 0: must be from 1 to 2147483647"),
        (["--epochs", "0"], "--epochs 0: must be from 1 to 2147483647"),
        (["--dataset", "digit"], "unknown dataset 'digit': did you mean"),
        (["--hidden", "2000000"], "copies of the model's parameters need"),
        (["--mesh", "data=3"], "--mesh data=3"),
        (["--mesh", "data=1,model=2"], "must be of data here, where model would split nothing"),
    ],
)
def test_a_mistake_is_one_line(xent, tmp_path, flags, message):
    outcome = xent("gan", *flags)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_five_seeds_draw_every_class_as_often_as_the_data(xent, tmp_path):
    outcome = xent("gan", "--seeds", "5")
    assert outcome.code == 0, outcome.err
    for seed in range(5):
        scores = read_scores(tmp_path / f"runs/gan-1/seed-{seed}/results.csv")
        assert scores["xent"]["rarest class"] >= 1 / 2.5
        assert scores["xent"]["commonest class"] <= 2.5
        assert scores["xent"]["Frechet distance"] < scores["uniform noise"]["Frechet distance"] / 5
