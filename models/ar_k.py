"""Sunspots: an autoregression of order K.

The yearly sunspot numbers of 1749 to 1924, each regressed on the K years before it: K = 2 gave the
first autoregression in print. The likelihood is conditional on the first K years, so that the past
enters as a design matrix and any order runs through the same program.

Source: Yule (1927), On a method of investigating periodicities in disturbed series, with special
reference to Wolfer's sunspot numbers, Philosophical Transactions of the Royal Society A 226. The
priors are those of posteriordb's arK with every scale multiplied by ten, for sunspot numbers.
Data: NOAA National Geophysical Data Center, public domain, as shipped with statsmodels.

What to expect: a damped oscillation. Least squares gives 13.9, 1.336, -0.650 and residual sd 15.4;
the posterior means agree within a fifth of a standard deviation. The complex roots have modulus
0.81 and a period of about 10.6 years.
"""

import pathlib

import numpyro
import numpyro.distributions as dist


def model(past, sunspots=None):
    """Normal autoregression, conditional on the first K values.

    Parameters
    ----------
    past : array, shape (year, K)
        The K preceding values; column k lies k + 1 years back.
    sunspots : array, shape (year,), optional
        Yearly sunspot number.
    """
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 100.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([past.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(25.0))
    with numpyro.plate("year", past.shape[0]):
        numpyro.sample("sunspots", dist.Normal(alpha + past @ beta, sigma), obs=sunspots)


def data(order=2):
    """176 years less `order`: `past` and `sunspots`."""
    import pandas

    path = pathlib.Path(__file__).with_name("data") / "ar_k.csv"
    series = pandas.read_csv(path, index_col="year")["sunspots"]
    past = pandas.concat([series.shift(k) for k in range(1, order + 1)], axis=1)
    return {"past": past.to_numpy()[order:], "sunspots": series.to_numpy()[order:]}


DIMS = {"beta": ["lag"]}
COORDS = {"lag": [1, 2]}

REFERENCE = {
    "alpha": (13.93512, 2.006439),
    "beta[0]": (1.335924, 0.05850705),
    "beta[1]": (-0.6497516, 0.05854054),
    "sigma": (15.64861, 0.8518562),
}
REFERENCE_SOURCE = "exact: coefficients integrated out analytically, sigma by quadrature"
