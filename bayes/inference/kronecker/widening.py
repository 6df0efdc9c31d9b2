"""How much wider intervals would be if the variances were not taken for known.

To first order the posterior mean of coefficients moves with the logs of the variances, which are
about normal about their most probable values (Kass and Steffey 1989, Approximate Bayesian inference
in conditionally independent hierarchical models, JASA 84). The curvature comes from differences of
the gradient, which is known in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayes.inference.kronecker.evidence import (
    Spectrum,
    decompose,
    noise_statistics,
    posterior_mean,
    posterior_variance,
    precisions,
    slice_statistics,
)
from bayes.inference.kronecker.penalties import Prior, majorise
from bayes.inference.kronecker.sparse_model import SparseModel

__all__ = ["widening"]

_STEP = 1e-4
_MOST = 100
"""Variances beyond which this is not worth its time."""
_NUMBERS = 2**22
"""Derivatives of means that are held at most."""
_WORK = 3e9
_LEAST_PRECISION = 0.04
"""Of a log variance that the observations do not tell: a standard deviation of five."""
_RELEVANT = 2.0
"""Standard deviations from zero of a coefficient that matters."""


def widening(
    model: SparseModel, parameters: Sequence[np.ndarray], variance: float, prune: float
) -> float | None:
    """Median over relevant coefficients of how much wider their intervals would be.

    Parameters
    ----------
    model : SparseModel
        Observations and priors.
    parameters : sequence of array of shape (k_i,)
        What the prior variances along each axis are made of.
    variance : float
        Of the noise.
    prune : float
        As for the updates.

    Returns
    -------
    float or None
        A factor of at least one; None where there are too many variances or observations.
    """
    climb = _Curvature(model, parameters, prune)
    count = climb.size
    coefficients = int(np.prod([len(rows) for rows in climb.rows])) * len(model.observations.y)
    if (
        count > _MOST
        or count * coefficients > _NUMBERS
        or 2 * count * climb.observations.work > _WORK
    ):
        return None
    centre = climb.pack(parameters, variance)
    spectrum, noise = climb.at(centre)
    mean = posterior_mean(spectrum, noise)
    spread = posterior_variance(spectrum, noise)[None]
    relevant = np.abs(mean) ** 2 > _RELEVANT**2 * spread
    if not relevant.any() or count == 0:
        return 1.0
    hessian = np.empty((count, count))
    moves = np.empty((count, int(relevant.sum())), mean.dtype)
    for place in range(count):
        sides = []
        for step in (_STEP, -_STEP):
            moved = centre.copy()
            moved[place] += step
            at = climb.at(moved)
            sides.append((climb.gradient(*at), posterior_mean(*at)[relevant]))
        (up, mean_up), (down, mean_down) = sides
        hessian[place] = (up - down) / (2.0 * _STEP)
        moves[place] = (mean_up - mean_down) / (2.0 * _STEP)
    curvature, directions = np.linalg.eigh(-0.5 * (hessian + hessian.T))
    along = directions.T @ moves
    precision = np.maximum(curvature, 0.0) + _LEAST_PRECISION
    added = np.sum(np.abs(along) ** 2 / precision[:, None], axis=0)
    known = np.broadcast_to(spread, mean.shape)[relevant]
    return float(np.median(np.sqrt(1.0 + added / known)))


class _Curvature:
    """Log evidence and priors as a function of the logs of the variances that are not pruned."""

    def __init__(self, model: SparseModel, parameters: Sequence[np.ndarray], prune: float) -> None:
        self.model = model
        relevances = model.pruned(parameters, prune)
        self.rows = [np.flatnonzero(relevance) for relevance in relevances]
        self.kept = [
            np.flatnonzero(t > prune * t.max()) if axis.given is None else np.zeros(0, int)
            for axis, t in zip(model.axes, parameters, strict=True)
        ]
        whole = model.observations
        factors = tuple(f[:, rows] for f, rows in zip(whole.factors, self.rows, strict=True))
        self.observations = whole._replace(factors=factors)
        self.operators = [
            None if axis.operator is None else axis.operator[np.ix_(rows, kept)]
            for axis, rows, kept in zip(model.axes, self.rows, self.kept, strict=True)
        ]
        self.given = [
            relevance[rows] for relevance, rows in zip(relevances, self.rows, strict=True)
        ]
        self.learns_noise = model.noise.prior is not None
        self.size = sum(map(len, self.kept)) + self.learns_noise

    def pack(self, parameters: Sequence[np.ndarray], variance: float) -> np.ndarray:
        logs = [np.log(t[kept]) for t, kept in zip(parameters, self.kept, strict=True)]
        noise = [np.log([variance])] if self.learns_noise else []
        return np.concatenate([*logs, *noise])

    def _unpack(self, position: np.ndarray) -> tuple[list[np.ndarray], float]:
        bounds = np.cumsum([len(kept) for kept in self.kept])
        parts = [np.exp(part) for part in np.split(position, bounds)]
        given = self.model.noise.given
        return parts[:-1], float(parts[-1][0]) if given is None else given

    def at(self, position: np.ndarray) -> tuple[Spectrum, float]:
        """The spectrum and the noise's variance."""
        self._parameters, variance = self._unpack(position)
        relevances = []
        for axis, t, operator, given in zip(
            self.model.axes, self._parameters, self.operators, self.given, strict=True
        ):
            learned = t if operator is None else operator @ t
            relevances.append(learned if axis.given is None else given)
        return decompose(self.observations, relevances), variance

    def gradient(self, spectrum: Spectrum, variance: float) -> np.ndarray:
        """Of log evidence plus log prior in the logs, at what ``at`` gave last."""
        weight = 1.0 if self.model.observations.is_complex else 0.5
        precision = precisions(spectrum, variance)
        found = []
        for place, axis in enumerate(self.model.axes):
            if axis.prior is None:
                continue
            pull, push = slice_statistics(spectrum, place, precision)
            slope = weight * (pull - push)
            operator, t = self.operators[place], self._parameters[place]
            slope = slope if operator is None else operator.T @ slope
            found.append(t * (slope - _slope(axis.prior.of(self.kept[place]), t)))
        if self.model.noise.prior is not None:
            pull, push = noise_statistics(spectrum, variance, precision)
            slope = weight * (pull - push) - _slope(self.model.noise.prior, variance)
            found.append(np.atleast_1d(variance * slope))
        return np.concatenate(found)


def _slope(prior: Prior, t: np.ndarray | float) -> np.ndarray:
    """Of minus the log prior, which its majorising function shares."""
    inverse, linear, log, square = majorise(prior, t)
    return np.asarray(linear - inverse / t**2 + log / t + 2.0 * square * t)
