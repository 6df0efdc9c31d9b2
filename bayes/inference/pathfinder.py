"""Pathfinder: normals along quasi-Newton paths, mixed by importance."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float

from bayes.errors import SettingsError
from bayes.inference.approximation import Approximation, State
from bayes.inference.climbing import climb, compile_climb
from bayes.inference.mixtures import Mixture, draw, log_prob, mixture_of
from bayes.inference.quasi_newton import best_normal
from bayes.inference.randomness import Purpose, generator_of
from bayes.inference.resampling import resample
from bayes.inference.settings import require_strategy, require_whole
from bayes.inference.starts import find_starts
from bayes.method import Chunk, Draws
from bayes.normals import Normal
from bayes.problem import Problem

__all__ = ["Pathfinder"]

_LEAST_SHARE = 0.02
"""Share of a path among the draws at least, as far as its bound is finite."""


@dataclasses.dataclass(frozen=True)
class Pathfinder(Approximation):
    """Several quasi-Newton paths; on each the normal with the best bound; a mixture of them.

    Parameters
    ----------
    draws : int
        Draws that are taken in the end.
    paths : int
        Paths, from starts of their own.
    elbo_draws : int
        Draws by which the evidence lower bound is estimated at each point of a path.
    importance : bool
        Whether the draws are resampled by their Pareto-smoothed importance weights.
    candidates : int
        Candidate starts a path; the one with the highest log density is taken.
    init_strategy : callable, optional
        One of ``numpyro.infer.initialization``.

    Notes
    -----
    Modes that no path finds are not in the mixture, and its ratios cannot tell: an
    ``init_strategy`` with starts further apart finds more of them. Resampled draws pass their
    verdict where at least 400 of them are effective.

    Weights are of the posterior to the mixture of all paths, not to the path that a draw came from,
    which wastes fewer draws where paths meet. Paths have shares of the draws by their bounds.

    References
    ----------
    Zhang, Carpenter, Gelman and Vehtari (2022), Pathfinder: parallel quasi-Newton variational
    inference.

    Examples
    --------
    >>> bayes.fit(model, data, method=bayes.Pathfinder(paths=16))
    """

    name: ClassVar[str] = "pathfinder"

    paths: int = 8
    elbo_draws: int = 10
    importance: bool = True
    candidates: int = 20
    init_strategy: Callable | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("paths", "elbo_draws", "candidates"):
            require_whole(name, getattr(self, name))
        if not isinstance(self.importance, bool):
            raise SettingsError(f"importance must be True or False, got {self.importance!r}")
        require_strategy(self.init_strategy)

    def begin(self, problem: Problem, words: np.ndarray) -> State:
        """Find starts; meanwhile what will run is compiled."""
        compile_climb(problem)
        problem.compile_prepare()
        starts = find_starts(problem, words, self.paths, self.candidates, self.init_strategy)
        d = problem.size
        return {
            "words": words,
            "x": starts.positions,
            "lp": starts.density,
            "gradient": starts.gradients,
            "path": np.asarray(0),
            "evaluations": np.asarray(0),
            "maxima": np.full(self.paths, np.nan),
            "bounds": np.full(self.paths, np.nan),
            "mean": np.zeros((0, d)),
            "scale": np.zeros((0, d)),
            "vectors": np.zeros((0, d, 0)),
            "values": np.zeros((0, 0)),
        }

    def improve(self, problem: Problem, state: State) -> tuple[State, Float[np.ndarray, " n"]]:
        """Climb one path, and look for its best normal."""
        i = int(state["path"])
        here = slice(i, i + 1)
        path = climb(problem, state["x"][here], state["lp"][here], state["gradient"][here])[0]
        z = generator_of(state["words"], Purpose.NOISE, i).standard_normal(
            (self.elbo_draws, problem.size)
        )
        normal, bound = best_normal(problem, path, z)
        new = {**state, "path": np.asarray(i + 1)}
        new["evaluations"] = state["evaluations"] + path.evaluations
        for name, value in (("maxima", path.densities[-1]), ("bounds", bound)):
            new[name] = state[name].copy()
            new[name][i] = value
        return {**new, **_added(state, normal)}, np.asarray([bound])

    def settled(self, problem: Problem, state: State) -> bool:
        """Whether all paths are done."""
        return int(state["path"]) >= self.paths

    def sample(
        self, problem: Problem, state: State, generator: np.random.Generator, count: int
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
        """Draws of the mixture."""
        mixture = self._mixture(problem, state)
        x = draw(mixture, generator, count)
        return x, log_prob(mixture, x)

    def finish(self, problem: Problem, state: State, chunks: list[Chunk], key: Array) -> Draws:
        """Join the draws, and resample them."""
        draws = super().finish(problem, state, chunks, key)
        return resample(draws, state["words"]) if self.importance else draws

    def converged(self, problem: Problem, state: State) -> str:
        """Whether any path has found a normal, and all were climbed."""
        if not np.isfinite(state["bounds"]).any():
            return (
                "no path has found a normal with a finite evidence lower bound: the log density "
                "rises without bound, or is not finite nearly everywhere; method='nuts'"
            )
        missing = self.paths - int(state["path"])
        return f"{missing} of {self.paths} paths were not climbed" if missing else ""

    def normal(self, problem: Problem, state: State) -> Normal | None:
        """That of the path with the best bound."""
        bounds = state["bounds"][: len(state["mean"])]
        if not np.isfinite(bounds).any():
            return None
        return _normals(state)[int(np.nanargmax(bounds))]

    def about(self, problem: Problem, state: State) -> dict[str, Any]:
        """Bounds and heights of the paths."""
        return {
            "elbo_by_path": _numbers(state["bounds"]),
            "highest_by_path": _numbers(state["maxima"]),
            "evaluations": int(state["evaluations"]),
        }

    def _mixture(self, problem: Problem, state: State) -> Mixture:
        bounds = state["bounds"][: len(state["mean"])]
        found = np.isfinite(bounds)
        if not found.any():  # the verdict says so; there are draws about the starts nevertheless
            d = problem.size
            about = Normal(state["x"][0], np.ones(d), np.zeros((d, 0)), np.zeros(0))
            return mixture_of([about])
        normals = [n for n, kept in zip(_normals(state), found, strict=True) if kept]
        shares = np.exp(bounds[found] - bounds[found].max())
        return mixture_of(normals, np.maximum(shares / shares.sum(), _LEAST_SHARE))


def _added(state: State, normal: Normal) -> dict[str, np.ndarray]:
    """The stacked normals with one more; its columns may be more than theirs."""
    stacked = mixture_of([*_normals(state), normal]).normals
    return stacked._asdict()


def _normals(state: State) -> list[Normal]:
    parts = (state[k] for k in Normal._fields)
    return [Normal(*one) for one in zip(*parts, strict=True)]


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
