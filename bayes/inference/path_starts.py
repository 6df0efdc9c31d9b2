"""Where an ascent begins: the point of climbed paths about which there is mass."""

from __future__ import annotations

import numpy as np

from bayes.inference.climbing import Path
from bayes.inference.densities import densities_at
from bayes.inference.minibatches import plates_of
from bayes.normals import Normal, independent, push
from bayes.problem import Problem

__all__ = ["best_place"]

_LOOKED_AT, _PAIRS = 8, 2
"""Points of a path that may be the start, and pairs of draws that tell how good each is."""


def best_place(problem: Problem, paths: list[Path], generator: np.random.Generator) -> Normal:
    """The normal of independent elements at a point of climbed paths that has the highest ELBO.

    The last point need not be it: where the density rises without bound, there is no mass. With
    many rows, which a program takes subsamples of, it is.

    Parameters
    ----------
    problem : Problem
        Model and data.
    paths : list of Path
        At least one; their diagonals are the variances.
    generator : numpy.random.Generator
        Where the draws come from that tell ELBOs.

    Returns
    -------
    Normal
    """
    half = generator.standard_normal((_PAIRS, problem.size))
    z = np.concatenate([half, -half])

    def best(chosen: list[tuple[Path, int]]) -> tuple[Path, int]:
        means = np.stack([path.positions[i] for path, i in chosen])
        scales = np.sqrt(np.stack([path.diagonals[i] for path, i in chosen]))
        moves = push(independent(means, scales), np.broadcast_to(z, (len(means), *z.shape)))
        places = (means[:, None, :] + moves).reshape(-1, problem.size)
        lp = densities_at(problem, places).reshape(len(means), -1)
        elbo = lp.mean(axis=1) + np.log(scales).sum(axis=1)
        if not np.isfinite(elbo).any():
            elbo = np.array([path.densities[i] for path, i in chosen])
        return chosen[int(np.argmax(np.where(np.isfinite(elbo), elbo, -np.inf)))]

    if plates_of(problem):
        return independent(paths[0].positions[-1], np.sqrt(paths[0].diagonals[-1]))
    path, i = best([(path, i) for path in paths for i in _spread(0, len(path.positions) - 1)])
    between = len(path.positions) // _LOOKED_AT + 1
    near = _spread(max(i - between, 0), min(i + between, len(path.positions) - 1))
    path, i = best([(path, j) for j in near])
    return independent(path.positions[i], np.sqrt(path.diagonals[i]))


def _spread(first: int, last: int) -> list[int]:
    """Some whole numbers from the first to the last."""
    return np.unique(np.linspace(first, last, _LOOKED_AT).round().astype(int)).tolist()
