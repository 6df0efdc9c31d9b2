"""Log densities, gradients and Hessian products at many positions, beside those at one."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import SCHOOLS_DATA, regression, schools
from scipy.stats import norm

import bayes
from bayes.compilation import computing
from bayes.inference.densities import (
    compile_densities,
    densities_at,
    evaluations_at_once,
    gradients_at,
    hessian_products,
)

SMALL = 32
"""Gradients and Hessian products of a batch, where memory allows them."""


def half_line(edge):
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.factor("half", jnp.where(x > edge, 0.0, -jnp.inf))


def bind(model, data):
    with computing():
        return bayes.Model(model).bind(data)


@pytest.fixture(scope="module")
def problem():
    return bind(schools, SCHOOLS_DATA)


@pytest.fixture(autouse=True)
def _computing():
    with computing():
        yield


@pytest.fixture
def compiled():
    """Compilations since the test began."""
    found = []

    def listen(event, seconds, **_):
        if "backend_compile" in event:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def positions(problem, count, rng):
    return rng.normal(size=(count, problem.size))


@pytest.mark.parametrize("count", [1, 31, 32, 33, 512, 513, 1200])
def test_log_densities_are_those_of_the_problem(problem, count, rng):
    x = positions(problem, count, rng)
    found = densities_at(problem, x)
    assert found.shape == (count,)
    assert found.dtype == np.float64
    some = np.unique([0, count // 2, count - 1])
    expected = [float(problem.log_density(x[i])) for i in some]
    np.testing.assert_allclose(found[some], expected, rtol=1e-12)


@pytest.mark.parametrize("count", [1, 32, 33, 100])
def test_gradients_are_those_of_the_problem(problem, count, rng):
    x = positions(problem, count, rng)
    values, gradients = gradients_at(problem, x)
    assert values.shape == (count,)
    assert gradients.shape == (count, problem.size)
    for i in np.unique([0, count // 2, count - 1]):
        value, gradient = problem.value_and_grad(x[i])
        assert values[i] == pytest.approx(float(value), rel=1e-12)
        np.testing.assert_allclose(gradients[i], np.asarray(gradient), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("count", [1, 33, 70])
def test_hessian_products_are_differences_of_gradients(problem, count, rng):
    """Central differences with h = 1e-5 are good to h squared, about 1e-9 of the gradients."""
    x, v = positions(problem, count, rng), positions(problem, count, rng)
    h = 1e-5
    _, ahead = gradients_at(problem, x + h * v)
    _, behind = gradients_at(problem, x - h * v)
    found = hessian_products(problem, x, v)
    assert found.shape == (count, problem.size)
    np.testing.assert_allclose(found, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-5)


def test_a_hessian_is_symmetric_and_that_of_jax(problem, rng):
    x, d = rng.normal(size=problem.size), problem.size
    found = hessian_products(problem, np.tile(x, (d, 1)), np.eye(d))
    exact = jax.jit(jax.hessian(problem.program.log_density))(x, problem.arrays)
    np.testing.assert_allclose(found, found.T, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found, exact, rtol=1e-10, atol=1e-12)


def test_order_and_company_of_rows_do_not_matter(problem, rng):
    """To the bit: the batch has the same size, whatever is in it."""
    x = positions(problem, 1200, rng)
    order = rng.permutation(1200)
    np.testing.assert_array_equal(densities_at(problem, x)[order], densities_at(problem, x[order]))
    np.testing.assert_array_equal(densities_at(problem, x)[:5], densities_at(problem, x[:5]))


def test_positions_are_left_as_they_are(problem, rng):
    x = positions(problem, 40, rng)
    before = x.copy()
    densities_at(problem, x)
    gradients_at(problem, x)
    hessian_products(problem, x, x)
    np.testing.assert_array_equal(x, before)


def test_regions_without_density_are_minus_infinity():
    problem = bind(half_line, {"edge": np.asarray(0.0)})
    x = np.array([[1.0], [-5.0], [0.5], [-0.1]])
    found = densities_at(problem, x)
    expected = np.where(x[:, 0] > 0.0, norm.logpdf(x[:, 0]), -np.inf)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_position_that_is_not_a_number_spoils_no_other(problem, rng):
    x = positions(problem, 3, rng)
    alone = densities_at(problem, x[:1])
    x[1] = np.nan
    found = densities_at(problem, x)
    assert np.isnan(found[1])
    np.testing.assert_array_equal(found[:1], alone)


def test_data_are_arguments(rng):
    """Two problems of one program: each has the densities of its own data."""
    x = np.linspace(-1, 1, 12)
    data = [{"x": x, "y": rng.normal(size=12) + 5.0 * i} for i in range(2)]
    first, second = (bind(regression, d) for d in data)
    assert first.program is second.program
    at = positions(first, 10, rng)
    for problem in (first, second, first):
        expected = [float(problem.log_density(p)) for p in at]
        np.testing.assert_allclose(densities_at(problem, at), expected, rtol=1e-12)
        np.testing.assert_allclose(gradients_at(problem, at)[0], expected, rtol=1e-12)
    first_products, second_products = (hessian_products(p, at, at) for p in (first, second))
    assert not np.allclose(first_products, second_products)


def test_the_second_time_nothing_is_compiled(rng, compiled):
    """Neither for other counts nor for other data of the same shapes."""
    data = {"x": np.linspace(-1, 1, 7), "y": rng.normal(size=7)}

    def run(problem, count):
        x = positions(problem, count, rng)
        densities_at(problem, x)
        gradients_at(problem, x)
        hessian_products(problem, x, x)

    run(bind(regression, data), 40)
    del compiled[:]
    for count in (1, 41, 300):
        run(bind(regression, {**data, "y": data["y"] + 1.0}), count)
    assert compiled == []


def test_compiling_ahead_is_compiling_once(problem):
    assert compile_densities(problem) is compile_densities(problem)


class TestMemory:
    def test_small_problems_have_whole_batches(self, problem):
        assert evaluations_at_once(problem) >= 256
        assert evaluations_at_once(problem, SMALL) == SMALL

    def test_large_ones_have_small_batches(self):
        """50 000 rows: no more than 2 000 000 numbers of an intermediate, that is 40 positions."""
        x = np.linspace(-1, 1, 50_000)
        problem = bind(regression, {"x": x, "y": x})
        assert evaluations_at_once(problem) == 40
        at = np.zeros((3, problem.size))
        expected = float(problem.log_density(at[0]))
        np.testing.assert_allclose(densities_at(problem, at), expected, rtol=1e-12)

    def test_there_is_always_one(self):
        x = np.linspace(-1, 1, 2_500_000)
        assert evaluations_at_once(bind(regression, {"x": x, "y": x})) == 1
