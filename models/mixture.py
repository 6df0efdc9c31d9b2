"""Old Faithful: a mixture of two normal distributions.

The waiting time to the next eruption of the Old Faithful geyser is short or long, depending on
whether the eruption before was. Two normal components, with their memberships summed out; the means
are ordered, so that the components cannot trade places.

Source: Azzalini and Bowman (1990), A look at some data on the Old Faithful geyser, Applied
Statistics 39; the mixture fitted by maximum likelihood in Benaglia et al. (2009), mixtools, Journal
of Statistical Software 32(6). The priors are this gallery's, weak in minutes; that of the standard
deviations vanishes at zero, because the waiting times are whole minutes, and a component on one of
them alone, of a standard deviation near zero, would have infinite mass. Data: the 272 waiting times
known as `faithful` in R.

What to expect: 36 % short waits around 54.6 minutes and long ones around 80.1, both with sd 5.9.
The maximum-likelihood estimates (mixtools: weights 0.361 and 0.639, means 54.61 and 80.09, standard
deviations 5.87 and 5.87) lie within a quarter of a posterior standard deviation of the means.
"""

import pathlib

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import transforms


def model(n, waiting=None):
    """Two-component normal mixture, marginal over the memberships.

    Parameters
    ----------
    n : int
        Number of eruptions.
    waiting : array, shape (eruption,), optional
        Waiting time to the next eruption, in minutes.
    """
    weight = numpyro.sample("weight", dist.Dirichlet(jnp.ones(2)))
    base = dist.Normal(jnp.array([60.0, 3.0]), jnp.array([15.0, 1.0])).to_event(1)  # mean, log gap
    mu = numpyro.sample("mu", dist.TransformedDistribution(base, transforms.OrderedTransform()))
    sigma = numpyro.sample("sigma", dist.LogNormal(2.0, 0.6).expand([2]).to_event(1))
    components = dist.MixtureSameFamily(dist.Categorical(probs=weight), dist.Normal(mu, sigma))
    with numpyro.plate("eruption", n):
        numpyro.sample("waiting", components, obs=waiting)


def data():
    """The 272 waiting times and their number."""
    import pandas

    frame = pandas.read_csv(pathlib.Path(__file__).with_name("data") / "mixture.csv")
    return {"n": len(frame), "waiting": frame["waiting"].to_numpy(float)}


DIMS = {"weight": ["component"], "mu": ["component"], "sigma": ["component"]}
COORDS = {"component": ["short", "long"]}

REFERENCE = {
    "weight[0]": (0.362143, 0.0314812),
    "mu[0]": (54.6728, 0.738552),
    "mu[1]": (80.0718, 0.519539),
    "sigma[0]": (6.00848, 0.580753),
    "sigma[1]": (5.94144, 0.416985),
}
REFERENCE_SOURCE = (
    "importance sampling, 200 000 draws of a multivariate t, effective size 163 000; "
    "a NumPyro NUTS run of 4 x 5000 draws agrees"
)
