"""Small programs that several tests share; one object each, so that each is compiled once."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from bayes.distributions import KroneckerLinear, KroneckerNormal

SCHOOLS_DATA = {
    "sigma": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
    "y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]),
}


def schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", sigma.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def normal_mean(n, y=None):
    """Conjugate: mu ~ N(1, 2), y ~ N(mu, 1.5)."""
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    with numpyro.plate("row", n):
        numpyro.sample("y", dist.Normal(mu, 1.5), obs=y)


def regression(x, y=None):
    intercept = numpyro.sample("intercept", dist.Normal(0, 5))
    slope = numpyro.sample("slope", dist.Normal(0, 5))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(intercept + slope * x, sigma), obs=y)


def funnel():
    scale = numpyro.sample("scale", dist.Normal(0, 3))
    with numpyro.plate("leaf", 9):
        numpyro.sample("x", dist.Normal(0, jnp.exp(scale / 2)))


def sparse(factors, y=None):
    """Kronecker sparse Bayesian learning; squares of half-normal scales are Gamma(1/2, 1/2)."""
    scales = [
        numpyro.sample(f"gamma_{i}", dist.Gamma(0.5, 0.5).expand([h.shape[1]]).to_event(1))
        for i, h in enumerate(factors)
    ]
    noise = numpyro.sample("noise", dist.HalfNormal(10.0))
    x = numpyro.sample("x", KroneckerNormal(scales))
    numpyro.sample("y", KroneckerLinear(factors, x, noise), obs=y)


def normal_regression(factors, y=None):
    """Conjugate: x ~ N(0, diag(1, 2, 3)), y ~ N(H x, 0.7)."""
    x = numpyro.sample("x", KroneckerNormal([jnp.array([1.0, 2.0, 3.0])]))
    numpyro.sample("y", KroneckerLinear(factors, x, 0.7), obs=y)


def sparse_problem(seed, sizes=(8, 12, 15), length=15, kept=3, snr=15.0):
    """Gaussian factors, coefficients that are independent normals on a product of supports.

    Parameters
    ----------
    seed : int
        Of all of it.
    sizes : tuple of int
        Rows of the factors.
    length : int
        Columns of each factor.
    kept : int
        Entries of each support.
    snr : float
        Signal to noise in decibel.

    Returns
    -------
    SparseProblem
    """
    rng = np.random.default_rng(1000 * int(snr) + seed)
    factors = [rng.standard_normal((m, length)) for m in sizes]
    support = [np.sort(rng.choice(length, kept, replace=False)) for _ in sizes]
    x = np.zeros((length,) * len(sizes))
    x[np.ix_(*support)] = rng.standard_normal((kept,) * len(sizes))
    signal = mapped(x, factors)
    noise = float(np.sqrt(np.mean(signal**2) / 10 ** (snr / 10)))
    y = signal + noise * rng.standard_normal(signal.shape)
    return SparseProblem(factors, y, x, noise, support)


class SparseProblem(NamedTuple):
    """A problem whose answer is known."""

    factors: list
    y: np.ndarray
    x: np.ndarray
    noise: float
    support: list

    @property
    def data(self):
        return {"factors": self.factors, "y": self.y}

    @property
    def places(self):
        """An index of the coefficients that are not zero."""
        return np.ix_(*self.support)

    def error(self, x):
        """Squared error of coefficients as a part of their power."""
        return np.sum(np.abs(x - self.x) ** 2) / np.sum(self.x**2)

    def oracle(self):
        """The same of least squares by one who knows the support."""
        known = [np.linalg.pinv(h[:, s]) for h, s in zip(self.factors, self.support, strict=True)]
        found = np.zeros_like(self.x)
        found[self.places] = mapped(self.y, known)
        return self.error(found)


def mapped(x, matrices):
    """(C_1 x ... x C_I) x, of the last axes of x."""
    for place, matrix in enumerate(matrices):
        axis = x.ndim - len(matrices) + place
        x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
    return x


_RNG = np.random.default_rng(5)
_ROWS = _RNG.normal(size=(5, 3))
_SEEN = _RNG.normal(size=5)
_PRECISION = np.diag(1 / np.array([1.0, 2.0, 3.0])) + _ROWS.T @ _ROWS / 0.49
_SMALL = sparse_problem(2, sizes=(5, 6), length=6, kept=2)


class Own(NamedTuple):
    """Programs of the structure that a structured method solves, to hold it to the contract.

    Parameters
    ----------
    program, data
        One whose posterior it estimates.
    shapes : dict
        Shapes of its sites.
    positive : str
        One of its sites that is positive.
    varying : str
        One of its sites whose draws differ.
    exact, exact_data
        One whose posterior is known, of the site ``site``.
    mean, sd : array
        Of that site.
    """

    program: Callable
    data: dict
    shapes: dict
    positive: str
    varying: str
    exact: Callable
    exact_data: dict
    site: str
    mean: np.ndarray
    sd: np.ndarray


STRUCTURED = {
    "kronecker_sbl": Own(
        program=sparse,
        data=_SMALL.data,
        shapes={"x": (6, 6), "gamma_0": (6,), "gamma_1": (6,), "noise": ()},
        positive="noise",
        varying="x",
        exact=normal_regression,
        exact_data={"factors": [_ROWS], "y": _SEEN},
        site="x",
        mean=np.linalg.solve(_PRECISION, _ROWS.T @ _SEEN / 0.49),
        sd=np.sqrt(np.diag(np.linalg.inv(_PRECISION))),
    )
}
"""By the name of the method."""
