"""What a Kronecker sparse Bayesian model is made of, as arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from bayes.inference.kronecker.evidence import Observations
from bayes.inference.kronecker.penalties import Prior, log_prior

__all__ = ["Axis", "Noise", "SparseModel"]


@dataclasses.dataclass(frozen=True)
class Axis:
    """Prior variances along one axis: C t, of a vector t that is learned or given.

    Parameters
    ----------
    size : int
        Number of coefficients.
    prior : Prior, optional
        Of t; None where ``given`` is.
    operator : array of shape (n, k), optional
        The C; the identity by default.
    given : array of shape (k,), optional
        A t that is known.
    """

    size: int
    prior: Prior | None = None
    operator: np.ndarray | None = None
    given: np.ndarray | None = None

    @property
    def length(self) -> int:
        """Length of t."""
        return self.size if self.operator is None else self.operator.shape[1]

    def relevance(self, t: np.ndarray) -> np.ndarray:
        """Prior variances at a t; along the last axis of it."""
        return t if self.operator is None else t @ self.operator.T


@dataclasses.dataclass(frozen=True)
class Noise:
    """Variance of the noise, learned or given.

    Parameters
    ----------
    prior : Prior, optional
        None where it is given.
    given : float, optional
        The variance.
    """

    prior: Prior | None = None
    given: float | None = None


@dataclasses.dataclass(frozen=True)
class SparseModel:
    """Observations and what their variances are made of.

    Parameters
    ----------
    observations : Observations
        Factors of the dictionary and what was observed.
    axes : tuple of Axis
        One a factor.
    noise : Noise
        Variance of the noise.
    repeats : float
        How often the observations stand there, beside once for the priors: a mean over copies.
    """

    observations: Observations
    axes: tuple[Axis, ...]
    noise: Noise
    repeats: float = 1.0

    def relevances(self, parameters: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Factors of the prior variances at given t."""
        return [axis.relevance(t) for axis, t in zip(self.axes, parameters, strict=True)]

    @property
    def has_flat_axes(self) -> bool:
        """Whether no prior of variances along an axis says anything."""
        return all(axis.prior is None or axis.prior.is_flat for axis in self.axes)

    @property
    def with_flat_axes(self) -> SparseModel:
        """The same with priors of variances along the axes that say nothing."""
        flat = Prior("ImproperUniform")
        axes = tuple(
            axis if axis.prior is None else dataclasses.replace(axis, prior=flat)
            for axis in self.axes
        )
        return dataclasses.replace(self, axes=axes)

    def pruned(self, parameters: Sequence[np.ndarray], prune: float) -> list[np.ndarray]:
        """The same, with zeros where they are below this part of the largest along their axis."""
        found = []
        for axis, t in zip(self.axes, parameters, strict=True):
            kept = t if axis.given is not None else np.where(t > prune * t.max(), t, 0.0)
            relevance = axis.relevance(kept)
            if axis.given is None:
                relevance = np.where(relevance > prune * relevance.max(), relevance, 0.0)
            found.append(relevance)
        return found

    def log_prior(self, parameters: Sequence[np.ndarray], variance: float) -> float:
        """Log density of the priors, up to what those that are flat would add."""
        total = 0.0 if self.noise.prior is None else log_prior(self.noise.prior, variance)
        for axis, t in zip(self.axes, parameters, strict=True):
            if axis.prior is not None:
                total += log_prior(axis.prior, t)
        return total
