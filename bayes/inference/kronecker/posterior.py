"""What is known of a Kronecker model given its variances: all of it in closed form."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from bayes.errors import SettingsError, ShapeError
from bayes.inference.kronecker.given import GivenVariances, given_variances
from bayes.inference.kronecker.recognition import Recognised
from bayes.inference.randomness import Purpose, generator_of
from bayes.seeds import require_seed
from bayes.threefry import key_words

__all__ = ["KroneckerPosterior"]


class KroneckerPosterior:
    """The normal posterior of coefficients, given the variances along each axis and the noise.

    Arrays have the shape of the coefficients, (n_1, ..., n_I), with the snapshots before that where
    there are several; complex coefficients are complex numbers here.

    Parameters
    ----------
    found : Recognised
        The program's parts.
    relevances : sequence of array of shape (n_i,)
        Prior variances along each axis; zero where pruned.
    variance : float
        Of the noise.
    log_evidence : float
        Log density of the observations given the variances.
    trace : array
        Log evidence plus log prior of the variances after each sweep.
    """

    def __init__(
        self,
        found: Recognised,
        relevances: Sequence[np.ndarray],
        variance: float,
        log_evidence: float,
        trace: np.ndarray,
    ) -> None:
        self._found = found
        self.relevances = tuple(relevances)
        self.noise = float(np.sqrt(variance))
        self.log_evidence = log_evidence
        self.trace = trace

    @property
    def site(self) -> str:
        """Name of the coefficients' site."""
        return self._found.coefficients

    @property
    def pairs(self) -> bool:
        """Whether the program has complex coefficients as pairs."""
        return self._found.pairs

    @functools.cached_property
    def _given(self) -> GivenVariances:
        return given_variances(self._found, self.relevances, self.noise**2)

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """Posterior means."""
        return self._shaped(self._given.mean)

    @functools.cached_property
    def sd(self) -> np.ndarray:
        """Posterior standard deviations, of shape (n_1, ..., n_I): the same for each snapshot.

        Of complex coefficients the root of the mean square distance from the mean. Where
        observations are missing they may differ between snapshots, and what the missing ones add
        is estimated.
        """
        return np.sqrt(self._shared(self._given.variances))

    def support(self, probability: float | None = None) -> np.ndarray:
        """Which coefficients are not zero.

        Parameters
        ----------
        probability : float, optional
            Of the interval, central about the mean, that must leave out zero. By default
            coefficients count whose prior variance is not zero.

        Returns
        -------
        array of bool
        """
        if probability is None:
            kept = functools.reduce(np.multiply.outer, [g > 0 for g in self.relevances])
            return np.broadcast_to(kept, self.mean.shape)
        if not 0 < probability < 1:
            raise SettingsError(f"probability lies between 0 and 1, got {probability!r}")
        if self.pairs:  # the square over its scale is exponential
            far = np.sqrt(-np.log1p(-probability))
        else:
            far = float(ndtri(0.5 + 0.5 * probability))
        return np.abs(self.mean) > far * self.sd

    def linear(self, *maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Posterior of (C_1 x ... x C_I) x: reconstructions, contrasts, sums over axes.

        Parameters
        ----------
        *maps : array of shape (k_i, n_i)
            The C_i, one an axis.

        Returns
        -------
        mean : array of shape (..., k_1, ..., k_I)
        sd : array of shape (k_1, ..., k_I)

        Raises
        ------
        ShapeError
            Where they do not fit the coefficients.
        """
        matrices = checked_maps(maps, self._found.sizes, self.site)
        if any(np.iscomplexobj(m) for m in matrices) and not self.pairs:
            raise ShapeError(f"maps of '{self.site}' are complex, but its coefficients are real")
        mean, variance = self._given.functional(matrices)
        return self._shaped(mean), np.sqrt(self._shared(variance))

    def predict(self, *factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Posterior predictive of observations by other factors, their noise included.

        Parameters
        ----------
        *factors : array of shape (m_i, n_i)
            Factors of the dictionary.

        Returns
        -------
        mean : array of shape (..., m_1, ..., m_I)
        sd : array of shape (m_1, ..., m_I)
        """
        mean, sd = self.linear(*factors)
        return mean, np.hypot(sd, self.noise)

    def draws(self, count: int, seed: int = 0) -> np.ndarray:
        """Exact independent draws of the coefficients, by Matheron's rule.

        Parameters
        ----------
        count : int
            How many.
        seed : int
            Seed.

        Returns
        -------
        array of shape (count, ..., n_1, ..., n_I)
        """
        require_seed(seed)
        generator = generator_of(key_words(seed), Purpose.DRAWS, 0)
        found = self._given.draws(generator, count)
        return found.reshape(count, *self._found.batch, *found.shape[2:])

    def _shared(self, variances: np.ndarray) -> np.ndarray:
        """Without the axis of snapshots where all have the same."""
        return variances[0] if len(variances) == 1 else self._shaped(variances)

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(*self._found.batch, *values.shape[1:])


def checked_maps(maps: Sequence[np.ndarray], sizes: Sequence[int], site: str) -> list[np.ndarray]:
    """Maps as matrices that fit axes of these lengths.

    Raises
    ------
    ShapeError
        Says which does not.
    """
    matrices = [np.atleast_2d(np.asarray(m)) for m in maps]
    if len(matrices) != len(sizes):
        raise ShapeError(f"'{site}' has {len(sizes)} axes, got {len(matrices)} maps")
    for place, (matrix, size) in enumerate(zip(matrices, sizes, strict=True)):
        if matrix.ndim != 2 or matrix.shape[1] != size:
            raise ShapeError(
                f"map {place} has shape {matrix.shape}; axis {place} of '{site}' has {size} "
                "coefficients"
            )
    return matrices
