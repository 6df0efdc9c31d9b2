"""One simulation: parameters and data from the prior, a fit to the data, and ranks of the truth."""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bayes.assembly import judge
from bayes.calibration.ranks import DRAWS, FIELDS, compare, log_likelihood, spread_out
from bayes.compilation import computing
from bayes.design import Design, warnings_of_data_ignored
from bayes.dims import fitting_dims
from bayes.driver import drive
from bayes.errors import (
    DataError,
    NoDrawsError,
    SettingsError,
    UnsupportedModelError,
)
from bayes.method import Draws, Method
from bayes.model import Model
from bayes.problem import Problem

__all__ = ["Bench", "Quantity", "Record", "Task", "run_task", "seeds_of"]

_DRAWN = ("latent", "discrete")
_STARTS = 10
"""Draws of which one at least has to be data that a fit takes."""


@dataclasses.dataclass(frozen=True)
class Quantity:
    """What is ranked: a sampled site, the log likelihood or a statistic of the user's.

    Parameters
    ----------
    name : str
        Its name.
    shape : tuple of int
        Shape of one value.
    dims : tuple of str
        Names of its dimensions.
    """

    name: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Record:
    """What a simulation gave.

    Parameters
    ----------
    number : int
        Which one.
    values : dict of array of shape (element,)
        ``rank`` of the truth among draws of the posterior, ``truth``, ``mean`` and ``sd`` of the
        posterior, and the share of its draws ``below`` the truth. Empty where the fit raised.
    failure : str
        Checks that the fit did not pass, or what it raised; empty where all is well.
    seconds : float
        Wall time.
    """

    number: int
    values: dict[str, np.ndarray]
    failure: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Task:
    """What all simulations of a run share, in a form that can go to another process.

    Parameters
    ----------
    model : Model
        The program that is fitted.
    data : Any
        The design.
    method : Method
        How it is fitted.
    seed : int
        The run's seed.
    simulator : Model, optional
        The program that draws, where it is another one.
    statistics : mapping
        The user's test quantities: functions of a dict with one draw of all sampled sites and the
        data drawn.
    token : str
        Tells this run from others in the same process.
    """

    model: Model
    data: Any
    method: Method
    seed: int
    simulator: Model | None
    statistics: Mapping[str, Callable]
    token: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)


class Bench:
    """Where simulations run: programs bound to the design, compiled once.

    Parameters
    ----------
    task : Task
        What all simulations share.

    Attributes
    ----------
    problem : Problem
        The program that is fitted, bound to the first data drawn that it takes.
    quantities : tuple of Quantity
        What is ranked, in the order of a record's elements.
    coords : dict
        Labels by dimension.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.design = Design(task.model, task.data, task.simulator)
        with warnings_of_data_ignored():  # of the design they have been shown
            self.problem, values = self._first()
        task.method.check(self.problem)
        self._sites = [
            n
            for n, s in self.problem.sites.items()
            if s.kind == "latent" or n in self.problem.drawn_discrete
        ]
        self._require_drawn(values)
        latent = [n for n, s in self.design.simulator.sites.items() if s.kind in _DRAWN]
        # Sites that are summed out, or that the fitted program has not, have no draws.
        self._has_likelihood = set(latent) <= {*self._sites, *self.design.observed}
        self.quantities = self._describe(values)
        dims = {d for q in self.quantities for d in q.dims}
        self.coords = {d: c for d, c in self.problem.coords.items() if d in dims}

    def run(self, number: int) -> Record:
        """Run the simulation of a number; whatever its fit raises is in the record."""
        begin = time.perf_counter()
        try:
            values, failure = self._simulate(number)
        except NoDrawsError as error:
            if "(keyboard)" in str(error):
                raise KeyboardInterrupt from error
            values, failure = {}, _said(error)
        except Exception as error:  # one fit of many
            values, failure = {}, _said(error)
        return Record(number, values, failure, time.perf_counter() - begin)

    def _first(self) -> tuple[Problem, dict[str, np.ndarray]]:
        reasons: list[DataError] = []
        for number in range(_STARTS):
            try:
                values = self.design.draw(seeds_of(self.task.seed, number)[0])
                return self._bind(values), values
            except DataError as error:
                reasons.append(error)
        raise reasons[0]

    def _bind(self, values: Mapping[str, np.ndarray]) -> Problem:
        return self.design.bind(values, marginal=self.task.method.marginal)

    def _require_drawn(self, values: Mapping[str, np.ndarray]) -> None:
        for name in self._sites:
            shape = self.problem.sites[name].shape
            if name not in values or values[name].shape != shape:
                raise SettingsError(
                    f"site '{name}' of {self.problem.model.name} has shape {shape}, and "
                    f"{self.design.simulator.model.name} draws "
                    + (f"shape {values[name].shape}" if name in values else "no such site")
                )

    def _describe(self, values: Mapping[str, np.ndarray]) -> tuple[Quantity, ...]:
        problem = self.problem
        found = [
            Quantity(n, s.shape, fitting_dims(n, s.shape, problem.dims, problem.coords))
            for n, s in problem.sites.items()
            if n in self._sites
        ]
        if self._has_likelihood:
            found.append(Quantity("log likelihood", (), ()))
        for name, value in self._statistics_at(values, values).items():
            dims = tuple(f"{name}_dim_{i}" for i in range(value.ndim))
            found.append(Quantity(name, value.shape, dims))
        return tuple(found)

    def _simulate(self, number: int) -> tuple[dict[str, np.ndarray], str]:
        draw_seed, fit_seed, rank_seed = seeds_of(self.task.seed, number)
        rng = np.random.default_rng(rank_seed)
        truth = self.design.draw(draw_seed)
        problem = self._bind(truth)
        outcome = drive(problem, self.task.method, fit_seed, progress=False)
        if outcome.interrupted is not None:
            raise KeyboardInterrupt
        verdict = judge(problem, outcome.draws, outcome.interrupted, outcome.non_finite)
        draws = self._pooled(outcome.draws)
        chosen = spread_out(len(draws[self._sites[0]]), rng)
        thinned = {n: v[chosen] for n, v in draws.items()}
        parts = [compare(truth[n][None], thinned[n], draws[n], rng) for n in self._sites]
        for value in self._derived(truth, thinned):
            parts.append(compare(value[:1], value[1:], value[1:], rng))
        values = {f: np.concatenate([p[f] for p in parts]) for f in FIELDS}
        return values, "" if verdict.ok else "; ".join(c.name for c in verdict.failed)

    def _pooled(self, draws: Draws) -> dict[str, np.ndarray]:
        """Draws of the sites that are ranked, chain after chain."""
        absent = [n for n in self._sites if n not in draws.values]
        if absent:
            raise UnsupportedModelError(f"the method gave no draws of {', '.join(absent)}")
        values = {n: np.asarray(draws.values[n]) for n in self._sites}
        return {n: v.reshape(-1, *v.shape[2:]) for n, v in values.items()}

    def _derived(
        self, truth: Mapping[str, np.ndarray], draws: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        """Quantities that follow from sites and data, at the truth and then at every draw."""
        joined = {n: np.concatenate([truth[n][None], draws[n]]) for n in self._sites}
        found = [log_likelihood(self.design, truth, joined)] if self._has_likelihood else []
        if self.task.statistics:
            each = [
                self._statistics_at({n: np.asarray(v[i]) for n, v in joined.items()}, truth)
                for i in range(DRAWS + 1)
            ]
            found += [np.stack([e[n] for e in each]) for n in self.task.statistics]
        return found

    def _statistics_at(
        self, values: Mapping[str, np.ndarray], data: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        given = {n: values[n] for n in self._sites} | {n: data[n] for n in self.design.observed}
        return {n: np.asarray(f(given), float) for n, f in self.task.statistics.items()}


def _said(error: Exception) -> str:
    first_line = str(error).split("\n")[0]
    return f"{type(error).__name__}: {first_line}"


def seeds_of(seed: int, number: int) -> tuple[int, int, int]:
    """Seeds of a simulation's draw, its fit and its ranks."""
    words = np.random.SeedSequence([seed, number]).generate_state(3, np.uint64) >> np.uint64(1)
    return int(words[0]), int(words[1]), int(words[2])


_ONE_AT_A_TIME = threading.Lock()
"""NumPyro's handlers are the process's: threads of an executor have to take turns."""
_benches: dict[str, Bench] = {}


def run_task(task: Task, numbers: list[int], bench: Bench | None = None) -> list[Record]:
    """Run some simulations; here or in another process.

    Parameters
    ----------
    task : Task
        What they share.
    numbers : list of int
        Which ones.
    bench : Bench, optional
        Where they run, if there is one in this process.

    Returns
    -------
    list of Record
    """
    with _ONE_AT_A_TIME, computing(), warnings_of_data_ignored():
        if bench is None and task.token not in _benches:
            _benches.clear()
            _benches[task.token] = Bench(task)
        place = _benches[task.token] if bench is None else bench
        return [place.run(number) for number in numbers]
