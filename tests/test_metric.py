"""Metrics from draws and gradients."""

import numpy as np
import pytest

from bayes.inference.enough import add_draws, empty_batches, has_enough
from bayes.inference.metric import (
    choose_factor,
    dense_factor,
    diagonal_factor,
    to_position,
    to_whitened,
)
from bayes.inference.warmup import far_chains, stages


def gaussian(rng, d, n, condition):
    """Draws of a Gaussian, gradients of its log density, and its covariance."""
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    covariance = (basis * np.logspace(0, np.log10(condition), d)) @ basis.T
    x = rng.normal(size=(n, d)) @ np.linalg.cholesky(covariance).T
    return x, -np.linalg.solve(covariance, x.T).T, covariance


def test_the_dense_metric_of_a_gaussian_is_nearly_exact_from_few_draws(rng):
    """The Fisher divergence vanishes with any d + 1 draws, but for the ridge worth one draw."""
    x, g, covariance = gaussian(rng, d=10, n=60, condition=1e4)
    factor = dense_factor(x, g)
    whitened = np.linalg.solve(factor, np.linalg.cholesky(covariance))
    values = np.linalg.svd(whitened, compute_uv=False)
    assert values.max() / values.min() < 1.5


def test_the_diagonal_metric_of_independent_scales_is_exact(rng):
    scales = np.logspace(-5, 5, 11)
    x = rng.normal(size=(40, 11)) * scales
    np.testing.assert_allclose(diagonal_factor(x, -x / scales**2), scales, rtol=1e-10)


def test_auto_is_dense_where_it_pays_and_diagonal_where_it_does_not(rng):
    x, g, _ = gaussian(rng, d=20, n=800, condition=1e3)
    assert choose_factor(x, g).ndim == 2
    x = rng.normal(size=(800, 20)) * np.logspace(-2, 2, 20)
    assert choose_factor(x, -x / np.logspace(-2, 2, 20) ** 2).ndim == 1
    assert choose_factor(x[:30], x[:30]).ndim == 1


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_whitening_and_back(rng, kind):
    x, g, _ = gaussian(rng, d=5, n=50, condition=100)
    factor = diagonal_factor(x, g) if kind == "diagonal" else dense_factor(x, g)
    np.testing.assert_allclose(to_position(factor, to_whitened(factor, x)), x, rtol=1e-9)


@pytest.mark.parametrize("warmup", [1, 2, 7, 40, 100, 333, 1000, 5000])
def test_the_stages_of_a_warm_up(warmup):
    schedule = stages(warmup, 10, 8)
    names = [s.name for s in schedule]
    assert names[-3:] == ["settle", "trial", "sample"]
    assert set(names[:-3]) == {"adapt"}
    assert warmup <= sum(s.length for s in schedule[:-1]) <= max(warmup, 2)
    assert all(s.depth <= 8 for s in schedule)


def test_a_chain_without_mass_is_far_and_a_narrow_mode_is_not(rng):
    d, n = 4, 200
    positions = rng.normal(size=(4, n, d))
    density = -0.5 * (positions**2).sum(axis=2)
    far = density.copy()
    far[2] -= 500.0
    assert far_chains(far, positions).tolist() == [False, False, True, False]
    assert not far_chains(density, positions).any()
    # A mode a hundred times narrower with as much mass: its density is higher by d log 100.
    narrow, dense = positions.copy(), density.copy()
    narrow[0] *= 0.01
    dense[0] += d * np.log(100.0)
    assert not far_chains(dense, narrow).any()


def autoregression(rng, rho, draws, chains=4):
    """Draws whose effective sample size is (1 - rho) / (1 + rho) of their number."""
    x = np.empty((chains, draws, 1))
    x[:, 0] = rng.normal(size=(chains, 1))
    noise = np.sqrt(1 - rho**2) * rng.normal(size=(chains, draws, 1))
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + noise[:, t]
    return x


@pytest.mark.parametrize(("rho", "enough"), [(0.0, True), (0.6, True), (0.9, False), (0.97, False)])
def test_batch_means_know_whether_there_are_enough_draws(rng, rho, enough):
    """4000 draws have an effective size of 4000, 1000, 210 and 60; the rule asks for 500."""
    x = autoregression(rng, rho, 1000)
    assert has_enough(add_draws(empty_batches(4, 1), x)) is enough


def test_batches_do_not_depend_on_how_draws_come(rng):
    x = autoregression(rng, 0.5, 333)
    whole = add_draws(empty_batches(4, 1), x)
    parts = empty_batches(4, 1)
    for begin, end in ((0, 7), (7, 7), (7, 150), (150, 333)):
        parts = add_draws(parts, x[:, begin:end])
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-12)


def test_chains_in_two_modes_never_have_enough(rng):
    x = autoregression(rng, 0.0, 1000)
    x[2:] += 5.0
    assert not has_enough(add_draws(empty_batches(4, 1), x))
