"""The verdict on draws of an approximation, by their densities alone."""

import numpy as np
import pytest

from bayes.diagnostics.checks import judge_draws


def verdict(scale, *, with_lp=True, size=1000, seed=0):
    """Draws of a normal of some scale for a standard normal posterior in three dimensions."""
    x = scale * np.random.default_rng(seed).normal(size=(4, size, 3))
    stats = {"log_q": -0.5 * np.square(x / scale).sum(axis=2) - 3 * np.log(scale)}
    if with_lp:
        stats["lp"] = -0.5 * np.square(x).sum(axis=2)
    return judge_draws({"x": x}, stats, {"sampled": ["x"]})


@pytest.mark.parametrize("scale", [1.0, 1.2])
def test_an_approximation_that_covers_the_posterior_is_ok(scale):
    """Ratios are bounded where the approximation is the wider one: k-hat is at most 0 in theory."""
    found = verdict(scale)
    assert found.ok, found
    assert found["khat"].value < 0.5


def test_a_narrow_approximation_is_not():
    """Of a third of the scale, the ratios' tail index is 1 - 1/9 in theory."""
    found = verdict(1 / 3)
    assert [check.name for check in found.failed] == ["khat"]
    assert found["khat"].value > 0.7
    assert "method='nuts'" in found["khat"].advice


def test_an_approximation_without_log_densities_is_not_judged():
    found = verdict(1.0, with_lp=False)
    assert np.isnan(found["khat"].value)
    assert not found.ok
    assert "cannot be judged" in found["khat"].advice


def test_few_draws_do_not_tell():
    assert not verdict(1.0, size=20)["khat"].passed
