"""What NUTS and HMC share: settings, the contract, and a warm-up pooled over chains."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bayes.errors import SettingsError
from bayes.inference.chains import enter_coordinates, run_block
from bayes.inference.enough import add_draws, empty_batches, has_enough
from bayes.inference.metric import (
    choose_factor,
    dense_factor,
    diagonal_factor,
    to_position,
    to_whitened,
)
from bayes.inference.starts import find_starts
from bayes.inference.transitions import Point, Transition
from bayes.inference.warmup import TARGETS, Stage, far_chains, stages
from bayes.method import Chunk, Draws, Method, Progress
from bayes.problem import Problem

__all__ = ["Hamiltonian"]

_DENSE_FROM_START = 64
_LARGEST_DENSE = 1500
_WINDOW_NUMBERS = 2 * 10**7
_FEWEST_DRAWS, _MOST_DRAWS = 1000, 4000
_BATCHES = ("pending", "batch_means", "batch_squares")

_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "auto": choose_factor,
    "diagonal": diagonal_factor,
    "dense": dense_factor,
}


@dataclasses.dataclass(frozen=True)
class Hamiltonian(Method):
    """Settings and engine of the Hamiltonian samplers.

    Parameters
    ----------
    chains : int
        Independent chains.
    warmup : int
        Iterations that adapt step size and metric, and are thrown away.
    draws : int, optional
        Draws a chain. By default 1000, doubled up to 4000 while batch means say that the effective
        sample size is below what the verdict asks.
    target_accept : float, optional
        Mean acceptance that the step size aims at. By default 0.8; when a transition diverges
        after the warm-up, the draws are thrown away and sampling begins anew with 0.95, and then
        with 0.99.
    metric : {"auto", "diagonal", "dense"}
        Shape of the metric; ``"auto"`` takes a dense one where held-out draws say that it pays.
    step_size : float
        Where the search for a step size begins, in units of the metric.
    init_strategy : callable, optional
        One of ``numpyro.infer.initialization``, for instance ``init_to_value(values=...)``.
    candidates : int
        Candidate starts a chain; the one with the highest log density is taken.
    """

    chains: int = 4
    warmup: int = 1000
    draws: int | None = None
    target_accept: float | None = None
    metric: str = "auto"
    step_size: float = 1.0
    init_strategy: Callable | None = None
    candidates: int = 20

    def __post_init__(self) -> None:
        for name, least in (("chains", 1), ("warmup", 1), ("draws", 1), ("candidates", 1)):
            value = getattr(self, name)
            if name == "draws" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise SettingsError(f"{name} must be a whole number, got {value!r}")
            if value < least:
                raise SettingsError(f"{name} must be at least {least}, got {value}")
        if self.target_accept is not None and not 0 < self.target_accept < 1:
            raise SettingsError(f"target_accept must lie in (0, 1), got {self.target_accept}")
        if self.metric not in _METRICS:
            raise SettingsError(f"metric must be one of {', '.join(_METRICS)}, got {self.metric!r}")
        if not (np.isfinite(self.step_size) and self.step_size > 0):
            raise SettingsError(f"step_size must be positive, got {self.step_size}")

    # ------------------------------------------------------- what a sampler adds

    @abc.abstractmethod
    def transition(
        self, potential: Callable, key: Array, point: Point, step_size: Array, depth: Array
    ) -> tuple[Point, Transition]:
        """One transition in whitened coordinates."""

    @abc.abstractmethod
    def compile_key(self) -> tuple:
        """Settings that the compiled transition depends on."""

    @property
    def max_depth(self) -> int:
        """Deepest tree; 0 where there are no trees."""
        return 0

    # ------------------------------------------------------------------ contract

    def check(self, problem: Problem) -> None:
        """Every problem with continuous latent sites will do; binding has seen to that."""

    def init(self, problem: Problem, key: Array) -> dict[str, Any]:
        """Find starts and a first step size."""
        start_key, step_key, chain_key = jax.random.split(key, 3)
        starts, info = find_starts(
            problem, start_key, self.chains, self.candidates, self.init_strategy
        )
        factor = np.ones(problem.size)
        if self._dense_from_start(problem):
            factor = np.eye(problem.size)
        state = {
            "key": np.asarray(jax.random.key_data(chain_key)),
            "step_key": np.asarray(jax.random.key_data(step_key)),
            "iteration": np.asarray(0),
            "stage": np.asarray(0),
            "left": np.asarray(self._stages[0].length),
            "draws": np.asarray(0),
            **empty_batches(self.chains, problem.size),
            "copies": np.zeros(self.chains, int),
            "target": np.asarray(0),
            "trial_divergences": np.asarray(0),
            "restarts": np.zeros(self.chains, int),
            "candidates": np.asarray([info[k] for k in sorted(info)]),
            "factor": factor,
            "window_positions": np.zeros((self.chains, 0, problem.size)),
            "window_gradients": np.zeros((self.chains, 0, problem.size)),
            "window_density": np.zeros((self.chains, 0)),
        }
        log_step = np.full(self.chains, np.log(self.step_size))
        return self._restart(problem, state, starts, factor, log_step)

    def step(self, problem: Problem, state: dict[str, Any]) -> tuple[dict, Chunk | None]:
        """Run a block of iterations on every chain; ends a stage where it is over."""
        stage = self._stages[int(state["stage"])]
        outputs = run_block(
            problem,
            state,
            self.transition,
            key=(type(self).__name__, *self.compile_key()),
            adapt=stage.name in ("adapt", "settle"),
            target=self._target(state),
            depth=stage.depth,
        )
        count = outputs["count"]
        new = {**state, **outputs["carry"]}
        new["iteration"] = state["iteration"] + count
        new["left"] = state["left"] - count
        chunk = None
        if stage.name == "sample":
            new["draws"] = state["draws"] + count
            new.update(add_draws({k: state[k] for k in _BATCHES}, outputs["position"]))
            steps = np.exp(new["log_step"])[:, None]
            stats = {**outputs["stats"], "step_size": np.repeat(steps, count, axis=1)}
            chunk = {"position": outputs["position"], "round": new["target"], **stats}
            if self._may_raise_target(state) and stats["diverging"].any():
                # These draws stay in the chunks in case the run is stopped before better ones.
                new = self._raise_target(problem, new)
            elif new["left"] <= 0 and self._wants_more(new):
                new["left"] = np.asarray(min(int(new["draws"]), _MOST_DRAWS - int(new["draws"])))
        else:
            self._remember(problem, new, outputs, stage)
            if new["left"] <= 0:
                new = self._end_stage(problem, new, stage)
        return new, chunk

    def done(self, problem: Problem, state: dict[str, Any]) -> bool:
        """Whether every chain has its draws."""
        return self._stages[int(state["stage"])].name == "sample" and int(state["left"]) <= 0

    def finish(
        self, problem: Problem, state: dict[str, Any], chunks: list[Chunk], key: Array
    ) -> Draws:
        """Map the draws to the constrained space."""
        rounds = [int(c["round"]) for c in chunks]
        last = [c for c, r in zip(chunks, rounds, strict=True) if r == rounds[-1]]
        names = [k for k in last[0] if k != "round"]
        joined = {k: np.concatenate([c[k] for c in last], axis=1) for k in names}
        positions = joined.pop("position")
        counted = ("candidates", "infinite", "nan", "nan_gradient")
        info = {
            "metric": "dense" if state["factor"].ndim == 2 else "diagonal",
            "target_accept": self.target_accept or TARGETS[rounds[-1]],
            "restarts": state["restarts"].tolist(),
            "copies": state["copies"].tolist(),
            "trial_divergences": int(state["trial_divergences"]),
            "starts": dict(zip(counted, state["candidates"].tolist(), strict=True)),
            "max_tree_depth": self.max_depth,
        }
        values = problem.constrain(positions)
        return Draws(values, joined, self.chains, positions, info=info)

    def progress(self, problem: Problem, state: dict[str, Any]) -> Progress:
        """Iterations so far, with the stage and the number of divergent trial draws."""
        stage = self._stages[int(state["stage"])]
        total = max(sum(s.length for s in self._stages), int(state["iteration"] + state["left"]))
        text = "sample" if stage.name == "sample" else f"warm up ({stage.name})"
        return Progress(min(int(state["iteration"]), total), total, text)

    # -------------------------------------------------------------------- pieces

    @property
    def _stages(self) -> tuple[Stage, ...]:
        return stages(self.warmup, self.draws or _FEWEST_DRAWS, self.max_depth)

    def _dense_from_start(self, problem: Problem) -> bool:
        small = self.metric == "auto" and problem.size <= _DENSE_FROM_START
        return self.metric == "dense" or small

    def _target(self, state: dict[str, Any]) -> float:
        return self.target_accept or TARGETS[int(state["target"])]

    def _restart(
        self,
        problem: Problem,
        state: dict[str, Any],
        positions: np.ndarray,
        factor: np.ndarray,
        log_step: np.ndarray,
    ) -> dict[str, Any]:
        """Enter new whitened coordinates and search a step size there."""
        z = to_whitened(factor, positions)
        point, steps = enter_coordinates(problem, state, z, factor, log_step)
        zero = np.zeros(self.chains)
        return {
            **state,
            **point,
            "factor": factor,
            "log_step": np.log(steps),
            "averaging": np.stack([zero, zero, zero, zero, np.log(10.0 * steps)], axis=1),
        }

    def _remember(
        self, problem: Problem, state: dict[str, Any], outputs: dict[str, Any], stage: Stage
    ) -> None:
        """Keep what the end of the stage needs, thinned where it would not fit in memory."""
        if stage.name == "trial":
            state["trial_divergences"] = state["trial_divergences"] + int(
                outputs["stats"]["diverging"].sum()
            )
            return
        numbers = self.chains * stage.length * problem.size
        every = max(1, int(np.ceil(numbers / _WINDOW_NUMBERS)))
        done = int(stage.length - state["left"])
        count = outputs["position"].shape[1]
        kept = [i for i in range(count) if (done - count + i) % every == 0]
        factor = state["factor"]
        slopes = outputs["whitened_gradient"][:, kept]
        if factor.ndim == 1:
            gradients = slopes / factor
        else:
            flat = slopes.reshape(-1, slopes.shape[-1])
            gradients = np.linalg.solve(factor.T, flat.T).T.reshape(slopes.shape)
        new = {
            "window_positions": outputs["position"][:, kept],
            "window_gradients": gradients,
            "window_density": outputs["stats"]["lp"][:, kept],
        }
        for name, value in new.items():
            state[name] = np.concatenate([state[name], value], axis=1)

    def _end_stage(self, problem: Problem, state: dict[str, Any], stage: Stage) -> dict[str, Any]:
        new = dict(state)
        following = int(state["stage"]) + 1
        if stage.name == "adapt":
            new = self._adapt(problem, new)
        elif stage.name == "settle":
            average = new["averaging"][:, 1]
            new["log_step"] = np.full(self.chains, np.median(average))
        elif self._may_raise_target(new) and int(new["trial_divergences"]) > 0:
            return self._raise_target(problem, new)
        new["stage"] = np.asarray(following)
        new["left"] = np.asarray(self._stages[following].length)
        for name in ("window_positions", "window_gradients", "window_density"):
            new[name] = new[name][:, :0]
        # A stage without iterations (a very short warm-up) is over at once.
        if new["left"] <= 0 and self._stages[following].name != "sample":
            return self._end_stage(problem, new, self._stages[following])
        return new

    def _wants_more(self, state: dict[str, Any]) -> bool:
        """Whether the number of draws is left to the sampler and not reached yet."""
        if self.draws is not None or int(state["draws"]) >= _MOST_DRAWS:
            return False
        return not has_enough({k: state[k] for k in _BATCHES})

    def _may_raise_target(self, state: dict[str, Any]) -> bool:
        return self.target_accept is None and int(state["target"]) < len(TARGETS) - 1

    def _raise_target(self, problem: Problem, state: dict[str, Any]) -> dict[str, Any]:
        """Settle again with a higher target acceptance."""
        settle = len(self._stages) - 3
        positions = to_position(state["factor"], state["z"])
        new = {
            **state,
            "target": state["target"] + 1,
            "trial_divergences": np.asarray(0),
            "draws": np.asarray(0),
            **empty_batches(self.chains, problem.size),
            "stage": np.asarray(settle),
            "left": np.asarray(self._stages[settle].length),
        }
        return self._restart(problem, new, positions, new["factor"], new["log_step"])

    def _adapt(self, problem: Problem, state: dict[str, Any]) -> dict[str, Any]:
        """Take the metric from all chains but those that sit where there is no mass.

        Such a chain starts afresh while there is time for it to find its own way; after the last
        window it is put where another chain was, and the verdict is told.
        """
        positions = to_position(state["factor"], state["z"])
        draws = state["window_positions"]
        new = dict(state)
        windows = sum(stage.name == "adapt" for stage in self._stages)
        window = int(state["stage"])
        far = np.zeros(self.chains, bool)
        if window >= min(2, windows - 1):
            # Earlier, chains may still be on their way.
            far = far_chains(state["window_density"], draws)
        if far.any() and window < windows - 1:
            key = jax.random.wrap_key_data(jnp.asarray(state["step_key"]))
            key = jax.random.fold_in(jax.random.fold_in(key, window), self.chains)
            fresh, _ = find_starts(problem, key, self.chains, self.candidates, self.init_strategy)
            positions[far] = fresh[far]
            new["restarts"] = state["restarts"] + far
        elif far.any():
            near = np.flatnonzero(~far)
            for place, chain in enumerate(np.flatnonzero(far)):
                source = near[place % len(near)]
                positions[chain] = draws[source, -1 - place // len(near)]
            new["copies"] = state["copies"] + far
        # The beginning of a window still travels; the rest is nearer to the posterior.
        begin = draws.shape[1] // 3
        x = draws[~far, begin:].reshape(-1, problem.size)
        g = state["window_gradients"][~far, begin:].reshape(-1, problem.size)
        finite = np.isfinite(g).all(axis=1)
        x, g = x[finite], g[finite]
        factor = state["factor"]
        if len(x) >= 10:
            estimate = _METRICS[self.metric]
            if self.metric == "dense" and len(x) < problem.size + 10:
                estimate = diagonal_factor
            if self.metric == "auto" and problem.size > _LARGEST_DENSE:
                estimate = diagonal_factor
            factor = estimate(x, g)
        if self._dense_from_start(problem) and factor.ndim == 1:
            factor = np.diag(factor)
        return self._restart(problem, new, positions, factor, state["log_step"])
