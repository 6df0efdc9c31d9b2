"""NUTS that goes on from an approximation: its starts and its first metric are known."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from bayes.inference.densities import gradients_at
from bayes.inference.metric import Metric, metric_of_normal
from bayes.inference.nuts import NUTS
from bayes.inference.starts import Starts, find_starts
from bayes.normals import Normal
from bayes.problem import Problem

__all__ = ["Continuation"]

_FIRST_STAGE = 3
"""The windows before this one are for chains that are on their way."""


@dataclasses.dataclass(frozen=True)
class Continuation(NUTS):
    """NUTS with starts and a first metric from an approximation.

    Parameters
    ----------
    positions : array of shape (n, d)
        Draws of the approximation that may be starts, the best first.
    normal : Normal, optional
        Whose covariance is the first metric.
    """

    name: ClassVar[str] = ""

    positions: Float[np.ndarray, "n d"] = dataclasses.field(
        default_factory=lambda: np.zeros((0, 0)), repr=False, compare=False
    )
    normal: Normal | None = dataclasses.field(default=None, repr=False, compare=False)

    def settings(self) -> dict[str, Any]:
        """The settings of NUTS, and what tells this approximation from others."""
        known = {k: v for k, v in super().settings().items() if k not in ("positions", "normal")}
        parts = [self.positions, *(self.normal or ())]
        text = b"".join(np.ascontiguousarray(part, float).tobytes() for part in parts)
        return {**known, "started_from": hashlib.sha256(text).hexdigest()}

    def _starts(self, problem: Problem, words: np.ndarray) -> Starts:
        """The first draws with a finite density and gradient, one a chain."""
        densities, gradients = gradients_at(problem, self.positions)
        fine = np.isfinite(densities) & np.isfinite(gradients).all(axis=1)
        chosen = np.flatnonzero(fine)[: self.chains]
        if len(chosen) < self.chains:
            return find_starts(problem, words, self.chains, self.candidates, self.init_strategy)
        info = {
            "candidates": len(fine),
            "candidates_nan": int(np.isnan(densities).sum()),
            "candidates_infinite": int(np.isinf(densities).sum()),
            "candidates_nan_gradient": int((np.isfinite(densities) & ~fine).sum()),
        }
        return Starts(self.positions[chosen], densities[chosen], gradients[chosen], info)

    def _first_metric(self, problem: Problem) -> Metric:
        if self.normal is None or self.metric == "diagonal":
            return super()._first_metric(problem)
        return metric_of_normal(self.normal)

    @property
    def _first_stage(self) -> int:
        return _FIRST_STAGE if self.warmup is None and self.normal is not None else 0

    def _first_steps(self, starts: Starts) -> np.ndarray:
        """In coordinates of a metric that fits, steps are of the order of one."""
        if self.normal is None:
            return super()._first_steps(starts)
        return np.full(self.chains, min(0.5, self.step_size))
