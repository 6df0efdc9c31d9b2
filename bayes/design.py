"""What is drawn from the prior, and how the data drawn with it reach the program that is fitted.

Where a program runs without its observed arguments, it is run so, and what it draws in their place
is given to it as these arguments, as a user's data would be. Where it does not, because it takes
its size from them or has other uses for them, its observed sites are drawn and then observed.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpyro import handlers

from bayes.columns import Column
from bayes.data import Data
from bayes.errors import DataError, DataWarning, SettingsError, UnsupportedModelError
from bayes.model import Model
from bayes.problem import Problem
from bayes.program import Unobserve
from bayes.reading import read_program
from bayes.structure import site_kind
from bayes.subsampling import Whole

__all__ = ["Design", "observing", "sites_observed", "warnings_of_data_ignored"]


@dataclasses.dataclass(frozen=True)
class _Observing:
    """A program that observes, at some of its sites, what arguments of their own bring."""

    fn: Callable
    sites: tuple[str, ...]

    def __call__(self, **arguments: Any) -> Any:
        values = {site: arguments.pop(_argument(site)) for site in self.sites}
        return handlers.condition(Unobserve(self.fn), data=values)(**arguments)


@dataclasses.dataclass(frozen=True)
class _Unobserving:
    """A program that draws its observed sites."""

    fn: Callable

    def __call__(self, **arguments: Any) -> Any:
        return Unobserve(self.fn)(**arguments)


def _argument(site: str) -> str:
    return f"simulated_{site}"


def observing(model: Model, sites: tuple[str, ...]) -> Model:
    """A model that observes, at some sites, what arguments ``simulated_<site>`` bring."""
    found = copy.copy(model)
    found.fn = _Observing(model.fn, sites)
    return found


def sites_observed(model: Model) -> tuple[str, ...] | None:
    """The sites of a model of :func:`observing`; None of other models."""
    fn = model.fn.fn if isinstance(model.fn, Whole) else model.fn
    return fn.sites if isinstance(fn, _Observing) else None


class Design:
    """Draws of parameters and data, and problems of the data drawn.

    Parameters
    ----------
    model : Model
        The program that is fitted.
    data : dict, pandas.DataFrame, xarray.Dataset or polars.DataFrame
        Covariates and sizes; observed arguments may be left out, and their values are not used.
    simulator : Model, optional
        The program that draws, where it is another one.
    reparam : None, "auto", mapping or callable, optional
        Of the program that draws. It changes no distribution; its sites are drawn, too.

    Attributes
    ----------
    by_site : bool
        Whether the program does not run without its observed arguments.
    observed : dict of str
        By observed site of the program that draws, the argument that brings its value to the
        program that is fitted.
    simulator : Problem
        The program that draws, bound to the design.

    Raises
    ------
    UnsupportedModelError
        Where nothing is observed that could be drawn.
    """

    def __init__(
        self, model: Model, data: Any, simulator: Model | None = None, *, reparam: Any = None
    ) -> None:
        drawn = simulator or model
        drawing = Model(
            drawn.fn,
            dims=drawn.dims,
            coords=drawn.coords,
            reparam=reparam,
            allow_prior=True,
            name=drawn.name,
        )
        if simulator is None:
            given = fitted = Data.read(data, model.signature)
        else:
            with warnings_of_data_ignored():  # of what only one of them takes
                given, fitted = (Data.read(data, m.signature) for m in (drawing, model))
        self._model, self._columns = model, fitted.columns
        free = _as_arguments(drawing, given)
        self.by_site = free is None
        if free is None:
            names = _observed_sites(drawing, given)
            self.observed = {name: _argument(name) for name in names}
            self._model = observing(model, tuple(names))
            drawing.fn = _Unobserving(drawing.fn)
            given, fitted = _without_gaps(given), _without_gaps(fitted)
        else:
            self.observed = free
            unknown = [n for n in free.values() if n not in model.signature.names]
            if unknown and not model.signature.open:
                raise SettingsError(
                    f"{model.signature} does not take '{unknown[0]}', which simulate_with draws"
                )
            given, fitted = _without(given, free.values()), _without(fitted, free.values())
        self._fitted = fitted
        # Observed values that are not used may look like a covariate that does not vary.
        with warnings_of_data_ignored() if self.by_site else contextlib.nullcontext():
            self.simulator = drawing.bind(given, need_observed=False, marginal=False)

    def draw(self, seed: int) -> dict[str, np.ndarray]:
        """Every site of one joint draw of parameters and data.

        Raises
        ------
        UnsupportedModelError
            Where a prior is improper.
        DataError
            Where the data drawn are not finite.
        """
        values = {name: np.asarray(v[0]) for name, v in self.simulator.prior(1, seed).items()}
        for name in self.observed:
            if not np.isfinite(values[name]).all():
                raise DataError(f"the data drawn for '{name}' are not finite")
        return values

    def bind(self, values: Mapping[str, np.ndarray], *, marginal: bool = True) -> Problem:
        """The program that is fitted, bound to the data of a draw.

        Parameters
        ----------
        values : mapping
            Every site of a draw.
        marginal : bool
            Whether discrete latent sites are summed out.
        """
        arguments, columns = dict(self._fitted.arguments), dict(self._fitted.columns)
        for site, argument in self.observed.items():
            value = np.asarray(values[site])
            given = self._columns.get(argument, Column(argument, value))
            columns[argument] = dataclasses.replace(
                given, value=value, static=False, missing=np.zeros(0, int), notes=()
            )
            arguments[argument] = value
        data = Data(arguments, columns, self._fitted.coords, self._fitted.notes)
        problem = self._model.bind(data, marginal=marginal)
        lost = [n for n in self.observed if self.by_site and not _observes(problem, n)]
        if lost:
            raise SettingsError(f"{self._model.name} does not observe '{lost[0]}', which is drawn")
        return problem


def _observes(problem: Problem, name: str) -> bool:
    return name in problem.sites and problem.sites[name].kind == "observed"


def _as_arguments(model: Model, data: Data) -> dict[str, str] | None:
    """By observed site, the argument that is its value; None where that is not to be had."""
    sources = read_program(model.fn, data).sources
    made_of = {a for names in sources.values() for a in names}
    if not made_of <= set(model.signature.optional):
        return None
    absent = [n for n in model.signature.optional if data.arguments.get(n) is None]
    try:
        trace = read_program(model.fn, _without(data, made_of)).trace(0)
    except Exception:  # it has other uses for them
        if not sources:
            raise
        return None
    samples = {n: s for n, s in trace.items() if s["type"] == "sample"}
    kinds = {n: site_kind(s) for n, s in samples.items()}
    found = {name: name for name in _named(absent, made_of, kinds)}
    for site, names in sources.items():
        whole = len(names) == 1 and kinds.get(site) in ("latent", "discrete")
        if not whole or np.shape(data.arguments[names[0]]) != np.shape(samples[site]["value"]):
            return None
        found[site] = names[0]
    if "observed" in kinds.values() or len(set(found.values())) < len(found):
        return None
    if not found:
        _refuse(model, absent, "factor" in kinds.values())
    return found


def _named(absent: list[str], made_of: set[str], kinds: Mapping[str, str]) -> list[str]:
    """Arguments not given that have the name of a site, which would observe them.

    Where some observed argument is given, one that is not given is a parameter.
    """
    return [n for n in absent if not made_of and kinds.get(n) in ("latent", "discrete")]


def _observed_sites(model: Model, data: Data) -> list[str]:
    reading = read_program(model.fn, data)
    samples = {n: s for n, s in reading.trace(0).items() if s["type"] == "sample"}
    kinds = {n: site_kind(s) for n, s in samples.items()}
    made_of = {a for names in reading.sources.values() for a in names}
    absent = [n for n in model.signature.optional if data.arguments.get(n) is None]
    named = _named(absent, made_of, kinds)
    return [n for n, kind in kinds.items() if kind == "observed" or n in named]


def _refuse(model: Model, absent: list[str], factor: bool) -> None:
    """Say why there is nothing to draw data from."""
    if factor:
        raise UnsupportedModelError(
            f"{model.name} has its likelihood in a numpyro.factor, from which no data can be "
            "drawn: write it as numpyro.sample(..., obs=...)"
        )
    which = f"give {', '.join(absent)} (only the shape matters)" if absent else "observe one"
    raise UnsupportedModelError(
        f"{model.name} has no site that is known to be observed: {which}, or name the argument "
        "like the site that observes it"
    )


def _without(data: Data, names: Any) -> Data:
    """The data with some arguments left out."""
    arguments = {n: v for n, v in data.arguments.items() if n not in names}
    columns = {n: c for n, c in data.columns.items() if n not in names}
    return dataclasses.replace(data, arguments=arguments, columns=columns)


def _without_gaps(data: Data) -> Data:
    """The data with no value called missing: what a program masks is drawn like the rest."""
    none = np.zeros(0, int)
    columns = {n: dataclasses.replace(c, missing=none) for n, c in data.columns.items()}
    return dataclasses.replace(data, columns=columns)


@contextlib.contextmanager
def warnings_of_data_ignored() -> Iterator[None]:
    """Ignore what simulated data look like; filters are the process's and not a thread's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        yield
