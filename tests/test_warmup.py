"""Stages of a warm-up, chains that are far, and when it has settled."""

import numpy as np
import pytest

from bayes.inference.metric import dense_metric, identity_metric
from bayes.inference.warmup import (
    MOST_WARMUP,
    common_step,
    far_chains,
    is_below,
    is_settled,
    stages,
)


@pytest.mark.parametrize("warmup", [1, 2, 7, 40, 100, 333, 1000, 5000])
def test_the_stages_of_a_warm_up(warmup):
    schedule = stages(warmup, 10, 8)
    names = [s.name for s in schedule]
    assert names[-2:] == ["settle", "sample"]
    assert set(names[:-2]) == {"adapt"}
    assert warmup <= sum(s.length for s in schedule[:-1]) <= max(warmup, 2)
    assert all(s.depth <= 8 for s in schedule)
    assert not any(s.last for s in schedule)


def test_a_warm_up_without_a_length_may_end_after_some_windows():
    schedule = stages(None, 10, 10)
    last = [s.last for s in schedule]
    assert last.index(True) == 3
    assert all(last[3:-2])
    assert sum(s.length for s in schedule[:-1]) == MOST_WARMUP


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


def test_a_warm_up_has_settled_where_metric_and_chains_have(rng):
    d, n = 5, 240
    scales = np.logspace(-1, 1, d)
    x = rng.normal(size=(n, d)) * scales
    g = -x / scales**2
    density = rng.normal(size=(4, 60))
    good = dense_metric(x, g)
    assert is_settled(good, "auto", x, g, density)
    assert not is_settled(identity_metric(d), "auto", x, g, density)
    apart = density + np.array([[0.0], [0.0], [0.0], [5.0]])
    assert not is_settled(good, "auto", x, g, apart)


@pytest.mark.parametrize("target", [0.6, 0.8, 0.9])
def test_the_common_step_meets_its_target(rng, target):
    """Acceptance falls off like a logistic curve in the log step; averages are too small."""
    best = 0.3
    steps = best - 0.15 + 0.6 * rng.normal(size=(4, 60))
    slope = 2.5
    level = np.log(target / (1 - target))
    truth = 1 / (1 + np.exp(slope * (steps - best) - level))
    acceptance = np.clip(truth + 0.1 * rng.normal(size=steps.shape), 0, 1)
    found = common_step(np.full(4, best - 0.15), steps, acceptance, target)
    assert abs(found - best) < 0.15


def test_the_common_step_does_not_jump_where_acceptance_seems_to_rise_again():
    steps = np.linspace(-1, 1, 240).reshape(4, 60)
    acceptance = 0.5 + 0.4 * steps**2
    assert common_step(np.zeros(4), steps, acceptance, 0.8) <= 0.0


def test_few_iterations_leave_the_average_as_it_is():
    assert common_step(np.full(2, -0.7), np.zeros((2, 3)), np.ones((2, 3)), 0.8) == -0.7


def test_a_chain_of_high_density_is_not_below(rng):
    density = rng.normal(size=(4, 50))
    density[0] += 100.0
    assert is_below(density).tolist() == [False, True, True, True]
    assert not is_below(rng.normal(size=(4, 50))).any()
