"""Compiled work of stochastic gradient ascent on the ELBO: blocks of steps, comparisons, draws."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayes.inference.approximation import State
from bayes.inference.ascent import Ascent, Frame, Given
from bayes.inference.densities import (
    evaluations_at_once,
    gradients_at,
    hessian_products,
    largest_intermediate,
)
from bayes.inference.families import Family
from bayes.inference.minibatches import minibatch_gradient, plates_of, prepared_of
from bayes.inference.randomness import Purpose, generator_of
from bayes.normals import Normal, independent, normal_of_covariance
from bayes.precision import double_precision
from bayes.problem import Problem

__all__ = ["WHITENED", "Stream", "Work"]

WHITENED = 500
"""Elements that a flow's coordinates are whitened for by a normal with all correlations; above, by
one without."""
_STEPS, _NUMBERS = 50, 2 * 10**7
"""Steps of a block, and numbers that they may go through."""
_PRODUCTS = 50
"""Products of matrices that take as long as one number of a log density."""
_JUDGED, _DRAWN = 128, 256
"""Draws that tell two approximations apart, and draws of a batch in the end."""
_PAIRS = 2
"""Pairs of draws that tell the mean curvature."""
_FLAT = 1e-5
"""Least curvature, in the coordinates of the start, that a metric believes in."""


class Stream(enum.IntEnum):
    """What random numbers of the ascent are for."""

    FAMILY = 0
    BLOCKS = 1
    JUDGEMENT = 2
    START = 3
    CURVATURE = 4


class Work:
    """Compiled functions of a stage.

    Parameters
    ----------
    problem : Problem
        Model and data.
    families : list of Family
        Families of the stages; all but the last are normals that whiten for the next.
    stage : int
        Which of them.
    samples : int
        Draws for each gradient.
    """

    def __init__(
        self, problem: Problem, families: Sequence[Family], stage: int, samples: int
    ) -> None:
        self.problem, self.stage, self.last = problem, stage, stage == len(families) - 1
        self.ascent = Ascent(families[stage], problem.size)
        self.pairs = -(-samples // 2)
        self.plates = plates_of(problem)
        noise = self.ascent.family.noise(problem.size)
        # Without looking at a clock: the numbers that a step goes through stand for its time.
        numbers = 2 * self.pairs * max(_numbers(problem), noise)
        numbers += self.ascent.length * problem.size // _PRODUCTS
        self.steps = int(np.clip(_NUMBERS // numbers, 5, _STEPS))
        self.whitened = stage > 0 and problem.size <= WHITENED
        self.curved = self.ascent.family.curved and problem.size <= WHITENED

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
            state["key"], Purpose.NOISE, Stream.BLOCKS, self.stage, int(state["blocks"])
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
        generator = generator_of(state["key"], Purpose.NOISE, Stream.JUDGEMENT)
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

    def metric(self, state: State) -> np.ndarray:
        """The inverse of the log density's mean curvature under the approximation.

        At the optimum its diagonal is the precisions of a normal of independent elements.
        """
        size = self.problem.size
        if not self.curved:
            return np.zeros((0, 0))
        generator = generator_of(
            state["key"], Purpose.NOISE, Stream.CURVATURE, self.stage, int(state["blocks"])
        )
        noise = np.zeros((1, size))  # many rows leave little to average over
        if not self.plates:
            half = generator.standard_normal((_PAIRS, size))
            noise = np.concatenate([half, -half])
        places = self.draws({**state, "answer": state["params"]}, noise)[0]
        vectors = np.tile(np.diag(state["scale"]), (len(places), 1))
        products = hessian_products(self.problem, np.repeat(places, size, axis=0), vectors)
        hessians = products.reshape(len(places), size, size) * state["scale"]
        hessians = hessians[np.isfinite(hessians).all(axis=(1, 2))]
        if not len(hessians):
            return np.eye(size)
        hessian = hessians.mean(axis=0)
        values, axes = np.linalg.eigh(-0.5 * (hessian + hessian.T))
        return (axes / np.maximum(np.abs(values), _FLAT)) @ axes.T

    def anchor(self, state: State) -> tuple[np.ndarray, np.floating, np.ndarray]:
        """The middle of the approximation, with the log density of all data and its gradient."""
        place = self.draws(
            {**state, "answer": state["params"]},
            np.zeros((1, self.ascent.family.noise(self.problem.size))),
        )[0][0]
        values, slopes = gradients_at(self.problem, place[None])
        return place, values[0], slopes[0]

    def normal(self, state: State) -> Normal:
        """The approximation as a normal; of a flow, the normal that whitens for it."""
        centre, scale = state["centre"], state["scale"]
        own = self.ascent.family.normal(self._params(state))
        if own is not None and scale.ndim == 1:
            return own._replace(mean=centre + scale * own.mean, scale=scale * own.scale)
        if scale.ndim == 1:
            return independent(centre, scale)
        return normal_of_covariance(centre, scale @ scale.T)

    def next_frame(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Centre and scale of the coordinates that the approximation whitens."""
        params = self._params(state)
        centre = state["centre"] + state["scale"] * params["mean"]
        if "factor" in params:
            return centre, state["scale"][:, None] * np.tril(params["factor"])
        return centre, state["scale"] * np.exp(params["log_scale"])

    def _params(self, state: State) -> Any:
        with double_precision():
            return jax.tree.map(np.asarray, self.ascent.unravel(jnp.asarray(state["answer"])))


def _numbers(problem: Problem) -> int:
    """Numbers in the largest intermediate of a gradient."""
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
