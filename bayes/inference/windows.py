"""The end of a warm-up window: a new metric from all chains, and lost chains brought back."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayes.inference.metric import Metric, estimate_metric
from bayes.inference.warmup import is_settled

__all__ = [
    "copy_chains",
    "empty_window",
    "learn_metric",
    "metric_of",
    "metric_state",
    "newest",
    "next_window",
    "remember",
]

_WINDOW_NUMBERS = 10**7
_STRAY, _ARRIVED = 20.0, 0.98
_DRAWS = (
    "window_positions",
    "window_gradients",
    "window_density",
    "window_steps",
    "window_acceptance",
)


def metric_state(metric: Metric) -> dict[str, np.ndarray]:
    """A metric as entries of a sampler's state."""
    return {f"metric_{name}": np.asarray(value) for name, value in metric._asdict().items()}


def metric_of(state: dict[str, Any]) -> Metric:
    """The metric in a sampler's state."""
    return Metric(*(state[f"metric_{name}"] for name in Metric._fields))


def empty_window(chains: int, dimension: int) -> dict[str, np.ndarray]:
    """Entries of a sampler's state at the beginning of a window."""
    return {
        "window_positions": np.zeros((chains, 0, dimension)),
        "window_gradients": np.zeros((chains, 0, dimension)),
        "window_density": np.zeros((chains, 0)),
        "window_steps": np.zeros((chains, 0)),
        "window_acceptance": np.zeros((chains, 0)),
        "window_old": np.asarray(0),
    }


def next_window(state: dict[str, Any]) -> dict[str, np.ndarray]:
    """Entries at the beginning of another window: the draws of the last one are kept for it."""
    old = int(state["window_old"])
    kept = {name: state[name][:, old:] for name in _DRAWS}
    return {**kept, "window_old": np.asarray(kept["window_density"].shape[1])}


def newest(state: dict[str, Any], name: str) -> np.ndarray:
    """Positions, gradients or densities of the present window alone."""
    return state[f"window_{name}"][:, int(state["window_old"]) :]


def remember(state: dict[str, Any], outputs: dict[str, Any], length: int) -> dict[str, Any]:
    """The state with a block's draws, thinned where the window would not fit in memory.

    Parameters
    ----------
    state : dict
        The sampler's state after the block.
    outputs : dict
        What the block gave.
    length : int
        Iterations of the window.
    """
    chains, count, dimension = outputs["position"].shape
    every = max(1, int(np.ceil(chains * length * dimension / _WINDOW_NUMBERS)))
    done = int(length - state["left"])
    kept = [i for i in range(count) if (done - count + i) % every == 0]
    new = {
        "window_positions": outputs["position"][:, kept],
        "window_gradients": outputs["gradient"][:, kept],
        "window_density": outputs["stats"]["lp"][:, kept],
        "window_steps": outputs["stats"]["step_size"][:, kept],
        "window_acceptance": outputs["stats"]["acceptance_rate"][:, kept],
    }
    return {**state, **{k: np.concatenate([state[k], v], axis=1) for k, v in new.items()}}


def learn_metric(
    state: dict[str, Any], kind: str, far: np.ndarray, *, may_settle: bool
) -> tuple[Metric, bool]:
    """The metric that a window and the one before it teach, and whether the warm-up has settled.

    Parameters
    ----------
    state : dict
        The sampler's state at the end of the window.
    kind : str
        Kind of metric.
    far : array of bool, shape (chain,)
        Chains that are not to be learned from.
    may_settle : bool
        Whether to see if it has settled.
    """
    metric = metric_of(state)
    # The beginning of a window still travels; the rest is nearer to the posterior.
    begin = (int(state["window_old"]) or state["window_density"].shape[1]) // 3
    dimension = state["window_positions"].shape[2]
    x = state["window_positions"][~far, begin:].reshape(-1, dimension)
    g = state["window_gradients"][~far, begin:].reshape(-1, dimension)
    density = newest(state, "density")
    # What is far below where the chains are at the end, they have only passed on their way.
    here = np.median(density[~far, -max(1, density.shape[1] // 4) :])
    lowest = here - _STRAY - dimension
    near = state["window_density"][~far, begin:].reshape(-1) > lowest
    near &= np.isfinite(g).all(axis=1)
    x, g = x[near], g[near]
    if len(x) < 10:
        return metric, False
    arrived = not far.any() and bool((density > lowest).mean() > _ARRIVED)
    settled = may_settle and arrived and is_settled(metric, kind, x, g, density)
    return estimate_metric(kind, x, g, full=metric.full), settled


def copy_chains(state: dict[str, Any], lost: np.ndarray) -> dict[str, Any]:
    """The state with lost chains put where others are."""
    new = {**state, "copies": state["copies"] + lost}
    source = np.resize(np.flatnonzero(~lost), int(lost.sum()))
    for name in ("x", "lp", "gradient"):
        new[name] = state[name].copy()
        new[name][lost] = state[name][source]
    return new
