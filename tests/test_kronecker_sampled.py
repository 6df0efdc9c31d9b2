"""Kronecker sparse Bayesian learning with sampled variances."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from arviz_stats.base import array_stats

import bayes
from bayes.distributions import KroneckerLinear, KroneckerNormal
from bayes.inference.kronecker import outcome

SBL = bayes.KroneckerSBL


def small(factors, y=None):
    s = numpyro.sample("s", dist.Gamma(6.0, 6.0).expand([2]).to_event(1))
    t = numpyro.sample("t", dist.Gamma(6.0, 6.0).expand([3]).to_event(1))
    noise = numpyro.sample("noise", dist.Gamma(4.0, 8.0))
    x = numpyro.sample("x", KroneckerNormal([s**2, t]))
    numpyro.deterministic("total", x.sum())
    numpyro.sample("y", KroneckerLinear(factors, x, noise), obs=y)


NUTS = bayes.NUTS(chains=2, warmup=300, draws=1500, target_accept=0.97)
RNG = np.random.default_rng(0)
DATA = {
    "factors": [RNG.normal(size=(4, 2)), RNG.normal(size=(3, 3))],
    "y": RNG.normal(size=(4, 3)),
}


@pytest.fixture(scope="module")
def ours():
    return bayes.fit(small, DATA, SBL(hyper=NUTS), seed=1)


def test_sampled_variances_have_the_posterior_of_plain_nuts(ours):
    """Means and second moments of all sites: |z| < 5 in Monte Carlo errors of both runs.

    Of 26 numbers that are compared, a false alarm in 60 000 runs; the seeds are fixed.
    """
    plain = bayes.fit(small, DATA, NUTS, seed=2)
    assert ours.diagnostics.ok
    assert ours.method.settings["hyper"]["nuts"]["draws"] == 1500
    assert ours.structure is None
    assert not ours.moments("x").attrs["exact"]
    assert "r_hat" in ours.summary().columns
    for site in ("s", "t", "noise", "x", "total"):
        both = [p.draws(site).values for p in (ours, plain)]
        for place in np.ndindex(both[0].shape[2:]):
            for moment in (1, 2):
                (a, da), (b, db) = (_mean(draws[:, :, *place] ** moment) for draws in both)
                assert abs(a - b) < 5.0 * np.hypot(da, db), (site, place, moment)


def _mean(draws):
    ess = array_stats.ess(draws, method="mean", chain_axis=0, draw_axis=1)
    return draws.mean(), draws.std() / np.sqrt(ess)


def test_draws_of_many_coefficients_are_thinned_beside_their_variances(monkeypatch, ours):
    monkeypatch.setattr(outcome, "_BYTES", 8 * 6 * 1000)
    thin = bayes.fit(small, DATA, SBL(hyper=NUTS), seed=1)
    assert thin.draws("x").shape == (2, 500, 2, 3)
    np.testing.assert_array_equal(thin.draws("s").values, ours.draws("s").values[:, ::3])
    lp, energy = (thin.data["sample_stats"][name].values for name in ("lp", "energy"))
    np.testing.assert_array_equal(lp, ours.data["sample_stats"]["lp"].values[:, ::3])
    np.testing.assert_array_equal(energy, ours.data["sample_stats"]["energy"].values[:, ::3])
    np.testing.assert_allclose(thin.draws("total"), thin.draws("x").sum(("x_dim_0", "x_dim_1")))


def test_masked_observations_are_not_for_sampled_variances():
    def masked(factors, mask, y=None):
        s = numpyro.sample("s", dist.Gamma(4.0, 4.0).expand([2]).to_event(1))
        x = numpyro.sample("x", KroneckerNormal([s, jnp.ones(3)]))
        numpyro.sample("y", KroneckerLinear(factors, x, 0.5, mask=mask), obs=y)

    mask = RNG.random((4, 3)) > 0.5
    with pytest.raises(bayes.UnsupportedModelError, match=r"'y' has a mask.*method='nuts'"):
        bayes.fit(masked, {**DATA, "mask": mask}, SBL(hyper="nuts"))
