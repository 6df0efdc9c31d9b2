"""Monotone updates of variances: majorise-minimise, and the expectation-maximisations of the paper.

All of them climb the log evidence plus the log prior of the variances, except "svd", which fits a
product to second moments by least squares.

References
----------
He and Joseph (2024), arXiv 2307.14719: alternating minimisation, its single sweep and the rank-one
fit. The majorise-minimise step bounds the log determinant by its tangent instead of taking
expectations, one factor at a time, as in Wipf and Nagarajan (2008), A new view of automatic
relevance determination, NIPS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bayes.inference.kronecker.evidence import (
    Spectrum,
    decompose,
    log_evidence,
    noise_statistics,
    posterior_mean,
    posterior_variance,
    precisions,
    slice_statistics,
    turned,
)
from bayes.inference.kronecker.penalties import Prior, Terms, majorise, minimum
from bayes.inference.kronecker.scales import TINY, balanced
from bayes.inference.kronecker.sparse_model import Axis, SparseModel
from bayes.inference.kronecker.tensors import contracted

__all__ = ["UPDATES", "Sweeps", "sweep"]

_CYCLES, _CYCLE_TOLERANCE = 20, 1e-6
_LEAST = 1e-30
"""Smallest part of the largest variance along an axis, where none are pruned."""


class Sweeps(NamedTuple):
    """What a number of sweeps gave.

    Parameters
    ----------
    parameters : list of array of shape (k_i,)
        What the prior variances along each axis are made of.
    variance : float
        Of the noise.
    objective : array of shape (sweeps,)
        Log evidence plus log prior after each sweep.
    evidence : float
        Log evidence in the end.
    """

    parameters: list[np.ndarray]
    variance: float
    objective: np.ndarray
    evidence: float


class _Part(NamedTuple):
    """An axis without what is pruned.

    Parameters
    ----------
    axis : Axis
        All of it.
    kept : array of int
        Elements of t that are not pruned.
    prior : Prior or None
        Theirs.
    operator : array or None
        The operator's rows and columns that are left.
    floor : float
        What no step goes below, so that nothing underflows.
    """

    axis: Axis
    kept: np.ndarray
    prior: Prior | None
    operator: np.ndarray | None
    floor: float

    def relevance(self, t: np.ndarray) -> np.ndarray:
        return t[self.kept] if self.operator is None else self.operator @ t[self.kept]

    def stepped(self, t: np.ndarray, terms: Terms, weight: float) -> np.ndarray:
        """Where terms of the relevance, with those of the prior, are least.

        The terms are those of minus ``weight`` times the log evidence.
        """
        present = t[self.kept]
        terms = terms.times(1.0 / weight)
        if self.operator is not None:
            terms = _through(self.operator, present, terms)
        if self.prior is not None:
            terms = terms.plus(majorise(self.prior, present))
        new = t.copy()
        new[self.kept] = np.maximum(minimum(terms, present), np.minimum(present, self.floor))
        return new


def _through(operator: np.ndarray, t: np.ndarray, terms: Terms) -> Terms:
    """Terms of a relevance C t as terms of t.

    1 / (C t) is convex, and log(C t) lies below its tangent.
    """
    relevance = operator @ t
    inverse = t**2 * (operator.T @ (terms.inverse / relevance**2))
    return Terms(inverse=inverse, linear=operator.T @ (terms.linear + terms.log / relevance))


def _part(axis: Axis, t: np.ndarray, prune: float) -> tuple[_Part, np.ndarray]:
    """An axis without the pruned elements, and which of its coefficients are left."""
    if axis.given is not None:
        rows = axis.relevance(t) > 0
        operator = axis.operator if axis.operator is None else axis.operator[rows]
        kept = np.flatnonzero(rows) if operator is None else np.arange(len(t))
        return _Part(axis, kept, None, operator, 0.0), np.flatnonzero(rows)
    floor = max(prune, _LEAST) * float(t.max())
    # Lower, so that what comes there is pruned even as the largest falls somewhat.
    least = max(0.1 * floor, TINY)
    kept = np.flatnonzero(t > floor)
    prior = None if axis.prior is None else axis.prior.of(kept)
    if axis.operator is None:
        return _Part(axis, kept, prior, None, least), kept
    relevance = axis.operator[:, kept] @ t[kept]
    rows = np.flatnonzero(relevance > prune * relevance.max())
    return _Part(axis, kept, prior, axis.operator[np.ix_(rows, kept)], least), rows


def sweep(
    model: SparseModel,
    parameters: Sequence[np.ndarray],
    variance: float,
    update: str,
    count: int,
    prune: float,
) -> Sweeps:
    """Some sweeps of an update over all axes and the noise.

    Parameters
    ----------
    model : SparseModel
        Observations and priors.
    parameters : sequence of array of shape (k_i,)
        What the prior variances along each axis are made of.
    variance : float
        Of the noise.
    update : {"mm", "am", "ksbl", "svd"}
        Which update.
    count : int
        Number of sweeps.
    prune : float
        Elements below this part of the largest along their axis are left as they are, and their
        coefficients are zero.

    Returns
    -------
    Sweeps
    """
    pairs = [_part(a, t, prune) for a, t in zip(model.axes, parameters, strict=True)]
    parts = [part for part, _ in pairs]
    whole = model.observations
    factors = tuple(f[:, rows] for f, (_, rows) in zip(whole.factors, pairs, strict=True))
    found = [np.array(t) for t in parameters]
    relevances = [part.relevance(t) for part, t in zip(parts, found, strict=True)]
    spectrum = decompose(whole._replace(factors=factors), relevances)
    # Real densities have a half before log determinant and squares.
    weight = (1.0 if whole.is_complex else 2.0) * model.repeats
    objective, evidence = [], -np.inf
    priors = [(part.prior, part.kept) for part in parts]
    for _ in range(count):
        spectrum, found, variance = UPDATES[update](model, parts, spectrum, found, variance, weight)
        spectrum, found = balanced(priors, spectrum, found)
        evidence = log_evidence(spectrum, variance, precisions(spectrum, variance))
        evidence /= model.repeats
        objective.append(evidence + model.log_prior(found, variance))
    return Sweeps(found, variance, np.array(objective), evidence)


def _mm(
    model: SparseModel,
    parts: Sequence[_Part],
    spectrum: Spectrum,
    parameters: list[np.ndarray],
    variance: float,
    weight: float,
) -> tuple[Spectrum, list[np.ndarray], float]:
    """One majorise-minimise step an axis, each at fresh statistics, and one of the noise."""
    found = list(parameters)
    for place, part in enumerate(parts):
        if part.axis.given is not None:
            continue
        pull, push = slice_statistics(spectrum, place, precisions(spectrum, variance))
        terms = Terms(inverse=spectrum.relevances[place] ** 2 * pull, linear=push)
        found[place] = part.stepped(found[place], terms, weight)
        spectrum = turned(spectrum, place, part.relevance(found[place]))
    if model.noise.prior is not None:
        pull, push = noise_statistics(spectrum, variance, precisions(spectrum, variance))
        terms = Terms(inverse=variance**2 * pull, linear=push)
        variance = _noise_step(model, variance, terms, weight)
    return spectrum, found, variance


def _noise_step(model: SparseModel, variance: float, terms: Terms, weight: float) -> float:
    """Where terms of the noise, with those of its prior, are least; as it is where it is given."""
    prior = model.noise.prior
    if prior is None:
        return variance
    total = terms.times(1.0 / weight).plus(majorise(prior, variance))
    least = 1e-12 * model.observations.power
    return max(float(minimum(total, variance)), least)


def _expected(model: SparseModel, spectrum: Spectrum, variance: float) -> tuple[np.ndarray, float]:
    """Expected squares of coefficients and of residuals, summed over snapshots."""
    snapshots = len(spectrum.y)
    mean = posterior_mean(spectrum, variance)
    squares = np.sum(np.abs(mean) ** 2, axis=0)
    squares += snapshots * posterior_variance(spectrum, variance)
    pull, push = noise_statistics(spectrum, variance, precisions(spectrum, variance))
    residual = variance**2 * pull + variance * (model.observations.size - variance * push)
    return squares, residual


def _cycles(most: int) -> Callable:
    """The paper's alternating minimisation, with so many cycles over the axes a sweep."""

    def update(
        model: SparseModel,
        parts: Sequence[_Part],
        spectrum: Spectrum,
        parameters: list[np.ndarray],
        variance: float,
        weight: float,
    ) -> tuple[Spectrum, list[np.ndarray], float]:
        squares, residual = _expected(model, spectrum, variance)
        found, relevances = list(parameters), list(spectrum.relevances)
        counts = len(spectrum.y) * squares.size
        for _ in range(most):
            change = 0.0
            for place, part in enumerate(parts):
                if part.axis.given is not None:
                    continue
                inverses = [1.0 / relevance for relevance in relevances]
                shares = contracted(squares, inverses, place)
                terms = Terms(inverse=shares, log=counts / len(shares))
                new = part.stepped(found[place], terms, weight)
                ratios = new[part.kept] / found[place][part.kept]
                change = max(change, float(np.max(np.abs(ratios - 1.0))))
                found[place], relevances[place] = new, part.relevance(new)
            if change < _CYCLE_TOLERANCE:
                break
        terms = Terms(inverse=residual, log=model.observations.size)
        variance = _noise_step(model, variance, terms, weight)
        for place, relevance in enumerate(relevances):
            spectrum = turned(spectrum, place, relevance)
        return spectrum, found, variance

    return update


def _svd(
    model: SparseModel,
    parts: Sequence[_Part],
    spectrum: Spectrum,
    parameters: list[np.ndarray],
    variance: float,
    weight: float,
) -> tuple[Spectrum, list[np.ndarray], float]:
    """The product that is nearest to the expected squares, axis by axis in least squares."""
    squares, residual = _expected(model, spectrum, variance)
    squares = squares / len(spectrum.y)
    found, rest = list(parameters), squares
    for place, part in enumerate(parts):
        relevance = rest.ravel()
        if place < len(parts) - 1:
            left, values, right = np.linalg.svd(
                rest.reshape(rest.shape[0], -1), full_matrices=False
            )
            relevance = np.abs(left[:, 0])
            rest = (values[0] * np.abs(right[0])).reshape(rest.shape[1:])
        new = found[place].copy()
        new[part.kept] = np.maximum(relevance, _LEAST * relevance.max())
        found[place] = new
        spectrum = turned(spectrum, place, part.relevance(new))
    terms = Terms(inverse=residual, log=model.observations.size)
    variance = _noise_step(model, variance, terms, weight)
    return spectrum, found, variance


UPDATES: dict[str, Callable] = {"mm": _mm, "am": _cycles(_CYCLES), "ksbl": _cycles(1), "svd": _svd}
"""Updates by name: each takes spectrum, parameters and noise to those of the next sweep."""
