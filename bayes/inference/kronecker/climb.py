"""Type-II estimates: variances climb the evidence, coefficients are drawn given them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from bayes.inference.kronecker.given import given_variances
from bayes.inference.kronecker.outcome import (
    assembled,
    joined,
    kept_draws,
    null_evidence,
    observed_share,
)
from bayes.inference.kronecker.recognition import Recognised, recognise
from bayes.inference.kronecker.scales import normalised
from bayes.inference.kronecker.starts import start
from bayes.inference.kronecker.updates import sweep
from bayes.inference.kronecker.widening import widening
from bayes.inference.randomness import Purpose, generator_of
from bayes.method import Chunk, Draws, Progress
from bayes.problem import Problem

__all__ = ["Climb"]

State = dict[str, Any]

_TRIAL = 30
"""Sweeps of each start, with flat priors along the axes, after which climbs are compared: priors
that draw variances to zero would hold many there before the observations have had their say."""
_BATCH = 10
"""Sweeps between looks at what can be pruned."""
_WORK = 2e9
"""Multiplications in a block of work, about a second's."""
_NUMBERS = 2**22
"""Coefficients drawn at once."""


@dataclasses.dataclass(frozen=True)
class Climb:
    """A run that climbs the evidence from several starts, and then draws.

    Parameters
    ----------
    update : str
    sweeps : int
    tolerance, prune : float
    starts, draws : int
        As for ``KroneckerSBL``.
    """

    update: str
    sweeps: int
    tolerance: float
    prune: float
    starts: int
    draws: int

    def init(self, problem: Problem, key: Array) -> State:
        """The starts."""
        found = recognise(problem)
        words = np.asarray(jax.random.key_data(key))
        starts = [
            start(found.model, i, generator_of(words, Purpose.STARTS, i))
            for i in range(self.starts)
        ]
        return {
            "key": words,
            "parameters": [np.stack(t) for t in zip(*(p for p, _ in starts), strict=True)],
            "variance": np.array([v for _, v in starts]),
            "evidence": np.full(self.starts, -np.inf),
            "trial": np.full(self.starts, -np.inf),
            "peak": np.asarray(-np.inf),
            "sweeps": np.zeros(self.starts, int),
            "best": np.asarray(-1),
            "gain": np.asarray(np.inf),
            "drawn": np.asarray(0),
        }

    def step(self, problem: Problem, state: State) -> tuple[State, Chunk | None]:
        """Some sweeps, or some draws."""
        found = recognise(problem)
        if not self._settled(problem, state):
            return self._climb(found, state)
        before = int(state["drawn"])
        count = min(
            self._draws(found) - before, max(1, _NUMBERS // found.model.observations.y.size)
        )
        chunk = {"draws": self._sample(found, state, before, count)}
        return {**state, "drawn": np.asarray(before + count)}, chunk

    def done(self, problem: Problem, state: State) -> bool:
        """Whether the climb has ended and all draws are taken."""
        wanted = self._draws(recognise(problem))
        return self._settled(problem, state) and int(state["drawn"]) >= wanted

    def finish(self, problem: Problem, state: State, chunks: list[Chunk], key: Array) -> Draws:
        """The draws, with the variances that they are given."""
        found = recognise(problem)
        if state["best"] < 0:  # stopped before all climbs were compared
            state = {**state, "best": np.asarray(int(np.argmax(state["evidence"])))}
        drawn = [chunk["draws"] for chunk in chunks if "draws" in chunk]
        if not drawn:
            drawn = [self._sample(found, state, 0, min(self._draws(found), 100))]
        best = int(state["best"])
        traces = [c["objective"] for c in chunks if "objective" in c and int(c["start"]) == best]
        parameters, variance = self._chosen(found, state)
        info = {
            "type_ii": True,
            "not_converged": self._objection(problem, state),
            "objective": np.concatenate(traces).tolist() if traces else [],
            "log_evidence": float(state["evidence"][best]),
            "peak_evidence": float(state["peak"]),
            "null_evidence": null_evidence(found.model),
            "widening": widening(found.model, parameters, variance, self.prune),
            "observations_per_variance": observed_share(found),
            "sweeps": int(state["sweeps"][best]),
            "start": best,
            "evidence_of_starts": state["trial"].tolist(),
            "scales": [site for site in found.scales if site is not None],
            "prune": self.prune,
            "wanted_draws": self.draws,
        }
        if found.model.noise.prior is not None:
            info["noise_share"] = variance / found.model.observations.power
        return assembled(problem, found, parameters, variance, joined(drawn), info)

    def progress(self, problem: Problem, state: State) -> Progress | None:
        """How many draws are taken, once the climb has ended."""
        if not self._settled(problem, state):
            return None
        return Progress(int(state["drawn"]), self._draws(recognise(problem)), "draw")

    # -------------------------------------------------------------------- parts

    def _settled(self, problem: Problem, state: State) -> bool:
        best = int(state["best"])
        if best < 0:
            return False
        least = self.tolerance * recognise(problem).numbers
        return bool(state["gain"] < least) or int(state["sweeps"][best]) >= self.sweeps

    def _climb(self, found: Recognised, state: State) -> tuple[State, Chunk]:
        """A block of sweeps of one climb."""
        best = int(state["best"])
        turn = best if best >= 0 else int(np.argmin(state["sweeps"]))
        parameters = [t[turn] for t in state["parameters"]]
        variance = float(state["variance"][turn])
        least = self.tolerance * found.numbers
        last = self.sweeps if best >= 0 else min(_TRIAL, self.sweeps)
        model = found.model if best >= 0 else found.model.with_flat_axes
        before = int(state["sweeps"][turn])
        left = min(self._block(found), last - before)
        objective, gain, evidence, peak = [], np.inf, -np.inf, float(state["peak"])
        while left > 0 and not gain < least:
            some = sweep(model, parameters, variance, self.update, min(_BATCH, left), self.prune)
            parameters, variance, evidence = some.parameters, some.variance, some.evidence
            peak = max(peak, evidence)
            objective.append(some.objective)
            left -= len(some.objective)
            if len(some.objective) > 1:
                gain = abs(some.objective[-1] - some.objective[-2])
        trace = np.concatenate(objective)
        new = dict(state)
        new["parameters"] = [
            _put(t, turn, value) for t, value in zip(state["parameters"], parameters, strict=True)
        ]
        new["variance"] = _put(state["variance"], turn, variance)
        new["peak"] = np.asarray(peak)
        if best < 0:
            new["trial"] = _put(state["trial"], turn, evidence)
        new["evidence"] = _put(state["evidence"], turn, evidence)
        new["sweeps"] = _put(state["sweeps"], turn, before + len(trace))
        new["gain"] = np.asarray(gain if best >= 0 else np.inf)
        if best < 0 and new["sweeps"].min() >= last:
            new["best"] = np.asarray(int(np.argmax(new["evidence"])))
        comparable = best >= 0 or found.model.has_flat_axes
        return new, {"objective": trace if comparable else trace[:0], "start": np.asarray(turn)}

    def _block(self, found: Recognised) -> int:
        """Sweeps in a block, the same on every machine."""
        model = found.model
        shapes = [factor.shape for factor in model.observations.factors]
        y = model.observations.y.size
        cost = sum(y * (m + n) + m * m * (m + 2 * n) for m, n in shapes)
        if self.update != "mm":
            cost += 10 * int(np.prod(found.sizes)) * max(m for m, _ in shapes)
        return max(2, min(200, int(_WORK / cost)))

    def _draws(self, found: Recognised) -> int:
        return kept_draws(self.draws, found)

    def _chosen(self, found: Recognised, state: State) -> tuple[list[np.ndarray], float]:
        best = int(state["best"])
        parameters = [t[best] for t in state["parameters"]]
        return normalised(found.model, parameters), float(state["variance"][best])

    def _sample(self, found: Recognised, state: State, before: int, count: int) -> np.ndarray:
        parameters, variance = self._chosen(found, state)
        known = given_variances(found, found.model.pruned(parameters, self.prune), variance)
        return known.draws(generator_of(state["key"], Purpose.DRAWS, before), count)

    def _objection(self, problem: Problem, state: State) -> str:
        """Why the variances are not those of a maximum; empty where they are."""
        if self._settled(problem, state) and int(state["sweeps"][int(state["best"])]) < self.sweeps:
            return ""
        return "the evidence was still rising when the climb ended; take more sweeps="


def _put(values: np.ndarray, place: int, value: Any) -> np.ndarray:
    new = np.array(values)
    new[place] = value
    return new
