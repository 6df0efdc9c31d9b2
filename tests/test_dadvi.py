"""DADVI against exact posteriors; how it says that it has failed; its contract."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import funnel, regression

import bayes
from bayes.compilation import computing
from bayes.inference.dadvi import DADVI
from bayes.inference.fixed_draws import fixed_noise
from bayes.normals import covariance


def normal_posterior(x, y=None):
    d = x.shape[1]
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(d), 5.0).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ beta, 1.0), obs=y)


def logistic(x, y=None):
    beta = numpyro.sample("beta", dist.Normal(0, 5).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def bounded(y=None):
    """A log density that is NaN where an element exceeds 2, well within three sd of its mean."""
    x = numpyro.sample("x", dist.Normal(0, 1).expand([3]).to_event(1))
    numpyro.factor("wall", 0.1 * jnp.log(2.0 - x[0]))
    numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)


def settle(method, problem, seed=0):
    with computing():
        state = method.init(problem, jax.random.key(seed))
        while not method.settled(problem, state):
            state, _ = method.step(problem, state)
    return state


def normal_problem(rng, d):
    x = rng.normal(size=(60, d)) @ rng.normal(size=(d, d)) * 10.0 ** rng.uniform(-2, 2, d)
    y = rng.normal(size=60)
    precision = x.T @ x + np.eye(d) / 25
    with computing():
        problem = bayes.Model(normal_posterior).bind({"x": x, "y": y})
    return problem, np.linalg.solve(precision, x.T @ y), precision


# ------------------------------------------------------------------ exact posteriors


@pytest.mark.parametrize("d", [5, 30])
def test_a_normal_posterior_is_exact(d, rng):
    """Uncorrelated draws leave no Monte Carlo error at all; columns differ by powers of ten."""
    problem, mean, precision = normal_problem(rng, d)
    method = DADVI()
    state = settle(method, problem)
    assert method.converged(problem, state) == ""
    sigma = np.linalg.inv(precision)
    sd = np.sqrt(np.diag(sigma))
    np.testing.assert_allclose(state["mean"] / sd, mean / sd, atol=1e-6)
    own = 1.0 / np.sqrt(np.diag(precision))
    np.testing.assert_allclose(np.exp(state["log_scale"]), own, rtol=1e-6)
    found = covariance(method.normal(problem, state))
    np.testing.assert_allclose(found / np.outer(sd, sd), sigma / np.outer(sd, sd), atol=1e-6)


def test_without_linear_response_there_are_the_standard_deviations_of_mean_field(rng):
    problem, _, precision = normal_problem(rng, 5)
    method = DADVI(covariance="mean_field")
    state = settle(method, problem)
    assert method.converged(problem, state) == ""
    assert method.about(problem, state)["covariance"] == "mean_field"
    own = 1.0 / np.sqrt(np.diag(precision))
    np.testing.assert_allclose(method.normal(problem, state).sd, own, rtol=1e-6)


def test_few_correlated_draws_leave_means_and_covariance_exact(rng):
    """Pairs of opposite sign are all that they take."""
    problem, mean, precision = normal_problem(rng, 30)
    method = DADVI(samples=16)
    state = settle(method, problem)
    sigma = np.linalg.inv(precision)
    sd = np.sqrt(np.diag(sigma))
    np.testing.assert_allclose(state["mean"] / sd, mean / sd, atol=1e-6)
    found = covariance(method.normal(problem, state))
    np.testing.assert_allclose(found / np.outer(sd, sd), sigma / np.outer(sd, sd), atol=1e-6)


def test_beyond_the_dimensions_with_a_hessian_products_do(rng, monkeypatch):
    problem, mean, precision = normal_problem(rng, 5)
    monkeypatch.setattr("bayes.inference.dadvi._DENSE_NEWTON", 0)
    state = settle(DADVI(), problem)
    sd = np.sqrt(np.diag(np.linalg.inv(precision)))
    np.testing.assert_allclose(state["mean"] / sd, mean / sd, atol=1e-4)
    monkeypatch.setattr("bayes.inference.dadvi._DENSE_RESPONSE", 4)
    method = DADVI()
    state = settle(method, problem)
    assert "there are 5" in method.about(problem, state)["notes"][0]
    own = 1.0 / np.sqrt(np.diag(precision))
    np.testing.assert_allclose(method.normal(problem, state).sd, own, rtol=1e-3)


def test_rows_of_the_hessian_in_blocks_are_those_of_one(rng, monkeypatch):
    problem, _, _ = normal_problem(rng, 5)
    whole = settle(DADVI(), problem)
    monkeypatch.setattr("bayes.inference.dadvi._products", lambda problem: 64)
    parts = settle(DADVI(), problem)
    assert int(parts["row"]) == 5
    np.testing.assert_allclose(
        covariance(DADVI().normal(problem, parts)), covariance(DADVI().normal(problem, whole))
    )


def test_linear_response_is_nearer_a_logistic_posterior_than_mean_field():
    """The exact one by quadrature on a grid of 500 by 500 that reaches out to eight sd."""
    x = np.stack([np.ones(40), np.linspace(0.5, 3.0, 40)], axis=1)
    y = (np.sin(np.arange(40) * 2.1) + x[:, 1] > 1.9).astype(int)
    with computing():
        problem = bayes.Model(logistic).bind({"x": x, "y": y})
    method = DADVI()
    state = settle(method, problem)
    normal = method.normal(problem, state)
    out = np.linspace(-8, 8, 500)[:, None]
    a, b = np.meshgrid(*(normal.mean + out * normal.sd).T)
    logits = a[..., None] * x[:, 0] + b[..., None] * x[:, 1]
    lp = (y * logits - np.logaddexp(0, logits)).sum(-1) - (a**2 + b**2) / 50
    weights = np.exp(lp - lp.max())
    weights /= weights.sum()
    mean = np.array([(weights * v).sum() for v in (a, b)])
    sd = np.sqrt([(weights * v**2).sum() for v in (a - mean[0], b - mean[1])])
    own = np.exp(state["log_scale"])
    assert np.abs((normal.mean - mean) / sd).max() < 0.1
    assert np.abs(normal.sd / sd - 1).max() < 0.15
    assert np.abs(own / sd - 1).min() > 0.5


# -------------------------------------------------------------------------- verdict


def test_a_fit_is_a_posterior_with_a_verdict():
    """|z| < 5 of 4000 independent draws: a false alarm in 1.7 million for each of two."""
    x = np.stack([np.ones(60), np.linspace(-1, 3, 60)], axis=1)
    y = np.sin(np.arange(60.0))
    post = bayes.fit(normal_posterior, {"x": x, "y": y}, "dadvi", seed=3)
    assert post.diagnostics.ok, post.diagnostics
    draws = post.draws("beta").values
    assert draws.shape == (1, 4000, 2)
    sigma = np.linalg.inv(x.T @ x + np.eye(2) / 25)
    error = np.sqrt(np.diag(sigma) / 4000)
    assert (np.abs(draws.mean(axis=(0, 1)) - sigma @ x.T @ y) < 5 * error).all()
    info = post.method.info
    assert info["covariance"] == "linear_response"
    assert info["gradient_norm"] < 1e-6
    assert np.all(np.diff(info["objective"]) > -1e-9)


def test_a_funnel_is_not_ok():
    with pytest.warns(bayes.ConvergenceWarning):
        post = bayes.fit(bayes.Model(funnel, allow_prior=True), {}, "dadvi", seed=0)
    found = post.diagnostics
    assert not found.ok
    assert not found["objective"].passed or found["khat"].value > 0.7


def test_mean_field_draws_of_a_correlated_posterior_are_not_ok():
    """Correlation 0.98: its standard deviations are a fifth of the right ones."""
    x = np.stack([np.ones(50), 10 + np.arange(50) / 5], axis=1)
    data = {"x": x, "y": np.sin(np.arange(50.0))}
    with pytest.warns(bayes.ConvergenceWarning):
        poor = bayes.fit(normal_posterior, data, DADVI(covariance="mean_field"), seed=0)
    assert poor.diagnostics["khat"].value > 0.7
    assert bayes.fit(normal_posterior, data, DADVI(), seed=0).diagnostics.ok


def test_a_search_that_was_cut_short_says_so(rng):
    problem, _, _ = normal_problem(rng, 5)
    method = DADVI(steps=1)
    state = settle(method, problem)
    assert int(state["steps"]) == 1
    assert method.about(problem, state)["covariance"] == "mean_field"
    assert "after 1 Newton steps" in method.converged(problem, state)


def test_a_flat_direction_is_named(rng):
    problem, _, _ = normal_problem(rng, 5)
    method = DADVI()
    state = settle(method, problem)
    flat = {**state, "curvature": np.asarray(-0.1), "flattest": np.array([0, 0.9, 0, 0.1, 0])}
    words = method.converged(problem, flat)
    assert "beta[1], beta[3]" in words
    assert "mean field" in words


def test_a_wall_of_nan_is_a_place_not_to_go():
    with computing():
        problem = bayes.Model(bounded).bind({"y": np.array([1.0, 0.5, -0.5])})
    method = DADVI()
    state = settle(method, problem)
    assert method.converged(problem, state) == ""
    assert (state["mean"] + np.exp(state["log_scale"]) * state["noise"])[:, 0].max() < 2
    assert np.isfinite(method.normal(problem, state).sd).all()


# ---------------------------------------------------------------------------- draws


@pytest.mark.parametrize(("samples", "dimension"), [(32, 5), (64, 32), (32, 40), (2, 1)])
def test_fixed_draws_have_exact_moments(samples, dimension, rng):
    z = fixed_noise(rng, samples, dimension)
    assert z.shape == (samples, dimension)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(np.square(z).mean(axis=0), 1, rtol=1e-12)
    np.testing.assert_array_equal(z[: samples // 2], -z[samples // 2 :])
    if samples >= 2 * dimension:
        np.testing.assert_allclose(z.T @ z / samples, np.eye(dimension), atol=1e-12)


def test_same_seed_same_bits_other_seed_other_draws(rng):
    x = np.linspace(-1, 1, 30)
    with computing():
        problem = bayes.Model(regression).bind({"x": x, "y": 1.0 + np.sin(9 * x)})
    first, second, other = (settle(DADVI(), problem, seed) for seed in (0, 0, 1))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    assert not np.array_equal(first["noise"], other["noise"])
    # Another set of draws is another objective, with nearly the same optimum.
    sd = DADVI().normal(problem, first).sd
    assert np.abs((first["mean"] - other["mean"]) / sd).max() < 0.05


def test_a_state_that_went_through_a_file_goes_on_to_the_bit(tmp_path, monkeypatch):
    x = np.linspace(-1, 1, 30)
    with computing():
        problem = bayes.Model(regression).bind({"x": x, "y": 1.0 + np.sin(9 * x)})
    method = DADVI(draws=500)
    # So little work at once that search and response take several blocks each.
    monkeypatch.setattr("bayes.inference.dadvi._products", lambda problem: 64)

    def run(through):
        with computing():
            state = method.init(problem, jax.random.key(0))
            chunks, blocks = [], 0
            while not method.done(problem, state):
                state, chunk = method.step(problem, through(state))
                chunks.append(chunk)
                blocks += 1
            return method.finish(problem, state, chunks, jax.random.key(9)), blocks

    def disk(state):
        np.savez(tmp_path / "s.npz", **state)
        with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    whole, blocks = run(lambda state: state)
    assert blocks > 4
    resumed, _ = run(disk)
    for name, value in whole.values.items():
        np.testing.assert_array_equal(value, resumed.values[name])
    assert whole.info == resumed.info


def test_a_second_fit_of_the_same_shapes_compiles_nothing():
    x = np.stack([np.ones(30), np.linspace(-1, 1, 30)], axis=1)

    def fit(shift):
        return bayes.fit(normal_posterior, {"x": x, "y": x[:, 1] + shift}, "dadvi", seed=0)

    first = fit(0.0)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        second = fit(1.0)
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled == []
    assert not np.array_equal(first.draws("beta"), second.draws("beta"))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"samples": 31}, "samples must be even.*31"),
        ({"samples": 0}, "samples must be at least 2, got 0"),
        ({"covariance": "full"}, "covariance must be one of linear_response, mean_field.*'full'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"starts": 0}, "starts must be at least 1"),
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"init_strategy": 3}, "init_strategy must be one of"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, words, unchecked):
    with pytest.raises(bayes.SettingsError, match=words):
        DADVI(**setting)
