"""Observations of which some are missing, as arrays, and the probes that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bayes.errors import DataError, SettingsError, ShapeError

__all__ = ["MaskedObservations", "normals", "observe_masked", "repeated"]

_PROBES, _NORMALS = 16, 2**14
"""Least numbers of probes, and of normals in them: small problems have little else to average."""


class MaskedObservations(NamedTuple):
    """Factors and observations of which some are missing.

    Parameters
    ----------
    factors : tuple of array of shape (m_i, n_i)
        Factors of the dictionary, wide or tall.
    y : array of shape (L, m_1, ..., m_I)
        Observations of L snapshots; zero where missing.
    mask : bool array of shape (L, m_1, ..., m_I) or (1, m_1, ..., m_I)
        True where observed.
    probes : array of shape (S * len(mask), m_1, ..., m_I)
        Standard normals, for traces: S for each mask. They stay the same, so that all estimates are
        smooth functions of the variances, and iterations converge.
    """

    factors: tuple[np.ndarray, ...]
    y: np.ndarray
    mask: np.ndarray
    probes: np.ndarray

    @property
    def size(self) -> int:
        """Numbers that were observed; a complex one counts once."""
        return int(self.mask.sum()) * (len(self.y) // len(self.mask))

    @property
    def power(self) -> float:
        """Mean square of the observations."""
        return float(np.vdot(self.y, self.y).real / self.size)


def observe_masked(
    factors: Sequence[np.ndarray],
    y: np.ndarray,
    mask: np.ndarray,
    generator: np.random.Generator,
    probes: int | None = None,
) -> MaskedObservations:
    """Leave out slices of which nothing was observed, and draw the probes.

    Parameters
    ----------
    factors : sequence of array of shape (m_i, n_i)
        Factors of the dictionary.
    y : array of shape (L, m_1, ..., m_I)
        Observations of L snapshots; what stands at missing entries does not matter.
    mask : bool array of shape (m_1, ..., m_I) or (L, m_1, ..., m_I)
        True where observed.
    generator : numpy.random.Generator
        For the probes.
    probes : int, optional
        Probes a mask, two at least. By default 16 over all masks, and more where these are small.

    Returns
    -------
    MaskedObservations

    Raises
    ------
    ShapeError
        Where the mask does not fit the observations.
    DataError
        Where nothing was observed, or something that is not finite.
    SettingsError
        Where there are fewer than two probes.
    """
    if probes is not None and probes < 2:
        raise SettingsError(f"probes must be at least 2, got {probes}")
    if mask.dtype != bool or mask.shape not in (y.shape, y.shape[1:]):
        raise ShapeError(
            f"mask must be boolean and of shape {y.shape[1:]} or {y.shape}, True where y was "
            f"observed; it has type {mask.dtype} and shape {mask.shape}"
        )
    mask = mask.reshape(-1, *y.shape[1:])
    if not mask.any():
        raise DataError("mask is False everywhere: nothing of y was observed")
    y = np.where(mask, y, 0.0).astype(np.result_type(y, *factors, 0.0))
    wrong = np.argwhere(~np.isfinite(y))
    if len(wrong):
        raise DataError(
            f"y has {len(wrong)} observed entries that are not finite, the first at "
            f"{tuple(wrong[0].tolist())}; set mask to False there"
        )
    kept = []
    for axis, factor in enumerate(factors, start=1):
        seen = np.flatnonzero(mask.any(axis=tuple(i for i in range(mask.ndim) if i != axis)))
        kept.append(factor[seen])
        y, mask = y.take(seen, axis), mask.take(seen, axis)
    if probes is None:
        probes = max(2, -(-_PROBES // len(mask)), -(-_NORMALS // mask.size))
    shape = (probes * len(mask), *y.shape[1:])
    return MaskedObservations(tuple(kept), y, mask, normals(generator, shape, y.dtype))


def repeated(mask: np.ndarray, count: int) -> np.ndarray:
    """Masks in turns, of shape (count, m_1, ..., m_I)."""
    return np.tile(mask, (count // len(mask), *[1] * (mask.ndim - 1)))


def normals(generator: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Standard normals; circular ones, each part of variance 1/2, where complex."""
    if not np.issubdtype(dtype, np.complexfloating):
        return generator.standard_normal(shape)
    parts = generator.standard_normal((*shape, 2)) * np.sqrt(0.5)
    return parts[..., 0] + 1j * parts[..., 1]
