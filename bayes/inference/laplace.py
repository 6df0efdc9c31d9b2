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
from bayes.inference.climbing import compile_climb
from bayes.inference.densities import compile_gradients, compile_hessian_products
from bayes.inference.hessians import (
    Curvature,
    dense_curvature,
    hessian_operator,
    hessian_rows,
    lanczos_curvature,
)
from bayes.inference.newton import (
    CLOSE,
    FLAT,
    KNOWN,
    MAXIMUM,
    PENDING,
    RISING,
    changed,
    climbed,
    newton_step,
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
_SAME = 0.5
"""Standard deviations from a maximum at which the end of a climb is taken to lie at it."""
_WIDEST = 10.0
"""Scale of a coordinate where there is no maximum."""
_SHARE = 1e-3
"""Of the posterior, by the Laplace approximation: what another maximum may have unmentioned."""


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
        compile_hessian_products(problem)
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
            "status": np.full(count, PENDING),
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
            return climbed(problem, state)
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
        higher = [int(i) for i in state["order"] if heights[i] > level + CLOSE]
        for end in higher:
            names = _names(problem, state["direction"][end])
            if status[end] == FLAT:
                return (
                    f"the Hessian where the climb ended is not negative definite: the log density "
                    f"is flat or convex along {names}; give proper priors, or take method='nuts'"
                )
            if status[end] == RISING:
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
                "at_a_maximum": int(counts[MAXIMUM] + counts[KNOWN]),
                "still_rising": int(counts[RISING]),
                "not_definite": int(counts[FLAT]),
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
        new, status = newton_step(problem, {**state, "rows": rows[:0]}, end, curvature)
        if status == PENDING:
            return new
        return self._ended(problem, new, end, status, curvature)

    def _sparse_step(self, problem: Problem, state: State, end: int) -> State:
        """A step by conjugate gradients; at the maximum, the diagonal and then the spectrum."""
        operator = hessian_operator(problem, state["ends"][end])
        if state["status"][end] == PENDING:
            new, status = newton_step(problem, state, end, operator)
            if status == RISING:
                return self._ended(problem, new, end, status, None)
            return {**new, "status": changed(state["status"], end, status)}
        rows = state["rows"]
        part = hessian_rows(problem, state["ends"][end], len(rows), diagonal=True)
        rows = np.concatenate([rows, part])
        if len(rows) < problem.size:
            return {**state, "rows": rows}
        curvature = lanczos_curvature(operator, -rows[:, 0], 2 * _RANK)
        return self._ended(problem, {**state, "rows": rows[:0]}, end, MAXIMUM, curvature)

    def _ended(
        self, problem: Problem, state: State, end: int, status: int, curvature: Curvature | None
    ) -> State:
        """Note how a climb ended, and turn to the next one that is not accounted for."""
        new = dict(state)
        first = int(state["turn"]) == 0
        if curvature is None:
            status = RISING
            normal = independent(state["ends"][end], np.sqrt(state["diagonals"][end]))
        else:
            normal = curvature.normal(state["ends"][end], self._rank(problem))
            if status == MAXIMUM and not curvature.definite:
                status = FLAT
                new["direction"] = changed(state["direction"], end, curvature.vectors[:, 0])
        if status != MAXIMUM:
            # Where the log density is flat, draws of its scale would overflow.
            normal = normal._replace(scale=np.minimum(normal.scale, _WIDEST))
        best = int(state["best"])
        if status == MAXIMUM:
            new["masses"] = changed(state["masses"], end, state["heights"][end] + normal.log_scale)
        higher = best < 0 or state["heights"][end] > state["heights"][best] + CLOSE
        if (status == MAXIMUM and higher) or (first and best < 0):
            new.update(normal._asdict())
        if status == MAXIMUM and higher:
            new["best"] = np.asarray(end)
        new["status"] = changed(state["status"], end, status)
        return _next(new)


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
        status = changed(status, end, KNOWN)
        turn += 1
    return {**new, "turn": np.asarray(turn), "status": status}


def _distinct(state: State) -> list[list[int]]:
    """Ends at maxima, those at the same one together, the highest first."""
    normal = Normal(*(state[name] for name in Normal._fields))
    places = whiten(normal, state["ends"])
    groups: list[list[int]] = []
    found = np.flatnonzero(np.isin(state["status"], (MAXIMUM, KNOWN)))
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
