"""Kernels of NumPyro's, programs and exact answers that tests of ``NumPyroKernel`` share."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from arviz_stats.base import array_stats
from numpyro.infer import ESS, HMC, NUTS, DiscreteHMCGibbs, MixedHMC

Y = np.array([0.3, 2.1, -0.7, 1.9, 0.4])
NORMAL_DATA = {"n": 5, "y": Y}
PRECISION = 1 / 2.0**2 + 5 / 1.5**2
MEAN, SD = (1.0 / 2.0**2 + Y.sum() / 1.5**2) / PRECISION, PRECISION**-0.5

UNSETTLED = pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
"""For short runs, whose verdict is not what is tested."""


def z_score(draws, exact):
    """Distance from an exact mean in Monte Carlo standard errors."""
    ess = array_stats.ess(draws, method="mean", chain_axis=0, draw_axis=1)
    return (draws.mean() - exact) / (draws.std() / np.sqrt(ess))


def assert_moments(draws, mean, sd):
    """|z| < 4.5: a false alarm in 150 000."""
    assert abs(z_score(draws, mean)) < 4.5
    assert abs(z_score((draws - mean) ** 2, sd**2)) < 4.5


def slicing(model):
    return ESS(model, moves={ESS.DifferentialMove(): 0.8, ESS.RandomMove(): 0.2})


def gibbs(model):
    return DiscreteHMCGibbs(NUTS(model), modified=True)


def mixed(model):
    return MixedHMC(HMC(model, trajectory_length=1.2), num_discrete_updates=6)


POINTS = np.array([-1.2, 2.5, 0.4, 0.9, -2.0, 1.7])


def mixture(n, y=None):
    weight = numpyro.sample("weight", dist.Beta(2.0, 2.0))
    with numpyro.plate("row", n):
        component = numpyro.sample("component", dist.Bernoulli(weight))
        mean = numpyro.deterministic("mean", jnp.where(component == 1, 2.0, -1.0))
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


MIXTURE_DATA = {"n": len(POINTS), "y": POINTS}
