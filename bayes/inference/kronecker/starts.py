"""Where climbs of the evidence start: at the scale of the observations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayes.inference.kronecker.evidence import Observations, decompose, observe, posterior_mean
from bayes.inference.kronecker.penalties import Prior
from bayes.inference.kronecker.sparse_model import Axis, Noise, SparseModel
from bayes.inference.kronecker.updates import sweep

__all__ = ["start"]

_NOISE = 0.1
"""Share of the observations' power that is taken for noise where it is learned."""
_SWEEPS = 15
_PRUNE = 1e-8
_LEAST = 1e-4
"""Smallest start of a slice, as a part of the largest: what a rank-one fit misses may come back."""
_SPREAD = 2.0
"""Standard deviation of the log of a random start."""


def start(
    model: SparseModel, number: int, generator: np.random.Generator
) -> tuple[list[np.ndarray], float]:
    """The start of a climb: the same for all slices, then from a rank-one fit, then random.

    Parameters
    ----------
    model : SparseModel
        Observations and priors.
    number : int
        Which climb: 0, 1, ...
    generator : Generator
        For those that are random.

    Returns
    -------
    parameters : list of array of shape (k_i,)
        What the prior variances along each axis are made of.
    variance : float
        Of the noise.
    """
    axes = model.axes
    several = len(axes) > 1
    if number == 0:
        shapes = [np.ones(axis.length) for axis in axes]
    elif number == 1 and several:
        shapes = _rank_one(model)
    else:
        shapes = [np.exp(_SPREAD * generator.standard_normal(axis.length)) for axis in axes]
    return _matched(model, shapes)


def _matched(model: SparseModel, shapes: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """Scaled such that the observations have the power that they have."""
    observations = model.observations
    power, given = observations.power, model.noise.given
    variance = _NOISE * power if given is None else given
    signal = max(power - variance, _NOISE * power)
    # The reduced factors carry all of the signal, over fewer dimensions.
    signal *= observations.size / observations.y.size
    gains = []
    for axis, factor, shape in zip(model.axes, observations.factors, shapes, strict=True):
        t = shape if axis.given is None else axis.given
        gains.append(float(np.mean(np.abs(factor) ** 2 @ axis.relevance(t))))
    free = [i for i, axis in enumerate(model.axes) if axis.given is None]
    known = float(np.prod([gains[i] for i in range(len(gains)) if i not in free]))
    # The product takes the scale; the factors share it equally.
    each = (signal / max(known, np.finfo(float).tiny)) ** (1.0 / max(len(free), 1))
    found = []
    for i, (axis, shape) in enumerate(zip(model.axes, shapes, strict=True)):
        found.append(shape * each / gains[i] if axis.given is None else axis.given)
    return found, variance


def _rank_one(model: SparseModel) -> list[np.ndarray]:
    """Relevances of the factors of a rank-one fit to the observations, each by itself.

    Right where the coefficients are a product of vectors, as those of a single path or source are;
    the evidence tells whether they are.
    """
    observations = model.observations
    shapes = []
    for place, (axis, factor) in enumerate(zip(model.axes, observations.factors, strict=True)):
        if axis.given is not None:
            shapes.append(axis.given)
            continue
        unfolded = np.moveaxis(observations.y, place + 1, 0).reshape(len(factor), -1)
        vector = np.linalg.svd(unfolded, full_matrices=False)[0][:, 0]
        power = np.abs(_coefficients(factor, vector)) ** 2
        if axis.operator is not None:
            power = axis.operator.T @ power / np.maximum(axis.operator.sum(axis=0), 1e-12)
        shapes.append(np.maximum(power, _LEAST * power.max()))
    return shapes


def _coefficients(factor: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Sparse coefficients of one vector."""
    single: Observations = observe([factor], vector[None])
    flat = Prior("ImproperUniform")
    model = SparseModel(single, (Axis(factor.shape[1], flat),), Noise(flat))
    parameters, variance = _matched(model, [np.ones(factor.shape[1])])
    found = sweep(model, parameters, variance, "mm", _SWEEPS, _PRUNE)
    return posterior_mean(decompose(single, found.parameters), found.variance)[0]
