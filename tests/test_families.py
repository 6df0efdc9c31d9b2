"""Families of approximations: their draws, densities, directions and normals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from bayes.inference.families import FullRank, LowRank, MeanField
from bayes.inference.flows import CouplingFlow
from bayes.normals import covariance
from bayes.precision import double_precision

SIZE = 5
FAMILIES = [MeanField(), LowRank(2), FullRank(), CouplingFlow(layers=4, width=8)]


def name_of(family):
    return type(family).__name__


@pytest.fixture(autouse=True)
def _in_double_precision():
    with double_precision():
        yield


def some_params(family, seed=0, size=SIZE):
    """Parameters well away from the start."""
    rng = np.random.default_rng(seed)
    params = family.init(size, rng)
    moved = jax.tree.map(lambda v: jnp.asarray(v + 0.3 * rng.standard_normal(v.shape)), params)
    if "factor" in moved:
        moved["factor"] = jnp.tril(moved["factor"])
    return moved


def some_noise(family, count, seed=1, size=SIZE):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((count, family.noise(size))))


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_a_family_begins_as_a_standard_normal(family):
    """Of the low-rank one the columns are small: the densities are near, not equal."""
    params = family.init(SIZE, np.random.default_rng(3))
    x = np.random.default_rng(4).standard_normal((50, SIZE))
    expected = scipy.stats.norm.logpdf(x).sum(axis=1)
    atol = 0.5 if isinstance(family, LowRank) else 1e-12
    np.testing.assert_allclose(family.log_prob(params, jnp.asarray(x)), expected, atol=atol)


@pytest.mark.parametrize("family", FAMILIES[:3], ids=name_of)
def test_log_densities_are_those_of_scipy(family):
    params = some_params(family)
    normal = family.normal(params)
    x = np.random.default_rng(2).standard_normal((20, SIZE))
    expected = scipy.stats.multivariate_normal(normal.mean, covariance(normal)).logpdf(x)
    np.testing.assert_allclose(family.log_prob(params, jnp.asarray(x)), expected, rtol=1e-10)


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_log_densities_are_those_of_the_draws_by_the_change_of_variables(family):
    """Exact: the density of the noise over the determinant of the map; for one-to-one maps."""
    if family.noise(SIZE) != SIZE:
        pytest.skip("more noise than elements")
    params, noise = some_params(family), some_noise(family, 20)
    jacobians = jax.vmap(jax.jacobian(lambda z: family.draw(params, z[None])[0]))(noise)
    expected = scipy.stats.norm.logpdf(noise).sum(1) - np.linalg.slogdet(jacobians)[1]
    found = family.log_prob(params, family.draw(params, noise))
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES[:3], ids=name_of)
def test_draws_have_the_moments_of_the_normal(family):
    """Squared Mahalanobis distances of all means and variances: |z| < 4.5, at ten of them a false
    alarm in 15 000."""
    params, count = some_params(family), 40_000
    x = np.asarray(family.draw(params, some_noise(family, count)))
    normal = family.normal(params)
    sd = np.sqrt(np.diag(covariance(normal)))
    z = (x - normal.mean) / sd
    assert np.all(np.abs(z.mean(axis=0)) * np.sqrt(count) < 4.5)
    assert np.all(np.abs((z**2).mean(axis=0) - 1) * np.sqrt(count / 2) < 4.5)
    correlation = covariance(normal) / np.outer(sd, sd)
    np.testing.assert_allclose(z.T @ z / count, correlation, atol=4.5 * np.sqrt(2 / count))


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_the_density_integrates_to_one(family):
    """Importance sampling from a wide normal: |z| < 4.5, a false alarm in 150 000 for each."""
    params, rng = some_params(family, size=2), np.random.default_rng(5)
    proposal = scipy.stats.multivariate_t([0, 0], 9 * np.eye(2), df=3, seed=rng)
    x = proposal.rvs(40_000)
    weights = np.exp(family.log_prob(params, jnp.asarray(x)) - proposal.logpdf(x))
    error = weights.std() / np.sqrt(len(weights))
    assert abs(weights.mean() - 1) < 4.5 * error
    assert error < 0.05


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_a_small_move_along_the_direction_climbs(family):
    """The direction is a positive definite matrix times the gradient."""
    params, noise = some_params(family), some_noise(family, 64)

    def objective(p):
        x = family.draw(p, noise)
        return (-0.5 * jnp.square(x - 1.0).sum(1) - family.log_prob(p, x)).mean()

    @jax.jit
    def gain(p):
        direction = family.direction(p, jax.grad(objective)(p), jnp.zeros((0, 0)))
        step = jax.tree.map(lambda v: 1e-4 * v, direction)
        return objective(family.move(p, step)) - objective(p)

    assert gain(params) > 0


def test_the_full_rank_direction_is_the_natural_gradient():
    """For a normal target a unit step of it is Newton's: mean and covariance to second order."""
    family, rng = FullRank(), np.random.default_rng(0)
    params = family.init(3, rng)
    target_mean = jnp.array([0.3, -0.2, 0.1])

    # The gradient of the ELBO at q = N(0, I) for the target N(m, I): m for the mean, 0 for L.
    gradient = {"mean": target_mean, "factor": jnp.zeros((3, 3))}
    direction = family.direction(params, gradient, jnp.zeros((0, 0)))
    moved = family.move(params, direction)
    np.testing.assert_allclose(moved["mean"], target_mean, atol=1e-12)
    np.testing.assert_allclose(moved["factor"], np.eye(3), atol=1e-12)


def test_a_flow_of_one_element_has_no_couplings():
    family = CouplingFlow(layers=3, width=4)
    params = some_params(family, size=1)
    assert params["first"].shape[0] == 0
    noise = some_noise(family, 10, size=1)
    slope = jax.vmap(jax.grad(lambda z: family.draw(params, z[None, None])[0, 0]))(noise[:, 0])
    expected = scipy.stats.norm.logpdf(noise[:, 0]) - np.log(slope)
    np.testing.assert_allclose(
        family.log_prob(params, family.draw(params, noise)), expected, atol=1e-10
    )
