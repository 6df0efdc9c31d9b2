"""The Laplace approximation: a normal at the mode, with the curvature that the posterior has there.

Climbs from several starts end near maxima. From there Newton's method goes on with the exact
Hessian, as the end of a climb tells neither the mode nor the curvature well where scales differ by
magnitudes. Highest first, ends that lie at a maximum which is known already are left alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from bayes.errors import SettingsError
from bayes.inference.approximation import Approximation, State
from bayes.inference.climbing import climb, compile_climb
from bayes.inference.densities import compile_gradients, evaluations_at_once, gradients_at
from bayes.inference.hessians import (
    Curvature,
    dense_curvature,
    hessian_operator,
    hessian_rows,
    lanczos_curvature,
    newton_steps,
)
from bayes.inference.settings import require_strategy, require_whole
from bayes.inference.starts import find_starts
from bayes.normals import Normal, independent, log_prob, push, whiten
from bayes.problem import Problem

__all__ = ["Laplace"]

_COVARIANCES = ("auto", "dense", "low_rank", "diagonal")
_DENSE_MOST = 1000
"""Dimensions up to which the whole Hessian is formed, and the covariance is dense by default."""
_RANK = 30
_CLIMBS = 5
"""Climbs from one end to the next that a start may take."""
_STEPS, _OTHER_STEPS = 50, 15
"""Of Newton's, from the highest end of a climb and from others."""
_ARRIVED, _CLOSE = 1e-12, 1e-6
"""Newton decrements, squared: where a step is the last one, and where one that fails is no harm."""
_SAME = 0.5
"""Standard deviations from a maximum at which the end of a climb is taken to lie at it."""
_WIDEST = 10.0
"""Scale of a coordinate where there is no maximum."""
_SHARE = 1e-3
"""Of the posterior, by the Laplace approximation: what another maximum may have unmentioned."""

_PENDING, _MAXIMUM, _KNOWN, _RISING, _FLAT = range(5)


@dataclasses.dataclass(frozen=True)
class Laplace(Approximation):
    """A normal whose mean is the posterior's mode and whose precision is minus the Hessian there.

    Both on the unconstrained space. Exact where the posterior is normal there, good where data are
    many; where it is skew, importance resampling corrects the draws as far as k-hat says.

    Parameters
    ----------
    draws : int
        Draws that are taken.
    starts : int
        Climbs; the highest maximum that any of them finds is taken.
    candidates : int
        Candidate starts a climb; the one with the highest log density is taken.
    init_strategy : callable, optional
        One of ``numpyro.infer.initialization``, for instance ``init_to_value(values=...)``.
    covariance : {"auto", "dense", "low_rank", "diagonal"}
        What is kept of the Hessian: all of it, its diagonal and the 30 directions in which the
        variance is furthest from what the diagonal tells, or the diagonal alone. ``"auto"`` is
        dense up to 1000 dimensions and low-rank above.

    References
    ----------
    Tierney and Kadane (1986), Accurate approximations for posterior moments and marginal densities.
    """

    name: ClassVar[str] = "laplace"

    starts: int = 4
    candidates: int = 20
    init_strategy: Callable | None = None
    covariance: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("starts", self.starts)
        require_whole("candidates", self.candidates)
        if self.covariance not in _COVARIANCES:
            raise SettingsError(
                f"covariance must be one of {', '.join(_COVARIANCES)}, got {self.covariance!r}"
            )
        require_strategy(self.init_strategy)

    # ------------------------------------------------------------------ contract

    def begin(self, problem: Problem, words: np.ndarray) -> State:
        """Find starts."""
        compile_climb(problem)
        compile_gradients(problem)
        problem.compile_prepare()
        found = find_starts(problem, words, self.starts, self.candidates, self.init_strategy)
        count, d = found.positions.shape
        best = int(np.argmax(found.density))
        return {
            "ends": found.positions,
            "heights": found.density,
            "slopes": found.gradients,
            "diagonals": np.ones((count, d)),
            "arrived": np.zeros(count, bool),
            "rounds": np.asarray(0),
            "order": np.arange(count),
            "status": np.full(count, _PENDING),
            "masses": np.full(count, -np.inf),
            "turn": np.asarray(-1),
            "steps": np.asarray(0),
            "best": np.asarray(-1),
            "rows": np.zeros((0, self._columns(problem))),
            "direction": np.zeros((count, d)),
            **independent(found.positions[best], np.ones(d))._asdict(),
        }

    def improve(self, problem: Problem, state: State) -> tuple[State, Float[np.ndarray, " n"]]:
        """Climb; then a step of Newton's, or some rows of the Hessian that it takes."""
        if state["turn"] < 0:
            return _climbed(problem, state)
        end = int(state["order"][int(state["turn"])])
        if self._whole(problem):
            new = self._dense_step(problem, state, end)
        else:
            new = self._sparse_step(problem, state, end)
        return new, new["heights"][end : end + 1]

    def settled(self, problem: Problem, state: State) -> bool:
        """Whether every climb's end is accounted for."""
        return int(state["turn"]) >= self.starts

    def sample(
        self, problem: Problem, state: State, generator: np.random.Generator, count: int
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
        """Draws of the normal."""
        normal = self.normal(problem, state)
        x = normal.mean + push(normal, generator.standard_normal((count, problem.size)))
        return x, log_prob(normal, x)

    def normal(self, problem: Problem, state: State) -> Normal:
        """The approximation itself."""
        return Normal(*(state[name] for name in Normal._fields))

    def converged(self, problem: Problem, state: State) -> str:
        """What is wrong with the maximum; empty where nothing is."""
        if not self.settled(problem, state):
            return "the fit was stopped before it had found a maximum; give it more time"
        status, heights, best = state["status"], state["heights"], int(state["best"])
        level = heights[best] if best >= 0 else -np.inf
        higher = [int(i) for i in state["order"] if heights[i] > level + _CLOSE]
        for end in higher:
            names = _names(problem, state["direction"][end])
            if status[end] == _FLAT:
                return (
                    f"the Hessian where the climb ended is not negative definite: the log density "
                    f"is flat or convex along {names}; give proper priors, or take method='nuts'"
                )
            if status[end] == _RISING:
                return (
                    f"no maximum was found: the log density still rises along {names}, maybe "
                    "without bound, as it does where a scale goes to 0; reparam='auto' or "
                    "method='nuts'"
                )
        return _other_maxima(state, _distinct(state))

    def about(self, problem: Problem, state: State) -> dict[str, Any]:
        """Log densities at the maxima that were found, and how the climbs ended."""
        counts = np.bincount(state["status"], minlength=5)
        return {
            "maxima": [float(state["heights"][group[0]]) for group in _distinct(state)],
            "ends": {
                "at_a_maximum": int(counts[_MAXIMUM] + counts[_KNOWN]),
                "still_rising": int(counts[_RISING]),
                "not_definite": int(counts[_FLAT]),
            },
        }

    # ------------------------------------------------------------ Newton's method

    def _whole(self, problem: Problem) -> bool:
        """Whether the whole Hessian is formed."""
        return problem.size <= _DENSE_MOST or self.covariance == "dense"

    def _columns(self, problem: Problem) -> int:
        return problem.size if self._whole(problem) else 1

    def _rank(self, problem: Problem) -> int | None:
        """Directions that the covariance keeps; None for all."""
        if self.covariance == "auto":
            return None if problem.size <= _DENSE_MOST else _RANK
        return {"dense": None, "low_rank": _RANK, "diagonal": 0}[self.covariance]

    def _dense_step(self, problem: Problem, state: State, end: int) -> State:
        """Some rows of the Hessian; once it has all, a step of Newton's."""
        rows = state["rows"]
        rows = np.concatenate([rows, hessian_rows(problem, state["ends"][end], len(rows))])
        if len(rows) < problem.size:
            return {**state, "rows": rows}
        curvature = dense_curvature(rows)
        new, status = _newton_step(problem, {**state, "rows": rows[:0]}, end, curvature)
        if status == _PENDING:
            return new
        return self._ended(problem, new, end, status, curvature)

    def _sparse_step(self, problem: Problem, state: State, end: int) -> State:
        """A step by conjugate gradients; at the maximum, the diagonal and then the spectrum."""
        operator = hessian_operator(problem, state["ends"][end])
        if state["status"][end] == _PENDING:
            new, status = _newton_step(problem, state, end, operator)
            if status == _RISING:
                return self._ended(problem, new, end, status, None)
            return {**new, "status": _changed(state["status"], end, status)}
        rows = state["rows"]
        part = hessian_rows(problem, state["ends"][end], len(rows), diagonal=True)
        rows = np.concatenate([rows, part])
        if len(rows) < problem.size:
            return {**state, "rows": rows}
        curvature = lanczos_curvature(operator, -rows[:, 0], 2 * _RANK)
        return self._ended(problem, {**state, "rows": rows[:0]}, end, _MAXIMUM, curvature)

    def _ended(
        self, problem: Problem, state: State, end: int, status: int, curvature: Curvature | None
    ) -> State:
        """Note how a climb ended, and turn to the next one that is not accounted for."""
        new = dict(state)
        first = int(state["turn"]) == 0
        if curvature is None:
            status = _RISING
            normal = independent(state["ends"][end], np.sqrt(state["diagonals"][end]))
        else:
            normal = curvature.normal(state["ends"][end], self._rank(problem))
            if status == _MAXIMUM and not curvature.definite:
                status = _FLAT
                new["direction"] = _changed(state["direction"], end, curvature.vectors[:, 0])
        if status != _MAXIMUM:
            # Where the log density is flat, draws of its scale would overflow.
            normal = normal._replace(scale=np.minimum(normal.scale, _WIDEST))
        best = int(state["best"])
        if status == _MAXIMUM:
            new["masses"] = _changed(state["masses"], end, state["heights"][end] + normal.log_scale)
        higher = best < 0 or state["heights"][end] > state["heights"][best] + _CLOSE
        if (status == _MAXIMUM and higher) or (first and best < 0):
            new.update(normal._asdict())
        if status == _MAXIMUM and higher:
            new["best"] = np.asarray(end)
        new["status"] = _changed(state["status"], end, status)
        return _next(new)


def _climbed(problem: Problem, state: State) -> tuple[State, Float[np.ndarray, " n"]]:
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
        new[name] = _changed(state[name], going, np.stack(values))
    order = np.argsort(-new["heights"], kind="stable")
    best = int(order[0])
    normal = independent(new["ends"][best], np.sqrt(new["diagonals"][best]))
    new.update(normal._asdict())
    if new["arrived"].all() or rounds + 1 >= _CLIMBS:
        new.update(order=order, turn=np.asarray(0))
    return new, paths[int(np.flatnonzero(going == highest)[0])].densities


def _newton_step(problem: Problem, state: State, end: int, curvature: Any) -> tuple[State, int]:
    """A step up from the end of a climb, and whether that was the last."""
    x, height, slope = state["ends"][end], float(state["heights"][end]), state["slopes"][end]
    trials = newton_steps(slope, curvature, state["diagonals"][end])
    decrement = float(slope @ trials[0])
    found = _search(problem, x, height, trials)
    new = {**state, "steps": state["steps"] + 1}
    if found is not None:
        place, value, gradient = found
        new["ends"] = _changed(state["ends"], end, place)
        new["heights"] = _changed(state["heights"], end, value)
        new["slopes"] = _changed(state["slopes"], end, gradient)
    if decrement <= (_ARRIVED if found is not None else _CLOSE):
        return new, _MAXIMUM
    if found is None or new["steps"] >= (_OTHER_STEPS if state["turn"] else _STEPS):
        scale = np.sqrt(state["diagonals"][end])
        new["direction"] = _changed(state["direction"], end, trials[0] / scale)
        return new, _RISING
    return new, _PENDING


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


def _next(state: State) -> State:
    """Turn to the next end that does not lie at the maximum that is known."""
    new = {**state, "steps": np.asarray(0)}
    turn, status = int(state["turn"]) + 1, state["status"]
    normal = Normal(*(state[name] for name in Normal._fields))
    away = np.linalg.norm(whiten(normal, state["ends"]), axis=1)
    while turn < len(status):
        end = int(state["order"][turn])
        if state["best"] < 0 or not away[end] < _SAME:
            break
        status = _changed(status, end, _KNOWN)
        turn += 1
    return {**new, "turn": np.asarray(turn), "status": status}


def _distinct(state: State) -> list[list[int]]:
    """Ends at maxima, those at the same one together, the highest first."""
    normal = Normal(*(state[name] for name in Normal._fields))
    places = whiten(normal, state["ends"])
    groups: list[list[int]] = []
    found = np.flatnonzero(np.isin(state["status"], (_MAXIMUM, _KNOWN)))
    for end in found[np.argsort(-state["heights"][found], kind="stable")].tolist():
        for group in groups:
            if np.linalg.norm(places[end] - places[group[0]]) < _SAME:
                group.append(end)
                break
        else:
            groups.append([end])
    return groups


def _other_maxima(state: State, groups: list[list[int]]) -> str:
    """What there is to say of maxima that are not the highest."""
    masses = np.array([state["masses"][group].max() for group in groups])
    shares = np.exp(masses - np.logaddexp.reduce(masses))
    others = [group for group, share in zip(groups[1:], shares[1:], strict=True) if share > _SHARE]
    if not others:
        return ""
    heights, best = state["heights"], state["heights"][groups[0][0]]
    lower = [best - heights[group[0]] for group in others]
    count, starts = sum(len(group) for group in others), len(heights)
    apart = f"{lower[0]:.3g}" if len(lower) == 1 else f"{lower[0]:.3g} to {lower[-1]:.3g}"
    return (
        f"{count} of {starts} starts ended at {len(others)} other "
        f"maxim{'um' if len(others) == 1 else 'a'}, {apart} lower in log density: there are "
        "several modes, and a normal covers one; method='nuts' and more chains"
    )


def _names(problem: Problem, direction: np.ndarray) -> str:
    """The coordinates that a direction is made of, up to three."""
    sizes = np.abs(np.nan_to_num(direction))
    largest = np.argsort(-sizes, kind="stable")[:3]
    names = problem.program.coordinates
    return ", ".join(names[i] for i in largest if sizes[i] >= 0.3 * sizes[largest[0]])


def _changed(values: np.ndarray, place: Any, value: Any) -> np.ndarray:
    new = values.copy()
    new[place] = value
    return new
