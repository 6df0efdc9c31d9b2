"""Second derivatives of a mean-field objective by fixed draws, and covariances from them.

The objective of a mean and log scales eta at fixed standard normal draws z is
F = -mean_i log p(mean + exp(eta) z_i) - sum(eta) (Giordano, Ingram and Broderick 2024, eq. 6).
Where it is least, a tilt of the log density by t' x moves the mean by the upper left block of its
inverse Hessian times t. Under the posterior the same tilt moves the mean by the covariance; so that
block is a covariance, correlations included, that mean field itself does not have.

Everything here is in units of the scales: derivatives are by (mean / exp(eta), eta), so that
elements on any scale have second derivatives of comparable size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from bayes.inference.densities import gradients_at, hessian_products
from bayes.problem import Problem

__all__ = [
    "Response",
    "hessian",
    "hessian_product",
    "hessian_rows",
    "linear_response",
    "positions_of",
    "respond",
]

_PRODUCTS, _NUMBERS = 2**13, 4 * 10**6
"""Hessian products of a batch, and numbers in them."""
_ROUNDING = 1e-13


class Response(NamedTuple):
    """What linear response says.

    Parameters
    ----------
    covariance : array of shape (d, d)
        Covariance of the positions; NaN where the Hessian is not positive definite.
    hessian : array of shape (2 d, 2 d)
        Hessian of the objective by means and log scales, in units of the scales.
    positive : bool
        Whether the Hessian is positive definite.
    curvature : float
        Least eigenvalue of the Hessian where it is not positive definite, else 0; NaN where the
        Hessian is not finite.
    flattest : array of shape (d,)
        Share of every element in the direction of that eigenvalue.
    """

    covariance: Float[np.ndarray, "d d"]
    hessian: Float[np.ndarray, "n n"]
    positive: bool
    curvature: float
    flattest: Float[np.ndarray, " d"]


def linear_response(
    problem: Problem,
    mean: Float[np.ndarray, " d"],
    log_scale: Float[np.ndarray, " d"],
    noise: Float[np.ndarray, "s d"],
) -> Response:
    """Covariance of the posterior by linear response of a mean-field normal.

    Parameters
    ----------
    problem : Problem
        Model and data.
    mean, log_scale : array of shape (d,)
        The normal for which the objective is least.
    noise : array of shape (s, d)
        The fixed standard normal draws.

    Returns
    -------
    Response

    References
    ----------
    Giordano, Broderick and Jordan (2018), Covariances, robustness, and variational Bayes, eq. 9.
    Giordano, Ingram and Broderick (2024), Black box variational inference with a deterministic
    objective, section 3.3.
    """
    return respond(hessian(problem, mean, log_scale, noise), np.exp(log_scale))


def respond(hessian: Float[np.ndarray, "n n"], scale: Float[np.ndarray, " d"]) -> Response:
    """What linear response says for a Hessian in units of the scales.

    Parameters
    ----------
    hessian : array of shape (2 d, 2 d)
        Hessian of the objective.
    scale : array of shape (d,)
        Standard deviations of the mean-field normal.

    Returns
    -------
    Response
    """
    d = len(scale)
    unknown = np.full((d, d), np.nan)
    finite = np.isfinite(hessian)
    if not finite.all():
        rows = ~finite.all(axis=1)
        return Response(unknown, hessian, False, float("nan"), np.maximum(rows[:d], rows[d:]) * 1.0)
    try:
        factor = cho_factor(hessian, lower=True)
        # A pivot of rounding errors alone stands for none.
        pivots = np.square(np.diagonal(factor[0])) / np.diagonal(hessian)
        positive = bool(pivots.min() > _ROUNDING)
    except LinAlgError:
        factor, positive = None, False
    if factor is None or not positive:
        values, vectors = np.linalg.eigh(hessian)
        shares = np.square(vectors[:, 0])
        return Response(unknown, hessian, False, float(values[0]), shares[:d] + shares[d:])
    inverse = cho_solve(factor, np.eye(2 * d)[:, :d])[:d]
    covariance = np.outer(scale, scale) * 0.5 * (inverse + inverse.T)
    return Response(covariance, hessian, True, 0.0, np.zeros(d))


def positions_of(
    mean: Float[np.ndarray, " d"],
    log_scale: Float[np.ndarray, " d"],
    noise: Float[np.ndarray, "s d"],
) -> Float[np.ndarray, "s d"]:
    """Positions that the fixed draws stand for."""
    return mean + np.exp(log_scale) * noise


def hessian(
    problem: Problem,
    mean: Float[np.ndarray, " d"],
    log_scale: Float[np.ndarray, " d"],
    noise: Float[np.ndarray, "s d"],
) -> Float[np.ndarray, "n n"]:
    """Hessian of the objective, in units of the scales.

    Parameters
    ----------
    problem : Problem
        Model and data.
    mean, log_scale : array of shape (d,)
        Where.
    noise : array of shape (s, d)
        The fixed standard normal draws.

    Returns
    -------
    array of shape (2 d, 2 d)
    """
    d = problem.size
    found = np.zeros((2 * d, 2 * d))
    hessian_rows(problem, mean, log_scale, noise, found, range(d))
    return found


def hessian_rows(
    problem: Problem,
    mean: Float[np.ndarray, " d"],
    log_scale: Float[np.ndarray, " d"],
    noise: Float[np.ndarray, "s d"],
    out: Float[np.ndarray, "n n"],
    rows: range,
) -> None:
    """Fill in the rows and columns of some elements, means and log scales, of the Hessian.

    With ``H_i`` the Hessian of minus the log density at draw i, in units of the scales, its blocks
    are mean H_i, mean diag(z_i) H_i and mean diag(z_i) H_i diag(z_i), the last with a diagonal from
    the curvature of exp(eta). So a product with each unit vector at each draw is all it takes.
    """
    d, samples = problem.size, len(noise)
    scale = np.exp(log_scale)
    positions = positions_of(mean, log_scale, noise)
    with np.errstate(all="ignore"):  # what is not finite is told by ``respond``
        curved = _curved(problem, scale, positions, noise)
        count = max(1, min(_PRODUCTS, _NUMBERS // d) // samples)
        for begin in range(rows.start, rows.stop, count):
            part = np.arange(begin, min(begin + count, rows.stop))
            units = np.zeros((len(part), d))
            units[np.arange(len(part)), part] = scale[part]
            places, along = (
                np.repeat(v, n, axis=axis).reshape(-1, d)
                for v, n, axis in (
                    (positions[:, None], len(part), 1),
                    (units[None], samples, 0),
                )
            )
            products = -scale * hessian_products(problem, places, along)
            products = products.reshape(samples, len(part), d)
            weighted = products * noise[:, part, None]
            mixed = weighted.mean(axis=0)
            out[part, :d] = products.mean(axis=0)
            out[d + part, :d] = mixed
            out[:d, d + part] = mixed.T
            out[d + part, d:] = np.einsum("spd,sd->pd", weighted, noise) / samples
            out[d + part, d + part] += curved[part]


def hessian_product(
    problem: Problem,
    mean: Float[np.ndarray, " d"],
    log_scale: Float[np.ndarray, " d"],
    noise: Float[np.ndarray, "s d"],
    vector: Float[np.ndarray, " n"],
    curved: Float[np.ndarray, " d"],
) -> Float[np.ndarray, " n"]:
    """Product of the objective's Hessian, in units of the scales, with a vector.

    Parameters
    ----------
    problem : Problem
        Model and data.
    mean, log_scale : array of shape (d,)
        Where.
    noise : array of shape (s, d)
        The fixed standard normal draws.
    vector : array of shape (2 d,)
        Means first, then log scales.
    curved : array of shape (d,)
        Derivative of -mean log p by the log scales there.

    Returns
    -------
    array of shape (2 d,)
    """
    d = problem.size
    scale = np.exp(log_scale)
    along = scale * (vector[:d] + noise * vector[d:])
    products = -scale * hessian_products(problem, positions_of(mean, log_scale, noise), along)
    return np.concatenate(
        [products.mean(axis=0), (products * noise).mean(axis=0) + curved * vector[d:]]
    )


def _curved(
    problem: Problem, scale: np.ndarray, positions: np.ndarray, noise: np.ndarray
) -> Float[np.ndarray, " d"]:
    gradients = gradients_at(problem, positions)[1]
    return -(scale * noise * gradients).mean(axis=0)
