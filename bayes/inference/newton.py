"""From starts to maxima: climbs from several, and Newton's method from where each ended.

The state has an entry for each start: where its climb is (``ends``), log density and gradient there
(``heights``, ``slopes``), and the variances that it has learned (``diagonals``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from bayes.inference.approximation import State
from bayes.inference.climbing import climb
from bayes.inference.densities import evaluations_at_once, gradients_at
from bayes.inference.hessians import newton_steps
from bayes.normals import independent
from bayes.problem import Problem

__all__ = [
    "CLOSE",
    "FLAT",
    "KNOWN",
    "MAXIMUM",
    "PENDING",
    "RISING",
    "changed",
    "climbed",
    "newton_step",
]

PENDING, MAXIMUM, KNOWN, RISING, FLAT = range(5)
"""What the end of a climb is: not known yet, a maximum, at one that is known, or none."""
_CLIMBS = 5
"""Climbs from one end to the next that a start may take."""
_STEPS, _OTHER_STEPS = 50, 15
"""Of Newton's, from the highest end of a climb and from others."""
_ARRIVED, CLOSE = 1e-12, 1e-6
"""Newton decrements, squared: where a step is the last one, and where one that fails is no harm."""


def climbed(problem: Problem, state: State) -> tuple[State, Float[np.ndarray, " n"]]:
    """The state with the ends replaced by where climbs from them end."""
    going = np.flatnonzero(~state["arrived"])
    highest = going[np.argmax(state["heights"][going])]
    rounds = int(state["rounds"])
    scale = np.sqrt(state["diagonals"][highest]) if rounds else None
    part = [state[name][going] for name in ("ends", "heights", "slopes")]
    paths = climb(problem, *part, scale=scale)
    new = {**state, "rounds": np.asarray(rounds + 1)}
    last = {
        "ends": [path.positions[-1] for path in paths],
        "heights": [path.densities[-1] for path in paths],
        "slopes": [path.gradients[-1] for path in paths],
        "diagonals": [path.diagonals[-1] for path in paths],
        "arrived": [path.converged or len(path.positions) == 1 for path in paths],
    }
    for name, values in last.items():
        new[name] = changed(state[name], going, np.stack(values))
    order = np.argsort(-new["heights"], kind="stable")
    best = int(order[0])
    normal = independent(new["ends"][best], np.sqrt(new["diagonals"][best]))
    new.update(normal._asdict())
    if new["arrived"].all() or rounds + 1 >= _CLIMBS:
        new.update(order=order, turn=np.asarray(0))
    return new, paths[int(np.flatnonzero(going == highest)[0])].densities


def newton_step(problem: Problem, state: State, end: int, curvature: Any) -> tuple[State, int]:
    """A step up from the end of a climb, and whether that was the last."""
    x, height, slope = state["ends"][end], float(state["heights"][end]), state["slopes"][end]
    trials = newton_steps(slope, curvature, state["diagonals"][end])
    decrement = float(slope @ trials[0])
    found = _search(problem, x, height, trials)
    new = {**state, "steps": state["steps"] + 1}
    if found is not None:
        place, value, gradient = found
        new["ends"] = changed(state["ends"], end, place)
        new["heights"] = changed(state["heights"], end, value)
        new["slopes"] = changed(state["slopes"], end, gradient)
    if decrement <= (_ARRIVED if found is not None else CLOSE):
        return new, MAXIMUM
    if found is None or new["steps"] >= (_OTHER_STEPS if state["turn"] else _STEPS):
        scale = np.sqrt(state["diagonals"][end])
        new["direction"] = changed(state["direction"], end, trials[0] / scale)
        return new, RISING
    return new, PENDING


def _search(
    problem: Problem, x: np.ndarray, height: float, trials: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """The best of some steps, from long to short; None where none is as high as the start."""
    count = evaluations_at_once(problem, 32)
    # Near the maximum differences of the log density are rounding errors.
    slack = 1e-12 * (1.0 + abs(height))
    for first in range(0, len(trials), count):
        places = x + trials[first : first + count]
        values, gradients = gradients_at(problem, places)
        fine = np.isfinite(values) & np.isfinite(gradients).all(axis=1)
        values = np.where(fine, values, -np.inf)
        if values.max() >= height - slack:
            longest = int(np.argmax(values >= values.max() - slack))
            return places[longest], float(values[longest]), gradients[longest]
    return None


def changed(values: np.ndarray, place: Any, value: Any) -> np.ndarray:
    """A copy of an array with some of its values changed."""
    new = values.copy()
    new[place] = value
    return new
