"""What corrects an approximation: importance weights, and chains that start from it."""

import dataclasses
import json
import sys

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import SCHOOLS_DATA, funnel, normal_mean, schools

import bayes
from bayes.diagnostics.ranks import mean_ess
from bayes.driver import Outcome
from bayes.errors import NoDrawsError
from bayes.inference.approximation import Approximation
from bayes.inference.continuation import Continuation
from bayes.inference.laplace import Laplace
from bayes.inference.pathfinder import Pathfinder
from bayes.inference.variational import VI
from bayes.method import Draws
from bayes.normals import independent
from bayes.refinement import check_refinement, refine_outcome

METHODS = {
    "laplace": Laplace(draws=1000),
    "pathfinder": Pathfinder(draws=1000),
    "vi": VI(draws=1000),
}


def linear(x, y=None):
    beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ beta, 1.0).to_event(1), obs=y)


def count(y=None):
    """Conjugate and skew: rate ~ Gamma(2, 1), y ~ Poisson(rate)."""
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    numpyro.sample("y", dist.Poisson(rate), obs=y)


@pytest.fixture(scope="module")
def line():
    """Data, mean and covariance of a correlated conjugate regression."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 4)) + rng.normal(size=(40, 1))
    y = x @ np.array([1.0, -1.0, 0.5, 0.0]) + rng.normal(size=40)
    sigma = np.linalg.inv(x.T @ x + np.eye(4) / 4)
    return {"x": x, "y": y}, sigma @ x.T @ y, sigma


@pytest.mark.parametrize("name", METHODS)
def test_chains_from_an_approximation_are_of_the_posterior(name, line):
    """Means within five Monte Carlo errors: 6e-7 for each of four."""
    data, mean, sigma = line
    post = bayes.fit(linear, data, METHODS[name], seed=1, refine="nuts")
    assert post.diagnostics.ok, post.diagnostics
    draws = post.draws("beta").values
    sd = np.sqrt(np.diagonal(sigma))
    ess = mean_ess(draws)
    assert np.all(np.abs(draws.mean(axis=(0, 1)) - mean) < 5 * sd / np.sqrt(ess))
    assert np.all(np.abs(draws.std(axis=(0, 1)) / sd - 1) < 5 / np.sqrt(2 * np.minimum(ess, 1e3)))
    assert post.data["posterior"].sizes["chain"] == 4
    assert "log_q" not in post.data["sample_stats"]
    assert {"rhat", "ess_bulk"} <= {check.name for check in post.diagnostics.checks}


@pytest.mark.parametrize("name", METHODS)
def test_the_record_says_what_was_done(name, line):
    post = bayes.fit(linear, line[0], METHODS[name], seed=1, refine="nuts")
    assert post.method.name == name
    assert post.method.settings["refine"] == "nuts"
    assert post.method.settings["draws"] == 1000
    info = post.method.info
    assert info["route"] == "nuts"
    assert not info.get("independent")
    assert "not_converged" in info["approximation"]
    assert "route" not in info["approximation"]
    assert "approximation" in post.data.children
    json.dumps(info)


@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
def test_a_skew_posterior_is_corrected_by_either():
    """Gamma(5, 2): the normal of its logarithm has another mean, corrected to five errors."""
    mean, sd = 2.5, np.sqrt(5) / 2
    raw = bayes.fit(count, {"y": 3}, Laplace(), seed=0)
    bias = (raw.draws("rate").values.mean() - mean) / sd
    assert abs(bias) > 0.1
    assert not raw.diagnostics["mean_shift"].passed
    weighted = bayes.fit(count, {"y": 3}, Laplace(), seed=0, refine="psis")
    assert weighted.diagnostics.ok, weighted.diagnostics
    assert weighted.method.info["route"] == "psis"
    assert weighted.method.settings["refine"] == "psis"
    ess = weighted.method.info["importance"]["ess"]
    assert abs(weighted.draws("rate").values.mean() - mean) < 5 * sd / np.sqrt(ess)
    chains = bayes.fit(count, {"y": 3}, Laplace(), seed=0, refine="nuts")
    draws = chains.draws("rate").values
    ess = mean_ess(draws[..., None])[0]
    assert abs(draws.mean() - mean) < 5 * sd / np.sqrt(ess)


def test_what_was_resampled_is_not_resampled_again():
    plain, psis = (
        bayes.fit(schools, SCHOOLS_DATA, VI(draws=1000), seed=0, refine=refine)
        for refine in (None, "psis")
    )
    assert plain.method.info["route"] == "psis"
    np.testing.assert_array_equal(plain.draws("tau").values, psis.draws("tau").values)


@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
def test_weights_do_not_hide_that_the_approximation_is_poor():
    """Centred schools: resampled draws of a poor normal are not ok."""
    post = bayes.fit(schools, SCHOOLS_DATA, Pathfinder(importance=False), seed=0, refine="psis")
    assert not post.diagnostics.ok


def test_chains_that_start_in_a_poor_place_find_the_posterior():
    """The mode of the funnel is no place to be: NUTS leaves it, or says that it has not."""
    model = bayes.Model(funnel, allow_prior=True)
    with pytest.warns(bayes.ConvergenceWarning):
        post = bayes.fit(model, {}, Laplace(), seed=0, refine="nuts")
    assert post.method.info["route"] == "nuts"
    assert not post.diagnostics.ok
    assert np.isfinite(post.draws("x").values).all()


def test_the_warm_up_is_shorter(line):
    plain = bayes.fit(linear, line[0], bayes.NUTS(), seed=1)
    refined = bayes.fit(linear, line[0], METHODS["laplace"], seed=1, refine="nuts")
    assert refined.method.info["warmup"] < plain.method.info["warmup"]


@pytest.mark.parametrize("method", ["nuts", bayes.HMC()])
def test_exact_methods_are_not_refined(method, line):
    with pytest.raises(bayes.SettingsError, match="draws from the posterior itself"):
        bayes.fit(linear, line[0], method, refine="nuts")


@pytest.mark.parametrize("refine", ["NUTS", "hmc", True, 3, ""])
def test_unknown_refinements_are_refused(refine, line, unchecked):
    with pytest.raises(bayes.SettingsError, match="refine must be one of psis, nuts"):
        bayes.fit(linear, line[0], "laplace", refine=refine)


def test_none_is_no_refinement():
    check_refinement(None, bayes.NUTS())
    check_refinement("psis", Laplace())


# ------------------------------------------------------------------ checkpoints


class Killed(Exception):
    """A run that ends without a word."""


def killed_after(monkeypatch, cls, blocks):
    """Let a method's class work for some blocks."""
    own, left = cls.step, [blocks]

    def step(self, problem, state):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return own(self, problem, state)

    monkeypatch.setattr(cls, "step", step)


@pytest.mark.parametrize("part", ["approximation", "nuts"])
def test_a_run_that_is_killed_in_either_part_goes_on(part, line, tmp_path, monkeypatch):
    data = line[0]
    options = {"method": METHODS["laplace"], "seed": 3, "refine": "nuts"}
    whole = bayes.fit(linear, data, checkpoint=tmp_path / "whole", **options)
    assert {p.name for p in (tmp_path / "whole").iterdir()} == {"approximation", "nuts"}
    with monkeypatch.context() as patch:
        killed_after(patch, Approximation if part == "approximation" else Continuation, 1)
        with pytest.raises(Killed):
            bayes.fit(linear, data, checkpoint=tmp_path / "cut", **options)
    found = {p.name for p in (tmp_path / "cut").iterdir()}
    assert found == ({"approximation"} if part == "approximation" else {"approximation", "nuts"})
    again = bayes.fit(linear, data, checkpoint=tmp_path / "cut", **options)
    np.testing.assert_array_equal(again.draws("beta").values, whole.draws("beta").values)
    without = bayes.fit(linear, data, **options)
    np.testing.assert_array_equal(without.draws("beta").values, whole.draws("beta").values)


def test_a_checkpoint_of_another_run_is_refused(line, tmp_path):
    data = line[0]
    bayes.fit(linear, data, METHODS["laplace"], seed=3, refine="nuts", checkpoint=tmp_path / "c")
    with pytest.raises(bayes.BayesError):
        bayes.fit(
            linear, data, METHODS["laplace"], seed=4, refine="nuts", checkpoint=tmp_path / "c"
        )


# ---------------------------------------------------------------- budget, starts


def refined(monkeypatch, line, *, seconds, budget, failing=False):
    """An approximation that took so many seconds, refined within a budget."""
    problem = bayes.Model(linear).bind(line[0])
    x = np.random.default_rng(0).normal(size=(1, 200, 4))
    draws = Draws(
        {"beta": x},
        {"lp": -0.5 * np.square(x).sum(-1)},
        1,
        x,
        -0.5 * np.square(x).sum(-1),
        {"independent": True, "route": "raw"},
        normal=independent(np.zeros(4), np.ones(4)),
    )
    if failing:

        def drive(*args, **options):
            raise NoDrawsError("stopped", "keyboard" if budget is None else "budget")

        monkeypatch.setattr("bayes.refinement.drive", drive)
    outcome = Outcome(draws, None, seconds, 0)
    kept = {"budget": budget, "checkpoint": None, "progress": False}
    return outcome, refine_outcome(outcome, problem, "nuts", 0, **kept)


def test_a_budget_that_the_approximation_used_up_leaves_it(monkeypatch, line):
    outcome, found = refined(monkeypatch, line, seconds=2.0, budget=1.0)
    assert found.interrupted == "budget"
    assert found.draws is outcome.draws


def test_a_budget_that_ends_before_the_first_draw_leaves_the_approximation(monkeypatch, line):
    outcome, found = refined(monkeypatch, line, seconds=2.0, budget=3.0, failing=True)
    assert found.interrupted == "budget"
    assert found.draws is outcome.draws


def test_chains_stopped_by_the_user_leave_the_approximation(monkeypatch, line):
    _, found = refined(monkeypatch, line, seconds=2.0, budget=None, failing=True)
    assert found.interrupted == "keyboard"


def test_a_fit_says_that_its_budget_was_used_up(line, monkeypatch):
    """The approximation is judged as such, and it is said that the run was cut."""
    module = sys.modules["bayes.fit"]
    own = module.drive

    def slow(*args, **options):
        return dataclasses.replace(own(*args, **options), seconds=100.0)

    monkeypatch.setattr(module, "drive", slow)
    post = bayes.fit(linear, line[0], METHODS["laplace"], seed=0, refine="nuts", budget=99.0)
    assert post.diagnostics.interrupted == "budget"
    assert "stopped early: budget" in post.diagnostics.verdict
    assert post.method.info["independent"]
    assert post.method.info["route"] == "raw"
    assert "khat" in {check.name for check in post.diagnostics.checks}


def test_a_fit_stopped_before_the_approximation_has_draws(line):
    with pytest.raises(NoDrawsError, match="laplace was stopped"):
        bayes.fit(linear, line[0], METHODS["laplace"], refine="nuts", budget=1e-9)


def test_draws_without_densities_are_refused(line):
    problem = bayes.Model(linear).bind(line[0])
    outcome = Outcome(Draws({"beta": np.zeros((1, 5, 4))}, {}, 1), None, 1.0, 0)
    with pytest.raises(bayes.SettingsError, match="needs draws with their log densities"):
        refine_outcome(outcome, problem, "psis", 0, budget=None, checkpoint=None, progress=False)


def test_a_seed_gives_its_draws(line):
    first, same, other = (
        bayes.fit(linear, line[0], METHODS["laplace"], seed=seed, refine="nuts")
        .draws("beta")
        .values
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, same)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_one_unknown():
    """Where there is no covariance to speak of."""
    data = {"n": 4, "y": np.array([1.0, 2.0, 0.0, 3.0])}
    post = bayes.fit(normal_mean, data, Laplace(draws=500), seed=0, refine="nuts")
    precision = 1 / 4 + 4 / 1.5**2
    mean = (1 / 4 + 6 / 1.5**2) / precision
    draws = post.draws("mu").values
    error = np.sqrt(1 / precision / mean_ess(draws[..., None])[0])
    assert abs(draws.mean() - mean) < 5 * error
