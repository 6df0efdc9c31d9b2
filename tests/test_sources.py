"""What observed values are made of, and parameters judged over several prior draws."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import bayes
from bayes.data import Data, Signature
from bayes.parameters import check_parameters
from bayes.sources import observed_sources
from bayes.structure import trace_program

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2, 20))
UNIT = RNG.random(20)
GROUP = np.arange(20) % 4


def test_parameter_that_other_prior_draws_make_valid_is_accepted():
    def program(y=None):
        s = numpyro.sample("s", dist.Normal(-2, 1))
        numpyro.sample("y", dist.Normal(0, s), obs=y)

    data = Data.read({"y": Y}, Signature.of(program))
    traces = [trace_program(program, data, seed) for seed in range(2)]
    assert all(t["s"]["value"] < 0 for t in traces)
    check_parameters(traces, lambda seed: trace_program(program, data, seed))
    with pytest.raises(bayes.ModelError, match="site 'y': parameter 'scale' of Normal"):
        check_parameters(traces)


def test_sources_of_an_observed_value_are_followed_through_loops():
    def program(g, x, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1).expand([4]))

        def step(carry, row):
            i, value = row
            numpyro.sample("y", dist.Normal(a[i], 1), obs=value)
            return carry, None

        scan(step, 0.0, (g, jnp.log(y) + 0 * x))

    data = Data.read({"g": GROUP, "x": X, "y": UNIT}, Signature.of(program))
    assert observed_sources(program, data) == {"y": ("x", "y")}
