"""The problems of kronecker_sbl.py: programs, data, and what estimates are judged by.

The made-up problems are those of He and Joseph (2023), Bayesian algorithms for Kronecker-structured
sparse vector recovery with application to IRS-MIMO channel estimation, arXiv 2307.14719, with the
noise variance unknown to all. A signal-to-noise ratio is that of the mean square of the noiseless
observations to the variance of the noise, in dB.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from scipy.fft import dct

from bayes.distributions import (
    ComplexKroneckerLinear,
    ComplexKroneckerNormal,
    KroneckerLinear,
    KroneckerNormal,
    as_pairs,
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Data, and what they were made of.

    Parameters
    ----------
    factors : tuple of array of shape (M_i, N_i)
        The dictionary's.
    y : array of shape (M_1, ..., M_I)
    variance : float
        Of the noise; of complex noise that of both parts together.
    target : array
        The truth of what matters.
    x : array of shape (N_1, ..., N_I), optional
        The coefficients, where they are known.
    support : tuple of array of int, optional
        Where they are not zero, along each mode.
    maps : tuple of array of shape (K_i, N_i), optional
        What matters is (C_1 x ... x C_I) x; x itself where there are none.
    rate : float
        Of the gamma priors of relevances, by the size that the coefficients have.
    """

    factors: tuple[np.ndarray, ...]
    y: np.ndarray
    variance: float
    target: np.ndarray
    x: np.ndarray | None = None
    support: tuple[np.ndarray, ...] | None = None
    maps: tuple[np.ndarray, ...] | None = None
    rate: float = 0.5

    @property
    def is_complex(self) -> bool:
        return np.iscomplexobj(self.y)

    @property
    def data(self) -> dict:
        """What a program is fitted to."""
        y = as_pairs(self.y) if self.is_complex else self.y
        return {"factors": list(self.factors), "y": y}

    @property
    def on_support(self) -> tuple[np.ndarray, ...]:
        """The index of the coefficients that are not zero."""
        assert self.support is not None
        return np.ix_(*self.support)


def apply(matrices: Sequence[np.ndarray], x: np.ndarray) -> np.ndarray:
    """A Kronecker product times a tensor."""
    for axis, matrix in enumerate(matrices):
        x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
    return x


# Programs ---------------------------------------------------------------------------------------


@functools.cache
def program(kind: str, rate: float, is_complex: bool) -> Callable:
    """A program, one object each, so that it is compiled once.

    Parameters
    ----------
    kind : {"flat", "half_normal", "blocks"}
        ``flat`` has improper priors of relevances and noise: the paper's type-II maximum
        likelihood. Of ``half_normal`` relevances are squares of half-normal scales, and of
        ``blocks``, which is for ``irs``, sums of such with those of neighbouring directions.
    rate : float
        Scales have the variance 1 / (2 rate); unused where they are flat.
    is_complex : bool
        Whether coefficients and observations are complex.
    """
    normal = ComplexKroneckerNormal if is_complex else KroneckerNormal
    linear = ComplexKroneckerLinear if is_complex else KroneckerLinear

    def anything(shape):
        return dist.ImproperUniform(constraints.positive, (), shape)

    def flat(factors, y=None):
        scales = [
            numpyro.sample(f"gamma_{i}", anything((h.shape[1],))) for i, h in enumerate(factors)
        ]
        noise = numpyro.sample("noise", anything(()))
        x = numpyro.sample("x", normal(scales))
        numpyro.sample("y", linear(factors, x, noise), obs=y)

    def half_normal(factors, y=None):
        scales = [
            numpyro.sample(f"gamma_{i}", dist.Gamma(0.5, rate).expand([h.shape[1]]).to_event(1))
            for i, h in enumerate(factors)
        ]
        noise = numpyro.sample("noise", dist.HalfNormal(10.0))
        x = numpyro.sample("x", normal(scales))
        numpyro.sample("y", linear(factors, x, noise), obs=y)

    def blocks(factors, y=None):
        v = [
            numpyro.sample(f"v_{i}", dist.Gamma(0.5, rate).expand([h.shape[1]]).to_event(1))
            for i, h in enumerate(factors)
        ]
        noise = numpyro.sample("noise", dist.HalfNormal(10.0))
        # The surface's directions are periodic; the mobile station has one.
        operators = [_neighbours(_GRID, periodic=True), None, _neighbours(_GRID)]
        x = numpyro.sample("x", normal(v, operators))
        numpyro.sample("y", linear(factors, x, noise), obs=y)

    return {"flat": flat, "half_normal": half_normal, "blocks": blocks}[kind]


def _neighbours(size: int, *, periodic: bool = False) -> np.ndarray:
    """Ones, and 0.8 beside them, as the paper has it."""
    shift = np.eye(size, k=1)
    if periodic:
        shift[-1, 0] = 1.0
    return np.eye(size) + 0.8 * (shift + shift.T)


_WIDE = 1e-4
"""Scales with a standard deviation of 70, where coefficients may be some hundreds in size."""

# Made-up problems -------------------------------------------------------------------------------


def sparse(
    seed: int,
    snr: float,
    rows: Sequence[int],
    columns: int,
    nonzeros: int,
    *,
    rank_one: bool = False,
) -> Problem:
    """Standard normal factors and coefficients, the latter on a product of supports.

    Parameters
    ----------
    seed : int
        What is drawn depends on the ratio, too.
    snr : float
        Signal-to-noise ratio in dB.
    rows : sequence of int
        M_i.
    columns, nonzeros : int
        N_i, and how many of them are not zero.
    rank_one : bool
        Whether the coefficients are an outer product of vectors.
    """
    generator = np.random.default_rng(round(1000 * snr) + seed)
    factors = tuple(generator.standard_normal((m, columns)) for m in rows)
    support = tuple(
        np.sort(generator.choice(columns, nonzeros, replace=False)) for _ in range(len(rows))
    )
    x = np.zeros((columns,) * len(rows))
    if rank_one:
        parts = [generator.standard_normal(nonzeros) for _ in rows]
        x[np.ix_(*support)] = functools.reduce(np.multiply.outer, parts)
    else:
        x[np.ix_(*support)] = generator.standard_normal((nonzeros,) * len(rows))
    clean = apply([h[:, s] for h, s in zip(factors, support, strict=True)], x[np.ix_(*support)])
    variance = float(np.mean(clean**2) / 10 ** (snr / 10))
    y = clean + np.sqrt(variance) * generator.standard_normal(clean.shape)
    return Problem(factors, y, variance, x, x, support)


paper = functools.partial(sparse, rows=(8, 12, 15), columns=15, nonzeros=3)
small = functools.partial(sparse, rows=(4, 6, 8), columns=8, nonzeros=2)
large = functools.partial(sparse, rows=(64, 64, 64), columns=256, nonzeros=8)

_GRID, _MOBILE, _BASE, _SURFACE = 18, 6, 16, 256
_PILOTS, _PATTERNS = 3, 6
_PATHS = 3


def _steering(elements: int) -> np.ndarray:
    """Responses of a line of elements to the directions of a grid, a column each."""
    directions = 2 * np.arange(_GRID) / _GRID - 1
    return np.exp(1j * np.pi * np.outer(np.arange(elements), directions)) / np.sqrt(elements)


@functools.cache
def _pilots() -> tuple[np.ndarray, np.ndarray]:
    """Pilots and patterns of the surface: one draw for all trials."""
    generator = np.random.default_rng(0)
    signs = 2 * generator.integers(0, 2, (2, _MOBILE, _PILOTS)) - 1
    pilots = (signs[0] + 1j * signs[1]) / np.sqrt(2 * _MOBILE)
    patterns = (2 * generator.integers(0, 2, (_SURFACE, _PATTERNS)) - 1) / np.sqrt(_SURFACE)
    return pilots, patterns


def irs(seed: int, snr: float) -> Problem:
    """Channel from a mobile station over a reflecting surface to a base station.

    Six antennas, 256 reflecting elements and 16 antennas, grids of 18 directions, three pilots and
    six patterns. Three paths to the surface arrive from neighbouring directions of the grid, and
    three paths to the base station do so there. What matters is the channel of each pattern, of
    shape (pattern, mobile, base). The paths of a seed are the same at all ratios.
    """
    generator = np.random.default_rng(seed)

    def gains():
        return generator.standard_normal((2, _PATHS)).T @ np.array([1, 1j]) / np.sqrt(2)

    pilots, patterns = _pilots()
    mobile, base, surface = (_steering(n) for n in (_MOBILE, _BASE, _SURFACE))
    factors = (patterns.T @ (surface * surface[:, :1].conj()), pilots.T @ mobile.conj(), base)
    support = (
        np.sort((generator.integers(_GRID) + np.arange(_PATHS)) % _GRID),
        np.array([generator.integers(_GRID)]),
        generator.integers(_GRID - _PATHS + 1) + np.arange(_PATHS),
    )
    x = np.zeros((_GRID,) * 3, complex)
    power = np.sqrt(_MOBILE * _SURFACE / _PATHS) * np.sqrt(_BASE * _SURFACE / _PATHS)
    x[np.ix_(*support)] = power * np.multiply.outer(gains()[:, None], gains())
    clean = apply(factors, x)
    variance = float(np.mean(np.abs(clean) ** 2) / 10 ** (snr / 10))
    parts = generator.standard_normal((2, *clean.shape))
    y = clean + np.sqrt(variance / 2) * (parts[0] + 1j * parts[1])
    maps = (factors[0], mobile.conj(), base)
    return Problem(factors, y, variance, apply(maps, x), x, support, maps, _WIDE)


# Real data --------------------------------------------------------------------------------------

_CUBE = "Indian_pines_corrected.npy"


def pines_path() -> pathlib.Path | None:
    """Where TensorLy keeps the cube, if it is installed."""
    found = importlib.util.find_spec("tensorly")
    if found is None or not found.submodule_search_locations:
        return None
    path = pathlib.Path(found.submodule_search_locations[0]) / "datasets" / "data" / _CUBE
    return path if path.exists() else None


def pines(seed: int, snr: float, *, path: pathlib.Path) -> Problem:
    """A hyperspectral image, 64 x 64 pixels and 100 bands, from 6.25 % as many random projections.

    Baumgardner, Biehl and Landgrebe (2015), 220 band AVIRIS hyperspectral image data set: June 12,
    1992 Indian Pine Test Site 3, Purdue University. A corner of the cube, standardised as a whole,
    is sparse in discrete cosines; normal matrices of 32 x 64, 32 x 64 and 25 x 100 observe it.
    What matters is the image.
    """
    cube = np.load(path, allow_pickle=False)[:64, :64, :100].astype(float)
    image = (cube - cube.mean()) / cube.std()
    generator = np.random.default_rng(seed)
    sensing = [
        generator.standard_normal((m, n)) / np.sqrt(m)
        for m, n in zip((32, 32, 25), image.shape, strict=True)
    ]
    cosines = tuple(dct(np.eye(n), axis=0, norm="ortho").T for n in image.shape)
    clean = apply(sensing, image)
    variance = float(np.mean(clean**2) / 10 ** (snr / 10))
    y = clean + np.sqrt(variance) * generator.standard_normal(clean.shape)
    factors = tuple(a @ b for a, b in zip(sensing, cosines, strict=True))
    return Problem(factors, y, variance, image, maps=cosines, rate=_WIDE)


# What estimates are judged by -------------------------------------------------------------------


def nmse(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Squared error by the truth's square."""
    return float(np.sum(np.abs(estimate - truth) ** 2) / np.sum(np.abs(truth) ** 2))


def nmse_by_slice(estimate: np.ndarray, truth: np.ndarray) -> float:
    """The same for each slice along the first axis, averaged: a faint slice counts as any other."""
    return float(np.mean([nmse(a, b) for a, b in zip(estimate, truth, strict=True)]))


def slices_found(estimate: np.ndarray, support: Sequence[np.ndarray]) -> tuple[int, int]:
    """How many indices of the modes' supports are found, and how many others are.

    An index counts as found where its slice has a thousandth of the greatest slice's energy.
    """
    right = wrong = 0
    for axis, true in enumerate(support):
        others = tuple(a for a in range(estimate.ndim) if a != axis)
        energy = np.sum(np.abs(estimate) ** 2, axis=others)
        found = np.flatnonzero(energy > 1e-3 * energy.max())
        hits = int(np.isin(found, true).sum())
        right, wrong = right + hits, wrong + len(found) - hits
    return right, wrong
