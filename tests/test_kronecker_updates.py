"""Updates of variances: they climb, they end at maxima, and they find what is there."""

import functools
import itertools

import numpy as np
import pytest
from kronecker_for_tests import numbers

from bayes.inference.kronecker.evidence import (
    decompose,
    log_evidence,
    observe,
    posterior_mean,
    precisions,
)
from bayes.inference.kronecker.penalties import Prior, log_prior
from bayes.inference.kronecker.scales import TINY, balanced, normalised
from bayes.inference.kronecker.sparse_model import Axis, Noise, SparseModel
from bayes.inference.kronecker.starts import start
from bayes.inference.kronecker.tensors import along, outer
from bayes.inference.kronecker.updates import UPDATES, sweep

FLAT = Prior("ImproperUniform")
PRIORS = {
    "ImproperUniform": (),
    "Gamma": (0.5, 0.5),
    "InverseGamma": (1.0, 0.01),
    "Exponential": (2.0,),
    "HalfCauchy": (1.0,),
    "HalfNormal": (1.0,),
}
MONOTONE = ("mm", "am", "ksbl")


def prior_of(kind, power=1):
    return Prior(kind, tuple(np.asarray(v) for v in PRIORS[kind]), power)


def smoothing(n, k):
    """A non-negative operator from k variances to n, each of which reaches its neighbours."""
    away = np.abs(np.linspace(0, k - 1, n)[:, None] - np.arange(k))
    return np.maximum(1.0 - 0.7 * away, 0.0)


def sparse_data(rng, shapes, active, snr, kind="real", snapshots=1):
    """Factors, observations, coefficients on a product of supports, supports, noise variance."""
    factors = [numbers(rng, kind, *shape) for shape in shapes]
    support = [np.sort(rng.choice(n, active, replace=False)) for _, n in shapes]
    x = np.zeros((snapshots, *[n for _, n in shapes]), factors[0].dtype)
    x[np.ix_(np.arange(snapshots), *support)] = numbers(
        rng, kind, snapshots, *[active] * len(shapes)
    )
    y = along(x, factors)
    variance = float(np.mean(np.abs(y) ** 2)) / snr
    return factors, y + np.sqrt(variance) * numbers(rng, kind, *y.shape), x, support, variance


def flat_model(factors, y, noise=None):
    """Flat priors along all axes, and of the noise where it is not given."""
    axes = tuple(Axis(f.shape[1], FLAT) for f in factors)
    given = Noise(FLAT) if noise is None else Noise(None, noise)
    return SparseModel(observe(factors, y), axes, given)


def climbed(model, update="mm", count=100, prune=1e-8, batch=10):
    """As a fit does it: batches of sweeps from the first start."""
    parameters, variance = start(model, 0, np.random.default_rng(0))
    trace = []
    while len(trace) < count:
        found = sweep(model, parameters, variance, update, batch, prune)
        parameters, variance = found.parameters, found.variance
        trace.extend(found.objective)
    return found, np.array(trace)


def objective_at(model, parameters, variance):
    spectrum = decompose(model.observations, model.relevances(parameters))
    evidence = log_evidence(spectrum, variance, precisions(spectrum, variance))
    return evidence + model.log_prior(parameters, variance)


# -------------------------------------------------------------------------- climbs


@pytest.mark.parametrize("update", MONOTONE)
@pytest.mark.parametrize(
    ("kind", "power"), [(k, p) for k in PRIORS for p in (1, 2) if k != "ImproperUniform" or p == 1]
)
def test_the_objective_never_falls(kind, power, update):
    """By more than rounding: 1e-10 of its terms, which are sums over some hundred numbers.

    Real and complex, with and without operators, noise learned and given, with two snapshots; and
    half of them pruned, such that each two of these meet. Elements are pruned when a batch begins.
    A slice at 1e-8 of the largest has at most 1e-8 times the signal-to-noise ratio, 30 here, in
    each of the 96 numbers observed, so that leaving it out costs less than 3e-5.
    """
    prior = prior_of(kind, power)
    cases = itertools.product(("real", "complex"), (False, True), (False, True))
    for field, mixes, learns in cases:
        rng = np.random.default_rng(3)
        prune = 1e-8 if (field == "real") ^ mixes ^ learns else 0.0
        shapes = ((6, 5), (8, 4)) if mixes else ((3, 4), (4, 3), (4, 5))
        factors, y, _, _, variance = sparse_data(rng, shapes, 2, 30.0, field, 2)
        sizes = [n for _, n in shapes]
        operators = [smoothing(n, n - 1) if mixes else None for n in sizes]
        axes = tuple(Axis(n, prior, c) for n, c in zip(sizes, operators, strict=True))
        noise = Noise(prior) if learns else Noise(None, variance)
        model = SparseModel(observe(factors, y), axes, noise)
        parameters, v = start(model, 0, rng)
        last, trace = objective_at(model, parameters, v), []
        for _ in range(2):
            found = sweep(model, parameters, v, update, 3, prune)
            parameters, v = found.parameters, found.variance
            rounding = 1e-10 * (1.0 + np.abs(found.objective).max())
            pruning = 3e-5 if prune else 0.0
            assert found.objective[0] >= last - rounding - pruning, (field, mixes, learns, prune)
            assert np.diff(found.objective).min() >= -rounding, (field, mixes, learns, prune)
            last = found.objective[-1]
            trace.extend(found.objective)
        assert trace[-1] > trace[0] + 0.1
        if not learns:
            assert v == variance


@pytest.mark.parametrize("update", list(UPDATES))
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_objective_and_evidence_are_those_of_the_parameters(rng, kind, update):
    """Of the sweeps' own spectrum, turned many times, and of one made anew."""
    prior = FLAT if update == "svd" else prior_of("Gamma")
    factors, y, *_ = sparse_data(rng, ((4, 5), (6, 3)), 2, 10.0, kind, 3)
    axes = tuple(Axis(f.shape[1], prior) for f in factors)
    model = SparseModel(observe(factors, y), axes, Noise(prior_of("HalfNormal", 2)))
    found = sweep(model, *start(model, 0, rng), update, 7, 0.0)
    assert found.objective.shape == (7,)
    expected = objective_at(model, found.parameters, found.variance)
    assert found.objective[-1] == pytest.approx(expected, rel=1e-10)
    priors = model.log_prior(found.parameters, found.variance)
    assert found.evidence + priors == pytest.approx(expected, rel=1e-10)
    by_hand = sum(log_prior(prior, t) for t in found.parameters)
    by_hand += log_prior(model.noise.prior, found.variance)
    assert priors == pytest.approx(by_hand)


@pytest.mark.parametrize("update", list(UPDATES))
def test_sweeps_in_batches_are_the_same_sweeps(rng, update):
    factors, y, *_ = sparse_data(rng, ((4, 5), (6, 3)), 2, 10.0)
    model = flat_model(factors, y)
    whole = sweep(model, *start(model, 0, rng), update, 10, 0.0)
    part = sweep(model, *start(model, 0, rng), update, 4, 0.0)
    part = sweep(model, part.parameters, part.variance, update, 6, 0.0)
    for mine, its in zip(part.parameters, whole.parameters, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-9)
    assert part.variance == pytest.approx(whole.variance, rel=1e-9)


@pytest.mark.parametrize("update", MONOTONE)
def test_copies_of_the_observations_count_once(rng, update):
    """Beside the priors, which would else lose to them."""
    factors, y, *_ = sparse_data(rng, ((4, 5), (6, 3)), 2, 10.0)
    axes = tuple(Axis(f.shape[1], prior_of("Gamma")) for f in factors)
    noise = Noise(prior_of("HalfNormal", 2))
    once = SparseModel(observe(factors, y), axes, noise)
    thrice = SparseModel(observe(factors, np.repeat(y, 3, axis=0)), axes, noise, 3.0)
    begin = start(once, 0, rng)
    one, other = (sweep(model, *begin, update, 5, 1e-8) for model in (once, thrice))
    np.testing.assert_allclose(other.objective, one.objective, rtol=1e-10)
    for mine, its in zip(other.parameters, one.parameters, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-8)
    assert other.variance == pytest.approx(one.variance)


@pytest.mark.parametrize("update", MONOTONE)
def test_given_variances_stay_as_they_are(rng, update):
    """Of an axis with an operator, too, and those that are zero."""
    factors, y, *_ = sparse_data(rng, ((4, 5), (4, 6), (3, 4)), 2, 10.0)
    given, mixed = np.array([1.0, 0.0, 2.0, 0.5, 1.0]), np.array([0.3, 0.7, 1.1])
    axes = (
        Axis(5, None, None, given),
        Axis(6, None, smoothing(6, 3), mixed),
        Axis(4, prior_of("HalfCauchy")),
    )
    model = SparseModel(observe(factors, y), axes, Noise(FLAT))
    parameters, variance = start(model, 0, rng)
    found = sweep(model, parameters, variance, update, 10, 1e-8)
    np.testing.assert_array_equal(found.parameters[0], given)
    np.testing.assert_array_equal(found.parameters[1], mixed)
    assert not np.allclose(found.parameters[2], parameters[2])
    assert found.variance != variance
    expected = objective_at(model, found.parameters, found.variance)
    assert found.objective[-1] == pytest.approx(expected, rel=1e-7)
    assert np.diff(found.objective).min() > -1e-9


def test_pruned_elements_stay_and_have_no_coefficients(rng):
    factors, y, *_ = sparse_data(rng, ((4, 5), (6, 3)), 2, 10.0)
    model = flat_model(factors, y)
    parameters, variance = start(model, 0, rng)
    parameters[0][[1, 4]] = 1e-9 * parameters[0].max()
    found = sweep(model, parameters, variance, "mm", 5, 1e-8)
    np.testing.assert_array_equal(found.parameters[0][[1, 4]], parameters[0][[1, 4]])
    relevances = model.pruned(parameters, 1e-8)
    np.testing.assert_array_equal(np.flatnonzero(relevances[0] == 0), [1, 4])
    less = flat_model([factors[0][:, [0, 2, 3]], factors[1]], y)
    rest = sweep(less, [parameters[0][[0, 2, 3]], parameters[1]], variance, "mm", 5, 1e-8)
    assert found.evidence == pytest.approx(rest.evidence, rel=1e-12)
    np.testing.assert_allclose(found.parameters[0][[0, 2, 3]], rest.parameters[0], rtol=1e-10)


@pytest.mark.parametrize("update", MONOTONE)
@pytest.mark.parametrize("kind", ["ImproperUniform", "Gamma", "HalfCauchy"])
def test_noise_alone_takes_variances_to_zero_without_underflow(rng, kind, update):
    """A Gamma of concentration 1/2 has no mode: the climb ends at the least that variances are."""
    factors = [rng.standard_normal(shape) for shape in ((5, 6), (4, 5), (5, 4))]
    y = 0.1 * rng.standard_normal((1, 5, 4, 5))
    axes = tuple(Axis(f.shape[1], prior_of(kind)) for f in factors)
    model = SparseModel(observe(factors, y), axes, Noise(None, 1.0))
    found, trace = climbed(model, update, 120)
    assert np.isfinite(trace).all()
    assert np.diff(trace).min() > -1e-9
    assert all(t.min() >= 0.99 * TINY for t in found.parameters)
    assert np.prod([t.max() for t in found.parameters]) < 1e-4
    if kind == "Gamma" and update == "mm":
        assert all(t.max() < 1.01 * TINY for t in found.parameters)
        assert trace[-1] == trace[-2]


@pytest.mark.parametrize("update", list(UPDATES))
@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_units_of_the_observations_do_not_matter(rng, unit, update):
    """To flat priors: variances take the square of the unit, and densities one over it."""
    factors, y, *_ = sparse_data(rng, ((4, 5), (6, 3)), 2, 100.0)
    one, trace = climbed(flat_model(factors, y), update, 30)
    other, scaled = climbed(flat_model(factors, unit * y), update, 30)
    np.testing.assert_allclose(scaled, trace - y.size * np.log(unit), rtol=1e-9)
    np.testing.assert_allclose(outer(other.parameters), unit**2 * outer(one.parameters), rtol=1e-6)
    assert other.variance == pytest.approx(unit**2 * one.variance, rel=1e-6)


# ---------------------------------------------------------------- beside dense algebra


def dense_moments(factors, y, relevances, variance):
    """Expected squares of coefficients and of residuals, with the large matrix."""
    matrix, prior = functools.reduce(np.kron, factors), functools.reduce(np.kron, relevances)
    covariance = (matrix * prior) @ matrix.conj().T + variance * np.eye(len(matrix))
    gain = (prior[:, None] * matrix.conj().T) @ np.linalg.inv(covariance)
    posterior = np.diag(prior) - gain @ (matrix * prior)
    data = y.reshape(len(y), -1)
    mean = data @ gain.T
    squares = np.mean(np.abs(mean) ** 2, axis=0) + np.diag(posterior).real
    spread = len(y) * np.trace(matrix @ posterior @ matrix.conj().T).real
    residual = np.sum(np.abs(data - mean @ matrix.T) ** 2) + spread
    return squares.reshape([len(g) for g in relevances]), residual / y.size


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("shapes", [((5, 7),), ((7, 5),), ((3, 4), (4, 3), (2, 3))])
def test_a_sweep_is_that_of_the_paper(rng, kind, shapes):
    """Of dense moments: axis by axis, the mean of squares over the other axes' variances."""
    factors, y, *_ = sparse_data(rng, shapes, 2, 10.0, kind, 2)
    model = flat_model(factors, y)
    parameters = [rng.gamma(2.0, size=n) for _, n in shapes]
    found = sweep(model, parameters, 0.7, "ksbl", 1, 0.0)
    squares, variance = dense_moments(factors, y, parameters, 0.7)
    expected = [np.array(t) for t in parameters]
    for axis in range(len(shapes)):
        others = [np.ones_like(t) if i == axis else t for i, t in enumerate(expected)]
        rest = tuple(i for i in range(len(shapes)) if i != axis)
        expected[axis] = np.mean(squares / outer(others), axis=rest)
    for mine, its in zip(found.parameters, expected, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-9)
    assert found.variance == pytest.approx(variance, rel=1e-9)
    # The least squares fit of a product.
    if len(shapes) == 1:
        svd = sweep(model, parameters, 0.7, "svd", 1, 0.0)
        np.testing.assert_allclose(svd.parameters[0], squares, rtol=1e-9)
        assert svd.variance == pytest.approx(variance, rel=1e-9)


def test_svd_takes_the_nearest_product(rng):
    """Of two axes, by the definition: no product near it is nearer to the expected squares."""
    factors, y, *_ = sparse_data(rng, ((4, 5), (6, 3)), 2, 10.0)
    model = flat_model(factors, y)
    parameters = [rng.gamma(2.0, size=5), rng.gamma(2.0, size=3)]
    found = sweep(model, parameters, 0.7, "svd", 1, 0.0)
    squares, _ = dense_moments(factors, y, parameters, 0.7)
    away = np.sum((outer(found.parameters) - squares) ** 2)
    assert away == pytest.approx(np.sum(np.linalg.svd(squares)[1][1:] ** 2), rel=1e-9)


def dense_ard(matrix, y, noise, rounds):
    """Classic sparse Bayesian learning by expectation-maximisation, and its log evidence."""
    gamma = np.full(matrix.shape[1], 1.0)
    for _ in range(rounds):
        covariance = noise * np.eye(len(y)) + (matrix * gamma) @ matrix.T
        gain = np.linalg.solve(covariance, matrix * gamma).T
        mean, posterior = gain @ y, gamma - np.sum(gain * (matrix * gamma).T, axis=1)
        left = np.sum((y - matrix @ mean) ** 2)
        noise = (left + noise * np.sum(1.0 - posterior / gamma)) / len(y)
        gamma = mean**2 + posterior
    covariance = noise * np.eye(len(y)) + (matrix * gamma) @ matrix.T
    square = y @ np.linalg.solve(covariance, y)
    size = len(y) * np.log(2 * np.pi)
    return gamma, noise, -0.5 * (square + np.linalg.slogdet(covariance)[1] + size)


@pytest.mark.parametrize("update", ["mm", "am"])
def test_a_single_factor_is_classic_sparse_bayesian_learning(rng, update):
    """From the same start, to the same evidence.

    What goes to zero does so as 1 / n in expectation-maximisation, and so does its share of the
    evidence: of nine elements after 1000 rounds about 9e-3.
    """
    matrix = rng.standard_normal((30, 12))
    x = np.zeros(12)
    x[[2, 5, 9]] = 2.0, -1.0, 0.7
    y = matrix @ x + 0.3 * rng.standard_normal(30)
    gamma, noise, evidence = dense_ard(matrix, y, 1.0, 1000)
    model = flat_model([matrix], y[None])
    found = sweep(model, [np.ones(12)], 1.0, update, 1000, 0.0)
    assert found.evidence == pytest.approx(evidence, abs=9e-3)
    assert found.variance == pytest.approx(noise, rel=2e-3)
    np.testing.assert_allclose(found.parameters[0], gamma, atol=5e-3 * gamma.max())
    if update == "am":  # the very same steps
        np.testing.assert_allclose(found.parameters[0], gamma, rtol=1e-6)


# ------------------------------------------------------------------------- maxima


@pytest.mark.parametrize(
    ("kind", "power", "mixes"),
    [
        ("ImproperUniform", 1, False),
        ("ImproperUniform", 1, True),
        ("Gamma", 1, False),
        ("InverseGamma", 1, True),
        ("HalfCauchy", 2, True),
        ("HalfNormal", 1, False),
        ("Exponential", 2, True),
    ],
)
def test_climbs_end_where_the_slope_is_zero(rng, kind, power, mixes):
    """In the logs of all variances that are not pruned, by central differences.

    The differences have an error of 1e-8 of the third derivative and, of rounding, 1e-10. Sweeps
    converge linearly: after 400 of them slopes are below 1e-3, where they began above one.
    """
    prior = prior_of(kind, power)
    factors, y, *_ = sparse_data(rng, ((5, 6), (6, 5)), 2, 100.0, "real", 2)
    operators = [smoothing(n, n - 2) if mixes else None for n in (6, 5)]
    axes = tuple(Axis(n, prior, c) for n, c in zip((6, 5), operators, strict=True))
    model = SparseModel(observe(factors, y), axes, Noise(prior))
    begin = start(model, 0, rng)
    found, _ = climbed(model, count=400, batch=20)

    def slopes(parameters, variance):
        result = []
        for axis, t in enumerate(parameters):
            for place in np.flatnonzero(t > 1e-8 * t.max()):
                sides = []
                for step in (1e-4, -1e-4):
                    moved = [np.array(v) for v in parameters]
                    moved[axis][place] *= np.exp(step)
                    sides.append(objective_at(model, moved, variance))
                result.append((sides[0] - sides[1]) / 2e-4)
        sides = [objective_at(model, parameters, variance * np.exp(s)) for s in (1e-4, -1e-4)]
        return np.array([*result, (sides[0] - sides[1]) / 2e-4])

    assert np.abs(slopes(*begin)).max() > 1.0
    assert np.abs(slopes(found.parameters, found.variance)).max() < 1e-3


@pytest.mark.parametrize("update", ["am", "ksbl"])
@pytest.mark.parametrize("kind", ["ImproperUniform", "InverseGamma"])
def test_updates_meet_at_the_same_maximum(rng, kind, update):
    """On an easy problem, where all start in the basin of the same one.

    Without a prior some elements go to zero, in expectation-maximisation as 1 / n. A prior that
    keeps them from it lets all updates converge fast.
    """
    factors, y, *_ = sparse_data(rng, ((6, 4), (6, 5)), 2, 300.0, "real", 4)
    axes = tuple(Axis(n, prior_of(kind)) for n in (4, 5))
    model = SparseModel(observe(factors, y), axes, Noise(prior_of("Exponential")))
    mm, trace = climbed(model, "mm", 250, 0.0, 50)
    other, _ = climbed(model, update, 250, 0.0, 50)
    flat = kind == "ImproperUniform"
    assert trace[-1] - trace[0] > 50.0
    assert other.objective[-1] == pytest.approx(mm.objective[-1], abs=0.2 if flat else 1e-5)
    assert other.variance == pytest.approx(mm.variance, rel=1e-2 if flat else 1e-4)
    if not flat:
        for mine, its in zip(other.parameters, mm.parameters, strict=True):
            np.testing.assert_allclose(mine, its, rtol=1e-3)


# ----------------------------------------------------------------------- recovery


@pytest.mark.parametrize("update", list(UPDATES))
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_supports_and_coefficients_are_recovered(update, kind):
    """Two seeds at 25 dB: three times the error of least squares on the true support.

    Expectation-maximisation shrinks what is zero as 1 / n: 120 sweeps leave it at seven times.
    """
    ratios = []
    for seed in (100, 102):
        rng = np.random.default_rng(seed)
        factors, y, x, support, variance = sparse_data(
            rng, ((6, 8), (8, 8), (10, 8)), 3, 10**2.5, kind
        )
        found, _ = climbed(flat_model(factors, y), update, 120)
        spectrum = decompose(observe(factors, y), found.parameters)
        error = np.sum(np.abs(posterior_mean(spectrum, found.variance) - x) ** 2)
        columns = [f[:, s] for f, s in zip(factors, support, strict=True)]
        best = along(y, [np.linalg.pinv(c) for c in columns]) - x[np.ix_([0], *support)]
        ratios.append(error / np.sum(np.abs(best) ** 2))
        for t, places in zip(found.parameters, support, strict=True):
            np.testing.assert_array_equal(np.sort(np.argsort(t)[-3:]), places)
        assert found.variance == pytest.approx(variance, rel=0.15)
    assert max(ratios) < (3.0 if update in ("mm", "svd") else 7.0), ratios


def test_an_operator_finds_the_support_of_blocks(rng):
    """Blocks of four coefficients that share their variance, two blocks of six along one axis."""
    operator = np.kron(np.eye(6), np.ones((4, 1)))
    factors = [rng.standard_normal((12, 24)), rng.standard_normal((6, 8))]
    x = np.zeros((1, 24, 8))
    x[0, 4:8, [1, 6]] = rng.standard_normal((2, 4))
    x[0, 16:20, [1, 6]] = rng.standard_normal((2, 4))
    y = along(x, factors)
    variance = float(np.mean(y**2)) / 100
    y = y + np.sqrt(variance) * rng.standard_normal(y.shape)
    errors = {}
    for name, axis in (("blocks", Axis(24, FLAT, operator)), ("single", Axis(24, FLAT))):
        model = SparseModel(observe(factors, y), (axis, Axis(8, FLAT)), Noise(FLAT))
        found, trace = climbed(model, count=200)
        relevances = model.pruned(found.parameters, 1e-8)
        assert np.diff(trace).min() > -3e-5
        mean = posterior_mean(decompose(model.observations, relevances), found.variance)
        errors[name] = np.sum((mean - x) ** 2) / np.sum(x**2)
        if name == "blocks":
            assert found.parameters[0].shape == (6,)
            np.testing.assert_array_equal(np.sort(np.argsort(found.parameters[0])[-2:]), [1, 4])
            rest = np.delete(found.parameters[0], [1, 4])
            assert rest.max() < 0.01 * found.parameters[0].max()
            np.testing.assert_array_equal(relevances[0].reshape(6, 4)[1], relevances[0][4])
    assert errors["blocks"] < 0.05
    assert errors["blocks"] < errors["single"]


# ------------------------------------------------------------------------- scales


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kind", [k for k in PRIORS if k != "ImproperUniform"])
def test_balanced_moves_scale_and_nothing_else(rng, kind, power):
    """The priors gain, until nothing is left to gain; the product stays, and so the evidence."""
    prior = prior_of(kind, power)
    factors, y, *_ = sparse_data(rng, ((4, 5), (6, 3), (3, 4)), 2, 10.0)
    axes = tuple(Axis(f.shape[1], prior) for f in factors)
    model = SparseModel(observe(factors, y), axes, Noise(None, 1.0))
    first = [s * rng.gamma(2.0, size=a.size) for s, a in zip((50.0, 1.0, 0.01), axes, strict=True)]
    pairs = [(prior, np.arange(a.size)) for a in axes]
    spectrum, found = decompose(model.observations, first), first
    heights = [model.log_prior(found, 1.0)]
    for _ in range(100):
        spectrum, found = balanced(pairs, spectrum, found)
        heights.append(model.log_prior(found, 1.0))
    assert np.diff(heights).min() > -1e-10
    assert heights[1] > heights[0] + 0.1
    np.testing.assert_allclose(outer(found), outer(first), rtol=1e-10)
    anew = decompose(model.observations, found)
    for mine, its in zip(
        (*spectrum.relevances, *spectrum.values), (*found, *anew.values), strict=True
    ):
        np.testing.assert_allclose(mine, its, rtol=1e-9, atol=1e-12 * its.max())
    for i, j in ((0, 1), (1, 2), (0, 2)):
        for factor in (0.99, 1.01):
            moved = list(found)
            moved[i], moved[j] = moved[i] * factor, moved[j] / factor
            assert model.log_prior(moved, 1.0) < heights[-1] + 1e-9


def test_balanced_leaves_what_is_given_flat_or_pruned(rng):
    factors, y, *_ = sparse_data(rng, ((4, 5), (6, 3), (3, 4)), 2, 10.0)
    observations = observe(factors, y)
    t = [rng.gamma(2.0, size=5), rng.gamma(2.0, size=3), 100.0 * rng.gamma(2.0, size=4)]
    gamma = prior_of("Gamma")
    everything = [np.arange(n) for n in (5, 3, 4)]
    for priors in ((None, gamma, FLAT), (None, None, gamma), (FLAT, FLAT, FLAT)):
        spectrum = decompose(observations, t)
        pairs = list(zip(priors, everything, strict=True))
        same, found = balanced(pairs, spectrum, t)
        assert found is t
        assert same is spectrum
    # Across an axis that is given, and without a pruned element.
    kept = [np.array([0, 1, 3, 4]), np.arange(3), np.arange(4)]
    part = observations._replace(
        factors=tuple(f[:, k] for f, k in zip(observations.factors, kept, strict=True))
    )
    spectrum = decompose(part, [v[k] for v, k in zip(t, kept, strict=True)])
    pairs = list(zip((gamma, None, gamma), kept, strict=True))
    _, found = balanced(pairs, spectrum, t)
    assert found[0][2] == t[0][2]
    np.testing.assert_array_equal(found[1], t[1])
    ratios = found[0][kept[0]] / t[0][kept[0]]
    assert ratios[0] > 1.5
    np.testing.assert_allclose(ratios, ratios[0])
    np.testing.assert_allclose(t[2] / found[2], ratios[0])


def test_balanced_takes_nothing_below_the_least(rng):
    """As far as there is room, and no step back where there is none."""
    factors, y, *_ = sparse_data(rng, ((4, 5), (6, 3)), 2, 10.0)
    observations, gamma = observe(factors, y), prior_of("Gamma")
    pairs = [(gamma, np.arange(5)), (gamma, np.arange(3))]
    for room in (1.0, 100.0):
        t = [room * TINY * np.ones(5), 1e-3 * np.ones(3)]
        _, found = balanced(pairs, decompose(observations, t), t)
        np.testing.assert_allclose(found[0], TINY, rtol=1e-9)
        np.testing.assert_allclose(found[1], 1e-3 * room, rtol=1e-9)


def test_normalised_factors_have_unit_length_and_the_same_product(rng):
    """Of axes with flat priors; the last of these takes the scale."""
    axes = (
        Axis(3, FLAT),
        Axis(4, prior_of("Gamma")),
        Axis(2, FLAT),
        Axis(2, None, None, np.ones(2)),
    )
    sizes = [a.size for a in axes]
    observations = observe([np.eye(n) for n in sizes], np.zeros((1, *sizes)))
    model = SparseModel(observations, axes, Noise(FLAT))
    t = [rng.gamma(2.0, size=n) for n in sizes]
    before = [v.copy() for v in t]
    found = normalised(model, t)
    assert np.linalg.norm(found[0]) == pytest.approx(1.0)
    np.testing.assert_array_equal(found[1], t[1])
    np.testing.assert_array_equal(found[3], t[3])
    np.testing.assert_allclose(outer(found), outer(t))
    for mine, its in zip(t, before, strict=True):
        np.testing.assert_array_equal(mine, its)


# ------------------------------------------------------------------------- starts


@pytest.mark.parametrize("number", [0, 1, 2, 5])
@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("given", [None, "noise", "axis", "operator"])
def test_starts_have_the_power_of_the_observations(rng, number, kind, given):
    """Within a factor of two, tall factors or wide, whatever is given."""
    factors, y, _, _, variance = sparse_data(rng, ((9, 4), (3, 6)), 2, 50.0, kind, 2)
    y, variance = 100.0 * y, 1e4 * variance
    first = (
        Axis(4, None, None, np.array([1.0, 0.0, 3.0, 7.0])) if given == "axis" else Axis(4, FLAT)
    )
    second = Axis(6, FLAT, smoothing(6, 3)) if given == "operator" else Axis(6, FLAT)
    noise = Noise(None, variance) if given == "noise" else Noise(FLAT)
    model = SparseModel(observe(factors, y), (first, second), noise)
    parameters, v = start(model, number, rng)
    assert [len(t) for t in parameters] == [axis.length for axis in model.axes]
    relevances = model.relevances(parameters)
    shares = [np.abs(f) ** 2 @ g for f, g in zip(factors, relevances, strict=True)]
    power = float(np.mean(outer(shares))) + v
    assert 0.5 < power / np.mean(np.abs(y) ** 2) < 2.0
    if given == "noise":
        assert v == variance
    if given == "axis":
        np.testing.assert_array_equal(parameters[0], first.given)


def test_a_given_noise_above_all_power_leaves_a_start(rng):
    factors, y, *_ = sparse_data(rng, ((4, 5), (3, 6)), 2, 50.0)
    model = flat_model(factors, y, noise=1e3 * float(np.mean(y**2)))
    parameters, variance = start(model, 0, rng)
    assert variance == model.noise.given
    assert all(np.isrealobj(t) and np.isfinite(t).all() for t in parameters)
    assert all((t > 0).all() for t in parameters)


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_a_rank_one_start_finds_the_support_of_a_product_of_vectors(rng, kind):
    factors = [numbers(rng, kind, m, 16) for m in (8, 9, 10)]
    support = [np.sort(rng.choice(16, 2, replace=False)) for _ in factors]
    vectors = []
    for places in support:
        vector = np.zeros(16, factors[0].dtype)
        vector[places] = numbers(rng, kind, 2) + 1.0
        vectors.append(vector)
    y = along(outer(vectors)[None], factors)
    y = y + 0.1 * np.sqrt(np.mean(np.abs(y) ** 2)) * numbers(rng, kind, *y.shape)
    parameters, _ = start(flat_model(factors, y), 1, rng)
    for t, places in zip(parameters, support, strict=True):
        np.testing.assert_array_equal(np.sort(np.argsort(t)[-2:]), places)
        # What it missed may come back.
        assert t.min() >= 0.99e-4 * t.max()


def test_starts_are_what_their_generators_make_them(rng):
    factors, y, *_ = sparse_data(rng, ((4, 5), (3, 6)), 2, 50.0)
    model = flat_model(factors, y)
    for number in range(4):
        one, same, other = (
            start(model, number, np.random.default_rng(seed))[0] for seed in (7, 7, 8)
        )
        for mine, its in zip(one, same, strict=True):
            np.testing.assert_array_equal(mine, its)
        differs = any(np.any(a != b) for a, b in zip(one, other, strict=True))
        assert differs == (number > 1)
    equal = start(model, 0, rng)[0]
    assert all(np.ptp(t) == 0.0 for t in equal)


def test_one_axis_has_no_rank_one_start(rng):
    factors, y, *_ = sparse_data(rng, ((4, 7),), 2, 50.0)
    model = flat_model(factors, y)
    first, second = (start(model, 1, np.random.default_rng(seed))[0][0] for seed in (0, 1))
    assert np.any(first != second)


def test_a_rank_one_start_keeps_what_is_given_and_starts_operators(rng):
    factors, y, *_ = sparse_data(rng, ((4, 5), (3, 6)), 2, 50.0)
    given = np.array([1.0, 2.0, 0.0, 1.0, 1.0])
    axes = (Axis(5, None, None, given), Axis(6, FLAT, smoothing(6, 3)))
    model = SparseModel(observe(factors, y), axes, Noise(FLAT))
    parameters, _ = start(model, 1, rng)
    np.testing.assert_array_equal(parameters[0], given)
    assert parameters[1].shape == (3,)
    assert parameters[1].min() > 0
