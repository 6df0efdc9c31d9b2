"""The ladder of approximations: one after another, until the importance ratios say it will do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from bayes.inference.adaptation import (
    ADAPT,
    LARGEST_FULL,
    MATCH,
    SETTLED,
    AdaptedMixture,
    entries_of,
    mixture_in,
)
from bayes.inference.approximation import State
from bayes.inference.climbing import climb, compile_climb
from bayes.inference.dadvi import DADVI, RESPONSE_STATE
from bayes.inference.densities import compile_gradients
from bayes.inference.laplace import Laplace
from bayes.inference.mixtures import component, mixture_of
from bayes.inference.quasi_newton import best_normal, distinct_ends
from bayes.inference.randomness import Purpose, generator_of
from bayes.inference.settings import require_strategy, require_whole
from bayes.inference.starts import find_starts
from bayes.normals import Normal
from bayes.problem import Problem

__all__ = ["VI"]

_CLIMB = 0
_SMALLEST_RESPONSE = 200
"""Unknowns above which a mean-field normal with linear response is another rung: below, it is
hardly ever better, and NUTS takes no longer."""
_POINTS, _ELBO_DRAWS = 8, 10
_RIVAL = 5.0
"""A path's normal whose bound is lower than the best by more than this has no mass to speak of."""


@dataclasses.dataclass(frozen=True)
class VI(AdaptedMixture):
    """A ladder: quasi-Newton paths, a full-rank normal, and importance draws from it.

    Several L-BFGS paths find where the mass is and a first normal. Up to 600 unknowns a full-rank
    normal is then fitted to the scores of its own draws (batch and match); beyond, that of the mode
    is taken (Laplace). With more than 200 unknowns a mean-field normal with a covariance by linear
    response (DADVI) follows where the ratios of that are poor. A mixture of t distributions about
    it is fitted further by importance weights where there are no more than 60 unknowns. Draws of
    that are judged by their importance ratios: where k-hat is below 0.7 they are resampled and
    stand for the posterior; else the draws of the normal are handed out with a verdict that says
    that they do not.

    Modes that no path finds are not in the approximation, and no ratio can tell: more ``paths``, or
    an ``init_strategy`` with starts further apart, find more of them.

    Location-scale sites with latent parents are non-centred, where ``fit(..., reparam=)`` does not
    say otherwise: normals cannot follow a funnel.

    Parameters
    ----------
    draws : int
        Draws that are handed out, of up to four times as many candidates.
    paths : int
        Paths, from starts of their own.
    candidates : int
        Candidate starts a path; the one with the highest log density is taken.
    init_strategy : callable, optional
        One of ``numpyro.infer.initialization``.

    References
    ----------
    Zhang, Carpenter, Gelman and Vehtari (2022), Pathfinder. Cai et al. (2024), Batch and match.
    Giordano, Ingram and Broderick (2024), Black box variational inference with a deterministic
    objective. Cappé et al. (2008), Adaptive importance sampling in general mixture classes.
    Yao et al. (2018), Yes, but did it work? Evaluating variational inference.

    Examples
    --------
    >>> post = bayes.fit(model, data, method="vi")
    >>> post = bayes.fit(model, data, method="vi", refine="nuts")
    """

    name: ClassVar[str] = "vi"
    reparam: ClassVar[str | None] = "auto"

    paths: int = 8
    candidates: int = 10
    init_strategy: Callable | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("paths", self.paths)
        require_whole("candidates", self.candidates)
        require_strategy(self.init_strategy)

    # ------------------------------------------------------------------ contract

    def begin(self, problem: Problem, words: np.ndarray) -> State:
        """Find starts; meanwhile what will run is compiled."""
        d = problem.size
        state = {
            **self.blank(problem, words),
            "stage": np.asarray(_CLIMB),
            "evaluations": np.asarray(0),
            "bounds": np.full(self.paths, -np.inf),
            "laplace": {},
            "response": {},
        }
        if d > _SMALLEST_RESPONSE:
            state["response"] = dict.fromkeys(RESPONSE_STATE, np.zeros(0))
        if d > LARGEST_FULL:
            return {**state, "laplace": self._laplace.begin(problem, words)}
        compile_climb(problem)
        compile_gradients(problem)
        problem.compile_prepare()
        starts = find_starts(problem, words, self.paths, self.candidates, self.init_strategy)
        return {
            **state,
            "x": starts.positions,
            "lp": starts.density,
            "gradient": starts.gradients,
        }

    def improve(self, problem: Problem, state: State) -> tuple[State, Float[np.ndarray, " n"]]:
        """Go on with the present rung."""
        large = problem.size > LARGEST_FULL
        first = self._curve if large else self._begin_normal
        second = self._respond if large or int(state["iteration"]) else self.match
        return (first, second, self.adapt)[int(state["stage"])](problem, state)

    def rescue(
        self, problem: Problem, state: State, ess: float, *, usable: bool, last: bool
    ) -> int:
        """Linear response, once, where there are many unknowns."""
        first = int(state["iteration"]) == 1
        return MATCH if first and problem.size > _SMALLEST_RESPONSE else ADAPT

    def converged(self, problem: Problem, state: State) -> str:
        """What stands in the way of trusting the normal, besides its ratios."""
        if not self.settled(problem, state):
            return "it was stopped before it had settled; give it more time"
        if state["response"] and state["response"]["mean"].size:
            return self._response.converged(problem, state["response"])
        if problem.size > LARGEST_FULL:
            return self._laplace.converged(problem, state["laplace"])
        if not np.isfinite(state["bounds"]).any():
            return (
                "no path has found a normal with a finite evidence lower bound: the log density "
                "rises without bound, or is not finite nearly everywhere; method='nuts'"
            )
        return ""

    def normal(self, problem: Problem, state: State) -> Normal | None:
        """The component with most of the mass."""
        if int(state["stage"]) == _CLIMB:
            return None
        mixture = mixture_in(state)
        return component(mixture, int(np.argmax(mixture.log_weights)))

    def about(self, problem: Problem, state: State) -> dict[str, Any]:
        """How the rungs went."""
        bounds = state["bounds"]
        return {
            "elbo_by_place": [float(v) if np.isfinite(v) else None for v in bounds],
            "components": len(state["log_weights"]),
            "rung": "mixture" if bool(state["trusted"]) else "normal",
        }

    # --------------------------------------------------------------------- rungs

    @property
    def _laplace(self) -> Laplace:
        starts = {"candidates": self.candidates, "init_strategy": self.init_strategy}
        return Laplace(starts=self.paths, **starts)

    @property
    def _response(self) -> DADVI:
        starts = {"candidates": self.candidates, "init_strategy": self.init_strategy}
        return DADVI(starts=self.paths, **starts)

    def _begin_normal(self, problem: Problem, state: State) -> tuple[State, np.ndarray]:
        """Climb all paths, and find the best normal along each."""
        paths = climb(problem, state["x"], state["lp"], state["gradient"])
        evaluations = sum(path.evaluations for path in paths)
        generator = generator_of(state["words"], Purpose.NOISE, 0)
        z = generator.standard_normal((_ELBO_DRAWS, problem.size))
        paths = distinct_ends(paths)
        found = [best_normal(problem, path, z, _POINTS) for path in paths]
        bounds = np.asarray([bound for _, bound in found])
        new = {**state, "bounds": bounds, "evaluations": np.asarray(evaluations)}
        if not np.isfinite(bounds).any():
            place = Normal(*(part[0] for part in mixture_in(state).normals))
            place = place._replace(mean=state["x"][int(np.argmax(state["lp"]))])
            return {**new, **entries_of(mixture_of([place])), "stage": np.asarray(SETTLED)}, bounds
        order = np.argsort(-bounds)
        kept = [found[i] for i in order if bounds[i] > bounds.max() - _RIVAL]
        weights = np.exp(np.asarray([bound for _, bound in kept]) - bounds.max())
        mixture = mixture_of([normal for normal, _ in kept], weights)
        return {**new, **entries_of(mixture), "stage": np.asarray(MATCH)}, bounds[order[:1]]

    def _curve(self, problem: Problem, state: State) -> tuple[State, np.ndarray]:
        """Go on towards the mode, and take the normal there."""
        method = self._laplace
        inner, objective = method.improve(problem, state["laplace"])
        new = {**state, "laplace": inner}
        if method.settled(problem, inner):
            normal = method.normal(problem, inner)
            new |= {**entries_of(mixture_of([normal])), "stage": np.asarray(ADAPT)}
        return new, objective

    def _respond(self, problem: Problem, state: State) -> tuple[State, np.ndarray]:
        """Go on with the mean-field normal, and take its linear response when it has settled."""
        method, inner = self._response, state["response"]
        if not inner["mean"].size:
            return {**state, "response": method.begin(problem, state["words"])}, np.zeros(0)
        inner, objective = method.improve(problem, inner)
        new = {**state, "response": inner}
        if method.settled(problem, inner):
            normal = method.normal(problem, inner)
            new |= {**entries_of(mixture_of([normal])), "stage": np.asarray(ADAPT)}
        return new, objective
