"""The joint distribution test of NUTS and HMC: right programs pass, planted faults do not."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import normal_mean

import bayes
from bayes.geweke import geweke


def spread(n, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    scale = numpyro.sample("scale", dist.LogNormal(-0.5, 0.5))
    with numpyro.plate("row", n):
        numpyro.sample("y", dist.Normal(mu, scale), obs=y)


def one_row_too_many(n, y=None):
    """``spread`` with another observed row's normalisation."""
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    scale = numpyro.sample("scale", dist.LogNormal(-0.5, 0.5))
    numpyro.factor("normalisation", -jnp.log(scale))
    with numpyro.plate("row", n):
        numpyro.sample("y", dist.Normal(mu, scale), obs=y)


def sized_by_data(y):
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    with numpyro.plate("row", y.shape[0]):
        numpyro.sample("z", dist.Normal(mu, 1.5), obs=jnp.log(y))


@dataclasses.dataclass(frozen=True)
class Careless(bayes.NUTS):
    """NUTS whose momenta are too large."""

    name = ""

    def transition(self, density, metric, point, momentum, seed, step, depth):
        return super().transition(density, metric, point, 1.3 * momentum, seed, step, depth)


@pytest.mark.parametrize("method", ["nuts", "hmc"])
def test_right_kernels_keep_the_prior(method):
    """A false alarm in 100 seeds for each, and this seed is none."""
    found = geweke(spread, {"n": 4}, method, rounds=300, seed=1)
    assert found.ok, found.verdict
    assert list(found.table.index) == [
        "mu (mean)",
        "scale (mean)",
        "mu (square)",
        "scale (square)",
    ]
    assert found.verdict.startswith(f"ok: {method} keeps the prior of spread")


def test_a_program_that_needs_its_data():
    found = geweke(sized_by_data, {"y": np.ones(3)}, "hmc", rounds=100, seed=2)
    assert found.ok, found.verdict


@pytest.mark.parametrize(
    ("program", "method"), [(one_row_too_many, "hmc"), (spread, Careless())], ids=["row", "kernel"]
)
def test_planted_faults_are_found(program, method):
    found = geweke(program, {"n": 4}, method, rounds=300, seed=1)
    assert not found.ok
    assert np.abs(found.table["z"]).max() > 6
    assert found.verdict.startswith("not ok: ")


def test_what_has_no_transition_is_refused(unchecked):
    from numpyro.infer import SA

    with pytest.raises(bayes.UnsupportedModelError, match=r"bayes\.sbc tests every method"):
        geweke(normal_mean, {"n": 3}, bayes.NumPyroKernel(SA))
    with pytest.raises(bayes.SettingsError, match="chains must be at least 16"):
        geweke(normal_mean, {"n": 3}, chains=2)
    assert bayes.geweke is geweke
