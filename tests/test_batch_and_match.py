"""Batch and match: exact on normal posteriors, at its own fixed point on others."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import SCHOOLS_DATA, funnel, normal_mean, schools
from scipy.optimize import brentq
from scipy.special import polygamma, psi

import bayes
from bayes.compilation import computing
from bayes.inference import batch_and_match
from bayes.inference.batch_and_match import BatchAndMatch
from bayes.inference.score_matching import match
from bayes.normals import Normal, covariance, independent, normal_of_covariance, push

Y = np.array([0.3, 2.1, -0.7, 1.9, 0.4])


def linear(x, width, y=None):
    beta = numpyro.sample("beta", dist.Normal(0.0, width).to_event(1))
    numpyro.sample("y", dist.Normal(x @ beta, 1.0).to_event(1), obs=y)


def gamma_scales(y=None):
    rate = numpyro.sample("rate", dist.Gamma(3.0, 1.0).expand([4]).to_event(1))
    numpyro.sample("y", dist.Poisson(rate).to_event(1), obs=y)


def half_line():
    """A log density that is NaN on half of the space."""
    x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    numpyro.factor("edge", 0.01 * jnp.log(x[0] + 0.5))


def many(n):
    numpyro.sample("x", dist.Normal(0.0, 1.0).expand([n]).to_event(1))


def correlated(d, rng):
    factor = rng.normal(size=(d, d + 2))
    scales = 10.0 ** np.linspace(-3, 3, d)
    return rng.normal(size=d) * scales, factor @ factor.T * np.outer(scales, scales)


def correlated_data(d, rng):
    """Columns of scales between 1e-3 and 1e3, all correlated."""
    scales = 10.0 ** np.linspace(-3, 3, d)
    x = (rng.normal(size=(3 * d, d)) + 2.0 * rng.normal(size=(3 * d, 1))) * scales
    width = 3.0 / scales
    y = x @ (rng.normal(size=d) / scales) + rng.normal(size=3 * d)
    sigma = np.linalg.inv(x.T @ x + np.diag(width**-2.0))
    return {"x": x, "width": width, "y": y}, sigma @ (x.T @ y), sigma


def settle(method, model, data, seed=0):
    with computing():
        problem = bayes.Model(model, allow_prior=True).bind(data)
        state = method.init(problem, jax.random.key(seed))
        while not method.settled(problem, state):
            state, _ = method.step(problem, state)
    return problem, state


def errors(normal, mean, sigma):
    """Greatest errors of mean and covariance, in standard deviations."""
    sd = np.sqrt(np.diagonal(sigma))
    scaled = (covariance(normal) - sigma) / np.outer(sd, sd)
    return np.abs((normal.mean - mean) / sd).max(), np.abs(scaled).max()


# ------------------------------------------------------------------------ match


@pytest.mark.parametrize("d", [1, 5, 30])
def test_one_batch_determines_a_normal(d, rng):
    """With more draws than dimensions, whatever they are drawn from."""
    mean, sigma = correlated(d, rng)
    start = independent(mean + 3.0 * np.sqrt(np.diagonal(sigma)), 2.0 * np.sqrt(np.diagonal(sigma)))
    positions = start.mean + push(start, rng.normal(size=(d + 1 if d > 1 else 3, d)))
    gradients = -np.linalg.solve(sigma, (positions - mean).T).T
    found = match(start, positions, gradients, np.inf)
    assert max(errors(found, mean, sigma)) < 1e-5
    assert max(errors(match(start, positions, gradients, 1e14), mean, sigma)) < 1e-5


def test_it_solves_the_papers_equations(rng):
    """S U S + S = V, and the mean that belongs to it, for a target that is not normal."""
    d, count, weight = 4, 12, 3.7
    mean, sigma = correlated(d, rng)
    scales = np.sqrt(np.diagonal(sigma))
    start = normal_of_covariance(mean, sigma)
    positions = mean + push(start, rng.normal(size=(count, d)))
    gradients = np.tanh(rng.normal(size=(count, d))) / scales
    found = match(start, positions, gradients, weight)
    x, g = positions.mean(axis=0), gradients.mean(axis=0)
    share = weight / (1.0 + weight)
    u = weight * np.cov(gradients.T, bias=True) + share * np.outer(g, g)
    v = sigma + weight * np.cov(positions.T, bias=True) + share * np.outer(mean - x, mean - x)
    s = covariance(found)
    unit = np.outer(scales, scales)
    np.testing.assert_allclose(
        (s @ u @ s + s) / unit, v / unit, atol=1e-10 * np.abs(v / unit).max()
    )
    expected = mean / (1.0 + weight) + share * (s @ g + x)
    np.testing.assert_allclose((found.mean - expected) / scales, 0.0, atol=1e-10)


def test_a_batch_that_counts_nothing_changes_nothing(rng):
    mean, sigma = correlated(5, rng)
    start = normal_of_covariance(mean, sigma)
    positions = mean + push(start, rng.normal(size=(8, 5)))
    for weight in (1e-12, 1e-100, 1e-300):
        found = match(start, positions, rng.normal(size=(8, 5)) / start.scale, weight)
        assert max(errors(found, mean, sigma)) < 1e-9


def test_draws_that_are_not_finite_are_left_out(rng):
    start = independent(np.zeros(3), np.ones(3))
    positions, gradients = rng.normal(size=(2, 10, 3))
    expected = match(start, positions[2:], gradients[2:], 5.0)
    gradients[0, 1], gradients[1, 2] = np.nan, np.inf
    found = match(start, positions, gradients, 5.0)
    for part, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(part, other)
    gradients[1:9] = np.nan
    np.testing.assert_allclose(match(start, positions, gradients, 5.0).sd, 0.5)


def test_few_draws_and_all_weight_on_them(rng):
    """A normal in six dimensions: three draws do not tell it, and nothing collapses."""
    start = independent(np.zeros(6), np.ones(6))
    positions = rng.normal(size=(3, 6))
    found = match(start, positions, -positions, np.inf)
    assert max(errors(found, np.zeros(6), np.eye(6))) < 1e-9


# ----------------------------------------------------------------------- method


@pytest.mark.parametrize("d", [5, 30])
def test_it_is_exact_on_a_normal_posterior(d, rng):
    data, mean, sigma = correlated_data(d, rng)
    method = BatchAndMatch()
    problem, state = settle(method, linear, data)
    assert max(errors(method.normal(problem, state), mean, sigma)) < 1e-6
    assert method.converged(problem, state) == ""
    assert method.about(problem, state)["iterations"] == 30


def test_scores_match_on_skew_posteriors(monkeypatch):
    """Log-gammas of shape a and rate 2, where the fixed point is known.

    There scores have mean 0 and variance 1 / s^2 under N(m, s^2): m = log(a / 2) - s^2 / 2 and
    a^2 (exp(s^2) - 1) s^2 = 1. To .02 sd, four standard errors of the average.
    """
    monkeypatch.setattr(batch_and_match, "_ERROR", 0.005)
    y = np.array([0, 1, 3, 8])
    method = BatchAndMatch()
    problem, state = settle(method, gamma_scales, {"y": y})
    normal = method.normal(problem, state)
    assert method.converged(problem, state) == ""
    a = y + 3.0
    variance = np.array([brentq(lambda v, k=k: k * k * np.expm1(v) * v - 1, 1e-3, 9) for k in a])
    sd = np.sqrt(variance)
    np.testing.assert_allclose((normal.mean - np.log(a / 2.0) + variance / 2) / sd, 0.0, atol=0.02)
    np.testing.assert_allclose(normal.sd / sd, 1.0, atol=0.02)


def test_a_fit_that_settles_is_ok():
    """And its means are nearer than the mode: exact ones are psi(a) - log(2)."""
    y = np.array([10, 20, 30, 40])
    post = bayes.fit(gamma_scales, {"y": y}, BatchAndMatch(), seed=3)
    assert post.diagnostics.ok, post.diagnostics
    assert "approximation" in post.data.children
    mean, sd = psi(y + 3.0) - np.log(2.0), np.sqrt(polygamma(1, y + 3.0))
    errors_of_means = np.log(post.draws("rate").values).mean(axis=(0, 1)) - mean
    assert (np.abs(errors_of_means) / sd < 0.08).all()
    assert (np.abs(np.log(y / 2.0 + 1.5) - mean) / sd > 0.07).all()


def test_a_funnel_says_so():
    with pytest.warns(bayes.ConvergenceWarning):
        post = bayes.fit(schools, SCHOOLS_DATA, BatchAndMatch(iterations=150), seed=0)
    assert "scatter" in post.diagnostics["objective"].advice
    with pytest.warns(bayes.ConvergenceWarning):
        post = bayes.fit(bayes.Model(funnel, allow_prior=True), {}, BatchAndMatch(), seed=0)
    assert not post.diagnostics.ok


def test_too_few_iterations_say_so():
    with pytest.warns(bayes.ConvergenceWarning, match="after 4 batches"):
        post = bayes.fit(normal_mean, {"n": 5, "y": Y}, BatchAndMatch(iterations=4), seed=0)
    assert post.method.info["iterations"] == 4


def test_half_a_space_without_density():
    """Draws there are left out; those that are kept make a normal that is finite."""
    method = BatchAndMatch(iterations=30)
    problem, state = settle(method, half_line, {})
    normal = method.normal(problem, state)
    assert all(np.isfinite(part).all() for part in normal)
    np.testing.assert_allclose(normal.mean[1:], 0.0, atol=0.2)


def test_a_run_that_is_resumed_is_the_same_to_the_bit(tmp_path):
    method = BatchAndMatch(draws=200, iterations=70)
    with computing():
        problem = bayes.Model(gamma_scales).bind({"y": np.array([0, 1, 3, 8])})

        def run(through):
            state, chunks = method.init(problem, jax.random.key(0)), []
            while not method.done(problem, state):
                state, chunk = method.step(problem, through(state))
                chunks.append(chunk)
            return method.finish(problem, state, chunks, jax.random.key(9))

        def file(state):
            np.savez(tmp_path / "state.npz", **state)
            with np.load(tmp_path / "state.npz", allow_pickle=False) as kept:
                return dict(kept)

        whole, resumed = run(lambda state: state), run(file)
    np.testing.assert_array_equal(whole.values["rate"], resumed.values["rate"])
    np.testing.assert_array_equal(whole.info["objective"], resumed.info["objective"])


def test_a_second_fit_of_the_same_shapes_compiles_nothing(rng):
    data, _, _ = correlated_data(5, rng)
    bayes.fit(linear, data, BatchAndMatch(), seed=0)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        bayes.fit(linear, {**data, "y": data["y"] + 1.0}, BatchAndMatch(), seed=1)
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled == []


def test_many_dimensions_are_refused_with_what_fits_instead():
    with pytest.raises(bayes.UnsupportedModelError, match=r"up to 500.*has 501.*laplace.*nuts"):
        bayes.fit(bayes.Model(many, allow_prior=True), {"n": 501}, BatchAndMatch())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"starts": 1.5}, "starts must be a whole number"),
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"init_strategy": 3}, "init_strategy must be one of numpyro"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message, unchecked):
    with pytest.raises(bayes.SettingsError, match=message):
        BatchAndMatch(**settings)


def test_a_normal_stays_a_normal(rng):
    """Vectors stay orthonormal and values positive over many batches of noise."""
    normal = independent(np.zeros(6), np.ones(6))
    for number in range(100):
        positions = normal.mean + push(normal, rng.normal(size=(20, 6)))
        normal = match(normal, positions, rng.standard_t(2, size=(20, 6)), 120.0 / (number + 1))
    assert isinstance(normal, Normal)
    np.testing.assert_allclose(normal.vectors.T @ normal.vectors, np.eye(6), atol=1e-12)
    assert (normal.values > 0).all()
