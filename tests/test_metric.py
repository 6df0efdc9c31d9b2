"""Metrics from draws and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes.inference.metric import (
    dense_metric,
    diagonal_metric,
    difficulty,
    estimate_metric,
    identity_metric,
    low_rank_metric,
    pull,
    push,
)
from bayes.precision import double_precision


def gaussian(rng, d, n, condition):
    """Draws of a Gaussian, gradients of its log density, and its covariance."""
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    covariance = (basis * np.logspace(0, np.log10(condition), d)) @ basis.T
    x = rng.normal(size=(n, d)) @ np.linalg.cholesky(covariance).T
    return x, -np.linalg.solve(covariance, x.T).T, covariance


def factor_of(metric):
    """F as a matrix, by what the sampler does with it."""
    with double_precision():
        d = len(metric.scale)
        return np.asarray(jax.vmap(lambda r: push(metric, r), out_axes=1)(jnp.eye(d)))


def stretched(rng, d, n, directions, factor):
    """A Gaussian with independent scales, but for some directions a factor longer."""
    basis = np.linalg.qr(rng.normal(size=(d, directions)))[0]
    scales = np.exp(rng.normal(size=d))
    x = rng.normal(size=(n, d))
    x = (x + (x @ basis) @ basis.T * (factor - 1)) * scales
    z = x / scales
    g = -(z + (z @ basis) @ basis.T * (factor**-2 - 1)) / scales
    return x, g


def test_the_dense_metric_of_a_gaussian_is_nearly_exact_from_few_draws(rng):
    """The Fisher divergence vanishes with any d + 1 draws, but for the ridge worth one draw."""
    x, g, covariance = gaussian(rng, d=10, n=60, condition=1e4)
    whitened = np.linalg.solve(factor_of(dense_metric(x, g)), np.linalg.cholesky(covariance))
    values = np.linalg.svd(whitened, compute_uv=False)
    assert values.max() / values.min() < 1.5


def test_the_diagonal_metric_of_independent_scales_is_exact(rng):
    scales = np.logspace(-5, 5, 11)
    x = rng.normal(size=(40, 11)) * scales
    metric = diagonal_metric(x, -x / scales**2)
    np.testing.assert_allclose(metric.scale, scales, rtol=1e-10)
    assert metric.kind == "diagonal"


def test_the_low_rank_metric_finds_the_directions_that_matter(rng):
    x, g = stretched(rng, d=300, n=120, directions=3, factor=50.0)
    plain, metric = diagonal_metric(x, g, full=False), low_rank_metric(x, g)
    assert metric.kind == "low_rank"
    assert difficulty(metric, x, g) < 0.1 * difficulty(plain, x, g)
    assert np.count_nonzero(metric.stretch > 5.0) == 3
    np.testing.assert_allclose(
        metric.matrix.T @ metric.matrix @ metric.stretch, metric.stretch, atol=1e-9
    )


def test_a_gaussian_without_structure_needs_no_directions(rng):
    scales = np.logspace(-1, 1, 300)
    x = rng.normal(size=(120, 300)) * scales
    assert low_rank_metric(x, -x / scales**2).kind == "diagonal"


def test_auto_has_structure_where_it_pays_and_none_where_it_does_not(rng):
    x, g, _ = gaussian(rng, d=20, n=800, condition=1e3)
    assert estimate_metric("auto", x, g, full=True).kind == "dense"
    x = rng.normal(size=(800, 20)) * np.logspace(-2, 2, 20)
    g = -x / np.logspace(-2, 2, 20) ** 2
    assert estimate_metric("auto", x, g, full=True).kind == "diagonal"
    assert estimate_metric("auto", x[:12], g[:12], full=True).kind == "diagonal"
    x, g = stretched(rng, d=300, n=120, directions=2, factor=30.0)
    assert estimate_metric("auto", x, g, full=False).kind == "low_rank"


@pytest.mark.parametrize("kind", ["diagonal", "dense", "low_rank"])
@pytest.mark.parametrize("d", [5, 50])
def test_pull_is_the_transpose_of_push(rng, kind, d):
    x, g, _ = gaussian(rng, d=d, n=200, condition=100)
    metric = estimate_metric(kind, x, g, full=kind != "low_rank")
    factor = factor_of(metric)
    with double_precision():
        back = np.asarray(jax.vmap(lambda v: pull(metric, v), out_axes=1)(jnp.eye(d)))
    np.testing.assert_allclose(back, factor.T, atol=1e-12 * np.abs(factor).max())


def test_room_for_a_matrix_up_to_some_hundred_dimensions():
    assert identity_metric(256).full
    assert not identity_metric(257).full
    assert identity_metric(300, kind="dense").full
    assert not identity_metric(10, kind="low_rank").full
    np.testing.assert_array_equal(factor_of(identity_metric(7)), np.eye(7))


@pytest.mark.parametrize("size", [1e12, 1e160, np.inf])
@pytest.mark.parametrize("full", [True, False])
def test_gradients_of_any_size_give_a_metric(rng, size, full):
    x, g, _ = gaussian(rng, d=6, n=200, condition=10)
    g[:30] *= size
    with np.errstate(over="ignore", invalid="ignore"):
        metric = estimate_metric(
            "auto", x, np.nan_to_num(g, posinf=1e300, neginf=-1e300), full=full
        )
        assert np.isfinite(factor_of(metric)).all()
        assert not np.isnan(difficulty(metric, x, g * 1e150))
