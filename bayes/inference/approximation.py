"""What approximations share: they improve until they have settled, and then draw."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array, Float

from bayes.inference.densities import compile_densities, densities_at, evaluations_at_once
from bayes.inference.randomness import Purpose, generator_of
from bayes.inference.settings import require_whole
from bayes.method import Chunk, Draws, Method, Progress
from bayes.normals import Normal
from bayes.problem import Problem

__all__ = ["Approximation", "State"]

State = dict[str, Any]
"""Arrays by name."""

_BATCHES = 16
"""Batches of log densities in a block of draws."""


@dataclasses.dataclass(frozen=True)
class Approximation(Method):
    """A distribution on the unconstrained space that stands for the posterior, and its draws.

    A subclass says how it begins, improves and settles, and how draws with their log density are
    taken from it. Draws are independent, and come as one chain.

    Parameters
    ----------
    draws : int
        Draws that are taken in the end.
    """

    exact: ClassVar[bool] = False

    draws: int = 4000

    def __post_init__(self) -> None:
        require_whole("draws", self.draws)

    # ------------------------------------------------ what an approximation adds

    @abc.abstractmethod
    def begin(self, problem: Problem, words: np.ndarray) -> State:
        """The first state; ``words`` are the data of the run's key."""

    @abc.abstractmethod
    def improve(self, problem: Problem, state: State) -> tuple[State, Float[np.ndarray, " n"]]:
        """A block of work: the state that follows, and the objective along it."""

    @abc.abstractmethod
    def settled(self, problem: Problem, state: State) -> bool:
        """Whether it is as good as it gets."""

    @abc.abstractmethod
    def sample(
        self, problem: Problem, state: State, generator: np.random.Generator, count: int
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
        """Draws, and the log density of the approximation there."""

    @abc.abstractmethod
    def converged(self, problem: Problem, state: State) -> str:
        """Why the approximation is not the best of its family; empty where it is."""

    def wanted(self, state: State) -> int:
        """Draws that are to be taken."""
        return self.draws

    def normal(self, problem: Problem, state: State) -> Normal | None:
        """The approximation as a normal distribution, or the nearest; None where there is none."""
        return None

    def about(self, problem: Problem, state: State) -> dict[str, Any]:
        """What else was found out, as JSON values."""
        return {}

    # ------------------------------------------------------------------ contract

    def check(self, problem: Problem) -> None:
        """Every problem with continuous latent sites will do; binding has seen to that."""

    def init(self, problem: Problem, key: Array) -> State:
        """Begin; meanwhile what will run is compiled."""
        compile_densities(problem)
        problem.compile_constrain()
        words = np.asarray(jax.random.key_data(key))
        return {**self.begin(problem, words), "key": words, "drawn": np.asarray(0)}

    def step(self, problem: Problem, state: State) -> tuple[State, Chunk | None]:
        """Improve for a while, or take some draws."""
        if not self.settled(problem, state):
            new, objective = self.improve(problem, state)
            kept = {"key": state["key"], "drawn": state["drawn"]}
            return {**new, **kept}, {"objective": np.asarray(objective, float)}
        before = int(state["drawn"])
        count = min(self._block(problem), self.wanted(state) - before)
        chunk = self._draw(problem, state, before, count)
        return {**state, "drawn": np.asarray(before + len(chunk["lp"]))}, chunk

    def done(self, problem: Problem, state: State) -> bool:
        """Whether it has settled and all draws are taken."""
        return self.settled(problem, state) and int(state["drawn"]) >= self.wanted(state)

    def finish(self, problem: Problem, state: State, chunks: list[Chunk], key: Array) -> Draws:
        """Join the draws; where it was stopped before there were any, take some."""
        drawn = [chunk for chunk in chunks if "position" in chunk]
        if not drawn:
            count = min(self.draws, evaluations_at_once(problem))
            drawn = [self._draw(problem, state, 0, count)]
        positions, lp, log_q = (
            np.concatenate([c[k] for c in drawn]) for k in ("position", "lp", "log_q")
        )
        objective = [c["objective"] for c in chunks if "objective" in c]
        info = {
            "independent": True,
            "route": "raw",
            "not_converged": self.converged(problem, state),
            "objective": np.concatenate(objective).tolist() if objective else [],
            **self.about(problem, state),
        }
        return Draws(
            problem.constrain(positions[None]),
            {"lp": lp[None]},
            chains=1,
            positions=positions[None],
            log_q=log_q[None],
            info=info,
            normal=self.normal(problem, state),
        )

    def _block(self, problem: Problem) -> int:
        """Draws that are taken at once."""
        return _BATCHES * evaluations_at_once(problem)

    def _draw(self, problem: Problem, state: State, before: int, count: int) -> Chunk:
        generator = generator_of(state["key"], Purpose.DRAWS, before)
        positions, log_q = self.sample(problem, state, generator, count)
        return {"position": positions, "lp": densities_at(problem, positions), "log_q": log_q}

    def progress(self, problem: Problem, state: State) -> Progress | None:
        """How many draws are taken, once it has settled."""
        if not self.settled(problem, state):
            return None
        return Progress(int(state["drawn"]), self.wanted(state), "draw")
