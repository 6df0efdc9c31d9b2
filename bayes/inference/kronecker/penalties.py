"""Priors of variances as terms of a majorising function, and its minimum in closed form.

The updates minimise, in each variance t, a function b t + a / t + c log t + e t^2 that touches the
objective at the present t and lies above it elsewhere. Minus the log density of each prior here is
of that form, or lies below one that touches it, so that MAP estimates take the same monotone steps.

References
----------
Hunter and Lange (2004), A tutorial on MM algorithms, The American Statistician 58.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

__all__ = ["PRIORS", "Prior", "Terms", "log_prior", "majorise", "minimum"]


class Terms(NamedTuple):
    """Coefficients of b t + a / t + c log t + e t^2.

    Parameters
    ----------
    inverse, linear, log, square : float or array
        a, b, c and e.
    """

    inverse: np.ndarray | float = 0.0
    linear: np.ndarray | float = 0.0
    log: np.ndarray | float = 0.0
    square: np.ndarray | float = 0.0

    def times(self, factor: float) -> Terms:
        """A multiple of the function."""
        return Terms(*(factor * mine for mine in self))

    def plus(self, other: Terms) -> Terms:
        """The sum of both functions."""
        return Terms(*(mine + its for mine, its in zip(self, other, strict=True)))


PRIORS = {
    "ImproperUniform": (),
    "Gamma": ("concentration", "rate"),
    "InverseGamma": ("concentration", "rate"),
    "Exponential": ("rate",),
    "HalfCauchy": ("scale",),
    "HalfNormal": ("scale",),
}
"""NumPyro's distributions that the updates take as priors, and their parameters."""


@dataclasses.dataclass(frozen=True)
class Prior:
    """The prior of a site that a variance is made of.

    Parameters
    ----------
    kind : str
        A key of ``PRIORS``.
    parameters : tuple of array
        Its parameters, which broadcast with the site's value.
    power : int
        The variance is the site to this power: 1 for a variance, 2 for a standard deviation.
    """

    kind: str
    parameters: tuple[np.ndarray, ...] = ()
    power: int = 1

    def of(self, kept: np.ndarray) -> Prior:
        """The prior of some elements."""
        parts = tuple(np.asarray(p) for p in self.parameters)
        return Prior(self.kind, tuple(p[kept] if p.ndim else p for p in parts), self.power)

    @property
    def is_flat(self) -> bool:
        """Whether it says nothing of the variance."""
        return self.kind == "ImproperUniform"


def majorise(prior: Prior, variance: np.ndarray | float) -> Terms:
    """Terms of a function above minus the log prior that touches it at given variances.

    Parameters
    ----------
    prior : Prior
        The prior of u, where the variance is t = u or t = u^2.
    variance : array
        The t where both are equal.

    Returns
    -------
    Terms
        Functions of t.
    """
    p = prior.power
    if prior.kind == "Exponential":
        (rate,) = prior.parameters
        prior = Prior("Gamma", (np.ones_like(rate), rate), p)
    match prior.kind:
        case "Gamma":
            concentration, rate = prior.parameters
            # sqrt(t) lies below its tangent.
            slope = rate if p == 1 else rate / (2.0 * np.sqrt(variance))
            return Terms(linear=slope, log=(1.0 - concentration) / p)
        case "InverseGamma":
            concentration, rate = prior.parameters
            # So does sqrt(w), of w = 1 / t.
            slope = rate if p == 1 else rate * np.sqrt(variance) / 2.0
            return Terms(inverse=slope, log=(1.0 + concentration) / p)
        case "HalfCauchy":
            (scale,) = prior.parameters
            # log(1 + w) lies below its tangent in w = u^2 / scale^2.
            bend = 1.0 / (scale**2 + np.asarray(variance) ** (2 // p))
            return Terms(square=bend) if p == 1 else Terms(linear=bend)
        case "HalfNormal":
            (scale,) = prior.parameters
            bend = 0.5 / scale**2
            return Terms(square=bend) if p == 1 else Terms(linear=bend)
    return Terms()


def log_prior(prior: Prior, variance: np.ndarray | float) -> float:
    """Log density of the site at given variances; 0 of one that is flat."""
    u = np.asarray(variance) ** (1.0 / prior.power)
    match prior.kind:
        case "Gamma":
            shape, rate = prior.parameters
            density = shape * np.log(rate) - gammaln(shape) + (shape - 1.0) * np.log(u) - rate * u
        case "InverseGamma":
            shape, rate = prior.parameters
            density = shape * np.log(rate) - gammaln(shape) - (shape + 1.0) * np.log(u) - rate / u
        case "Exponential":
            (rate,) = prior.parameters
            density = np.log(rate) - rate * u
        case "HalfCauchy":
            (scale,) = prior.parameters
            density = np.log(2.0 / (np.pi * scale)) - np.log1p((u / scale) ** 2)
        case "HalfNormal":
            (scale,) = prior.parameters
            density = 0.5 * np.log(2.0 / np.pi) - np.log(scale) - 0.5 * (u / scale) ** 2
        case _:
            return 0.0
    return float(np.sum(np.broadcast_to(density, u.shape)))


_NEWTON = 100


def minimum(terms: Terms, present: np.ndarray | float) -> np.ndarray:
    """Where b t + a / t + c log t + e t^2 is least among t >= 0.

    Its derivative, times t^2, is 2 e t^3 + b t^2 + c t - a, which has one positive root by
    Descartes' rule of signs.

    Parameters
    ----------
    terms : Terms
        The coefficients; a, b and e are not negative.
    present : array
        Kept where the function is constant.

    Returns
    -------
    array
    """
    a, b, c, e = terms
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(c * c + 4.0 * a * b)
        # Each form where it does not cancel.
        t = np.where(np.greater(c, 0), 2.0 * a / (c + root), (root - c) / (2.0 * b))
    nothing = (np.equal(a, 0)) & (np.equal(b, 0)) & (np.equal(c, 0))
    t = np.where(nothing, present, t)
    if not np.any(e):
        return t
    a, b, c, e = np.broadcast_arrays(*terms, t)[:4]
    bent = e > 0
    # Newton's method comes down to the root of a convex function from any point above it.
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.where(c < 0, np.sqrt(np.abs(c) / (2.0 * e)), 0.0) + np.cbrt(a / (2.0 * e))
    t = np.where(bent, np.fmin(np.nan_to_num(t, nan=np.inf), above), t)
    for _ in range(_NEWTON):
        value = ((2.0 * e * t + b) * t + c) * t - a
        slope = (6.0 * e * t + 2.0 * b) * t + c
        step = np.where(bent & (slope > 0), value / np.where(slope > 0, slope, 1.0), 0.0)
        t = np.maximum(t - step, 0.0)
        if np.all(np.abs(step) <= 1e-14 * t):
            break
    return np.asarray(t)
