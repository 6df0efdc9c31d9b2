"""SimulationBank: simulations are drawn once, and those most like the data are looked up."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array

from bayes.checkpoint import Checkpoint
from bayes.errors import SettingsError
from bayes.inference.settings import require_whole
from bayes.precision import single_precision
from bayes.surrogates.amortizer import Amortizer
from bayes.surrogates.bank_drawing import Source, distance_limit, draw_bank, summary_scales
from bayes.surrogates.bank_network import SummaryNetwork
from bayes.surrogates.bank_summaries import lessons_of, require_vector, sizes_of
from bayes.surrogates.ground import Ground
from bayes.surrogates.simulator import Simulator
from bayes.surrogates.trained_bank import TrainedBank, fewest_neighbours
from bayes.surrogates.training import Schedule, Trained, train

__all__ = ["SimulationBank"]

_LEARNING = 0.7
"""Share of a budget that is for the summaries; the rest is for the bank."""


@dataclasses.dataclass(frozen=True)
class SimulationBank(Amortizer):
    """A bank of simulations, looked up by summaries of the data.

    Parameters and data are drawn from the program and kept as parameters and summaries. For a data
    set the simulations with the nearest summaries are weighted by their distance and moved by a
    local-linear regression; a mixture of normals is fitted to them. There is little to train, and a
    new prior is a matter of weights; but with many unknowns the nearest are not near, and more is
    left to the exact density to correct than with a :class:`DistributionTransformer`.

    Parameters
    ----------
    simulations : int
        Simulations in the bank.
    neighbours : int
        Simulations that are used for a data set.
    components : int
        Components of the mixture that is fitted to them.
    summaries : callable, optional
        From a dict of observed values by site, and a dict of leaves of the arguments by name, to a
        vector, in JAX. Data sets then all have the number of rows of ``bayes.amortize``, and the
        bank cannot be saved. By default summaries are learned: predictions of the posterior mean of
        every unknown, by a network.
    steps : int
        Steps of training of learned summaries.
    learning_rate : float
        Largest step size of that.

    References
    ----------
    Ezhov et al. (2022), A for-loop is all you need, arXiv 2205.04550. Beaumont, Zhang and Balding
    (2002), Approximate Bayesian computation in population genetics. Fearnhead and Prangle (2012),
    Constructing summary statistics for approximate Bayesian computation.

    Examples
    --------
    >>> bank = bayes.amortize(schools, data, bayes.SimulationBank(), seed=0)
    >>> post = bayes.fit(schools, other_data, method=bank)
    """

    name: ClassVar[str] = "simulation_bank"

    simulations: int = 50_000
    neighbours: int = 500
    components: int = 4
    summaries: Callable | None = None
    steps: int = 2000
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        for field in ("simulations", "neighbours", "components", "steps"):
            require_whole(field, getattr(self, field))
        if self.neighbours >= self.simulations:
            raise SettingsError(
                f"neighbours={self.neighbours} are to be fewer than the "
                f"{self.simulations} simulations"
            )
        if self.summaries is not None and not callable(self.summaries):
            raise SettingsError(
                "summaries is None, for learned ones, or a function from observed values and "
                f"arguments to a vector; got {type(self.summaries).__name__}"
            )
        if not 0.0 < self.learning_rate < 1.0:
            raise SettingsError(f"learning_rate is between 0 and 1, got {self.learning_rate!r}")

    def train(
        self,
        simulator: Simulator,
        key: Array,
        *,
        budget: float | None = None,
        checkpoint: Checkpoint | None = None,
        progress: bool | None = None,
    ) -> TrainedBank:
        """Learn summaries on fresh draws of a simulator, and draw the bank."""
        began = time.perf_counter()
        pilot, weights, run, after = jax.random.split(key, 4)
        ground = Ground.of(simulator, pilot, self.components)
        sizes = sizes_of(ground.layout, len(ground.location))
        self._require_neighbours(simulator, ground)
        trained = None
        if self.summaries is None:
            with single_precision():
                network = SummaryNetwork(weights, sizes)
            trained = train(
                network,
                lessons_of(simulator, ground),
                Schedule(self.steps, self.learning_rate),
                run,
                budget=None if budget is None else _LEARNING * budget,
                checkpoint=checkpoint,
                progress=progress,
                name=self.name,
            )
        network = None if trained is None else trained.network
        until = None if budget is None else began + budget
        source = Source(simulator, ground, network, self.summaries)
        least = 4 * self.neighbours
        bank, stopped = draw_bank(source, self.simulations, after, least=least, until=until)
        centre, spread = summary_scales(bank, learned=network is not None)
        scaled = ((bank.summaries - centre) / spread).astype(np.float32)
        return TrainedBank(
            positions=bank.positions,
            summaries=scaled,
            log_prior=bank.log_prior,
            centre=centre,
            spread=spread,
            neighbours=self.neighbours,
            limit=distance_limit(scaled, self.neighbours),
            ground=ground,
            training=self._record(trained, len(scaled), time.perf_counter() - began, stopped),
            network=network,
            sizes=None if network is None else sizes,
            given=self.summaries,
        )

    def _record(
        self, trained: Trained | None, simulations: int, seconds: float, stopped: str | None
    ) -> dict[str, Any]:
        return {
            "settings": self.settings(),
            "simulations": simulations,
            "steps": 0 if trained is None else trained.steps,
            "seconds": seconds,
            "loss": [] if trained is None else trained.loss,
            "interrupted": stopped if trained is None else trained.interrupted or stopped,
        }

    def _require_neighbours(self, simulator: Simulator, ground: Ground) -> None:
        d = len(ground.location)
        count = d + simulator.resizable
        if self.summaries is not None:
            count = require_vector(self.summaries, ground, simulator)
        least = fewest_neighbours(count, d)
        if self.neighbours < least:
            raise SettingsError(
                f"neighbours={self.neighbours}: {count} summaries of {d} unknowns need {least} "
                "neighbours at least; take more of them, or fewer summaries"
            )
