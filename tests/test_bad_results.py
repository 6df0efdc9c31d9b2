"""Draws and posteriors that do not fit together are refused."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayes
from bayes.method import Draws

Y = np.random.default_rng(0).normal(size=20)
METHOD = bayes.NUTS(warmup=300, draws=500)


def normal(y=None):
    m = numpyro.sample("m", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(m, 1), obs=y)


def by_factor(y=None):
    m = numpyro.sample("m", dist.Normal(0, 1))
    numpyro.factor("f", dist.Normal(m, 1).log_prob(y))


@pytest.fixture(scope="module")
def post():
    return bayes.fit(normal, {"y": Y}, method=METHOD)


def test_unequal_numbers_of_draws():
    values = {"m": np.zeros((4, 10)), "s": np.zeros((4, 12))}
    with pytest.raises(bayes.ShapeError, match="'m' has 10, 's' has 12"):
        Draws(values, {}, chains=4)


def test_chain_and_draw_swapped():
    with pytest.raises(bayes.ShapeError, match=r"'m' have shape \(10, 4\).*look swapped"):
        Draws({"m": np.zeros((10, 4))}, {}, chains=4)


def test_loo_without_a_log_likelihood_says_how_to_get_one(unchecked):
    post = bayes.fit(by_factor, {"y": Y}, method=METHOD)
    with pytest.raises(bayes.ModelError, match=r"post.extend\('log_likelihood'\).*numpyro.factor"):
        post.loo()


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_log_likelihood_that_is_not_finite_names_the_observation(value, unchecked):
    post = bayes.fit(normal, {"y": Y}, method=METHOD)
    post.extend("log_likelihood")
    post.data["log_likelihood"]["y"].values[1, 2, 7] = value
    with pytest.raises(bayes.DataError, match="of 'y' is not finite at observation 7"):
        post.loo()


def test_models_of_different_data_are_not_compared(post):
    other = bayes.fit(normal, {"y": Y + 1}, method=METHOD)
    shorter = bayes.fit(normal, {"y": Y[:9]}, method=METHOD)
    with pytest.raises(bayes.DataError, match="'one' and 'two' were fitted to different obs"):
        bayes.compare({"one": post, "two": other})
    with pytest.raises(bayes.DataError, match="'one' and 'two' have different numbers of obs"):
        bayes.compare({"one": post, "two": shorter})
