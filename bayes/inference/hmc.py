"""Hamiltonian Monte Carlo with trajectories of a given length."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bayes.inference.hamiltonian import Hamiltonian
from bayes.inference.metric import Metric
from bayes.inference.randomness import random_bits, uniform
from bayes.inference.settings import require_positive
from bayes.inference.transitions import Point, Transition, hmc_transition

__all__ = ["HMC"]

_MOST_STEPS = 1024


@dataclasses.dataclass(frozen=True)
class HMC(Hamiltonian):
    """Hamiltonian Monte Carlo.

    Parameters
    ----------
    chains, warmup, draws, target_ess, max_draws, target_accept, metric, step_size, init_strategy, \
    candidates, thin, keep, store
        See :class:`bayes.inference.settings.HamiltonianSettings`.
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
        require_positive("trajectory_length", self.trajectory_length)

    def compile_key(self) -> tuple:
        """The length is a constant of the compiled transition."""
        return (self.trajectory_length,)

    def transition(
        self,
        density: Callable,
        metric: Metric,
        point: Point,
        momentum: Array,
        seed: Array,
        step: Array,
        depth: Array,
    ) -> tuple[Point, Transition]:
        """One transition."""
        share = uniform(random_bits(seed, jnp.zeros((), jnp.int64)))
        length = self.trajectory_length * (0.5 + share)
        steps = jnp.ceil(jnp.clip(length / step, 1.0, _MOST_STEPS)).astype(jnp.int64)
        return hmc_transition(density, metric, point, momentum, seed, step, steps)
