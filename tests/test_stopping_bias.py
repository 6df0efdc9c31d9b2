"""Draws that are taken until there are enough are as unbiased as a fixed number of them.

Simulation-based calibration (Talts et al. 2018): the rank of the prior draw that made the data
among draws of its posterior is uniform. Every fit here ends by its own looks at R-hat and effective
sample sizes, and so does its warm-up.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from numpyro.infer import Predictive

import bayes
from bayes.inference.stopping import look

FITS, RANKS, BINS = 300, 99, 20
SMALLEST_P = 1e-3 / 14
"""Two tests of each of 7 parameters: a false alarm in a thousand runs."""


def normal(n, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    with numpyro.plate("row", n):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def hierarchy(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfNormal(5))
    with numpyro.plate("school", sigma.shape[0]):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


def bounded(n, x, k=None, c=None):
    p = numpyro.sample("p", dist.Beta(2, 3))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    slope = numpyro.sample("slope", dist.TruncatedNormal(0.0, 1.0, low=-0.5))
    numpyro.sample("k", dist.Binomial(n, p), obs=k)
    with numpyro.plate("day", x.shape[0]):
        numpyro.sample("c", dist.Poisson(rate * jnp.exp(slope * x)), obs=c)


X = np.linspace(-1, 1, 8)
MODELS = {
    "normal": (normal, {"n": 4}, ("mu",), ("y",)),
    "hierarchy": (hierarchy, {"sigma": np.full(8, 4.0)}, ("mu", "tau", "z"), ("y",)),
    "bounded": (bounded, {"n": np.asarray(12), "x": X}, ("p", "rate", "slope"), ("k", "c")),
}


def simulate(program, given, count):
    """Prior draws of every site, data included."""
    with jax.enable_x64(True):
        drawn = Predictive(program, num_samples=count)(jax.random.key(17), **given)
    return {name: np.asarray(value) for name, value in drawn.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_ranks_are_uniform_with_the_stopping_rule_on(name):
    program, given, parameters, observed = MODELS[name]
    truth = simulate(program, given, FITS)
    ranks = {p: [] for p in parameters}
    lengths = set()
    for i in range(FITS):
        data = {**given, **{o: np.asarray(truth[o][i]) for o in observed}}
        with warnings.catch_warnings():
            # A verdict is not looked at: leaving out what failed would be a selection of its own.
            warnings.simplefilter("ignore", bayes.ConvergenceWarning)
            post = bayes.fit(program, data, seed=i)
        for p in parameters:
            # One element of an exchangeable site stands for all.
            draws, true = post.draws(p).values, truth[p][i]
            draws = draws.reshape(*draws.shape[:2], -1)[..., 0].T.ravel()
            chosen = np.linspace(0, len(draws) - 1, RANKS).round().astype(int)
            ranks[p].append(int((draws[chosen] < np.ravel(true)[0]).sum()))
        lengths.add(post.data["posterior"].sizes["draw"])
    assert len(lengths) > 3, "the rule has not been at work"
    for p, values in ranks.items():
        counts = np.bincount(np.array(values) * BINS // (RANKS + 1), minlength=BINS)
        assert scipy.stats.chisquare(counts).pvalue > SMALLEST_P, (p, counts)
        # Too narrow or too wide: ranks at the ends, or in the middle.
        distance = np.abs(np.array(values) / RANKS - 0.5)
        z = (distance.mean() - 0.25) / (np.sqrt(1 / 48) / np.sqrt(FITS))
        assert 2 * scipy.stats.norm.sf(abs(z)) > SMALLEST_P, (p, z)


def test_what_the_looks_select_has_no_bias_in_mean_or_spread():
    """The rule on Markov chains of a known law, many times: averages over all runs are exact.

    Each run ends at its own look, as a fit does. |z| < 4.5 for the mean, the variance and the
    probability of a tail: a false alarm in 50 000.
    """
    rng = np.random.default_rng(8)
    runs, chains, rho = 400, 4, 0.5
    estimates, ends = [], set()
    for _ in range(runs):
        x = rng.normal(size=(chains, 1))
        values = np.empty((chains, 0, 1))
        needed = 50
        while values.shape[1] < min(needed, 1000):
            more = np.empty((chains, min(needed, 1000) - values.shape[1], 1))
            for t in range(more.shape[1]):
                x = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=(chains, 1))
                more[:, t] = x
            values = np.concatenate([values, more], axis=1)
            density = -0.5 * values[..., 0] ** 2
            needed = look(values, density, np.array([True]), 100.0, 1).needed
        ends.add(values.shape[1])
        estimates.append([values.mean(), (values**2).mean(), (values > 1.2816).mean()])
    assert len(ends) > 10, "the rule has not been at work"
    found = np.array(estimates)
    z = (found.mean(axis=0) - [0.0, 1.0, 0.1]) / (found.std(axis=0, ddof=1) / np.sqrt(runs))
    assert np.abs(z).max() < 4.5, z
