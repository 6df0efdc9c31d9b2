"""Motorcycle impact: Gaussian process regression.

Acceleration of a dummy's head in the milliseconds after a simulated motorcycle crash, 133
measurements with repeated times, of which every second one is used, for speed. The curve is a
Gaussian process with squared exponential covariance and is integrated out, which leaves three
hyperparameters.

Source: Silverman (1985), Some aspects of the spline smoothing approach to non-parametric regression
curve fitting, Journal of the Royal Statistical Society B 47. The priors are those of the Stan
User's Guide for a standardised Gaussian process (InverseGamma(5, 5), half normal, half normal) in
units of 10 ms and 50 g. Data: the table of that paper, as in the R package MASS (mcycle).

What to expect: a length scale of 5.5 ms, noise of 19 g and, less certain, an amplitude of 50 g. The
noise in truth changes with time, so the one noise level is a compromise: too wide before the
impact, too narrow after it.
"""

import pathlib

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def model(time, acceleration=None):
    """Gaussian process with squared exponential covariance, marginal over the curve.

    Parameters
    ----------
    time : array, shape (measurement,)
        Time after the impact, in milliseconds.
    acceleration : array, shape (measurement,), optional
        Acceleration of the head, in g.
    """
    rho = numpyro.sample("rho", dist.InverseGamma(5.0, 50.0))
    alpha = numpyro.sample("alpha", dist.HalfNormal(50.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(50.0))
    distance = (time[:, None] - time[None, :]) / rho
    covariance = alpha**2 * jnp.exp(-0.5 * distance**2) + sigma**2 * jnp.eye(time.shape[0])
    curve = dist.MultivariateNormal(jnp.zeros(time.shape[0]), covariance_matrix=covariance)
    numpyro.sample("acceleration", curve, obs=acceleration)


def data():
    """67 rows, every second one of the table: `time`, `acceleration`."""
    import pandas

    path = pathlib.Path(__file__).with_name("data") / "gp_regression.csv"
    return pandas.read_csv(path).iloc[::2].reset_index(drop=True)


DIMS = {"acceleration": ["measurement"]}

REFERENCE = {
    "rho": (5.538832, 0.7719058),
    "alpha": (50.24047, 14.20086),
    "sigma": (19.32332, 1.888291),
}
REFERENCE_SOURCE = "exact: quadrature on a 90 x 90 x 90 grid of the log hyperparameters"
