"""Geweke's joint distribution test of the transitions (Geweke 2004, Getting it right, section 3).

Data are drawn given the parameters, parameters are moved by a transition given the data, and so on:
the parameters' marginal is then the prior, which is known exactly. An error in the transition, or a
log density that is not that of the simulator, shifts it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base import array_stats

from bayes.inference.metric import identity_metric
from bayes.inference.transitions import Point, hmc_transition, nuts_transition
from bayes.precision import double_precision

CHAINS, ROUNDS, ROWS = 64, 4000, 5
Z = 4.5
"""6 functions in each of 4 runs of right samplers: a false alarm in about 6 000."""


def log_density(position, y):
    """mu ~ N(0, 1), log sigma ~ N(-0.5, 0.5), y ~ N(mu, sigma): a small funnel in its data."""
    mu, log_sigma = position
    prior = -0.5 * mu**2 - 0.5 * ((log_sigma + 0.5) / 0.5) ** 2
    return prior - ROWS * log_sigma - 0.5 * jnp.sum(((y - mu) / jnp.exp(log_sigma)) ** 2)


def nuts(density, point, momentum, seed):
    metric = identity_metric(2)._replace(scale=np.array([0.8, 0.4]))
    return nuts_transition(density, metric, point, momentum, seed, 0.9, jnp.asarray(6), 6)


def hmc(density, point, momentum, seed):
    metric = identity_metric(2)._replace(scale=np.array([0.8, 0.4]))
    return hmc_transition(density, metric, point, momentum, seed, 0.7, jnp.asarray(3))


def joint_draws(transition, log_density):
    """Parameters after every round, of shape (chain, round, 2)."""

    def chain(key):
        start_key, key = jax.random.split(key)
        start = jax.random.normal(start_key, (2,)) * jnp.array([1.0, 0.5]) - jnp.array([0.0, 0.5])

        def round_(position, inputs):
            key, seed = inputs
            data_key, momentum_key = jax.random.split(key)
            noise = jax.random.normal(data_key, (ROWS,))
            y = position[0] + jnp.exp(position[1]) * noise
            gradient = jax.value_and_grad(log_density)
            point = Point(position, *gradient(position, y))
            momentum = jax.random.normal(momentum_key, (2,))
            moved, _ = transition(lambda x: gradient(x, y), point, momentum, seed)
            return moved.x, moved.x

        seeds = jax.random.bits(key, (ROUNDS,), jnp.uint64)
        return jax.lax.scan(round_, start, (jax.random.split(key, ROUNDS), seeds))[1]

    with double_precision():
        keys = jax.random.split(jax.random.key(20), CHAINS)
        return np.asarray(jax.jit(jax.vmap(chain))(keys))


def z_scores(draws):
    mu, tau = draws[..., 0], (draws[..., 1] + 0.5) / 0.5
    functions = {
        "mu": (mu, 0.0),
        "tau": (tau, 0.0),
        "mu^2": (mu**2, 1.0),
        "tau^2": (tau**2, 1.0),
        "mu tau": (mu * tau, 0.0),
        "mu^2 tau": (mu**2 * tau, 0.0),
    }
    found = {}
    for name, (values, exact) in functions.items():
        ess = array_stats.ess(values, method="mean", chain_axis=0, draw_axis=1)
        found[name] = float((values.mean() - exact) / (values.std() / np.sqrt(ess)))
    return found


@pytest.mark.parametrize("transition", [nuts, hmc])
def test_a_right_sampler_keeps_the_prior(transition):
    z = z_scores(joint_draws(transition, log_density))
    assert max(map(abs, z.values())) < Z, z


def test_a_likelihood_that_is_not_the_simulators_is_found():
    def wrong(position, y):
        return log_density(position, y) + position[1]  # one row too few in the normalisation

    z = z_scores(joint_draws(nuts, wrong))
    assert max(map(abs, z.values())) > 2 * Z, z


def test_momenta_of_a_wrong_scale_are_found():
    def careless(density, point, momentum, seed):
        return nuts(density, point, 1.2 * momentum, seed)

    z = z_scores(joint_draws(careless, log_density))
    assert max(map(abs, z.values())) > 2 * Z, z
