"""Type-II estimates: variances climb the evidence, coefficients are drawn given them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from bayes.inference.kronecker.outcome import null_evidence
from bayes.inference.kronecker.recognition import Recognised, recognise
from bayes.inference.kronecker.run import State, TypeIIRun
from bayes.inference.kronecker.starts import start
from bayes.inference.kronecker.updates import sweep
from bayes.inference.kronecker.widening import widening
from bayes.inference.randomness import Purpose, generator_of
from bayes.method import Chunk
from bayes.problem import Problem

__all__ = ["Climb"]

_TRIAL = 30
"""Sweeps of each start, with flat priors along the axes, after which climbs are compared: priors
that draw variances to zero would hold many there before the observations have had their say."""
_BATCH = 10
"""Sweeps between looks at what can be pruned."""
_WORK = 2e9
"""Multiplications in a block of work, about a second's."""


@dataclasses.dataclass(frozen=True)
class Climb(TypeIIRun):
    """A run that climbs the evidence from several starts, and goes on with the best.

    Parameters
    ----------
    update : str
    sweeps : int
    tolerance, prune : float
    draws, starts : int
        As for ``KroneckerSBL``.
    """

    starts: int

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

    def climb(self, found: Recognised, state: State) -> tuple[State, Chunk]:
        """A block of sweeps of one climb."""
        best = int(state["best"])
        turn = best if best >= 0 else int(np.argmin(state["sweeps"]))
        parameters = [t[turn] for t in state["parameters"]]
        variance = float(state["variance"][turn])
        least = self.least_gain(found)
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

    def swept(self, state: State) -> int:
        """Sweeps of the best climb."""
        best = int(state["best"])
        return -1 if best < 0 else int(state["sweeps"][best])

    def variances(self, state: State) -> tuple[list[np.ndarray], float]:
        """Those of the best climb."""
        best = _best(state)
        return [t[best] for t in state["parameters"]], float(state["variance"][best])

    def facts(
        self, found: Recognised, state: State, parameters: list[np.ndarray], variance: float
    ) -> dict[str, Any]:
        """Evidence of the climbs, and what taking variances for known leaves out."""
        best, observed = _best(state), found.model.observations
        return {
            "log_evidence": float(state["evidence"][best]),
            "peak_evidence": float(state["peak"]),
            "null_evidence": null_evidence(found, observed.size, observed.power),
            "widening": widening(found.model, parameters, variance, self.prune),
            "sweeps": int(state["sweeps"][best]),
            "start": best,
            "evidence_of_starts": state["trial"].tolist(),
            "power": observed.power,
        }

    def traced(self, state: State, chunk: Chunk) -> bool:
        """Whether a chunk is of the best climb."""
        return "objective" in chunk and int(chunk["start"]) == _best(state)

    def _block(self, found: Recognised) -> int:
        """Sweeps in a block, the same on every machine."""
        observed = found.model.observations
        cost = observed.work
        if self.update != "mm":
            cost += 10 * int(np.prod(found.sizes)) * max(map(len, observed.factors))
        return max(2, min(200, int(_WORK / cost)))


def _best(state: State) -> int:
    """The climb that goes on; the best so far of a run that was stopped before all are compared."""
    best = int(state["best"])
    return best if best >= 0 else int(np.argmax(state["evidence"]))


def _put(values: np.ndarray, place: int, value: Any) -> np.ndarray:
    new = np.array(values)
    new[place] = value
    return new
