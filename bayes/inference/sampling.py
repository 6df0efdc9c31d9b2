"""Sampling after the warm-up: draws are kept, and looked at to see whether there are enough."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from typing import Any

import numpy as np

from bayes.dims import fitting_dims
from bayes.draw_store import DrawStore, digest
from bayes.inference.settings import HamiltonianSettings
from bayes.inference.stopping import FIRST_LOOK, look, motionless
from bayes.inference.warmup import TARGETS, Stage, far_chains, is_below, stages
from bayes.inference.windows import copy_chains, empty_window, next_window
from bayes.method import Chunk, count_non_finite
from bayes.problem import Problem

__all__ = ["SITE", "SamplingPhase"]

SITE = "site "
"""Marks the draws of a site among the entries of a chunk."""
_APART = 1.1
"""R-hat that, where it does not fall, means that a chain is stuck."""
_SMALLEST_STEP, _LARGEST_STEP = 1e-10, 1e3
_PROBATION = 100
"""Every so many iterations it is decided whether transitions diverge: at points that do not depend
on how iterations are cut into blocks."""
_PATH_EVERY, _PATH_NUMBERS = 10, 2 * 10**6
"""Every so many-th position is kept to see whether a chain has left the others' region, where all
of them are at most so many numbers."""


@dataclasses.dataclass(frozen=True)
class SamplingPhase(HamiltonianSettings):
    """What the Hamiltonian samplers do with their draws."""

    @property
    def max_depth(self) -> int:
        """Deepest tree; 0 where there are no trees."""
        return 0

    @property
    def _stages(self) -> tuple[Stage, ...]:
        first = min(FIRST_LOOK, self.max_draws) if self.draws is None else self.draws
        return stages(self.warmup, first * self.thin, self.max_depth)

    def _target(self, state: dict[str, Any]) -> float:
        return self.target_accept or TARGETS[int(state["target"])]

    def _search_step(self, state: dict[str, Any], steps: np.ndarray) -> dict[str, Any]:
        """Let the step size be searched anew from a first guess."""
        steps = np.clip(steps, _SMALLEST_STEP, _LARGEST_STEP)
        zero = np.zeros(self.chains)
        averaging = np.stack([np.log(steps), zero, zero, zero, np.log(steps)], axis=1)
        return {**state, "log_step": np.log(steps), "averaging": averaging}

    def _enter(self, problem: Problem, state: dict[str, Any], stage: int) -> dict[str, Any]:
        """Begin a stage."""
        length, name = self._stages[stage].length, self._stages[stage].name
        window = empty_window(self.chains, problem.size)
        if name == "adapt":
            window = next_window(state)
        return {**state, **window, "stage": np.asarray(stage), "left": np.asarray(length)}

    @property
    def _settling(self) -> int:
        return len(self._stages) - 2

    def _values(self, problem: Problem, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Values of the sites that are kept."""
        values = problem.constrain(positions)
        return values if self.keep is None else {k: values[k] for k in values if k in self.keep}

    def _sizes(self, problem: Problem) -> dict[str, int]:
        """Elements of every site that is kept."""
        sizes = {name: math.prod(shape) for name, shape in problem.value_shapes.items()}
        return sizes if self.keep is None else {k: n for k, n in sizes.items() if k in self.keep}

    def _elements(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """All elements of all sites, of shape (chain, draw, element)."""
        return np.concatenate([v.reshape(*v.shape[:2], -1) for v in values.values()], axis=2)

    def _begin_sampling(self, problem: Problem, state: dict[str, Any]) -> dict[str, Any]:
        """No draws yet; those of an earlier round do not count."""
        new = self._enter(problem, state, len(self._stages) - 1)
        if self.store is not None:
            begin = (np.asarray(new[k]) for k in ("x", "log_step", "iteration"))
            new["store_round"] = digest(state["store_round"], *begin)
        new.update(self._no_draws(problem, len(state["watched"])))
        return {**new, "round": state["round"] + 1}

    def _no_draws(self, problem: Problem, watched: int) -> dict[str, np.ndarray]:
        """Entries of the state where a round has no draws yet."""
        return {
            "draws": np.asarray(0),
            "sampled": np.asarray(0),
            "diverged": np.asarray(0),
            "seen": np.zeros((self.chains, 0, watched)),
            "seen_density": np.zeros((self.chains, 0)),
            "path": np.zeros((self.chains, 0, problem.size + 1)),
            "last_rhat": np.asarray(np.inf),
            "wanted": np.asarray(0),
        }

    def _most_iterations(self, state: dict[str, Any]) -> int:
        """Iterations up to where something is decided."""
        left = int(state["left"])
        if self._stages[int(state["stage"])].name != "sample" or not self._may_raise_target(state):
            return left
        return min(left, _PROBATION - int(state["sampled"]) % _PROBATION)

    def _take_draws(
        self, problem: Problem, state: dict[str, Any], outputs: dict[str, Any]
    ) -> tuple[dict[str, Any], Chunk | None]:
        """Keep a block's draws, and see at the end of a stretch whether there are enough."""
        count, before = outputs["count"], int(state["sampled"])
        numbers = np.arange(before + 1, before + count + 1)
        kept = np.flatnonzero(numbers % self.thin == 0)
        new = {**state, "sampled": state["sampled"] + count, "draws": state["draws"] + len(kept)}
        new["diverged"] = state["diverged"] + int(outputs["stats"]["diverging"].sum())
        chunk = self._keep_draws(problem, new, state, outputs, kept) if len(kept) else None
        most = self.chains * problem.size * self.max_draws * self.thin / _PATH_EVERY
        if self.draws is None and most <= _PATH_NUMBERS:
            every = np.flatnonzero(numbers % _PATH_EVERY == 0)
            places, density = outputs["position"][:, every], outputs["stats"]["lp"][:, every]
            path = np.concatenate([places, density[..., None]], axis=2)
            new["path"] = np.concatenate([state["path"], path], axis=1)
        decides = int(new["sampled"]) % _PROBATION == 0 or new["left"] <= 0
        if decides and self._may_raise_target(new) and int(new["diverged"]) > 0:
            # These draws stay in the chunks in case the run is stopped before better ones.
            new = self._raise_target(problem, new)
        elif new["left"] <= 0 and self.draws is None:
            new = self._look(problem, new)
        return new, chunk

    def _keep_draws(
        self,
        problem: Problem,
        new: dict[str, Any],
        state: dict[str, Any],
        outputs: dict[str, Any],
        kept: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """A chunk of the draws that are kept; the watched ones go into the new state."""
        values = self._values(problem, outputs["position"][:, kept])
        stats = {k: v[:, kept] for k, v in outputs["stats"].items()}
        if self.draws is None:
            seen = self._elements(values)[..., state["watched"]]
            new["seen"] = np.concatenate([state["seen"], seen], axis=1)
            new["seen_density"] = np.concatenate([state["seen_density"], stats["lp"]], axis=1)
        chunk = self._put_away(problem, state, values)
        return {**chunk, **stats, "round": state["round"], "target": state["target"]}

    def _put_away(
        self, problem: Problem, state: dict[str, Any], values: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """A chunk's entries for the draws of the sites, which go to the store where there is one.

        The state is that before these draws.
        """
        if self.store is None:
            return {f"{SITE}{k}": v for k, v in values.items()}
        dims = {
            k: fitting_dims(k, v.shape[2:], problem.dims, problem.coords) for k, v in values.items()
        }
        self._store(self.store, state).write(values, dims, int(state["draws"]))
        bad = np.asarray(count_non_finite(values))
        return {"non_finite": bad, "store_round": state["store_round"]}

    def _store(self, folder: str | os.PathLike, state: dict[str, Any]) -> DrawStore:
        return DrawStore(pathlib.Path(folder), state["store_run"], state["store_round"])

    def _look(self, problem: Problem, state: dict[str, Any]) -> dict[str, Any]:
        """Go on where there are not enough draws; bring back a chain that is stuck."""
        sizes = self._sizes(problem)
        judged = np.repeat([name in problem.judged for name in sizes], list(sizes.values()))
        density = state["seen_density"]
        watched = state["watched"]
        # Where transitions have diverged there is a region that is hard to enter, and few draws may
        # all have missed it.
        target = self.target_ess * 2 ** int(state["target"])
        found = look(state["seen"], density, judged[watched], target, len(judged))
        still = motionless(density)
        if still.any() and self._may_raise_target(state):
            return self._raise_target(problem, state)
        # A chain that rests where the density is high may be in a narrow mode, and is not lost.
        lost = still & is_below(density)
        path = state["path"]
        if found.rhat > _APART and found.rhat > 0.9 * float(state["last_rhat"]) and path.size:
            lost = lost | far_chains(path[..., -1], path[..., :-1])
        if lost.any() and not lost.all() and not state["copies"].any():
            return self._begin_sampling(problem, copy_chains(state, lost))
        more = min(found.needed, self.max_draws) - int(state["draws"])
        left = np.asarray(max(0, more) * self.thin)
        wanted = np.asarray(found.needed)
        return {**state, "last_rhat": np.asarray(found.rhat), "left": left, "wanted": wanted}

    def _may_raise_target(self, state: dict[str, Any]) -> bool:
        return self.target_accept is None and int(state["target"]) + 1 < len(TARGETS)

    def _raise_target(self, problem: Problem, state: dict[str, Any]) -> dict[str, Any]:
        """Settle the step size anew for a higher acceptance, and begin sampling from there."""
        new = self._enter(problem, {**state, "target": state["target"] + 1}, self._settling)
        return self._search_step(new, np.exp(state["log_step"]))
