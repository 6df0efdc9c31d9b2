"""Hamiltonian Monte Carlo with trajectories of a given length."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bayes.errors import SettingsError
from bayes.inference.hamiltonian import Hamiltonian
from bayes.inference.transitions import Point, Transition, hmc_transition

__all__ = ["HMC"]

_MOST_STEPS = 1024


@dataclasses.dataclass(frozen=True)
class HMC(Hamiltonian):
    """Hamiltonian Monte Carlo.

    Parameters
    ----------
    chains, warmup, draws, target_accept, metric, step_size, init_strategy, candidates
        See :class:`bayes.inference.hamiltonian.Hamiltonian`.
    trajectory_length : float
        Mean length of a trajectory in units of the metric; a quarter of a period of a Gaussian by
        default. Each trajectory's length is drawn between half and three halves of it, because a
        fixed one can be periodic (Neal 2011, 5.3.2).

    References
    ----------
    Neal (2011), MCMC using Hamiltonian dynamics.
    """

    name: ClassVar[str] = "hmc"

    trajectory_length: float = float(np.pi / 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (np.isfinite(self.trajectory_length) and self.trajectory_length > 0):
            raise SettingsError(f"trajectory_length must be positive, got {self.trajectory_length}")

    def compile_key(self) -> tuple:
        """The length is a constant of the compiled transition."""
        return (self.trajectory_length,)

    def transition(
        self, potential: Callable, key: Array, point: Point, step_size: Array, depth: Array
    ) -> tuple[Point, Transition]:
        """One transition in whitened coordinates."""
        length_key, move_key = jax.random.split(key)
        length = self.trajectory_length * jax.random.uniform(length_key, minval=0.5, maxval=1.5)
        steps = jnp.ceil(jnp.clip(length / step_size, 1.0, _MOST_STEPS)).astype(jnp.int64)
        return hmc_transition(potential, move_key, point, step_size, steps)
