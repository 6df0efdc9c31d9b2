"""Summaries by which data sets are compared: learned ones, and those a user gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayes.errors import SettingsError
from bayes.precision import simulating
from bayes.surrogates.bank_network import SummaryNetwork, SummarySizes
from bayes.surrogates.ground import Ground
from bayes.surrogates.layout import Inputs, Layout, leaves_of
from bayes.surrogates.row_sizes import row_sizes, shortened
from bayes.surrogates.simulator import Simulator
from bayes.surrogates.training import Lesson

__all__ = [
    "Summaries",
    "given_summaries",
    "learned_summaries",
    "lessons_of",
    "require_vector",
    "sizes_of",
]

Summaries = Callable[[dict[str, Array], dict[str, Array]], Array]
"""From observed values by site, and leaves of the arguments by name, to a vector."""

_WIDTH, _LAYERS, _HEADS = 64, 2, 4
_BATCH, _ROWS_A_BATCH = 128, 128
"""Data sets a step, and rows up to which a batch is whole."""
_FARTHEST = 10.0
"""Scales of the prior beyond which the place of a parameter is not learned: tails would rule."""


def sizes_of(layout: Layout, d: int) -> SummarySizes:
    """Sizes of a network that predicts d positions."""
    return SummarySizes(
        unknowns=d,
        sources=tuple(source.size for source in layout.sources),
        rows=tuple(source.rows for source in layout.sources),
        extra=layout.extra_columns.size,
        width=_WIDTH,
        layers=_LAYERS,
        heads=_HEADS,
    )


def learned_summaries(
    network: SummaryNetwork, layout: Layout, inputs: Inputs
) -> Float[Array, "b s"]:
    """Predicted posterior means, and the log of the number of rows where that differs.

    Parameters
    ----------
    network : SummaryNetwork
        Trained by :func:`lessons_of`.
    layout : Layout
        How data are read.
    inputs : Inputs
        A batch of data sets.
    """
    means = network(*layout.features(inputs))
    resizable = [i for i, source in enumerate(layout.sources) if source.resizable]
    counts = inputs.counts[:, resizable[:1]].astype(means.dtype)
    return jnp.concatenate([means, jnp.log(jnp.maximum(counts, 1.0))], axis=1)


def lessons_of(simulator: Simulator, ground: Ground) -> list[Lesson]:
    """Squared errors of predicted positions, whose least expectation is at the posterior mean.

    Fearnhead and Prangle (2012), Constructing summary statistics for approximate Bayesian
    computation: semi-automatic approximate Bayesian computation, Theorem 3.

    Parameters
    ----------
    simulator : Simulator
        What fresh data sets are drawn by.
    ground : Ground
        Coordinates.

    Returns
    -------
    list of Lesson
        One for each number of rows that data sets are drawn with.
    """
    layout = ground.layout

    def lesson_at(rows: int, below: int) -> Lesson:
        batch = int(np.clip(_BATCH * _ROWS_A_BATCH // rows, 8, _BATCH))

        def draw(key: Array) -> tuple[Array, Inputs, Array]:
            first, second = jax.random.split(key)
            keys = jax.random.split(first, batch)
            position, inputs = jax.vmap(lambda k: simulator.draw(k, rows))(keys)
            if simulator.resizable:
                inputs = shortened(inputs, layout, second, rows, below)
            x = jnp.clip((position - ground.location) / ground.scale, -_FARTHEST, _FARTHEST)
            parts = [x, *inputs.tables, inputs.extra]
            fine = jnp.stack([jnp.isfinite(p).reshape(batch, -1).all(1) for p in parts]).all(0)
            # Zeros in place of what is not finite: its gradient would not be, either.
            tables = tuple(jnp.where(fine[:, None, None], t, 0.0) for t in inputs.tables)
            extra = jnp.where(fine[:, None], inputs.extra, 0.0)
            x = jnp.where(fine[:, None], x, 0.0)
            return x, inputs._replace(tables=tables, extra=extra, arrays=()), fine

        def loss(network: SummaryNetwork, batch: tuple[Array, Inputs, Array]) -> Array:
            x, inputs, fine = batch
            error = jnp.square(network(*layout.features(inputs)) - x).mean(1)
            return jnp.where(fine, error, 0.0).sum() / jnp.maximum(fine.sum(), 1)

        return Lesson(draw, loss)

    return [lesson_at(rows, below) for rows, below in row_sizes(simulator)]


# --------------------------------------------------------------------------- given


def _arguments(ground: Ground, inputs: Inputs) -> tuple[dict[str, Array], dict[str, Array]]:
    """Observed values by site and leaves of the arguments of one data set, back from its tables."""
    own = leaves_of(ground.reference.data.arrays)
    observed, leaves = {}, {n: jnp.asarray(v) for n, v in ground.constants.items()}
    for table, source in zip(inputs.tables, ground.layout.sources, strict=True):
        site = ground.reference.sites[source.site]
        kind = np.asarray(own[ground.observed[source.site]]).dtype
        rows, start = site.shape[:1] and (table.shape[0],), 0
        for name, shape, dtype in [
            (None, site.shape, kind),
            *((n, np.shape(own[n]), np.asarray(own[n]).dtype) for n in source.covariates),
        ]:
            stop = start + int(np.prod(shape[1:]))
            value = _typed(table[:, start:stop].reshape(*rows, *shape[1:]), dtype)
            (leaves if name else observed)[name or source.site] = value
            start = stop
    start = 0
    for name in ground.layout.extra:
        shape = np.shape(own[name])
        stop = start + int(np.prod(shape))
        leaves[name] = _typed(inputs.extra[start:stop].reshape(shape), np.asarray(own[name]).dtype)
        start = stop
    return observed, leaves


def _typed(value: Any, dtype: np.dtype) -> Array:
    """Tables are of real numbers: counts and codes as they were."""
    return jnp.asarray(value).astype(jax.dtypes.canonicalize_dtype(dtype))


def given_summaries(summaries: Summaries, ground: Ground, inputs: Inputs) -> Float[Array, " s"]:
    """A user's summaries of one data set.

    Parameters
    ----------
    summaries : callable
        What the user gave.
    ground : Ground
        The program.
    inputs : Inputs
        One data set, with tables of no more rows than there are.
    """
    found = summaries(*_arguments(ground, inputs))
    return jnp.ravel(jnp.asarray(found)).astype(jnp.float32)


def require_vector(summaries: Summaries, ground: Ground, simulator: Simulator) -> int:
    """Size of a user's summaries, found by running them once without numbers.

    Raises
    ------
    SettingsError
        Where they fail, or are no vector.
    """

    def once(key: Array) -> Any:
        _, inputs = simulator.draw(key, simulator.rows)
        return summaries(*_arguments(ground, inputs))

    sites = ", ".join(ground.observed)
    try:
        with simulating():
            found = jax.eval_shape(once, jax.random.key(0))
    except Exception as error:
        raise SettingsError(
            f"summaries(observed, arguments) is given a dict of the values of {sites} and one of "
            f"arguments, in JAX; it failed: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    shape = getattr(found, "shape", None)
    if shape is None or len(shape) > 1 or 0 in shape:
        what = type(found).__name__ if shape is None else f"shape {shape}"
        raise SettingsError(
            f"summaries(observed, arguments) gives one vector, with a number at least; got {what}"
        )
    return int(np.prod(shape))
