"""Moves that leave the posterior as it is: its draws stay, those of something else drift."""

import dataclasses
import importlib

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import normal_mean

import bayes
from bayes.compilation import computing
from bayes.diagnostics.approximations import judge_independent
from bayes.inference.invariance import examined, moved
from bayes.inference.laplace import Laplace
from bayes.method import Draws
from bayes.normals import independent, log_prob, normal_of_covariance, push
from bayes.threefry import key_words

D = 50


def normal(factor):
    z = numpyro.sample("z", dist.ImproperUniform(dist.constraints.real_vector, (), (D,)))
    whitened = jnp.linalg.solve(factor, z)
    numpyro.factor("normal", -0.5 * (whitened @ whitened))


def funnel():
    """Neal's, with a scale of its own for 29 leaves, and a likelihood that leaves the neck in."""
    scale = numpyro.sample("scale", dist.Normal(0.0, 1.5))
    with numpyro.plate("leaf", 29):
        numpyro.sample("x", dist.Normal(0.0, jnp.exp(scale)))


def bind(model, data):
    with computing():
        return bayes.Model(model, allow_prior=True).bind(data)


@pytest.fixture(scope="module")
def target():
    """A correlated normal in 50 dimensions with scales from 0.01 to 100."""
    rng = np.random.default_rng(1)
    scales = 10.0 ** np.linspace(-2, 2, D)
    factor = scales[:, None] * np.linalg.cholesky(0.5 * np.eye(D) + 0.5)
    known = normal_of_covariance(np.zeros(D), factor @ factor.T)
    assert rng is not None
    return bind(normal, {"factor": factor}), known


def drift(problem, proposal, seed, *, shape=None, info=None, count=2000):
    """What the verdict says of draws of a normal under moves with that normal's metric."""
    rng = np.random.default_rng(seed)
    x = proposal.mean + push(proposal, rng.normal(size=(count, problem.size)))
    log_q = log_prob(proposal, x)
    # Ratios that have nothing against the draws: what the moves are for.
    draws = Draws(
        {"x": x[None]},
        {"lp": log_q[None]},
        1,
        x[None],
        log_q[None],
        {"independent": True, "not_converged": "", "sampled": ["x"], **(info or {})},
        normal=proposal,
    )
    with computing():
        found = examined(problem, draws, key_words(seed))
    stats = {"lp": found.stats["lp"], "log_q": found.log_q}
    return found, judge_independent(found.values, stats, found.info)


@pytest.mark.parametrize("seed", range(6))
def test_draws_of_the_posterior_do_not_drift(seed, target):
    """The thresholds let one in 1000 drift by chance, and one in 80 for all six seeds at most."""
    found, verdict = drift(*target, seed)
    assert verdict.ok, verdict
    moves = found.info["moves"]
    assert moves["particles"] == 256
    assert moves["unknowns"] == D
    assert 0.5 < moves["acceptance"] <= 1.0
    assert moves["mean_shift_of"].startswith("z[")


@pytest.mark.parametrize("seed", range(3))
def test_shifted_draws_drift_back(seed, target):
    """All elements off by one standard deviation; ratios that do not show it are planted."""
    problem, known = target
    _, verdict = drift(problem, known._replace(mean=known.sd), seed)
    assert not verdict["moved_mean_shift"].passed
    assert "drifts when draws are moved" in verdict["moved_mean_shift"].advice


@pytest.mark.parametrize("seed", range(3))
def test_narrow_draws_spread(seed, target):
    """Of half the standard deviation: moved, they have twice as much."""
    problem, known = target
    found, verdict = drift(problem, known._replace(scale=0.5 * known.scale), seed)
    assert not verdict["moved_sd_shift"].passed
    assert found.info["moves"]["sd_shift"] > 0.5


def test_wide_draws_contract(target):
    problem, known = target
    _, verdict = drift(problem, known._replace(scale=1.8 * known.scale), 0)
    assert not verdict["moved_sd_shift"].passed


@pytest.mark.parametrize("seed", range(3))
def test_a_normal_for_a_funnel_drifts(seed):
    """Where the scale is narrow the funnel has half of its mass, and the normal has none."""
    problem = bind(funnel, {})
    sd = np.r_[0.4, np.full(29, 2.0)]
    mean = np.r_[1.2, np.zeros(29)]
    _, verdict = drift(problem, independent(mean, sd), seed)
    assert not verdict["moved_mean_shift"].passed or not verdict["moved_sd_shift"].passed


def test_what_k_hat_rejects_is_not_moved(target):
    """Nor are chains, or few unknowns."""
    problem, known = target
    importance = {"khat": 0.9, "ess": 50.0, "candidates": 2000}
    found, _ = drift(problem, known, 0, info={"importance": importance})
    assert "moves" not in found.info
    chains = dataclasses.replace(found, info={})
    with computing():
        assert examined(problem, chains, key_words(0)) is chains
    post = bayes.fit(
        bayes.Model(lambda: numpyro.sample("x", dist.Normal(0, 1)), allow_prior=True),
        {},
        Laplace(draws=500),
    )
    assert "moves" not in post.method.info


def test_resampled_draws_are_moved_as_they_are(target):
    problem, known = target
    importance = {"khat": 0.1, "ess": 1900.0, "candidates": 2000}
    found, verdict = drift(problem, known, 0, info={"importance": importance})
    assert found.info["moves"]["particles"] == 256
    assert verdict.ok
    few, _ = drift(problem, known, 0, info={"importance": importance}, count=150)
    assert few.info["moves"]["particles"] == 150


def test_a_seed_gives_its_moves(target):
    problem, known = target
    rng = np.random.default_rng(0)
    x = push(known, rng.normal(size=(256, D)))
    with computing():
        (first, rate), (again, _) = (
            moved(problem, known, x, np.random.default_rng(5)) for _ in range(2)
        )
        other, _ = moved(problem, known, x, np.random.default_rng(6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 0.5 < rate <= 1.0
    # They have come a long way: what they were tells little of where they are.
    correlation = np.mean((first / known.sd) * (x / known.sd))
    assert abs(correlation) < 0.5


def test_positions_without_density_stay_finite(target):
    """A step that overflows is not taken."""
    problem, known = target
    huge = known._replace(scale=1e200 * known.scale)
    x = push(known, np.random.default_rng(0).normal(size=(64, D)))
    with computing(), np.errstate(all="ignore"):
        found, rate = moved(problem, huge, x, np.random.default_rng(1))
    np.testing.assert_array_equal(found, x)
    assert rate == 0.0


def test_ctrl_c_while_draws_are_moved_keeps_them(monkeypatch):
    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("bayes.fit"), "examined", stopped)
    with pytest.warns(bayes.ConvergenceWarning, match="before its draws were moved"):
        post = bayes.fit(normal_mean, {"n": 5, "y": np.arange(5.0)}, "laplace", seed=0)
    assert post.diagnostics.interrupted == "keyboard"
    assert not post.diagnostics["objective"].passed
    assert post.data["posterior"].sizes["draw"] == 4000
