"""Log densities of programs whose plates take a new subsample at each evaluation.

NumPyro's plates draw a subsample without replacement, which takes time in proportion to all rows
where the rows are many. Here its elements are drawn independently, with replacement. The program
scales the likelihood by the ratio of the sizes, so that the estimate of the log density and of its
gradient is unbiased either way; with replacement its variance is larger by N / (N - B).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.primitives import Messenger

from bayes.density import Split, split_by_dependence
from bayes.precision import double_precision
from bayes.problem import Problem
from bayes.program import Program
from bayes.subsampling import subsampled, subsampled_plates

__all__ = ["minibatch_gradient", "minibatch_log_density", "plates_of", "prepared_of"]

Plates = tuple[tuple[str, int, int], ...]
"""Name, size and subsample size of plates."""

_PREPARED: WeakKeyDictionary[Problem, list[Array]] = WeakKeyDictionary()


class _Given(Messenger):
    """A program whose plates have the subsamples that they are given."""

    def __init__(self, fn: Callable, elements: Mapping[str, Array]) -> None:
        super().__init__(fn)
        self.elements = elements

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "plate" and msg["name"] in self.elements:
            msg["value"] = self.elements[msg["name"]]


def plates_of(problem: Problem) -> Plates:
    """Name, size and subsample size of the plates that take a subsample."""
    found = subsampled_plates(problem.model.fn)
    return tuple((name, size, part) for name, (size, part) in sorted(found.items()))


def minibatch_log_density(problem: Problem, plates: Plates) -> Callable:
    """The log density as a function of position, key data and arrays: an unbiased estimate.

    Latent sites within such a plate have values for all elements in the position; those of the
    subsample are taken.
    """
    program = problem.program
    axes = _subsampled_axes(problem, plates)

    def log_density(position: Array, words: Array, arrays: Any) -> Float[Array, ""]:
        keys = jax.random.split(jax.random.wrap_key_data(words), len(plates))
        elements = {
            name: jax.random.randint(key, (part,), 0, size)
            for key, (name, size, part) in zip(keys, plates, strict=True)
        }
        values = program.unpack(position)
        for site, axis, plate in axes:
            values[site] = jnp.take(values[site], elements[plate], axis=axis)
        partial: Program = copy.copy(program)
        partial.fn = _Given(subsampled(program.fn), elements)
        partial.unpack = lambda position: values
        return partial.log_density(position, arrays)

    return log_density


def _subsampled_axes(problem: Problem, plates: Plates) -> list[tuple[str, int, str]]:
    """Latent sites, their axis, and the plate there, for the plates that take a subsample."""
    program, names = problem.program, {name for name, _, _ in plates}
    found: list[tuple[str, int, str]] = []

    def look(arrays: Any) -> None:
        fn = handlers.seed(program.fn, jax.random.key(0))
        with numpyro.validation_enabled(False), jax.numpy_rank_promotion("allow"):
            trace = handlers.trace(fn).get_trace(**program.arguments(arrays))
        for latent in program.latents:
            site = trace[latent.name]
            batch = len(latent.shape) - site["fn"].event_dim
            found.extend(
                (latent.name, batch + frame.dim, frame.name)
                for frame in site["cond_indep_stack"]
                if frame.name in names and latent.shape[batch + frame.dim] == frame.size
            )

    with double_precision():
        jax.eval_shape(look, problem.arrays)
    return found


def minibatch_gradient(problem: Problem, plates: Plates) -> Split:
    """Value and gradient at a position and at an anchor, both on one subsample.

    The split function takes (position, anchor, key data) and gives ``((value, gradient), (value,
    gradient))``. What follows from the data alone is computed once.
    """

    def build() -> Split:
        one = jax.value_and_grad(minibatch_log_density(problem, plates))

        def both(place: tuple[Array, Array, Array], arrays: Any) -> Any:
            position, anchor, words = place
            return one(position, words, arrays), one(anchor, words, arrays)

        vector = jax.ShapeDtypeStruct((problem.size,), np.float64)
        words = jax.ShapeDtypeStruct((2,), np.uint32)
        with double_precision():
            return split_by_dependence(both, (vector, vector, words), problem.arrays)

    return problem.program.once(("minibatch gradient", plates), build)


def prepared_of(problem: Problem, plates: Plates) -> list[Array]:
    """What the gradient on subsamples needs of the data, computed once a problem."""
    if problem not in _PREPARED:
        split = minibatch_gradient(problem, plates)
        run = problem.program.compile_ahead(
            ("minibatch prepare", plates), split.prepare, problem.array_shapes, quickly=True
        )
        with double_precision():
            _PREPARED[problem] = run.result()(problem.arrays)
    return _PREPARED[problem]
