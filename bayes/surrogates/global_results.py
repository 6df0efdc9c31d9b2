"""What was found when a learned posterior was held against simulations, in numbers and as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from bayes.diagnostics.verdict import Check, Diagnostics
from bayes.errors import FileError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BINS", "LOG_LIKELIHOOD", "GlobalChecks"]

BINS = 100
"""Bins of equal width that ranks and credibilities are counted in."""
LOG_LIKELIHOOD = "log likelihood"
"""What is ranked besides the elements."""
_SCHEMA = 1
_RANKING = ("p_chi2", "p_ecdf", "p", "p_adjusted", "shift", "spread", "distance")
_COVERAGE = ("50%", "80%", "90%", "95%")
_ELEMENTS = (*_COVERAGE, "z_mean", "z_sd", "contraction", "correlation")
_NUMBERS = ("tarp_distance", "tarp_p", "gain", "gain_error")


@dataclasses.dataclass(frozen=True)
class GlobalChecks:
    """How right a learned posterior is on average over simulated data sets.

    Parameters
    ----------
    simulations, draws : int
        Data sets, and draws of the posterior of each.
    names : tuple of str
        Names of the unconstrained elements.
    ranking : mapping of tuple of float
        By element, and last for the log likelihood where it is known. P values of uniform ranks:
        ``p_chi2``, ``p_ecdf``, both together ``p`` and adjusted over quantities ``p_adjusted``.
        Sizes of departures: ``shift``, mean of the ranks' normal scores, above zero where
        posteriors are too low, in posterior standard deviations; ``spread``, the log of how many
        times too narrow they are, understated from a factor of about 1.5 on, where most truths lie
        beyond all draws; ``distance``, the largest of distribution functions.
    rank_counts : tuple of tuple of int
        Ranks in 100 bins of equal width, by quantity.
    elements : mapping of tuple of float
        By element: coverage of central intervals ``50%``, ``80%``, ``90%`` and ``95%``; mean and
        standard deviation of z scores ``z_mean`` and ``z_sd``; median ``contraction``; and
        ``correlation`` of posterior mean and truth.
    tarp_counts : tuple of int
        Credibilities of the regions that just hold the truth, in 100 bins of equal width.
    tarp_distance, tarp_p : float
        Largest deviation of the expected coverage of regions from their credibility, and its exact
        p value.
    gain, gain_error : float
        Mean of log q(truth | data) - log p(truth) in nats, and its standard error.
    checks : tuple of Check
        ``sbc``, ``coverage``, ``tarp`` and ``recovery``.
    """

    simulations: int
    draws: int
    names: tuple[str, ...]
    ranking: Mapping[str, tuple[float, ...]]
    rank_counts: tuple[tuple[int, ...], ...]
    elements: Mapping[str, tuple[float, ...]]
    tarp_counts: tuple[int, ...]
    tarp_distance: float
    tarp_p: float
    gain: float
    gain_error: float
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return Diagnostics(self.checks).failed

    def __getitem__(self, name: str) -> Check:
        return Diagnostics(self.checks)[name]

    @property
    def verdict(self) -> str:
        """One paragraph in words."""
        return Diagnostics(self.checks).verdict

    @property
    def quantities(self) -> tuple[str, ...]:
        """What was ranked: the elements and, where it is known, the log likelihood."""
        more = len(self.rank_counts) > len(self.names)
        return (*self.names, LOG_LIKELIHOOD) if more else self.names

    @property
    def table(self) -> pd.DataFrame:
        """Tests of ranks, coverage and recovery; of the likelihood there are ranks only."""
        import pandas as pd

        ranking = pd.DataFrame(self.ranking, index=pd.Index(self.quantities, name="quantity"))
        return ranking.join(pd.DataFrame(self.elements, index=pd.Index(self.names)))

    @property
    def expected_coverage(self) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
        """Credibility of regions of all elements together, and how often they hold the truth."""
        steps = np.arange(1, BINS + 1) / BINS
        return steps, np.cumsum(self.tarp_counts) / self.simulations

    def __str__(self) -> str:
        gain = f"gain over the prior {self.gain:.3g} ± {self.gain_error:.2g} nats"
        return "\n".join([self.verdict, *(f"  {check}" for check in self.checks), f"  {gain}"])

    def to_dict(self) -> dict[str, Any]:
        """JSON values; numbers that are not finite are None."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["checks"] = [dataclasses.asdict(check) for check in self.checks]
        return {"schema": _SCHEMA, **_json(values)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GlobalChecks:
        """Back from JSON values; None among numbers is NaN.

        Raises
        ------
        FileError
            Where they are not what :meth:`to_dict` gives.
        """
        try:
            return _read(cls, values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise FileError(f"these are no global checks of a surrogate: {reason}") from error


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _read(cls: type[GlobalChecks], values: Mapping[str, Any]) -> GlobalChecks:
    if values["schema"] != _SCHEMA:
        raise ValueError(f"schema {values['schema']} is not {_SCHEMA}")
    names = tuple(str(name) for name in values["names"])
    simulations, draws = int(values["simulations"]), int(values["draws"])
    counts = tuple(_counts(c, simulations) for c in values["rank_counts"])
    if len(counts) not in (len(names), len(names) + 1):
        raise ValueError(f"{len(counts)} rows of ranks for {len(names)} elements")
    checks = tuple(_check(c) for c in values["checks"])
    return cls(
        simulations=simulations,
        draws=draws,
        names=names,
        ranking={k: _row(values["ranking"][k], len(counts)) for k in _RANKING},
        rank_counts=counts,
        elements={k: _row(values["elements"][k], len(names)) for k in _ELEMENTS},
        tarp_counts=_counts(values["tarp_counts"], simulations),
        checks=checks,
        **{name: _number(values[name]) for name in _NUMBERS},
    )


def _check(values: Mapping[str, Any]) -> Check:
    if not isinstance(values["passed"], bool):
        raise ValueError(f"'passed' is {values['passed']!r}")
    numbers = (_number(values["value"]), _number(values["threshold"]))
    return Check(str(values["name"]), *numbers, values["passed"], str(values["advice"]))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _row(values: Any, length: int) -> tuple[float, ...]:
    if len(values) != length:
        raise ValueError(f"{len(values)} numbers where {length} are expected")
    return tuple(_number(value) for value in values)


def _counts(values: Any, total: int) -> tuple[int, ...]:
    counts = tuple(int(value) for value in values)
    if len(counts) != BINS or sum(counts) != total or min(counts) < 0:
        raise ValueError(f"counts in {len(counts)} bins that add up to {sum(counts)}, not {total}")
    return counts
