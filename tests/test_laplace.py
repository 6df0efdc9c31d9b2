"""The Laplace approximation: exact on normal posteriors, and honest about all others."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import SCHOOLS_DATA, funnel, normal_mean, schools
from scipy.optimize import minimize
from scipy.sparse.linalg import aslinearoperator

import bayes
from bayes.compilation import computing
from bayes.diagnostics.approximations import judge_independent
from bayes.inference.hessians import dense_curvature, lanczos_curvature, newton_steps
from bayes.inference.laplace import Laplace
from bayes.inference.resampling import resample
from bayes.normals import covariance

Y = np.array([1.2, 0.1, 3.9, -0.6, 2.2, 1.0, 4.1, 0.5])


def linear(x, width, y=None):
    beta = numpyro.sample("beta", dist.Normal(0.0, width).to_event(1))
    numpyro.sample("y", dist.Normal(x @ beta, 1.0).to_event(1), obs=y)


def logistic(x, y=None):
    beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=x @ beta).to_event(1), obs=y)


def two_modes(apart):
    x = numpyro.sample("x", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    # Normal densities of sd 1 at +-apart; the second has a weight of e^-1.
    near, far = (-0.5 * jnp.square(x - c * apart).sum() for c in (1.0, -1.0))
    numpyro.factor("two", jnp.logaddexp(near, far - 1.0))


def heavy_tails(n):
    numpyro.sample("x", dist.MultivariateStudentT(2.0, jnp.zeros(n), jnp.eye(n)))


def flat_sum(y=None):
    a = numpyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))
    b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(a + b, 1.0).expand([3]).to_event(1), obs=y)


def location_scale(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    numpyro.sample("y", dist.Normal(mu, sigma).expand([8]).to_event(1), obs=y)


def wide(directions, precisions, width):
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (1100,)))
    z = (x - 1.0) / width
    along = z @ directions
    numpyro.factor("normal", -0.5 * (z @ z + ((precisions - 1.0) * jnp.square(along)).sum()))


def correlated_data(d, rng):
    """Columns of scales between 1e-3 and 1e3, all correlated."""
    scales = 10.0 ** np.linspace(-3, 3, d)
    x = (rng.normal(size=(3 * d, d)) + 2.0 * rng.normal(size=(3 * d, 1))) * scales
    width = 3.0 / scales
    y = x @ (rng.normal(size=d) / scales) + rng.normal(size=3 * d)
    precision = x.T @ x + np.diag(width**-2.0)
    sigma = np.linalg.inv(precision)
    return {"x": x, "width": width, "y": y}, sigma @ (x.T @ y), sigma


def settle(method, model, data, seed=0):
    with computing():
        problem = bayes.Model(model, allow_prior=True).bind(data)
        state = method.init(problem, jax.random.key(seed))
        while not method.settled(problem, state):
            state, _ = method.step(problem, state)
    return problem, state


def run(method, model, data, seed=0):
    """Draws of a method and the verdict on them."""
    with computing():
        problem, state = settle(method, model, data, seed)
        chunks = []
        while not method.done(problem, state):
            state, chunk = method.step(problem, state)
            chunks.append(chunk)
        draws = method.finish(problem, state, chunks, jax.random.key(9))
    stats = {**draws.stats, "log_q": draws.log_q}
    return draws, judge_independent(draws.values, stats, {**draws.info, "sampled": [*draws.values]})


@pytest.mark.parametrize("d", [5, 30])
def test_it_is_exact_on_a_normal_posterior(d, rng):
    """Mean and covariance to 1e-8 in standard deviations, whatever the columns' scales."""
    data, mean, sigma = correlated_data(d, rng)
    method = Laplace()
    problem, state = settle(method, linear, data)
    normal = method.normal(problem, state)
    sd = np.sqrt(np.diagonal(sigma))
    np.testing.assert_allclose((normal.mean - mean) / sd, 0.0, atol=1e-8)
    scaled = covariance(normal) / np.outer(sd, sd)
    np.testing.assert_allclose(scaled, sigma / np.outer(sd, sd), atol=1e-8)
    assert method.converged(problem, state) == ""


def test_mode_and_curvature_of_a_logistic_regression(rng):
    """Beside SciPy's mode and differences of the gradient there."""
    x = rng.normal(size=(60, 4)) * [1.0, 1.0, 0.1, 10.0]
    y = (rng.uniform(size=60) < 0.6).astype(int)

    def slope(beta):
        return x.T @ (1.0 / (1.0 + np.exp(-x @ beta)) - y) + beta / 4.0

    def height(beta):
        return np.logaddexp(0.0, x @ beta).sum() - y @ (x @ beta) + beta @ beta / 8.0

    options = {"gtol": 1e-9}
    mode = minimize(height, np.zeros(4), jac=slope, method="BFGS", options=options).x
    steps = 1e-5 * np.eye(4)
    hessian = np.stack([(slope(mode + h) - slope(mode - h)) / 2e-5 for h in steps])
    method = Laplace()
    problem, state = settle(method, logistic, {"x": x, "y": y})
    normal = method.normal(problem, state)
    np.testing.assert_allclose((normal.mean - mode) / normal.sd, 0.0, atol=1e-6)
    np.testing.assert_allclose(covariance(normal) @ hessian, np.eye(4), atol=1e-6)


@pytest.mark.parametrize("form", ["diagonal", "low_rank"])
def test_less_than_the_whole_covariance(form, rng):
    data, mean, sigma = correlated_data(40, rng)
    method = Laplace(covariance=form)
    problem, state = settle(method, linear, data)
    normal = method.normal(problem, state)
    sd = np.sqrt(np.diagonal(sigma))
    np.testing.assert_allclose((normal.mean - mean) / sd, 0.0, atol=1e-8)
    precision = np.linalg.inv(sigma)
    np.testing.assert_allclose(normal.scale, np.diagonal(precision) ** -0.5)
    assert normal.values.shape == ({"diagonal": 0, "low_rank": 30}[form],)
    if form == "low_rank":  # what is left out are variances near those of the diagonal
        np.testing.assert_allclose(normal.sd / sd, 1.0, atol=0.25)


def test_many_dimensions_keep_their_stretched_directions(rng):
    """In 1100 dimensions, by Lanczos: variances of 100 and 1/50 beside ones, to 2 %."""
    directions, _ = np.linalg.qr(rng.normal(size=(1100, 4)))
    precisions = np.array([0.01, 0.04, 25.0, 50.0])
    width = np.exp(rng.normal(size=1100))
    data = {"directions": directions, "precisions": precisions, "width": width}
    method = Laplace(starts=2)
    problem, state = settle(method, wide, data)
    normal = method.normal(problem, state)
    assert method.converged(problem, state) == ""
    np.testing.assert_allclose((normal.mean - 1.0) / width, 0.0, atol=1e-5)
    assert normal.values.shape == (30,)
    along = directions / width[:, None]
    variances = np.einsum("ik,ij,jk->k", along, covariance(normal), along)
    np.testing.assert_allclose(variances * precisions, 1.0, rtol=0.1)
    assert abs(variances[0] * precisions[0] - 1.0) < 0.02


def test_a_log_density_without_a_maximum_says_so():
    """That of centred schools rises without bound as tau goes to 0."""
    draws, verdict = run(Laplace(draws=500), schools, SCHOOLS_DATA)
    assert not verdict["objective"].passed
    assert "no maximum" in verdict["objective"].advice
    assert "tau" in verdict["objective"].advice
    assert draws.length == 500
    assert draws.info["maxima"] == []


def test_a_mode_without_mass_is_flagged():
    """The funnel has a maximum, where its neck is narrow and nearly no mass is."""
    _, verdict = run(Laplace(), funnel, {})
    assert not verdict.ok
    assert not verdict["khat"].passed


def test_a_flat_direction_is_named():
    draws, verdict = run(Laplace(), flat_sum, {"y": np.array([1.0, 2.0, 3.0])})
    assert not verdict["objective"].passed
    assert "not negative definite" in verdict["objective"].advice
    assert "a, b" in verdict["objective"].advice or "b, a" in verdict["objective"].advice
    assert np.isfinite(draws.values["a"]).all()


def test_two_modes_are_told():
    """Their log densities differ by 1, of sixteen starts some end at either."""
    draws, verdict = run(Laplace(starts=16, candidates=1), two_modes, {"apart": np.asarray(4.0)})
    assert not verdict["objective"].passed
    assert "of 16 starts ended at 1 other maximum, 1 lower" in verdict["objective"].advice
    assert np.diff(draws.info["maxima"]) == pytest.approx([-1.0], abs=1e-6)
    assert draws.values["x"].mean() == pytest.approx(4.0 * 100 / 101, abs=0.1)


def test_heavy_tails_are_flagged():
    """A normal for a Student t of 2 degrees of freedom: ratios without a mean."""
    _, verdict = run(Laplace(), heavy_tails, {"n": 5})
    assert not verdict["khat"].passed
    assert verdict["objective"].passed


def test_resampling_corrects_a_skew_scale():
    """Beside quadrature: within .1 sd, five Monte Carlo errors of 4000 draws worth 2500."""
    mu, sigma = np.meshgrid(np.linspace(-4, 7, 400), np.linspace(0.2, 9, 2000), indexing="ij")
    lp = -(mu**2) / 50 - sigma**2 / 8 - 8 * np.log(sigma)
    lp -= 0.5 * (8 * (mu - Y.mean()) ** 2 + 8 * Y.var()) / sigma**2
    weights = np.exp(lp - lp.max())
    weights /= weights.sum()
    mean = (weights * sigma).sum()
    sd = np.sqrt((weights * (sigma - mean) ** 2).sum())
    draws, _ = run(Laplace(), location_scale, {"y": Y})
    raw = (draws.values["sigma"].mean() - mean) / sd
    mended = resample(draws, np.array([1, 2], np.uint32)).values["sigma"]
    assert abs(raw) > 0.1
    assert abs((mended.mean() - mean) / sd) < 0.1


def test_a_climb_that_was_cut_short_has_draws():
    method = Laplace(draws=100)
    with computing():
        problem = bayes.Model(normal_mean).bind({"n": 5, "y": Y[:5]})
        state = method.init(problem, jax.random.key(0))
        draws = method.finish(problem, state, [], jax.random.key(1))
    assert draws.length == 100
    assert "stopped" in draws.info["not_converged"]


def test_a_run_that_is_resumed_is_the_same_to_the_bit(tmp_path, rng):
    data, _, _ = correlated_data(5, rng)
    method = Laplace(draws=200)
    whole, _ = run(method, linear, data)
    with computing():
        problem = bayes.Model(linear).bind(data)
        state, chunks = method.init(problem, jax.random.key(0)), []
        while not method.done(problem, state):
            np.savez(tmp_path / "state.npz", **state)
            with np.load(tmp_path / "state.npz", allow_pickle=False) as file:
                state = dict(file)
            state, chunk = method.step(problem, state)
            chunks.append(chunk)
        draws = method.finish(problem, state, chunks, jax.random.key(9))
    np.testing.assert_array_equal(draws.values["beta"], whole.values["beta"])


def test_a_second_fit_of_the_same_shapes_compiles_nothing(rng):
    data, _, _ = correlated_data(5, rng)
    bayes.fit(linear, data, Laplace(), seed=0)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        post = bayes.fit(linear, {**data, "y": data["y"] + 1.0}, Laplace(), seed=1)
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled == []
    assert post.diagnostics.ok
    assert "approximation" in post.data.children


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"covariance": "full"}, "covariance must be one of auto, dense, low_rank, diagonal"),
        ({"starts": 0}, "starts must be at least 1"),
        ({"candidates": 2.5}, "candidates must be a whole number"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"init_strategy": "median"}, "init_strategy must be one of numpyro"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message, unchecked):
    with pytest.raises(bayes.SettingsError, match=message):
        Laplace(**settings)


def test_a_hessian_that_is_not_finite_has_no_curvature():
    assert dense_curvature(np.array([[-1.0, np.nan], [np.nan, -1.0]])) is None
    gradient, diagonal = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    steps = newton_steps(gradient, None, diagonal)
    np.testing.assert_array_equal(steps[:2], [gradient * diagonal, gradient * diagonal / 2])


def test_a_convex_direction_is_gone_up():
    """Where Newton's own step would go down, to the saddle."""
    curvature = dense_curvature(np.diag([-4.0, 1.0]))
    assert not curvature.definite
    gradient = np.array([4.0, 1.0])
    np.testing.assert_allclose(newton_steps(gradient, curvature, np.ones(2))[0], [1.0, 1.0])
    indefinite = aslinearoperator(np.diag([4.0, -1.0]))
    assert gradient @ newton_steps(gradient, indefinite, np.ones(2))[0] > 0


def test_conjugate_gradients_give_newtons_step(rng):
    factor = rng.normal(size=(20, 30))
    precision = factor @ factor.T
    gradient = 1e-4 * rng.normal(size=20)
    step = newton_steps(gradient, aslinearoperator(precision), np.ones(20))[0]
    np.testing.assert_allclose(step, np.linalg.solve(precision, gradient), rtol=1e-2)


def test_lanczos_finds_both_ends_of_a_spectrum(rng):
    basis, _ = np.linalg.qr(rng.normal(size=(300, 300)))
    values = np.concatenate([np.geomspace(0.01, 0.5, 5), np.ones(290), np.geomspace(3.0, 60.0, 5)])
    precision = (basis * values) @ basis.T
    diagonal = np.diagonal(precision)
    found = lanczos_curvature(aslinearoperator(precision), diagonal, 10)
    exact = np.linalg.eigvalsh(precision / np.sqrt(np.outer(diagonal, diagonal)))
    np.testing.assert_allclose(found.values[:4], exact[:4], rtol=1e-3)
    np.testing.assert_allclose(found.values[6:], exact[-4:], rtol=1e-3)
