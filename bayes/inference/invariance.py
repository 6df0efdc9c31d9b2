"""Whether draws stay as they are under moves that leave the posterior as it is.

Importance ratios tell nothing of where an approximation has no draws, and in many dimensions much
mass may be there. Draws of the posterior, moved by Hamiltonian dynamics, are draws of the posterior
again; draws of something else drift towards it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from bayes.diagnostics.approximations import KHAT, ratios_of
from bayes.inference.densities import gradients_at
from bayes.inference.randomness import Purpose, generator_of
from bayes.inference.resampling import choose
from bayes.method import Draws
from bayes.normals import Normal, independent, push
from bayes.problem import Problem

__all__ = ["examined", "moved"]

_FEWEST_UNKNOWNS = 20
"""Up to so many unknowns wide proposals come near enough to everywhere."""
_PARTICLES, _TRANSITIONS, _LEAPFROGS = 256, 5, 7
_STEP, _SMALLEST_STEP = 0.35, 1e-3
_TOO_FEW, _ENOUGH = 0.5, 0.9


def examined(problem: Problem, draws: Draws, words: np.ndarray) -> Draws:
    """Draws with what became of some of them under moves, where that may tell something.

    Parameters
    ----------
    problem : Problem
        Model and data.
    draws : Draws
        Independent draws of an approximation, raw or resampled.
    words : array of uint32
        Data of a key.

    Returns
    -------
    Draws
        With ``moves`` in their info where there are more than 20 unknowns and k-hat has nothing
        against the draws: largest shift of a mean in standard deviations, and largest relative
        change of a standard deviation, on the unconstrained space.
    """
    if not draws.info.get("independent") or problem.size <= _FEWEST_UNKNOWNS:
        return draws
    if draws.positions is None or draws.log_q is None:
        return draws
    positions = draws.positions.reshape(-1, problem.size)
    generator = generator_of(words, Purpose.NOISE, 1000)
    known = draws.info.get("importance")
    if known is not None:
        if known["khat"] >= KHAT:
            return draws
        start = positions[generator.permutation(len(positions))[:_PARTICLES]]
    else:
        ratios = ratios_of(draws.stats.get("lp"), draws.log_q)
        if ratios is None or ratios.khat >= KHAT:
            return draws
        start = positions[choose(ratios.log_weights, _PARTICLES, generator)]
    scale = positions.std(axis=0)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        return draws
    normal = independent(positions.mean(axis=0), scale) if draws.normal is None else draws.normal
    found, acceptance = moved(problem, normal, start, generator)
    shift = (found.mean(axis=0) - positions.mean(axis=0)) / scale
    change = found.std(axis=0) / scale - 1.0
    names = problem.program.coordinates
    moves: dict[str, Any] = {
        "acceptance": acceptance,
        "particles": len(start),
        "unknowns": problem.size,
    }
    for name, values in (("mean_shift", shift), ("sd_shift", change)):
        worst = int(np.argmax(np.abs(values)))
        moves |= {name: float(abs(values[worst])), f"{name}_of": names[worst]}
    return dataclasses.replace(draws, info={**draws.info, "moves": moves})


def moved(
    problem: Problem,
    normal: Normal,
    positions: Float[np.ndarray, "n d"],
    generator: np.random.Generator,
) -> tuple[Float[np.ndarray, "n d"], float]:
    """Positions after some transitions of Hamiltonian Monte Carlo, all side by side.

    Parameters
    ----------
    problem : Problem
        Model and data.
    normal : Normal
        Whose covariance is the metric.
    positions : array of shape (n, d)
        Where they begin.
    generator : numpy.random.Generator
        Random numbers.

    Returns
    -------
    positions : array of shape (n, d)
    acceptance : float
        Mean acceptance of the last transition.
    """
    x = positions.copy()
    lp, gradient = gradients_at(problem, x)
    step = _STEP * (10.0 / max(10.0, problem.size)) ** 0.25
    acceptance = 0.0
    for _ in range(_TRANSITIONS):
        momentum = generator.standard_normal(x.shape)
        here = lp - 0.5 * np.square(momentum).sum(axis=1)
        # Steps of random length, so that no direction comes back to where it was.
        length = step * generator.uniform(0.7, 1.3)
        y, slope, p = x, gradient, momentum
        for _ in range(_LEAPFROGS):
            p = p + 0.5 * length * _pull(normal, slope)
            y = y + length * push(normal, p)
            value, slope = gradients_at(problem, np.nan_to_num(y))
            slope = np.nan_to_num(slope, posinf=0.0, neginf=0.0)
            p = p + 0.5 * length * _pull(normal, slope)
        with np.errstate(over="ignore", invalid="ignore"):
            there = value - 0.5 * np.square(p).sum(axis=1)
            chance = np.nan_to_num(np.exp(np.minimum(0.0, there - here)))
        taken = generator.uniform(size=len(x)) < chance
        x = np.where(taken[:, None], y, x)
        gradient = np.where(taken[:, None], slope, gradient)
        lp = np.where(taken, value, lp)
        acceptance = float(chance.mean())
        if acceptance < _TOO_FEW:
            step = max(0.5 * step, _SMALLEST_STEP)
        elif acceptance > _ENOUGH:
            step *= 1.2
    return x, acceptance


def _pull(normal: Normal, slope: np.ndarray) -> np.ndarray:
    """F' g of every row, for the factor F by which ``push`` multiplies."""
    slope = slope * normal.scale
    if not normal.values.shape[0]:
        return slope
    return slope + ((slope @ normal.vectors) * (np.sqrt(normal.values) - 1.0)) @ normal.vectors.T
