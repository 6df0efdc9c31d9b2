"""Second derivatives of the fixed-draw objective, and what linear response makes of them."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayes
from bayes.compilation import computing
from bayes.inference.densities import gradients_at
from bayes.inference.fixed_draws import fixed_noise, objective
from bayes.inference.linear_response import (
    hessian,
    hessian_product,
    linear_response,
    positions_of,
    respond,
)


def skewed(x, y=None):
    """A regression whose posterior has third and fourth derivatives."""
    beta = numpyro.sample("beta", dist.Normal(0, 2).expand([x.shape[1]]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.StudentT(5.0, x @ beta, scale), obs=y)


def normal_posterior(x, y=None):
    d = x.shape[1]
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(d), 5.0).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ beta, 1.0), obs=y)


@pytest.fixture
def problem(rng):
    x = rng.normal(size=(20, 3)) * [1.0, 30.0, 0.1]
    with computing():
        return bayes.Model(skewed).bind({"x": x, "y": rng.normal(size=20)})


@pytest.fixture
def place(problem, rng):
    """A normal that is not optimal, and draws."""
    mean = rng.normal(size=problem.size) * [0.3, 0.01, 1.0, 0.3]
    return mean, np.log([0.2, 0.007, 1.5, 0.2]), fixed_noise(rng, 32, problem.size)


def along(problem, place, x):
    """The objective and its gradient, at a point in units of the scales of a place."""
    mean, log_scale, noise = place
    d = problem.size
    value, slope = objective(problem, mean + np.exp(log_scale) * x[:d], log_scale + x[d:], noise)
    return value, slope * np.concatenate([np.exp(-x[d:]), np.ones(d)])


def test_the_gradient_is_that_of_the_objective(problem, place):
    """By central differences, which are good to the square of their step."""
    n = 2 * problem.size
    with computing():
        slope = along(problem, place, np.zeros(n))[1]
        steps = 1e-4 * np.eye(n)
        rise = [along(problem, place, s)[0] - along(problem, place, -s)[0] for s in steps]
    np.testing.assert_allclose(slope, np.array(rise) / 2e-4, rtol=1e-5, atol=1e-5)


def test_hessian_and_products_are_those_of_the_objective(problem, place):
    d = problem.size
    n = 2 * d
    with computing():
        found = hessian(problem, *place)
        steps = 1e-4 * np.eye(n)
        rise = [along(problem, place, s)[1] - along(problem, place, -s)[1] for s in steps]
        gradients = gradients_at(problem, positions_of(*place))[1]
        curved = -(np.exp(place[1]) * place[2] * gradients).mean(axis=0)
        products = [hessian_product(problem, *place, v, curved) for v in np.eye(n)]
    np.testing.assert_allclose(found, np.array(rise) / 2e-4, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.array(products), found, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found, found.T, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("d", [5, 30])
def test_the_covariance_of_a_normal_posterior_is_exact(d, rng):
    """For scales of any size, and away from the optimum, too: its second derivatives are the same
    everywhere. Columns differ by up to four powers of ten."""
    x = rng.normal(size=(60, d)) @ rng.normal(size=(d, d)) * 10.0 ** rng.uniform(-2, 2, d)
    exact = np.linalg.inv(x.T @ x + np.eye(d) / 25)
    with computing():
        problem = bayes.Model(normal_posterior).bind({"x": x, "y": rng.normal(size=60)})
        scale = np.sqrt(np.diag(exact))
        noise = fixed_noise(rng, 2 * d + d % 2 * 2, d)
        response = linear_response(problem, rng.normal(size=d) * scale, np.log(scale), noise)
    assert response.positive
    np.testing.assert_allclose(
        response.covariance / np.outer(scale, scale), exact / np.outer(scale, scale), atol=1e-6
    )


def test_a_direction_without_curvature_is_named():
    turned = np.eye(6)
    turned[:2, :2] = [[1.0, 2.0], [2.0, 1.0]]  # eigenvalues 3 and -1
    found = respond(turned, np.ones(3))
    assert not found.positive
    assert np.isnan(found.covariance).all()
    assert found.curvature == pytest.approx(-1.0)
    np.testing.assert_allclose(found.flattest, [0.5, 0.5, 0.0], atol=1e-12)


def test_a_singular_hessian_has_no_covariance():
    """Its eigenvalue of zero comes out as a rounding error of either sign."""
    singular = np.eye(6)
    singular[:2, :2] = 1.0
    found = respond(singular, np.ones(3))
    assert not found.positive
    np.testing.assert_allclose(found.flattest, [0.5, 0.5, 0.0], atol=1e-12)


def test_a_hessian_that_is_not_finite_has_no_covariance():
    broken = np.eye(6)
    broken[1, 1] = np.nan
    found = respond(broken, np.ones(3))
    assert not found.positive
    assert np.isnan(found.curvature)
    assert found.flattest.argmax() == 1


def test_scales_come_back():
    found = respond(np.eye(6), np.array([1e-8, 1.0, 1e8]))
    np.testing.assert_allclose(np.sqrt(np.diag(found.covariance)), [1e-8, 1.0, 1e8])
