"""Programs that simulators are made of in tests, and how what they draw is held to be right."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from bayes.model import Model
from bayes.precision import simulating
from bayes.surrogates.simulator import Simulator

X = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
CODES = np.array([0, 2, 2, 5, 5, 7])
LINE = {"x": X, "code": CODES, "y": np.zeros(6)}
N = 4000
WIDE = 5.0
"""Monte Carlo errors that are allowed: a false alarm has probability 6e-7 for each number."""


def line(x, code, y=None):
    a = numpyro.sample("a", dist.Normal(1.0, 0.5))
    s = numpyro.sample("s", dist.LogNormal(0.0, 0.3))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(a * x + code, s), obs=y)


def scaled(x, tau, y=None):
    """A hyperparameter of the prior is an argument."""
    a = numpyro.sample("a", dist.Normal(0.0, tau))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(a * x, 1.0), obs=y)


def fixed_plate(x, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("row", 6):
        numpyro.sample("y", dist.Normal(a * x, 1.0), obs=y)


def no_plate(x, y=None):
    a = numpyro.sample("a", dist.Normal())
    numpyro.sample("y", dist.Normal(a * x, 1.0).to_event(1), obs=y)


def by_index(group, y=None):
    with numpyro.plate("group", 3):
        b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("row", group.shape[0]):
        numpyro.sample("y", dist.Normal(b[group], 1.0), obs=y)


def two_sites(x, t, y=None, z=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(a * x, 1.0), obs=y)
    with numpyro.plate("event", t.shape[0]):
        numpyro.sample("z", dist.Poisson(jnp.exp(a) * t), obs=z)


def needs_y(y):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("row", y.shape[0]):
        numpyro.sample("y", dist.Normal(a, 1.0), obs=y)


def lagged(y):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("row", y.shape[0] - 1):
        numpyro.sample("next", dist.Normal(a * y[:-1], 1.0), obs=y[1:])


def discrete(x, y=None):
    k = numpyro.sample("k", dist.Bernoulli(0.5))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(k * x, 1.0), obs=y)


def local(x, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("row", x.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(a, 1.0))
        numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def overflowing(x, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 200.0))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(jnp.exp(jnp.abs(a)) * x, 1.0), obs=y)


def by_factor(x, y=None):
    a = numpyro.sample("a", dist.Normal())
    level = 0.0 if y is None else -jnp.square(y - a * x).sum()
    numpyro.factor("likelihood", level)


SIX = {"x": X, "y": np.zeros(6)}


def made(fn, data, **options):
    return Simulator(Model(fn), data, **options)


def drawn(simulator, rows=None, seed=1):
    """Positions, tables and arguments of many draws."""
    rows = simulator.rows if rows is None else rows
    with simulating():
        run = jax.jit(jax.vmap(lambda k: simulator.draw_whole(k, rows)))
        return jax.tree.map(np.asarray, run(jax.random.split(jax.random.key(seed), N)))


def assert_near(found, wanted):
    """Means and second moments of two independent samples, within Monte Carlo errors."""
    for power in (1, 2):
        a, b = found**power, wanted**power
        error = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
        assert np.all(np.abs(a.mean(axis=0) - b.mean(axis=0)) <= WIDE * error + 1e-6)


def design(key):
    first, second = jax.random.split(key)
    return {"tau": jax.random.uniform(first, (), minval=1.0, maxval=3.0),
            "x": jax.random.uniform(second, (6,), minval=20.0, maxval=30.0)}  # fmt: skip
