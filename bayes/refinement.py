"""What corrects the draws of an approximation: importance weights, or chains that start there."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from jaxtyping import Float

from bayes.checkpoint import Checkpoint
from bayes.diagnostics.approximations import ratios_of
from bayes.driver import Outcome, drive
from bayes.errors import NoDrawsError, SettingsError
from bayes.inference.continuation import Continuation
from bayes.inference.randomness import Purpose, generator_of
from bayes.inference.resampling import resample
from bayes.method import Draws, Method
from bayes.problem import Problem
from bayes.threefry import key_words

__all__ = ["REFINEMENTS", "check_refinement", "refine_outcome"]

REFINEMENTS = ("psis", "nuts")
_CARRIED = ("surrogate", "log_evidence", "log_evidence_error")
_STARTS = 40
"""Draws of the approximation that may be starts; the chains take the first that are fine."""


def check_refinement(refine: Any, method: Method) -> None:
    """Refuse what corrects nothing.

    Raises
    ------
    SettingsError
        Where it is not one of the refinements, or the method is exact.
    """
    if refine is None:
        return
    if refine not in REFINEMENTS:
        raise SettingsError(f"refine must be one of {', '.join(REFINEMENTS)}, got {refine!r}")
    if method.exact:
        raise SettingsError(
            f"refine corrects approximations; {method.name} draws from the posterior itself"
        )
    if not method.refinable:
        raise SettingsError(
            f"refine needs draws with their log density, which those of {method.name} do not have"
        )


def refine_outcome(
    outcome: Outcome,
    problem: Problem,
    refine: str,
    seed: int,
    *,
    budget: float | None,
    checkpoint: Checkpoint | None,
    progress: bool | None,
) -> Outcome:
    """Correct the draws of an approximation.

    Parameters
    ----------
    outcome : Outcome
        What the approximation gave.
    problem : Problem
        Model and data.
    refine : {"psis", "nuts"}
        ``"psis"`` resamples the draws by their Pareto-smoothed importance weights; ``"nuts"``
        starts chains from them, with the approximation's covariance for a first metric.
    seed : int
        The run's seed.
    budget : float, optional
        Seconds for the approximation and this together.
    checkpoint : Checkpoint, optional
        Of the chains.
    progress : bool, optional
        Whether to show a progress line.

    Returns
    -------
    Outcome
        The approximation's own where the chains were stopped before their first draw.
    """
    draws = outcome.draws
    if draws.log_q is None or "lp" not in draws.stats:
        raise SettingsError(f"refine={refine!r} needs draws with their log densities")
    words = key_words(seed)
    if refine == "psis":
        if draws.info.get("route") == "psis":
            return outcome
        draws = resample(draws, words)
        info = {**draws.info, **_carried(draws.info, "psis")}
        return dataclasses.replace(outcome, draws=dataclasses.replace(draws, info=info))
    left = None if budget is None else budget - outcome.seconds
    if outcome.interrupted is not None or (left is not None and left <= 0):
        return dataclasses.replace(outcome, interrupted=outcome.interrupted or "budget")
    begin = time.perf_counter()
    method = Continuation(positions=_starts(draws, words), normal=draws.normal)
    try:
        found = drive(problem, method, seed, budget=left, checkpoint=checkpoint, progress=progress)
    except NoDrawsError as stopped:
        return dataclasses.replace(outcome, interrupted=stopped.reason or "budget")
    left_out = ("independent", "route", *_CARRIED)
    approximation = {k: v for k, v in draws.info.items() if k not in left_out}
    info = {**found.draws.info, "route": "nuts", "approximation": approximation}
    info |= _carried(draws.info, "nuts")
    refined = dataclasses.replace(found.draws, info=info, normal=draws.normal)
    seconds = outcome.seconds + time.perf_counter() - begin
    return dataclasses.replace(found, draws=refined, seconds=seconds)


def _carried(info: dict[str, Any], route: str) -> dict[str, Any]:
    """What is known of the posterior, or of a surrogate, however the draws were corrected."""
    kept = {k: info[k] for k in _CARRIED if k in info}
    if "surrogate" in kept:
        kept["surrogate"] = {**kept["surrogate"], "route": route}
    return kept


def _starts(draws: Draws, words: np.ndarray) -> np.ndarray:
    """Distinct draws in random order, by their importance weights as far as these are bounded.

    Truncated at the root of their number times their mean (Ionides 2008, Truncated importance
    sampling): where the approximation is poor a few draws have all the weight, and chains that
    start at the same place tell nothing by their agreement.
    """
    assert draws.positions is not None
    assert draws.log_q is not None
    positions = draws.positions.reshape(-1, draws.positions.shape[-1])
    count = len(positions)
    log_weights = np.zeros(count)
    if draws.info.get("route") != "psis":
        ratios = ratios_of(draws.stats["lp"], draws.log_q)
        if ratios is not None:
            most = np.logaddexp.reduce(ratios.log_ratios) - 0.5 * np.log(count)
            log_weights = np.minimum(ratios.log_ratios, most)
    generator = generator_of(words, Purpose.STARTS, 1)
    # Without replacement: the largest of log weights with Gumbel noise.
    order = np.argsort(-(log_weights + generator.gumbel(size=count)))
    chosen = positions[order]
    _, first = np.unique(chosen, axis=0, return_index=True)
    starts = chosen[np.sort(first)[:_STARTS]]
    return _far_apart(starts, positions) if "surrogate" in draws.info else starts


def _far_apart(
    starts: Float[np.ndarray, "n d"], positions: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "n d"]:
    """The starts with each as far as can be from those before it.

    A network may see several modes: chains that begin in one of them would agree and be wrong.
    """
    scale = positions.std(axis=0)
    z = starts / np.where(scale > 0, scale, 1.0)
    order = [0]
    nearest = np.square(z - z[0]).sum(axis=1)
    while len(order) < len(z):
        nearest[order[-1]] = -1.0
        order.append(int(np.argmax(nearest)))
        nearest = np.where(
            nearest < 0, nearest, np.minimum(nearest, np.square(z - z[order[-1]]).sum(axis=1))
        )
    return starts[order]
