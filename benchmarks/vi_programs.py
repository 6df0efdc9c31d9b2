"""The larger targets for approximations as plain NumPyro programs, the same for every engine."""

from __future__ import annotations

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

_SIGNALS = 10
"""How many of the coefficients of the horseshoe are thought to matter."""
_UNITS = 20
"""Hidden units of the network."""


def grouped_logistic(group, design, n_group, y=None):
    """Logistic regression with an intercept that varies by group, non-centred."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 2.0))
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    columns = design.shape[1]
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([columns]).to_event(1))
    with numpyro.plate("group", n_group):
        raw = numpyro.sample("raw", dist.Normal(0.0, 1.0))
        effect = numpyro.deterministic("effect", mean + spread * raw)
    with numpyro.plate("row", design.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=effect[group] + design @ slope), obs=y)


def horseshoe(design, y=None):
    """Regression with a regularised horseshoe prior, non-centred (Piironen and Vehtari 2017)."""
    rows, columns = design.shape
    noise = numpyro.sample("noise", dist.HalfNormal(2.0))
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 5.0))
    overall = numpyro.sample("overall", dist.HalfCauchy(1.0))
    slab = numpyro.sample("slab", dist.InverseGamma(2.0, 8.0))
    with numpyro.plate("column", columns):
        local = numpyro.sample("local", dist.HalfCauchy(1.0))
        raw = numpyro.sample("raw", dist.Normal(0.0, 1.0))
    scale = overall * noise * (_SIGNALS / (columns - _SIGNALS) / jnp.sqrt(rows)) * local
    shrunk = jnp.sqrt(slab) * scale / jnp.sqrt(slab + scale**2)
    coefficient = numpyro.deterministic("coefficient", raw * shrunk)
    with numpyro.plate("row", rows):
        numpyro.sample("y", dist.Normal(intercept + design @ coefficient, noise), obs=y)


def network(inputs, test_inputs, y=None):
    """Regression by a network with one hidden layer; its weights are not identified."""
    columns = inputs.shape[1]
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    first = numpyro.sample("first", dist.Normal(0.0, 1.0).expand([columns, _UNITS]).to_event(2))
    shift = numpyro.sample("shift", dist.Normal(0.0, 1.0).expand([_UNITS]).to_event(1))
    wide = dist.Normal(0.0, 1.0 / jnp.sqrt(_UNITS))
    second = numpyro.sample("second", wide.expand([_UNITS]).to_event(1))
    level = numpyro.sample("level", dist.Normal(0.0, 1.0))

    def surface(x):
        return level + jnp.tanh(x @ first + shift) @ second

    numpyro.deterministic("surface", surface(test_inputs))
    with numpyro.plate("row", inputs.shape[0]):
        numpyro.sample("y", dist.Normal(surface(inputs), noise), obs=y)


def logistic_in_parts(design, part, y=None):
    """Logistic regression whose plate takes a subsample of the rows."""
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 1.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([design.shape[1]]).to_event(1))
    with numpyro.plate("row", design.shape[0], subsample_size=part) as rows:
        logits = intercept + design[rows] @ slope
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=None if y is None else y[rows])
