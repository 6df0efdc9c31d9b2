"""Mean-field variational inference with fixed draws, and covariances by linear response."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from bayes.errors import SettingsError
from bayes.inference.approximation import Approximation, State
from bayes.inference.climbing import climb, compile_climb
from bayes.inference.densities import (
    compile_gradients,
    compile_hessian_products,
    evaluations_at_once,
)
from bayes.inference.fixed_draws import Place, best_start, default_samples, fixed_noise
from bayes.inference.linear_response import hessian_rows, respond
from bayes.inference.randomness import Purpose, generator_of
from bayes.inference.settings import require_strategy, require_whole
from bayes.inference.starts import find_starts
from bayes.method import Progress
from bayes.normals import Normal, log_prob, normal_of_covariance, push
from bayes.problem import Problem

__all__ = ["DADVI", "RESPONSE_STATE"]

_COVARIANCES = ("linear_response", "mean_field")
_DENSE_NEWTON, _DENSE_RESPONSE = 100, 1000
"""Dimensions up to which the search has the Hessian, and linear response is to be had."""
_PRODUCTS = 2**15
"""Hessian products of the log density in a block of work, at most."""
_OF_A_STEP = 50
"""Products of the objective's Hessian that a step takes where it is not had, about."""
_SEARCHING, _POLISHING, _RESPONDING, _SETTLED = range(4)
_NEAR, _SMALL, _EXACT = 1e-5, 1e-4, 1e-9
"""Norms of the gradient where Newton steps take over, that is small, and that they stop at."""
_FEWEST_STEPS, _RADIUS = 8, 0.5
"""Steps of a block at least, as each begins with a trust region of this size an element."""
_MOST_PRODUCTS = 100
"""Products of the objective's Hessian that the last steps take at most."""
_FROM_PATH = 16
"""Points of a climb at which a search may begin."""

RESPONSE_STATE = (
    *("mean", "log_scale", "noise", "stage", "steps", "gradient", "row", "hessian"),
    *("curvature", "flattest", "scale", "vectors", "values"),
)
"""Entries of the state, for a method that begins with this one later."""


@dataclasses.dataclass(frozen=True)
class DADVI(Approximation):
    """A normal of independent elements that is best for fixed draws, with correlations put back.

    With its standard normal draws fixed, the variational objective is an ordinary function, and a
    second-order optimiser finds where it is least to machine precision. Means come from there.
    Covariances come from how the means would move if the posterior were tilted.

    Parameters
    ----------
    draws : int
        Draws that are taken in the end.
    samples : int, optional
        Fixed draws of the objective, in pairs of opposite sign. By default the least multiple of 32
        that is twice the dimension, for draws that are uncorrelated, and 64 above 64 dimensions.
    covariance : {"linear_response", "mean_field"}
        Covariance that draws are taken with. ``"linear_response"`` has correlations, up to 1000
        dimensions; ``"mean_field"`` has none, and standard deviations that are too small where the
        posterior has some.
    steps : int
        Newton steps at most.
    starts, candidates : int
        Climbs that the search begins from the best of, and candidates for the start of each.
    init_strategy : callable, optional
        One of ``numpyro.infer.initialization``.

    References
    ----------
    Giordano, Ingram and Broderick (2024), Black box variational inference with a deterministic
    objective: faster, more accurate, and even more black box.
    """

    name: ClassVar[str] = "dadvi"

    samples: int | None = None
    covariance: str = "linear_response"
    steps: int = 200
    starts: int = 4
    candidates: int = 20
    init_strategy: Callable | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "starts", "candidates"):
            require_whole(name, getattr(self, name))
        if self.samples is not None:
            require_whole("samples", self.samples, least=2)
        if self.samples is not None and self.samples % 2:
            raise SettingsError(
                f"samples must be even, as they come in pairs of opposite sign, got {self.samples}"
            )
        if self.covariance not in _COVARIANCES:
            raise SettingsError(
                f"covariance must be one of {', '.join(_COVARIANCES)}, got {self.covariance!r}"
            )
        require_strategy(self.init_strategy)

    # ------------------------------------------------------------------ contract

    def begin(self, problem: Problem, words: np.ndarray) -> State:
        """Climb, and take the place on the paths where the objective is best."""
        compile_climb(problem)
        problem.compile_prepare()
        compile_gradients(problem)
        compile_hessian_products(problem)
        d = problem.size
        samples = self.samples or default_samples(d)
        noise = fixed_noise(generator_of(words, Purpose.NOISE), samples, d)
        starts = find_starts(problem, words, self.starts, self.candidates, self.init_strategy)
        paths = climb(problem, starts.positions, starts.density, starts.gradients)
        places, scales = [], []
        for path in paths:
            kept = np.unique(np.linspace(0, len(path.positions) - 1, _FROM_PATH).astype(int))
            places.append(path.positions[kept])
            scales.append(np.sqrt(path.diagonals[kept]))
        mean, log_scale = best_start(problem, np.vstack(places), np.vstack(scales), noise)
        return {
            "mean": mean,
            "log_scale": log_scale,
            "noise": noise,
            "stage": np.asarray(_SEARCHING),
            "steps": np.asarray(0),
            "gradient": np.asarray(np.inf),
            "row": np.asarray(0),
            "hessian": np.zeros((0, 0)),
            "curvature": np.asarray(0.0),
            "flattest": np.zeros(d),
            "scale": np.exp(log_scale),
            "vectors": np.zeros((d, 0)),
            "values": np.zeros(0),
        }

    def improve(self, problem: Problem, state: State) -> tuple[State, Float[np.ndarray, " n"]]:
        """Some steps down the objective, or some rows of the Hessian."""
        new = {k: v for k, v in state.items() if k not in ("key", "drawn")}
        if state["stage"] == _RESPONDING:
            return self._respond(problem, new), np.zeros(0)
        if state["stage"] == _SEARCHING:
            new, trace = self._search(problem, new)
        else:
            new, trace = self._polish(problem, new)
        if new["stage"] == _RESPONDING and not self._responds(problem):
            new["stage"] = np.asarray(_SETTLED)
        new["scale"] = np.exp(new["log_scale"])
        return new, trace

    def settled(self, problem: Problem, state: State) -> bool:
        """Whether the optimum is found or given up, and the covariance with it."""
        return int(state["stage"]) == _SETTLED

    def normal(self, problem: Problem, state: State) -> Normal:
        """Means of the optimum, with the covariance that draws are taken with."""
        return Normal(state["mean"], state["scale"], state["vectors"], state["values"])

    def sample(
        self, problem: Problem, state: State, generator: np.random.Generator, count: int
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
        """Draws of the normal, and its log density there."""
        normal = self.normal(problem, state)
        positions = normal.mean + push(normal, generator.standard_normal((count, problem.size)))
        return positions, log_prob(normal, positions)

    def converged(self, problem: Problem, state: State) -> str:
        """Whether the gradient is small, and the Hessian positive definite."""
        gradient = float(state["gradient"])
        if not gradient <= _SMALL:
            return (
                f"the objective is not at its least after {int(state['steps'])} Newton steps (the "
                f"norm of its gradient is {gradient:.2g} in units of the standard deviations): the "
                "posterior may have no mean-field approximation, as a funnel has none; "
                "reparam='auto', or more steps="
            )
        if state["curvature"] != 0:
            names = problem.program.coordinates
            worst = [names[i] for i in np.argsort(-state["flattest"])[:3] if state["flattest"][i]]
            return (
                "the objective is flat in the direction of "
                f"{', '.join(worst)}: there is no covariance by linear response, and standard "
                "deviations are those of mean field"
            )
        return ""

    def about(self, problem: Problem, state: State) -> dict[str, Any]:
        """Norm of the gradient, Newton steps, and which covariance the draws have."""
        responded, gradient = state["values"].size > 0, float(state["gradient"])
        found: dict[str, Any] = {
            "gradient_norm": gradient if np.isfinite(gradient) else None,
            "newton_steps": int(state["steps"]),
            "covariance": "linear_response" if responded else "mean_field",
        }
        if self.covariance == "linear_response" and problem.size > _DENSE_RESPONSE:
            found["notes"] = [
                f"covariances by linear response are for up to {_DENSE_RESPONSE} dimensions, "
                f"there are {problem.size}: standard deviations are those of mean field"
            ]
        return found

    def progress(self, problem: Problem, state: State) -> Progress | None:
        """Newton steps, and then draws."""
        if self.settled(problem, state):
            return super().progress(problem, state)
        return Progress(int(state["steps"]), self.steps, "Newton step")

    # -------------------------------------------------------------------- stages

    def _responds(self, problem: Problem) -> bool:
        return self.covariance == "linear_response" and problem.size <= _DENSE_RESPONSE

    def _search(self, problem: Problem, state: State) -> tuple[State, np.ndarray]:
        """Some steps of a trust-region method, in units of the scales at which they begin."""
        from scipy.optimize import minimize

        d, steps, noise = problem.size, int(state["steps"]), state["noise"]
        place = Place(problem, state["mean"], state["log_scale"], noise)
        dense = d <= _DENSE_NEWTON
        cost = len(noise) * (d if dense else _OF_A_STEP)
        left = max(1, self.steps - steps)
        most = min(left, max(_FEWEST_STEPS, _products(problem) // cost))
        trace: list[float] = []

        def follow(intermediate_result: Any) -> None:
            trace.append(-float(intermediate_result.fun))

        second: dict[str, Any] = (
            {"method": "trust-exact", "hess": place.hessian}
            if dense
            else {"method": "trust-krylov", "hessp": place.product}
        )
        found = minimize(
            place.value,
            np.zeros(2 * d),
            jac=True,
            callback=follow,
            options={
                "gtol": 0.1 * _NEAR,
                "maxiter": most,
                "initial_trust_radius": _RADIUS * np.sqrt(2 * d),
            },
            **second,
        )
        mean, log_scale = place.at(found.x)
        end = Place(problem, mean, log_scale, noise)
        norm = float(np.linalg.norm(end.value(np.zeros(2 * d))[1]))
        steps += max(int(found.nit), 1)
        # A search that ends at once will do so again: what is left are rounding errors.
        near = norm <= _NEAR or found.nit < min(2, most)
        stage = _POLISHING if near else _SEARCHING if steps < self.steps else _SETTLED
        return {
            **state,
            "mean": mean,
            "log_scale": log_scale,
            "stage": np.asarray(stage),
            "steps": np.asarray(steps),
            "gradient": np.asarray(norm),
        }, np.asarray(trace)

    def _polish(self, problem: Problem, state: State) -> tuple[State, np.ndarray]:
        """One Newton step, for as long as they make the gradient smaller.

        Near the optimum differences of the objective are rounding errors, and a trust region that
        judges steps by them ends too early.
        """
        d = problem.size
        nothing = np.zeros(2 * d)
        place = Place(problem, state["mean"], state["log_scale"], state["noise"])
        gradient = place.value(nothing)[1]
        mean, log_scale = place.at(-_solve(place, gradient))
        end = Place(problem, mean, log_scale, state["noise"])
        value, slope = end.value(nothing)
        before, after = np.linalg.norm(gradient), np.linalg.norm(slope)
        lower = bool(np.isfinite(value) and after < before)
        new = {**state, "steps": state["steps"] + 1}
        if lower:
            new |= {"mean": mean, "log_scale": log_scale, "gradient": np.asarray(float(after))}
        if not (lower and after < 0.5 * before and after > _EXACT):
            small = new["gradient"] <= _SMALL
            new["stage"] = np.asarray(_RESPONDING if small else _SETTLED)
        return new, np.asarray([-value] if lower else [])

    def _respond(self, problem: Problem, state: State) -> State:
        """Some rows of the Hessian; with the last of them, the covariance."""
        d, row = problem.size, int(state["row"])
        found = state["hessian"].copy() if row else np.zeros((2 * d, 2 * d))
        end = min(d, row + max(1, _products(problem) // len(state["noise"])))
        mean, log_scale, noise = (state[k] for k in ("mean", "log_scale", "noise"))
        hessian_rows(problem, mean, log_scale, noise, found, range(row, end))
        if end < d:
            return {**state, "hessian": found, "row": np.asarray(end)}
        new = {**state, "hessian": np.zeros((0, 0)), "row": np.asarray(end)}
        new["stage"] = np.asarray(_SETTLED)
        response = respond(found, np.exp(log_scale))
        try:
            normal = normal_of_covariance(mean, response.covariance)
        except np.linalg.LinAlgError:
            curvature = response.curvature or -np.finfo(float).eps
            return {**new, "curvature": np.asarray(curvature), "flattest": response.flattest}
        return {**new, "scale": normal.scale, "vectors": normal.vectors, "values": normal.values}


def _solve(place: Place, gradient: np.ndarray) -> np.ndarray:
    """The Newton step for a gradient; zeros where there is none."""
    nothing = np.zeros_like(gradient)
    if place.problem.size <= _DENSE_NEWTON:
        try:
            return np.linalg.solve(place.hessian(nothing), gradient)
        except np.linalg.LinAlgError:
            return nothing
    from scipy.sparse.linalg import LinearOperator, cg

    size = len(gradient)
    make: Any = LinearOperator
    operator = make((size, size), matvec=lambda v: place.product(nothing, v), dtype=float)
    return cg(operator, gradient, rtol=1e-4, maxiter=_MOST_PRODUCTS)[0]


def _products(problem: Problem) -> int:
    """Hessian products of a block of work: fewer where one is a lot of work."""
    return 32 * evaluations_at_once(problem, _PRODUCTS // 32)
