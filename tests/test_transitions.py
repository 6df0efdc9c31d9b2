"""Transitions of NUTS and HMC: reversible dynamics, and invariance of the target on an orbit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes.inference.metric import identity_metric
from bayes.inference.randomness import trajectory_seeds
from bayes.inference.transitions import (
    Phase,
    Point,
    hmc_transition,
    leapfrog,
    nuts_transition,
)
from bayes.precision import double_precision

STEP = 0.3


def log_density(x):
    """Curved and skewed, so that nothing holds by symmetry."""
    return -0.5 * (x[0] ** 2 / 1.5 + (x[1] - 0.3 * x[0] ** 2) ** 2 / 0.7) - jnp.exp(0.3 * x[0])


density = jax.value_and_grad(log_density)


@pytest.fixture(autouse=True)
def precision():
    with double_precision():
        yield


@pytest.fixture(scope="module")
def metric():
    rng = np.random.default_rng(3)
    plain = identity_metric(2)
    return plain._replace(
        scale=np.array([1.3, 0.6]),
        matrix=np.eye(2) + 0.3 * rng.normal(size=(2, 2)),
        structured=np.asarray(True),
    )


def phase_at(x, r, metric):
    from bayes.inference.metric import pull

    return Phase(jnp.asarray(x), jnp.asarray(r), pull(metric, density(jnp.asarray(x))[1]))


def orbit(metric, x, r, reach):
    """Phases, points and energies from ``reach`` steps backward to as many forward."""
    step = jax.jit(lambda phase, size: leapfrog(density, metric, phase, size))
    found = {0: phase_at(x, r, metric)}
    for side in (-1, 1):
        phase = found[0]
        for k in range(1, reach + 1):
            phase, _ = step(phase, side * STEP)
            found[side * k] = phase
    energy = {k: float(0.5 * p.r @ p.r - log_density(p.x)) for k, p in found.items()}
    return found, energy


def test_leapfrog_is_reversible_and_keeps_volume(metric):
    start = phase_at([0.4, -0.7], [1.1, 0.3], metric)

    def travel(phase, steps):
        for _ in range(steps):
            phase, _ = leapfrog(density, metric, phase, STEP)
        return phase

    end = travel(start, 25)
    back = travel(end._replace(r=-end.r), 25)
    np.testing.assert_allclose(back.x, start.x, atol=1e-11)
    np.testing.assert_allclose(-back.r, start.r, atol=1e-11)

    def flow(z):
        there = travel(phase_at(z[:2], z[2:], metric), 5)
        return jnp.concatenate([there.x, there.r])

    jacobian = jax.jacfwd(flow)(jnp.array([0.4, -0.7, 1.1, 0.3]))
    np.testing.assert_allclose(abs(np.linalg.det(jacobian)), 1.0, rtol=1e-10)


def test_a_step_is_of_second_order(metric):
    """The error of the energy after a fixed time falls with the square of the step."""
    start = phase_at([0.4, -0.7], [1.1, 0.3], metric)
    errors = []
    for steps in (40, 80):
        phase = start
        for _ in range(steps):
            phase, point = leapfrog(density, metric, phase, 2.0 / steps)
        begin = 0.5 * start.r @ start.r - log_density(start.x)
        errors.append(abs(0.5 * phase.r @ phase.r - point.lp - begin))
    assert 3.5 < errors[0] / errors[1] < 4.5


def landing_counts(transition, metric, phases, reach, seeds, places):
    """How often a transition from each phase of an orbit ends at each of its positions."""
    run = jax.jit(
        jax.vmap(
            lambda x, r, seed: transition(Point(x, *density(x)), r, seed)[0].x, (None, None, 0)
        )
    )
    positions = np.stack([phases[k].x for k in range(-reach, reach + 1)])
    counts = np.zeros((len(places), 2 * reach + 1))
    for row, k in enumerate(places):
        ends = np.asarray(run(phases[k].x, phases[k].r, seeds))
        distance = np.abs(ends[:, None] - positions[None]).max(axis=2)
        assert distance.min(axis=1).max() < 1e-8, "a state that is not on the orbit"
        np.add.at(counts[row], distance.argmin(axis=1), 1)
    return counts


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("start", [([0.4, -0.7], [1.1, 0.3]), ([-1.5, 0.2], [0.2, -1.0])])
def test_nuts_leaves_the_target_invariant_on_an_orbit(metric, start, depth):
    """For every state j of an orbit, sum_i pi(i) T(i -> j) = pi(j).

    Biased progressive sampling keeps the target without being reversible, so that it is this
    balance, and not that of pairs, that has to hold. |z| < 4.5 at 9 states, 2 orbits and 2 depths:
    a false alarm in 4 000.
    """
    draws = 40_000
    judged, farthest = range(-4, 5), 2**depth - 1
    reach = 4 + 2 * farthest
    phases, energy = orbit(metric, *start, reach)
    seeds = trajectory_seeds(np.uint64(11), 0, draws)

    def transition(point, momentum, seed):
        number = jnp.asarray(depth)
        return nuts_transition(density, metric, point, momentum, seed, STEP, number, depth)

    places = range(-4 - farthest, 5 + farthest)
    counts = landing_counts(transition, metric, phases, reach, seeds, places)
    weight = np.exp(-np.array([energy[k] for k in places]) + energy[0])
    share = counts / draws
    z = []
    for j in judged:
        arrive = share[:, reach + j]
        found = weight @ arrive
        error = np.sqrt(np.square(weight) @ (arrive * (1 - arrive)) / draws)
        z.append((found - np.exp(energy[0] - energy[j])) / error)
    assert np.abs(z).max() < 4.5, z


def test_hmc_is_in_detailed_balance(metric):
    """pi(i) T(i -> j) = pi(j) T(j with momentum reversed -> i), within 4.5 standard errors."""
    steps, draws = 4, 40_000
    phases, energy = orbit(metric, [0.4, -0.7], [1.1, 0.3], steps)
    seeds = trajectory_seeds(np.uint64(5), 0, draws)

    def transition(point, momentum, seed):
        return hmc_transition(density, metric, point, momentum, seed, STEP, jnp.asarray(steps))

    reverse = dict(phases)
    reverse[steps] = phases[steps]._replace(r=-phases[steps].r)
    forward = landing_counts(transition, metric, phases, steps, seeds, [0])[0, 2 * steps] / draws
    backward = landing_counts(transition, metric, reverse, steps, seeds, [steps])[0, steps] / draws
    ratio = np.exp(energy[0] - energy[steps])
    error = np.sqrt((forward * (1 - forward) + ratio**2 * backward * (1 - backward)) / draws)
    assert 0 < forward < 1 or 0 < backward < 1
    assert abs(forward - ratio * backward) < 4.5 * error


def test_an_energy_that_is_not_a_number_is_a_divergence():
    def broken(x):
        return jnp.where(x[0] > 0.5, jnp.nan, -0.5 * x @ x), -x

    metric = identity_metric(1)
    point = Point(jnp.zeros(1), *broken(jnp.zeros(1)))
    moved, report = nuts_transition(
        broken, metric, point, jnp.ones(1), jnp.uint64(3), 1.0, jnp.asarray(6), 6
    )
    assert bool(report.diverging)
    assert np.isfinite(moved.lp)
    assert moved.x[0] <= 0.5


def test_depth_bounds_the_trajectory():
    metric = identity_metric(2)
    wide = jax.value_and_grad(lambda x: -1e-8 * x @ x)
    point = Point(jnp.zeros(2), *wide(jnp.zeros(2)))
    for depth in (1, 3, 5):
        _, report = nuts_transition(
            wide, metric, point, jnp.ones(2), jnp.uint64(1), 0.1, jnp.asarray(depth), 5
        )
        assert int(report.leapfrogs) == 2**depth - 1
        assert int(report.depth) == depth
        assert not bool(report.diverging)
