"""Length scale of a Gaussian process in five dimensions: hyperparameters alone.

Twenty values of a smooth function of five inputs, with little noise. The function is a Gaussian
process of unit variance with squared exponential covariance and is integrated out, which leaves its
length scale.

Source: Whittle, Ziomek, Rawling and Osborne (2025), Distribution Transformers: fast approximate
Bayesian inference with on-the-fly prior adaptation, arXiv 2502.02463, section 4.2.1: five inputs in
the unit cube, an inverse gamma prior of the length scale. The paper has five observations and
priors so narrow (InverseGamma(a, b) with a from 100 to 105, b from 100 to 700) that they teach next
to nothing; here there are twenty, and the prior is wide. Its parameters are arguments.
Data: simulated here from a length scale of 1 and noise of 0.1 with NumPy's default_rng(0), public
domain.

What to expect: a slightly skewed posterior around the length scale that made the data, a twelfth as
wide as the prior.
"""

import pathlib

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

INPUTS = ["x1", "x2", "x3", "x4", "x5"]


def model(a, b, x, y=None):
    """Gaussian process with squared exponential covariance, marginal over the function.

    Parameters
    ----------
    a, b : float
        Shape and rate of the prior of the length scale.
    x : array, shape (point, 5)
        Inputs.
    y : array, shape (point,), optional
        Values, with noise of standard deviation 0.1.
    """
    scale = numpyro.sample("lengthscale", dist.InverseGamma(a, b))
    squares = jnp.square(x[:, None, :] - x[None, :, :]).sum(-1)
    covariance = jnp.exp(-0.5 * squares / scale**2) + 0.1**2 * jnp.eye(x.shape[0])
    function = dist.MultivariateNormal(jnp.zeros(x.shape[0]), covariance_matrix=covariance)
    numpyro.sample("y", function, obs=y)


def data(a=3.0, b=3.0):
    """Twenty points: `x` and `y`; and `a`, `b` of the prior."""
    import pandas

    path = pathlib.Path(__file__).with_name("data") / "gp_hyperparameters.csv"
    table = pandas.read_csv(path)
    return {"a": a, "b": b, "x": table[INPUTS].to_numpy(), "y": table["y"].to_numpy()}


DIMS = {"y": ["point"]}

REFERENCE = {"lengthscale": (0.9946573, 0.1225358)}
REFERENCE_SOURCE = "exact: quadrature on 20 001 points of the log length scale"
