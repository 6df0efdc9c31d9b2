"""HMCECS on subsampled plates: the posterior of all data."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from kernels_for_tests import Y, assert_moments, gibbs
from numpyro.infer import AIES, HMCECS, NUTS, SA

import bayes


def line(x, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("row", x.shape[0], subsample_size=20):
        some = numpyro.subsample(x, event_dim=0)
        mean = numpyro.deterministic("mean", b[0] + b[1] * some)
        obs = None if y is None else numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=obs)


@pytest.fixture(scope="module")
def line_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    return {"x": x, "y": 1 + 0.5 * x + rng.normal(size=200)}


def line_posterior(data):
    design = np.stack([np.ones_like(data["x"]), data["x"]], axis=1)
    covariance = np.linalg.inv(design.T @ design + np.eye(2) / 4)
    return covariance @ design.T @ data["y"], covariance


def test_subsamples_with_a_proxy_give_the_posterior_of_all_data(line_data):
    """With a normal likelihood the second-order proxy is exact, and so is the estimate."""
    mean, covariance = line_posterior(line_data)

    def kernel(model):
        proxy = HMCECS.taylor_proxy({"b": jnp.array(mean)})
        return HMCECS(NUTS(model), num_blocks=5, proxy=proxy)

    post = bayes.fit(line, line_data, bayes.NumPyroKernel(kernel, draws=2000), seed=4)
    for i in range(2):
        assert_moments(post.draws("b").values[..., i], mean[i], np.sqrt(covariance[i, i]))
    assert post.diagnostics.ok, post.diagnostics
    # What is derived, observed, predicted and judged is of all rows.
    np.testing.assert_array_equal(post.data["observed_data"]["y"], line_data["y"])
    b = post.draws("b").values
    np.testing.assert_allclose(
        post.draws("mean").values, b[..., :1] + b[..., 1:] * line_data["x"], atol=1e-12
    )
    predicted = post.predict({"x": np.array([0.0, 3.0])}, seed=0)["posterior_predictive"]["y"]
    assert predicted.shape == (4, 2000, 2)
    assert abs(predicted.values[..., 1].mean() - (mean[0] + 3 * mean[1])) < 0.1
    assert len(post.loo(pointwise=True).elpd_i) == 200


@pytest.mark.parametrize("kernel", [NUTS, SA, gibbs, AIES])
def test_other_kernels_are_refused_subsamples(kernel, line_data):
    with pytest.raises(bayes.UnsupportedModelError, match="plate 'row' takes a subsample"):
        bayes.fit(line, line_data, bayes.NumPyroKernel(kernel))


def test_latent_sites_in_a_subsample_are_refused():
    def hierarchy(y):
        with numpyro.plate("row", y.shape[0], subsample_size=2):
            theta = numpyro.sample("theta", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(theta, 1), obs=numpyro.subsample(y, event_dim=0))

    with pytest.raises(bayes.UnsupportedModelError, match="'theta' stands in a plate"):
        bayes.fit(hierarchy, {"y": Y}, bayes.NumPyroKernel(lambda m: HMCECS(NUTS(m))))
