"""Lynx and hare: the Lotka-Volterra equations with log-normal measurement error.

Pelts of snowshoe hares and Canada lynx bought by the Hudson's Bay Company, 1900 to 1920, in
thousands. Prey u and predator v follow du/dt = (alpha - beta v) u, dv/dt = (delta u - gamma) v;
what was bought scatters around them by a constant factor.

Source: Carpenter (2018), Predator-Prey Population Dynamics: the Lotka-Volterra model in Stan, Stan
case studies; priors as there. Data: the 21 years of that case study, after Howard's transcription
of Hewitt (1921) (stan-dev/example-models, BSD-3-Clause). The equations are solved here in log
populations by the classical Runge-Kutta method in sixths of a year, which at the posterior mean
agrees with an adaptive solver to better than 1e-4.

What to expect: theta = (alpha, beta, gamma, delta) near (0.55, 0.028, 0.80, 0.024), which is a
cycle of about ten years, 34 and 5.9 thousand at the start, and an error of 25 % for both species.
The four rates are strongly correlated.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

SUBSTEPS = 6  # of the Runge-Kutta method between two observations


def populations(theta, z_init, year):
    """Log populations at every `year`, shape (year, 2)."""
    sign = jnp.array([1.0, -1.0])

    def slope(log_z):
        return sign * (theta[::2] - theta[1::2] * jnp.exp(log_z[::-1]))

    def step(log_z, h):
        k1 = slope(log_z)
        k2 = slope(log_z + h / 2 * k1)
        k3 = slope(log_z + h / 2 * k2)
        k4 = slope(log_z + h * k3)
        return log_z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), log_z

    steps = jnp.repeat(jnp.diff(year) / SUBSTEPS, SUBSTEPS)
    last, path = jax.lax.scan(step, jnp.log(z_init), steps)
    return jnp.concatenate([path[::SUBSTEPS], last[None]])


def model(year, hare=None, lynx=None):
    """Two populations in a closed cycle, observed with multiplicative error.

    Parameters
    ----------
    year : array, shape (year,)
        Times of observation, the first being that of `z_init`.
    hare, lynx : array, shape (year,), optional
        Pelts of each species, in thousands.
    """
    loc = jnp.array([1.0, 0.05, 1.0, 0.05])
    scale = jnp.array([0.5, 0.05, 0.5, 0.05])
    theta = numpyro.sample("theta", dist.TruncatedNormal(loc, scale, low=0.0).to_event(1))
    z_init = numpyro.sample("z_init", dist.LogNormal(jnp.log(10.0), 1.0).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(-1.0, 1.0).expand([2]).to_event(1))
    log_z = populations(theta, z_init, year * 1.0)
    with numpyro.plate("year", year.shape[0]):
        numpyro.sample("hare", dist.LogNormal(log_z[:, 0], sigma[0]), obs=hare)
        numpyro.sample("lynx", dist.LogNormal(log_z[:, 1], sigma[1]), obs=lynx)


def data():
    """21 rows: `year`, `hare`, `lynx`."""
    import pandas

    return pandas.read_csv(pathlib.Path(__file__).with_name("data") / "lotka_volterra.csv")


DIMS = {"theta": ["rate"], "z_init": ["species"], "sigma": ["species"]}
COORDS = {"rate": ["alpha", "beta", "gamma", "delta"], "species": ["hare", "lynx"]}

REFERENCE = {
    "theta[0]": (0.5468645, 0.06305),
    "theta[1]": (0.02774729, 0.004154),
    "theta[2]": (0.8000954, 0.08937),
    "theta[3]": (0.02408592, 0.003528),
    "z_init[0]": (34.03522, 2.917),
    "z_init[1]": (5.935897, 0.5305),
    "sigma[0]": (0.2480569, 0.04326),
    "sigma[1]": (0.2510169, 0.04359),
}
REFERENCE_SOURCE = "posteriordb hudson_lynx_hare-lotka_volterra, reference means and mean squares"
