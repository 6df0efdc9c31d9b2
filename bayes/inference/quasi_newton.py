"""The normals along an L-BFGS path, and how well each stands for the posterior."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from bayes.inference.climbing import Path, history
from bayes.inference.densities import densities_at
from bayes.normals import Normal, push
from bayes.problem import Problem

__all__ = ["best_normal", "distinct_ends", "elbos", "normals_along"]

_CURVED = 1e-12
_NUMBERS = 10**6
_SAME_PLACE, _SAME_HEIGHT = 0.1, 1e-3
_LEAST, _LARGEST = 1e-10, 1e12
_RESOLVED = 1e-9
"""A standard deviation this small beside its mean is lost to rounding: there densities that rise
without bound look as if they had mass."""


@np.errstate(all="ignore")  # a path to where numbers end has no normal there, which is seen to
def normals_along(path: Path, points: Int[np.ndarray, " n"]) -> Normal:
    """The normal at some points of a path: Newton's step for mean, inverse Hessian for covariance.

    Parameters
    ----------
    path : Path
        A path.
    points : array of int, shape (n,)
        Which of its points, the start not among them.

    Returns
    -------
    Normal
        With a leading dimension of n.

    References
    ----------
    Zhang, Carpenter, Gelman and Vehtari (2022), Pathfinder: parallel quasi-Newton variational
    inference, algorithms 3 and 4.
    """
    steps = np.diff(path.positions, axis=0)
    changes = -np.diff(path.gradients, axis=0)
    norms = np.linalg.norm(steps, axis=1) * np.linalg.norm(changes, axis=1)
    curved = np.flatnonzero((steps * changes).sum(axis=1) > _CURVED * norms)
    # The last pairs up to each point; places before the first pair hold zeros.
    known = np.searchsorted(curved, points)
    pairs = history(path.positions.shape[1])
    places = known[:, None] - pairs + np.arange(pairs)
    there = places >= 0
    chosen = curved[np.maximum(places, 0)] if len(curved) else np.zeros_like(places)
    s = np.where(there[..., None], steps[chosen], 0.0)
    y = np.where(there[..., None], changes[chosen], 0.0)
    diagonal = path.diagonals[points]
    root = np.sqrt(diagonal)[:, None, :]
    product = s @ np.swapaxes(y, 1, 2)
    upper = np.triu(product)
    index = np.arange(pairs)
    upper[:, index, index] += ~there  # invertible, and of no effect
    inverse = np.linalg.inv(upper)
    turned = np.swapaxes(inverse, 1, 2)
    inner = (y * diagonal[:, None, :]) @ np.swapaxes(y, 1, 2)
    inner[:, index, index] += product[:, index, index]
    gamma = np.zeros((len(points), 2 * pairs, 2 * pairs))
    gamma[:, :pairs, pairs:] = -inverse
    gamma[:, pairs:, :pairs] = -turned
    gamma[:, pairs:, pairs:] = turned @ inner @ inverse
    columns = np.swapaxes(np.concatenate([y * root, s / root], axis=1), 1, 2)
    basis, triangle = np.linalg.qr(columns)
    excess = triangle @ gamma @ np.swapaxes(triangle, 1, 2)
    excess = 0.5 * (excess + np.swapaxes(excess, 1, 2))
    lost = ~np.isfinite(excess).all(axis=(1, 2))
    excess[lost] = 0.0
    values, axes = np.linalg.eigh(excess)
    values = np.clip(1.0 + values, _LEAST, _LARGEST)
    found = Normal(path.positions[points], np.sqrt(diagonal), basis @ axes, values)
    return found._replace(mean=found.mean + _times_covariance(found, path.gradients[points]))


def _times_covariance(normal: Normal, gradients: np.ndarray) -> np.ndarray:
    """Sigma g for each normal's own g."""
    slope = (normal.scale * gradients)[:, None, :]
    along = (slope @ normal.vectors) * (normal.values - 1.0)[:, None, :]
    return normal.scale * (slope + along @ np.swapaxes(normal.vectors, 1, 2))[:, 0]


def elbos(
    problem: Problem, normals: Normal, z: Float[np.ndarray, "k d"]
) -> Float[np.ndarray, " n"]:
    """Estimates of the evidence lower bound of several normals, all at the same standard draws.

    Parameters
    ----------
    problem : Problem
        Model and data.
    normals : Normal
        With a leading dimension of n.
    z : array of shape (k, d)
        Standard normal draws.

    Returns
    -------
    array of shape (n,)
        -inf where a log density is not finite, or a normal narrower than numbers can tell.
    """
    n, d = normals.mean.shape
    x = normals.mean[:, None, :] + push(normals, np.broadcast_to(z, (n, *z.shape)))
    wide = (normals.sd > _RESOLVED * (1.0 + np.abs(normals.mean))).all(axis=1)
    finite = wide & np.isfinite(x).all(axis=(1, 2))
    x[~finite] = 0.0
    lp = densities_at(problem, x.reshape(-1, d)).reshape(n, -1)
    # From the standard draws themselves: whitened positions would bring in rounding errors.
    log_q = -0.5 * (np.square(z).sum(axis=1) + d * np.log(2.0 * np.pi)) - normals.log_scale[:, None]
    bound = (lp - log_q).mean(axis=1)
    return np.where(finite & np.isfinite(bound), bound, -np.inf)


def best_normal(
    problem: Problem, path: Path, z: Float[np.ndarray, "k d"], most: int | None = None
) -> tuple[Normal, float]:
    """The normal along a path with the best evidence lower bound, and the bound.

    Parameters
    ----------
    problem : Problem
        Model and data.
    path : Path
        A path.
    z : array of shape (k, d)
        Standard normal draws for the estimates.
    most : int, optional
        Points that are looked at, evenly along the path; all of them by default.

    Returns
    -------
    normal : Normal
    bound : float
        -inf where none is finite; then the normal is of no use.
    """
    last = len(path.positions) - 1
    if last == 0:
        d = problem.size
        return Normal(path.positions[0], np.ones(d), np.zeros((d, 0)), np.zeros(0)), -np.inf
    best, normal, bound = 0, None, -np.inf
    # A long path of a large problem is looked at in parts, for memory.
    chosen = np.unique(np.linspace(1, last, min(last, most or last)).round().astype(int))
    for points in np.array_split(chosen, -(-len(chosen) // _at_once(problem, len(z)))):
        normals = normals_along(path, points)
        found = elbos(problem, normals, z)
        best = int(np.argmax(found))
        if normal is None or found[best] > bound:
            normal, bound = Normal(*(part[best] for part in normals)), float(found[best])
    assert normal is not None
    return normal, bound


def _at_once(problem: Problem, draws: int) -> int:
    return max(1, _NUMBERS // (problem.size * max(draws, 2 * history(problem.size))))


def distinct_ends(paths: list[Path]) -> list[Path]:
    """Paths that did not end where a higher one did, the highest first.

    A path that did not end counts as another.
    """
    kept: list[Path] = []
    for path in sorted(paths, key=lambda path: -path.densities[-1]):
        if not (path.converged and any(_same_end(path, other) for other in kept)):
            kept.append(path)
    return kept


def _same_end(path: Path, other: Path) -> bool:
    """Whether both are at one maximum, as far as the density and its scales there tell."""
    apart = np.abs(path.positions[-1] - other.positions[-1])
    near = apart < _SAME_PLACE * np.sqrt(np.maximum(path.diagonals[-1], other.diagonals[-1]))
    same = abs(path.densities[-1] - other.densities[-1]) < _SAME_HEIGHT
    return bool(other.converged and same and near.all())
