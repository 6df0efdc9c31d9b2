"""Programs whose priors are changed in tests, and what the tests share."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import bayes
from bayes.surrogates.mixtures import mixture_of_covariances

DATA = {"x": np.array([0.5, 1.0, 2.0]), "y": np.array([0.1, -0.4, 1.3])}


def line(x, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    with numpyro.plate("row", x.shape[0]):
        shift = numpyro.sample("shift", dist.Normal(mu, sigma))
        numpyro.sample("y", dist.Normal(shift + share * slope.sum() * x, sigma), obs=y)


def shapes(y=None):
    """Every kind of support, in plates and out of them."""
    numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    low = numpyro.sample("low", dist.Uniform(-1.0, 2.0))
    numpyro.sample("shares", dist.Dirichlet(jnp.ones(3)))
    ordered = dist.transforms.OrderedTransform()
    cuts = dist.TransformedDistribution(dist.Normal(0, 1).expand([2]).to_event(1), ordered)
    numpyro.sample("cuts", cuts)
    with numpyro.plate("group", 2):
        inner = numpyro.sample("inner", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("column", 1), numpyro.plate("line", 2):
        numpyro.sample("above", dist.TruncatedNormal(0.0, 1.0, low=low))
    numpyro.sample("corr", dist.LKJCholesky(2, 1.0))
    numpyro.sample("y", dist.Normal(low + inner[0, 0], 1.0), obs=y)


def with_discrete(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    z = numpyro.sample("z", dist.Bernoulli(0.5))
    numpyro.sample("y", dist.Normal(mu + z, 1.0), obs=y)


def masked(y=None):
    with numpyro.handlers.mask(mask=False):
        numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def improper(y=None):
    a = numpyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(a + b, 1.0), obs=y)


def bind(prior, model, data):
    return bayes.Model.bind(*prior.rewritten(bayes.Model(model), data))


def values_at(problem, x):
    return {n: v[0] for n, v in problem.constrain(x[None]).items()}


def some_mixture(rng, d, k=3):
    a = rng.normal(size=(k, d, d))
    spreads = 0.2 * a @ np.swapaxes(a, 1, 2) / d + 0.2 * np.eye(d)
    return mixture_of_covariances(rng.dirichlet(np.ones(k)), rng.normal(size=(k, d)), spreads)
