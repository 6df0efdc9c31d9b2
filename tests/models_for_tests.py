"""Small programs that several tests share; one object each, so that each is compiled once."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

SCHOOLS_DATA = {
    "sigma": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
    "y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]),
}


def schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", sigma.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def normal_mean(n, y=None):
    """Conjugate: mu ~ N(1, 2), y ~ N(mu, 1.5)."""
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    with numpyro.plate("row", n):
        numpyro.sample("y", dist.Normal(mu, 1.5), obs=y)


def regression(x, y=None):
    intercept = numpyro.sample("intercept", dist.Normal(0, 5))
    slope = numpyro.sample("slope", dist.Normal(0, 5))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(intercept + slope * x, sigma), obs=y)


def funnel():
    scale = numpyro.sample("scale", dist.Normal(0, 3))
    with numpyro.plate("leaf", 9):
        numpyro.sample("x", dist.Normal(0, jnp.exp(scale / 2)))
