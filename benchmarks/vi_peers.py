"""What peers need beside their own code: NumPyro's density and maps, and importance weights."""

from __future__ import annotations

from typing import Any

import numpy as np

_BATCH = 32
"""Log densities at once: thousands of rows times thousands of draws do not fit in memory."""


class Maps:
    """A NumPyro program with its data as functions of unconstrained draws, compiled once.

    Parameters
    ----------
    program : callable
    data : dict
        Its arguments.
    """

    def __init__(self, program: Any, data: dict[str, Any]) -> None:
        import jax
        from numpyro.infer.util import constrain_fn, potential_energy

        def values(z: dict[str, Any]) -> dict[str, Any]:
            return constrain_fn(program, (), data, z, return_deterministic=True)

        def log_density(z: dict[str, Any]) -> Any:
            return -potential_energy(program, (), data, z)

        self.log_density = log_density
        self._constrain = jax.jit(jax.vmap(values))
        self._densities = jax.jit(lambda z: jax.lax.map(log_density, z, batch_size=_BATCH))

    def constrain(self, z: dict[str, Any]) -> dict[str, np.ndarray]:
        """Values of all sites, deterministic ones included, as one chain."""
        return {k: np.asarray(v)[None] for k, v in self._constrain(z).items()}

    def densities(self, z: dict[str, Any]) -> np.ndarray:
        """Log densities of unconstrained draws."""
        return np.asarray(self._densities(z))


def smoothed_weights(log_p: np.ndarray, log_q: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed weights, which sum to one, and k-hat (Vehtari et al. 2024)."""
    from arviz_stats.base import array_stats

    ratios = np.where(np.isnan(log_p), -np.inf, log_p) - log_q
    if not np.isfinite(ratios).any():
        return np.full(ratios.size, 1.0 / ratios.size), float("nan")
    ratios = np.maximum(ratios - ratios.max(), -1e6)
    weights, khat = array_stats.psislw(-ratios)
    return np.exp(weights), float(khat)


def choose(weights: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of draws by their weights, systematically."""
    marks = (np.arange(count) + np.random.default_rng(seed).uniform()) / count
    edges = np.cumsum(weights)
    return np.minimum(np.searchsorted(edges / edges[-1], marks), len(edges) - 1)
