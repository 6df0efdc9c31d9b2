"""The no-U-turn sampler."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from jaxtyping import Array

from bayes.errors import SettingsError
from bayes.inference.hamiltonian import Hamiltonian
from bayes.inference.metric import Metric
from bayes.inference.settings import require_whole
from bayes.inference.transitions import Point, Transition, nuts_transition

__all__ = ["NUTS"]


@dataclasses.dataclass(frozen=True)
class NUTS(Hamiltonian):
    """The no-U-turn sampler with multinomial weights.

    Parameters
    ----------
    chains, warmup, draws, target_ess, max_draws, target_accept, metric, step_size, init_strategy, \
    candidates, thin, keep, store
        See :class:`bayes.inference.settings.HamiltonianSettings`.
    max_tree_depth : int
        A trajectory has at most ``2**max_tree_depth`` leapfrog steps.

    References
    ----------
    Hoffman and Gelman (2014), The no-U-turn sampler. Betancourt (2017), A conceptual introduction
    to Hamiltonian Monte Carlo.

    Examples
    --------
    >>> bayes.fit(model, data, method=bayes.NUTS(chains=4, target_accept=0.95))
    """

    name: ClassVar[str] = "nuts"

    max_tree_depth: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("max_tree_depth", self.max_tree_depth)
        if self.max_tree_depth > 20:
            raise SettingsError(f"max_tree_depth must lie in 1..20, got {self.max_tree_depth}")

    @property
    def max_depth(self) -> int:
        """Deepest tree."""
        return self.max_tree_depth

    def compile_key(self) -> tuple:
        """The depth sets the memory of a trajectory."""
        return (self.max_tree_depth,)

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
        return nuts_transition(
            density, metric, point, momentum, seed, step, depth, self.max_tree_depth
        )
