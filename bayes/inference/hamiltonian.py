"""What NUTS and HMC share: settings, the contract, and a warm-up pooled over chains."""

from __future__ import annotations

import abc
import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from bayes.dims import fitting_dims
from bayes.draw_store import DrawStore, digest
from bayes.errors import SettingsError
from bayes.inference.chains import compile_block, run_block
from bayes.inference.metric import KINDS, Metric, identity_metric
from bayes.inference.randomness import generator_of, new_streams
from bayes.inference.starts import find_starts
from bayes.inference.stopping import FIRST_LOOK, look, motionless, watched_elements
from bayes.inference.transitions import Point, Transition
from bayes.inference.warmup import TARGETS, Stage, common_step, far_chains, stages
from bayes.inference.windows import (
    copy_chains,
    empty_window,
    learn_metric,
    metric_of,
    metric_state,
    newest,
    next_window,
    remember,
)
from bayes.method import Chunk, Draws, Method, Progress, count_non_finite
from bayes.problem import Problem

__all__ = ["Hamiltonian"]

_SMALLEST_STEP, _LARGEST_STEP = 1e-10, 1e3
_APART = 1.1
"""R-hat that, where it does not fall, means that a chain is stuck."""
_SITE = "site "
"""Marks the draws of a site among the entries of a chunk."""


@dataclasses.dataclass(frozen=True)
class Hamiltonian(Method):
    """Settings and engine of the Hamiltonian samplers.

    Parameters
    ----------
    chains : int
        Independent chains.
    warmup : int, optional
        Iterations that adapt step size and metric, and are thrown away. By default as many as it
        takes for the metric to settle and the chains to agree, between about 160 and 1000.
    draws : int, optional
        Draws a chain. By default as many as ``target_ess`` takes.
    target_ess : float
        Where ``draws`` is not given: bulk and tail effective sample size that every parameter is
        to have, with R-hat below 1.01.
    max_draws : int
        Where ``draws`` is not given: draws a chain after which sampling ends anyway.
    target_accept : float, optional
        Mean acceptance that the step size aims at. By default 0.85; when a transition diverges
        after the warm-up, the draws are thrown away and sampling begins anew with 0.95, and then
        with 0.99.
    metric : {"auto", "diagonal", "low_rank", "dense"}
        Shape of the metric; ``"auto"`` takes one with correlations, dense up to 256 dimensions and
        low-rank above, where held-out draws say that it pays.
    step_size : float
        Where the search for a step size begins.
    init_strategy : callable, optional
        One of ``numpyro.infer.initialization``, for instance ``init_to_value(values=...)``.
    candidates : int
        Candidate starts a chain; the one with the highest log density is taken.
    thin : int
        Every how many-th draw is kept; ``draws`` counts those that are.
    keep : sequence of str, optional
        Sites whose draws are kept; all by default. The others take no memory, and predictions that
        need them are not possible.
    store : path, optional
        A folder, by custom ``*.zarr``, to which the draws of the sites go block by block; memory
        holds a block, and the posterior reads from there, so that it needs the folder as long as
        it is used. A folder with anything but draws of the same run is refused.
    """

    chains: int = 4
    warmup: int | None = None
    draws: int | None = None
    target_ess: float | int = 400
    max_draws: int = 4000
    target_accept: float | None = None
    metric: str = "auto"
    step_size: float = 1.0
    init_strategy: Callable | None = None
    candidates: int = 20
    thin: int = 1
    keep: Sequence[str] | None = None
    store: str | os.PathLike | None = None

    def __post_init__(self) -> None:
        for name in ("chains", "warmup", "draws", "max_draws", "candidates", "thin"):
            value = getattr(self, name)
            if value is None and name in ("warmup", "draws"):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise SettingsError(f"{name} must be a whole number, got {value!r}")
            if value < 1:
                raise SettingsError(f"{name} must be at least 1, got {value}")
        if self.target_accept is not None and not 0 < self.target_accept < 1:
            raise SettingsError(f"target_accept must lie in (0, 1), got {self.target_accept}")
        if self.metric not in KINDS:
            raise SettingsError(f"metric must be one of {', '.join(KINDS)}, got {self.metric!r}")
        if isinstance(self.keep, str) or (self.keep is not None and not self.keep):
            raise SettingsError(f"keep must name sites, got {self.keep!r}")
        if self.store is not None and (
            not isinstance(self.store, (str, os.PathLike)) or not os.fspath(self.store)
        ):
            raise SettingsError(f"store must be the path of a folder, got {self.store!r}")
        for name in ("step_size", "target_ess"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise SettingsError(f"{name} must be positive, got {value}")

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

    @property
    def max_depth(self) -> int:
        """Deepest tree; 0 where there are no trees."""
        return 0

    # ------------------------------------------------------------------ contract

    def check(self, problem: Problem) -> None:
        """Every problem with continuous latent sites will do; binding has seen to that."""
        unknown = sorted(set(self.keep or ()) - set(problem.parameters))
        if unknown:
            raise SettingsError(
                f"keep names {', '.join(unknown)}; the sites are {', '.join(problem.parameters)}"
            )
        nested = [
            name for name in problem.parameters if "/" in name or name.startswith((".", "__"))
        ]
        if nested and self.store is not None:
            raise SettingsError(f"store cannot hold site '{nested[0]}': it is no name of a folder")

    def init(self, problem: Problem, key: Array) -> dict[str, Any]:
        """Find starts; meanwhile what will run is compiled."""
        metric = identity_metric(problem.size, kind=self.metric)
        self._block(problem, metric)
        problem.compile_prepare()
        problem.compile_constrain()
        words = np.asarray(jax.random.key_data(key))
        starts = find_starts(problem, words, self.chains, self.candidates, self.init_strategy, 0)
        state = {
            "key": words,
            "streams": new_streams(words, self.chains),
            "seeds": generator_of(words, self.chains).integers(
                2**64, size=self.chains, dtype=np.uint64
            ),
            "iteration": np.asarray(0),
            "stage": np.asarray(0),
            "left": np.asarray(self._stages[0].length),
            "warmed_up": np.asarray(0),
            "leapfrogs": np.zeros(self.chains, int),
            "draws": np.asarray(0),
            "sampled": np.asarray(0),
            "watched": np.zeros(0, int),
            "seen": np.zeros((self.chains, 0, 0)),
            "seen_density": np.zeros((self.chains, 0)),
            "worst_rhat": np.asarray(np.inf),
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
        # A first step that a steep gradient turns into a leap may end where a solver never does.
        steep = np.maximum(np.linalg.norm(starts.gradients, axis=1), 1e-300)
        return self._search_step(state, np.minimum(self.step_size, 1.0 / np.sqrt(steep)))

    def step(self, problem: Problem, state: dict[str, Any]) -> tuple[dict, Chunk | None]:
        """Run a block of iterations on every chain; ends a stage where it is over."""
        stage = self._stages[int(state["stage"])]
        metric = metric_of(state)
        outputs = run_block(
            problem,
            state,
            metric,
            self._block(problem, metric),
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
        """Join the draws of the last round."""
        rounds = [int(c["round"]) for c in chunks]
        last = [c for c, r in zip(chunks, rounds, strict=True) if r == rounds[-1]]
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
            "starts": dict(zip(counted, state["candidates"].tolist(), strict=True)),
            "max_tree_depth": self.max_depth,
        }
        stats = {k: v for k, v in joined.items() if not k.startswith(_SITE)}
        if self.store is not None:
            # The state may be at a round that has no draws yet.
            at = {**state, "store_round": np.asarray(last[-1]["store_round"])}
            stored = self._store(self.store, at).finish(
                list(self._sizes(problem)), stats["lp"].shape[1]
            )
            bad = sum(int(c["non_finite"]) for c in last)
            return Draws(stored, stats, self.chains, info=info, non_finite=bad)
        values = {k.removeprefix(_SITE): v for k, v in joined.items() if k.startswith(_SITE)}
        return Draws(values, stats, self.chains, info=info)

    def progress(self, problem: Problem, state: dict[str, Any]) -> Progress:
        """Iterations so far, with the stage."""
        stage = self._stages[int(state["stage"])]
        done, left = int(state["iteration"]), int(state["left"])
        if stage.name == "sample":
            return Progress(done, done + left, "sample")
        ahead = sum(s.length for s in self._stages[int(state["stage"]) + 1 :] if not s.last)
        return Progress(done, done + left + ahead, f"warm up ({stage.name})")

    # ------------------------------------------------------------------- warm-up

    @property
    def _stages(self) -> tuple[Stage, ...]:
        first = min(FIRST_LOOK, self.max_draws) if self.draws is None else self.draws
        return stages(self.warmup, first * self.thin, self.max_depth)

    def _block(self, problem: Problem, metric: Metric) -> Any:
        key = (type(self).__name__, *self.compile_key())
        return compile_block(problem, self.transition, key, metric)

    def _target(self, state: dict[str, Any]) -> float:
        return self.target_accept or TARGETS[int(state["target"])]

    def _search_step(self, state: dict[str, Any], steps: np.ndarray) -> dict[str, Any]:
        """Let the step size be searched anew from a first guess."""
        steps = np.clip(steps, _SMALLEST_STEP, _LARGEST_STEP)
        zero = np.zeros(self.chains)
        averaging = np.stack([np.log(steps), zero, zero, zero, np.log(10.0 * steps)], axis=1)
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
        if final or window >= 2:
            # Earlier, chains may still be on their way.
            far = far_chains(newest(state, "density"), newest(state, "positions"))
        metric, settled = learn_metric(state, self.metric, far, may_settle=stage.last)
        new = state
        if far.any() and final:
            new = copy_chains(state, far)
        elif far.any():
            new = self._start_again(problem, state, far, window)
        # In coordinates of the new metric the step size is of the order of one.
        steps = np.exp(np.clip(state["averaging"][:, 1], np.log(0.1), 0.0))
        return self._search_step({**new, **metric_state(metric)}, steps), settled

    def _start_again(
        self, problem: Problem, state: dict[str, Any], lost: np.ndarray, window: int
    ) -> dict[str, Any]:
        """Give lost chains starts of their own anew."""
        fresh = find_starts(
            problem, state["key"], self.chains, self.candidates, self.init_strategy, window + 1
        )
        found = {"x": fresh.positions, "lp": fresh.density, "gradient": fresh.gradients}
        new = {**state, "restarts": state["restarts"] + lost}
        for name, value in found.items():
            new[name] = state[name].copy()
            new[name][lost] = value[lost]
        return new

    # ------------------------------------------------------------------ sampling

    def _values(self, problem: Problem, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Values of the sites that are kept."""
        values = problem.constrain(positions)
        return values if self.keep is None else {k: values[k] for k in values if k in self.keep}

    def _sizes(self, problem: Problem) -> dict[str, int]:
        """Elements of every site that is kept."""
        sites = self._values(problem, np.zeros((1, 1, problem.size)))
        return {name: value[0, 0].size for name, value in sites.items()}

    def _elements(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """All elements of all sites, of shape (chain, draw, element)."""
        return np.concatenate([v.reshape(*v.shape[:2], -1) for v in values.values()], axis=2)

    def _begin_sampling(self, problem: Problem, state: dict[str, Any]) -> dict[str, Any]:
        """No draws yet; those of an earlier round do not count."""
        new = self._enter(problem, state, len(self._stages) - 1)
        if self.store is not None:
            begin = (np.asarray(new[k]) for k in ("x", "log_step", "iteration"))
            new["store_round"] = digest(state["store_round"], *begin)
        return {
            **new,
            "draws": np.asarray(0),
            "sampled": np.asarray(0),
            "seen": np.zeros((self.chains, 0, len(state["watched"]))),
            "seen_density": np.zeros((self.chains, 0)),
            "worst_rhat": np.asarray(np.inf),
            "round": state["round"] + 1,
        }

    def _take_draws(
        self, problem: Problem, state: dict[str, Any], outputs: dict[str, Any]
    ) -> tuple[dict[str, Any], Chunk | None]:
        """Keep a block's draws, and see at the end of a stretch whether there are enough."""
        count, before = outputs["count"], int(state["sampled"])
        kept = np.flatnonzero(np.arange(before + 1, before + count + 1) % self.thin == 0)
        new = {**state, "sampled": state["sampled"] + count, "draws": state["draws"] + len(kept)}
        values = self._values(problem, outputs["position"][:, kept])
        stats = {k: v[:, kept] for k, v in outputs["stats"].items()}
        chunk = self._put_away(problem, state, values)
        chunk |= {**stats, "round": state["round"], "target": state["target"]}
        if self.draws is None:
            seen = self._elements(values)[..., state["watched"]]
            new["seen"] = np.concatenate([state["seen"], seen], axis=1)
            new["seen_density"] = np.concatenate([state["seen_density"], stats["lp"]], axis=1)
        if self._may_raise_target(new) and outputs["stats"]["diverging"].any():
            # These draws stay in the chunks in case the run is stopped before better ones.
            new = self._raise_target(problem, new)
        elif new["left"] <= 0 and self.draws is None:
            new = self._look(problem, new)
        return new, chunk if len(kept) else None

    def _put_away(
        self, problem: Problem, state: dict[str, Any], values: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """A chunk's entries for the draws of the sites, which go to the store where there is one.

        The state is that before these draws.
        """
        if self.store is None:
            return {f"{_SITE}{k}": v for k, v in values.items()}
        if next(iter(values.values())).shape[1]:
            dims = {
                k: fitting_dims(k, v.shape[2:], problem.dims, problem.coords)
                for k, v in values.items()
            }
            self._store(self.store, state).write(values, dims, int(state["draws"]))
        bad = np.asarray(count_non_finite(values))
        return {"non_finite": bad, "store_round": state["store_round"]}

    def _store(self, folder: str | os.PathLike, state: dict[str, Any]) -> DrawStore:
        return DrawStore(pathlib.Path(folder), state["store_run"], state["store_round"])

    def _look(self, problem: Problem, state: dict[str, Any]) -> dict[str, Any]:
        """Go on where there are not enough draws; bring back a chain that is stuck."""
        sampled = {s.name for s in problem.program.latents}
        sizes = self._sizes(problem)
        own = np.repeat([name in sampled for name in sizes], list(sizes.values()))
        found = look(
            state["seen"],
            state["seen_density"],
            own[state["watched"]],
            self.target_ess,
            len(own),
        )
        still = motionless(state["seen"])
        if still.any() and self._may_raise_target(state):
            return self._raise_target(problem, state)
        lost = still
        if found.rhat > _APART and found.rhat > 0.9 * float(state["worst_rhat"]):
            lost = lost | far_chains(state["seen_density"], state["seen"])
        if lost.any() and not lost.all() and not state["copies"].any():
            return self._begin_sampling(problem, copy_chains(state, lost))
        more = min(found.needed, self.max_draws) - int(state["draws"])
        left = np.asarray(max(0, more) * self.thin)
        return {**state, "worst_rhat": np.asarray(found.rhat), "left": left}

    def _may_raise_target(self, state: dict[str, Any]) -> bool:
        return self.target_accept is None and int(state["target"]) + 1 < len(TARGETS)

    def _raise_target(self, problem: Problem, state: dict[str, Any]) -> dict[str, Any]:
        """Settle the step size anew for a higher acceptance, and begin sampling from there."""
        new = self._enter(problem, {**state, "target": state["target"] + 1}, self._settling)
        return self._search_step(new, np.exp(state["log_step"]))
