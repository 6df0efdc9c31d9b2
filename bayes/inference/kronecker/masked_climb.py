"""Type-II estimates where observations are missing: they are filled in, and variances updated."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from bayes.inference.kronecker.evidence import observe
from bayes.inference.kronecker.given import given_variances
from bayes.inference.kronecker.imputation import Imputation, completed, impute
from bayes.inference.kronecker.masked import masked_log_evidence
from bayes.inference.kronecker.masks import MaskedObservations, observe_masked
from bayes.inference.kronecker.outcome import assembled, joined, kept_draws, observed_share
from bayes.inference.kronecker.recognition import Recognised, recognise
from bayes.inference.kronecker.scales import normalised
from bayes.inference.kronecker.sparse_model import SparseModel
from bayes.inference.kronecker.starts import start
from bayes.inference.kronecker.updates import sweep
from bayes.inference.randomness import Purpose, generator_of
from bayes.method import Chunk, Draws, Progress
from bayes.problem import Problem

__all__ = ["MaskedClimb"]

State = dict[str, Any]

_SWEEPS = 5
"""Updates of all variances between two times that missing observations are filled in."""
_FLAT = 6
"""Rounds with flat priors along the axes, as those of a trial."""
_TOLERANCE = 1e-5
_NUMBERS = 2**22


@dataclasses.dataclass(frozen=True)
class MaskedClimb:
    """Expectation-maximisation over the missing observations.

    Each round fills them in with their posterior means, keeps some draws of how far these may be
    off, and climbs the evidence of the observations so completed. The draws come from the same
    standard normals in each round, so that the rounds converge.

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

    def step(self, problem: Problem, state: State) -> tuple[State, Chunk | None]:
        """A round, or some draws."""
        found = recognise(problem)
        if not self._settled(problem, state):
            return self._round(found, state)
        before, snapshots = int(state["drawn"]), found.y.size
        count = min(self._draws(found) - before, max(1, _NUMBERS // snapshots))
        chunk = {"draws": self._sample(found, state, before, count)}
        return {**state, "drawn": np.asarray(before + count)}, chunk

    def done(self, problem: Problem, state: State) -> bool:
        """Whether the variances are found and all draws are taken."""
        wanted = self._draws(recognise(problem))
        return self._settled(problem, state) and int(state["drawn"]) >= wanted

    def finish(self, problem: Problem, state: State, chunks: list[Chunk], key: Array) -> Draws:
        """The draws, with the variances that they are given."""
        found = recognise(problem)
        drawn = [chunk["draws"] for chunk in chunks if "draws" in chunk]
        if not drawn:
            drawn = [self._sample(found, state, 0, min(self._draws(found), 100))]
        parameters, variance = self._chosen(found, state)
        relevances = found.model.pruned(parameters, self.prune)
        observed = self._observed(found, state["key"])
        evidence, error = masked_log_evidence(observed, relevances, variance)
        traces = [chunk["objective"] for chunk in chunks if "objective" in chunk]
        info = {
            "type_ii": True,
            "masked": True,
            "not_converged": self._objection(problem, state),
            "objective": np.concatenate(traces).tolist() if traces else [],
            "log_evidence": evidence,
            "log_evidence_error": error,
            "peak_evidence": evidence,
            "null_evidence": _null_evidence(found, observed),
            "observations_per_variance": observed_share(found),
            "sweeps": int(state["sweeps"]),
            "scales": [site for site in found.scales if site is not None],
            "prune": self.prune,
            "wanted_draws": self.draws,
        }
        if found.model.noise.prior is not None:
            info["noise_share"] = variance / observed.power
        return assembled(problem, found, parameters, variance, joined(drawn), info)

    def progress(self, problem: Problem, state: State) -> Progress | None:
        """How many draws are taken, once the variances are found."""
        if not self._settled(problem, state):
            return None
        return Progress(int(state["drawn"]), self._draws(recognise(problem)), "draw")

    # -------------------------------------------------------------------- parts

    def _settled(self, problem: Problem, state: State) -> bool:
        least = self.tolerance * recognise(problem).numbers
        return bool(state["gain"] < least) or int(state["sweeps"]) >= self.sweeps

    def _round(self, found: Recognised, state: State) -> tuple[State, Chunk]:
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

    def _draws(self, found: Recognised) -> int:
        return kept_draws(self.draws, found)

    def _chosen(self, found: Recognised, state: State) -> tuple[list[np.ndarray], float]:
        return normalised(found.model, list(state["parameters"])), float(state["variance"])

    def _sample(self, found: Recognised, state: State, before: int, count: int) -> np.ndarray:
        parameters, variance = self._chosen(found, state)
        known = given_variances(found, found.model.pruned(parameters, self.prune), variance)
        return known.draws(generator_of(state["key"], Purpose.DRAWS, before), count)

    def _objection(self, problem: Problem, state: State) -> str:
        if not bool(state["converged"]):
            return "conjugate gradients for the missing observations did not converge"
        if self._settled(problem, state) and int(state["sweeps"]) < self.sweeps:
            return ""
        return "the evidence was still rising when the climb ended; take more sweeps="


def _null_evidence(found: Recognised, observed: MaskedObservations) -> float:
    """Log density of what was observed if all coefficients were zero."""
    given = found.model.noise.given
    variance = observed.power if given is None else given
    weight, tau = (1.0, np.pi) if np.iscomplexobj(found.y) else (0.5, 2.0 * np.pi)
    each = np.log(tau * variance) + observed.power / variance
    return float(-weight * observed.size * each)
