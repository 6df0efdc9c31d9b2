"""Kronecker-structured variances with missing observations, beside dense algebra."""

import functools

import numpy as np
import pytest
from kronecker_for_tests import Dense, numbers

from bayes.errors import ConvergenceWarning, DataError, SettingsError, ShapeError
from bayes.inference.kronecker.evidence import (
    decompose,
    functional,
    log_evidence,
    noise_statistics,
    observe,
    posterior_mean,
    precisions,
    slice_statistics,
)
from bayes.inference.kronecker.imputation import completed, filled, impute
from bayes.inference.kronecker.masked import masked_log_evidence
from bayes.inference.kronecker.masked_posterior import (
    masked_draws,
    masked_functional,
    masked_mean,
    masked_variance,
)
from bayes.inference.kronecker.masks import observe_masked
from bayes.inference.kronecker.tensors import along
from bayes.inference.kronecker.wiener import conjugate_gradients, norms_of, wiener_filter

SHAPES = ((4, 6), (5, 3), (3, 4))
"""Two wide factors and a tall one."""
VARIANCE = 0.05
CASES = [
    pytest.param(kind, missing, each, id=f"{kind}-{missing}-{'each' if each else 'shared'}")
    for kind in ("real", "complex")
    for missing, each in ((0.0, False), (0.1, False), (0.6, False), (0.1, True), (0.6, True))
]


def some_problem(rng, kind, missing, each=False, shapes=SHAPES, snapshots=2):
    """Factors, observations with junk where they are missing, masks and variances."""
    factors = [numbers(rng, kind, *shape) for shape in shapes]
    relevances = [rng.exponential(size=n) for _, n in shapes]
    sizes = [m for m, _ in shapes]
    y = 3.0 * numbers(rng, kind, snapshots, *sizes)
    mask = rng.random((snapshots, *sizes) if each else sizes) >= missing
    return factors, np.where(mask, y, np.nan), mask, relevances


# ------------------------------------------------------------------------ exact


@pytest.mark.parametrize(("kind", "missing", "each"), CASES)
def test_solves_means_and_pulls_are_those_of_dense_algebra(rng, kind, missing, each):
    factors, y, mask, relevances = some_problem(rng, kind, missing, each)
    dense = Dense(factors, y, mask, relevances, VARIANCE)
    seen = observe_masked(factors, y, mask, rng)
    wiener = wiener_filter(factors, relevances, VARIANCE)
    whole = filled(wiener, seen.y, seen.mask)
    solved = (whole - wiener.apply(whole)) / VARIANCE
    for rows, w, expected, a, data in zip(
        dense.rows, solved, dense.weights, dense.covariances, dense.y, strict=True
    ):
        found = w.ravel()[rows]
        assert np.linalg.norm(a @ found - data) <= 1e-8 * np.linalg.norm(data)
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
        assert np.abs(np.delete(w.ravel(), rows)).max(initial=0.0) <= 1e-6 * np.abs(w).max()
    mean = masked_mean(seen, relevances, VARIANCE)
    np.testing.assert_allclose(mean, dense.mean, atol=1e-7 * np.abs(dense.mean).max())
    maps = [numbers(rng, kind, 2, n) for _, n in SHAPES]
    np.testing.assert_allclose(
        masked_functional(seen, relevances, VARIANCE, maps),
        along(dense.mean, maps),
        atol=1e-7 * np.abs(along(dense.mean, maps)).max(),
    )
    imputation = impute(seen, relevances, VARIANCE)
    assert imputation.converged


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_with_nothing_missing_all_is_as_for_complete_observations(rng, kind):
    factors, y, mask, relevances = some_problem(rng, kind, 0.0)
    seen = observe_masked(factors, y, mask, rng)
    imputation = impute(seen, relevances, VARIANCE)
    assert imputation.iterations == 0
    assert not imputation.spread.any()
    spectrum = decompose(observe(factors, y), relevances)
    precision = precisions(spectrum, VARIANCE)
    np.testing.assert_allclose(
        masked_mean(seen, relevances, VARIANCE), posterior_mean(spectrum, VARIANCE), atol=1e-9
    )
    maps = [np.ones((1, n)) for _, n in SHAPES]
    np.testing.assert_allclose(
        masked_functional(seen, relevances, VARIANCE, maps),
        functional(spectrum, VARIANCE, maps)[0],
        atol=1e-9,
    )
    estimate, error = masked_log_evidence(seen, relevances, VARIANCE)
    assert error == 0.0
    assert estimate == pytest.approx(log_evidence(spectrum, VARIANCE, precision), rel=1e-10)
    assert seen.size == y.size
    assert seen.power == pytest.approx(np.mean(np.abs(y) ** 2))


def test_what_is_pruned_is_left_out_and_stays_zero(rng):
    factors, y, mask, relevances = some_problem(rng, "real", 0.3)
    relevances[0][[1, 4]] = 0.0
    relevances[2][0] = 0.0
    dense = Dense(factors, y, mask, relevances, VARIANCE)
    seen = observe_masked(factors, y, mask, rng)
    mean = masked_mean(seen, relevances, VARIANCE)
    np.testing.assert_allclose(mean, dense.mean, atol=1e-7)
    assert not mean[:, [1, 4]].any()
    draws = masked_draws(seen, relevances, VARIANCE, rng, 3)
    assert draws.shape == (3, *mean.shape)
    assert not draws[..., 0].any()
    assert draws[..., 1:].any(axis=(2, 3)).all()
    relevances[1][:] = 0.0
    assert not masked_mean(seen, relevances, VARIANCE).any()


def test_slices_that_nobody_observed_change_nothing(rng):
    factors, y, mask, relevances = some_problem(rng, "real", 0.2)
    mask[2], mask[:, 0] = False, False
    seen = observe_masked(factors, y, mask, rng)
    assert seen.y.shape == (2, 3, 4, 3)
    dense = Dense(factors, y, mask, relevances, VARIANCE)
    np.testing.assert_allclose(masked_mean(seen, relevances, VARIANCE), dense.mean, atol=1e-7)


@pytest.mark.parametrize("shapes", [((9, 12),), ((12, 9),), ((2, 3), (3, 2), (2, 2), (3, 4))])
def test_any_number_of_axes_will_do(rng, shapes):
    factors, y, mask, relevances = some_problem(rng, "real", 0.3, True, shapes)
    seen = observe_masked(factors, y, mask, rng)
    dense = Dense(factors, y, mask, relevances, VARIANCE)
    np.testing.assert_allclose(masked_mean(seen, relevances, VARIANCE), dense.mean, atol=1e-7)


def test_a_snapshot_of_which_nothing_was_observed_has_its_prior(rng):
    factors, y, mask, relevances = some_problem(rng, "real", 0.3, True)
    mask[1] = False
    seen = observe_masked(factors, y, mask, rng, probes=2)
    assert not masked_mean(seen, relevances, VARIANCE)[1].any()
    imputation = impute(seen, relevances, VARIANCE)
    complete = np.sqrt(VARIANCE) * wiener_filter(factors, relevances, VARIANCE).power(
        seen.probes, 0.5
    )
    np.testing.assert_allclose(imputation.spread[1::2], complete[1::2], atol=1e-5)


# -------------------------------------------------------------------- solutions


def test_right_hand_sides_stop_each_by_itself(rng):
    factors, y, mask, relevances = some_problem(rng, "real", 0.4, snapshots=4)
    seen = observe_masked(factors, y, mask, rng)
    wiener = wiener_filter(factors, relevances, VARIANCE)
    missing = np.broadcast_to(~seen.mask, seen.y.shape).copy()
    missing[0] = False
    missing[1].ravel()[np.flatnonzero(missing[1].ravel())[2:]] = False
    right = wiener.apply(seen.y) * missing
    norms = norms_of(seen.y)
    together = conjugate_gradients(wiener, missing, right, norms)
    assert together.converged
    assert together.iterations[0] == 0
    assert 0 < together.iterations[1] <= 3 < together.iterations[2]
    for row in range(4):
        part = slice(row, row + 1)
        alone = conjugate_gradients(wiener, missing[part], right[part], norms[part])
        assert alone.iterations[0] == together.iterations[row]
        np.testing.assert_allclose(alone.values[0], together.values[row], atol=1e-12)
    assert not together.values[~missing].any()


def test_a_start_nearby_saves_iterations_and_gives_the_same(rng):
    shapes = ((9, 12), (8, 6))
    factors, y, mask, relevances = some_problem(rng, "complex", 0.3, shapes=shapes)
    seen = observe_masked(factors, y, mask, rng, probes=8)
    cold = impute(seen, relevances, 3.0)
    assert impute(seen, relevances, 3.0, start=cold).iterations == 0
    near = impute(seen, [g * 1.0001 for g in relevances], 3.0)
    warm = impute(seen, relevances, 3.0, start=near)
    assert 0 < warm.iterations < 0.8 * cold.iterations
    np.testing.assert_allclose(warm.y, cold.y, atol=1e-6)
    np.testing.assert_allclose(warm.spread, cold.spread, atol=1e-6)


def test_too_few_iterations_are_told(rng):
    factors, y, mask, relevances = some_problem(rng, "real", 0.5)
    seen = observe_masked(factors, y, mask, rng)
    with pytest.warns(ConvergenceWarning, match="after 3 iterations of conjugate gradients"):
        imputation = impute(seen, relevances, VARIANCE, limit=3)
    assert not imputation.converged
    assert imputation.iterations == 3


def test_almost_no_noise_ends_where_rounding_does(rng):
    """Odds of 1e9: residuals of about 1e-8 are all that double precision has."""
    factors, y, mask, relevances = some_problem(rng, "real", 0.1, shapes=((5, 3), (6, 2)))
    relevances = [g + 1.0 for g in relevances]
    seen = observe_masked(factors, y, mask, rng)
    small = 1e-8
    dense = Dense(factors, y, mask, relevances, small)
    assert impute(seen, relevances, small).converged
    np.testing.assert_allclose(
        masked_mean(seen, relevances, small), dense.mean, atol=1e-5 * np.abs(dense.mean).max()
    )


# -------------------------------------------------------------------- estimates


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_completed_observations_have_the_gradient_of_the_incomplete(rng, kind):
    """The sum over departures has a relative variance of 2 / S at most.

    At 4.5 standard errors a false alarm has a probability below 7e-6, at 28 numbers below 2e-4.
    """
    factors, y, mask, relevances = some_problem(rng, kind, 0.4, True)
    count = 2000
    seen = observe_masked(factors, y, mask, rng, probes=count)
    rows, repeats = completed(impute(seen, relevances, VARIANCE))
    assert len(rows) == repeats * len(y)
    spectrum = decompose(observe(factors, rows), relevances)
    precision = precisions(spectrum, VARIANCE)
    dense = Dense(factors, y, mask, relevances, VARIANCE)
    expected, expected_noise = dense.statistics(relevances)
    found = [slice_statistics(spectrum, axis, precision) for axis in range(3)]
    found.append(noise_statistics(spectrum, VARIANCE, precision))
    for (pull, push), (pulled, pushed) in zip(found, [*expected, expected_noise], strict=True):
        lost = push / repeats - pushed
        error = lost * np.sqrt(2 / count)
        assert np.max(np.abs((pull - push) / repeats - (pulled - pushed)) / error) < 4.5


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("each", [False, True])
def test_log_evidence_is_right_within_its_standard_error(rng, kind, each):
    """False-alarm rate at 4.5 standard errors, of 100 probes or more: below 2e-5 each."""
    factors, y, mask, relevances = some_problem(rng, kind, 0.4, each)
    seen = observe_masked(factors, y, mask, rng, probes=100)
    estimate, error = masked_log_evidence(seen, relevances, VARIANCE)
    expected = Dense(factors, y, mask, relevances, VARIANCE).log_evidence
    assert 0.0 < error < 0.01 * abs(expected)
    assert abs(estimate - expected) < 4.5 * error


def test_standard_errors_of_log_evidence_are_those_of_repeats(rng):
    """Of 60 repeats the standard deviation has an error of 9 %: false-alarm rate below 1e-3."""
    factors, y, mask, relevances = some_problem(rng, "real", 0.4, True)
    found = [
        masked_log_evidence(
            observe_masked(factors, y, mask, rng, probes=20), relevances, VARIANCE, tolerance=1e-4
        )
        for _ in range(60)
    ]
    estimates, errors = np.array(found).T
    assert np.std(estimates, ddof=1) == pytest.approx(np.sqrt(np.mean(errors**2)), rel=0.32)


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_draws_have_the_posterior_mean_and_covariance(rng, kind):
    """Whitened, 12 means have a false-alarm rate of 7e-6 each, 144 products one below 6e-7."""
    shapes = ((3, 4), (4, 3))
    factors, y, mask, relevances = some_problem(rng, kind, 0.3, shapes=shapes, snapshots=1)
    seen = observe_masked(factors, y, mask, rng)
    dense = Dense(factors, y, mask, relevances, VARIANCE)
    count = 20_000
    draws = masked_draws(seen, relevances, VARIANCE, rng, count).reshape(count, -1)
    root = np.linalg.cholesky(dense.posterior())
    white = np.linalg.solve(root, (draws - dense.mean.ravel()).T).T
    assert np.max(np.abs(white.mean(axis=0))) * np.sqrt(count) < 4.5
    products = white.T @ white.conj() / count - np.eye(white.shape[1])
    assert np.max(np.abs(products)) * np.sqrt(count) < 5.0 * np.sqrt(2)
    if kind == "complex":
        assert np.max(np.abs(white.T @ white / count)) * np.sqrt(count) < 5.0 * np.sqrt(2)


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_variances_are_right_within_monte_carlo_error(rng, kind):
    """What is missing adds a part that has a relative error of sqrt(2 / S) at most.

    It is a sum of S squares of normals, so that above 5 standard errors a false alarm has a
    probability below 3e-6 each, at 164 numbers below 5e-4.
    """
    factors, y, mask, relevances = some_problem(rng, kind, 0.4, True)
    relevances[0][2] = 0.0
    count = 2000
    seen = observe_masked(factors, y, mask, rng, probes=count)
    imputation = impute(seen, relevances, VARIANCE, tolerance=1e-6)
    found = masked_variance(seen, relevances, VARIANCE, imputation)
    maps = [numbers(rng, kind, k, n) for k, (_, n) in zip((2, 1, 5), SHAPES, strict=True)]
    mapped = masked_variance(seen, relevances, VARIANCE, imputation, maps)
    dense = Dense(factors, y, mask, relevances, VARIANCE)
    complete = Dense(
        factors, np.nan_to_num(y), np.ones_like(mask), relevances, VARIANCE
    ).posterior()
    assert not found[:, 2].any()
    matrix = functools.reduce(np.kron, maps)
    for snapshot in range(2):
        exact = dense.posterior(snapshot)
        added = np.diag(exact - complete).real * np.sqrt(2 / count)
        away = found[snapshot].ravel() - np.diag(exact).real
        assert np.all(np.abs(away) <= 5 * added + 1e-9)
        exact, least = (np.diag(matrix @ c @ matrix.conj().T).real for c in (exact, complete))
        away = mapped[snapshot].ravel() - exact
        assert np.all(np.abs(away) <= 5 * (exact - least) * np.sqrt(2 / count))
        assert np.max((exact - least) / exact) > 0.1


# ----------------------------------------------------------------------- errors


def test_masks_that_make_no_sense_are_refused(rng):
    factors, y, mask, _ = some_problem(rng, "real", 0.2)
    with pytest.raises(ShapeError, match=r"of shape \(4, 5, 3\) or \(2, 4, 5, 3\)"):
        observe_masked(factors, y, mask[0], rng)
    with pytest.raises(ShapeError, match="it has type float64"):
        observe_masked(factors, y, mask.astype(float), rng)
    with pytest.raises(DataError, match="nothing of y was observed"):
        observe_masked(factors, y, np.zeros_like(mask), rng)
    with pytest.raises(SettingsError, match="at least 2, got 1"):
        observe_masked(factors, y, mask, rng, probes=1)
    y[1, 2, 3, 1], mask[2, 3, 1] = np.inf, True
    with pytest.raises(DataError, match=r"not finite.*\(1, 2, 3, 1\)"):
        observe_masked(factors, np.where(mask, np.nan_to_num(y, posinf=np.inf), y), mask, rng)


def test_integers_and_real_data_of_complex_factors_are_taken(rng):
    factors, _, mask, relevances = some_problem(rng, "complex", 0.2)
    y = rng.integers(0, 5, (2, *mask.shape))
    seen = observe_masked(factors, y, mask, rng)
    assert np.iscomplexobj(seen.probes)
    dense = Dense(factors, y, mask, relevances, VARIANCE)
    np.testing.assert_allclose(masked_mean(seen, relevances, VARIANCE), dense.mean, atol=1e-7)
