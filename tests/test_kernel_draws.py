"""NumPyro's own kernels against exact posteriors."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from kernels_for_tests import (
    MEAN,
    MIXTURE_DATA,
    NORMAL_DATA,
    POINTS,
    SD,
    UNSETTLED,
    Y,
    assert_moments,
    gibbs,
    mixed,
    mixture,
    slicing,
    z_score,
)
from models_for_tests import SCHOOLS_DATA, normal_mean, schools
from numpyro.infer import AIES, NUTS, SA, BarkerMH, DiscreteHMCGibbs, HMCGibbs

import bayes


def sample_adaptive(model):
    return SA(model, adapt_state_size=20)


@pytest.mark.parametrize("kernel", [NUTS, BarkerMH, sample_adaptive])
def test_a_conjugate_posterior_is_exact(kernel):
    post = bayes.fit(normal_mean, NORMAL_DATA, bayes.NumPyroKernel(kernel, draws=2000), seed=1)
    assert_moments(post.draws("mu").values, MEAN, SD)
    assert post.diagnostics.ok, post.diagnostics
    assert {"lp", "acceptance_rate"} <= set(post.data["sample_stats"])


def plane():
    covariance = jnp.array([[1.0, 0.8], [0.8, 2.0]])
    x = numpyro.sample("x", dist.MultivariateNormal(jnp.array([1.0, -1.0]), covariance))
    numpyro.deterministic("total", x.sum())


def stretching(model):
    return AIES(model, moves={AIES.DEMove(): 0.5, AIES.StretchMove(): 0.5})


@pytest.mark.parametrize("kernel", [stretching, slicing])
def test_an_ensemble_draws_from_a_correlated_normal(kernel):
    method = bayes.NumPyroKernel(kernel, chains=10, draws=4000)
    post = bayes.fit(bayes.Model(plane, allow_prior=True), {}, method, seed=2)
    x = post.draws("x").values
    assert x.shape == (10, 4000, 2)
    assert_moments(x[..., 0], 1.0, 1.0)
    assert_moments(x[..., 1], -1.0, np.sqrt(2.0))
    assert_moments(post.draws("total").values, 0.0, np.sqrt(4.6))
    assert post.diagnostics.ok, post.diagnostics


@UNSETTLED
def test_a_chain_of_a_shuffled_ensemble_is_one_walkers_path():
    def shuffled(model):
        return AIES(model, randomize_split=True)

    post = bayes.fit(
        bayes.Model(plane, allow_prior=True),
        {},
        bayes.NumPyroKernel(shuffled, chains=10, draws=200),
        seed=0,
    )
    x = post.draws("x").values
    stayed = (x[:, 1:] == x[:, :-1]).all(axis=2)
    # A walker whose proposal is rejected stays where it is, and it stays in its row.
    share = 1 - post.data["sample_stats"]["acceptance_rate"].values.mean()
    assert 0.5 * share < stayed.mean()
    assert stayed.any(axis=1).all()


@UNSETTLED
def test_reparam_reaches_a_kernel_that_is_made_for_the_program():
    method = bayes.NumPyroKernel(lambda model: NUTS(model, target_accept_prob=0.95), chains=2)
    post = bayes.fit(schools, SCHOOLS_DATA, method, seed=0, reparam="auto")
    assert "theta_decentered" in post.data["auxiliary"]
    assert post.draws("theta").shape == (2, 1000, 8)
    assert "NUTS(target_accept_prob=0.95)" in str(post.method)


@UNSETTLED
def test_a_program_that_computes_with_its_data_in_python():
    def branching(y):
        scale = 1.0 if float(y.sum()) > 0 else 2.0
        mu = numpyro.sample("mu", dist.Normal(0, scale))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    method = bayes.NumPyroKernel(NUTS, chains=2, draws=1000)
    post = bayes.fit(branching, {"y": Y}, method, seed=0)
    precision = 1 + len(Y)
    assert_moments(post.draws("mu").values, Y.sum() / precision, precision**-0.5)


def mixture_posterior():
    """Mean and standard deviation of the weight, and probabilities of the components."""
    weight = (np.arange(20_000) + 0.5) / 20_000
    one, other = (np.exp(-0.5 * (POINTS - m) ** 2) for m in (2.0, -1.0))
    each = weight[:, None] * one + (1 - weight[:, None]) * other
    density = weight * (1 - weight) * each.prod(axis=1)
    density /= density.sum()
    mean = density @ weight
    return mean, np.sqrt(density @ (weight - mean) ** 2), density @ (weight[:, None] * one / each)


@pytest.mark.parametrize("kernel", [gibbs, mixed])
def test_discrete_sites_are_drawn(kernel):
    post = bayes.fit(mixture, MIXTURE_DATA, bayes.NumPyroKernel(kernel, draws=2000), seed=3)
    mean, sd, probability = mixture_posterior()
    assert_moments(post.draws("weight").values, mean, sd)
    component = post.draws("component")
    assert component.dims == ("chain", "draw", "row")
    assert component.dtype.kind == "i"
    for row, exact in enumerate(probability):
        if 0.01 < exact < 0.99:
            assert abs(z_score(component.values[..., row].astype(float), exact)) < 4.5
    np.testing.assert_array_equal(
        post.draws("mean").values, np.where(component.values == 1, 2.0, -1.0)
    )
    assert post.diagnostics.ok, post.diagnostics


@UNSETTLED
def test_a_kernel_that_was_built_with_the_program():
    method = bayes.NumPyroKernel(DiscreteHMCGibbs(NUTS(mixture)), draws=500, chains=2)
    post = bayes.fit(mixture, MIXTURE_DATA, method, seed=3)
    assert post.draws("component").shape == (2, 500, 6)
    assert post.method.settings["kernel"] == "DiscreteHMCGibbs(inner_kernel=NUTS())"


def test_a_program_of_discrete_sites_only():
    def label(y=None):
        k = numpyro.sample("k", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
        numpyro.sample("y", dist.Normal(k * 1.0, 1.0), obs=y)

    post = bayes.fit(label, {"y": np.array(1.2)}, bayes.NumPyroKernel(gibbs, warmup=100), seed=0)
    exact = np.array([0.2, 0.3, 0.5]) * np.exp(-0.5 * (1.2 - np.arange(3)) ** 2)
    for k, probability in enumerate(exact / exact.sum()):
        assert abs(z_score((post.draws("k").values == k).astype(float), probability)) < 4.5
    with pytest.raises(bayes.UnsupportedModelError, match="only discrete latent sites"):
        bayes.fit(label, {"y": np.array(1.2)}, "nuts")


def counts(y=None):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    n = numpyro.sample("n", dist.Poisson(rate))
    numpyro.sample("y", dist.Normal(n * 1.0, 1.0), obs=y)


def draw_count(rng_key, gibbs_sites, hmc_sites):
    n = jnp.arange(60)
    prior = dist.Poisson(hmc_sites["rate"]).log_prob(n)
    return {"n": jax.random.categorical(rng_key, prior + dist.Normal(n * 1.0, 1.0).log_prob(3.0))}


def test_a_discrete_site_with_infinitely_many_values():
    def kernel(model):
        return HMCGibbs(NUTS(model), draw_count, ["n"])

    data = {"y": np.array(3.0)}
    post = bayes.fit(counts, data, bayes.NumPyroKernel(kernel, draws=2000), seed=0)
    n = np.arange(60)
    # A Poisson count with a Gamma(2, 1) rate has a negative binomial distribution.
    weight = (n + 1) * 0.25 * 0.5**n * np.exp(-0.5 * (3.0 - n) ** 2)
    weight /= weight.sum()
    mean = weight @ n
    assert_moments(post.draws("n").values.astype(float), mean, np.sqrt(weight @ (n - mean) ** 2))
    assert abs(z_score(post.draws("rate").values, (mean + 2) / 2)) < 4.5
    with pytest.raises(bayes.UnsupportedModelError, match="does not have enumerate support"):
        bayes.fit(counts, data, bayes.NumPyroKernel())


@UNSETTLED
def test_what_follows_from_draws_of_discrete_sites(tmp_path):
    method = bayes.NumPyroKernel(gibbs, chains=2, warmup=200, draws=300)
    post = bayes.fit(mixture, MIXTURE_DATA, method, seed=3)
    predicted = post.predict(seed=1)
    noise = predicted["posterior_predictive"]["y"].values - post.draws("mean").values
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 1) < 0.1

    post.extend("log_likelihood", "log_prior")
    expected = dist.Normal(post.draws("mean").values, 1.0).log_prob(POINTS)
    np.testing.assert_allclose(post.data["log_likelihood"]["y"].values, expected, rtol=1e-5)
    weight = post.draws("weight").values[..., None]
    expected = np.where(post.draws("component").values == 1, np.log(weight), np.log1p(-weight))
    np.testing.assert_allclose(post.data["log_prior"]["component"].values, expected, rtol=1e-6)
    with pytest.raises(bayes.UnsupportedModelError, match="sum these sites out"):
        post.loo()

    post.save(tmp_path / "post.zarr")
    loaded = bayes.load(tmp_path / "post.zarr", model=mixture)
    np.testing.assert_array_equal(loaded.draws("component"), post.draws("component"))
    again = loaded.predict(seed=1)["posterior_predictive"]["y"]
    np.testing.assert_array_equal(again, predicted["posterior_predictive"]["y"])
