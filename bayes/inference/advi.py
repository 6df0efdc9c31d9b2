"""Automatic differentiation variational inference: the ELBO climbed by stochastic gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bayes.errors import SettingsError
from bayes.inference.approximation import Approximation, State
from bayes.inference.ascent import BINS, Ascent, Frame, Given, judge, merge
from bayes.inference.climbing import Path, climb, compile_climb
from bayes.inference.densities import (
    densities_at,
    evaluations_at_once,
    gradients_at,
    hessian_products,
)
from bayes.inference.families import Family, FullRank, LowRank, MeanField
from bayes.inference.flows import CouplingFlow
from bayes.inference.minibatches import minibatch_gradient, plates_of, prepared_of
from bayes.inference.randomness import Purpose, generator_of
from bayes.inference.settings import require_positive, require_whole
from bayes.inference.starts import find_starts
from bayes.normals import Normal, independent, normal_of_covariance, push
from bayes.precision import double_precision
from bayes.problem import Problem

__all__ = ["ADVI"]

_FAMILIES: dict[str, Callable[[ADVI], Family]] = {
    "mean_field": lambda method: MeanField(),
    "low_rank": lambda method: LowRank(method.rank),
    "full_rank": lambda method: FullRank(),
    "flow": lambda method: CouplingFlow(method.layers, method.width),
}
_WHITENED = 500
"""Elements that a flow's coordinates are whitened for by a normal with all correlations; above, by
one without."""
_STEPS, _NUMBERS = 50, 2 * 10**7
"""Steps of a block, and numbers that they may go through."""
_PRODUCTS = 50
"""Products of matrices that take as long as one number of a log density."""
_CUT, _ROUGH = 2, 4.0
"""What a step size is divided by, and how much less exact a normal that only whitens may be."""
_JUDGED, _DRAWN = 128, 256
"""Draws that tell two approximations apart, and draws of a batch in the end."""
_LOOKED_AT, _PAIRS = 8, 2
"""Points of a path that may be the start, and pairs of draws that tell how good each is."""
_SKIPPED = 0.05
"""Share of the steps that may be skipped."""
_FLAT = 1e-5
"""Least curvature, in the coordinates of the start, that a metric believes in."""
_OF_FAMILY, _OF_BLOCKS, _OF_JUDGEMENT, _OF_START, _OF_CURVATURE = range(5)


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
        work = _Work(self, problem, 0)
        work.compile()
        count = 1 if plates_of(problem) else self.starts
        found = find_starts(problem, words, count, self.candidates, self.init_strategy)
        paths = climb(problem, found.positions, found.density, found.gradients)
        start = _best(problem, paths, generator_of(words, Purpose.NOISE, _OF_START))
        return self._stage(problem, words, 0, start.mean, start.scale)

    def improve(self, problem: Problem, state: State) -> tuple[State, Float[np.ndarray, " n"]]:
        """Take a block of steps, and judge the round where its bins are full."""
        work = _Work(self, problem, int(state["stage"]))
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
        work = _Work(self, problem, int(state["stage"]))
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
        ascent = _Work(self, problem, int(state["stage"])).ascent
        centre, scale = state["centre"], state["scale"]
        with double_precision():
            params = jax.tree.map(np.asarray, ascent.unravel(jnp.asarray(state["answer"])))
        own = ascent.family.normal(params)
        if own is not None and scale.ndim == 1:
            return own._replace(mean=centre + scale * own.mean, scale=scale * own.scale)
        if scale.ndim == 1:
            return independent(centre, scale)
        return normal_of_covariance(centre, scale @ scale.T)

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
        return [FullRank() if problem.size <= _WHITENED else MeanField(), family]

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
        generator = generator_of(words, Purpose.NOISE, _OF_FAMILY, stage)
        params, optimizer = Ascent(family, problem.size).start(generator)
        last = stage == len(self._stages(problem)) - 1
        pairs = _Work(self, problem, stage).pairs
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

    def _metric(self, problem: Problem, state: State) -> np.ndarray:
        """The inverse of the log density's mean curvature under the approximation.

        At the optimum its diagonal is the precisions of a normal of independent elements.
        """
        size, work = problem.size, _Work(self, problem, int(state["stage"]))
        if not work.curved:
            return np.zeros((0, 0))
        generator = generator_of(
            state["key"], Purpose.NOISE, _OF_CURVATURE, work.stage, int(state["blocks"])
        )
        noise = np.zeros((1, size))  # many rows leave little to average over
        if not work.plates:
            half = generator.standard_normal((_PAIRS, size))
            noise = np.concatenate([half, -half])
        places = work.draws({**state, "answer": state["params"]}, noise)[0]
        vectors = np.tile(np.diag(state["scale"]), (len(places), 1))
        products = hessian_products(problem, np.repeat(places, size, axis=0), vectors)
        hessians = products.reshape(len(places), size, size) * state["scale"]
        hessians = hessians[np.isfinite(hessians).all(axis=(1, 2))]
        if not len(hessians):
            return np.eye(size)
        hessian = hessians.mean(axis=0)
        values, axes = np.linalg.eigh(-0.5 * (hessian + hessian.T))
        return (axes / np.maximum(np.abs(values), _FLAT)) @ axes.T

    def _round(self, problem: Problem, state: State) -> State:
        """The first state of a round; subsamples are corrected at its start from then on."""
        new = {
            **state,
            "bins": np.zeros((BINS, len(state["params"]))),
            "filled": np.asarray(0),
            "in_bin": np.asarray(0),
            "blocks_a_bin": np.asarray(1),
            "apart": np.asarray(np.inf),
            "metric": self._metric(problem, state),
        }
        if "anchor" in state and not plates_of(problem):
            return new
        anchor = state["centre"]
        value, slope = np.zeros(()), np.zeros(problem.size)
        if plates_of(problem):
            work = _Work(self, problem, int(state["stage"]))
            anchor = work.draws(
                {**state, "answer": state["params"]},
                np.zeros((1, work.ascent.family.noise(problem.size))),
            )[0][0]
            values, slopes = gradients_at(problem, anchor[None])
            value, slope = values[0], slopes[0]
            if not (np.isfinite(value) and np.isfinite(slope).all()) and "anchor" in state:
                return new
        return {**new, "anchor": anchor, "anchor_value": value, "anchor_slope": slope}

    def _judged(self, problem: Problem, work: _Work, state: State) -> State:
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
            grown |= {"apart": np.asarray(divergence), "metric": self._metric(problem, state)}
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
        ascent = Ascent(self._stages(problem)[stage], problem.size)
        with double_precision():
            params = jax.tree.map(np.asarray, ascent.unravel(jnp.asarray(state["answer"])))
        centre = state["centre"] + state["scale"] * params["mean"]
        if "factor" in params:
            scale = state["scale"][:, None] * np.tril(params["factor"])
        else:
            scale = state["scale"] * np.exp(params["log_scale"])
        return self._stage(problem, state["key"], stage + 1, centre, scale)


class _Work:
    """Compiled functions of a stage."""

    def __init__(self, method: ADVI, problem: Problem, stage: int) -> None:
        families = method._stages(problem)
        self.problem, self.stage, self.last = problem, stage, stage == len(families) - 1
        self.ascent = Ascent(families[stage], problem.size)
        self.pairs = -(-method.samples // 2)
        self.plates = plates_of(problem)
        noise = self.ascent.family.noise(problem.size)
        # Without looking at a clock: the numbers that a step goes through stand for its time.
        numbers = 2 * self.pairs * max(_numbers(problem), noise)
        numbers += self.ascent.length * problem.size // _PRODUCTS
        self.steps = int(np.clip(_NUMBERS // numbers, 5, _STEPS))
        self.whitened = stage > 0 and problem.size <= _WHITENED
        self.curved = self.ascent.family.curved and problem.size <= _WHITENED

    @property
    def _shapes(self) -> tuple[Given, Any]:
        d, k = self.problem.size, self.ascent.family.noise(self.problem.size)
        params, optimizer = self.ascent.start(np.random.default_rng(0))

        def real(*shape: int) -> Any:
            return jax.ShapeDtypeStruct(shape, np.float64)

        words: Any = jax.ShapeDtypeStruct((self.steps, 2 * self.pairs, 2), np.uint32)
        given = Given(
            real(len(params)),
            real(len(optimizer)),
            real(),
            real(self.steps, self.pairs, k),
            words,
            Frame(real(d), real(d, d) if self.whitened else real(d)),
            real(d, d) if self.curved else real(0, 0),
        )
        if not self.plates:
            return given, self.problem.prepared_shapes
        split = minibatch_gradient(self.problem, self.plates)
        with double_precision():
            prepared = jax.eval_shape(split.prepare, self.problem.arrays)
        return given, (real(d), real(), real(d), prepared)

    def _density(self) -> Callable:
        """Log densities and gradients at the draws of a step."""
        at_once = evaluations_at_once(self.problem, 2 * self.pairs)
        if not self.plates:
            whole = self.problem.program.gradient(self.problem.arrays).run

            def density(x: Any, words: Any, prepared: Any) -> Any:
                return _mapped(lambda p: whole(p[0], prepared), (x, words), at_once)

            return density
        part = minibatch_gradient(self.problem, self.plates).run

        def corrected(x: Any, words: Any, more: Any) -> Any:
            anchor, value, slope, prepared = more

            def one(place: Any) -> Any:
                (here, steep), (there, other) = part((place[0], anchor, place[1]), prepared)
                return here - there + value, steep - other + slope

            return jax.vmap(one)((x, words))

        return corrected

    def compile(self) -> tuple[Any, Any, Any]:
        """Begin to compile blocks, comparisons and draws."""
        program, ascent = self.problem.program, self.ascent
        family = ascent.family
        given, more = self._shapes
        kind = (family, self.steps, self.pairs, self.plates, self.whitened)
        density = self._density()
        block = program.compile_ahead(
            ("advi block", *kind), lambda g, m: ascent.block(g, density, m), given, more
        )
        flat = self.ascent.length
        k = family.noise(self.problem.size)

        def real(*shape: int) -> Any:
            return jax.ShapeDtypeStruct(shape, np.float64)

        compare = program.compile_ahead(
            ("advi compare", family), ascent.compare, real(2, flat), real(4, flat), real(_JUDGED, k)
        )
        draws = program.compile_ahead(
            ("advi draws", family, self.whitened),
            ascent.draws,
            real(flat),
            real(_DRAWN, k),
            given.frame,
        )
        return block, compare, draws

    def block(self, state: State) -> dict[str, np.ndarray]:
        """A block of steps."""
        generator = generator_of(
            state["key"], Purpose.NOISE, _OF_BLOCKS, self.stage, int(state["blocks"])
        )
        k = self.ascent.family.noise(self.problem.size)
        noise = generator.standard_normal((self.steps, self.pairs, k))
        words = generator.integers(2**32, size=(self.steps, 2 * self.pairs, 2), dtype=np.uint32)
        random: tuple[Any, Any] = (noise, words)
        frame = Frame(state["centre"], state["scale"])
        given = Given(
            state["params"],
            state["optimizer"],
            state["step_size"],
            *random,
            frame,
            state["metric"],
        )
        run = self.compile()[0].result()
        more: Any = self.problem.prepared if not self.plates else None
        if self.plates:
            more = (
                state["anchor"],
                state["anchor_value"],
                state["anchor_slope"],
                prepared_of(self.problem, self.plates),
            )
        with double_precision():
            return jax.tree.map(np.asarray, run(given, more))

    def compare(self, state: State, pair: np.ndarray, bins: np.ndarray) -> tuple[float, float]:
        """How far two sets of parameters are apart, and whether the bins drift."""
        generator = generator_of(state["key"], Purpose.NOISE, _OF_JUDGEMENT)
        half = generator.standard_normal(
            (_JUDGED // 2, self.ascent.family.noise(self.problem.size))
        )
        with double_precision():
            found = self.compile()[1].result()(pair, bins, np.concatenate([half, -half]))
        return float(found[0]), float(found[1])

    def draws(self, state: State, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of noise, and the log density of the approximation there."""
        run, count = self.compile()[2].result(), len(noise)
        padded = np.resize(noise, (-(-count // _DRAWN) * _DRAWN, noise.shape[1]))
        frame = Frame(state["centre"], state["scale"])
        with double_precision():
            found = [
                jax.tree.map(np.asarray, run(state["answer"], part, frame))
                for part in np.split(padded, len(padded) // _DRAWN)
            ]
        positions, log_q = (np.concatenate(v)[:count] for v in zip(*found, strict=True))
        return positions, log_q


def _numbers(problem: Problem) -> int:
    """Numbers in the largest intermediate of a gradient."""
    from bayes.inference.densities import largest_intermediate

    largest = largest_intermediate(problem)
    for _, size, part in plates_of(problem):
        largest = -(-largest * part // size)
    return largest


def _mapped(run: Callable, rows: Any, at_once: int) -> Any:
    """A function of a row at all rows, some at once."""
    count = len(jax.tree.leaves(rows)[0])
    if at_once >= count:
        return jax.vmap(run)(rows)
    return jax.lax.map(run, rows, batch_size=at_once)


def _latest(state: State) -> np.ndarray:
    """The average of the second half of a round that has not ended, or the iterate."""
    filled = int(state["filled"])
    if filled < 2:
        return state["params"]
    return state["bins"][filled // 2 : filled].mean(axis=0)


def _best(problem: Problem, paths: list[Path], generator: np.random.Generator) -> Normal:
    """The independent normal at a point of the paths that has the highest ELBO.

    The last point need not be it: where the density rises without bound, there is no mass. With
    many rows, which a program takes subsamples of, it is.
    """
    half = generator.standard_normal((_PAIRS, problem.size))
    z = np.concatenate([half, -half])

    def best(chosen: list[tuple[Path, int]]) -> tuple[Path, int]:
        means = np.stack([path.positions[i] for path, i in chosen])
        scales = np.sqrt(np.stack([path.diagonals[i] for path, i in chosen]))
        moves = push(independent(means, scales), np.broadcast_to(z, (len(means), *z.shape)))
        places = (means[:, None, :] + moves).reshape(-1, problem.size)
        lp = densities_at(problem, places).reshape(len(means), -1)
        elbo = lp.mean(axis=1) + np.log(scales).sum(axis=1)
        if not np.isfinite(elbo).any():
            elbo = np.array([path.densities[i] for path, i in chosen])
        return chosen[int(np.argmax(np.where(np.isfinite(elbo), elbo, -np.inf)))]

    if plates_of(problem):
        return independent(paths[0].positions[-1], np.sqrt(paths[0].diagonals[-1]))
    path, i = best([(path, i) for path in paths for i in _spread(0, len(path.positions) - 1)])
    between = len(path.positions) // _LOOKED_AT + 1
    near = _spread(max(i - between, 0), min(i + between, len(path.positions) - 1))
    path, i = best([(path, j) for j in near])
    return independent(path.positions[i], np.sqrt(path.diagonals[i]))


def _spread(first: int, last: int) -> list[int]:
    """Some whole numbers from the first to the last."""
    return np.unique(np.linspace(first, last, _LOOKED_AT).round().astype(int)).tolist()
