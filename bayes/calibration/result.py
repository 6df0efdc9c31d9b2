"""Calibration: what a run of simulations says of a program and a method."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.calibration.judgement import (
    LEVEL,
    LEVELS,
    contraction_table,
    coverage_table,
    uniformity_table,
)
from bayes.calibration.ranks import DRAWS, FIELDS
from bayes.calibration.simulation import Quantity, Record
from bayes.errors import SettingsError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["FEWEST", "Calibration"]

FEWEST = 20
"""Simulations without which there is no verdict."""
_MOST_FAILED = 0.1
_NAMED = 5


@dataclasses.dataclass(frozen=True, repr=False)
class Calibration:
    """Ranks of true values among posterior draws, over simulations, and what they say.

    Fits that did not pass their checks are ranked like the others; those that raised have no ranks.

    Parameters
    ----------
    model, method : str
        Names.
    exact : bool
        Whether the method's draws tend to the posterior.
    seed : int
        The run's seed.
    simulations : int
        How many were asked for.
    quantities : tuple of Quantity
        What was ranked.
    coords : mapping
        Labels by dimension.
    records : tuple of Record
        What was done, by number.
    interrupted : str or None
        ``"keyboard"`` where the run was stopped.
    seconds : float
        Wall time of this call.
    """

    model: str
    method: str
    exact: bool
    seed: int
    simulations: int
    quantities: tuple[Quantity, ...]
    coords: Mapping[str, np.ndarray]
    records: tuple[Record, ...]
    interrupted: str | None
    seconds: float

    # --------------------------------------------------------------------- numbers

    @functools.cached_property
    def labels(self) -> list[str]:
        """Names of the ranked elements, such as ``theta[3]``."""
        return [label for q in self.quantities for label in _labels(q, self.coords)]

    @functools.cached_property
    def _ranked(self) -> list[Record]:
        return [r for r in self.records if r.values]

    @functools.cached_property
    def _values(self) -> dict[str, np.ndarray]:
        """Every field of the records, of shape (simulation, element)."""
        found = {f: np.stack([r.values[f] for r in self._ranked]) for f in FIELDS}
        with np.errstate(all="ignore"):
            found["z"] = (found["truth"] - found["mean"]) / found["sd"]
            prior = found["truth"].var(axis=0, ddof=1)
            found["contraction"] = 1 - np.square(found["sd"]) / prior
        return found

    @functools.cached_property
    def ranks(self) -> xr.Dataset:
        """Ranks in 0..99 by quantity, of dims (simulation, ...)."""
        return self._dataset("rank")

    @functools.cached_property
    def truth(self) -> xr.Dataset:
        """True values by quantity, of dims (simulation, ...)."""
        return self._dataset("truth")

    @functools.cached_property
    def uniformity(self) -> pd.DataFrame:
        """By element: p values of two tests of uniform ranks, and what they come to.

        ``p_chi2`` over bins, ``p_ecdf`` of the whole distribution function, ``p_adjusted`` for
        both and for the number of elements; ``ok`` where that is at least 0.01, else ``shape``
        says how the posteriors are wrong.
        """
        return uniformity_table(self.labels, self._values["rank"], DRAWS)

    @functools.cached_property
    def coverage(self) -> pd.DataFrame:
        """By element: share of truths in the central intervals of 50, 80, 90 and 95 %."""
        return coverage_table(self.labels, self._values["below"])

    @functools.cached_property
    def contraction(self) -> pd.DataFrame:
        """By element: mean and standard deviation of z scores, and the median contraction."""
        return contraction_table(self.labels, self._values["z"], self._values["contraction"])

    @property
    def failures(self) -> dict[int, str]:
        """Fits that raised or did not pass their checks, by the simulation's number."""
        return {r.number: r.failure for r in self.records if r.failure}

    def _dataset(self, field: str) -> xr.Dataset:
        import xarray as xr

        stops = np.cumsum([int(np.prod(q.shape, dtype=int)) for q in self.quantities])
        parts = np.split(self._values[field], stops[:-1], axis=1)
        variables = {
            q.name: (("simulation", *q.dims), part.reshape(len(part), *q.shape))
            for q, part in zip(self.quantities, parts, strict=True)
        }
        numbers = [r.number for r in self._ranked]
        return xr.Dataset(variables, coords={"simulation": numbers, **self.coords})

    # --------------------------------------------------------------------- verdict

    @property
    def ok(self) -> bool:
        """Whether all ranks look uniform and at most a tenth of the fits failed."""
        return bool(self.uniformity["ok"].all()) and not self._too_many_failed

    @property
    def _too_many_failed(self) -> bool:
        return len(self.failures) > _MOST_FAILED * len(self.records)

    @property
    def verdict(self) -> str:
        """One paragraph in words."""
        table, done = self.uniformity, len(self._ranked)
        bad = table.loc[~table["ok"]].sort_values(by="p_adjusted")
        cut = f", stopped early ({self.interrupted})" if self.interrupted else ""
        base = f"{done} simulations{cut}, false alarms in about {LEVEL:.0%} of runs"
        if bad.empty:
            head = "calibrated" if self.ok else "not to be judged"
            text = f"{head}: ranks of all {len(table)} elements are uniform ({base})"
        else:
            named = "; ".join(self._describe(str(name)) for name in bad.index[:_NAMED])
            rest = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
            text = (
                f"not calibrated: {len(bad)} of {len(table)} elements ({base}): {named}{rest}. "
                f"{self._advice}"
            )
        return f"{text}. {self._failed}" if self.failures else text

    def _describe(self, label: str) -> str:
        shape, covered = self.uniformity.loc[label, "shape"], self.coverage.loc[label, "90%"]
        return f"{label}: posteriors are {shape}, 90 % intervals hold {covered:.0%} of the truths"

    @property
    def _advice(self) -> str:
        program = (
            "the log density is not that of what the program draws (look at factors, transforms "
            "and the rows and scale of the likelihood)"
        )
        if self._too_many_failed:
            return "Fits that fail their checks are the likely reason: see to those first"
        if self.exact:
            return f"Either {program}, or {self.method} does not reach the posterior"
        return f"The approximation by {self.method} is off, or {program}; method='nuts' tells which"

    @property
    def _failed(self) -> str:
        share = f"{len(self.failures)} of {len(self.records)} fits failed"
        kind, times = Counter(self.failures.values()).most_common(1)[0]
        raised = len(self.records) - len(self._ranked)
        more = f", {raised} of them raised" if raised else ""
        loud = ", more than a tenth" if self._too_many_failed else ""
        return f"{share}{more}{loud} (most often, {times} times: {kind})"

    # ----------------------------------------------------------------------- shown

    def summary(self) -> pd.DataFrame:
        """One row an element: tests, coverage, z scores and contraction."""
        return self.uniformity.join(self.coverage).join(self.contraction)

    def plot(self, elements: Sequence[str] | None = None) -> Figure:
        """Distribution functions of the ranks less that of uniform ones, with simultaneous bands.

        Parameters
        ----------
        elements : sequence of str, optional
            Labels of elements; by default the 16 with the smallest p values.

        Returns
        -------
        matplotlib.figure.Figure
            A curve that leaves its band fails the test of the distribution function, at a level
            for all elements together of 0.01 at most.
        """
        from bayes.calibration.figures import ecdf_figure

        return ecdf_figure(self._columns("rank"), self._chosen(elements), DRAWS)

    def plot_contraction(self, elements: Sequence[str] | None = None) -> Figure:
        """Z scores of the truths against the contraction of the posteriors, for each simulation.

        Parameters
        ----------
        elements : sequence of str, optional
            Labels of elements; by default the 16 with the smallest p values.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from bayes.calibration.figures import contraction_figure

        contraction, z = self._columns("contraction"), self._columns("z")
        return contraction_figure(contraction, z, self._chosen(elements))

    def _columns(self, field: str) -> dict[str, np.ndarray]:
        return dict(zip(self.labels, self._values[field].T, strict=True))

    def _chosen(self, elements: Sequence[str] | None) -> list[str]:
        if elements is None:
            table = self.uniformity
            smallest = table[["p_chi2", "p_ecdf"]].min(axis=1).sort_values(kind="stable")
            worst = set(smallest.index[:16])
            return [label for label in self.labels if label in worst]
        unknown = [label for label in elements if label not in self.labels]
        if unknown:
            raise SettingsError(f"no element '{unknown[0]}'; there are {', '.join(self.labels)}")
        return list(elements)

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the verdict, tables by element, failures and ranks."""
        tables = {
            str(label): {k: _plain(v) for k, v in row.items()}
            for label, row in self.summary().to_dict("index").items()
        }
        ranks = {label: r.tolist() for label, r in self._columns("rank").items()}
        return {
            "model": self.model,
            "method": self.method,
            "seed": self.seed,
            "simulations": self.simulations,
            "done": len(self.records),
            "interrupted": self.interrupted,
            "seconds": self.seconds,
            "ok": self.ok,
            "verdict": self.verdict,
            "level": LEVEL,
            "intervals": list(LEVELS),
            "draws": DRAWS,
            "elements": tables,
            "ranks": ranks,
            "failures": {str(n): text for n, text in self.failures.items()},
        }

    def __repr__(self) -> str:
        return f"Calibration of {self.model} by {self.method}: {self.verdict}"

    def _repr_html_(self) -> str:
        from html import escape

        table = self.summary().to_html(float_format="{:.3g}".format)
        return f"<p>{escape(repr(self))}</p>{table}"


def _labels(quantity: Quantity, coords: Mapping[str, np.ndarray]) -> list[str]:
    if not quantity.shape:
        return [quantity.name]
    sizes = zip(quantity.dims, quantity.shape, strict=True)
    along = [[str(c) for c in coords.get(d, range(n))] for d, n in sizes]
    return [f"{quantity.name}[{', '.join(place)}]" for place in itertools.product(*along)]


def _plain(value: Any) -> Any:
    """A JSON value; None where a number is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
