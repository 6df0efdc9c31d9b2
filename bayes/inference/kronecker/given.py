"""The coefficients given the variances: normal, and known up to solves with the covariance of y."""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence

import numpy as np

from bayes.inference.kronecker.conditional import matheron_draws
from bayes.inference.kronecker.evidence import (
    Spectrum,
    decompose,
    functional,
    posterior_mean,
    posterior_variance,
)
from bayes.inference.kronecker.imputation import Imputation, impute
from bayes.inference.kronecker.masked_posterior import (
    masked_draws,
    masked_functional,
    masked_mean,
    masked_variance,
)
from bayes.inference.kronecker.masks import MaskedObservations, observe_masked
from bayes.inference.kronecker.recognition import Recognised
from bayes.inference.randomness import Purpose, generator_of
from bayes.threefry import key_words

__all__ = ["GivenVariances", "given_variances"]

_PROBES = 64
"""Draws that tell what missing observations add to variances: a standard error of 18 % of that."""
_TOLERANCE = 1e-8


def given_variances(
    found: Recognised, relevances: Sequence[np.ndarray], variance: float
) -> GivenVariances:
    """The coefficients' posterior at given variances.

    Parameters
    ----------
    found : Recognised
        The program's parts.
    relevances : sequence of array of shape (n_i,)
        Prior variances along each axis; zero where pruned.
    variance : float
        Of the noise.

    Returns
    -------
    GivenVariances
    """
    if found.mask is None:
        return _Complete(found, relevances, variance)
    return _Masked(found, relevances, variance)


class GivenVariances(abc.ABC):
    """A normal distribution of the coefficients of L snapshots."""

    def __init__(
        self, found: Recognised, relevances: Sequence[np.ndarray], variance: float
    ) -> None:
        self.found, self.relevances, self.variance = found, tuple(relevances), variance

    @property
    @abc.abstractmethod
    def mean(self) -> np.ndarray:
        """Means, of shape (L, n_1, ..., n_I)."""

    @property
    @abc.abstractmethod
    def variances(self) -> np.ndarray:
        """Variances, of the same shape; or of one snapshot, where they are the same for all."""

    @abc.abstractmethod
    def functional(self, maps: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances of (C_1 x ... x C_I) x, likewise."""

    @abc.abstractmethod
    def draws(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Independent draws, of shape (count, L, n_1, ..., n_I)."""


class _Complete(GivenVariances):
    """In closed form."""

    @functools.cached_property
    def _spectrum(self) -> Spectrum:
        return decompose(self.found.model.observations, self.relevances)

    @property
    def mean(self) -> np.ndarray:
        return posterior_mean(self._spectrum, self.variance)

    @property
    def variances(self) -> np.ndarray:
        return posterior_variance(self._spectrum, self.variance)[None]

    def functional(self, maps: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        mean, variance = functional(self._spectrum, self.variance, maps)
        return mean, variance[None]

    def draws(self, generator: np.random.Generator, count: int) -> np.ndarray:
        return matheron_draws(self._spectrum, self.variance, generator, count)


class _Masked(GivenVariances):
    """By conjugate gradients; of the variances what missing observations add is estimated."""

    @functools.cached_property
    def _observations(self) -> MaskedObservations:
        found = self.found
        assert found.mask is not None
        probes = generator_of(key_words(0), Purpose.NOISE, 1)
        return observe_masked(found.factors, found.y, found.mask, probes, _PROBES)

    @functools.cached_property
    def _imputation(self) -> Imputation:
        return impute(self._observations, self.relevances, self.variance, tolerance=_TOLERANCE)

    @property
    def mean(self) -> np.ndarray:
        return masked_mean(self._observations, self.relevances, self.variance)

    @property
    def variances(self) -> np.ndarray:
        return masked_variance(self._observations, self.relevances, self.variance, self._imputation)

    def functional(self, maps: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        observed = (self._observations, self.relevances, self.variance)
        variance = masked_variance(*observed, self._imputation, maps)
        return masked_functional(*observed, maps), variance

    def draws(self, generator: np.random.Generator, count: int) -> np.ndarray:
        return masked_draws(self._observations, self.relevances, self.variance, generator, count)
