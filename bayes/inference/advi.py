"""Automatic differentiation variational inference: the ELBO climbed by stochastic gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from bayes.errors import SettingsError
from bayes.inference.advi_work import WHITENED, Stream, Work
from bayes.inference.approximation import Approximation, State
from bayes.inference.ascent import BINS, Ascent, judge, merge
from bayes.inference.climbing import climb, compile_climb
from bayes.inference.families import Family, FullRank, LowRank, MeanField
from bayes.inference.flows import CouplingFlow
from bayes.inference.minibatches import plates_of
from bayes.inference.path_starts import best_place
from bayes.inference.randomness import Purpose, generator_of
from bayes.inference.settings import require_positive, require_whole
from bayes.inference.starts import find_starts
from bayes.normals import Normal
from bayes.problem import Problem

__all__ = ["ADVI"]

_FAMILIES: dict[str, Callable[[ADVI], Family]] = {
    "mean_field": lambda method: MeanField(),
    "low_rank": lambda method: LowRank(method.rank),
    "full_rank": lambda method: FullRank(),
    "flow": lambda method: CouplingFlow(method.layers, method.width),
}
_CUT, _ROUGH = 2, 4.0
"""What a step size is divided by, and how much less exact a normal that only whitens may be."""
_SKIPPED = 0.05
"""Share of the steps that may be skipped."""


@dataclasses.dataclass(frozen=True)
class ADVI(Approximation):
    """The member of a family that is nearest to the posterior: the ELBO is highest.

    Parameters
    ----------
    draws : int
        Draws that are taken in the end.
    family : {"mean_field", "low_rank", "full_rank", "flow"}
        Normals of independent elements, with some correlated directions, or with all correlations,
        on the unconstrained space; or a normalizing flow on coordinates that a normal has whitened.
    rank : int
        Correlated directions of ``"low_rank"``; with as many as elements it is ``"full_rank"``.
    layers, width : int
        Couplings of ``"flow"``, and hidden units of each.
    samples : int
        Draws for each gradient; they come in antithetic pairs, so an odd number is one more.
    steps : int
        Gradient steps at most; a flow has as many again for the normal that whitens.
    learning_rate : float, optional
        Step size of the first round. By default one that suits the family.
    tolerance : float
        How far averages of the iterates may be apart, in standard deviations of an element.
    starts, candidates : int
        Paths that climb to begin with, and candidate starts of each. One path where plates take a
        subsample.
    init_strategy : callable, optional
        One of ``numpyro.infer.initialization``.

    Notes
    -----
    Where plates take a subsample, each gradient is of subsamples, drawn with replacement, corrected
    by the difference of the whole gradient and theirs at a fixed place, the start of the round
    (Johnson and Zhang 2013).
    The log density at the draws, and so the verdict, is of all data.

    References
    ----------
    Kucukelbir, Tran, Ranganath, Gelman and Blei (2017), Automatic differentiation variational
    inference. Roeder, Wu and Duvenaud (2017), Sticking the landing. Welandawe, Andersen, Vehtari
    and Huggins (2022), Robust, automated, and accurate black-box variational inference.

    Examples
    --------
    >>> bayes.fit(model, data, method="advi")
    >>> bayes.fit(model, data, method=bayes.ADVI(family="full_rank"))
    """

    name: ClassVar[str] = "advi"

    family: str = "mean_field"
    rank: int = 10
    layers: int = 6
    width: int = 32
    samples: int = 10
    steps: int = 20_000
    learning_rate: float | None = None
    tolerance: float = 0.05
    starts: int = 4
    candidates: int = 20
    init_strategy: Callable | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.family, str) or self.family not in _FAMILIES:
            raise SettingsError(
                f"family must be one of {', '.join(_FAMILIES)}, got {self.family!r}"
            )
        for name in ("rank", "layers", "width", "samples", "steps", "starts", "candidates"):
            require_whole(name, getattr(self, name))
        require_positive("tolerance", self.tolerance)
        if self.learning_rate is not None:
            require_positive("learning_rate", self.learning_rate)
        if self.init_strategy is not None and not callable(self.init_strategy):
            raise SettingsError(
                "init_strategy must be one of numpyro.infer.initialization, such as "
                f"init_to_median(), got {self.init_strategy!r}"
            )

    # ------------------------------------------------------------------ contract

    def begin(self, problem: Problem, words: np.ndarray) -> State:
        """Climb, and take the point of the paths where a normal has the highest ELBO."""
        compile_climb(problem)
        problem.compile_prepare()
        work = self._work(problem, 0)
        work.compile()
        count = 1 if plates_of(problem) else self.starts
        found = find_starts(problem, words, count, self.candidates, self.init_strategy)
        paths = climb(problem, found.positions, found.density, found.gradients)
        start = best_place(problem, paths, generator_of(words, Purpose.NOISE, Stream.START))
        return self._stage(problem, words, 0, start.mean, start.scale)

    def improve(self, problem: Problem, state: State) -> tuple[State, Float[np.ndarray, " n"]]:
        """Take a block of steps, and judge the round where its bins are full."""
        work = self._work(problem, int(state["stage"]))
        out = work.block(state)
        bins, filled = state["bins"].copy(), int(state["filled"])
        bins[filled] += out["mean"] / int(state["blocks_a_bin"])
        in_bin = int(state["in_bin"]) + 1
        full = in_bin == int(state["blocks_a_bin"])
        new = {
            **state,
            "params": out["params"],
            "optimizer": out["optimizer"],
            "bins": bins,
            "filled": np.asarray(filled + full),
            "in_bin": np.asarray(0 if full else in_bin),
            "blocks": state["blocks"] + 1,
            "steps": state["steps"] + work.steps,
            "skipped": state["skipped"] + out["skipped"],
        }
        if out["elbo"] > state["best_elbo"]:
            new |= {"best": out["mean"], "best_elbo": out["elbo"]}
        if int(new["filled"]) == BINS:
            new = self._judged(problem, work, new)
        if int(new["steps"]) >= self.steps and not self.settled(problem, new):
            new = self._ended(problem, {**new, "answer": _latest(new)}, agreed=False)
        return new, np.asarray(out["elbo"])[None]

    def settled(self, problem: Problem, state: State) -> bool:
        """Whether the last stage has ended."""
        return int(state["stage"]) >= len(self._stages(problem)) - 1 and bool(state["ended"])

    def sample(
        self, problem: Problem, state: State, generator: np.random.Generator, count: int
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
        """Draws, and the log density of the approximation there."""
        work = self._work(problem, int(state["stage"]))
        noise = generator.standard_normal((count, work.ascent.family.noise(problem.size)))
        return work.draws(state, noise)

    def converged(self, problem: Problem, state: State) -> str:
        """Why the approximation is not the best of its family."""
        steps, skipped = int(state["steps"]), int(state["skipped"])
        why = []
        if skipped > _SKIPPED * steps:
            why.append(
                f"{skipped} of {steps} steps met a log density or gradient that is not finite, and "
                "were skipped; check the priors and supports, or use method='nuts'"
            )
        if not bool(state["agreed"]) or not bool(state["ended"]):
            why.append(
                f"the averages of the iterates had not settled after {steps} steps; take more "
                "(steps=, samples=), or another method, such as 'nuts'"
            )
        return "; ".join(why)

    def normal(self, problem: Problem, state: State) -> Normal | None:
        """The approximation as a normal; of a flow, the normal that whitens for it."""
        return self._work(problem, int(state["stage"])).normal(state)

    def about(self, problem: Problem, state: State) -> dict[str, Any]:
        """What the ascent came to, as JSON values."""
        plates = {name: [size, part] for name, size, part in plates_of(problem)}
        return {
            "family": self.family,
            "steps_taken": int(state["steps"]),
            "steps_skipped": int(state["skipped"]),
            "rounds": int(state["round"]),
            "last_step_size": float(state["step_size"]),
            **({"subsamples": plates} if plates else {}),
        }

    # -------------------------------------------------------------------- rounds

    def _stages(self, problem: Problem) -> list[Family]:
        """Families in turn: a flow comes after a normal that whitens its coordinates."""
        family = _FAMILIES[self.family](self)
        if isinstance(family, LowRank) and family.rank >= problem.size:
            return [FullRank()]
        if self.family != "flow":
            return [family]
        return [FullRank() if problem.size <= WHITENED else MeanField(), family]

    def _work(self, problem: Problem, stage: int) -> Work:
        return Work(problem, self._stages(problem), stage, self.samples)

    def _stage(
        self,
        problem: Problem,
        words: np.ndarray,
        stage: int,
        centre: np.ndarray,
        scale: np.ndarray,
    ) -> State:
        """The first state of a stage, on coordinates about a centre."""
        family = self._stages(problem)[stage]
        generator = generator_of(words, Purpose.NOISE, Stream.FAMILY, stage)
        params, optimizer = Ascent(family, problem.size).start(generator)
        last = stage == len(self._stages(problem)) - 1
        pairs = self._work(problem, stage).pairs
        rate = family.step(problem.size, pairs)
        rate = self.learning_rate if last and self.learning_rate is not None else rate
        state = {
            "key": words,
            "stage": np.asarray(stage),
            "params": params,
            "optimizer": optimizer,
            "step_size": np.asarray(float(rate)),
            "centre": centre,
            "scale": scale,
            "answer": params,
            "best": params,
            "best_elbo": np.asarray(-np.inf),
            "round": np.asarray(0),
            "blocks": np.asarray(0),
            "steps": np.asarray(0),
            "skipped": np.asarray(0),
            "ended": np.asarray(False),
            "agreed": np.asarray(False),
        }
        return self._round(problem, state)

    def _round(self, problem: Problem, state: State) -> State:
        """The first state of a round; subsamples are corrected at its start from then on."""
        work = self._work(problem, int(state["stage"]))
        new = {
            **state,
            "bins": np.zeros((BINS, len(state["params"]))),
            "filled": np.asarray(0),
            "in_bin": np.asarray(0),
            "blocks_a_bin": np.asarray(1),
            "apart": np.asarray(np.inf),
            "metric": work.metric(state),
        }
        if "anchor" in state and not work.plates:
            return new
        anchor = state["centre"]
        value, slope = np.zeros(()), np.zeros(problem.size)
        if work.plates:
            anchor, value, slope = work.anchor(state)
            if not (np.isfinite(value) and np.isfinite(slope).all()) and "anchor" in state:
                return new
        return {**new, "anchor": anchor, "anchor_value": value, "anchor_slope": slope}

    def _judged(self, problem: Problem, work: Work, state: State) -> State:
        """What becomes of a round whose bins are full."""
        bins, size = state["bins"], problem.size
        tolerance = self.tolerance * (work.ascent.family.rough if work.last else _ROUGH)
        quarters = bins[4:].reshape(2, 2, -1).mean(axis=1)
        divergence, drift = work.compare(state, quarters, bins[4:])
        agree, noisy = judge(divergence, drift, float(state["apart"]), size, tolerance)
        if noisy:
            return self._round(problem, self._cut(state, state["best"]))
        if not agree:
            grown = {"bins": merge(bins), "filled": np.asarray(BINS // 2)}
            grown |= {"apart": np.asarray(divergence), "metric": work.metric(state)}
            return {**state, **grown, "blocks_a_bin": 2 * state["blocks_a_bin"]}
        average = bins[4:].mean(axis=0)
        before, rounds = state["answer"], int(state["round"])
        new = {**state, "answer": average, "round": np.asarray(rounds + 1)}
        if rounds:
            found = work.compare(state, np.stack([before, average]), bins[4:])[0]
            if judge(found, 0.0, np.inf, size, tolerance)[0]:
                return self._ended(problem, new, agreed=True)
        # With a smaller step it takes more of them to come as far.
        length = _CUT * state["blocks_a_bin"]
        return self._round(problem, self._cut(new, average)) | {"blocks_a_bin": length}

    def _cut(self, state: State, params: np.ndarray) -> State:
        """A smaller step from some parameters on, with an optimiser that forgets what it saw."""
        blank = np.zeros_like(state["optimizer"])
        step_size = state["step_size"] / _CUT
        return {**state, "params": params, "optimizer": blank, "step_size": step_size}

    def _ended(self, problem: Problem, state: State, *, agreed: bool) -> State:
        """A stage's last state, or the first of the next."""
        stage = int(state["stage"])
        if stage == len(self._stages(problem)) - 1:
            return {**state, "ended": np.asarray(True), "agreed": np.asarray(agreed)}
        frame = self._work(problem, stage).next_frame(state)
        return self._stage(problem, state["key"], stage + 1, *frame)


def _latest(state: State) -> np.ndarray:
    """The average of the second half of a round that has not ended, or the iterate."""
    filled = int(state["filled"])
    if filled < 2:
        return state["params"]
    return state["bins"][filled // 2 : filled].mean(axis=0)
