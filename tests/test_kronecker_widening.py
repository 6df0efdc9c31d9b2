"""How much wider intervals would be, beside integrals over the variances and dense derivatives."""

import numpy as np
import pytest
from kronecker_for_tests import numbers

from bayes.inference.kronecker.evidence import (
    decompose,
    log_evidence,
    observe,
    posterior_mean,
    posterior_variance,
    precisions,
)
from bayes.inference.kronecker.penalties import Prior
from bayes.inference.kronecker.sparse_model import Axis, Noise, SparseModel
from bayes.inference.kronecker.tensors import along
from bayes.inference.kronecker.updates import sweep
from bayes.inference.kronecker.widening import widening

FLAT = Prior("ImproperUniform")
GAMMA = Prior("Gamma", (np.asarray(2.0), np.asarray(1.0)))
HALF_NORMAL = Prior("HalfNormal", (np.asarray(1.0),), 2)
PRUNE = 1e-8


def unpacked(model, logs):
    """Parameters and noise variance of a vector of their logs; what is given stays."""
    logs, parameters = list(logs), []
    for axis in model.axes:
        if axis.given is not None:
            parameters.append(axis.given)
            continue
        parameters.append(np.exp(logs[: axis.length]))
        logs = logs[axis.length :]
    return parameters, float(np.exp(logs[0])) if logs else model.noise.given


def state_at(model, logs):
    """Objective, posterior mean and posterior variance."""
    parameters, variance = unpacked(model, logs)
    spectrum = decompose(model.observations, model.relevances(parameters))
    height = log_evidence(spectrum, variance, precisions(spectrum, variance))
    height += model.log_prior(parameters, variance)
    return height, posterior_mean(spectrum, variance), posterior_variance(spectrum, variance)


def mode_of(model, begin, sweeps=400):
    """Parameters and noise at the maximum, and their logs."""
    parameters, variance = unpacked(model, begin)
    found = sweep(model, parameters, variance, "mm", sweeps, PRUNE)
    parts = [
        np.log(t)
        for axis, t in zip(model.axes, found.parameters, strict=True)
        if axis.given is None
    ]
    if model.noise.given is None:
        parts.append(np.log([found.variance]))
    return found.parameters, found.variance, np.concatenate(parts)


def factor_of(added, mean, spread):
    """The median over the coefficients that are two standard deviations from zero."""
    relevant = np.abs(mean) ** 2 > 4.0 * spread
    assert relevant.sum() > 3
    known = np.broadcast_to(spread, mean.shape)
    return float(np.median(np.sqrt(1.0 + added[relevant] / known[relevant])))


# --------------------------------------------------------------------- integrals


@pytest.mark.parametrize("learned", ["variance", "noise", "both"])
def test_it_is_that_of_an_integral_over_the_variances(rng, learned):
    """On a grid of five standard deviations: the variance of the mean under the exact posterior.

    Of the logs of variances that a hundred numbers tell the posterior is normal but for a skewness
    of about a fifth; what the widening adds agrees within 5 %.
    """
    factors = [np.eye(1), rng.standard_normal((12, 10)) / np.sqrt(12)]
    x = np.sqrt(3.0) * rng.standard_normal((20, 1, 10))
    y = along(x, factors) + rng.standard_normal((20, 1, 12))
    first = Axis(1, None, None, np.ones(1)) if learned == "noise" else Axis(1, GAMMA)
    noise = Noise(None, 1.0) if learned == "variance" else Noise(HALF_NORMAL)
    axes = (first, Axis(10, None, None, np.full(10, 3.0)))
    model = SparseModel(observe(factors, y), axes, noise)
    count = 2 if learned == "both" else 1
    parameters, variance, centre = mode_of(model, np.zeros(count))
    found = widening(model, parameters, variance, PRUNE)
    curvature = numeric_hessian(model, centre)
    width = np.sqrt(np.diag(np.linalg.inv(-curvature)))
    ticks = np.linspace(-5.0, 5.0, 41)
    grid = np.stack(np.meshgrid(*[ticks] * count, indexing="ij"), -1).reshape(-1, count)
    states = [state_at(model, centre + width * point) for point in grid]
    heights = np.array([height for height, *_ in states])
    weights = np.exp(heights - heights.max())
    weights /= weights.sum()
    assert weights.reshape([41] * count)[0].max() < 1e-3
    means = np.array([mean for _, mean, _ in states])
    middle = np.tensordot(weights, means, 1)
    added = np.tensordot(weights, np.abs(means - middle) ** 2, 1)
    _, mean, spread = state_at(model, centre)
    expected = factor_of(added, mean, spread)
    assert expected > 1.002
    assert found - 1.0 == pytest.approx(expected - 1.0, rel=0.05)


# -------------------------------------------------------------------- derivatives


def numeric_hessian(model, centre, step=1e-3):
    """Of the objective in the logs, by second differences of its value."""
    size = len(centre)
    hessian, eye = np.empty((size, size)), step * np.eye(size)
    for i in range(size):
        for j in range(size):
            corners = [
                state_at(model, centre + a * eye[i] + b * eye[j])[0] * a * b
                for a in (1, -1)
                for b in (1, -1)
            ]
            hessian[i, j] = sum(corners) / (4.0 * step**2)
    return hessian


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("case", ["plain", "operator", "given axis", "given noise", "flat"])
def test_it_is_that_of_differences_of_objective_and_means(rng, kind, case):
    """Second differences have errors of 1e-6 of the fourth derivative and, of rounding, 1e-7."""
    factors = [numbers(rng, kind, 5, 4), numbers(rng, kind, 6, 5)]
    x = np.zeros((2, 4, 5), factors[0].dtype)
    x[:, :2, 1:4] = 2.0 * numbers(rng, kind, 2, 2, 3)
    y = along(x, factors)
    y = y + 0.5 * numbers(rng, kind, *y.shape)
    prior = FLAT if case == "flat" else GAMMA
    operator = np.kron(np.eye(2), np.ones((2, 1))) if case == "operator" else None
    first = Axis(4, prior, operator)
    if case == "given axis":
        first = Axis(4, None, None, np.array([1.0, 2.0, 0.0, 0.1]))
    noise = Noise(None, 0.25) if case == "given noise" else Noise(HALF_NORMAL)
    model = SparseModel(observe(factors, y), (first, Axis(5, prior)), noise)
    count = (0 if case == "given axis" else first.length) + 5 + (case != "given noise")
    # Anywhere, not at a maximum alone.
    centre = 0.3 * rng.standard_normal(count)
    parameters, variance = unpacked(model, centre)
    found = widening(model, parameters, variance, PRUNE)
    _, mean, spread = state_at(model, centre)
    moves = []
    for place in range(count):
        step = np.zeros(count)
        step[place] = 1e-4
        moves.append((state_at(model, centre + step)[1] - state_at(model, centre - step)[1]) / 2e-4)
    values, directions = np.linalg.eigh(-numeric_hessian(model, centre))
    turned = np.tensordot(directions.T, np.array(moves), 1)
    # What the observations do not tell has a standard deviation of five.
    precision = np.maximum(values, 0.0) + 0.04
    added = np.sum(np.abs(turned) ** 2 / precision.reshape(-1, 1, 1, 1), axis=0)
    expected = factor_of(added, mean, spread)
    assert expected > 1.01
    assert found - 1.0 == pytest.approx(expected - 1.0, rel=1e-3)


# ------------------------------------------------------------------------ corners


def some_model(rng, shapes=((5, 4), (6, 5)), snapshots=1, scale=1.0):
    factors = [rng.standard_normal(shape) for shape in shapes]
    x = scale * rng.standard_normal((snapshots, *[n for _, n in shapes]))
    y = along(x, factors)
    y = y + 0.3 * rng.standard_normal(y.shape)
    axes = tuple(Axis(n, GAMMA) for _, n in shapes)
    return SparseModel(observe(factors, y), axes, Noise(HALF_NORMAL))


def test_more_snapshots_leave_less_to_add(rng):
    """What is added goes with one over the number of snapshots: from 4 to 64 of them by 16."""
    found = []
    for snapshots in (4, 64):
        model = some_model(np.random.default_rng(0), ((4, 4), (5, 5)), snapshots)
        parameters, variance, _ = mode_of(model, np.zeros(10))
        found.append(widening(model, parameters, variance, PRUNE))
    assert found[0] > found[1] > 1.0
    assert 8.0 < (found[0] ** 2 - 1.0) / (found[1] ** 2 - 1.0) < 32.0


def test_pruned_variances_do_not_count(rng):
    """As of a model without them."""
    model = some_model(rng)
    parameters = [rng.gamma(2.0, size=4), rng.gamma(2.0, size=5)]
    parameters[0][1], parameters[1][[0, 3]] = 1e-12, 1e-13
    found = widening(model, parameters, 0.1, PRUNE)
    kept = [np.array([0, 2, 3]), np.array([1, 2, 4])]
    whole = model.observations
    part = whole._replace(factors=tuple(f[:, k] for f, k in zip(whole.factors, kept, strict=True)))
    less = SparseModel(part, tuple(Axis(len(k), GAMMA) for k in kept), model.noise)
    alone = widening(less, [t[k] for t, k in zip(parameters, kept, strict=True)], 0.1, PRUNE)
    assert found is not None
    assert found > 1.0
    assert found == pytest.approx(alone, rel=1e-6)


def test_nothing_to_learn_or_nothing_relevant_widens_nothing(rng):
    factors = [rng.standard_normal((5, 4))]
    y = rng.standard_normal((1, 5))
    given = SparseModel(observe(factors, y), (Axis(4, None, None, np.ones(4)),), Noise(None, 0.01))
    assert widening(given, [np.ones(4)], 0.01, PRUNE) == 1.0
    learned = SparseModel(observe(factors, 1e-6 * y), (Axis(4, GAMMA),), Noise(None, 1.0))
    assert widening(learned, [np.ones(4)], 1.0, PRUNE) == 1.0


def test_too_many_variances_or_observations_are_left_alone(rng):
    """None, at once: 101 variances; 100 of some coefficients are fine."""
    for columns, is_told in ((98, True), (99, False)):
        factors = [np.eye(1), rng.standard_normal((10, columns))]
        y = 10.0 * rng.standard_normal((1, 1, 10))
        axes = (Axis(1, GAMMA), Axis(columns, GAMMA))
        model = SparseModel(observe(factors, y), axes, Noise(HALF_NORMAL))
        found = widening(model, [np.ones(1), np.ones(columns)], 0.1, PRUNE)
        assert (found is not None) == is_told
    large = some_model(rng, ((20, 20), (20, 20), (30, 30)), 12)
    assert widening(large, [np.ones(20), np.ones(20), np.ones(30)], 0.1, PRUNE) is None
