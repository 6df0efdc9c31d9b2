"""Type-II estimates where observations are missing: they are filled in, and variances updated."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from bayes.inference.kronecker.evidence import observe
from bayes.inference.kronecker.imputation import Imputation, completed, impute
from bayes.inference.kronecker.masked import masked_log_evidence
from bayes.inference.kronecker.masks import MaskedObservations, observe_masked
from bayes.inference.kronecker.outcome import null_evidence
from bayes.inference.kronecker.recognition import Recognised, recognise
from bayes.inference.kronecker.run import State, TypeIIRun
from bayes.inference.kronecker.sparse_model import SparseModel
from bayes.inference.kronecker.starts import start
from bayes.inference.kronecker.updates import sweep
from bayes.inference.randomness import Purpose, generator_of
from bayes.method import Chunk
from bayes.problem import Problem

__all__ = ["MaskedClimb"]

_SWEEPS = 5
"""Updates of all variances between two times that missing observations are filled in."""
_FLAT = 6
"""Rounds with flat priors along the axes, as those of a trial."""
_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class MaskedClimb(TypeIIRun):
    """Expectation-maximisation over the missing observations.

    Each round fills them in with their posterior means, keeps some draws of how far these may be
    off, and climbs the evidence of the observations so completed. The draws come from the same
    standard normals in each round, so that the rounds converge.
    """

    def init(self, problem: Problem, key: Array) -> State:
        """The start."""
        found = recognise(problem)
        words = np.asarray(jax.random.key_data(key))
        parameters, variance = start(found.model, 0, generator_of(words, Purpose.STARTS, 0))
        observed = self._observed(found, words)
        shape = (len(observed.probes), *observed.y.shape[1:])
        return {
            "key": words,
            "parameters": parameters,
            "variance": np.asarray(variance),
            "y": observed.y,
            "spread": np.zeros(shape, observed.y.dtype),
            "converged": np.asarray(True),
            "sweeps": np.asarray(0),
            "gain": np.asarray(np.inf),
            "drawn": np.asarray(0),
        }

    def swept(self, state: State) -> int:
        """Sweeps in all rounds."""
        return int(state["sweeps"])

    def variances(self, state: State) -> tuple[list[np.ndarray], float]:
        """Those that the last round ended with."""
        return list(state["parameters"]), float(state["variance"])

    def failed(self, state: State) -> str:
        """Whether the missing observations could be filled in."""
        if bool(state["converged"]):
            return ""
        return "conjugate gradients for the missing observations did not converge"

    def facts(
        self, found: Recognised, state: State, parameters: list[np.ndarray], variance: float
    ) -> dict[str, Any]:
        """Evidence of what was observed, as far as probes tell it."""
        observed = self._observed(found, state["key"])
        relevances = found.model.pruned(parameters, self.prune)
        evidence, error = masked_log_evidence(observed, relevances, variance)
        return {
            "masked": True,
            "log_evidence": evidence,
            "log_evidence_error": error,
            "peak_evidence": evidence,
            "null_evidence": null_evidence(found, observed.size, observed.power),
            "power": observed.power,
        }

    def climb(self, found: Recognised, state: State) -> tuple[State, Chunk]:
        """A round."""
        observed = self._observed(found, state["key"])
        model, first = found.model, int(state["sweeps"]) < _FLAT * _SWEEPS
        parameters: list[np.ndarray] = list(state["parameters"])
        variance = float(state["variance"])
        begun = int(state["sweeps"]) > 0
        before = Imputation(state["y"], state["spread"], 0, bool(state["converged"]))
        imputation = impute(
            observed,
            model.pruned(parameters, self.prune),
            variance,
            start=before if begun else None,
            tolerance=_TOLERANCE,
        )
        rows, repeats = completed(imputation)
        whole = SparseModel(observe(observed.factors, rows), model.axes, model.noise, repeats)
        some = sweep(
            whole.with_flat_axes if first else whole,
            parameters,
            variance,
            self.update,
            _SWEEPS,
            self.prune,
        )
        # The objective is that of these completed observations: its gain in a round tells.
        gain = np.inf if first else abs(some.objective[-1] - some.objective[-2])
        new = {
            **state,
            "parameters": some.parameters,
            "variance": np.asarray(some.variance),
            "y": imputation.y,
            "spread": imputation.spread,
            "converged": np.asarray(imputation.converged),
            "sweeps": state["sweeps"] + _SWEEPS,
            "gain": np.asarray(gain),
        }
        return new, {"objective": some.objective[-1:]}

    def _observed(self, found: Recognised, words: np.ndarray) -> MaskedObservations:
        assert found.mask is not None
        generator = generator_of(words, Purpose.NOISE, 0)
        return observe_masked(found.factors, found.y, found.mask, generator)
