"""Variances and noise sampled from their marginal posterior, and coefficients given them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Array

from bayes.inference.kronecker.collapsed import collapsed_model, variances_at
from bayes.inference.kronecker.conditional import conditional_draws
from bayes.inference.kronecker.outcome import kept_draws, with_derived
from bayes.inference.kronecker.recognition import recognise
from bayes.inference.nuts import NUTS
from bayes.inference.randomness import Purpose, generator_of
from bayes.method import Chunk, Draws, Progress
from bayes.problem import Problem

__all__ = ["HyperSampling"]


@dataclasses.dataclass(frozen=True)
class HyperSampling:
    """NUTS on the program with its coefficients integrated out.

    There are as many unknowns as variances along all axes, and the noise.

    Parameters
    ----------
    nuts : NUTS
        Its settings.
    """

    nuts: NUTS

    def init(self, problem: Problem, key: Array) -> Any:
        """Starts of the chains."""
        return self.nuts.init(_collapsed(problem), key)

    def step(self, problem: Problem, state: Any) -> tuple[Any, Chunk | None]:
        """A block of NUTS."""
        return self.nuts.step(_collapsed(problem), state)

    def done(self, problem: Problem, state: Any) -> bool:
        """Whether the chains have converged, or have all their draws."""
        return self.nuts.done(_collapsed(problem), state)

    def progress(self, problem: Problem, state: Any) -> Progress | None:
        """How far the chains are."""
        return self.nuts.progress(_collapsed(problem), state)

    def finish(self, problem: Problem, state: Any, chunks: list[Chunk], key: Array) -> Draws:
        """One exact draw of the coefficients at each draw of the variances."""
        found, collapsed = recognise(problem), _collapsed(problem)
        draws = self.nuts.finish(collapsed, state, chunks, key)
        values = {n: np.asarray(v) for n, v in draws.values.items()}
        stats, length = draws.stats, draws.length
        # Where coefficients are many, every so many draws.
        most = kept_draws(draws.chains * length, found)
        thin = -(-draws.chains * length // most)
        values = {n: v[:, ::thin] for n, v in values.items()}
        stats = {n: v[:, ::thin] for n, v in stats.items()}
        shape = next(iter(values.values())).shape[:2]
        flat = {n: v.reshape(-1, *v.shape[2:]) for n, v in values.items()}
        relevances, variances = variances_at(collapsed, flat)
        x = conditional_draws(
            found.model.observations,
            relevances,
            variances,
            generator_of(key, Purpose.DRAWS, 0),
        )
        everything = with_derived(problem, found, values, x.reshape(*shape, *x.shape[1:]))
        return dataclasses.replace(
            draws, values=everything, stats=stats, positions=None, normal=None, non_finite=None
        )


def _collapsed(problem: Problem) -> Problem:
    found = recognise(problem)

    def bind() -> Problem:
        return collapsed_model(problem.model, found.coefficients, found.observed).bind(problem.data)

    return problem.once("collapsed", bind)
