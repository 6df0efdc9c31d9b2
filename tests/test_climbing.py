"""Recorded quasi-Newton paths: where they end, what they claim, and when they do not converge."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import SCHOOLS_DATA, schools
from scipy.optimize import minimize

import bayes
from bayes.compilation import computing
from bayes.inference.climbing import climb, longest_path
from bayes.inference.densities import gradients_at

REAL = dist.constraints.real_vector


def gaussian(mean, precision):
    x = numpyro.sample("x", dist.ImproperUniform(REAL, (), mean.shape))
    numpyro.factor("normal", -0.5 * (x - mean) @ precision @ (x - mean))


def logistic(x, y=None):
    beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=x @ beta).to_event(1), obs=y)


def rosenbrock(steepness):
    """A valley that bends, with its maximum at (1, 1)."""
    x = numpyro.sample("x", dist.ImproperUniform(REAL, (), (2,)))
    numpyro.factor("r", -steepness * (x[1] - x[0] ** 2) ** 2 - (1.0 - x[0]) ** 2)


def barrier(rise):
    """log(1 - x) + rise x: NaN beyond 1; the maximum is at 1 - 1 / rise."""
    x = numpyro.sample("x", dist.ImproperUniform(REAL, (), (1,)))
    numpyro.factor("b", jnp.log(1.0 - x[0]) + rise * x[0])


def cliff(edge):
    """Nothing beyond an edge that the density rises up to."""
    x = numpyro.sample("x", dist.ImproperUniform(REAL, (), (2,)))
    numpyro.factor("c", jnp.where(x[0] < edge, -0.5 * jnp.square(x - 0.9).sum(), -jnp.inf))


def slope(rate):
    x = numpyro.sample("x", dist.ImproperUniform(REAL, (), (2,)))
    numpyro.factor("s", rate * x.sum())


def upward(rate):
    x = numpyro.sample("x", dist.ImproperUniform(REAL, (), (2,)))
    numpyro.factor("u", rate * jnp.square(x).sum())


def exponential(rate):
    x = numpyro.sample("x", dist.ImproperUniform(REAL, (), (2,)))
    numpyro.factor("e", jnp.exp(rate * x).sum())


@pytest.fixture(autouse=True)
def _computing():
    with computing():
        yield


def paths_of(model, data, starts, scale=None):
    problem = bayes.Model(model).bind(data)
    starts = np.asarray(starts, float)
    return problem, climb(problem, starts, *gradients_at(problem, starts), scale)


def badly_scaled(d, condition, rng):
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    precision = (basis * np.geomspace(1.0, condition, d)) @ basis.T
    return {"mean": rng.normal(size=d), "precision": 0.5 * (precision + precision.T)}


def squares(data, x):
    """Squared distance from the mean in standard deviations."""
    return (x - data["mean"]) @ data["precision"] @ (x - data["mean"])


@pytest.mark.parametrize("d", [2, 5, 8])
@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8])
def test_the_maximum_of_a_gaussian_is_found(d, condition, rng):
    """Within 1e-3 standard deviations in every direction, from up to 10 000 away."""
    data = badly_scaled(d, condition, rng)
    _, paths = paths_of(gaussian, data, 2.0 * rng.normal(size=(4, d)))
    for path in paths:
        assert path.converged
        assert squares(data, path.positions[-1]) < 1e-6


@pytest.mark.parametrize("d", [20, 30])
def test_scales_of_coordinates_are_learnt(d, rng):
    """Scales over four decades, which is a condition number of 1e8, in more dimensions than the
    history has steps."""
    data = badly_scaled(d, 10.0, rng)
    scale = 10.0 ** np.linspace(-2, 2, d)
    data["precision"] = data["precision"] / np.outer(scale, scale)
    _, paths = paths_of(gaussian, data, 2.0 * rng.normal(size=(4, d)))
    for path in paths:
        assert path.converged
        assert squares(data, path.positions[-1]) < 1e-6


@pytest.mark.parametrize("condition", [1e4, 1e6, 1e8])
def test_a_path_that_is_cut_off_does_not_say_that_it_converged(condition, rng):
    """Oblique valleys in 20 dimensions take limited-memory BFGS more than 400 steps."""
    data = badly_scaled(20, condition, rng)
    _, paths = paths_of(gaussian, data, 2.0 * rng.normal(size=(4, 20)))
    for path in paths:
        assert squares(data, path.positions[-1]) < squares(data, path.positions[0]) / 1e4
        assert not path.converged or squares(data, path.positions[-1]) < 1e-6


def test_known_scales_are_of_use(rng):
    """Independent elements of scales over eight decades: at once with them."""
    scale = 10.0 ** np.linspace(-4, 4, 8)
    data = {"mean": rng.normal(size=8), "precision": np.diag(scale**-2.0)}
    _, (blind,) = paths_of(gaussian, data, [scale])
    _, (known,) = paths_of(gaussian, data, [scale], scale)
    assert known.converged
    assert squares(data, known.positions[-1]) < 1e-12
    assert known.evaluations < blind.evaluations / 5


def test_the_maximum_of_a_logistic_regression_is_scipys(rng):
    x = rng.normal(size=(100, 6)) * 10.0 ** np.linspace(-1, 1, 6)
    y = (rng.uniform(size=100) < 0.4).astype(int)

    def height(beta):
        return np.logaddexp(0.0, x @ beta).sum() - y @ (x @ beta) + beta @ beta / 8.0

    def steepness(beta):
        return x.T @ (1.0 / (1.0 + np.exp(-x @ beta)) - y) + beta / 4.0

    options = {"gtol": 1e-8}
    mode = minimize(height, np.zeros(6), jac=steepness, method="BFGS", options=options).x
    _, paths = paths_of(logistic, {"x": x, "y": y}, rng.uniform(-2, 2, (3, 6)))
    p = 1.0 / (1.0 + np.exp(-x @ mode))
    precision = (x.T * (p * (1 - p))) @ x + np.eye(6) / 4.0
    for path in paths:
        assert path.converged
        assert squares({"mean": mode, "precision": precision}, path.positions[-1]) < 1e-8


def test_a_bent_valley_is_followed():
    _, paths = paths_of(rosenbrock, {"steepness": np.asarray(100.0)}, [[-1.2, 1.0], [3.0, -4.0]])
    for path in paths:
        assert path.converged
        np.testing.assert_allclose(path.positions[-1], 1.0, atol=1e-4)


CASES = {
    "gaussian": (gaussian, {"mean": np.array([1.0, -2.0]), "precision": np.diag([1.0, 1e4])}),
    "rosenbrock": (rosenbrock, {"steepness": np.asarray(100.0)}),
    "cliff": (cliff, {"edge": np.asarray(1.0)}),
    "slope": (slope, {"rate": np.asarray(1.0)}),
}


@pytest.mark.parametrize("name", CASES)
class TestWhatAPathClaims:
    starts = (-3.0, -2.0), (0.5, 4.0), (-10.0, 0.0)

    def test_densities_and_gradients_are_those_of_its_points(self, name):
        problem, paths = paths_of(*CASES[name], self.starts)
        for path in paths:
            values, gradients = gradients_at(problem, path.positions)
            np.testing.assert_allclose(path.densities, values, rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(path.gradients, gradients, rtol=1e-8, atol=1e-8)

    def test_it_begins_at_its_start_and_never_descends(self, name):
        """But for rounding errors, of which the line search allows 1e-12 of the log density."""
        _, paths = paths_of(*CASES[name], self.starts)
        for start, path in zip(self.starts, paths, strict=True):
            np.testing.assert_array_equal(path.positions[0], start)
            allowed = 1.01e-12 * (1.0 + np.abs(path.densities[:-1]))
            assert (np.diff(path.densities) >= -allowed).all()

    def test_its_parts_agree(self, name):
        _, paths = paths_of(*CASES[name], self.starts)
        for path in paths:
            n = len(path.positions)
            assert path.positions.shape == path.gradients.shape == path.diagonals.shape == (n, 2)
            assert path.densities.shape == (n,)
            assert all(np.isfinite(part).all() for part in path[:4])
            assert (path.diagonals > 0).all()
            assert n - 1 <= path.evaluations

    def test_it_is_the_same_twice_and_in_other_company(self, name):
        _, first = paths_of(*CASES[name], self.starts)
        _, second = paths_of(*CASES[name], self.starts[1:])
        for one, other in zip(first[1:], second, strict=True):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("model", [slope, upward, exponential])
def test_a_density_without_bound_does_not_converge(model):
    _, paths = paths_of(model, {"rate": np.asarray(1.0)}, [[0.5, 0.5], [1.0, -2.0]])
    for path in paths:
        assert not path.converged
        assert path.densities[-1] > 100.0
        assert np.isfinite(path.densities).all()


def test_centred_schools_do_not_converge(rng):
    """Their log density rises without bound as tau goes to 0 and theta to mu."""
    starts = rng.uniform(-1, 1, (4, 10))
    _, paths = paths_of(schools, SCHOOLS_DATA, starts)
    assert not any(path.converged for path in paths)


def test_a_region_that_is_not_finite_is_stepped_back_from():
    """From -50 the first steps would go far beyond the edge."""
    _, paths = paths_of(barrier, {"rise": np.asarray(3.0)}, [[-50.0], [0.0], [0.999]])
    for path in paths:
        assert path.converged
        assert path.positions.max() < 1.0
        np.testing.assert_allclose(path.positions[-1], 2.0 / 3.0, atol=1e-5)


def test_a_maximum_beside_a_cliff_is_found():
    _, paths = paths_of(cliff, {"edge": np.asarray(1.0)}, [[-50.0, 30.0], [0.99, -5.0]])
    for path in paths:
        assert path.converged
        np.testing.assert_allclose(path.positions[-1], 0.9, atol=1e-5)


def test_an_edge_that_is_the_maximum_is_no_convergence():
    """The density rises up to an edge at 0.5, and there is none beyond."""
    _, (path,) = paths_of(cliff, {"edge": np.asarray(0.5)}, [[-3.0, 0.0]])
    assert path.positions[:, 0].max() < 0.5
    assert not path.converged


def test_a_start_at_the_maximum_converges_at_once():
    data = {"mean": np.array([1.0, 2.0]), "precision": np.eye(2)}
    _, (path,) = paths_of(gaussian, data, [data["mean"]])
    assert path.converged
    assert path.evaluations <= 2
    np.testing.assert_array_equal(path.positions[-1], data["mean"])


def test_paths_have_a_longest_length():
    assert longest_path(1) == 400
    assert longest_path(10**4) == 100
    assert longest_path(10**6) == 100
    assert longest_path(4000) == 250
    _, (path,) = paths_of(slope, {"rate": np.asarray(1e-3)}, [[0.0, 0.0]])
    assert len(path.positions) <= 401
    assert path.evaluations <= 800


def test_a_second_problem_of_the_same_shapes_compiles_nothing(rng):
    data = badly_scaled(7, 10.0, rng)
    paths_of(gaussian, data, rng.normal(size=(2, 7)))
    compiled = []

    def listen(event, seconds, **_):
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        other = badly_scaled(7, 100.0, rng)
        _, paths = paths_of(gaussian, other, rng.normal(size=(5, 7)), np.full(7, 0.5))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []
    assert squares(other, paths[-1].positions[-1]) < 1e-6
