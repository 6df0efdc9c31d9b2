"""What runs that estimate variances share: they climb until they have settled, and then draw."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Array

from bayes.inference.kronecker.given import given_variances
from bayes.inference.kronecker.outcome import assembled, joined, kept_draws, observed_share
from bayes.inference.kronecker.recognition import Recognised, recognise
from bayes.inference.kronecker.scales import normalised
from bayes.inference.randomness import Purpose, generator_of
from bayes.method import Chunk, Draws, Progress
from bayes.problem import Problem

__all__ = ["State", "TypeIIRun"]

State = dict[str, Any]
"""Arrays by name; among them the run's ``key``, the last sweep's ``gain`` and ``drawn``."""

_NUMBERS = 2**22
"""Observations simulated at once."""
_AT_LEAST = 100
"""Draws of a run that was stopped before it took any."""


@dataclasses.dataclass(frozen=True)
class TypeIIRun(abc.ABC):
    """A run that finds variances, and then draws coefficients given them.

    Parameters
    ----------
    update : str
    sweeps : int
    tolerance, prune : float
    draws : int
        As for ``KroneckerSBL``.
    """

    update: str
    sweeps: int
    tolerance: float
    prune: float
    draws: int

    @abc.abstractmethod
    def init(self, problem: Problem, key: Array) -> State:
        """The starts."""

    @abc.abstractmethod
    def climb(self, found: Recognised, state: State) -> tuple[State, Chunk]:
        """A block of sweeps, and the objective after them."""

    @abc.abstractmethod
    def swept(self, state: State) -> int:
        """Sweeps of the climb that goes on; negative while that is not decided."""

    @abc.abstractmethod
    def variances(self, state: State) -> tuple[list[np.ndarray], float]:
        """What the prior variances along each axis are made of, and the noise's variance."""

    @abc.abstractmethod
    def facts(
        self, found: Recognised, state: State, parameters: list[np.ndarray], variance: float
    ) -> dict[str, Any]:
        """What was found out, as JSON values; ``power`` is that of the observations."""

    def traced(self, state: State, chunk: Chunk) -> bool:
        """Whether a chunk's objective belongs to the climb that went on."""
        return "objective" in chunk

    def failed(self, state: State) -> str:
        """What else went wrong; empty where nothing did."""
        return ""

    # ------------------------------------------------------------------ contract

    def step(self, problem: Problem, state: State) -> tuple[State, Chunk | None]:
        """Some sweeps, or some draws."""
        found = recognise(problem)
        if not self._settled(found, state):
            return self.climb(found, state)
        before = int(state["drawn"])
        count = min(self._wanted(found) - before, max(1, _NUMBERS // found.y.size))
        chunk = {"draws": self._sample(found, state, before, count)}
        return {**state, "drawn": np.asarray(before + count)}, chunk

    def done(self, problem: Problem, state: State) -> bool:
        """Whether the variances are found and all draws are taken."""
        found = recognise(problem)
        return self._settled(found, state) and int(state["drawn"]) >= self._wanted(found)

    def finish(self, problem: Problem, state: State, chunks: list[Chunk], key: Array) -> Draws:
        """The draws, with the variances that they are given."""
        found = recognise(problem)
        drawn = [chunk["draws"] for chunk in chunks if "draws" in chunk]
        if not drawn:
            drawn = [self._sample(found, state, 0, min(self._wanted(found), _AT_LEAST))]
        traces = [chunk["objective"] for chunk in chunks if self.traced(state, chunk)]
        parameters, variance = self._chosen(found, state)
        facts = self.facts(found, state, parameters, variance)
        power = facts.pop("power")
        info = {
            "type_ii": True,
            "not_converged": self._objection(found, state),
            "objective": np.concatenate(traces).tolist() if traces else [],
            "observations_per_variance": observed_share(found),
            "sweeps": max(self.swept(state), 0),
            "scales": [site for site in found.scales if site is not None],
            "prune": self.prune,
            "wanted_draws": self.draws,
            **facts,
        }
        if found.model.noise.prior is not None:
            info["noise_share"] = variance / power
        return assembled(problem, found, parameters, variance, joined(drawn), info)

    def progress(self, problem: Problem, state: State) -> Progress | None:
        """How many draws are taken, once the variances are found."""
        found = recognise(problem)
        if not self._settled(found, state):
            return None
        return Progress(int(state["drawn"]), self._wanted(found), "draw")

    # -------------------------------------------------------------------- parts

    def least_gain(self, found: Recognised) -> float:
        """What a sweep has to gain for the climb to go on."""
        return self.tolerance * found.numbers

    def _settled(self, found: Recognised, state: State) -> bool:
        swept = self.swept(state)
        return swept >= 0 and (bool(state["gain"] < self.least_gain(found)) or swept >= self.sweeps)

    def _wanted(self, found: Recognised) -> int:
        return kept_draws(self.draws, found)

    def _chosen(self, found: Recognised, state: State) -> tuple[list[np.ndarray], float]:
        parameters, variance = self.variances(state)
        return normalised(found.model, parameters), variance

    def _sample(self, found: Recognised, state: State, before: int, count: int) -> np.ndarray:
        parameters, variance = self._chosen(found, state)
        known = given_variances(found, found.model.pruned(parameters, self.prune), variance)
        return known.draws(generator_of(state["key"], Purpose.DRAWS, before), count)

    def _objection(self, found: Recognised, state: State) -> str:
        """Why the variances are not those of a maximum; empty where they are."""
        if why := self.failed(state):
            return why
        if self._settled(found, state) and self.swept(state) < self.sweeps:
            return ""
        return "the evidence was still rising when the climb ended; take more sweeps="
