"""Random numbers of the chains."""

import jax
import numpy as np
import pytest
import scipy.stats

from bayes.inference.randomness import (
    Purpose,
    generator_of,
    momenta,
    new_streams,
    random_bits,
    trajectory_seeds,
    uniform,
)
from bayes.precision import double_precision


def test_momenta_do_not_depend_on_how_they_are_cut():
    stream = new_streams(jax.random.key(3), 2)[1]
    whole = np.empty((50, 7))
    end = momenta(stream, whole)
    parts, state = np.empty((50, 7)), stream
    for begin, stop in ((0, 1), (1, 20), (20, 20), (20, 50)):
        state = momenta(state, parts[begin:stop])
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(state, end)
    assert scipy.stats.kstest(whole.ravel(), "norm").pvalue > 1e-4


def test_streams_and_generators_differ_by_key_and_path():
    a, b = new_streams(jax.random.key(0), 3), new_streams(jax.random.key(1), 3)
    assert len({s.tobytes() for s in (*a, *b)}) == 6
    key = jax.random.key(0)
    one = generator_of(key, Purpose.STARTS, 1).normal()
    assert one == generator_of(np.asarray(jax.random.key_data(key)), Purpose.STARTS, 1).normal()
    others = [generator_of(key, p, *path).normal() for p in Purpose for path in ((), (0,), (2,))]
    assert len({one, *others}) == 1 + len(others)
    # The momenta of a chain are nobody else's numbers.
    first = np.empty((1, 1))
    momenta(new_streams(key, 3)[1], first)
    assert first[0, 0] == generator_of(key, Purpose.MOMENTA, 1).normal()


def test_trajectory_seeds_follow_from_the_iteration_alone():
    whole = trajectory_seeds(np.uint64(7), 0, 100)
    np.testing.assert_array_equal(trajectory_seeds(np.uint64(7), 40, 60), whole[40:])
    assert len(np.unique(whole)) == 100


@pytest.mark.parametrize("along", ["seeds", "counters"])
def test_numbers_from_counters_are_uniform_and_uncorrelated(along):
    """Neighbouring seeds and neighbouring counters; p-values below 1e-4 are false alarms."""
    n = 100_000
    with double_precision():
        seeds = trajectory_seeds(np.uint64(1), 0, n if along == "seeds" else 1)
        counters = np.arange(n if along == "counters" else 1)
        bits = np.asarray(random_bits(jax.numpy.asarray(seeds), jax.numpy.asarray(counters)))
        u = np.asarray(uniform(jax.numpy.asarray(bits)))
    assert u.min() >= 0
    assert u.max() < 1
    assert scipy.stats.kstest(u, "uniform").pvalue > 1e-4
    for lag in (1, 2, 3):
        assert abs(np.corrcoef(u[:-lag], u[lag:])[0, 1]) < 4 / np.sqrt(n)
    # The direction, the lowest bit, has nothing to do with the uniform number.
    direction = (bits & np.uint64(1)).astype(float)
    assert abs(direction.mean() - 0.5) < 4 * 0.5 / np.sqrt(n)
    assert abs(np.corrcoef(direction, u)[0, 1]) < 4 / np.sqrt(n)
