"""Mixtures of normal and t distributions beside SciPy's, and their draws beside their moments."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, multivariate_t

from bayes.inference.mixtures import component, draw, log_prob, mixture_of
from bayes.normals import Normal, covariance, independent

D = 4
WEIGHTS = np.array([3.0, 1.0, 6.0])


def normals(rng, columns=(0, 1, D)):
    """Normals whose columns differ in number, a few standard deviations apart."""
    found = []
    for k in columns:
        basis, _ = np.linalg.qr(rng.normal(size=(D, D)))
        scale, values = np.exp(rng.uniform(-1, 1, D)), np.exp(rng.uniform(-2, 2, k))
        found.append(Normal(3.0 * rng.normal(size=D), scale, basis[:, :k], values))
    return found


def scipy_log_prob(parts, weights, degrees, x):
    found = []
    for normal, weight, df in zip(parts, weights / weights.sum(), degrees, strict=True):
        mean, sigma = normal.mean, covariance(normal)
        if np.isfinite(df):
            one = multivariate_t(mean, sigma, df).logpdf(x)
        else:
            one = multivariate_normal(mean, sigma).logpdf(x)
        found.append(np.log(weight) + one)
    return logsumexp(found, axis=0)


@pytest.mark.parametrize("degrees", [[np.inf] * 3, [3.0, 5.0, 40.0], [np.inf, 1.0, np.inf]])
def test_log_density_is_scipys(degrees, rng):
    parts = normals(rng)
    x = np.concatenate([n.mean + 3.0 * rng.normal(size=(10, D)) for n in parts])
    found = log_prob(mixture_of(parts, WEIGHTS, np.array(degrees)), x)
    np.testing.assert_allclose(found, scipy_log_prob(parts, WEIGHTS, degrees, x), rtol=1e-10)


def test_one_number_of_degrees_is_for_all(rng):
    parts = normals(rng)
    x = rng.normal(size=(5, D))
    found = log_prob(mixture_of(parts, degrees=7.0), x)
    expected = scipy_log_prob(parts, np.ones(3), [7.0] * 3, x)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_far_away_the_log_density_is_still_a_number(rng):
    x = np.full((1, D), 1e6)
    parts = [independent(np.zeros(D), np.ones(D)), independent(np.ones(D), np.ones(D))]
    found = log_prob(mixture_of(parts), x)
    expected = scipy_log_prob(parts, np.ones(2), [np.inf] * 2, x)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_components_are_what_they_were(rng):
    parts = normals(rng)
    mixture = mixture_of(parts, WEIGHTS)
    assert np.exp(mixture.log_weights).sum() == pytest.approx(1.0)
    for i, normal in enumerate(parts):
        one = component(mixture, i)
        np.testing.assert_array_equal(one.mean, normal.mean)
        np.testing.assert_allclose(covariance(one), covariance(normal), rtol=1e-14)
        assert one.log_scale == pytest.approx(float(normal.log_scale))


@pytest.mark.parametrize("count", [1, 10, 1001])
def test_components_have_their_shares_of_the_draws(count, rng):
    """Every count is the expected one, rounded down or up; no Monte Carlo error."""
    means = 100.0 * np.arange(3.0)[:, None] * np.ones(D)
    mixture = mixture_of([independent(m, np.ones(D)) for m in means], WEIGHTS)
    for _ in range(20):
        x = draw(mixture, rng, count)
        assert x.shape == (count, D)
        found = np.bincount(np.rint(x.mean(axis=1) / 100.0).astype(int), minlength=3)
        expected = count * WEIGHTS / WEIGHTS.sum()
        assert (found >= np.floor(expected - 1e-9)).all()
        assert (found <= np.ceil(expected + 1e-9)).all()


def test_draws_come_in_random_order(rng):
    """Of 1000 draws of two components in equal shares, about 500 follow one of the other.

    Within five standard deviations of 16: a false alarm in two million.
    """
    parts = [independent(np.full(1, m), np.ones(1)) for m in (-100.0, 100.0)]
    side = draw(mixture_of(parts), rng, 1000)[:, 0] > 0
    assert abs((side[1:] != side[:-1]).sum() - 500) < 80


@pytest.mark.parametrize("degrees", [np.inf, 12.0])
def test_moments_of_draws(degrees, rng):
    """Mean and covariance within 5 Monte Carlo errors; 14 numbers: a false alarm in 100 000.

    The covariance of a t distribution is its scale matrix times df / (df - 2).
    """
    parts, weights = normals(rng), WEIGHTS / WEIGHTS.sum()
    x = draw(mixture_of(parts, WEIGHTS, degrees), rng, 40_000)
    widening = degrees / (degrees - 2.0) if np.isfinite(degrees) else 1.0
    mean = sum(w * n.mean for w, n in zip(weights, parts, strict=True))
    sigma = sum(
        w * (widening * covariance(n) + np.outer(n.mean - mean, n.mean - mean))
        for w, n in zip(weights, parts, strict=True)
    )
    error = x.std(axis=0) / np.sqrt(len(x))
    assert (np.abs(x.mean(axis=0) - mean) < 5.0 * error).all()
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    error = products.std(axis=0) / np.sqrt(len(x))
    assert (np.abs(products.mean(axis=0) - sigma) < 5.0 * error).all()


@pytest.mark.parametrize("degrees", [np.inf, np.array([5.0, np.inf, 20.0])])
def test_draws_and_log_density_are_of_one_distribution(degrees, rng):
    """E[r / q] = 1 for a normal r narrower than q, within 5 Monte Carlo errors."""
    parts = normals(rng)
    mixture = mixture_of(parts, WEIGHTS, degrees)
    narrow = parts[2]._replace(scale=0.7 * parts[2].scale)
    x = draw(mixture, rng, 20_000)
    ratios = np.exp(log_prob(mixture_of([narrow]), x) - log_prob(mixture, x))
    assert abs(ratios.mean() - 1.0) < 5.0 * ratios.std() / np.sqrt(len(x))


def test_same_generator_same_draws(rng):
    mixture = mixture_of(normals(rng), WEIGHTS, 8.0)
    first, second, other = (draw(mixture, np.random.default_rng(s), 50) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
