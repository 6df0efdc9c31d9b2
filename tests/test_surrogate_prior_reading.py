"""Priors from what users hold: mappings, samplers, mixtures, posteriors."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import xarray as xr
from numpyro.infer.reparam import LocScaleReparam
from priors_for_tests import (
    DATA,
    line,
    some_mixture,
    with_discrete,
)
from scipy import stats

import bayes
from bayes.compilation import computing
from bayes.errors import SettingsError, ShapeError, UnsupportedModelError
from bayes.surrogates.mixtures import moments
from bayes.surrogates.priors import JointPrior, RuntimePrior, SitePriors, as_runtime_prior


@pytest.fixture(autouse=True)
def _computing():
    with computing():
        yield


@pytest.fixture(scope="module")
def problem():
    with computing():
        return bayes.Model(line).bind(DATA)


def plain_sampler(key):
    keys = jax.random.split(key, 5)
    return {
        "mu": 2.0 + 0.1 * jax.random.normal(keys[0]),
        "slope": jax.random.normal(keys[1], (2,)),
        "sigma": jnp.exp(0.5 * jax.random.normal(keys[2])),
        "share": jax.nn.sigmoid(jax.random.normal(keys[3])),
        "shift": jax.random.normal(keys[4], (3,)),
    }


class Draws:
    """What a prior needs of a posterior."""

    data = None

    def __init__(self, values):
        self.values = values

    def draws(self, site):
        return xr.DataArray(self.values[site])


def some_draws(rng, count=200):
    return {
        "mu": rng.normal(5.0, 0.1, (2, count)),
        "slope": rng.normal(size=(2, count, 2)),
        "sigma": rng.gamma(3.0, 1.0, (2, count)),
        "share": rng.beta(2.0, 2.0, (2, count)),
        "shift": rng.normal(size=(2, count, 3)),
    }


class TestAsRuntimePrior:
    def test_of_each_kind(self, problem, rng):
        by_site = as_runtime_prior({"mu": dist.Normal(0, 1)}, problem, 2, 0)
        joint = as_runtime_prior(some_mixture(rng, problem.size), problem, 2, 0)
        assert isinstance(by_site, SitePriors)
        assert isinstance(joint, JointPrior)
        assert as_runtime_prior(joint, problem, 2, 0) is joint
        assert isinstance(joint, RuntimePrior)

    def test_of_a_sampler(self, problem):
        """4096 draws: the mean of mu within 4.5 errors, and the mixture that of the seed."""
        one, again = (as_runtime_prior(plain_sampler, problem, 2, 0) for _ in range(2))
        other = as_runtime_prior(plain_sampler, problem, 2, 1)
        mean, spread = moments(one.mixture(problem, 2))
        assert abs(mean[0] - 2.0) < 4.5 * 0.1 / 64
        # log sigma has a standard deviation of one half; that of 4096 draws has an error of 0.6 %.
        assert abs(np.sqrt(spread[3, 3]) / 0.5 - 1) < 0.04
        assert one.describe() == again.describe()
        assert one.describe() != other.describe()

    def test_of_a_posterior(self, problem, rng):
        values = some_draws(rng)
        mixture = as_runtime_prior(Draws(values), problem, 1, 0).mixture(problem, 1)
        np.testing.assert_allclose(mixture.means[0, 0], values["mu"].mean(), rtol=1e-9)
        np.testing.assert_allclose(mixture.means[0, 3], np.log(values["sigma"]).mean(), rtol=1e-9)

    def test_of_a_fit(self, problem):
        """What a fit itself returns can be the next prior."""
        with pytest.warns(bayes.ConvergenceWarning, match="khat"):
            post = bayes.fit(line, DATA, "laplace", seed=0)
        prior = as_runtime_prior(post, problem, 2, 0)
        mean, _ = moments(prior.mixture(problem, 2))
        expected = float(post.draws("mu").mean())
        np.testing.assert_allclose(mean[0], expected, atol=1e-6)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"share": None}, SettingsError, "gives no value of share"),
            ({"slope": jnp.zeros(3)}, ShapeError, r"'slope' of shape \(3,\); the program has \(2,"),
            ({"sigma": jnp.array(-1.0)}, SettingsError, "'sigma' outside of its support"),
            ({"share": jnp.array(1.5)}, SettingsError, "'share' outside of its support"),
            ({"mu": jnp.array(jnp.nan)}, SettingsError, "'mu' that are not finite"),
            ({"mu": jnp.array(1.0)}, SettingsError, "element 0 is 1 in every draw"),
            ({"nu": jnp.array(1.0)}, SettingsError, "gives 'nu', which is no latent site of line"),
        ],
    )
    def test_samplers_that_do_not_fit(self, change, error, message, problem):
        def sampler(key):
            found = {**plain_sampler(key), **change}
            return {n: v for n, v in found.items() if v is not None}

        with pytest.raises(error, match=message):
            as_runtime_prior(sampler, problem, 2, 0)

    def test_posteriors_that_do_not_fit(self, problem, rng):
        values = some_draws(rng)
        del values["share"]
        with pytest.raises(SettingsError, match="no draws of 'share': it is of another model"):
            as_runtime_prior(Draws(values), problem, 2, 0)
        with pytest.raises(SettingsError, match="60 draws of 8 unknowns; at least 80"):
            as_runtime_prior(Draws(some_draws(rng, 30)), problem, 2, 0)

    def test_what_is_no_prior(self, problem):
        with pytest.raises(SettingsError, match="got Normal"):
            as_runtime_prior(dist.Normal(0, 1), problem, 2, 0)
        with pytest.raises(SettingsError, match="got int"):
            as_runtime_prior(3, problem, 2, 0)
        with pytest.raises(SettingsError, match="it failed: ZeroDivisionError"):
            as_runtime_prior(lambda key: {"mu": 1 / 0}, problem, 2, 0)

    def test_reparametrised_and_discrete_programs_take_priors_by_site_only(self, rng):
        model = bayes.Model(line, reparam={"shift": LocScaleReparam(centered=0)})
        reference = model.bind(DATA)
        mixture = some_mixture(rng, reference.size)
        with pytest.raises(UnsupportedModelError, match=r"reparametrised \(shift\)"):
            as_runtime_prior(mixture, reference, 2, 0)
        by_site = as_runtime_prior({"mu": dist.Normal(3.0, 1.0)}, reference, 2, 0)
        x = rng.normal(size=reference.size)
        found = bayes.Model.bind(*by_site.rewritten(model, DATA)).log_density(x)
        expected = stats.norm(3, 1).logpdf(x[0]) - stats.norm(0, 5).logpdf(x[0])
        np.testing.assert_allclose(found - reference.log_density(x), expected, atol=1e-10)
        reference = bayes.Model(with_discrete).bind({"y": 0.0}, marginal=False)
        with pytest.raises(UnsupportedModelError, match=r"discrete latent sites \(z\)"):
            as_runtime_prior(some_mixture(rng, 1), reference, 2, 0)
