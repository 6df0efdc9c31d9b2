"""Leave-one-out accuracy against an exact value, and comparison on the same data only."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from numpyro import handlers

import bayes

METHOD = bayes.NUTS(chains=2, warmup=200, draws=6000)

pytestmark = pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")


def constant(n, known=None, y=None):
    """Normal observations of unknown mean; those that are not known are masked."""
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    with numpyro.plate("row", n), handlers.mask(mask=True if known is None else known):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def line(x, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    slope = numpyro.sample("slope", dist.Normal(0, 10))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(mu + slope * x, 1.0), obs=y)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    x = np.linspace(-2, 2, 30)
    return x, 1 + 1.5 * x + rng.normal(size=30)


@pytest.fixture(scope="module")
def flat(data):
    return bayes.fit(constant, {"n": 30, "y": data[1]}, METHOD)


@pytest.fixture(scope="module")
def sloped(data):
    return bayes.fit(line, {"x": data[0], "y": data[1]}, METHOD)


def exact_loo(y):
    """Log predictive density of each observation given the others, in closed form."""
    total = 0.0
    for i, value in enumerate(y):
        rest = np.delete(y, i)
        variance = 1 / (len(rest) + 1 / 100)
        total += st.norm.logpdf(value, variance * rest.sum(), np.sqrt(1 + variance))
    return total


def test_loo_is_the_exact_one(flat, data):
    """Within 4.5 Monte Carlo errors.

    To first order the sum depends on the draws by way of their variance, with a derivative of half
    the residual sum of squares, 60; the variance 1/30 is known to a share of sqrt(2 / ESS), with an
    ESS of some 4 000 draws: 0.045.
    """
    found = flat.loo()
    assert found.elpd == pytest.approx(exact_loo(data[1]), abs=0.2)
    assert "log_likelihood" in flat.data.children


def test_masked_observations_are_left_out(data):
    known = np.arange(30) % 3 != 0
    y = np.where(known, data[1], np.nan)
    post = bayes.fit(constant, {"n": 30, "known": known, "y": y}, METHOD)
    found = post.loo()
    assert found.n_data_points == known.sum()
    assert found.elpd == pytest.approx(exact_loo(data[1][known]), abs=0.2)


def test_compare_puts_the_better_model_first(flat, sloped):
    table = bayes.compare({"flat": flat, "sloped": sloped})
    assert list(table.index) == ["sloped", "flat"]
    assert table["weight"].sum() == pytest.approx(1)


def test_compare_refuses_other_observations(flat, data):
    shifted = bayes.fit(constant, {"n": 30, "y": data[1] + 1}, METHOD)
    shorter = bayes.fit(constant, {"n": 29, "y": data[1][:29]}, METHOD)
    with pytest.raises(bayes.DataError, match="'a' and 'b' were fitted to different observations"):
        bayes.compare({"a": flat, "b": shifted})
    with pytest.raises(bayes.DataError, match="different numbers of observations"):
        bayes.compare({"a": flat, "b": shorter})
    with pytest.raises(bayes.SettingsError, match="at least two"):
        bayes.compare({"a": flat})


def test_infinite_log_likelihood_names_the_observation(flat):
    flat.extend("log_likelihood")
    values = flat.data["log_likelihood"]["y"].values
    kept = values[0, 3, 7]
    values[0, 3, 7] = -np.inf
    try:
        with pytest.raises(bayes.DataError, match="'y' is not finite at observation 7"):
            flat.loo()
    finally:
        values[0, 3, 7] = kept


def test_several_observed_sites_are_told_apart(data):
    def program(x, y=None, z=None):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
            numpyro.sample("z", dist.Normal(mu, 1.0), obs=z)

    x, y = data
    post = bayes.fit(program, {"x": x, "y": y, "z": y}, METHOD)
    with pytest.raises(bayes.SettingsError, match="several observed sites, y, z"):
        post.loo()
    with pytest.raises(bayes.SettingsError, match="no observed site 'w'"):
        post.loo(var_name="w")
    assert post.loo(var_name="z").n_data_points == 30


def test_loo_without_log_likelihood_and_model_says_how_to_get_it(flat, tmp_path):
    bare = bayes.Posterior(flat.data.copy(), flat.method, flat.diagnostics, flat.problem)
    bare.data = bare.data.filter(lambda node: node.name != "log_likelihood")
    bare.save(tmp_path / "bare.zarr")
    with pytest.raises(bayes.ModelError, match=r"extend\('log_likelihood'\).*model="):
        bayes.load(tmp_path / "bare.zarr").loo()
