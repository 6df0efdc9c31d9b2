"""Normals with a low-rank covariance beside SciPy's, and as metrics of Hamiltonian dynamics."""

import jax
import numpy as np
import pytest
from scipy.stats import kstest, multivariate_normal

from bayes.inference.metric import metric_of_normal
from bayes.inference.metric import pull as metric_pull
from bayes.inference.metric import push as metric_push
from bayes.normals import (
    Normal,
    covariance,
    independent,
    log_prob,
    normal_of_covariance,
    normal_of_precision,
    push,
    whiten,
)
from bayes.precision import double_precision

D = 6


def some_normal(rng, k, lead=(), d=D):
    """A normal with k columns, scales over four decades and variances over three."""
    basis, _ = np.linalg.qr(rng.normal(size=(*lead, d, d)))
    scale = np.exp(rng.uniform(-4.6, 4.6, (*lead, d)))
    values = np.exp(rng.uniform(-3.0, 3.0, (*lead, k)))
    return Normal(rng.normal(size=(*lead, d)), scale, basis[..., :k], values)


def dense(normal):
    """Sigma as the module says it, element by element."""
    inner = np.eye(len(normal.mean)) - normal.vectors @ normal.vectors.T
    inner = inner + normal.vectors @ np.diag(normal.values) @ normal.vectors.T
    return np.diag(normal.scale) @ inner @ np.diag(normal.scale)


def spd(rng, d, condition):
    """A matrix whose correlations have a condition number, and scales over twelve decades."""
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    sigma = (basis * np.geomspace(1.0, condition, d)) @ basis.T
    scales = 10.0 ** rng.permutation(np.linspace(-6, 6, d))
    return sigma * np.outer(scales, scales)


def correlations(sigma):
    sd = np.sqrt(np.diagonal(sigma))
    return sigma / np.outer(sd, sd)


@pytest.mark.parametrize("k", [0, 1, 3, D])
class TestBesideScipy:
    def test_covariance_and_standard_deviations(self, k, rng):
        normal = some_normal(rng, k)
        np.testing.assert_allclose(covariance(normal), dense(normal), rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(normal.sd, np.sqrt(np.diagonal(dense(normal))), rtol=1e-12)

    def test_log_determinant(self, k, rng):
        normal = some_normal(rng, k)
        _, determinant = np.linalg.slogdet(dense(normal))
        assert normal.log_scale == pytest.approx(0.5 * determinant, abs=1e-10)

    def test_log_density(self, k, rng):
        normal = some_normal(rng, k)
        sigma = dense(normal)
        x = normal.mean + rng.normal(size=(20, D)) * np.sqrt(np.diagonal(sigma))
        expected = multivariate_normal(normal.mean, sigma).logpdf(x)
        np.testing.assert_allclose(log_prob(normal, x), expected, rtol=1e-9)

    def test_push_is_a_root_of_the_covariance(self, k, rng):
        normal = some_normal(rng, k)
        root = push(normal, np.eye(D))
        np.testing.assert_allclose(root.T @ root, dense(normal), rtol=1e-9, atol=1e-12)

    def test_whiten_undoes_push(self, k, rng):
        normal = some_normal(rng, k)
        z = rng.normal(size=(20, D))
        np.testing.assert_allclose(whiten(normal, normal.mean + push(normal, z)), z, atol=1e-9)

    def test_leading_dimensions_are_normals_of_their_own(self, k, rng):
        """Two by three of them, at once and one by one."""
        normals = some_normal(rng, k, (2, 3))
        x = normals.mean[..., None, :] + rng.normal(size=(2, 3, 4, D))
        found = {
            "push": push(normals, x),
            "whiten": whiten(normals, x),
            "log_prob": log_prob(normals, x),
            "sd": normals.sd,
            "log_scale": normals.log_scale,
        }
        assert found["log_prob"].shape == (2, 3, 4)
        for index in np.ndindex(2, 3):
            one = Normal(*(part[index] for part in normals))
            alone = {
                "push": push(one, x[index]),
                "whiten": whiten(one, x[index]),
                "log_prob": log_prob(one, x[index]),
                "sd": one.sd,
                "log_scale": one.log_scale,
            }
            for name, value in alone.items():
                np.testing.assert_allclose(found[name][index], value, rtol=1e-12, err_msg=name)


def test_independent_elements(rng):
    mean, scale = rng.normal(size=3), np.array([1e-3, 1.0, 1e3])
    normal = independent(mean, scale)
    np.testing.assert_allclose(covariance(normal), np.diag(scale**2))
    assert normal.values.shape == (0,)
    several = independent(np.zeros((2, 3)), np.ones((2, 3)))
    assert log_prob(several, np.zeros((2, 1, 3))).shape == (2, 1)


def test_draws_are_of_the_normal(rng):
    """Mahalanobis distances beside chi-square's: a false alarm in 10 000."""
    normal = some_normal(rng, 3)
    x = normal.mean + push(normal, rng.normal(size=(5000, D)))
    centred = x - normal.mean
    squares = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(dense(normal)), centred)
    assert kstest(squares, "chi2", args=(D,)).pvalue > 1e-4


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("d", [1, 2, 10])
class TestRoundTrips:
    def test_of_a_covariance(self, d, condition, rng):
        """To 1e-10 of the standard deviations, which lie twelve decades apart."""
        sigma = spd(rng, d, condition)
        normal = normal_of_covariance(np.zeros(d), sigma)
        sd = np.sqrt(np.diagonal(sigma))
        difference = (covariance(normal) - sigma) / np.outer(sd, sd)
        np.testing.assert_allclose(difference, 0.0, atol=1e-10)
        np.testing.assert_allclose(normal.sd, sd, rtol=1e-10)

    def test_of_a_precision(self, d, condition, rng):
        """Times the precision it is the identity, in units of the precision's own scales.

        Rounding of the precision alone changes its inverse by the condition number times 1e-16.
        """
        precision = spd(rng, d, condition)
        normal = normal_of_precision(np.zeros(d), precision)
        unit = np.sqrt(np.diagonal(precision))
        scaled = covariance(normal) * np.outer(unit, unit)
        product = scaled @ correlations(precision)
        tolerance = max(1e-10, 1e-14 * np.linalg.cond(correlations(precision)))
        np.testing.assert_allclose(product, np.eye(d), atol=tolerance)

    def test_columns_are_orthonormal(self, d, condition, rng):
        for make in (normal_of_covariance, normal_of_precision):
            vectors = make(np.zeros(d), spd(rng, d, condition)).vectors
            np.testing.assert_allclose(vectors.T @ vectors, np.eye(d), atol=1e-12)


@pytest.mark.parametrize("make", [normal_of_covariance, normal_of_precision])
@pytest.mark.parametrize(
    "matrix",
    [
        [[1.0, 2.0], [2.0, 1.0]],  # an eigenvalue of -1
        [[1.0, 1.0], [1.0, 1.0]],  # of rank one
        [[1.0, 0.0], [0.0, -1.0]],
        [[1.0, 0.0], [0.0, 0.0]],
        [[1.0, np.nan], [np.nan, 1.0]],
        [[np.nan, 0.0], [0.0, 1.0]],
    ],
)
def test_what_is_not_positive_definite_is_refused(make, matrix):
    with pytest.raises(np.linalg.LinAlgError):
        make(np.zeros(2), np.array(matrix))


@pytest.mark.parametrize("make", [normal_of_covariance, normal_of_precision])
def test_an_infinite_variance_is_refused(make):
    with np.errstate(invalid="ignore"), pytest.raises(np.linalg.LinAlgError):
        make(np.zeros(2), np.diag([np.inf, 1.0]))


class TestAsAMetric:
    def root(self, metric, d):
        with double_precision():
            return np.asarray(jax.vmap(lambda r: metric_push(metric, r))(np.eye(d))).T

    @pytest.mark.parametrize("k", [0, 2, D])
    def test_it_has_the_covariance(self, k, rng):
        normal = some_normal(rng, k)
        metric = metric_of_normal(normal)
        assert metric.kind == ("diagonal" if k == 0 else "dense")
        root = self.root(metric, D)
        sd = normal.sd
        found = root @ root.T / np.outer(sd, sd)
        np.testing.assert_allclose(found, dense(normal) / np.outer(sd, sd), atol=1e-12)

    def test_pull_is_the_transpose_of_push(self, rng):
        metric = metric_of_normal(some_normal(rng, 3))
        with double_precision():
            pulled = np.asarray(jax.vmap(lambda g: metric_pull(metric, g))(np.eye(D)))
        np.testing.assert_allclose(pulled, self.root(metric, D), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("k", [0, 10, 40])
    def test_many_dimensions_keep_the_most_stretched_directions(self, k, rng):
        """In 300 dimensions there is room for 24, long ones and short ones alike."""
        d = 300
        vectors, _ = np.linalg.qr(rng.normal(size=(d, max(k, 1))))
        values = rng.permutation(np.exp(np.linspace(-4.0, 4.2, k)))
        normal = Normal(np.zeros(d), np.ones(d), vectors[:, :k], values)
        metric = metric_of_normal(normal)
        assert metric.kind == ("low_rank" if k else "diagonal")
        order = np.argsort(-np.abs(np.log(values)))
        expected = np.where(np.isin(np.arange(k), order[:24]), values, 1.0)
        root = self.root(metric, d)
        along = np.einsum("ik,ij,jk->k", normal.vectors, root @ root.T, normal.vectors)
        np.testing.assert_allclose(along, expected, rtol=1e-10)
