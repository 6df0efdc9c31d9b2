"""Mixtures of normals fitted to draws by expectation and maximisation, or to larger ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from bayes.errors import SettingsError
from bayes.precision import double_precision
from bayes.surrogates.mixtures import Mixture, mixture_of_covariances, sample
from bayes.threefry import seed_key

__all__ = ["fit_mixture", "resized"]

_FLOOR = 1e-6
"""Least variance of a component along any direction, as a share of that of all draws."""
_DRAWS_A_COMPONENT = 5
"""Draws that a component needs for each element, and one element more for its mean."""
_STARTS, _FEW_STEPS, _MOST_STEPS, _LLOYD_STEPS = 4, 8, 200, 3
_ENOUGH = 1e-5
"""Change of the mean log density, in nats a draw, below which the steps end."""
_LEAST_WEIGHT = 1e-10
_RESIZE_DRAWS = 4096
_LOG_TAU = float(np.log(2.0 * np.pi))


def fit_mixture(
    x: Float[np.ndarray, "n d"],
    components: int,
    generator: np.random.Generator,
    *,
    log_weights: Float[np.ndarray, " n"] | None = None,
) -> Mixture:
    """The mixture of normals with full covariances that makes draws most likely.

    Starts are chosen by k-means++ among the whitened draws. Where there are too few draws for so
    many components (fewer than 5 (d + 1) each, counted by the effective size of their weights),
    fewer are fitted and some are handed back more than once, with their weight shared.

    Parameters
    ----------
    x : array of shape (n, d)
        Draws.
    components : int
        Number of components of the result.
    generator : numpy.random.Generator
        What starts are drawn with.
    log_weights : array of shape (n,), optional
        Logs of the draws' weights, up to a constant; equal by default.

    Returns
    -------
    Mixture
        Of float64. Along no direction has a component less than a millionth of the variance of
        all draws. One component has the draws' own mean and covariance.

    Raises
    ------
    SettingsError
        Draws that are not finite, that are fewer than two or are all the same in an element,
        weights that are not those of these draws.

    References
    ----------
    Dempster, Laird and Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.
    Arthur and Vassilvitskii (2007), k-means++: the advantages of careful seeding.
    """
    if components < 1:
        raise SettingsError(f"components={components}: a mixture has at least one")
    weights = _normalised(x, log_weights)
    mean, whitener, colour = _whitening(x, weights)
    z = (x - mean) @ whitener.T
    effective = 1.0 / np.square(weights).sum()
    fitted = int(np.clip(effective // (_DRAWS_A_COMPONENT * (x.shape[1] + 1)), 1, components))
    if fitted == 1:
        shares, centres, spreads = _whole(z, weights)
    else:
        draws = _features(z)
        starts = [_start(z, weights, fitted, generator) for _ in range(_STARTS)]
        tried = [_climb(draws, weights, start, _FEW_STEPS) for start in starts]
        # Steps lead to the top of the nearest hill: the best of a few starts goes on.
        best = max(tried, key=lambda found: found.log_density)
        shares, centres, spreads = _climb(draws, weights, best.belongs, _MOST_STEPS).parts
    places = np.arange(components) % fitted
    copies = np.bincount(places, minlength=fitted)
    return mixture_of_covariances(
        (shares / copies)[places],
        (mean + centres @ colour.T)[places],
        (colour @ spreads @ colour.T)[places],
    )


def resized(mixture: Mixture, components: int) -> Mixture:
    """A mixture of another number of components that stands for one.

    Parameters
    ----------
    mixture : Mixture
        Without leading dimensions.
    components : int
        Number of components of the result.

    Returns
    -------
    Mixture
        The same density where there are to be more of them: the heaviest are split into equal
        ones. Where there are to be fewer, what :func:`fit_mixture` makes of 4096 draws from it,
        the same at every call.

    Raises
    ------
    SettingsError
        No components at all.
    """
    if components < 1:
        raise SettingsError(f"components={components}: a mixture has at least one")
    if components < mixture.components:
        with double_precision():
            draws = np.asarray(sample(mixture, seed_key(0), _RESIZE_DRAWS), np.float64)
        return fit_mixture(draws, components, np.random.default_rng(0))
    weights = np.asarray(mixture.log_weights)
    copies = np.ones(mixture.components, int)
    for _ in range(components - mixture.components):
        copies[np.argmax(weights - np.log(copies))] += 1
    places = np.repeat(np.arange(mixture.components), copies)
    _, means, log_scales, coefficients = (np.asarray(part) for part in mixture)
    shared = (weights - np.log(copies))[places]
    return Mixture(shared, means[places], log_scales[places], coefficients[places])


def _normalised(x: np.ndarray, log_weights: np.ndarray | None) -> np.ndarray:
    """Weights that sum to one, of draws that can be used."""
    if len(x) < 2:
        raise SettingsError(f"a mixture is fitted to at least two draws, got {len(x)}")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        raise SettingsError(
            f"{len(bad)} of {len(x)} draws are not finite (the first is draw {bad[0]}): no mixture "
            "can be fitted to them"
        )
    if log_weights is None:
        return np.full(len(x), 1.0 / len(x))
    if log_weights.shape != (len(x),):
        raise SettingsError(f"{len(x)} draws with log_weights of shape {log_weights.shape}")
    if np.isnan(log_weights).any() or not np.isfinite(log_weights.max()):
        raise SettingsError("log_weights are NaN or infinite, or all of them are -inf")
    return np.exp(log_weights - logsumexp(log_weights))


def _whitening(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of the draws, what makes their covariance the identity, and its inverse."""
    mean = weights @ x
    away = x - mean
    scale = np.sqrt(weights @ np.square(away))
    # Rounding of the mean alone leaves some spread.
    flat = np.flatnonzero(scale <= 1e-12 * np.maximum(np.abs(mean), 1e-300))
    if len(flat):
        raise SettingsError(
            f"element {flat[0]} is {mean[flat[0]]:.6g} in every draw that has weight: a mixture "
            "of normals needs draws with some spread"
        )
    standard = away / scale
    values, vectors = np.linalg.eigh((standard * weights[:, None]).T @ standard)
    roots = np.sqrt(np.maximum(values, _FLOOR))
    return mean, (vectors / roots).T / scale, scale[:, None] * vectors * roots


def _whole(z: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The one normal of all draws: its moments are theirs."""
    spread = (z * weights[:, None]).T @ z
    values, vectors = np.linalg.eigh(spread)
    spread = (vectors * np.maximum(values, _FLOOR)) @ vectors.T
    return np.ones(1), np.zeros((1, z.shape[1])), spread[None]


def _start(
    z: np.ndarray, weights: np.ndarray, components: int, generator: np.random.Generator
) -> np.ndarray:
    """Each draw's component, as shares of 0 and 1, by k-means++ and a few steps of k-means."""
    # Draws far out in a tail would each become a centre of their own.
    near = z / np.maximum(1.0, np.linalg.norm(z, axis=1) / np.sqrt(9.0 * z.shape[1]))[:, None]
    centres = near[generator.choice(len(z), 1, p=weights)]
    distance = np.square(near - centres[0]).sum(1)
    for _ in range(components - 1):
        chance = weights * distance
        total = chance.sum()
        pick = generator.choice(len(z), p=chance / total if total > 0 else weights)
        centres = np.concatenate([centres, near[pick][None]])
        distance = np.minimum(distance, np.square(near - near[pick]).sum(1))
    owners = _nearest(near, centres)
    for _ in range(_LLOYD_STEPS):
        share = np.eye(components)[owners] * weights[:, None]
        mass = share.sum(0)
        filled = mass > 0
        centres[filled] = (share.T @ near)[filled] / mass[filled, None]
        owners = _nearest(near, centres)
    return np.eye(components)[owners]


def _nearest(z: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.argmin(np.square(centres).sum(1) - 2.0 * z @ centres.T, axis=1)


class _Draws(NamedTuple):
    """Whitened draws, with products of elements beside the elements.

    Both steps are then one matrix product each.
    """

    features: np.ndarray
    size: int
    rows: np.ndarray
    columns: np.ndarray


class _Fitted(NamedTuple):
    """A mixture on the way: its parts, each draw's shares in them, its mean log density."""

    parts: tuple[np.ndarray, np.ndarray, np.ndarray]
    belongs: np.ndarray
    log_density: float


def _features(z: np.ndarray) -> _Draws:
    rows, columns = np.tril_indices(z.shape[1])
    ones = np.ones((len(z), 1))
    features = np.concatenate([ones, z, z[:, rows] * z[:, columns]], axis=1)
    return _Draws(features, z.shape[1], rows, columns)


def _climb(draws: _Draws, weights: np.ndarray, belongs: np.ndarray, steps: int) -> _Fitted:
    """Maximisation and expectation in turn, from the shares of each draw in the components."""
    k, d, before = belongs.shape[1], draws.size, -np.inf
    parts = (np.full(k, 1.0 / k), np.zeros((k, d)), np.broadcast_to(np.eye(d), (k, d, d)))
    for _ in range(steps):
        parts = _maximised(draws, weights, belongs, parts)
        belongs, now = _expected(draws, weights, parts)
        if now - before < _ENOUGH:
            break
        before = now
    return _Fitted(parts, belongs, before)


def _maximised(
    draws: _Draws, weights: np.ndarray, belongs: np.ndarray, parts: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and covariances of the draws by component."""
    d, rows, columns = draws.size, draws.rows, draws.columns
    totals = (belongs * weights[:, None]).T @ draws.features
    mass = np.maximum(totals[:, 0], _LEAST_WEIGHT)
    # A component without draws stays where it is.
    filled = totals[:, 0] > _LEAST_WEIGHT
    centres, spreads = parts[1].copy(), parts[2].copy()
    moments = totals[filled] / mass[filled, None]
    means, squares = moments[:, 1 : 1 + d], np.empty((len(moments), d, d))
    squares[:, rows, columns] = squares[:, columns, rows] = moments[:, 1 + d :]
    centres[filled] = means
    spreads[filled] = _floored(squares - means[:, :, None] * means[:, None, :])
    return mass / mass.sum(), centres, spreads


def _expected(
    draws: _Draws, weights: np.ndarray, parts: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, float]:
    """Shares of each draw in the components, and the mean log density."""
    shares, centres, spreads = parts
    precision = np.linalg.inv(spreads)
    towards = np.einsum("kij,kj->ki", precision, centres)
    level = np.log(shares) - 0.5 * (np.linalg.slogdet(spreads)[1] + draws.size * _LOG_TAU)
    constant = level - 0.5 * (towards * centres).sum(1)
    twice = np.where(draws.rows == draws.columns, 0.5, 1.0)
    quadratic = -twice * precision[:, draws.rows, draws.columns]
    logs = draws.features @ np.concatenate([constant[:, None], towards, quadratic], axis=1).T
    highest = logs.max(1, keepdims=True)
    belongs = np.exp(logs - highest)
    sums = belongs.sum(1, keepdims=True)
    return belongs / sums, float(weights @ (highest + np.log(sums))[:, 0])


def _floored(spreads: np.ndarray) -> np.ndarray:
    """Covariances of whitened draws with no variance below the floor."""
    values, vectors = np.linalg.eigh(spreads)
    return (vectors * np.maximum(values, _FLOOR)[:, None, :]) @ np.swapaxes(vectors, -1, -2)
