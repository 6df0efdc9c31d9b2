"""What NUTS and HMC share: the contract, and a warm-up pooled over chains."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from bayes.draw_store import digest
from bayes.errors import SettingsError
from bayes.inference.chains import compile_block, run_block
from bayes.inference.metric import Metric, identity_metric
from bayes.inference.randomness import Purpose, generator_of, new_streams
from bayes.inference.sampling import SITE, SamplingPhase
from bayes.inference.starts import Starts, ascend, evaluate, find_starts
from bayes.inference.stopping import watched_elements
from bayes.inference.transitions import Point, Transition
from bayes.inference.warmup import TARGETS, Stage, common_step, far_chains
from bayes.inference.windows import (
    copy_chains,
    empty_window,
    learn_metric,
    metric_of,
    metric_state,
    newest,
    remember,
)
from bayes.method import Chunk, Draws, Progress
from bayes.problem import Problem

__all__ = ["Hamiltonian"]

_LARGEST_DENSE, _FEWEST_DRAWS, _SHORTEST_WINDOW = 5000, 50, 10


@dataclasses.dataclass(frozen=True)
class Hamiltonian(SamplingPhase):
    """Engine of the Hamiltonian samplers.

    Parameters
    ----------
    chains, warmup, draws, target_ess, max_draws, target_accept, metric, step_size, init_strategy, \
    candidates, thin, keep, store
        See :class:`bayes.inference.settings.HamiltonianSettings`.
    """

    # ------------------------------------------------------- what a sampler adds

    @abc.abstractmethod
    def transition(
        self,
        density: Callable,
        metric: Metric,
        point: Point,
        momentum: Array,
        seed: Array,
        step: Array,
        depth: Array,
    ) -> tuple[Point, Transition]:
        """One transition."""

    @abc.abstractmethod
    def compile_key(self) -> tuple:
        """Settings that the compiled transition depends on."""

    # ------------------------------------------------------------------ contract

    def check(self, problem: Problem) -> None:
        """Every problem with continuous latent sites will do; binding has seen to that."""
        unknown = sorted(set(self.keep or ()) - set(problem.parameters))
        if unknown:
            raise SettingsError(
                f"keep names {', '.join(unknown)}; the sites are {', '.join(problem.parameters)}"
            )
        if self.metric == "dense" and problem.size > _LARGEST_DENSE:
            raise SettingsError(
                f"metric='dense' would take {8 * problem.size**2 / 2**30:.0f} GiB a matrix for "
                f"{problem.size} dimensions; use 'low_rank'"
            )
        nested = [
            name for name in problem.parameters if "/" in name or name.startswith((".", "__"))
        ]
        if nested and self.store is not None:
            raise SettingsError(f"store cannot hold site '{nested[0]}': it is no name of a folder")

    def init(self, problem: Problem, key: Array) -> dict[str, Any]:
        """Find starts; meanwhile what will run is compiled."""
        metric, first = self._first_metric(problem), self._first_stage
        self._block(problem, metric)
        problem.compile_prepare()
        problem.compile_constrain()
        words = np.asarray(jax.random.key_data(key))
        starts = self._starts(problem, words)
        state = {
            "key": words,
            "streams": new_streams(words, self.chains),
            "seeds": generator_of(words, Purpose.TRAJECTORIES).integers(
                2**64, size=self.chains, dtype=np.uint64
            ),
            "iteration": np.asarray(0),
            "stage": np.asarray(first),
            "left": np.asarray(self._stages[first].length),
            "warmed_up": np.asarray(0),
            "leapfrogs": np.zeros(self.chains, int),
            "watched": np.zeros(0, int),
            **self._no_draws(problem, 0),
            "round": np.asarray(0),
            "copies": np.zeros(self.chains, int),
            "target": np.asarray(0),
            "restarts": np.zeros(self.chains, int),
            "candidates": np.asarray([starts.info[k] for k in sorted(starts.info)]),
            "x": starts.positions,
            "lp": starts.density,
            "gradient": starts.gradients,
            **empty_window(self.chains, problem.size),
            **metric_state(metric),
        }
        if self.store is not None:
            settings = {k: v for k, v in self.settings().items() if k != "store"}
            # The starts and their densities tell model and data.
            begin = (state[k] for k in ("key", "x", "lp", "gradient"))
            state["store_run"] = digest(self.name, settings, *begin)
            state["store_round"] = state["store_run"]
            self._store(self.store, state).require_own()
        return self._search_step(state, self._first_steps(starts))

    def _starts(self, problem: Problem, words: np.ndarray) -> Starts:
        """Where the chains begin."""
        return find_starts(problem, words, self.chains, self.candidates, self.init_strategy)

    def _first_metric(self, problem: Problem) -> Metric:
        return identity_metric(problem.size, kind=self.metric)

    @property
    def _first_stage(self) -> int:
        return 0

    def _first_steps(self, starts: Starts) -> np.ndarray:
        # A first step that a steep gradient turns into a leap may end where a solver never does.
        steep = np.maximum(np.linalg.norm(starts.gradients, axis=1), 1e-300)
        return np.minimum(self.step_size, 1.0 / np.sqrt(steep))

    def step(self, problem: Problem, state: dict[str, Any]) -> tuple[dict, Chunk | None]:
        """Run a block of iterations on every chain; ends a stage where it is over."""
        stage = self._stages[int(state["stage"])]
        metric = metric_of(state)
        outputs = run_block(
            problem,
            state,
            metric,
            self._block(problem, metric),
            most=self._most_iterations(state),
            adapt=stage.name in ("adapt", "settle"),
            target=self._target(state),
            depth=stage.depth,
        )
        count = outputs["count"]
        new = {**state, **outputs["carry"]}
        new["iteration"] = state["iteration"] + count
        new["left"] = state["left"] - count
        new["leapfrogs"] = state["leapfrogs"] + outputs["stats"]["n_steps"].sum(axis=1)
        if stage.name == "sample":
            return self._take_draws(problem, new, outputs)
        new["warmed_up"] = state["warmed_up"] + count
        new = remember(new, outputs, stage.length)
        if new["left"] <= 0:
            new = self._end_stage(problem, new, stage)
        return new, None

    def done(self, problem: Problem, state: dict[str, Any]) -> bool:
        """Whether every chain has its draws."""
        return self._stages[int(state["stage"])].name == "sample" and int(state["left"]) <= 0

    def finish(
        self, problem: Problem, state: dict[str, Any], chunks: list[Chunk], key: Array
    ) -> Draws:
        """Join the draws of a round."""
        rounds = [int(c["round"]) for c in chunks]
        last = [c for c, r in zip(chunks, rounds, strict=True) if r == self._round(chunks)]
        scalars = ("round", "target", "store_round", "non_finite")
        names = [k for k in last[0] if k not in scalars]
        joined = {k: np.concatenate([c[k] for c in last], axis=1) for k in names}
        counted = ("candidates", "infinite", "nan", "nan_gradient")
        info = {
            "metric": metric_of(state).kind,
            "target_accept": self.target_accept or TARGETS[int(last[-1]["target"])],
            "warmup": int(state["warmed_up"]),
            "leapfrogs": state["leapfrogs"].tolist(),
            "restarts": state["restarts"].tolist(),
            "copies": state["copies"].tolist(),
            "wanted_draws": int(state["wanted"]),
            "starts": dict(zip(counted, state["candidates"].tolist(), strict=True)),
            "max_tree_depth": self.max_depth,
        }
        stats = {k: v for k, v in joined.items() if not k.startswith(SITE)}
        if self.store is not None:
            # The state may be at a round that has no draws yet.
            at = {**state, "store_round": np.asarray(last[-1]["store_round"])}
            stored = self._store(self.store, at).finish(
                list(self._sizes(problem)), stats["lp"].shape[1]
            )
            bad = sum(int(c["non_finite"]) for c in last)
            return Draws(stored, stats, self.chains, info=info, non_finite=bad)
        values = {k.removeprefix(SITE): v for k, v in joined.items() if k.startswith(SITE)}
        return Draws(values, stats, self.chains, info=info)

    def _round(self, chunks: list[Chunk]) -> int:
        """The last round, unless it was stopped at its beginning and an earlier one is there."""
        lengths: dict[int, int] = {}
        for chunk in chunks:
            number = int(chunk["round"])
            lengths[number] = lengths.get(number, 0) + chunk["lp"].shape[1]
        last = max(lengths)
        if self.store is not None or lengths[last] >= _FEWEST_DRAWS:
            return last
        return max(lengths, key=lambda number: (lengths[number], number))

    def progress(self, problem: Problem, state: dict[str, Any]) -> Progress:
        """Iterations so far, with the stage."""
        stage = self._stages[int(state["stage"])]
        done, left = int(state["iteration"]), int(state["left"])
        if stage.name == "sample":
            return Progress(done, done + left, "sample")
        ahead = sum(s.length for s in self._stages[int(state["stage"]) + 1 :] if not s.last)
        return Progress(done, done + left + ahead, f"warm up ({stage.name})")

    # ------------------------------------------------------------------- warm-up

    def _block(self, problem: Problem, metric: Metric) -> Any:
        key = (type(self).__name__, *self.compile_key())
        return compile_block(problem, self.transition, key, metric)

    def _end_stage(self, problem: Problem, state: dict[str, Any], stage: Stage) -> dict[str, Any]:
        if stage.name == "adapt":
            new, settled = self._adapt(problem, state, stage)
            following = self._settling if settled else int(state["stage"]) + 1
            return self._enter(problem, new, following)
        average = state["averaging"][:, 1]
        if int(state["target"]) == 0:
            steps = np.log(newest(state, "steps"))
            common = common_step(average, steps, newest(state, "acceptance"), self._target(state))
        else:  # transitions have diverged: places differ in how steep they are
            common = average.min()
        new = {**state, "log_step": np.full(self.chains, common)}
        if self.draws is None:
            values = self._elements(self._values(problem, state["window_positions"]))
            new["watched"] = watched_elements(values)
        return self._begin_sampling(problem, new)

    def _adapt(
        self, problem: Problem, state: dict[str, Any], stage: Stage
    ) -> tuple[dict[str, Any], bool]:
        """Learn a metric from all chains, bring back those that are lost; whether it settled."""
        window = int(state["stage"])
        final = window + 1 == self._settling
        far = np.zeros(self.chains, bool)
        if (final or window >= 2) and stage.length >= _SHORTEST_WINDOW:
            # Earlier, chains may still be on their way.
            far = far_chains(newest(state, "density"), newest(state, "positions"))
        metric, settled = learn_metric(state, self.metric, far, may_settle=stage.last)
        new = state
        if far.any() and final:
            new = copy_chains(state, far)
        elif far.any():
            new = self._start_again(problem, state, far, np.asarray(metric.scale), window)
            # What lost chains have been through is not to be learned from.
            new.update(empty_window(self.chains, problem.size))
        # In coordinates of the new metric the step size is of the order of one.
        steps = np.exp(np.clip(state["averaging"][:, 1], np.log(0.1), 0.0))
        return self._search_step({**new, **metric_state(metric)}, steps), settled

    def _start_again(
        self,
        problem: Problem,
        state: dict[str, Any],
        lost: np.ndarray,
        scale: np.ndarray,
        window: int,
    ) -> dict[str, Any]:
        """Give lost chains starts of their own anew, as high as the other chains are."""
        fresh = find_starts(
            problem, state["key"], self.chains, self.candidates, self.init_strategy, window + 1
        )
        others = newest(state, "density")[~lost]
        level = float(np.median(others[:, others.shape[1] // 2 :]))
        new = {**state, "restarts": state["restarts"] + lost}
        places = np.stack([ascend(problem, x, level, scale) for x in fresh.positions[lost]])
        density, gradients = evaluate(problem, places)
        for name, value in {"x": places, "lp": density, "gradient": gradients}.items():
            new[name] = state[name].copy()
            new[name][lost] = value
        return new
