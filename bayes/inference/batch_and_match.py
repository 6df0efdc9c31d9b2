"""Batch and match: a normal with all correlations whose scores match those of the posterior.

Each iteration draws a batch, and moves to the normal that balances two ends: its scores at the
batch are to be the posterior's, and it is to stay near the normal before. That has a closed form, a
quadratic matrix equation; no step size is tuned. Where the posterior is normal, a batch of more
draws than there are dimensions determines it. Elsewhere iterates go on to scatter, so that they are
averaged over epochs, each twice as long as the one before, until the average is precise enough.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from bayes.errors import UnsupportedModelError
from bayes.inference.approximation import Approximation, State
from bayes.inference.climbing import Path, climb, compile_climb
from bayes.inference.densities import (
    compile_gradients,
    densities_at,
    evaluations_at_once,
    gradients_at,
    largest_intermediate,
)
from bayes.inference.randomness import Purpose, generator_of
from bayes.inference.score_matching import match
from bayes.inference.settings import require_strategy, require_whole
from bayes.inference.starts import find_starts
from bayes.normals import (
    Normal,
    covariance,
    independent,
    log_prob,
    normal_of_covariance,
    push,
)
from bayes.problem import Problem

__all__ = ["BatchAndMatch"]

_MOST = 500
"""Dimensions: an iteration takes their third power."""
_BATCH, _SMALL_BATCH = 32, 32
_FIRST, _GROUPS = 10, 10
"""Iterations of the first epoch, and parts of an epoch that tell how the average scatters."""
_ERROR = 0.02
"""Of a standard deviation: what the average's standard error may be, and relative for scales."""
_WORK, _MOST_ITERATIONS = 10**9, 100
_START_DRAWS, _START_PLACES = 8, 32
_FIELDS = Normal._fields


@dataclasses.dataclass(frozen=True)
class BatchAndMatch(Approximation):
    """A normal with all correlations, by matching scores at batches of its own draws.

    Parameters
    ----------
    draws : int
        Draws that are taken.
    iterations : int
        Batches after which it ends anyway.
    starts : int
        Climbs; the normal begins where on their paths its ELBO would be highest.
    candidates : int
        Candidate starts a climb; the one with the highest log density is taken.
    init_strategy : callable, optional
        One of ``numpyro.infer.initialization``, for instance ``init_to_value(values=...)``.

    References
    ----------
    Cai, Modi, Pillaud-Vivien, Margossian, Gower, Blei and Saul (2024), Batch and match: black-box
    variational inference with a score-based divergence.
    """

    name: ClassVar[str] = "bam"

    iterations: int = 1270
    starts: int = 4
    candidates: int = 20
    init_strategy: Callable | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("iterations", "starts", "candidates"):
            require_whole(name, getattr(self, name))
        require_strategy(self.init_strategy)

    # ------------------------------------------------------------------ contract

    def check(self, problem: Problem) -> None:
        """Refuse more dimensions than a matrix of them is practical for."""
        if problem.size > _MOST:
            raise UnsupportedModelError(
                f"bam keeps all correlations and takes up to {_MOST} dimensions, "
                f"{problem.model.name} has {problem.size}; method='pathfinder', 'laplace', 'advi' "
                "or 'nuts' fits"
            )

    def begin(self, problem: Problem, words: np.ndarray) -> State:
        """Climb, and begin where on the paths the ELBO is highest."""
        compile_climb(problem)
        compile_gradients(problem)
        problem.compile_prepare()
        found = find_starts(problem, words, self.starts, self.candidates, self.init_strategy)
        paths = climb(problem, found.positions, found.density, found.gradients)
        normal = _best_along(problem, paths, generator_of(words, Purpose.NOISE, 0))
        d = problem.size
        return {
            **normal._asdict(),
            **_kept(normal),
            "iteration": np.asarray(0),
            "epoch": np.asarray(0),
            "within": np.asarray(0),
            "total_mean": np.zeros(d),
            "total_covariance": np.zeros((d, d)),
            "groups": np.zeros((_GROUPS, 2 * d)),
            "error": np.asarray(np.inf),
            "batches_without": np.asarray(0),
        }

    def improve(self, problem: Problem, state: State) -> tuple[State, Float[np.ndarray, " n"]]:
        """Some iterations, at most to the end of an epoch."""
        d, batch = problem.size, _batch(problem)
        iteration, within = int(state["iteration"]), int(state["within"])
        length = _FIRST * 2 ** int(state["epoch"])
        work = 20 * batch * largest_intermediate(problem) + 30 * d**3
        count = int(np.clip(_WORK // work, 1, _MOST_ITERATIONS))
        count = min(count, length - within, self.iterations - iteration)
        generator = generator_of(state["key"], Purpose.NOISE, 1, iteration)
        normal = Normal(*(state[name] for name in _FIELDS))
        groups, mean = state["groups"].copy(), state["total_mean"].copy()
        sigma = state["total_covariance"].copy()
        objective, without = [], int(state["batches_without"])
        for number in range(count):
            x = normal.mean + push(normal, generator.standard_normal((batch, d)))
            lp, gradients = gradients_at(problem, x)
            fine = np.isfinite(lp) & np.isfinite(gradients).all(axis=1)
            if fine.sum() < 2:
                without += 1
            else:
                objective.append(np.mean(lp[fine] - log_prob(normal, x[fine])))
            gradients = np.where(fine[:, None], gradients, np.nan)
            normal = match(normal, x, gradients, batch * d / (iteration + number + 1.0))
            mean += normal.mean
            sigma += covariance(normal)
            group = (within + number) * _GROUPS // length
            groups[group] += np.concatenate([normal.mean, np.log(normal.sd)])
        new = {
            **state,
            **normal._asdict(),
            "iteration": np.asarray(iteration + count),
            "within": np.asarray(within + count),
            "total_mean": mean,
            "total_covariance": sigma,
            "groups": groups,
            "batches_without": np.asarray(without),
        }
        if within + count == length or iteration + count == self.iterations:
            new = _ended(new, length)
        return new, np.asarray(objective)

    def settled(self, problem: Problem, state: State) -> bool:
        """Whether the average of an epoch is precise, or no iterations are left."""
        return _precise(state) or int(state["iteration"]) >= self.iterations

    def sample(
        self, problem: Problem, state: State, generator: np.random.Generator, count: int
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
        """Draws of the normal."""
        normal = self.normal(problem, state)
        x = normal.mean + push(normal, generator.standard_normal((count, problem.size)))
        return x, log_prob(normal, x)

    def normal(self, problem: Problem, state: State) -> Normal:
        """The average of the last epoch that is over; before, the last iterate."""
        prefix = "kept_" if int(state["epoch"]) else ""
        return Normal(*(state[prefix + name] for name in _FIELDS))

    def converged(self, problem: Problem, state: State) -> str:
        """How far the average scatters, where it does."""
        if _precise(state):
            return ""
        iteration = int(state["iteration"])
        if iteration < self.iterations:
            return f"the fit was stopped after {iteration} batches, before its average had settled"
        error = float(state["error"])
        found = f"is {error:.2g} standard deviations" if np.isfinite(error) else "is not known yet"
        return (
            f"after {iteration} batches the normals still scatter: the standard error of their "
            f"average {found}, {_ERROR} is wanted; the posterior is far from normal, or "
            "iterations= is to be raised; method='nuts' does not mind"
        )

    def about(self, problem: Problem, state: State) -> dict[str, Any]:
        """How long it took."""
        error = float(state["error"])
        return {
            "iterations": int(state["iteration"]),
            "batch": _batch(problem),
            "standard_error": error if np.isfinite(error) else None,
            "batches_without_density": int(state["batches_without"]),
        }


def _batch(problem: Problem) -> int:
    """Draws of a batch, whole batches of gradients."""
    size = evaluations_at_once(problem, _SMALL_BATCH)
    return -(-max(_BATCH, 2 * problem.size) // size) * size


def _best_along(problem: Problem, paths: list[Path], generator: np.random.Generator) -> Normal:
    """Of normals with the scales that paths have learned, the one whose ELBO is highest.

    The highest density may be where there is no mass: a scale that goes to 0, say.
    """
    means = np.concatenate([path.positions[1:] for path in paths] + [paths[0].positions[:1]])
    scales = np.sqrt(
        np.concatenate([path.diagonals[1:] for path in paths] + [paths[0].diagonals[:1]])
    )
    # The ends of all paths are among them.
    last = np.cumsum([len(path.positions) - 1 for path in paths]) - 1
    spread = np.linspace(0, len(means) - 1, max(_START_PLACES - len(last), 1)).astype(int)
    chosen = np.unique(np.concatenate([last[last >= 0], spread]))
    normals = independent(means[chosen], scales[chosen])
    x = normals.mean[:, None] + push(
        normals, generator.standard_normal((len(chosen), _START_DRAWS, problem.size))
    )
    lp = densities_at(problem, x.reshape(-1, problem.size)).reshape(x.shape[:2])
    elbo = (np.nan_to_num(lp, nan=-np.inf, posinf=-np.inf) - log_prob(normals, x)).mean(axis=1)
    best = int(np.argmax(elbo))
    return independent(means[chosen[best]], scales[chosen[best]])


def _ended(state: State, length: int) -> State:
    """The state at the end of an epoch: its average, and the next one begun."""
    count = int(state["within"])
    if count < length and int(state["epoch"]):
        return state  # the epoch before is the longer one, or nearly so, and known to be what it is
    mean, sigma = state["total_mean"] / count, state["total_covariance"] / count
    try:
        average = normal_of_covariance(mean, sigma)
    except np.linalg.LinAlgError:
        average = Normal(*(state[name] for name in _FIELDS))
    error = np.inf
    if count == length:
        d = len(mean)
        groups = state["groups"] * (_GROUPS / length)
        scatter = groups.std(axis=0, ddof=1) / np.sqrt(_GROUPS)
        error = max((scatter[:d] / average.sd).max(), scatter[d:].max())
    return {
        **state,
        **_kept(average),
        "epoch": state["epoch"] + 1,
        "within": np.asarray(0),
        "total_mean": np.zeros_like(mean),
        "total_covariance": np.zeros_like(sigma),
        "groups": np.zeros_like(state["groups"]),
        "error": np.asarray(error),
    }


def _kept(normal: Normal) -> State:
    return {f"kept_{name}": value for name, value in normal._asdict().items()}


def _precise(state: State) -> bool:
    """Whether the average is as precise as it has to be.

    The first epoch begins elsewhere, and is not averaged with others.
    """
    return int(state["epoch"]) > 1 and float(state["error"]) <= _ERROR
