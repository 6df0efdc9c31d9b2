"""The product of shards' normals with the prior counted once, and Newton steps from there."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from bayes.errors import ModelError, SettingsError, UnsupportedModelError
from bayes.normals import Normal, independent, normal_of_covariance, normal_of_precision
from bayes.posterior import Posterior
from bayes.prior_curvature import prior_curvature, prior_diagonal
from bayes.shards import Shards

__all__ = ["FORMS", "Form", "Merged", "given_prior", "narrowness", "newton", "normal_of", "product"]

_SETTLE, _SETTLED = 50, 1e-10
"""Most expansions of the prior, and the change of the mean, in sd, that ends them."""
_HALVINGS = 30


def normal_of(posterior: Posterior, number: int) -> Normal:
    """A shard's normal: the approximation's own, else that of its draws.

    Draws that were corrected (resampled, or of chains that began at the approximation) know more
    than the approximation does.
    """
    corrected = posterior.method.info.get("route", "raw") != "raw"
    if "approximation" in posterior.data.children and not corrected:
        group = posterior.data["approximation"].to_dataset()
        return Normal(*(np.asarray(group[name].values, float) for name in Normal._fields))
    try:
        flat = posterior.to_unconstrained().values
    except KeyError as error:
        raise ModelError(f"posterior {number}: {error.args[0]}") from error
    flat = flat.reshape(-1, flat.shape[-1])
    count, d = flat.shape
    if not np.isfinite(flat).all():
        raise ModelError(f"posterior {number} has draws that are not finite")
    if count <= d:
        raise UnsupportedModelError(
            f"posterior {number} has {count} draws of {d} dimensions, which do not give a "
            f"covariance; take more than {d}, or fit the shards with an approximation"
        )
    try:
        return normal_of_covariance(flat.mean(axis=0), np.cov(flat.T).reshape(d, d))
    except np.linalg.LinAlgError as error:
        raise UnsupportedModelError(
            f"the draws of posterior {number} have no covariance that is positive definite; take "
            "more of them"
        ) from error


def given_prior(prior: Any, d: int) -> Normal:
    """The normal that is given for the prior."""
    if isinstance(prior, Normal):
        normal = prior
    else:
        try:
            mean, sigma = (np.asarray(v, float) for v in prior)
            if sigma.shape != (d, d) or not np.allclose(sigma, sigma.T):
                raise ValueError
            normal = normal_of_covariance(mean, sigma)
        except np.linalg.LinAlgError as error:
            raise SettingsError("prior has a covariance that is not positive definite") from error
        except (TypeError, ValueError) as error:
            raise SettingsError(
                f"prior is None, a Normal or a pair of a mean of shape ({d},) and a symmetric "
                f"covariance of shape ({d}, {d})"
            ) from error
    if normal.mean.shape != (d,) or not all(np.isfinite(v).all() for v in normal):
        raise SettingsError(f"prior has a mean of shape {normal.mean.shape}, not ({d},) and finite")
    return normal


class Form(abc.ABC):
    """How precisions are kept: as matrices, or as their diagonals."""

    curvature: ClassVar[Callable]
    """Of the prior: gradient, and Hessian in this form."""

    @abc.abstractmethod
    def precision(self, normal: Normal) -> np.ndarray:
        """The precision of a normal."""

    @abc.abstractmethod
    def apply(self, precision: np.ndarray, x: np.ndarray) -> np.ndarray:
        """A precision's product with a vector."""

    @abc.abstractmethod
    def solve(self, precision: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The product of its inverse with a vector."""

    @abc.abstractmethod
    def normal(self, mean: np.ndarray, precision: np.ndarray) -> Normal:
        """The normal of a precision; raises LinAlgError where it is not positive definite."""

    @abc.abstractmethod
    def flattest(self, precision: np.ndarray) -> np.ndarray:
        """Weights of the coordinates in the direction of the least precision."""


class _Full(Form):
    curvature = staticmethod(prior_curvature)

    def precision(self, normal: Normal) -> np.ndarray:
        stretched = (normal.vectors * (1.0 / normal.values - 1.0)) @ normal.vectors.T
        return (np.eye(len(normal.mean)) + stretched) / np.outer(normal.scale, normal.scale)

    def apply(self, precision: np.ndarray, x: np.ndarray) -> np.ndarray:
        return precision @ x

    def solve(self, precision: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.linalg.solve(precision, x)

    def normal(self, mean: np.ndarray, precision: np.ndarray) -> Normal:
        return normal_of_precision(mean, precision)

    def flattest(self, precision: np.ndarray) -> np.ndarray:
        diagonal = np.abs(np.diagonal(precision))
        scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        return np.abs(np.linalg.eigh(precision / np.outer(scale, scale))[1][:, 0])


class _Diagonal(Form):
    curvature = staticmethod(prior_diagonal)

    def precision(self, normal: Normal) -> np.ndarray:
        stretched = np.square(normal.vectors) @ (1.0 / normal.values - 1.0)
        return (1.0 + stretched) / np.square(normal.scale)

    def apply(self, precision: np.ndarray, x: np.ndarray) -> np.ndarray:
        return precision * x

    def solve(self, precision: np.ndarray, x: np.ndarray) -> np.ndarray:
        return x / precision

    def normal(self, mean: np.ndarray, precision: np.ndarray) -> Normal:
        if not np.all(precision > 0):
            raise np.linalg.LinAlgError("a precision has an element that is not positive")
        return independent(mean, 1.0 / np.sqrt(precision))

    def flattest(self, precision: np.ndarray) -> np.ndarray:
        return np.where(precision > 0, 0.0, 1.0)


FORMS: dict[str, Form] = {"full": _Full(), "diagonal": _Diagonal()}


@dataclasses.dataclass(frozen=True)
class Merged:
    """A merged normal as far as there is one.

    Parameters
    ----------
    mean, precision : array
    problem : str
        Why the precision is none; empty where it is one.
    steps : tuple of float
        Shares of their Newton steps that the rounds took.
    notes : tuple of str
    """

    mean: np.ndarray
    precision: np.ndarray
    problem: str = ""
    steps: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


def product(
    shape: Form, shards: Shards, normals: list[Normal], given: Normal | None, *, patient: bool
) -> Merged:
    """The product of the shards' normals with the prior counted once.

    Everything is relative to the mean of the means, so that nothing cancels. A prior that is not
    normal is expanded at the merged mean, which moves it; where the two agree, the gradient of
    the product of densities is zero.

    Where there is no product and one is ``patient``, the prior stays counted as often as there are
    shards: a place to begin Newton's method.
    """
    others = shards.count - 1
    precisions = [shape.precision(normal) for normal in normals]
    centre = np.mean([normal.mean for normal in normals], axis=0)
    total = np.sum(precisions, axis=0)
    pull = np.sum(
        [shape.apply(p, n.mean - centre) for p, n in zip(precisions, normals, strict=True)], axis=0
    )
    beginning = centre + shape.solve(total, pull)
    mean, precision = beginning, total
    for _ in range(_SETTLE):
        gradient, hessian = _prior_at(shape, shards, given, mean)
        precision = total + others * hessian
        try:
            sd = shape.normal(mean, precision).sd
        except np.linalg.LinAlgError:
            text = _not_positive(shape, precision, shards.coordinates)
            return Merged(beginning, total if patient else precision, text)
        expansion = gradient - shape.apply(hessian, mean - centre)
        new = centre + shape.solve(precision, pull - others * expansion)
        moved = np.max(np.abs(new - mean) / sd)
        mean = new
        if moved < _SETTLED:
            return Merged(mean, precision)
    text = "the expansion of the prior at the merged mean did not settle: rounds=2 does better"
    return Merged(mean, precision, notes=(text,))


def _prior_at(
    shape: Form, shards: Shards, given: Normal | None, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Hessian of the log prior, or of the normal that is given for it."""
    if given is None:
        return type(shape).curvature(shards.first, x, shards.likelihood)
    precision = shape.precision(given)
    return shape.apply(precision, given.mean - x), -precision


def _not_positive(shape: Form, precision: np.ndarray, coordinates: list[str]) -> str:
    if not np.isfinite(precision).all():
        return "the merged precision is not finite: nor is the prior's Hessian at the merged mean"
    weights = shape.flattest(precision)
    worst = [i for i in np.argsort(-weights, kind="stable")[:3] if weights[i] > 0.1]
    names = ", ".join(coordinates[i] for i in worst)
    return (
        "the merged precision is not positive definite: less the prior, the shards do not determine"
        f" {names}; use fewer and larger shards, more draws of each, or rounds=2 to begin anew from"
        " the shards' own curvature"
    )


def newton(shards: Shards, merged: Merged, rounds: int) -> Merged:
    """Newton's method on the log density of all data, damped so that it never gets worse.

    Where the Hessian is not negative definite the precision before it stands in.
    """
    mean, precision, problem = merged.mean, merged.precision, merged.problem
    value, steps = float(shards.log_density(mean[None])[0]), []
    for _ in range(rounds):
        gradient, hessian = shards.curvature(mean)
        try:
            normal_of_precision(mean, -hessian)
            precision, problem = -hessian, ""
        except np.linalg.LinAlgError:
            if problem:
                problem = _not_positive(FORMS["full"], -hessian, shards.coordinates)
        step = np.linalg.solve(precision, gradient)
        shares = 0.5 ** np.arange(_HALVINGS)
        for share in shares:
            reached = float(shards.log_density((mean + share * step)[None])[0])
            if reached >= value - 1e-12 * (1.0 + abs(value)):
                mean, value = mean + share * step, max(reached, value)
                steps.append(float(share))
                break
        else:
            steps.append(0.0)
            break
    return Merged(mean, precision, problem, tuple(steps))


def narrowness(normals: list[Normal]) -> str:
    """What the diagonal form leaves out, measured on the shards' own normals."""
    shape = FORMS["diagonal"]
    ratios = np.concatenate([1.0 / np.sqrt(shape.precision(n)) / n.sd for n in normals])
    measured = (
        f"; by the shards' normals they are {np.median(ratios):.2g} of what they should be in the "
        f"median, {ratios.min():.2g} at least"
        if ratios.min() < 0.95
        else ""
    )
    return (
        "form='diagonal' leaves correlations out, and its standard deviations are too small where "
        f"parameters are correlated{measured}; form='full' keeps them"
    )
