"""Ranks of true values among nearly independent draws of a posterior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from numpyro import handlers
from numpyro.infer.util import compute_log_probs

from bayes.design import Design
from bayes.errors import DataError, SettingsError

__all__ = ["DRAWS", "FIELDS", "compare", "log_likelihood", "spread_out"]

DRAWS = 99
"""Draws that a truth is ranked among: ranks in 0..99 fall into bins of equal width."""
FIELDS = ("rank", "truth", "mean", "sd", "below")
"""What :func:`compare` gives."""
_AT_ONCE = 25


def spread_out(count: int, rng: np.random.Generator) -> np.ndarray:
    """Places of the draws to rank among, as far from each other as can be.

    Draws of a fit that passes its checks, 400 effective ones at least, are nearly independent at
    that distance.
    """
    if count < DRAWS:
        raise SettingsError(f"the method gave {count} draws; calibration takes {DRAWS} at least")
    return ((np.arange(DRAWS) + rng.random()) * (count / DRAWS)).astype(int)


def compare(
    truth: np.ndarray, thinned: np.ndarray, draws: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """A record's values for one quantity; equal values are put in random order."""
    truth, thinned, draws = (v.reshape(len(v), -1).astype(float) for v in (truth, thinned, draws))
    if np.isnan(truth).any() or np.isnan(thinned).any():
        raise DataError("a quantity to be ranked is not a number")
    ties = (thinned == truth).sum(axis=0)
    with np.errstate(all="ignore"):
        return {
            "rank": (thinned < truth).sum(axis=0) + rng.integers(0, ties + 1),
            "truth": truth[0],
            "mean": draws.mean(axis=0),
            "sd": draws.std(axis=0, ddof=1),
            "below": (draws < truth).mean(axis=0) + 0.5 * (draws == truth).mean(axis=0),
        }


def log_likelihood(
    design: Design, data: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Log density of the data at every draw, by the program that drew them.

    By the program that is fitted, it would not show what that leaves out.
    """
    program = design.simulator.program
    observed = tuple(design.observed)

    def one(draw: Any, arrays: Any, data: Any) -> Any:
        seeded = handlers.seed(program.fn, jax.random.key(0))
        parts, _ = compute_log_probs(seeded, (), program.arguments(arrays), {**draw, **data})
        return sum(parts[n] for n in observed)

    def at_every_draw(draws: Any, arrays: Any, data: Any) -> Any:
        return jax.lax.map(lambda draw: one(draw, arrays, data), draws, batch_size=_AT_ONCE)

    run = program.once(("log likelihood", observed), lambda: jax.jit(at_every_draw))
    with jax.numpy_rank_promotion("allow"):
        found = run(dict(values), design.simulator.arrays, {n: data[n] for n in observed})
    return np.asarray(found)
