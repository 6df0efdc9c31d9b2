"""How heavy a tail is: which moments a parameter may have at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from bayes.diagnostics.ranks import tail_ess

__all__ = ["tail_index"]

_FEWEST = 100


def tail_index(draws: Float[np.ndarray, "chain draw"]) -> float:
    """Pareto k-hat of the heavier tail of a parameter's draws.

    Moments of order 1/k and above do not exist: from 1/2 on there is no variance, from 1 on no
    mean. A mean of draws is not reliable from 0.7 on.

    Parameters
    ----------
    draws : array of shape (chain, draw)
        Draws of one element.

    Returns
    -------
    float
        NaN where there are fewer than 100 draws or 4 of a chain, and where they are not finite or
        do not move.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.
    """
    from arviz_stats.base import array_stats

    if draws.size < _FEWEST or not np.isfinite(draws).all() or np.ptp(draws) == 0:
        return float("nan")
    efficiency = float(tail_ess(draws[..., None])[0]) / draws.size
    if not efficiency > 0:
        return float("nan")
    # ArviZ divides by the draws' sum, which may be anything, for a result that is not used here.
    with np.errstate(all="ignore"):
        try:
            found: Any = array_stats.pareto_khat(draws, r_eff=efficiency)
        except ValueError:  # all draws of a tail are the same
            return float("nan")
    return float(found)
