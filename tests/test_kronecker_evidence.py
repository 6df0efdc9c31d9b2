"""Evidence, moments and statistics of Kronecker-structured variances, beside dense algebra.

Everything is held against the same model written with the large matrix, to 1e-10 of its largest
entry: the matrices here have condition numbers below 1e4, of which rounding makes 1e-12.
"""

import functools
import string

import numpy as np
import pytest
from kronecker_for_tests import numbers
from scipy.stats import multivariate_normal

from bayes.inference.kronecker.evidence import (
    decompose,
    functional,
    log_evidence,
    noise_statistics,
    observe,
    posterior_mean,
    posterior_variance,
    precisions,
    slice_statistics,
    turned,
)
from bayes.inference.kronecker.tensors import along, contracted, mode_product, outer

VARIANCE = 0.3
SHAPES = {
    "wide": ((4, 6),),
    "tall": ((6, 4),),
    "square": ((4, 4),),
    "wide-tall": ((3, 5), (4, 3)),
    "tall-tall": ((5, 2), (4, 3)),
    "three": ((3, 4), (2, 3), (4, 2)),
    "four": ((2, 3), (3, 2), (2, 2), (2, 3)),
    "one-row-one-column": ((1, 5), (4, 1), (2, 3)),
}
CASES = [pytest.param(k, s, id=f"{k}-{n}") for k in ("real", "complex") for n, s in SHAPES.items()]


def some_problem(rng, kind, shapes, snapshots=2):
    """Factors, observations and prior variances."""
    factors = [numbers(rng, kind, *shape) for shape in shapes]
    y = 2.0 * numbers(rng, kind, snapshots, *[m for m, _ in shapes])
    return factors, y, [rng.gamma(1.0, size=n) for _, n in shapes]


class Dense:
    """The same with the matrices that the module does without."""

    def __init__(self, factors, y, relevances, variance=VARIANCE):
        self.matrix = functools.reduce(np.kron, factors)
        self.prior = functools.reduce(np.kron, relevances)
        self.shape = tuple(map(len, relevances))
        self.y = y.reshape(len(y), -1)
        whole = (self.matrix * self.prior) @ self.matrix.conj().T
        self.covariance = whole + variance * np.eye(len(whole))
        self.weights = np.linalg.solve(self.covariance, self.y.T).T

    @property
    def log_evidence(self):
        square = np.vdot(self.y, self.weights).real
        log_det = len(self.y) * np.linalg.slogdet(self.covariance)[1]
        if np.iscomplexobj(self.y):
            return -log_det - square - self.y.size * np.log(np.pi)
        return -0.5 * (log_det + square + self.y.size * np.log(2 * np.pi))

    @property
    def mean(self):
        found = self.prior * (self.weights @ self.matrix.conj())
        return found.reshape(-1, *self.shape)

    @property
    def posterior(self):
        part = self.matrix * self.prior
        explained = part.conj().T @ np.linalg.solve(self.covariance, part)
        return np.diag(self.prior) - explained

    def statistics(self, relevances, axis):
        """Pull and push along an axis, summed over what is not in a slice."""
        power = np.sum(np.abs(self.weights @ self.matrix.conj()) ** 2, axis=0)
        inverse = np.linalg.solve(self.covariance, self.matrix)
        z = len(self.y) * np.sum(self.matrix.conj() * inverse, axis=0).real
        others = [np.ones_like(g) if i == axis else g for i, g in enumerate(relevances)]
        rest = tuple(i for i in range(len(relevances)) if i != axis)
        return [np.sum(v.reshape(self.shape) * outer(others), axis=rest) for v in (power, z)]

    @property
    def noise_statistics(self):
        trace = np.trace(np.linalg.inv(self.covariance)).real
        return np.sum(np.abs(self.weights) ** 2), len(self.y) * trace


def close(found, expected, digits=1e-10):
    """As near as rounding lets it be, in units of the largest entry."""
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=digits * np.abs(expected).max())


# ----------------------------------------------------------------------- tensors


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_products_of_tensors_are_those_of_einsum(rng, kind):
    """Along every axis, the first, the last and those between."""
    sizes, lengths = (3, 4, 2, 5), (2, 6, 3, 1)
    tensor = numbers(rng, kind, *sizes)
    matrices = [numbers(rng, kind, m, n) for m, n in zip(lengths, sizes, strict=True)]
    letters = string.ascii_lowercase[:4]
    for axis, matrix in enumerate(matrices):
        out = letters[:axis] + "z" + letters[axis + 1 :]
        expected = np.einsum(f"{letters},z{letters[axis]}->{out}", tensor, matrix)
        close(mode_product(tensor, matrix, axis), expected, 1e-14)
    whole = np.einsum("abcd,wb,xc,yd->awxy", tensor, *matrices[1:])
    close(along(tensor, matrices[1:]), whole, 1e-14)
    vectors = [rng.random(n) for n in sizes]
    close(outer(vectors), np.einsum("a,b,c,d->abcd", *vectors), 1e-15)
    for kept, letter in enumerate(letters):
        pairs = [(v, name) for v, name in zip(vectors, letters, strict=True) if name != letter]
        names = ",".join(name for _, name in pairs)
        expected = np.einsum(f"{letters},{names}->{letter}", tensor, *[v for v, _ in pairs])
        close(contracted(tensor, vectors, kept), expected, 1e-14)


def test_the_kept_axis_may_have_another_length(rng):
    tensor, vectors = rng.random((3, 7, 2)), [rng.random(3), rng.random(4), rng.random(2)]
    expected = np.einsum("abc,a,c->b", tensor, vectors[0], vectors[2])
    close(contracted(tensor, vectors, 1), expected, 1e-15)


# -------------------------------------------------------------- beside dense algebra


@pytest.mark.parametrize("snapshots", [1, 3])
@pytest.mark.parametrize(("kind", "shapes"), CASES)
class TestBesideDenseAlgebra:
    def parts(self, rng, kind, shapes, snapshots):
        factors, y, relevances = some_problem(rng, kind, shapes, snapshots)
        spectrum = decompose(observe(factors, y), relevances)
        return factors, y, relevances, spectrum, Dense(factors, y, relevances)

    def test_log_evidence(self, rng, kind, shapes, snapshots):
        *_, spectrum, dense = self.parts(rng, kind, shapes, snapshots)
        found = log_evidence(spectrum, VARIANCE, precisions(spectrum, VARIANCE))
        assert found == pytest.approx(dense.log_evidence, rel=1e-10)

    def test_means_and_variances(self, rng, kind, shapes, snapshots):
        *_, spectrum, dense = self.parts(rng, kind, shapes, snapshots)
        close(posterior_mean(spectrum, VARIANCE), dense.mean)
        exact = np.diag(dense.posterior).real.reshape(dense.shape)
        close(posterior_variance(spectrum, VARIANCE), exact)

    def test_functionals(self, rng, kind, shapes, snapshots):
        *_, spectrum, dense = self.parts(rng, kind, shapes, snapshots)
        maps = [numbers(rng, kind, k, n) for k, (_, n) in enumerate(shapes, start=2)]
        mean, variance = functional(spectrum, VARIANCE, maps)
        close(mean, along(dense.mean, maps))
        matrix = functools.reduce(np.kron, maps)
        exact = np.diag(matrix @ dense.posterior @ matrix.conj().T).real
        close(variance, exact.reshape(variance.shape))

    def test_statistics_of_slices_and_noise(self, rng, kind, shapes, snapshots):
        _, _, relevances, spectrum, dense = self.parts(rng, kind, shapes, snapshots)
        precision = precisions(spectrum, VARIANCE)
        for axis in range(len(shapes)):
            found = slice_statistics(spectrum, axis, precision)
            for one, exact in zip(found, dense.statistics(relevances, axis), strict=True):
                close(one, exact)
        found = noise_statistics(spectrum, VARIANCE, precision)
        np.testing.assert_allclose(found, dense.noise_statistics, rtol=1e-10)


@pytest.mark.parametrize(("kind", "shapes"), CASES)
def test_real_evidence_is_scipys_and_complex_evidence_that_of_the_parts(rng, kind, shapes):
    """A circular complex normal is a real one of both parts, each with half of the variance."""
    factors, y, relevances = some_problem(rng, kind, shapes, 1)
    spectrum = decompose(observe(factors, y), relevances)
    found = log_evidence(spectrum, VARIANCE, precisions(spectrum, VARIANCE))
    covariance, point = Dense(factors, y, relevances).covariance, y.ravel()
    if kind == "complex":
        a, b = covariance.real, covariance.imag
        covariance = 0.5 * np.block([[a, -b], [b, a]])
        point = np.concatenate([point.real, point.imag])
    expected = multivariate_normal(np.zeros(len(point)), covariance).logpdf(point)
    assert found == pytest.approx(expected, rel=1e-10)


# ----------------------------------------------------------------- turns and slopes


@pytest.mark.parametrize(("kind", "shapes"), CASES)
def test_turned_is_as_good_as_decomposed_anew(rng, kind, shapes):
    """After hundreds of turns, too: no error piles up beyond 1e-10."""
    factors, y, relevances = some_problem(rng, kind, shapes)
    observations = observe(factors, y)
    spectrum = decompose(observations, relevances)
    for count in range(200):
        axis = count % len(shapes)
        relevances[axis] = rng.gamma(1.0, size=shapes[axis][1])
        spectrum = turned(spectrum, axis, relevances[axis])
    anew = decompose(observations, relevances)
    precision = precisions(spectrum, VARIANCE)
    for mine, its in zip(spectrum.relevances, relevances, strict=True):
        np.testing.assert_array_equal(mine, its)
    for mine, its in zip(spectrum.values, anew.values, strict=True):
        close(mine, its)
    expected = log_evidence(anew, VARIANCE, precisions(anew, VARIANCE))
    assert log_evidence(spectrum, VARIANCE, precision) == pytest.approx(expected, rel=1e-10)
    close(posterior_mean(spectrum, VARIANCE), posterior_mean(anew, VARIANCE))
    close(posterior_variance(spectrum, VARIANCE), posterior_variance(anew, VARIANCE))
    for axis in range(len(shapes)):
        fresh = slice_statistics(anew, axis, precisions(anew, VARIANCE))
        close(np.array(slice_statistics(spectrum, axis, precision)), np.array(fresh))


@pytest.mark.parametrize(("kind", "shapes"), CASES)
def test_slopes_of_the_evidence_are_pull_less_push(rng, kind, shapes):
    """Central differences, with an error of step^2 and of rounding over the step: 1e-7 both."""
    factors, y, relevances = some_problem(rng, kind, shapes)
    observations = observe(factors, y)
    weight = 1.0 if kind == "complex" else 0.5

    def height(found, variance):
        spectrum = decompose(observations, found)
        return log_evidence(spectrum, variance, precisions(spectrum, variance))

    def difference(along_slice, along_noise=0.0):
        up = [g + step for g, step in zip(relevances, along_slice, strict=True)]
        down = [g - step for g, step in zip(relevances, along_slice, strict=True)]
        return height(up, VARIANCE + along_noise) - height(down, VARIANCE - along_noise)

    spectrum = decompose(observations, relevances)
    precision = precisions(spectrum, VARIANCE)
    for axis, (_, n) in enumerate(shapes):
        pull, push = slice_statistics(spectrum, axis, precision)
        slopes = []
        for place in range(n):
            step = 1e-4 * relevances[axis][place]
            steps = [np.zeros_like(g) for g in relevances]
            steps[axis][place] = step
            slopes.append(difference(steps) / (2 * step))
        scale = np.abs(weight * (pull + push)).max()
        np.testing.assert_allclose(slopes, weight * (pull - push), rtol=0, atol=1e-6 * scale)
    pull, push = noise_statistics(spectrum, VARIANCE, precision)
    step = 1e-4 * VARIANCE
    slope = difference([np.zeros_like(g) for g in relevances], step) / (2 * step)
    assert slope == pytest.approx(weight * (pull - push), abs=1e-6 * weight * (pull + push))


# -------------------------------------------------------------------------- corners


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_coefficients_of_variance_zero_are_zero_and_change_nothing(rng, kind):
    factors, y, relevances = some_problem(rng, kind, SHAPES["three"])
    relevances[0][[1, 3]] = 0.0
    relevances[2][0] = 0.0
    spectrum = decompose(observe(factors, y), relevances)
    mean, variance = posterior_mean(spectrum, VARIANCE), posterior_variance(spectrum, VARIANCE)
    dense = Dense(factors, y, relevances)
    close(mean, dense.mean)
    assert not mean[:, [1, 3]].any()
    assert not mean[..., 0].any()
    assert not variance[[1, 3]].any()
    kept = [g > 0 for g in relevances]
    less = decompose(
        observe([h[:, k] for h, k in zip(factors, kept, strict=True)], y),
        [g[k] for g, k in zip(relevances, kept, strict=True)],
    )
    precision = precisions(spectrum, VARIANCE)
    assert log_evidence(spectrum, VARIANCE, precision) == pytest.approx(
        log_evidence(less, VARIANCE, precisions(less, VARIANCE)), rel=1e-12
    )
    # A slice that is off still has a slope, by which it may come back.
    pull, push = slice_statistics(spectrum, 0, precision)
    exact = dense.statistics(relevances, 0)
    close(pull, exact[0])
    close(push, exact[1])
    assert pull[1] > 0
    assert push[1] > 0


def test_all_variances_zero_leave_noise_alone(rng):
    factors, y, relevances = some_problem(rng, "real", SHAPES["wide-tall"])
    relevances[1][:] = 0.0
    spectrum = decompose(observe(factors, y), relevances)
    assert not posterior_mean(spectrum, VARIANCE).any()
    assert not posterior_variance(spectrum, VARIANCE).any()
    expected = -0.5 * (np.sum(y**2) / VARIANCE + y.size * np.log(2 * np.pi * VARIANCE))
    found = log_evidence(spectrum, VARIANCE, precisions(spectrum, VARIANCE))
    assert found == pytest.approx(expected, rel=1e-12)


def test_variances_are_never_negative(rng):
    """Next to no noise, and a prior variance that is 1e8 times larger than another."""
    factors, y, relevances = some_problem(rng, "real", ((4, 4), (5, 3)))
    relevances[0][0] *= 1e8
    spectrum = decompose(observe(factors, y), relevances)
    variance = posterior_variance(spectrum, 1e-12)
    assert variance.min() >= 0.0
    assert np.all(variance <= outer(relevances))


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_observe_keeps_all_that_tall_factors_tell(rng, kind):
    """Energy and dimensions are split, and the normal equations stay the same."""
    factors, y, _ = some_problem(rng, kind, ((5, 2), (3, 4), (7, 6)))
    seen = observe(factors, y)
    assert seen.y.shape == (2, 2, 3, 6)
    assert [f.shape for f in seen.factors] == [(2, 2), (3, 4), (6, 6)]
    assert seen.factors[1] is factors[1]
    assert seen.size == y.size
    assert seen.outside == y.size - seen.y.size
    assert np.sum(np.abs(seen.y) ** 2) + seen.energy == pytest.approx(np.sum(np.abs(y) ** 2))
    assert seen.power == pytest.approx(np.mean(np.abs(y) ** 2))
    assert seen.is_complex == (kind == "complex")
    for mine, its in zip(seen.factors, factors, strict=True):
        close(mine.conj().T @ mine, its.conj().T @ its, 1e-13)
    adjoint = along(y, [f.conj().T for f in factors])
    close(along(seen.y, [f.conj().T for f in seen.factors]), adjoint, 1e-13)
    # The energy outside is what projections on the ranges leave.
    ranges = [f @ np.linalg.pinv(f) for f in factors]
    assert seen.energy == pytest.approx(np.sum(np.abs(y - along(y, ranges)) ** 2))


def test_observations_that_factors_reach_have_no_energy_outside(rng):
    factors, _, _ = some_problem(rng, "real", ((8, 2), (6, 3)))
    seen = observe(factors, along(rng.standard_normal((1, 2, 3)), factors))
    assert seen.outside == 48 - 6
    assert 0.0 <= seen.energy <= 1e-12 * seen.power * seen.size
    wide = observe([f.T for f in factors], rng.standard_normal((1, 2, 3)))
    assert wide.outside == 0
    assert wide.energy == 0.0
