"""Starts: lost chains find their own way to where the others are."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayes
from bayes.compilation import computing
from bayes.inference.starts import ascend, evaluate


def vague_regression(x, y=None):
    beta = numpyro.sample("beta", dist.Normal(0.0, 1000.0).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(beta[0] + beta[1] * x, sigma), obs=y)


@pytest.fixture(scope="module")
def far_data():
    """Coefficients of hundreds, where the starts have ones, and a covariate that is not centred."""
    rng = np.random.default_rng(5)
    x = 100 + 15 * rng.normal(size=200)
    return {"x": x, "y": -700 + 900 * x + 5 * rng.normal(size=200)}


def bound(program, data):
    with computing():
        return bayes.Model(program).bind(data)


def test_a_climb_ends_at_the_level_of_the_others(far_data):
    problem = bound(vague_regression, far_data)
    start, scale = np.array([0.5, 0.5, 0.0]), np.array([100.0, 1.0, 0.1])
    with computing():
        exact = np.array([-700.0, 900.0, np.log(5.0)])
        level = float(evaluate(problem, exact[None])[0][0]) - 5.0
        found = ascend(problem, start, level, scale)
        density, _ = evaluate(problem, np.stack([start, found]))
    assert density[0] < level - 1e6
    assert density[1] >= level


def test_a_climb_without_a_level_ends_at_the_mode():
    """Precision 1/100 + 1; the start's first step goes where the density is not finite."""

    def edge(y=None):
        x = numpyro.sample("x", dist.Normal(0.0, 10.0))
        numpyro.factor("edge", jnp.where(x > 5.0, -jnp.inf, 0.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

    problem = bound(edge, {"y": np.asarray(3.0)})
    with computing():
        found = ascend(problem, np.array([-8.0]), np.inf, np.array([30.0]))
    np.testing.assert_allclose(found, [3.0 / 1.01], atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_chains_that_start_far_out_arrive_on_their_own(far_data, seed):
    post = bayes.fit(vague_regression, far_data, seed=seed)
    assert post.diagnostics.ok, post.diagnostics
    assert sum(post.method.info["copies"]) == 0
