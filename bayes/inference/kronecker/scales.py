"""How the scale of a Kronecker product is shared among its factors.

The observations tell the product alone: one factor may grow as another shrinks. Priors tell more,
and steps along single axes would get there slowly.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bayes.inference.kronecker.evidence import Spectrum
from bayes.inference.kronecker.penalties import Prior, majorise
from bayes.inference.kronecker.sparse_model import SparseModel

__all__ = ["TINY", "balanced", "normalised"]

TINY = 1e-75
"""What no variance goes below: priors that favour zero have no mode, and products may underflow."""

_NEWTON, _LONGEST = 20, 2.0


class _Growth(NamedTuple):
    """B e^r + A e^-r + C r + E e^2r, of a factor that grows by e^r."""

    inverse: float
    linear: float
    log: float
    square: float


def balanced(
    priors: Sequence[tuple[Prior | None, np.ndarray]],
    spectrum: Spectrum,
    parameters: list[np.ndarray],
) -> tuple[Spectrum, list[np.ndarray]]:
    """Scale moved between neighbouring axes to where their priors want it, by one monotone step.

    Parameters
    ----------
    priors : sequence of (Prior or None, array of int)
        Of the elements along each axis that are not pruned, and which these are.
    spectrum : Spectrum
        At the parameters.
    parameters : list of array of shape (k_i,)
        What the prior variances along each axis are made of.

    Returns
    -------
    spectrum, parameters
        The same product.
    """
    learned = [i for i, (prior, _) in enumerate(priors) if prior is not None and not prior.is_flat]
    if len(learned) < 2:
        return spectrum, parameters
    found = [t.copy() for t in parameters]
    relevances, values = list(spectrum.relevances), list(spectrum.values)
    for i, j in itertools.pairwise(learned):
        one, other = (found[k][priors[k][1]] for k in (i, j))
        shift = _shift(_growth(priors[i][0], one), _growth(priors[j][0], other))
        # The objective is unimodal in the shift, so that a part of it is a gain, too.
        lowest, highest = np.log(TINY / one.min()), np.log(other.min() / TINY)
        grown = np.exp(np.clip(shift, min(lowest, 0.0), max(highest, 0.0)))
        for place, factor in ((i, grown), (j, 1.0 / grown)):
            found[place][priors[place][1]] *= factor
            relevances[place] = relevances[place] * factor
            values[place] = values[place] * factor
    return spectrum._replace(relevances=tuple(relevances), values=tuple(values)), found


def _growth(prior: Prior | None, t: np.ndarray) -> _Growth:
    assert prior is not None
    terms = (np.broadcast_to(v, t.shape) for v in majorise(prior, t))
    inverse, linear, log, square = terms
    return _Growth(
        float(np.sum(inverse / t)), float(linear @ t), float(np.sum(log)), float(square @ t**2)
    )


def _shift(one: _Growth, other: _Growth) -> float:
    """The r where one factor times e^r and the other times e^-r are most probable; 0 if none."""
    tilt = one.log - other.log
    rises = one.linear + one.square + other.inverse > 0 or tilt > 0
    falls = one.inverse + other.linear + other.square > 0 or tilt < 0
    if not (rises and falls):
        return 0.0
    r = 0.0
    for _ in range(_NEWTON):
        up, down = np.exp(r), np.exp(-r)
        parts = (
            (one.linear + other.inverse) * up,
            (one.inverse + other.linear) * down,
            2.0 * one.square * up**2,
            2.0 * other.square * down**2,
        )
        slope = parts[0] - parts[1] + parts[2] - parts[3] + tilt
        bend = parts[0] + parts[1] + 2.0 * (parts[2] + parts[3])
        step = float(np.clip(slope / bend, -_LONGEST, _LONGEST))
        r -= step
        if abs(step) < 1e-10:
            break
    return r


def normalised(model: SparseModel, parameters: list[np.ndarray]) -> list[np.ndarray]:
    """Factors of unit length, the scale in the last one, among axes whose priors are flat."""
    free = [i for i, a in enumerate(model.axes) if a.prior is not None and a.prior.is_flat]
    found = list(parameters)
    for place in free[:-1]:
        size = float(np.linalg.norm(found[place]))
        found[place] = found[place] / size
        found[free[-1]] = found[free[-1]] * size
    return found
