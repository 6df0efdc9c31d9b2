"""Exact draws of coefficients given observations and variances, by Matheron's rule.

Of a draw of coefficients and observations together, x0 and H x0 + n0, the difference to what was
observed is taken back through the gain of the posterior mean: x0 + G H^H S^-1 (y - H x0 - n0) has
the posterior's mean and covariance. In the eigenvectors of the factors of the covariance S^-1 is
diagonal, and so is the covariance of the noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bayes.errors import ShapeError
from bayes.inference.kronecker.evidence import Observations, Spectrum, observe
from bayes.inference.kronecker.tensors import along

__all__ = ["conditional_draws", "matheron_draws"]

_BYTES = 2**26
"""Arrays that live at the same time take so much at most, unless one draw takes more."""
_ALIVE = 5
"""Arrays of coefficients alive at the same time."""


def matheron_draws(
    spectrum: Spectrum, variance: float, generator: np.random.Generator, count: int
) -> np.ndarray:
    """Draws of the coefficients at one set of variances.

    Parameters
    ----------
    spectrum : Spectrum
        At the prior variances; where one of them is zero, the coefficients are.
    variance : float
        Of the noise; of complex noise that of both parts together.
    generator : Generator
        All randomness; draws do not depend on how many are computed at once.
    count : int
        How many.

    Returns
    -------
    array of shape (count, L, n_1, ..., n_I)
        Complex where the observations or the factors are.

    References
    ----------
    Journel and Huijbregts (1978), Mining geostatistics, section VII.A.
    """
    factors, relevances, active = _restricted(spectrum.factors, spectrum.relevances)
    dtype = np.result_type(spectrum.y, *spectrum.factors)
    draws = np.zeros((count, len(spectrum.y), *map(len, spectrum.relevances)), dtype)
    if not all(map(len, active)):
        return draws
    # One set for all draws.
    values = [s[None] for s in spectrum.values]
    gains = [g[:, None] * factor.conj().T for g, factor in zip(relevances, factors, strict=True)]
    shapes = _shapes(spectrum.y, relevances)
    for part, z, noise in _normals(generator, count, *shapes, dtype):
        x = z * np.sqrt(_outer_each([g[None] for g in relevances]))
        residual = spectrum.y - _along_same(x, factors) - noise * np.sqrt(variance)
        residual /= variance + _outer_each(values)
        draws[(part, slice(None), *np.ix_(*active))] = x + _along_same(residual, gains)
    return draws


def conditional_draws(
    observations: Observations,
    relevances: Sequence[np.ndarray],
    variances: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """A draw of the coefficients at each of many draws of the variances.

    Parameters
    ----------
    observations : Observations
        Factors of the dictionary and what was observed.
    relevances : sequence of array of shape (S, n_i)
        Factors of the prior variances; where one of them is zero, the coefficients are.
    variances : array of shape (S,)
        Of the noise; of complex noise that of both parts together.
    generator : Generator
        All randomness; draws do not depend on how many are computed at once.

    Returns
    -------
    array of shape (S, L, n_1, ..., n_I)
        Complex where the observations or the factors are.

    Raises
    ------
    ShapeError
        Where the variances do not fit the factors or each other.

    References
    ----------
    Journel and Huijbregts (1978), Mining geostatistics, section VII.A.
    """
    variances = np.asarray(variances)
    relevances = [np.asarray(g) for g in relevances]
    count = len(variances)
    expected = [(count, factor.shape[1]) for factor in observations.factors]
    if [g.shape for g in relevances] != expected:
        raise ShapeError(
            f"{count} draws of the variances of these factors have shapes {expected}, got "
            f"{[g.shape for g in relevances]}"
        )
    dtype = np.result_type(observations.y, *observations.factors)
    sizes = [factor.shape[1] for factor in observations.factors]
    draws = np.zeros((count, len(observations.y), *sizes), dtype)
    factors, relevances, active = _restricted(observations.factors, relevances)
    if not all(map(len, active)):
        return draws
    factors, y, _, _ = observe(factors, observations.y)
    for part, z, noise in _normals(generator, count, *_shapes(y, relevances), dtype):
        g = [relevance[part] for relevance in relevances]
        variance = variances[part].reshape(-1, *(1,) * y.ndim)
        values, back = _eigen(factors, g)
        turned = [u @ factor for u, factor in zip(back, factors, strict=True)]
        gains = [a[:, :, None] * b.conj().mT for a, b in zip(g, turned, strict=True)]
        x = z * np.sqrt(_outer_each(g))
        residual = _along_each(y[None], back) - _along_each(x, turned) - noise * np.sqrt(variance)
        residual /= variance + _outer_each(values)
        draws[(part, slice(None), *np.ix_(*active))] = x + _along_each(residual, gains)
    return draws


def _eigen(
    factors: Sequence[np.ndarray], relevances: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Eigenvalues of H_i diag(g_i) H_i^H, of shape (S, r_i), and eigenvectors, in rows."""
    found = [
        np.linalg.eigh((factor * g[:, None, :]) @ factor.conj().T)
        for factor, g in zip(factors, relevances, strict=True)
    ]
    return [np.maximum(s, 0.0) for s, _ in found], [u.conj().mT for _, u in found]


def _restricted(
    factors: Sequence[np.ndarray], relevances: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Factors and variances without columns that are switched off at all draws; which remain."""
    active = [np.flatnonzero(g.reshape(-1, g.shape[-1]).any(axis=0)) for g in relevances]
    kept = [factor[:, index] for factor, index in zip(factors, active, strict=True)]
    return kept, [g[..., index] for g, index in zip(relevances, active, strict=True)], active


def _shapes(
    y: np.ndarray, relevances: Sequence[np.ndarray]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a draw of coefficients and of noise."""
    return (len(y), *(g.shape[-1] for g in relevances)), y.shape


def _normals(
    generator: np.random.Generator,
    count: int,
    coefficients: tuple[int, ...],
    noise: tuple[int, ...],
    dtype: np.dtype,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Standard normals for coefficients and noise, of as many draws at once as there is room for.

    Each draw takes its numbers before the next one does.
    """
    first, second = int(np.prod(coefficients)), int(np.prod(noise))
    parts = 2 if dtype.kind == "c" else 1
    size = max(1, _BYTES // (_ALIVE * max(first, second) * dtype.itemsize))
    for begin in range(0, count, size):
        lead = min(size, count - begin)
        z = generator.standard_normal((lead, (first + second) * parts))
        if parts == 2:  # circular: each part has half of the variance
            z = (z * np.sqrt(0.5)).view(complex)
        yield (
            slice(begin, begin + lead),
            z[:, :first].reshape(lead, *coefficients),
            z[:, first:].reshape(lead, *noise),
        )


def _outer_each(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Outer products of vectors of shape (S, n_i), of shape (S, 1, n_1, ..., n_I)."""
    found = vectors[0][:, None]
    for vector in vectors[1:]:
        found = found[..., None] * vector.reshape(len(vector), *(1,) * (found.ndim - 1), -1)
    return found


def _along_same(tensor: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Tensors of shape (S, L, ...) times the same matrix along each later axis."""
    lead = tensor.shape[:2]
    found = along(tensor.reshape(-1, *tensor.shape[2:]), matrices)
    return found.reshape(*lead, *found.shape[1:])


def _along_each(tensor: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Tensors of shape (S, L, n_1, ..., n_I) times matrices of shape (S, m_i, n_i).

    Those that make it smaller come first.
    """
    growth = [m.shape[1] / m.shape[2] for m in matrices]
    for axis in np.argsort(growth, kind="stable").tolist():
        matrix, shape = matrices[axis], tensor.shape
        before, after = shape[1 : axis + 2], shape[axis + 3 :]
        if after:
            flat = tensor.reshape(shape[0], -1, shape[axis + 2], int(np.prod(after)))
            found = matrix[:, None] @ flat
        else:  # one product for all leading axes
            found = tensor.reshape(shape[0], -1, shape[-1]) @ matrix.mT
        tensor = found.reshape(len(found), *before, matrix.shape[1], *after)
    return tensor
