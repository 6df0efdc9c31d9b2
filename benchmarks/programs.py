"""The benchmarks' own targets as plain NumPyro programs, the same for every engine."""

from __future__ import annotations

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints


def schools(sigma, y=None):
    """Eight schools, non-centred."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", sigma.shape[0]):
        raw = numpyro.sample("raw", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * raw)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def radon(county, design, n_county, y=None):
    """Intercepts that vary by county, non-centred; the priors of the gallery's radon model."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    weight = numpyro.sample("weight", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("county", n_county):
        raw = numpyro.sample("raw", dist.Normal(0.0, 1.0))
        effect = numpyro.deterministic("effect", mean + spread * raw)
    with numpyro.plate("house", county.shape[0]):
        numpyro.sample("y", dist.Normal(effect[county] + design @ weight, noise), obs=y)


def logistic(design, y=None):
    """Logistic regression."""
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 1.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([design.shape[1]]).to_event(1))
    with numpyro.plate("row", design.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=intercept + design @ slope), obs=y)


def item_response(persons, items, answers=None):
    """Two-parameter logistic item response with a population of items."""
    location = numpyro.sample("location", dist.Normal(0.0, 2.0))
    spread = numpyro.sample("spread", dist.HalfNormal(2.0))
    unevenness = numpyro.sample("unevenness", dist.HalfNormal(1.0))
    with numpyro.plate("item", items):
        difficulty = numpyro.sample("difficulty", dist.Normal(location, spread))
        discrimination = numpyro.sample("discrimination", dist.LogNormal(0.0, unevenness))
    with numpyro.plate("person", persons):
        ability = numpyro.sample("ability", dist.Normal(0.0, 1.0))
    logits = discrimination * (ability[:, None] - difficulty)
    numpyro.sample("answers", dist.Bernoulli(logits=logits).to_event(2), obs=answers)


def _flat(size):
    """A flat prior: what is observed then is the whole posterior, which is known."""
    return numpyro.sample("x", dist.ImproperUniform(constraints.real_vector, (), (size,)))


def correlated_gaussian(factor, y=None):
    """A mean, observed once with a dense covariance."""
    x = _flat(factor.shape[0])
    numpyro.sample("y", dist.MultivariateNormal(x, scale_tril=factor), obs=y)


def diagonal_gaussian(scale, y=None):
    """A mean, observed once with independent errors."""
    x = _flat(scale.shape[0])
    numpyro.sample("y", dist.Normal(x, scale).to_event(1), obs=y)


def autoregression(size, phi, start=None, y=None):
    """A stationary autoregression of standard deviation one, by its innovations: sparse."""
    x = _flat(size)
    numpyro.sample("start", dist.Normal(x[:1], 1.0).to_event(1), obs=start)
    errors = dist.Normal(x[1:] - phi * x[:-1], jnp.sqrt(1.0 - phi**2))
    numpyro.sample("y", errors.to_event(1), obs=y)


def gp(time, y=None):
    """Regression on a Gaussian process, marginal over the curve."""
    length = numpyro.sample("length", dist.InverseGamma(5.0, 5.0))
    height = numpyro.sample("height", dist.HalfNormal(1.0))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    distance = (time[:, None] - time[None, :]) / length
    covariance = height**2 * jnp.exp(-0.5 * distance**2) + noise**2 * jnp.eye(time.shape[0])
    curve = dist.MultivariateNormal(jnp.zeros(time.shape[0]), covariance_matrix=covariance)
    numpyro.sample("y", curve, obs=y)
