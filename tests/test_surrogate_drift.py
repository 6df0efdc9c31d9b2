"""Chains of fits beside the exact posterior of all their data."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayes
from bayes.compilation import computing
from bayes.errors import SettingsError
from bayes.surrogates.drift import chain_drift
from bayes.surrogates.mixtures import mixture_of_covariances
from bayes.surrogates.priors import JointPrior, SitePriors, as_runtime_prior

BATCHES, ROWS, NOISE, DRAWS = 6, 10, 2.0, 4000


def location(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    with numpyro.plate("row", ROWS):
        numpyro.sample("y", dist.Normal(mu, NOISE), obs=y)


def scale_too(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(3.0))
    with numpyro.plate("row", ROWS):
        numpyro.sample("y", dist.Normal(mu[0] + mu[1], sigma), obs=y)


@pytest.fixture(autouse=True)
def _computing():
    with computing():
        yield


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(3)
    return [{"y": rng.normal(1.0, NOISE, ROWS)} for _ in range(BATCHES)]


def chain(batches, fn, change=None, first=None):
    """A fit for each batch under the posterior of the batch before; a prior may be changed."""
    model, posteriors = bayes.Model(fn), []
    reference = model.bind(batches[0])
    for place, batch in enumerate(batches):
        given, data = model, batch
        if posteriors:
            prior = as_runtime_prior(posteriors[-1], reference, 1, 0)
            prior = change(place, prior) if change else prior
            given, data = prior.rewritten(model, batch)
        elif first is not None:
            given, data = first.rewritten(model, batch)
        posteriors.append(bayes.fit(given, data, bayes.Laplace(draws=DRAWS), seed=place))
    return posteriors


def exact(batches, prior_mean=0.0, prior_sd=3.0):
    y = np.concatenate([b["y"] for b in batches])
    precision = prior_sd**-2 + len(y) / NOISE**2
    return (prior_mean / prior_sd**2 + y.sum() / NOISE**2) / precision, precision**-0.5


def moved_by(place_of_change, sds=0.0, factor=1.0):
    """Change one prior of a chain: move it, and make it narrower or wider."""

    def change(place, prior):
        if place != place_of_change:
            return prior
        mixture = prior.mixture_of_all
        sd = np.exp(mixture.log_scales[0, 0])
        variance = np.array([[[(factor * sd) ** 2]]])
        mean = mixture.means + sds * sd
        return JointPrior(prior.latents, mixture_of_covariances(np.ones(1), mean, variance))

    return change


class TestConjugateChain:
    """A normal mean: chains of one normal each are exact but for their Monte Carlo error."""

    def test_a_good_chain(self, batches):
        """Every prior's mean is off by 1/63 of its sd: six of them, and 4.5 errors, 0.12 sd.

        The weighted mean has an error of no more than that of the effective draws, and so has the
        standard deviation, of 1 / sqrt(2 n): 4.5 errors are 1 false alarm in 70 000 for both.
        """
        found = chain_drift(chain(batches, location))
        mean, sd = exact(batches)
        count = found.share * DRAWS
        assert abs(found.exact_mean[0] - mean) < 4.5 * sd / np.sqrt(count)
        assert abs(found.exact_sd[0] / sd - 1) < 4.5 / np.sqrt(2 * count)
        assert found.ok
        assert found.share > 0.95
        assert abs(found.shift[0]) < 0.12
        assert (found.batches, found.draws, found.elements) == (BATCHES, DRAWS, ("mu",))
        assert "near the posterior of 6 batches" in found.verdict

    def test_a_first_prior_of_another_kind_counts_once(self, batches):
        """The first fit's prior is that of the whole; errors as in the test above."""
        first = SitePriors({"mu": dist.Normal(4.0, 0.5)})
        found = chain_drift(chain(batches, location, first=first))
        mean, sd = exact(batches, 4.0, 0.5)
        assert abs(found.exact_mean[0] - mean) < 4.5 * sd / np.sqrt(found.share * DRAWS)
        assert abs(mean - exact(batches)[0]) > 1.5 * sd  # else this would tell nothing

    @pytest.mark.parametrize("place", [1, 3, 5])
    def test_a_prior_that_is_moved_is_found(self, place, batches):
        """After b batches a prior weighs b / 6 of the whole: what it was moved by is known.

        The chain's own Monte Carlo errors are 0.12 sd at most, as above.
        """
        posteriors = chain(batches, location, moved_by(place, sds=0.9 * 6**0.5 / place**0.5))
        found = chain_drift(posteriors)
        mean, sd = exact(batches)
        assert abs(found.shift[0] - 0.9) < 0.15
        assert not found.ok
        assert "has drifted" in found.verdict
        assert "mu is off by +0." in found.verdict or "mu is off by +1." in found.verdict
        assert abs(found.exact_mean[0] - mean) < 4.5 * sd / np.sqrt(found.share * DRAWS)

    def test_a_prior_that_is_too_narrow_is_found(self, batches):
        """The last prior has 5/6 of the precision; at 0.7 of its sd the whole has 0.73 of its own.

        Each standard deviation is known to 1 % or so; 0.05 are more than four errors.
        """
        found = chain_drift(chain(batches, location, moved_by(5, factor=0.7)))
        expected = ((5 / 6) / 0.7**2 + 1 / 6) ** -0.5
        assert abs(found.ratio[0] - expected) < 0.05
        assert not found.ok

    def test_a_prior_far_away_is_said_to_be_hopeless(self, batches):
        found = chain_drift(chain(batches, location, moved_by(5, sds=12.0)))
        assert not found.usable
        assert not found.ok
        assert "fit all data at once" in found.verdict


def test_several_sites_and_a_table(batches):
    with np.errstate(all="ignore"), pytest.warns(bayes.ConvergenceWarning):
        found = chain_drift(chain(batches[:2], scale_too))
    table = found.table()
    assert list(table.index) == ["mu[0]", "mu[1]", "sigma"]
    np.testing.assert_allclose(table["shift_sd"], (found.mean - found.exact_mean) / found.exact_sd)
    assert np.isfinite(table.to_numpy()).all()
    assert found.verdict in repr(found)


class TestRefusals:
    def test_what_is_no_chain(self, batches):
        one = chain(batches[:1], location)
        with pytest.raises(SettingsError, match="two posteriors or more, got 1"):
            chain_drift(one)
        with pytest.warns(bayes.ConvergenceWarning):
            other = chain(batches[:1], scale_too)
        with pytest.raises(SettingsError, match="posterior 2 is of other unknowns"):
            chain_drift([*one, *other])

    def test_few_draws(self, batches):
        posteriors = chain(batches[:2], location)
        posteriors[-1].data["posterior"] = posteriors[-1].data["posterior"].isel(draw=slice(50))
        with pytest.raises(SettingsError, match="50 draws tell no drift"):
            chain_drift(posteriors)
