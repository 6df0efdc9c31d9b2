"""Where values may lie: supports in words, and values judged against them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

__all__ = ["base_distribution", "masked_out", "no_density", "same_support", "support_words"]

_WRAPPERS = (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)

_ADVICE = {
    "Boolean": "0 or 1",
    "Simplex": "shares of at least 0 that sum to 1: divide each row by its sum",
    "Multinomial": "counts of at least 0 whose sum is total_count in each row",
    "Circular": "angles in radians between -pi and pi",
    "Real": "finite numbers",
    "Positive": "greater than 0",
    "Each": "at least 0",
    "EachPositive": "greater than 0",
    "Nonnegative": "at least 0",
    "IntegerNonnegative": "whole numbers of at least 0",
    "UnitInterval": "between 0 and 1",
}


def base_distribution(fn: Any) -> Any:
    """A distribution without what only expands, masks or joins it."""
    while isinstance(fn, _WRAPPERS):
        fn = fn.base_dist
    return fn


def masked_out(fn: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Which observations the program masks, in the shape of the log probability."""
    found = np.zeros(shape, bool)
    while isinstance(fn, _WRAPPERS):
        mask = getattr(fn, "_mask", None) if isinstance(fn, dist.MaskedDistribution) else None
        if mask is not None:
            mask = ~np.asarray(mask)
            try:
                found = found | np.broadcast_to(mask, shape)
            except ValueError:
                # A mask inside of an event: what it leaves of the event is not judged.
                extra = tuple(range(len(shape), mask.ndim))
                found = found | np.broadcast_to(mask.any(axis=extra), shape)
        fn = fn.base_dist
    return found


def same_support(a: Any, b: Any) -> bool:
    """Whether two supports are known to be equal."""
    try:
        return bool(a == b)
    except Exception:
        return False


def support_words(support: Any) -> str:
    """What a value has to be, in words."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    name = type(support).__name__.lstrip("_")
    if name in _ADVICE:
        return _ADVICE[name]
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    whole = "whole numbers " if "Integer" in name else ""
    if low is not None and high is not None:
        codes = "; codes count from 0" if whole and np.all(np.asarray(low) == 0) else ""
        return f"{whole}between {_bound(low)} and {_bound(high)}{codes}"
    if low is not None:
        return f"{whole}at least {_bound(low)}" if "Eq" in name else f"greater than {_bound(low)}"
    if high is not None:
        return f"at most {_bound(high)}" if "Eq" in name else f"less than {_bound(high)}"
    return str(support) or name


def _bound(bound: Any) -> str:
    values = np.unique(np.asarray(bound))
    if len(values) == 1:
        return f"{values[0]:g}"
    return f"the row's own bound ({values[0]:g} to {values[-1]:g})"


def no_density(fn: Any, value: np.ndarray) -> np.ndarray | None:
    """Which observations have a log probability that is not finite; None where it has none.

    A density of zero or infinity at the edge of a support (a Beta at 0, a Gamma at 0) is as useless
    as one outside, though the support may count the edge in.
    """
    try:
        with numpyro.validation_enabled(False), jax.numpy_rank_promotion("allow"):
            return np.asarray(np.logical_not(np.isfinite(np.asarray(fn.log_prob(value)))))
    except NotImplementedError:
        return None
