"""Looks at a run: whether there are enough draws."""

import numpy as np
import pytest

from bayes.inference.stopping import look, motionless, watched_elements


def autoregression(rng, rho, draws, chains=4, elements=1):
    """Draws whose effective sample size is (1 - rho) / (1 + rho) of their number."""
    x = np.empty((chains, draws, elements))
    x[:, 0] = rng.normal(size=(chains, elements))
    noise = np.sqrt(1 - rho**2) * rng.normal(size=(chains, draws, elements))
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + noise[:, t]
    return x


def seen(x, target=400.0, elements=None):
    density = np.random.default_rng(5).normal(size=x.shape[:2])
    return look(x, density, np.ones(x.shape[2], bool), target, elements or x.shape[2])


@pytest.mark.parametrize(("rho", "enough"), [(0.0, True), (0.4, True), (0.9, False), (0.97, False)])
def test_a_look_knows_whether_there_are_enough_draws(rng, rho, enough):
    """4000 draws have an effective size of 4000, 1700, 210 and 60."""
    found = seen(autoregression(rng, rho, 1000))
    assert (found.needed == 1000) is enough


def test_what_is_needed_is_in_proportion_to_what_is_missing(rng):
    x = autoregression(rng, 0.0, 300)
    assert seen(x, target=400).needed == 300
    more = seen(x, target=1800).needed
    assert 420 < more < 560  # 4 x 450 draws, tails a little less effective
    assert seen(x, target=1e6).needed == 600  # never more than twice as many at a time
    assert seen(x, target=1800, elements=50).needed > more


def test_chains_in_two_modes_never_have_enough(rng):
    x = autoregression(rng, 0.0, 1000)
    x[2:] += 5.0
    found = seen(x)
    assert found.needed == 2000
    assert found.rhat > 1.5


def test_an_element_without_a_variance_is_not_waited_for_unless_it_is_sampled(rng):
    heavy = rng.standard_cauchy(size=(4, 1000, 1))
    density = rng.normal(size=(4, 1000))
    assert look(heavy, density, np.array([True]), 400.0, 1).needed > 1000
    assert look(heavy, density, np.array([False]), 400.0, 1).needed == 1000


def test_elements_that_are_constant_do_not_count(rng):
    x = autoregression(rng, 0.0, 1000, elements=2)
    x[..., 1] = 3.0
    assert seen(x).needed == 1000


def test_a_chain_that_does_not_move_is_found(rng):
    density = rng.normal(size=(4, 50))
    assert not motionless(density).any()
    density[1] = density[1, 0]
    assert motionless(density).tolist() == [False, True, False, False]
    assert not motionless(density[:, :5]).any()


def test_of_many_elements_the_slow_ones_are_watched(rng):
    x = rng.normal(size=(4, 60, 1000))
    slow = [17, 500, 901]
    x[..., slow] = autoregression(rng, 0.95, 60, elements=3)
    watched = watched_elements(x)
    assert set(slow) <= set(watched.tolist())
    assert len(watched) <= 300
    assert watched_elements(x[..., :250]).tolist() == list(range(250))
