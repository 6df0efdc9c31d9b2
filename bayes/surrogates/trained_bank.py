"""A bank of simulations as a method: the nearest ones become a mixture, which is checked."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayes.errors import DataError, FileError, SettingsError
from bayes.inference.settings import require_whole
from bayes.precision import double_precision, simulating, single_precision
from bayes.problem import Problem
from bayes.surrogates.bank_files import (
    BANK_ARRAYS,
    digest_of,
    network_of_arrays,
    require_arrays,
    sizes_in,
)
from bayes.surrogates.bank_network import SummaryNetwork, SummarySizes
from bayes.surrogates.bank_summaries import given_summaries, learned_summaries
from bayes.surrogates.ground import Ground
from bayes.surrogates.layout import Inputs, Layout
from bayes.surrogates.mixtures import Mixture, log_prob
from bayes.surrogates.network_files import arrays_of
from bayes.surrogates.regression import (
    Neighbours,
    effective,
    kernel,
    local_mixture,
    nearest,
    tempered,
)
from bayes.surrogates.surrogate import Proposal, Surrogate

__all__ = ["TrainedBank", "fewest_neighbours"]

_FEWEST = 5
"""Draws for each number that is estimated of them."""


def fewest_neighbours(summaries: int, d: int) -> int:
    """Simulations that slopes and covariances can be estimated of."""
    return _FEWEST * (summaries + d + 1)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedBank(Surrogate):
    """A bank of simulations that :func:`bayes.amortize` has drawn.

    Parameters
    ----------
    positions : array of shape (n, d)
        Parameters, in the coordinates of the ground.
    summaries : array of shape (n, s)
        Summaries of the data, centred and in units of their spread given the parameters.
    log_prior : array of shape (n,)
        Log density of the program's own prior on the flat unconstrained space.
    centre, spread : array of shape (s,)
        Centre and spread of the summaries.
    neighbours : int
        Simulations that are used for a data set. The limit of the distance is for that many.
    limit : float
        Distance to the last neighbour that 99 of 100 data sets of the bank do not exceed.
    ground : Ground
        The program it was drawn from.
    training : dict
        Settings and course of the training, as JSON values.
    network : SummaryNetwork, optional
        What computes learned summaries.
    sizes : SummarySizes, optional
        Sizes of that.
    given : callable, optional
        The user's own summaries.
    """

    name: ClassVar[str] = "simulation_bank"

    # Arrays may be maps of a file: they are read by blocks, and by rows.
    positions: Float[np.ndarray, "n d"] = dataclasses.field(kw_only=True, repr=False)
    summaries: Float[np.ndarray, "n s"] = dataclasses.field(kw_only=True, repr=False)
    log_prior: Float[np.ndarray, " n"] = dataclasses.field(kw_only=True, repr=False)
    centre: Float[np.ndarray, " s"] = dataclasses.field(kw_only=True, repr=False)
    spread: Float[np.ndarray, " s"] = dataclasses.field(kw_only=True, repr=False)
    neighbours: int = dataclasses.field(kw_only=True)
    limit: float = dataclasses.field(kw_only=True)
    ground: Ground = dataclasses.field(kw_only=True, repr=False)
    training: Mapping[str, Any] = dataclasses.field(kw_only=True, repr=False)
    network: SummaryNetwork | None = dataclasses.field(kw_only=True, default=None, repr=False)
    sizes: SummarySizes | None = dataclasses.field(kw_only=True, default=None, repr=False)
    given: Callable | None = dataclasses.field(kw_only=True, default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("neighbours", self.neighbours)
        least = fewest_neighbours(self.summaries.shape[1], self.positions.shape[1])
        if not least <= self.neighbours < len(self.positions):
            raise SettingsError(
                f"neighbours={self.neighbours}: there are {len(self.positions)} simulations, and "
                f"{self.summaries.shape[1]} summaries of {self.positions.shape[1]} unknowns need "
                f"{least} of them at least"
            )

    @property
    def reference(self) -> Problem:
        """The program bound to data drawn from it."""
        return self.ground.reference

    @property
    def components(self) -> int:
        """Components of its mixtures."""
        return self.ground.own_prior.components

    def verify(self, problem: Problem) -> None:
        """Refuse a problem of another program than that of the bank."""
        self.ground.verify(problem, own_prior=self.prior is None)

    # ------------------------------------------------------------------- proposal

    def propose(self, problem: Problem, words: np.ndarray) -> Proposal:
        """A mixture fitted to the nearest simulations, and how near they are."""
        inputs = self.ground.inputs(problem)
        one = inputs
        if self.given is not None:
            # These see the rows that there are, and no padding.
            rows = zip(inputs.tables, inputs.counts, strict=True)
            one = inputs._replace(tables=tuple(table[: int(count)] for table, count in rows))
        query = self._queries(jax.tree.map(lambda v: np.asarray(v)[None], one))[0]
        if not np.isfinite(query).all():
            raise DataError(
                "the summaries of these data are not finite, so that no simulation is near them"
            )
        found = self._nearest(query)
        info: dict[str, Any] = {
            "distance": float(found.distance[-1]),
            "distance_limit": float(self.limit),
            "out_of_range": [
                *self.ground.complaints(problem, inputs),
                *self._complaints_of_rows(inputs),
            ],
        }
        weights = kernel(found.distance)
        if self.prior is not None:
            other = self.prior.mixture(problem, self.components)
            least = fewest_neighbours(self.summaries.shape[1], self.positions.shape[1])
            log_ratios = self._log_ratios(other, found.index)
            weights, power = tempered(weights, log_ratios, float(least))
            # Below one, few of the neighbours lie where the other prior does.
            info["prior_power"] = power
        info["effective_neighbours"] = effective(weights)
        generator = np.random.default_rng(np.asarray(words, np.uint32))
        fitted = self._fitted(query, found.index, weights, generator)
        return Proposal(self.ground.unscaled(fitted), info)

    def mixtures(self, inputs: Inputs) -> Mixture:
        """Mixtures for a batch of data under the program's own prior."""
        found = []
        for query in self._queries(inputs):
            if np.isfinite(query).all():
                near = self._nearest(query)
                generator = np.random.default_rng(0)
                found.append(self._fitted(query, near.index, kernel(near.distance), generator))
            else:
                found.append(Mixture(*(np.full_like(p, np.nan) for p in self.ground.own_prior)))
        return self.ground.unscaled(Mixture(*(np.stack(p) for p in zip(*found, strict=True))))

    def _queries(self, inputs: Inputs) -> Float[np.ndarray, "b s"]:
        """Summaries of a batch of data, as those of the bank are scaled."""
        # What a user gave may have captured arrays, as a program may: in double precision.
        with simulating() if self.network is None else single_precision():
            batch = Inputs(*jax.tree.map(jnp.asarray, tuple(inputs._replace(arrays=()))))
            if self.network is not None:
                found = _learned(self.network, self.ground.layout, batch)
            else:
                found = self._given(batch)
        return (np.asarray(found, float) - self.centre) / self.spread

    @functools.cached_property
    def _given(self) -> Callable[[Inputs], Array]:
        given, ground = self.given, self.ground
        assert given is not None
        return jax.jit(jax.vmap(lambda one: given_summaries(given, ground, one)))

    def _nearest(self, query: Float[np.ndarray, " s"]) -> Neighbours:
        return nearest(self.summaries, np.asarray(query, np.float32), self.neighbours)

    def _fitted(
        self,
        query: Float[np.ndarray, " s"],
        index: Int[np.ndarray, " k"],
        weights: Float[np.ndarray, " k"],
        generator: np.random.Generator,
    ) -> Mixture:
        x = np.asarray(self.positions[index], float)
        away = np.asarray(self.summaries[index], float) - query
        return local_mixture(x, away, weights, self.components, generator)

    def _complaints_of_rows(self, inputs: Inputs) -> list[str]:
        """Given summaries know one number of rows."""
        if self.given is None:
            return []
        return [
            f"site '{source.site}' has {int(count)} rows; where summaries are given, all data sets "
            f"of training have {source.rows}"
            for source, count in zip(self.ground.layout.sources, inputs.counts, strict=True)
            if source.resizable and int(count) < source.rows
        ]

    def _log_ratios(self, other: Mixture, index: np.ndarray) -> Float[np.ndarray, " k"]:
        """Logs of another prior's density over the program's own, at simulations of the bank."""
        flat = self.ground.location + self.ground.scale * self.positions[index].astype(float)
        with double_precision():
            new = np.asarray(log_prob(Mixture(*map(np.asarray, other)), flat))
        return new - self.log_prior[index].astype(float)

    def settings(self) -> dict[str, Any]:
        """What can be set after the training, and a digest of what was learned."""
        known = {name: getattr(self, name) for name in ("draws", "route", "neighbours")}
        known["trained"] = self._digest
        return known if self.prior is None else {**known, "prior": self.prior.describe()}

    @functools.cached_property
    def _digest(self) -> str:
        arrays = {name: getattr(self, name) for name in BANK_ARRAYS}
        return digest_of({**arrays, **self._weights})

    @property
    def _weights(self) -> dict[str, np.ndarray]:
        return {} if self.network is None else arrays_of(self.network)

    # ---------------------------------------------------------------------- files

    def parts(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays by name, and JSON values: everything but the ground and the settings of draws.

        Raises
        ------
        SettingsError
            Where summaries are a function of the user's, which no file can hold.
        """
        if self.network is None or self.sizes is None:
            raise SettingsError(
                "this bank has summaries that were given as a function, which cannot be saved: "
                "train it with learned ones, SimulationBank(summaries=None)"
            )
        arrays = {name: getattr(self, name) for name in BANK_ARRAYS} | self._weights
        values = {
            "sizes": self.sizes._asdict(),
            "neighbours": self.neighbours,
            "limit": self.limit,
            "training": dict(self.training),
            "checks": None if self.checks is None else dict(self.checks),
        }
        return arrays, values

    @classmethod
    def from_parts(
        cls, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], ground: Ground
    ) -> TrainedBank:
        """Back from arrays, which may be maps of a file, and JSON values.

        Raises
        ------
        FileError
            What is missing, or does not fit.
        """
        sizes = sizes_in(values, ground)
        require_arrays(arrays, ground)
        try:
            neighbours, limit = int(values["neighbours"]), float(values["limit"])
            training, checks = dict(values["training"]), values["checks"]
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(f"the values of a bank are not whole: {error!r}") from error
        positions, summaries, log_prior, centre, spread = (arrays[name] for name in BANK_ARRAYS)
        return cls(
            positions=positions,
            summaries=summaries,
            log_prior=log_prior,
            centre=centre,
            spread=spread,
            neighbours=neighbours,
            limit=limit,
            ground=ground,
            training=training,
            network=network_of_arrays(arrays, sizes),
            sizes=sizes,
            checks=checks,
        )


@eqx.filter_jit
def _learned(network: SummaryNetwork, layout: Layout, inputs: Inputs) -> Float[Array, "b s"]:
    return learned_summaries(network, layout, inputs)
